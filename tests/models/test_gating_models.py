"""GDCN, GateNet, PPNet, LHUC, POSO and APG: what their options build, beyond the contract of all models."""

import re

import keras
import numpy as np
import pytest

from keras_ctr import Numeric, Schema
from keras_ctr.models.apg import APG, fold_over_parameterization
from keras_ctr.models.dnn import DNN
from keras_ctr.models.gate_net import GateNet
from keras_ctr.models.gdcn import GDCN
from keras_ctr.models.lhuc import LHUC
from keras_ctr.models.poso import POSO
from keras_ctr.models.pp_net import PPNet
from tests.models.small_models import (
    FIELDS,
    N0,
    NUMERICS,
    ROWS,
    SMALL,
    TOKENS,
    UNITS,
    D,
    check_runs,
    dense_weights,
    inner,
    mlp,
    scores,
    spread,
)
from tests.sample import full_schema, random_rows

pytestmark = pytest.mark.slow

ADAPTIVE = (PPNet, LHUC, POSO, APG)


def same_as_dnn(model, **arguments):
    """Checks that a model is the plain deep model on the same embedding, hidden and last weights."""
    schema = full_schema()
    plain = DNN(schema, **SMALL, activation=None, **arguments)
    parts = [layer for layer in model.layers if re.fullmatch(r"embedding|numeric_tokens|mlp(_\d+)?|dense_\d+|logits", layer.name)]
    values = [w for layer in parts for w in kernels_of(layer)]
    assert [w.shape for w in plain.get_weights()] == [w.shape for w in values]
    plain.set_weights(values)
    expected = scores(plain, schema)
    assert expected.std() > 1e-2
    np.testing.assert_allclose(scores(model, schema), expected, rtol=1e-4, atol=1e-5)


def kernels_of(layer):
    """Values of a layer's weights that a plain deep model has too: those of gates left out."""
    return [w.numpy() for w in layer.weights if "/gate" not in w.path]


def neutral(model, pattern):
    """Zeroes the weights whose path matches: last layers of gates."""
    found = [w for w in model.trainable_variables if re.search(pattern, w.path)]
    assert found
    for weight in found:
        weight.assign(np.zeros(weight.shape))


CROSS = 2 * (2 * N0 * N0 + N0)


@pytest.mark.parametrize(
    "arguments, expected",
    [({}, CROSS + mlp(N0, *UNITS) + N0 + 5 + 1), ({"structure": "stacked"}, CROSS + mlp(N0, *UNITS, 1))],
)
def test_gdcn(arguments, expected):
    schema = full_schema()
    model = GDCN(schema, **SMALL, num_cross_layers=2, **arguments)
    assert dense_weights(model) == expected
    check_runs(model, schema)


def test_gdcn_stacked_without_a_cross_layer_is_the_plain_deep_model():
    model = GDCN(full_schema(), **SMALL, structure="stacked", num_cross_layers=0, activation=None)
    spread(model)
    same_as_dnn(model)


@pytest.mark.parametrize(
    "arguments, gates",
    [
        ({}, TOKENS * D + 11 * 11 + 5 * 5),
        ({"feature_gate": "bit"}, TOKENS * D * D + 11 * 11 + 5 * 5),
        ({"gate_sharing": "shared", "hidden_gate": False}, D),
        ({"feature_gate": "bit", "gate_sharing": "shared", "hidden_gate": False}, D * D),
        ({"feature_gate": None, "dropout": 0.3}, 11 * 11 + 5 * 5),
    ],
)
def test_gate_net(arguments, gates):
    schema = full_schema(("click", "like"))
    model = GateNet(schema, **SMALL, **arguments)
    assert dense_weights(model) == NUMERICS * D + mlp(TOKENS * D, *UNITS, 2) + gates
    check_runs(model, schema)


def test_gate_net_without_gates_is_the_plain_deep_model_on_tokens():
    model = GateNet(full_schema(), **SMALL, feature_gate=None, hidden_gate=False, activation=None)
    spread(model)
    same_as_dnn(model, numeric="scale_embedding")


def test_gate_net_gates_the_embeddings_before_and_the_hidden_units_after_a_layer():
    schema = full_schema()
    model = GateNet(schema, **SMALL)
    spread(model)
    x, _ = random_rows(schema, ROWS)
    tokens, flat = inner(model, x, "tokens"), inner(model, x, "flat")
    kernel = model.get_layer("feature_gate").kernel.numpy()[..., 0]  # (F, D)
    gated = tokens / (1 + np.exp(-np.sum(tokens * kernel, axis=-1, keepdims=True)))
    np.testing.assert_allclose(flat, gated.reshape(ROWS, -1), rtol=1e-4, atol=1e-6)
    first, hidden = inner(model, x, "mlp_0"), inner(model, x, "hidden_gate_0")
    assert first.min() == 0  # after ReLU
    np.testing.assert_allclose(hidden, first / (1 + np.exp(-first @ model.get_layer("hidden_gate_0").kernel.numpy())), rtol=1e-4, atol=1e-6)


def gate_nu(inputs, hidden, units):
    return inputs * hidden + hidden + hidden * units + units


@pytest.mark.parametrize(
    "arguments, prior, embedding_gate",
    [
        ({}, D, 0),
        ({"condition_features": ["item", "age"], "batch_norm": True}, 2 * D, 2 * sum(UNITS)),
        ({"domain_features": ["brand"]}, D, gate_nu(D + N0, 3, N0)),
    ],
)
def test_pp_net(arguments, prior, embedding_gate):
    schema = full_schema()
    model = PPNet(schema, **SMALL, gate_units=3, **arguments)
    assert dense_weights(model) == mlp(N0, *UNITS, 1) + sum(gate_nu(prior + N0, 3, u) for u in UNITS) + embedding_gate
    check_runs(model, schema)


@pytest.mark.parametrize("arguments", [{}, {"domain_features": ["brand", "item"]}])
def test_pp_net_with_neutral_gates_is_the_plain_deep_model(arguments):
    model = PPNet(full_schema(), **SMALL, activation=None, **arguments)
    spread(model)
    neutral(model, r"gate.*/mlp/output/")
    same_as_dnn(model)


def test_pp_net_gates_see_the_prior_and_the_gated_embeddings():
    schema = full_schema()
    model = PPNet(schema, **SMALL, domain_features=["brand"])
    spread(model)
    x, _ = random_rows(schema, ROWS)
    fields = inner(model, x, "flat_fields").reshape(ROWS, FIELDS, D)
    np.testing.assert_array_equal(inner(model, x, "condition"), fields[:, 0])  # the user
    np.testing.assert_array_equal(inner(model, x, "domain"), fields[:, 2])  # the brand
    gate = np.asarray(model.get_layer("embedding_gate")(fields[:, 2], inner(model, x, "flat")))
    np.testing.assert_allclose(inner(model, x, "gated_embeddings"), inner(model, x, "flat") * gate, rtol=1e-5, atol=1e-6)
    gate = np.asarray(model.get_layer("gate_1")(fields[:, 0], inner(model, x, "gated_embeddings")))
    np.testing.assert_allclose(inner(model, x, "gated_1"), inner(model, x, "mlp_1") * gate, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gate_units", [(), (3,)])
def test_lhuc(gate_units):
    schema = full_schema()
    model = LHUC(schema, **SMALL, gate_units=gate_units, condition_features=["brand", "user"])
    assert dense_weights(model) == mlp(N0, *UNITS, 1) + sum(mlp(2 * D, *gate_units, u) for u in UNITS)
    x, _ = random_rows(schema, ROWS)
    fields = inner(model, x, "flat_fields").reshape(ROWS, FIELDS, D)
    np.testing.assert_array_equal(inner(model, x, "condition"), fields[:, [2, 0]].reshape(ROWS, -1))
    check_runs(model, schema)


def test_lhuc_with_neutral_amplitudes_is_the_plain_deep_model():
    model = LHUC(full_schema(), **SMALL, activation=None)
    spread(model)
    neutral(model, r"gate_\d/mlp/output/")
    same_as_dnn(model)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({}, mlp(N0, *UNITS) + sum(mlp(D, u) for u in UNITS)),
        ({"gate_units": (3,)}, mlp(N0, *UNITS) + sum(mlp(D, 3, u) for u in UNITS)),
        ({"form": "networks", "num_networks": 3, "dropout": 0.2}, 3 * mlp(N0, *UNITS) + mlp(D, 3)),
    ],
)
def test_poso(arguments, expected):
    schema = full_schema(("click", "like"))
    model = POSO(schema, **SMALL, **arguments)
    assert dense_weights(model) == expected + 2 * (5 + 1)
    check_runs(model, schema)


def test_poso_with_neutral_masks_is_the_plain_deep_model():
    model = POSO(full_schema(), **SMALL, activation=None)
    spread(model)
    neutral(model, r"mlp/gate_\d/")
    same_as_dnn(model)


def adaptive(condition, bias_and_core, hidden=(), rank=3):
    """Parameters of the two hidden layers; `condition` is a width or None for self-wise."""
    total, width = 0, N0
    for units in UNITS:
        total += width * rank + rank * units + mlp(width if condition is None else condition, *hidden, bias_and_core(units)) + units
        width = units
    return total


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({}, adaptive(D, lambda u: 9)),
        ({"condition_features": ["user", "age"]}, adaptive(2 * D, lambda u: 9)),
        ({"condition": "mix"}, adaptive(D, lambda u: 9)),
        ({"condition": "mix", "condition_features": ["item", "age"], "dropout": 0.2}, adaptive(D, lambda u: 9)),
        ({"condition": "self", "gate_units": (2,)}, adaptive(None, lambda u: 9, (2,))),
        ({"bias": "adaptive"}, adaptive(D, lambda u: 9 + u) - sum(UNITS)),
        ({"bias": "none", "identity": False, "batch_norm": True}, adaptive(D, lambda u: 9) + sum(UNITS)),
        ({"over_rank": 4}, adaptive(D, lambda u: 9) + sum(4 * (n + u + 2 * 3) - 3 * (n + u) for n, u in ((N0, 11), (11, 5)))),
    ],
)
def test_apg(arguments, expected):
    schema = full_schema()
    model = APG(schema, **SMALL, rank=3, **arguments)
    assert dense_weights(model) == expected + 5 + 1
    check_runs(model, schema)


def test_apg_conditions():
    schema = full_schema()
    x, _ = random_rows(schema, ROWS)
    for arguments, pick in (
        ({}, lambda fields: fields[:, 0]),
        ({"condition": "mix"}, lambda fields: fields[:, :3].mean(axis=1)),
        ({"condition": "mix", "condition_features": ["age", "item"]}, lambda fields: fields[:, [3, 1]].mean(axis=1)),
    ):
        model = APG(schema, **SMALL, **arguments)
        spread(model)
        fields = inner(model, x, "flat_fields").reshape(ROWS, FIELDS, D)
        np.testing.assert_allclose(inner(model, x, "condition"), pick(fields), rtol=1e-5, atol=1e-6)


def test_apg_with_constant_cores_is_a_deep_model_of_low_rank():
    schema = full_schema()
    model, plain = APG(schema, **SMALL, rank=3, activation=None), DNN(schema, **SMALL, activation=None)
    spread(model)
    neutral(model, r"generator/")
    for name in ("embedding", "logits"):
        plain.get_layer(name).set_weights(model.get_layer(name).get_weights())
    values = []
    for index in range(2):
        u, v, bias = model.get_layer(f"dense_{index}").get_weights()[:3]
        values += [u @ v, bias]
    plain.get_layer("mlp").set_weights(values)
    np.testing.assert_allclose(scores(model, schema), scores(plain, schema), rtol=1e-4, atol=1e-5)


def test_apg_folds_into_the_plain_form(tmp_path):
    schema = full_schema()
    model = APG(schema, **SMALL, rank=3, over_rank=7, batch_norm=True)
    check_runs(model, schema)
    folded = fold_over_parameterization(model)
    assert folded.count_params() == APG(schema, **SMALL, rank=3, batch_norm=True).count_params() < model.count_params()
    np.testing.assert_allclose(scores(folded, schema), scores(model, schema), rtol=1e-4, atol=1e-6)
    folded.save(tmp_path / "folded.keras")
    np.testing.assert_array_equal(scores(keras.saving.load_model(tmp_path / "folded.keras"), schema), scores(folded, schema))
    with pytest.raises(ValueError, match="nothing to fold"):
        fold_over_parameterization(folded)


def used_condition(model):
    return model.get_layer("condition_tokens").positions


@pytest.mark.parametrize("factory", ADAPTIVE)
def test_default_condition(factory):
    schema = full_schema()
    assert used_condition(factory(schema, **SMALL)) == (0,)  # the group, the user
    assert used_condition(factory(schema.replace(group="brand"), **SMALL)) == (2,)
    assert used_condition(factory(schema.replace(group="session"), **SMALL)) == (0,)  # the group is no feature: the first categorical field
    assert used_condition(factory(schema.replace(group=None, features=schema.features[::-1]), **SMALL)) == (1,)  # not the binned number


@pytest.mark.parametrize("factory", ADAPTIVE)
@pytest.mark.parametrize(
    "names, message",
    [
        (["usr"], "did you mean 'user'"),
        (["price"], "not a field"),
        (["liked_item"], "not a field"),
        ([], "empty"),
        ("user", r"write \['user'\]"),
        (["user", "user"], "twice"),
    ],
)
def test_bad_conditions(factory, names, message):
    with pytest.raises(ValueError, match=f"{factory.__name__}: condition_features.*{message}"):
        factory(full_schema(), condition_features=names)


@pytest.mark.parametrize("factory", ADAPTIVE)
def test_what_adapts_needs_something_to_adapt_to_and_to_adapt(factory):
    with pytest.raises(ValueError, match="no categorical field"):
        factory(Schema([Numeric("age", transform="log_square", num_bins=7)], labels=["click"]))
    with pytest.raises(ValueError, match="hidden_units"):
        factory(full_schema(), hidden_units=())


@pytest.mark.parametrize(
    "factory, arguments, message",
    [
        (GDCN, {"structure": "paralel"}, "did you mean 'parallel'"),
        (GDCN, {"num_cross_layers": -1}, "num_layers"),
        (GateNet, {"feature_gate": "bits"}, "did you mean 'bit'"),
        (GateNet, {"gate_sharing": "public"}, "sharing"),
        (PPNet, {"domain_features": ["shop"]}, "domain_features names 'shop'"),
        (PPNet, {"gate_units": 0}, "hidden_units"),
        (LHUC, {"gate_units": (0,)}, "hidden_units"),
        (POSO, {"form": "network"}, "did you mean 'networks'"),
        (APG, {"condition": "groups"}, "did you mean 'group'"),
        (APG, {"condition": "self", "condition_features": ["user"]}, "no meaning"),
        (APG, {"over_rank": 2}, "over_rank"),
        (APG, {"bias": "dynamic"}, "bias"),
    ],
)
def test_bad_arguments(factory, arguments, message):
    with pytest.raises(ValueError, match=message):
        factory(full_schema(), **arguments)


@pytest.mark.parametrize("factory", [GDCN, GateNet, PPNet, LHUC, POSO, APG])
def test_numerics_may_be_one_token(factory):
    model = factory(full_schema(), **SMALL, numeric="dense_projection")
    assert model.get_layer("numeric_tokens").output.shape == (None, 1, D)
