"""RankMixer and OneTrans: what their options build, and where information flows, beyond the contract of all models."""

import keras
import numpy as np
import pytest

from keras_ctr import Categorical, Schema, Sequence
from keras_ctr.models import attention_weights
from keras_ctr.models.one_trans import OneTrans
from keras_ctr.models.rank_mixer import RankMixer
from tests.models.small_models import FIELDS, NUMERICS, ROWS, check_runs, dense_weights, inner, mlp, spread
from tests.sample import fields_schema, full_schema, random_rows

pytestmark = pytest.mark.slow

E, D, K, UNITS = 6, 10, 2, (11, 5)
FLAT = FIELDS * E + NUMERICS
GROUPS = {"clicks": 2 * E, "likes": E}
STEPS = {"clicks": 7, "likes": 5}
SMALL = {"embedding_dim": E, "hidden_dim": D, "expansion": K, "tower_units": UNITS}
MIXER = {**SMALL, "num_tokens": 5, "attention_units": (3,), "attention_activation": "relu"}
TRANS = {**SMALL, "num_tokens": 3, "num_heads": 2, "num_positions": 4}
TWO = ("click", "like")
PER_TOKEN = 2 * K * D * D + (K + 1) * D
FACTORIES = [(RankMixer, MIXER), (OneTrans, TRANS)]


def targetless():
    """Fields and one group of sequences of which none has a target."""
    return Schema(features=[*fields_schema().features, Sequence("words", 3, vocabulary_size=13, group="words")], labels=["click"])


def rows(schema):
    """Random rows, the first with empty histories, the second with full ones."""
    x, _ = random_rows(schema, ROWS)
    for value in x.values():
        if value.ndim == 2:
            value[0], value[1] = 0, np.arange(1, value.shape[1] + 1)
    return x


def outputs(model, x, name):
    """What a block of OneTrans returns. Keras gives the outputs of a layer as a list, sorted by name."""
    found = keras.tree.flatten(keras.Model(model.inputs, model.get_layer(name).output)([x[t.name] for t in model.inputs]))
    return dict(zip(("events", "mask", "tokens")[-len(found) :], map(keras.ops.convert_to_numpy, found), strict=True))


# -- RankMixer


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("schema, sequences", [(fields_schema(), ()), (full_schema(TWO), GROUPS)])
def test_rank_mixer_parameter_count(layers, schema, sequences):
    model = RankMixer(schema, num_layers=layers, **MIXER)
    attention = sum(mlp(4 * width, 3, 1) for width in GROUPS.values()) if sequences else 0
    width = FLAT + sum(GROUPS[group] for group in sequences)
    expected = attention + (width + 5) * D + layers * (5 * PER_TOKEN + 4 * D) + len(schema.labels) * mlp(D, *UNITS, 1)
    assert dense_weights(model) == expected
    check_runs(model, schema)


def test_rank_mixer_pools_the_tokens_of_its_last_block():
    schema = full_schema()
    model, x = RankMixer(schema, **MIXER), rows(schema)
    spread(model)
    last = inner(model, x, "block_1")
    assert last.shape == (ROWS, 5, D)
    np.testing.assert_allclose(inner(model, x, "pool"), last.mean(axis=1), atol=1e-6)
    assert {layer.epsilon for block in ("block_0", "block_1") for layer in model.get_layer(block).norms} == {0.1}


def test_rank_mixer_means_a_group_without_a_target():
    model = RankMixer(targetless(), **MIXER)
    assert model.get_layer("flat").output.shape == (None, FLAT + E)
    with pytest.raises(ValueError, match="no layer of the model 'rank_mixer'"):
        attention_weights(model, rows(targetless()))
    check_runs(model, targetless())


def test_rank_mixer_on_sequences_alone():
    schema = Schema(features=[Sequence("words", 3, vocabulary_size=13, group="words")], labels=["click"])
    check_runs(RankMixer(schema, **MIXER), schema)


# -- OneTrans


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("schema, sequences", [(fields_schema(), ()), (full_schema(TWO), GROUPS)])
def test_one_trans_parameter_count(layers, schema, sequences):
    model = OneTrans(schema, num_layers=layers, **TRANS)
    expected = (FLAT + 1) * 3 * D + layers * (3 * (3 * D * D + PER_TOKEN) + D * D + 2 * D)
    if sequences:
        expected += sum((width + 1) * D for width in GROUPS.values()) + D + 4 * D
        expected += (layers - 1) * (3 * D * D + PER_TOKEN) + 2 * D * D
    assert dense_weights(model) == expected + len(schema.labels) * mlp(3 * D, *UNITS, 1)
    check_runs(model, schema)


@pytest.mark.parametrize("pyramid, steps", [("linear", [9, 5]), (0.5, [7, 4]), (1, [13, 13]), (0.1, [2, 1])])
def test_one_trans_pyramid(pyramid, steps):
    """7 + 5 events and the token between them, the newest of them passed on by two of three layers."""
    schema = full_schema()
    model, x = OneTrans(schema, pyramid=pyramid, **TRANS), rows(schema)
    for index, expected in enumerate(steps):
        out = outputs(model, x, f"block_{index}")
        assert out["events"].shape == (ROWS, expected, D)
        assert out["mask"].sum(axis=1)[:2].tolist() == [1, expected]  # of an empty history the token between groups
    assert set(outputs(model, x, "block_2")) == {"tokens"}


def test_one_trans_events_know_nothing_of_the_fields():
    schema = full_schema()
    model, x = OneTrans(schema, **TRANS), rows(schema)
    spread(model)
    other = {**x, "user": x["user"] % 100 + 1, "item": x["item"] % 52 + 1, "price": x["price"] + 3}
    for index in range(2):
        before, after = outputs(model, x, f"block_{index}"), outputs(model, other, f"block_{index}")
        np.testing.assert_array_equal(after["events"], before["events"])
        assert np.abs(after["tokens"] - before["tokens"]).max() > 1e-3


def test_one_trans_reads_the_order_of_events():
    schema = full_schema()
    x = rows(schema)
    other = {**x, "liked_item": x["liked_item"].copy()}
    other["liked_item"][1] = x["liked_item"][1][::-1]
    # Positions in one layer; without them the causal order and the pyramid, in more than one.
    for options, same in (({"num_layers": 1}, False), ({"num_layers": 1, "num_positions": None}, True), ({"num_positions": None}, False)):
        model = OneTrans(schema, **{**TRANS, **options})
        spread(model)
        moved = np.abs(np.asarray(model(x)["click"]) - np.asarray(model(other)["click"]))
        assert not moved[[0, *range(2, ROWS)]].any() and (moved[1, 0] < 1e-6) == same


def test_one_trans_without_targets():
    schema = targetless()
    model = OneTrans(schema, **TRANS)
    assert model.get_layer("events").separators is None
    check_runs(model, schema)


def test_one_trans_attention():
    schema = full_schema()
    model, x = OneTrans(schema, **TRANS), rows(schema)
    spread(model)
    found = attention_weights(model, x)
    shapes = {"block_0/events": (9, 13), "block_0/tokens": (3, 16), "block_1/events": (5, 9), "block_1/tokens": (3, 12)}
    shapes["block_2/tokens"] = (3, 8)
    assert {name: weights.shape for name, weights in found.items()} == {name: (ROWS, 2, *shape) for name, shape in shapes.items()}
    shown = np.concatenate([x["clicked_item"] != 0, np.ones((ROWS, 1), bool), x["liked_item"] != 0, np.ones((ROWS, 3), bool)], axis=1)
    weights = found["block_0/tokens"]
    np.testing.assert_array_equal(weights[:, 0, 2] > 0, shown)
    for name in ("block_0/tokens", "block_1/tokens", "block_2/tokens"):
        np.testing.assert_allclose(found[name].sum(axis=-1), 1, atol=1e-5)
        np.testing.assert_array_equal(found[name][1, 0, :, -3:] > 0, np.tri(3, dtype=bool))
    full = found["block_0/events"][1, 0]  # row 1: the newest 9 of 13, each sees itself and what is older
    np.testing.assert_array_equal(full > 0, np.tri(9, 13, 4, dtype=bool))


# -- both


@pytest.mark.parametrize("factory, small", FACTORIES)
def test_a_tower_for_each_label(factory, small):
    schema = full_schema(TWO)
    model, x = factory(schema, **small), rows(schema)
    spread(model)
    before = {label: np.asarray(p) for label, p in model(x).items()}
    towers = model.get_layer("logits")
    for weight in towers.towers[1].weights:
        weight.assign(2 * keras.ops.convert_to_numpy(weight))
    after = {label: np.asarray(p) for label, p in model(x).items()}
    np.testing.assert_array_equal(after["click"], before["click"])
    assert np.abs(after["like"] - before["like"]).max() > 1e-3


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda s: RankMixer(s, num_layers=0), "RankMixer: num_layers"),
        (lambda s: RankMixer(s, num_tokens=7), "7 tokens do not divide their width 64"),
        (lambda s: RankMixer(s, **{**MIXER, "num_tokens": 97}), "43 numbers cannot make 97 tokens"),
        (lambda s: OneTrans(s, num_layers=0), "OneTrans: num_layers"),
        (lambda s: OneTrans(s, num_tokens=0), "OneTrans: num_tokens"),
        (lambda s: OneTrans(s, num_heads=5), "5 heads do not divide the width 64"),
        (lambda s: OneTrans(s, pyramid=0), "pyramid must be"),
        (lambda s: OneTrans(s, num_positions=0), "num_positions"),
        (lambda s: OneTrans(s.replace(features=[f for f in targetless().features if f.name == "words"], group=None)), "sequences only"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make(full_schema())


def test_one_field_is_enough():
    schema = Schema(features=[Categorical("item", 53)], labels=["click"])
    for factory, small in FACTORIES:
        check_runs(factory(schema, **small), schema)
