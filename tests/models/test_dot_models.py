"""DLRM, DOT, DCN and DHEN: what their options build, beyond the contract of all models."""

import numpy as np
import pytest

from keras_ctr import Categorical, Numeric, Schema, layers
from keras_ctr.models.dcn import DCN
from keras_ctr.models.dcn_v2 import DCNv2
from keras_ctr.models.dhen import DHEN
from keras_ctr.models.dlrm import DLRM
from keras_ctr.models.dot import DOT
from tests.models.test_factorization_models import PUBLIC, TABLES, check_runs, dense_weights, electronics, inner, mlp, spread
from tests.sample import fields_schema, full_schema, random_rows

pytestmark = pytest.mark.slow

D = 6
ROWS = 7
FIELDS, NUMERICS, SEQUENCES = 4, 1, 3  # of full_schema: the binned age is a field
TOKENS = FIELDS + NUMERICS + SEQUENCES
PAIRS = TOKENS * (TOKENS - 1) // 2
BOTTOM, UNITS = (13, 7), (11, 5)


def plain_schema(fields, numerics):
    """So many categorical fields and numerics, no sequence."""
    return Schema(
        features=[
            *(Categorical(f"field_{i}", 5) for i in range(fields)),
            *(Numeric(f"number_{i}", transform="none") for i in range(numerics)),
        ],
        labels=["click"],
    )


def dots(tokens, with_self=False):
    """The lower triangle of the dot products, pair by pair."""
    return np.stack([(tokens[:, i] * tokens[:, j]).sum(axis=-1) for i in range(tokens.shape[1]) for j in range(i + with_self)], axis=1)


RM2 = {"embedding_dim": 64, "bottom_units": (512, 256), "hidden_units": (512, 512, 256)}


@pytest.mark.parametrize(
    "fields, numerics, arguments, total", [(26, 13, {}, 475_985), (26, 13, RM2, 762_177), (21, 1, {}, 408_401)], ids=["RM1", "RM2", "RM3"]
)
def test_published_sizes_of_dlrm(fields, numerics, arguments, total):
    assert dense_weights(DLRM(plain_schema(fields, numerics), **arguments)) == total


def dlrm(schema, **arguments):
    return DLRM(schema, embedding_dim=D, bottom_units=BOTTOM, hidden_units=UNITS, **arguments)


@pytest.mark.parametrize(
    "arguments, width",
    [
        ({}, D + PAIRS),
        ({"self_interaction": True}, D + PAIRS + TOKENS),
        ({"interaction": "cat", "dropout": 0.3}, TOKENS * D),
    ],
)
def test_interactions_of_dlrm(arguments, width):
    schema = full_schema()
    model = dlrm(schema, **arguments)
    assert dense_weights(model) == mlp(NUMERICS, (*BOTTOM, D)) + mlp(width, UNITS, 1)
    check_runs(model, schema)


@pytest.mark.parametrize("self_interaction", [False, True])
def test_dlrm_reads_the_numeric_token_and_the_dot_products(self_interaction):
    schema = full_schema()
    model = dlrm(schema, self_interaction=self_interaction)
    spread(model)
    x, _ = random_rows(schema, ROWS)
    tokens, y, head = inner(model, x, "tokens", "numeric_tokens", "head")
    np.testing.assert_array_equal(tokens[:, FIELDS], y[:, 0])  # the token order of all models: fields, numerics, histories
    assert y.std() > 0 and y.min() == 0  # the bottom MLP ends with ReLU
    np.testing.assert_allclose(head, np.concatenate([y[:, 0], dots(tokens, self_interaction)], axis=1), rtol=1e-5, atol=1e-6)


def test_cat_is_an_mlp_on_all_tokens():
    schema = full_schema()
    model = dlrm(schema, interaction="cat", activation=None)
    spread(model)
    x, _ = random_rows(schema, ROWS)
    (tokens,) = inner(model, x, "tokens")
    expected = model.get_layer("logits")(model.get_layer("mlp")(tokens.reshape(ROWS, -1)))
    np.testing.assert_allclose(model(x)["click"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("interaction, width", [("dot", 3), ("cat", 3 * D)])
def test_dlrm_without_numerics_has_no_bottom(interaction, width):
    schema = plain_schema(3, 0)
    model = dlrm(schema, interaction=interaction)
    assert dense_weights(model) == mlp(width, UNITS, 1)
    check_runs(model, schema)


@pytest.mark.parametrize(
    "numeric, tokens", [("scale_embedding", 2), ("bucketize", 2), ("dense_projection", 1), (layers.NumericTokens(D, kind="bottom_mlp"), 1)]
)
def test_numerics_of_dlrm(numeric, tokens):
    model = dlrm(plain_schema(3, 2), numeric=numeric)
    assert model.get_layer("numeric_tokens").output.shape == (None, tokens, D)
    assert model.get_layer("head").output.shape == (None, tokens * D + (3 + tokens) * (2 + tokens) // 2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"interaction": "sum"}, "interaction"),
        ({"interaction": "cat", "self_interaction": True}, "self_interaction"),
        ({"bottom_units": (0,)}, "hidden_units"),
        ({"numeric": "raw"}, "bottom_mlp"),
    ],
)
def test_errors_of_dlrm(arguments, message):
    with pytest.raises(ValueError, match=message):
        DLRM(fields_schema(), **arguments)


@pytest.mark.parametrize("factory", [DLRM, DOT])
def test_a_single_token_has_no_pair(factory):
    with pytest.raises(ValueError, match="no pair"):
        factory(plain_schema(1, 0))
    assert factory(plain_schema(1, 0), self_interaction=True).count_params() > 0


@pytest.mark.parametrize("self_interaction", [False, True])
def test_dot_keeps_the_embeddings_beside_the_products(self_interaction):
    schema = full_schema()
    model = DOT(schema, embedding_dim=D, hidden_units=UNITS, self_interaction=self_interaction)
    width = TOKENS * D + PAIRS + TOKENS * self_interaction
    assert dense_weights(model) == NUMERICS * D + mlp(width, UNITS, 1)
    check_runs(model, schema)
    spread(model)
    x, _ = random_rows(schema, ROWS)
    tokens, head = inner(model, x, "tokens", "head")
    expected = np.concatenate([tokens.reshape(ROWS, -1), dots(tokens, self_interaction)], axis=1)
    np.testing.assert_allclose(head, expected, rtol=1e-5, atol=1e-6)


def test_published_total_of_dcn():
    """BARS, AmazonElectronics_x1: tables + 6 * 2 * 256 + MLP(256; 1024, 512, 256) + (256 + 256 + 1)."""
    model = DCN(electronics(), **{**PUBLIC, "batch_norm": False})
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == 5_006_465
    assert dense_weights(model) == 5_006_465 - TABLES


def test_dcn_is_dcn_v2_with_vectors_of_weights():
    schema = full_schema()
    model = DCN(schema, embedding_dim=D, num_cross_layers=3, hidden_units=UNITS)
    other = DCNv2(schema, embedding_dim=D, num_cross_layers=3, hidden_units=UNITS, parameterization="vector")
    spread(model)
    other.set_weights(model.get_weights())
    x, _ = random_rows(schema, ROWS)
    np.testing.assert_array_equal(model(x)["click"], other(x)["click"])


@pytest.mark.parametrize("numeric, width", [("raw", NUMERICS), ("scale_embedding", NUMERICS * D)])
def test_cross_network_alone(numeric, width):
    schema = full_schema()
    model = DCN(schema, embedding_dim=D, num_cross_layers=2, hidden_units=(), numeric=numeric)
    flat = (FIELDS + SEQUENCES) * D + width
    assert dense_weights(model) == (numeric != "raw") * NUMERICS * D + 2 * 2 * flat + flat + 1
    check_runs(model, schema)


def test_dcn_needs_a_cross_layer():
    with pytest.raises(ValueError, match="num_cross_layers"):
        DCN(fields_schema(), num_cross_layers=0)


R, DOT_UNITS, H, FFN, L = 3, (13,), 2, 17, 5


def dhen(schema, modules, **arguments):
    return DHEN(
        schema,
        embedding_dim=D,
        modules=modules,
        rank=R,
        dot_units=DOT_UNITS,
        num_heads=H,
        ffn_units=FFN,
        hidden_units=UNITS,
        **arguments,
    )


def module_weights(name, m, tokens):
    """Parameters of one module that reads m tokens and puts out `tokens` (None: m)."""
    out = tokens or m
    return {
        "dot": lambda: mlp(m * (m - 1) // 2, DOT_UNITS, out * D),
        "cross": lambda: 2 * m * D * R + m * D + (m * out if tokens else 0),
        "attention": lambda: 4 * (D * D + D) + 2 * D * FFN + FFN + D + 4 * D + (m * out if out != m else 0),
        "linear": lambda: m * out,
        "convolution": lambda: 9 + 1 + m * out,
    }[name]()


@pytest.mark.parametrize("num_tokens", [None, L])
@pytest.mark.parametrize("ensemble", layers.DHENLayer.ENSEMBLES)
@pytest.mark.parametrize("modules", [("dot", "cross"), ("attention", "linear", "convolution")])
def test_named_modules_of_dhen(modules, ensemble, num_tokens):
    schema = full_schema()
    model = dhen(schema, list(modules), ensemble=ensemble, num_tokens=num_tokens)
    m, total = TOKENS, NUMERICS * D
    for _ in range(2):
        out = (num_tokens or m) * (len(modules) if ensemble == "concat" else 1)
        total += sum(module_weights(name, m, num_tokens) for name in modules) + (m * out if out != m else 0) + 2 * D
        total += len(modules) if ensemble == "weighted" else 0
        m = out
    assert model.get_layer("dhen_1").output.shape == (None, m, D)
    assert dense_weights(model) == total + mlp(m * D, UNITS, 1)
    check_runs(model, schema)


def test_prototypes_and_names_mix():
    schema = full_schema()
    prototype = layers.CrossModule(R)
    mixed, named = dhen(schema, ("dot", prototype)), dhen(schema, ("dot", "cross"))
    assert not prototype.built
    spread(mixed)
    named.set_weights(mixed.get_weights())
    x, _ = random_rows(schema, ROWS)
    np.testing.assert_array_equal(mixed(x)["click"], named(x)["click"])


def test_default_modules_are_dot_and_cross():
    schema = full_schema()
    default, named = DHEN(schema, embedding_dim=D), DHEN(schema, embedding_dim=D, modules=["dot", "cross"], rank=32, dot_units=[64])
    assert [(w.path, w.shape) for w in default.weights] == [(w.path, w.shape) for w in named.weights]
    assert [type(part) for part in default.get_layer("dhen_0").parts] == [layers.DotModule, layers.CrossModule]


@pytest.mark.parametrize("name", ["dot", "cross", "attention", "linear", "convolution"])
def test_a_single_module_is_normalised_with_its_shortcut(name):
    schema = full_schema()
    model = dhen(schema, name, num_layers=1)
    spread(model)
    x, _ = random_rows(schema, ROWS)
    tokens, out = inner(model, x, "tokens", "dhen_0")
    layer = model.get_layer("dhen_0")
    tokens = tokens.astype("float32")
    np.testing.assert_allclose(out, layer.norm(np.asarray(layer.parts[0](tokens)) + tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"num_layers": 0}, ValueError, "num_layers"),
        ({"modules": ("dots",)}, ValueError, "did you mean 'dot'"),
        ({"modules": ()}, ValueError, "modules is empty"),
        ({"modules": (3,)}, TypeError, "keras.Layer"),
        ({"ensemble": "mean"}, ValueError, "ensemble"),
        ({"num_tokens": 0}, ValueError, "num_tokens"),
        ({"modules": ("dot", layers.LinearModule(num_tokens=2))}, ValueError, "equal token counts"),
    ],
)
def test_errors_of_dhen(arguments, error, message):
    with pytest.raises(error, match=message):
        DHEN(fields_schema(), **arguments)
