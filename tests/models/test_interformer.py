"""InterFormer as a whole: flows of information, padding, ablations, parameter counts and an oracle of the full model."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from keras_ctr import Categorical, Numeric, Schema, Sequence
from keras_ctr.layers import CrossModule, DHENLayer
from keras_ctr.models import InterFormer
from tests.gradients import gradients
from tests.layers import interformer_oracles as oracle
from tests.sample import fields_schema, full_schema, random_rows

pytestmark = pytest.mark.slow

D, ROWS = 6, 7
SMALL = {"embedding_dim": D, "num_heads": 3, "interaction_units": (11,), "hidden_units": (5,), "rank": 2}


def history_schema(length=5):
    return Schema(
        features=[
            Categorical("user", 13),
            Categorical("item", 17),
            Numeric("price", transform="none"),
            Numeric("age", transform="none"),
            Sequence("seen", max_length=length, table="item"),
        ],
        labels=["click"],
    )


def spread(model, scale=0.3, seed=7):
    rng = np.random.default_rng(seed)
    for v in model.trainable_variables:
        v.assign(scale * rng.standard_normal(v.shape))
    return model


def small(schema=None, **arguments):
    return spread(InterFormer(schema or history_schema(), **{**SMALL, **arguments}))


def probability(model, x):
    return np.asarray(model(x)["click"])


def inner(model, x, *names):
    """Outputs of named layers; those of a Cross Arch as a list, sorted by their names: fields, mask, sequence, tokens."""
    outputs = {name: model.get_layer(name).output for name in names}
    return keras.Model(model.inputs, outputs)([x[t.name] for t in model.inputs])


# --- the whole forward pass -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "block_style, pffn, final_summary", [("paper", "linear", False), ("paper", "mlp", True), ("transformer", "mlp", True)]
)
def test_forward_pass_of_algorithm_1(block_style, pffn, final_summary):
    shape = {"block_style": block_style, "pffn": pffn, "final_summary": final_summary, "backbone": "dot", "num_layers": 2}
    model = small(**shape, layer_norm_epsilon=0.07, activation=None)
    x, _ = random_rows(history_schema(), ROWS)
    v = {name: np.asarray(w.numpy(), "float64") for name, w in ((w.path, w) for w in model.weights)}
    embedding = model.get_layer("embedding")
    users, items = embedding.rows("user").astype("float64"), embedding.rows("item").astype("float64")
    rounds = 2 if final_summary else 1
    want = []
    for b in range(ROWS):
        dense = v["numeric_tokens/kernel"].T @ np.array([x["price"][b], x["age"][b]], "float64")
        fields = np.array([dense, users[x["user"][b]], items[x["item"][b]]])
        mask = x["seen"][b] != 0
        events = oracle.mask_net(oracle.under(v, "mask_net_history"), items[x["seen"][b]] * mask[:, None], mask)
        tokens = None
        for layer in range(1, rounds + 2):
            cross = oracle.under(v, f"cross_{layer}")
            x_sum = oracle.gate(oracle.under(cross, "field_gate"), cross["compress/kernel"].T @ fields)
            if tokens is None:
                tokens, valid = np.concatenate([x_sum, events]), np.concatenate([[True] * 4, mask])
            pooled = oracle.pma(oracle.under(cross, "pma"), tokens, valid, 3)[0]
            s_sum = np.concatenate([tokens[:4], pooled, oracle.newest(tokens[4:], mask, 2)])
            s_sum = oracle.gate(oracle.under(cross, "sequence_gate"), s_sum)
            if layer == rounds + 1:
                break
            z = np.concatenate([fields, s_sum])
            hidden = np.concatenate([z.reshape(-1), oracle.triangle(z)])
            new_fields = oracle.mlp(oracle.under(v, f"interaction_{layer}/mlp"), hidden).reshape(fields.shape)
            arch = oracle.under(v, f"sequence_{layer}")
            attend, ffn = oracle.under(arch, "attention"), oracle.under(arch, "pffn")
            positions = np.cumsum(valid) - 1

            def norm(values, name, arch=arch):
                return np.array([oracle.layer_norm(oracle.under(arch, name), t, epsilon=0.07) for t in values])

            if block_style == "paper":
                moved = oracle.pffn(ffn, tokens, x_sum, pffn)
                tokens = oracle.attention(attend, moved, moved, valid, 3, positions)[0]
            else:
                y = tokens + oracle.pffn(ffn, norm(tokens, "ffn_norm"), x_sum, pffn)
                z = norm(y, "attention_norm")
                tokens = y + oracle.attention(attend, z, z, valid, 3, positions)[0]
            tokens, fields = tokens * valid[:, None], new_fields
        head = oracle.mlp(oracle.under(v, "head"), np.concatenate([x_sum.reshape(-1), s_sum.reshape(-1)]))
        want.append(v["logits/kernel"].T @ head + v["logits/bias"])
    np.testing.assert_allclose(probability(model, x), want, rtol=2e-3, atol=2e-4)


# --- who learns from whom -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode, fields_read, sequence_reads", [("int", True, True), ("s2n", True, False), ("n2s", False, True), ("sep", False, False)]
)
@pytest.mark.parametrize("final_summary", [True, False])
def test_flow_of_information(mode, fields_read, sequence_reads, final_summary):
    """No gradient from one side to the other but those of the mode."""
    model = small(mode=mode, num_layers=3, final_summary=final_summary)
    rounds = 3 if final_summary else 2
    x, _ = random_rows(history_schema(), ROWS)
    sequence_inputs = model.get_layer("mask_net_history").output
    field_inputs = model.get_layer("field_tokens").output
    names = [f"interaction_{i}" for i in range(1, rounds + 1)] + [f"sequence_{i}" for i in range(1, rounds + 1)]
    (mask,) = (t for t in model.get_layer("embedding").output if t.dtype == "bool")
    probe = keras.Model([field_inputs, sequence_inputs, mask], {n: model.get_layer(n).output for n in names})
    start = keras.Model(model.inputs, [field_inputs, sequence_inputs, mask])([x[t.name] for t in model.inputs])
    sides = [keras.Variable(np.asarray(t)) for t in start[:2]]
    for name in names:

        def value(name=name):
            out = probe([*(ops.convert_to_tensor(side) for side in sides), start[2]])[name]
            return ops.sum(ops.multiply(out, np.random.default_rng(1).standard_normal(out.shape).astype("float32")))

        to_fields, to_events = (bool(np.any(gradient != 0)) for gradient in gradients(value, sides))
        expected = (True, fields_read) if name.startswith("interaction") else (sequence_reads, True)
        assert (to_fields, to_events) == expected, name


def test_sole_has_no_sequence_arch():
    for kind in (None, "avg", "mlp", "mha"):
        model = small(mode="sole", early_aggregation=kind)
        assert not [layer.name for layer in model.layers if layer.name.startswith("sequence_")]
        x, _ = random_rows(history_schema(), ROWS)
        assert inner(model, x, "field_tokens")["field_tokens"].shape == (ROWS, 4, D)  # numerics, user, item, history


def test_number_of_sequence_tokens_is_constant():
    model = small(num_layers=3)
    x, _ = random_rows(history_schema(), ROWS)
    for out in inner(model, x, "sequence_1", "sequence_2", "sequence_3").values():
        assert out.shape == (ROWS, 4 + 5, D)


def test_algorithm_1_to_the_letter_leaves_out_the_last_layer():
    names = {layer.name for layer in small(num_layers=2, final_summary=False).layers}
    assert {"cross_1", "cross_2", "interaction_1", "sequence_1"} <= names
    assert not names & {"cross_3", "interaction_2", "sequence_2"}
    names = {layer.name for layer in small(num_layers=1, final_summary=False).layers}
    assert "cross_1" in names and not names & {"interaction_1", "sequence_1", "cross_2"}


# --- padding and histories ------------------------------------------------------------------------------------------------------------

VARIANTS = [
    {},
    {"mode": "s2n"},
    {"mode": "sep", "block_style": "paper"},
    {"mode": "sole", "early_aggregation": "mha"},
    {"block_style": "paper", "pffn": "linear", "final_summary": False},
    {"sequence_merge": "tokens"},
    {"num_cls": 0},
]


@pytest.mark.parametrize("arguments", VARIANTS, ids=str)
def test_padding_amount_and_side_change_nothing(arguments):
    import dataclasses

    short = full_schema()
    features = [dataclasses.replace(f, max_length=f.max_length + 3) if isinstance(f, Sequence) else f for f in short.features]
    model, wide = small(short, **arguments), small(short.replace(features=features), **arguments)
    assert [w.shape for w in model.weights] == [w.shape for w in wide.weights]
    wide.set_weights(model.get_weights())
    x, _ = random_rows(short, ROWS)
    want = probability(model, x)
    assert want.std() > 1e-3
    for before in range(4):
        padded = dict(x)
        for f in short.sequences:
            padded[f.name] = np.pad(x[f.name], ((0, 0), (before, 3 - before)))
        np.testing.assert_allclose(probability(wide, padded), want, atol=2e-6)


def test_aligned_mlp_aggregation_ignores_the_padding_side():
    model = small(mode="sole", early_aggregation="mlp")
    x, _ = random_rows(history_schema(), ROWS)
    x["seen"][:, 3:] = 0
    want = probability(model, x)
    np.testing.assert_allclose(probability(model, {**x, "seen": np.roll(x["seen"], 2, axis=1)}), want, atol=2e-6)


@pytest.mark.parametrize("arguments", VARIANTS, ids=str)
def test_histories_of_every_length_are_finite_and_told_apart(arguments):
    model = small(**arguments)
    rows = np.zeros((6, 5), "int32")
    for n in range(6):
        rows[n, :n] = np.arange(2, 2 + n)
    x = {"user": np.full(6, 3), "item": np.full(6, 4), "price": np.ones(6, "float32"), "age": np.ones(6, "float32"), "seen": rows}
    out = probability(model, x)
    assert np.all(np.isfinite(out)) and len(np.unique(out)) == 6
    for n in range(6):
        np.testing.assert_allclose(probability(model, {k: v[n : n + 1] for k, v in x.items()}), out[n : n + 1], atol=2e-6)
    found = gradients(lambda: ops.sum(ops.log(model(x)["click"])), model.trainable_variables)
    assert all(np.all(np.isfinite(gradient)) for gradient in found)


def test_order_of_the_history_counts():
    model = small(use_recent=False)  # without the recent tokens only the positions of attention tell
    x, _ = random_rows(history_schema(), ROWS)
    x["seen"] = np.tile(np.arange(2, 7), (ROWS, 1)).astype("int32")
    assert np.abs(probability(model, x) - probability(model, {**x, "seen": x["seen"][:, ::-1]})).max() > 1e-5


# --- several groups of sequences ------------------------------------------------------------------------------------------------------


def test_recent_events_are_taken_of_each_group():
    model = small(full_schema(), sequence_merge="tokens")
    x, _ = random_rows(full_schema(), ROWS)
    assert model.get_layer("cross_1").segments == (7, 5)
    assert inner(model, x, "cross_1")["cross_1"][2].shape == (ROWS, 4 + 2 + 2 * 2, D)
    merged = small(full_schema(), sequence_merge="features")
    assert inner(merged, x, "cross_1")["cross_1"][2].shape == (ROWS, 4 + 2 + 2, D)
    assert merged.get_layer("sequence_1").output.shape == (None, 4 + 7, D)


@pytest.mark.parametrize("merge", ["tokens", "features"])
def test_every_group_reaches_the_prediction(merge):
    model = small(full_schema(), sequence_merge=merge)
    x, _ = random_rows(full_schema(), 23)
    for name in ("clicked_item", "clicked_brand", "liked_item"):
        other = np.where(x[name] > 0, x[name] % 5 + 2, 0).astype(x[name].dtype)
        assert np.abs(probability(model, {**x, name: other}) - probability(model, x)).max() > 1e-5


# --- arguments ------------------------------------------------------------------------------------------------------------------------

ABLATIONS = ["use_pma", "use_recent", "use_gating", "use_pffn", "use_mha", "use_self_masking"]


def layer_names(model):
    return {w.path for w in model.weights}


@pytest.mark.parametrize(
    "ablation, gone", list(zip(ABLATIONS, ["/pma/", None, "_gate/", "/pffn/", "/attention/", "mask_mlp"], strict=True))
)
def test_ablations_remove_their_part(ablation, gone):
    whole, ablated = small(), small(**{ablation: False})
    x, _ = random_rows(history_schema(), ROWS)
    assert np.all(np.isfinite(probability(ablated, x)))
    if gone:
        assert any(gone in name for name in layer_names(whole)) and not any(gone in name for name in layer_names(ablated))
    else:
        assert whole.get_layer("cross_1").summary_tokens - ablated.get_layer("cross_1").summary_tokens == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [{"mode": m, "backbone": b} for m, b in itertools.product(("int", "s2n", "n2s", "sep", "sole"), ("dot", "dcnv2", "dhen"))]
    + [{a: False} for a in (*ABLATIONS, "final_summary")]
    + [{"mode": "sole", "early_aggregation": k} for k in ("mlp", "mha")]
    + [{"block_style": s, "pffn": p} for s, p in itertools.product(("paper", "transformer"), ("linear", "mlp"))]
    + [{"sequence_merge": "tokens"}, {"gate": "outer"}, {"num_cls": 0}, {"dropout": 0.2, "batch_norm": True}],
    ids=str,
)
def test_every_weight_of_every_variant_gets_a_gradient(arguments):
    model = small(full_schema(), **arguments)
    x, _ = random_rows(full_schema(), 23)
    found = gradients(lambda: ops.sum(ops.log(model(x, training=True)["click"])), model.trainable_variables)
    for v, gradient in zip(model.trainable_variables, found, strict=True):
        assert np.any(gradient != 0), v.path


def test_backbone_prototype():
    prototype = DHENLayer((CrossModule(2),))
    model = small(backbone=prototype)
    x, _ = random_rows(history_schema(), ROWS)
    assert np.all(np.isfinite(probability(model, x))) and not prototype.built
    assert len({id(w) for w in model.weights}) == len(model.weights)


@pytest.mark.parametrize("backbone", ["dot", "dhen"])
def test_save_and_load(backbone, tmp_path):
    model = small(full_schema(), backbone=DHENLayer((CrossModule(2),)) if backbone == "dhen" else backbone)
    x, _ = random_rows(full_schema(), ROWS)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(probability(keras.saving.load_model(tmp_path / "model.keras"), x), probability(model, x))


def test_without_sequences_it_is_the_interaction_arch_alone():
    model = small(fields_schema())
    kinds = {layer.name.split("_")[0] for layer in model.layers}
    assert "interaction" in kinds and not kinds & {"sequence", "mask", "aggregate"}
    x, _ = random_rows(fields_schema(), ROWS)
    out = inner(model, x, "cross_3", "interaction_2", "head")
    assert out["cross_3"].shape == (ROWS, 4, D) and out["head"].shape == (ROWS, 5)


@pytest.mark.parametrize("pffn", ["linear", "mlp"])
@pytest.mark.parametrize("block_style", ["paper", "transformer"])
def test_parameter_count_is_that_of_the_layers(pffn, block_style):
    n, m, h, u = 3, 2, 11, 5  # field tokens, numerics, interaction width, head width
    d, s, rank, v = D, 8, 2, 64
    tokens = n + s
    pairs = tokens * (tokens - 1) // 2
    dhen = (pairs * v + v + v * tokens * d + tokens * d) + (2 * tokens * d * rank + tokens * d) + 2 * d
    interaction = dhen + (tokens * d * h + h + h * n * d + n * d)
    cross = n * 4 + 2 * (d * d + d) + (2 * d + 4 * d * d + 3 * d)
    kernel = 4 * d if pffn == "linear" else 4 * d * d + d + d * d * d + d * d
    sequence = kernel + 4 * (d * d + d) + (4 * d if block_style == "transformer" else 0)
    before = m * d + 2 * d * (d + 1) + d * d + d
    head = (4 + s) * d * u + u + u + 1
    for layers in (1, 2):
        model = small(num_layers=layers, pffn=pffn, block_style=block_style)
        tables = (13 + 17) * d
        assert model.count_params() == tables + before + layers * (interaction + sequence) + (layers + 1) * cross + head


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"mode": "both"}, "mode must be one of"),
        ({"mode": "s2m"}, "did you mean"),
        ({"early_aggregation": "avg"}, "needs mode='sole'"),
        ({"mode": "sole", "early_aggregation": "max"}, "early_aggregation must be one of"),
        ({"num_layers": 0}, "num_layers"),
        ({"sequence_merge": "time"}, "sequence_merge"),
        ({"num_cls": 5}, "raise num_summary"),
        ({"use_pma": False, "use_recent": False, "use_mha": False}, "no event reaches"),
        ({"num_heads": 4}, "4 heads do not divide the width 6"),
        ({"backbone": "dcn"}, "backbone must be one of"),
        ({"block_style": "post"}, "block_style"),
        ({"pffn": "static"}, "pffn must be one of"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        InterFormer(history_schema(), **{**SMALL, **arguments})


def test_a_schema_of_sequences_only_is_refused():
    with pytest.raises(ValueError, match="add a field or a numeric"):
        InterFormer(history_schema().select(features=["seen"]))
