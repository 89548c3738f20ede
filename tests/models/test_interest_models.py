"""DIEN, DMIN and DMR: what their options build, their auxiliary losses, and the totals of a public benchmark, also of DIN."""

import keras
import numpy as np
import pytest

from keras_ctr import Categorical, Schema, Sequence
from keras_ctr.models.dien import DIEN
from keras_ctr.models.din import DIN
from keras_ctr.models.dmin import DMIN
from keras_ctr.models.dmr import DMR
from tests.models.small_models import FIELDS, NUMERICS, ROWS, UNITS, D, check_runs, dense_weights, mlp, scores, spread
from tests.models.test_factorization_models import PUBLIC, electronics
from tests.sample import fields_schema, full_schema, random_rows

pytestmark = pytest.mark.slow

FACTORIES = [DIEN, DMIN, DMR]
GROUPS = {"clicks": 2 * D, "likes": D}
NAMES = ("clicked_item", "clicked_brand", "liked_item")
# ReLU: an MLP without weights of its own beside its dense layers.
SMALL = {"embedding_dim": D, "hidden_units": UNITS, "hidden_activation": "relu"}
HEADS = {"num_heads": 2, "ffn_dim": 13, "attention_units": (5,), "position_dim": 4, "max_positions": 11}
MATCH = {"attention_units": (5,), "position_dim": 4, "max_positions": 11, "input_batch_norm": False}
ARGUMENTS = {DIEN: {"attention_units": (5,)}, DMIN: HEADS, DMR: MATCH}
FLAT = FIELDS * D + NUMERICS


def make(factory, schema=None, **arguments):
    return factory(schema or full_schema(), **{**SMALL, **ARGUMENTS[factory], **arguments})


def with_negatives(x, names=NAMES):
    return {**x, **{f"{name}_negatives": np.roll(x[name], 1, axis=0) for name in names}}


def scorer(width, bias):
    return (4 * width + 1) * 5 + 5 + bias


@pytest.mark.parametrize("history_sum", [True, False])
@pytest.mark.parametrize("evolution", ["augru", "augru_authors", "agru", "aigru", "gru"])
def test_dien_parameters(evolution, history_sum):
    model = make(DIEN, evolution=evolution, history_sum=history_sum)
    attention = 0 if evolution == "gru" else 1
    grus = sum((3 + (2 if evolution == "agru" else 3)) * 2 * (d * d + d) + attention * d * d for d in GROUPS.values())
    head = FLAT + (3 if history_sum else 1) * sum(GROUPS.values())
    assert dense_weights(model) == grus + mlp(head, *UNITS, 1)
    check_runs(model, full_schema())


def test_dien_with_the_authors_networks():
    model = make(DIEN, attention="din", attention_activation="dice", auxiliary="mlp", auxiliary_units=(7,), hidden_activation="prelu")
    grus = sum(12 * (d * d + d) for d in GROUPS.values())
    networks = sum((4 * d + 1) * 5 + 5 + 6 + (2 * d + 1) * 7 + 8 for d in GROUPS.values())
    assert dense_weights(model) == grus + networks + mlp(FLAT + 3 * sum(GROUPS.values()), *UNITS, 1) + sum(UNITS)
    check_runs(model, full_schema())


@pytest.mark.parametrize("arguments", [{}, {"use_refiner": False}, {"refiner_bias": True, "score_bias": True, "causal": False}])
def test_dmin_parameters(arguments):
    model = make(DMIN, **arguments, history_sum=False, input_batch_norm=True)
    total, head = 0, FLAT + 2 * sum(GROUPS.values())
    for d in GROUPS.values():
        ffn = 2 * d + 2 * d * 13 + 13 + d
        refiner = 4 * d * d + ffn + (4 * d if arguments.get("refiner_bias") else 0)
        position = 11 * 4 + (d + 4) * d + d
        one = d * d // 2 + ffn + position + scorer(d, arguments.get("score_bias", False))
        total += (refiner if arguments.get("use_refiner", True) else 0) + 3 * d * d + 2 * one
    assert dense_weights(model) == total + 2 * head + mlp(head, *UNITS, 1)
    assert bool(model.optional_inputs) == arguments.get("use_refiner", True)
    check_runs(model, full_schema())


@pytest.mark.parametrize("user_to_item", [True, False])
@pytest.mark.parametrize("item_to_item", ["full", "pooled", "off"])
def test_dmr_parameters(item_to_item, user_to_item):
    model = make(DMR, item_to_item=item_to_item, user_to_item=user_to_item, history_sum=False)
    total, head = 0, FLAT
    for d in GROUPS.values():
        if user_to_item:
            total += 11 * 4 + 4 * d + 2 * d + scorer(d, 0) + d * d + 2 * d
            head += 1
        if item_to_item != "off":
            total += 11 * 4 + (d + 4) * d + 2 * d + scorer(d, item_to_item == "full")
            head += d + (item_to_item == "full")
    assert dense_weights(model) == total + mlp(head, *UNITS, 1)
    tables = (101 + 53 + 11 + 9) * D + ((53 + 11) * D if user_to_item else 0)
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights if w.path.endswith("embedding/table")) == tables
    assert bool(model.optional_inputs) == user_to_item
    check_runs(model, full_schema())


def test_the_second_table_is_not_the_first():
    model = make(DMR)
    spread(model)
    before = scores(model, full_schema())
    table = model.get_layer("output").embedding
    table._tables[str(D)].assign(-np.asarray(table._tables[str(D)]))
    assert np.abs(scores(model, full_schema()) - before).max() > 1e-4


def context_schema():
    """A group with a type of action that has no target, and one without any target."""
    return Schema(
        features=[
            Categorical("item", 53),
            Sequence("action", 7, vocabulary_size=5, group="clicks"),
            Sequence("clicked_item", 7, table="item", target="item", group="clicks"),
            Sequence("words", 3, vocabulary_size=11, group="words"),
        ],
        labels=["click"],
    )


@pytest.mark.parametrize("factory", FACTORIES)
def test_attributes_and_groups_without_a_target(factory, tmp_path):
    schema = context_schema()
    model = make(factory, schema)
    names = {"clicked_item"} if factory is DMR else {"clicked_item", "action"}
    assert model.optional_inputs == {f"{name}_negatives" for name in names}
    spread(model)
    x, y = random_rows(schema, ROWS)
    expected = np.asarray(keras.ops.convert_to_numpy(model(x)["click"]))
    for name in ("action", "words"):
        other = {**x, name: np.where(x[name] > 0, 1 + x[name] % 4, 0).astype(x[name].dtype)}
        assert np.abs(np.asarray(keras.ops.convert_to_numpy(model(other)["click"])) - expected).max() > 1e-5, name
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(loaded(x)["click"]), expected)
    if factory is DMR:
        d = D  # the items alone; the action is the context of queries
        user = 11 * 4 + (4 + D) * d + 2 * d + scorer(d, 0) + d * d + 2 * d
        item = 11 * 4 + (d + 4 + D) * d + 2 * d + scorer(d, 1)
        assert dense_weights(model) == user + item + mlp(D + 1 + d + 1 + 2 * d + D, *UNITS, 1)
    model.compile("adam", "binary_crossentropy")
    assert np.isfinite(model.train_on_batch(with_negatives(x, names), y))


@pytest.mark.parametrize("factory", FACTORIES)
def test_without_sequences_it_is_the_plain_deep_model(factory):
    model = make(factory, fields_schema())
    assert dense_weights(model) == mlp(FLAT, *UNITS, 1)
    assert not model.optional_inputs


@pytest.mark.parametrize("factory", FACTORIES)
def test_the_auxiliary_loss_needs_training_and_negatives(factory):
    x, y = random_rows(full_schema(), 31)
    model = make(factory, auxiliary_weight=0.5)
    assert model.optional_inputs == {f"{name}_negatives" for name in NAMES}
    spread(model)
    plain = make(factory, auxiliary_weight=0.0)
    plain.set_weights(model.get_weights())
    assert not plain.optional_inputs
    for each in (model, plain):
        each.compile(keras.optimizers.SGD(0.0), "binary_crossentropy")
    both = with_negatives(x)
    bare = plain.train_on_batch(x, y)
    np.testing.assert_allclose(model.train_on_batch(x, y), bare, rtol=1e-6)
    np.testing.assert_allclose(plain.train_on_batch(both, y), bare, rtol=1e-6)
    with_loss = model.train_on_batch(both, y)
    assert with_loss > bare + 0.05
    double = make(factory, auxiliary_weight=1.0)
    double.set_weights(model.get_weights())
    double.compile(keras.optimizers.SGD(0.0), "binary_crossentropy")
    np.testing.assert_allclose(double.train_on_batch(both, y) - bare, 2 * (with_loss - bare), rtol=1e-3)
    np.testing.assert_allclose(model.test_on_batch(both, y), plain.test_on_batch(x, y), rtol=1e-6)
    np.testing.assert_array_equal(model.predict(both, verbose=0)["click"], model.predict(x, verbose=0)["click"])


@pytest.mark.parametrize("factory, arguments", [(DIEN, {"auxiliary": "mlp"}), (DMIN, {"auxiliary": "mlp"}), (DMR, {"transitions": "all"})])
def test_training_with_negatives_and_predicting_without(factory, arguments):
    x, y = random_rows(full_schema(), 61)
    model = make(factory, **arguments)
    model.compile(keras.optimizers.Adam(3e-3), "binary_crossentropy")
    before = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    losses = model.fit(with_negatives(x), y, epochs=15, batch_size=61, validation_data=(x, y), verbose=0).history["loss"]
    assert losses[-1] < losses[0] - 0.05
    still = [v.path for v, old in zip(model.trainable_variables, before, strict=True) if np.array_equal(keras.ops.convert_to_numpy(v), old)]
    assert not still, f"weights that never move: {still}"
    p = model.predict(x, verbose=0)["click"]
    assert np.all((p > 0) & (p < 1)) and p.std() > 1e-4


@pytest.mark.parametrize("factory", FACTORIES)
def test_rows_with_empty_histories_and_with_single_events(factory):
    x, y = random_rows(full_schema(), ROWS)
    for name in NAMES:
        x[name][:2] = 0
        x[name][2:4, 1:] = 0
        x[name][2:4, 0] = 3
    model = make(factory)
    spread(model)
    assert np.all(np.isfinite(np.asarray(keras.ops.convert_to_numpy(model(x)["click"]))))
    model.compile(keras.optimizers.Adam(1e-2), "binary_crossentropy")
    only = {name: values[:4] for name, values in with_negatives(x).items()}
    assert np.isfinite(model.train_on_batch(only, {"click": y["click"][:4]}))
    assert all(np.all(np.isfinite(keras.ops.convert_to_numpy(v))) for v in model.variables)


# BARS, AmazonElectronics_x1 at D = 64. Its codes leave out the sums over the history and, of DMR, the summed similarity.
TOTALS = [
    (DIN, {"attention_units": (512, 256), "hidden_activation": "dice"}, 5_403_522),
    (DIEN, {"attention": "din", "attention_units": (256, 128), "history_sum": False}, 5_369_602),
    (
        DMIN,
        {
            "num_heads": 8,
            "refiner_bias": True,
            "attention_units": (256, 128),
            "attention_activation": "dice",
            "score_bias": True,
            "history_sum": False,
            "batch_norm": False,
            "input_batch_norm": True,
        },
        8_107_401,
    ),
    (
        DMR,
        {
            "item_to_item": "pooled",
            "attention_units": (512, 256),
            "attention_activation": "dice",
            "matching_activation": "relu",
            "score_bias": True,
            "history_sum": False,
            "input_batch_norm": False,
        },
        9_918_147,
    ),
]


@pytest.mark.parametrize("factory, arguments, total", TOTALS)
def test_public_parameter_totals(factory, arguments, total):
    model = factory(electronics(), **{**PUBLIC, "hidden_activation": "relu", **arguments})
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == total


@pytest.mark.parametrize(
    "factory, arguments, message",
    [
        (DIEN, {"evolution": "augr"}, "did you mean 'augru'"),
        (DIEN, {"attention": "dot"}, "attention must be one of"),
        (DIEN, {"auxiliary_weight": -1.0}, "must not be negative"),
        (DMIN, {"num_heads": 5}, "5 heads do not divide the width 12"),
        (DMIN, {"auxiliary": "dot"}, "auxiliary must be one of"),
        (DMR, {"item_to_item": "pool"}, "DMR: item_to_item must be one of.*did you mean 'pooled'"),
        (DMR, {"transitions": "next"}, "transitions must be one of"),
        (DMR, {"max_positions": 0}, "max_positions"),
    ],
)
def test_errors(factory, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(factory, **arguments)
