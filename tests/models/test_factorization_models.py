"""FM, DeepFM, XDeepFM, AutoInt and Wukong: what their options build, beyond the contract of all models; numerics of flat models."""

import keras
import numpy as np
import pytest

from keras_ctr import Categorical, Schema, Sequence
from keras_ctr.models.auto_int import AutoInt
from keras_ctr.models.dcn_v2 import DCNv2
from keras_ctr.models.deep_fm import DeepFM
from keras_ctr.models.dnn import DNN
from keras_ctr.models.fm import FM
from keras_ctr.models.lr import LR
from keras_ctr.models.wukong import Wukong
from keras_ctr.models.x_deep_fm import XDeepFM
from tests.sample import fields_schema, full_schema, random_rows

pytestmark = pytest.mark.slow

D = 6
ROWS = 7
FIELDS, NUMERICS, SEQUENCES = 4, 1, 3  # of full_schema: the binned age is a field
TOKENS = FIELDS + NUMERICS + SEQUENCES
UNITS = (11, 5)


def dense_weights(model):
    """Trainable scalars outside the embedding layer and the linear part."""
    return sum(int(np.prod(w.shape)) for x in model.layers if x.name not in ("embedding", "linear") for w in x.trainable_weights)


def mlp(inputs, units, outputs=0):
    """Parameters of dense layers of these widths, and of a last one unless `outputs` is 0."""
    total = 0
    for width in (*units, *((outputs,) if outputs else ())):
        total += inputs * width + width
        inputs = width
    return total


def spread(model):
    rng = np.random.default_rng(7)
    for weight in model.trainable_variables:
        weight.assign(0.3 * rng.standard_normal(weight.shape))


def check_runs(model, schema):
    x, y = random_rows(schema, ROWS)
    for p in model(x).values():
        p = keras.ops.convert_to_numpy(p)
        assert p.shape == (ROWS, 1) and np.all((p > 0) & (p < 1))
    model.compile("adam", "binary_crossentropy", run_eagerly=True)
    assert np.all(np.isfinite(model.train_on_batch(x, y)))


def inner(model, x, *names):
    """A list of the outputs of inner layers as NumPy arrays."""
    out = keras.Model(model.inputs, {name: model.get_layer(name).output for name in names})([x[t.name] for t in model.inputs])
    return [keras.ops.convert_to_numpy(out[name]).astype("float64") for name in names]


def pair_sums(tokens):
    """The sum over pairs of the products, `(B, D)`, pair by pair."""
    return sum(tokens[:, i] * tokens[:, j] for i in range(tokens.shape[1]) for j in range(i))


def test_fm_is_the_linear_part_and_the_pairs():
    schema = full_schema()
    model, linear = FM(schema, embedding_dim=D, activation=None), LR(schema, activation=None)
    spread(model)
    linear.get_layer("logits").set_weights(model.get_layer("linear").get_weights())
    x, _ = random_rows(schema, ROWS)
    (tokens,) = inner(model, x, "tokens")
    assert tokens.shape == (ROWS, TOKENS, D)
    expected = np.asarray(linear(x)["click"]) + pair_sums(tokens).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model(x)["click"], expected, rtol=1e-4, atol=1e-4)
    assert dense_weights(model) == NUMERICS * D  # the numeric's token; FM itself has none


def test_labels_of_an_fm_start_with_equal_pairs_and_weigh_them_apart():
    schema = full_schema(("click", "like"))
    model, linear = FM(schema, embedding_dim=D, activation=None), LR(schema, activation=None)
    x, _ = random_rows(schema, ROWS)
    weights = model.get_layer("pair_weights").kernel
    np.testing.assert_array_equal(weights, np.ones((D, 2)))
    spread(model)
    linear.get_layer("logits").set_weights(model.get_layer("linear").get_weights())
    (tokens,) = inner(model, x, "tokens")
    pairs = pair_sums(tokens) @ np.asarray(weights)
    for index, label in enumerate(("click", "like")):
        np.testing.assert_allclose(model(x)[label], np.asarray(linear(x)[label]) + pairs[:, index : index + 1], rtol=1e-4, atol=1e-4)


def test_deep_fm_adds_an_mlp_to_an_fm():
    schema = full_schema()
    deep, plain = DeepFM(schema, embedding_dim=D, hidden_units=UNITS, activation=None), FM(schema, embedding_dim=D, activation=None)
    assert dense_weights(deep) == NUMERICS * D + mlp(TOKENS * D, UNITS, 1)
    spread(deep)
    for name in ("embedding", "numeric_tokens", "linear"):
        plain.get_layer(name).set_weights(deep.get_layer(name).get_weights())
    x, _ = random_rows(schema, ROWS)
    (part,) = inner(deep, x, "deep_logits")
    assert part.std() > 1e-3
    np.testing.assert_allclose(deep(x)["click"], np.asarray(plain(x)["click"]) + part, rtol=1e-4, atol=1e-4)
    empty = DeepFM(schema, embedding_dim=D, hidden_units=())
    assert empty.count_params() == plain.count_params()


@pytest.mark.parametrize(
    "arguments, cin, width",
    [
        ({}, TOKENS * TOKENS * 4 + 4 * TOKENS * 3, 4 + 3),
        ({"cin_bias": True, "cin_activation": "relu"}, TOKENS * TOKENS * 4 + 4 * TOKENS * 3 + 4 + 3, 4 + 3),
        ({"split_half": True, "field_chunk": 3}, TOKENS * TOKENS * 4 + 2 * TOKENS * 3, 2 + 3),
    ],
)
def test_x_deep_fm_parameter_count(arguments, cin, width):
    schema = full_schema(("click", "like"))
    model = XDeepFM(schema, embedding_dim=D, cin_units=(4, 3), hidden_units=UNITS, **arguments)
    assert dense_weights(model) == NUMERICS * D + cin + mlp(TOKENS * D, UNITS) + 2 * (width + 5 + 1)
    check_runs(model, schema)


def test_x_deep_fm_without_mlp_is_linear_part_and_cin():
    schema = full_schema()
    model = XDeepFM(schema, embedding_dim=D, cin_units=(4, 3), hidden_units=(), activation=None)
    assert "mlp" not in [x.name for x in model.layers]
    spread(model)
    x, _ = random_rows(schema, ROWS)
    cin, linear = inner(model, x, "cin", "linear")
    kernel, bias = model.get_layer("head_logits").get_weights()
    np.testing.assert_allclose(model(x)["click"], linear + cin @ kernel + bias, rtol=1e-4, atol=1e-4)


def test_x_deep_fm_chunks_change_nothing():
    schema = full_schema()
    whole, chunked = (XDeepFM(schema, embedding_dim=D, cin_units=(4, 3), field_chunk=c) for c in (None, 3))
    chunked.set_weights(whole.get_weights())
    x, y = random_rows(schema, ROWS)
    for model in (whole, chunked):
        model.compile(keras.optimizers.SGD(0.5), "binary_crossentropy")
        model.fit(x, y, batch_size=ROWS, epochs=3, verbose=0)
    for got, want in zip(chunked.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({}, 4 * D * 6 + 4 * 6 * 6 + TOKENS * 6 + 1),
        ({"shortcut": None}, 3 * D * 6 + 3 * 6 * 6 + TOKENS * 6 + 1),
        ({"shortcut": "identity", "scale": True}, 3 * D * 6 + 3 * 6 * 6 + TOKENS * 6 + 1),
        ({"hidden_units": UNITS}, 4 * D * 6 + 4 * 6 * 6 + mlp(TOKENS * D, UNITS) + TOKENS * 6 + 5 + 1),
        ({"linear": True, "dropout": 0.3}, 4 * D * 6 + 4 * 6 * 6 + TOKENS * 6 + 1),
    ],
)
def test_auto_int_parameter_count(arguments, expected):
    schema = full_schema()
    model = AutoInt(schema, embedding_dim=D, num_layers=2, num_heads=2, key_dim=3, **arguments)
    assert dense_weights(model) == NUMERICS * D + expected
    assert ("linear" in [x.name for x in model.layers]) == arguments.get("linear", False)
    check_runs(model, schema)


@pytest.mark.parametrize("rank", [3, None])
def test_wukong_parameter_count(rank):
    schema = full_schema()
    model = Wukong(
        schema, embedding_dim=D, num_layers=2, fm_tokens=2, linear_tokens=3, rank=rank, fm_hidden_units=(13,), hidden_units=UNITS
    )

    def layer(n):
        products = n * (rank or n)
        shortcut = n * 5 if n != 5 else 0
        return (n * rank if rank else 0) + 2 * products + mlp(products, (13,), 2 * D) + 3 * n + shortcut + 2 * D

    assert dense_weights(model) == NUMERICS * D + layer(TOKENS) + layer(5) + mlp(5 * D, UNITS, 1)
    check_runs(model, schema)


@pytest.mark.parametrize("factory", [AutoInt, Wukong])
def test_a_model_needs_a_layer(factory):
    with pytest.raises(ValueError, match="num_layers"):
        factory(fields_schema(), num_layers=0)


@pytest.mark.parametrize("factory", [FM, DeepFM, XDeepFM, AutoInt, Wukong])
def test_numerics_may_be_one_token(factory):
    schema = full_schema()
    model = factory(schema, embedding_dim=D, numeric="dense_projection")
    assert model.get_layer("numeric_tokens").output.shape == (None, 1, D)
    with pytest.raises(ValueError, match="dense_projection"):
        factory(schema, numeric="raw")


# The totals of a public benchmark (BARS, AmazonElectronics_x1) at D = 64: item and category, and the history of each.
ITEMS, CATEGORIES = 63_003, 803
TABLES = (ITEMS + CATEGORIES) * 64
PUBLIC = {"embedding_dim": 64, "hidden_units": (1024, 512, 256), "batch_norm": True}
OWN = {"history_weights": "own"}  # its linear part has tables of its own for the histories


def electronics():
    return Schema(
        features=[
            Categorical("item", ITEMS),
            Categorical("category", CATEGORIES),
            Sequence("items", max_length=3, table="item", target="item", group="history"),
            Sequence("categories", max_length=3, table="category", target="category", group="history"),
        ],
        labels=["click"],
    )


@pytest.mark.parametrize(
    "factory, arguments, total",
    [
        (DNN, PUBLIC, 5_006_721),
        (DCNv2, {**PUBLIC, "batch_norm": False, "parameterization": "vector", "num_cross_layers": 6}, 5_006_465),
        (DCNv2, {**PUBLIC, "num_cross_layers": 2}, 5_138_561),
        (FM, {"embedding_dim": 64, **OWN}, 4_211_197),
        (DeepFM, {**PUBLIC, **OWN}, 5_134_334),
        (XDeepFM, {**PUBLIC, **OWN, "cin_units": (256, 256, 256), "cin_bias": True}, 5_664_254),
        (
            AutoInt,
            {**PUBLIC, **OWN, "num_layers": 2, "num_heads": 8, "key_dim": 64, "shortcut": None, "linear": True},
            6_021_118,
        ),
    ],
)
def test_public_parameter_totals(factory, arguments, total):
    model = factory(electronics(), **arguments)
    assert sum(int(np.prod(w.shape)) for w in model.get_layer("embedding").weights) == TABLES
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == total


@pytest.mark.parametrize("factory, crosses", [(DNN, False), (DCNv2, True)])
@pytest.mark.parametrize(
    "numeric, width, weights", [("raw", NUMERICS, 0), ("scale_embedding", NUMERICS * D, D), ("dense_projection", D, D)]
)
def test_numerics_of_flat_models(factory, crosses, numeric, width, weights):
    schema = full_schema()
    model = factory(schema, embedding_dim=D, hidden_units=UNITS, numeric=numeric, **({"num_cross_layers": 1} if crosses else {}))
    flat = FIELDS * D + width + SEQUENCES * D
    cross = flat * flat + flat + flat if crosses else 0  # and its part of the last layer
    assert dense_weights(model) == weights + cross + mlp(flat, UNITS, 1)
    spread(model)
    x, _ = random_rows(schema, ROWS)
    values, fields = inner(model, x, "flat", "flat_fields")
    price = x["price"].astype("float64")[:, None]
    expected = price if numeric == "raw" else price * model.get_layer("numeric_tokens").kernel.numpy()
    np.testing.assert_allclose(values[:, : FIELDS * D], fields, rtol=1e-6)
    np.testing.assert_allclose(values[:, FIELDS * D : FIELDS * D + width], expected, rtol=1e-5)
    check_runs(model, schema)


def test_raw_numerics_are_the_default_of_flat_models():
    schema = full_schema()
    for factory in (DNN, DCNv2):
        assert factory(schema, embedding_dim=D).count_params() == factory(schema, embedding_dim=D, numeric="raw").count_params()


def test_flat_models_name_an_unknown_numeric():
    with pytest.raises(ValueError, match="did you mean 'scale_embedding'"):
        DNN(fields_schema(), numeric="scale_embeding")
