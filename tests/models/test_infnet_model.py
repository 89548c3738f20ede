"""INFNet as a whole, both versions: an oracle of the full model, ablations, budgets, padding, cost, attention, parameter counts."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import ops

from keras_ctr import Categorical, Numeric, Schema, Sequence
from keras_ctr.models import INFNet, attention_weights
from keras_ctr.models.infnet import DEFAULTS
from tests.gradients import gradients
from tests.layers import infnet_oracles as oracle
from tests.layers.interformer_oracles import mlp, under
from tests.layers.token_pairs import pairs_in
from tests.models.small_models import dense_weights, inner
from tests.sample import fields_schema, full_schema, random_rows

pytestmark = pytest.mark.slow

D, ROWS, M, U, W = 6, 11, 5, 13, 7  # M tokens of full_schema's fields and numerics
CLICKS, LIKES, P = 7, 5, 4
BUDGETS = {"num_categorical_hubs": 3, "num_sequence_hubs": 2, "num_shared_task_hubs": 2}
SMALL = {"embedding_dim": D, "hidden_units": (U,), "tower_units": (W,), "max_positions": P, "num_layers": 2, **BUDGETS}
VERSIONS = tuple(DEFAULTS)
ABLATIONS = [
    {},
    {"use_hubs": False},
    {"use_task_tokens": False},
    {"use_aggregation": False},
    {"use_broadcast": False},
    {"use_task_tokens": False, "use_hubs": False},
    {"use_task_tokens": False, "use_broadcast": False},
]
TWO = ("click", "like")
each_version = pytest.mark.parametrize("version", VERSIONS)
each_ablation = pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda a: "+".join(a) or "full")


def small(schema=None, scale=0.3, **arguments):
    """A small model whose weights are all noise."""
    model, rng = INFNet(schema or full_schema(TWO), **{**SMALL, **arguments}), np.random.default_rng(7)
    for weight in model.trainable_variables:
        weight.assign(scale * rng.standard_normal(weight.shape))
    return model


def rows(schema=None):
    """Random rows, the first with empty histories, the second with full ones."""
    x, y = random_rows(schema or full_schema(TWO), ROWS)
    for value in x.values():
        if value.ndim == 2:
            value[0], value[1] = 0, np.arange(1, value.shape[1] + 1)
    return x, y


def tokens_after(model, block):
    """The tokens that a block returns, symbolic: categorical, sequence, task."""
    return model.get_layer(f"block_{block}").output[-3:]


def events_schema(labels=("click",)):
    """Sequences only."""
    return Schema(
        [Sequence("seen", vocabulary_size=17, max_length=5), Sequence("liked", vocabulary_size=11, max_length=3, group="likes")], labels
    )


def gap_schema(**arguments):
    """A group of an item and its time gap, and a field."""
    seen = {"max_length": 5, "group": "seen", **arguments}
    return Schema(
        [
            Categorical("user", 13),
            Sequence("item", vocabulary_size=17, **seen),
            Sequence("gap", vocabulary_size=34, dtype="int64", **seen),
        ],
        ["click"],
    )


SCHEMAS = {
    "full": full_schema(TWO),
    "one_label": full_schema(),
    "fields": fields_schema(),
    "events": events_schema(TWO),
    "one_field": Schema([Categorical("user", 13)], ["click"]),
}


def scores(model, x):
    return np.concatenate([np.asarray(p) for p in model(x).values()], axis=1)


def float64(model):
    return {w.path: np.asarray(w.numpy(), "float64") for w in model.weights}


# --- the whole forward pass -----------------------------------------------------------------------------------------------------------


@each_version
def test_forward_pass_is_that_of_the_equations(version):
    model, (x, _) = small(version=version, layer_norm_epsilon=0.07, activation=None, num_heads=2, use_positions=True), rows()
    v, found = float64(model), attention_weights(model, x)
    table = {name: model.get_layer("embedding").rows(name).astype("float64") for name in ("user", "item", "brand", "age")}
    pooling = "mean" if version == "v2" else "sum"
    for b in range(ROWS):
        price = x["price"][b].astype("float64") * v["numeric_tokens/kernel"][0]
        tokens = {"categorical": np.array([*(table[name][x[name][b]] for name in ("user", "item", "brand", "age")), price])}
        behaviors, valid, hubs = [], [], []
        for group, columns in (
            ("clicks", [("item", "clicked_item"), ("brand", "clicked_brand")]),
            ("likes", [("item", "liked_item")]),
        ):
            ids = [x[name][b] for _, name in columns]
            shown = np.any([column != 0 for column in ids], axis=0)
            events, w = [], under(v, f"events_{group}")
            for t in range(len(shown)):
                parts = [table[name][i[t]] * (i[t] != 0) for (name, _), i in zip(columns, ids, strict=True)]
                age = min(int(shown[t + 1 :].sum()), P - 1)
                events.append(w["project/kernel"].T @ np.concatenate(parts) + w["project/bias"] + w["positions"][age])
            behaviors, valid = [*behaviors, *events], [*valid, *shown]
            hubs.append(oracle.hub_tokens(under(v, f"sequence_hubs_{group}"), np.array(events), shown, 2, "mlp", pooling))
        tokens |= {"sequence": np.array(behaviors), "task": v["task_tokens/offsets"]}
        hubs = {
            "categorical": oracle.hub_tokens(under(v, "categorical_hubs"), tokens["categorical"], np.ones(M), 3),
            "sequence": np.concatenate(hubs),
            "task": v["shared_task_hubs/offsets"],
        }
        if version == "v2":
            hubs["task"] = np.concatenate([tokens["task"], hubs["task"]])
        for layer in (1, 2):
            hubs = hubs if layer == 1 else {"task": hubs["task"]}
            w = under(v, f"block_{layer}")
            if version == "v2":
                hubs, tokens, maps = oracle.block_v2(w, hubs, tokens, np.array(valid), 2, 0.07)
            else:
                hubs, tokens, maps = oracle.block_v1(w, hubs, tokens, np.array(valid), 2)
            for key, value in maps.items():
                mine = found[f"block_{layer}/{key}"][b]
                np.testing.assert_allclose(mine[:, -value.shape[1] :], value, atol=1e-4, err_msg=key)
        for i, label in enumerate(TWO):
            w = under(v, "logits")
            hidden = mlp(under(w, f"tower_{i}"), tokens["task"][i], oracle.relu)
            want = w[f"logit_{i}/kernel"].T @ hidden + w[f"logit_{i}/bias"]
            np.testing.assert_allclose(np.asarray(model(x)[label])[b], want, rtol=1e-3, atol=1e-3)


# --- every configuration --------------------------------------------------------------------------------------------------------------


def without_gradient(model, x):
    """Paths of the weights that the outputs do not depend on."""
    noise = np.random.default_rng(1).standard_normal((len(model.outputs), ROWS)).astype("float32")
    weights = model.trainable_variables
    found = gradients(lambda: sum(ops.sum(ops.log(p[:, 0]) * z) for p, z in zip(model(x).values(), noise, strict=True)), weights)
    return [w.path for w, g in zip(weights, found, strict=True) if np.abs(g).max() < 1e-7]


@each_version
@each_ablation
def test_every_weight_has_a_gradient(version, ablation):
    for kind, schema in SCHEMAS.items():
        x, _ = rows(schema)
        for num_layers in (1, 3):
            model = small(schema, scale=0.6, version=version, num_layers=num_layers, **ablation)
            out = scores(model, x)
            assert out.shape == (ROWS, len(schema.labels)) and np.all(np.isfinite(out))
            assert np.all(out.std(axis=0) > 1e-5), f"{kind}: the features have no effect"
            assert not without_gradient(model, x), f"{kind}, {num_layers} layers"


@each_version
@pytest.mark.parametrize("initialization", ["mean", "random"])
def test_other_starts_of_hubs(version, initialization):
    model, (x, _) = small(scale=0.6, version=version, hub_initialization=initialization), rows()
    assert not without_gradient(model, x)
    shapes = {w.path: tuple(w.shape) for w in model.weights}
    assert shapes["categorical_hubs/offsets"] == (3, D) and shapes["sequence_hubs_likes/offsets"] == (2, D)


@each_version
def test_one_layer_has_task_hubs_alone(version):
    names = {layer.name for layer in small(version=version, num_layers=1).layers}
    assert "shared_task_hubs" in names and not [name for name in names if name.startswith(("categorical_hubs", "sequence_hubs"))]
    paths = {w.path for w in small(version=version, num_layers=3).weights}
    for group in ("categorical", "sequence"):
        assert f"block_2/broadcast_{group}/scale/kernel" in paths and f"block_3/broadcast_{group}/scale/kernel" not in paths


@each_version
def test_without_broadcast_there_are_task_tokens_alone(version):
    model = small(version=version, use_broadcast=False)
    assert not [layer.name for layer in model.layers if layer.name.endswith("hubs")]
    assert not [w.path for w in model.weights if "broadcast_" in w.path]


@each_version
def test_without_aggregation_groups_do_not_meet_before_the_head(version):
    model, full = small(version=version, use_aggregation=False), small(version=version, use_task_tokens=False)
    x, _ = rows()
    other = {**x, "clicked_item": np.roll(x["clicked_item"], 1, axis=0)}
    for which, meets in ((model, False), (full, True)):
        before, after = inner(which, x, "flat_categorical"), inner(which, other, "flat_categorical")
        assert (np.abs(before - after).max() > 1e-4) == meets


def test_width_and_number_of_tokens_are_kept():
    model = small(num_layers=3)
    for block in (1, 2, 3):
        assert [tuple(x.shape[1:]) for x in tokens_after(model, block)] == [(M, D), (CLICKS + LIKES, D), (2, D)]


@each_version
def test_tasks_differ_only_through_their_tokens(version):
    model, (x, _) = small(version=version), rows()
    towers = model.get_layer("logits")
    for mine, other in zip(towers.towers[0].weights, towers.towers[1].weights, strict=True):
        other.assign(mine)
    for mine, other in zip(towers.logits[0].weights, towers.logits[1].weights, strict=True):
        other.assign(mine)
    before = scores(model, x)
    assert np.abs(before[:, 0] - before[:, 1]).max() > 1e-3
    tokens = model.get_layer("task_tokens").offsets
    tokens.assign(np.repeat(np.asarray(tokens)[:1], 2, axis=0))
    after = scores(model, x)
    np.testing.assert_allclose(after[:, 0], after[:, 1], atol=1e-6)


# --- histories ------------------------------------------------------------------------------------------------------------------------


@each_version
@each_ablation
def test_padding_amount_and_side_change_nothing(version, ablation):
    short = full_schema()
    features = [dataclasses.replace(f, max_length=f.max_length + 3) if isinstance(f, Sequence) else f for f in short.features]
    model, wide = (
        small(s, 0.6, version=version, use_positions=True, activation=None, **ablation) for s in (short, short.replace(features=features))
    )
    assert [w.shape for w in model.weights] == [w.shape for w in wide.weights]
    wide.set_weights(model.get_weights())
    x, _ = rows(short)
    want = scores(model, x)
    assert want.std() > 1e-3 and np.all(np.isfinite(want))
    for before in (0, 3):
        padded = {**x, **{f.name: np.pad(x[f.name], ((0, 0), (before, 3 - before))) for f in short.sequences}}
        np.testing.assert_allclose(scores(wide, padded), want, rtol=1e-4, atol=2e-5)


@each_version
def test_order_counts_with_positions_only(version):
    x, _ = rows()
    full = {name: value for name, value in x.items()}
    full["clicked_item"] = np.tile(np.arange(2, 2 + CLICKS), (ROWS, 1))
    full["clicked_brand"] = np.tile(np.arange(2, 2 + CLICKS), (ROWS, 1))
    back = {**full, **{name: full[name][:, ::-1].copy() for name in ("clicked_item", "clicked_brand")}}
    for use_positions in (True, False):
        model = small(version=version, use_positions=use_positions)
        assert (np.abs(scores(model, full) - scores(model, back)).max() > 1e-5) == use_positions


def test_versions_have_their_defaults():
    for version, positions in (("v1", False), ("v2", True)):
        model = small(version=version, **dict.fromkeys(BUDGETS))
        shapes = {w.path: tuple(w.shape) for w in model.weights}
        budget = DEFAULTS[version]
        assert shapes["categorical_hubs/project/kernel"] == (U, budget["num_categorical_hubs"] * D)
        assert shapes["sequence_hubs_likes/project/kernel"] == (U, budget["num_sequence_hubs"] * D)
        assert shapes["shared_task_hubs/offsets"] == (budget["num_shared_task_hubs"], D)
        assert ("events_likes/positions" in shapes) == positions
    assert "shared_task_hubs/offsets" not in {w.path for w in small(num_shared_task_hubs=0).weights}


def test_a_time_gap_is_added_as_it_is():
    schema = gap_schema()
    model, (x, _) = small(schema, time_gap="gap", use_positions=False), rows(schema)
    out = inner(model, x, "events_seen")
    v, embedding = float64(model), model.get_layer("embedding")
    items, gaps = embedding.rows("item")[x["item"]], embedding.rows("gap")[x["gap"]]
    items, gaps = items * (x["item"] != 0)[..., None], gaps * (x["gap"] != 0)[..., None]
    want = items @ v["events_seen/project/kernel"] + v["events_seen/project/bias"] + gaps
    shown = (x["item"] != 0) | (x["gap"] != 0)
    np.testing.assert_allclose(out[shown], want[shown], atol=1e-5)
    assert small(schema).get_layer("events_seen").interval is None
    with pytest.raises(ValueError, match="INFNet: time_gap names 'gaps'.*did you mean 'gap'"):
        small(schema, time_gap="gaps")


# --- cost -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the tensors of a model are listed from TensorFlow's traced graph")
@each_version
def test_no_tensor_of_tokens_by_tokens(version):
    import tensorflow as tf

    steps, fields = 101, 2
    schema = Schema([Categorical("user", 13), Categorical("item", 17), Sequence("seen", max_length=steps, table="item")], TWO)
    axes = {steps, steps + fields, steps + fields + 2}
    x, _ = random_rows(schema, 5)
    x = {name: tf.constant(x[name]) for name in schema.feature_names}
    for ablation in ABLATIONS:
        model = small(schema, version=version, **ablation)

        found = pairs_in(tf.function(model, autograph=False).get_concrete_function(x).graph, axes)
        # Without hubs version 1 attends to the other groups, of which none is long here.
        assert bool(found) == ("use_hubs" in ablation and version == "v2"), (ablation, found)


# --- attention and counts -------------------------------------------------------------------------------------------------------------


@each_version
def test_attention_of_the_hubs(version):
    model, (x, _) = small(version=version, num_heads=3), rows()
    found = attention_weights(model, x)
    groups = oracle.GROUPS
    pairs = [(g, j) for g in groups for j in groups if version == "v2" or g != j]
    assert set(found) == {f"block_1/{g}/{j}" for g, j in pairs} | {f"block_2/{g}/{j}" for g, j in pairs if g == "task"}
    shown = np.concatenate([x["clicked_item"] + x["clicked_brand"] != 0, x["liked_item"] != 0], axis=1)
    hubs, tokens = {"categorical": 3, "sequence": 4, "task": 4}, {"categorical": M, "sequence": CLICKS + LIKES, "task": 2}
    for name, a in found.items():
        _, group, source = name.split("/")
        assert a.shape == (ROWS, 3, hubs[group], tokens[source]) and a.dtype == np.float32
        valid = shown[:, None, None] if source == "sequence" else np.ones((ROWS, 1, 1, tokens[source]), bool)
        valid = np.broadcast_to(valid, a.shape)
        assert a.min() >= 0 and not np.any(a[~valid])
        np.testing.assert_allclose(a.sum(-1), valid.any(-1), atol=1e-5)


def hub_parameters(read, count, width=None):
    return (read + 1) * U + (U + 1) * count * (width or D)


@each_version
def test_parameter_count(version):
    model = small(version=version, num_layers=3, use_positions=True)
    tokens = D + (2 * D * D + D) + (D * D + D) + 2 * P * D + 2 * D + 2 * D  # numeric, events, positions, tasks, shared hubs
    hubs = hub_parameters(M * D, 3) + 2 * hub_parameters(D, 2)
    counts = {"categorical": 3, "sequence": 4, "task": 4 if version == "v2" else 2}
    towers = 2 * ((D + 1) * W + W + 1)
    shared = {g: (n * D + 1) * U for g, n in counts.items()}
    if version == "v2":
        unit = 2 * (U + 1) * D + 2 * D
        block = 6 * D**2 + 3 * (4 * D**2 + 2 * D) + sum(shared.values()) + 3 * unit
        last = 6 * D**2 + 4 * D**2 + 2 * D + shared["task"] + unit
    else:
        unit = (U + 1) * D
        block = 9 * D**2 + sum(shared.values()) + 3 * unit
        last = 4 * D**2 + D**2 + shared["task"] + unit
    assert dense_weights(model) == tokens + hubs + 2 * block + last + towers


def test_a_numeric_alone_and_every_way_in():
    schema = Schema([Numeric("price", transform="none"), Numeric("size", transform="none")], ["click"])
    for numeric, tokens in (("scale_embedding", 2), ("dense_projection", 1)):
        model, (x, _) = small(schema, numeric=numeric), random_rows(schema, ROWS)
        assert model.get_layer("block_1").output[-2].shape[1] == tokens  # categorical, task
        assert scores(model, x).std() > 1e-5


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"version": "v3"}, r"version must be one of \('v1', 'v2'\), got 'v3'"),
        ({"hub_initialization": "means"}, "did you mean 'mean'"),
        ({"num_layers": 0}, "num_layers must be an int of at least 1"),
        ({"use_hubs": False, "use_broadcast": False}, "switch off one of them at most"),
        ({"use_aggregation": False, "use_broadcast": False}, "switch off one of them at most"),
        ({"residual": False}, "residual=False is a reading of version='v1'"),
        ({"version": "v1", "num_shared_task_hubs": 0}, "num_shared_task_hubs must be at least 1"),
        ({"num_heads": 4}, "4 heads do not divide the width 6"),
        ({"num_categorical_hubs": 0}, "num_hubs must be an int of at least 1"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)
