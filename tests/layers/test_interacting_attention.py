"""InteractingLayer against loops over the AutoInt equations."""

import keras
import numpy as np
import pytest

from keras_ctr.layers.interacting_attention import InteractingLayer
from tests.layer_contract import check_layer, weight_count

B, F, D, H, E = 5, 7, 6, 2, 3
SETUPS = [{}, {"shortcut": "identity"}, {"shortcut": None, "scale": True}, {"activation": "tanh", "scale": True}]


def built(**arguments):
    layer = InteractingLayer(H, key_dim=E, **arguments)
    layer.build((None, F, D))
    rng = np.random.default_rng(3)
    for weight in layer.trainable_weights:
        weight.assign(0.5 * rng.standard_normal(weight.shape))
    return layer


def inputs():
    return np.random.default_rng(4).standard_normal((B, F, D))


def loop(layer, x):
    """Eq. 5 to 8, one row, head and field at a time."""
    kernels = {w.path.split("/")[-2]: w.numpy().astype("float64") for w in layer.weights}
    f = {"relu": lambda z: np.maximum(z, 0), "tanh": np.tanh}[layer.activation.__name__]
    out = np.zeros((B, F, H * E))
    for b in range(B):
        for i in range(F):
            for h in range(H):
                head = slice(h * E, (h + 1) * E)
                query = x[b, i] @ kernels["query"][:, head]
                scores = np.array([query @ (x[b, j] @ kernels["key"][:, head]) for j in range(F)])
                scores = scores / np.sqrt(E) if layer.scale else scores
                weights = np.exp(scores) / np.exp(scores).sum()
                out[b, i, head] = sum(weights[j] * (x[b, j] @ kernels["value"][:, head]) for j in range(F))
            if layer.shortcut == "projection":
                out[b, i] += x[b, i] @ kernels["shortcut"]
            elif layer.shortcut == "identity":
                out[b, i] += x[b, i]
    return f(out)


@pytest.mark.parametrize("arguments", [*SETUPS, {"dropout": 0.5}])
def test_contract(arguments):
    check_layer(InteractingLayer(H, key_dim=E, **arguments), (B, F, D))


@pytest.mark.parametrize("arguments", SETUPS)
def test_equation(arguments):
    layer, x = built(**arguments), inputs()
    np.testing.assert_allclose(layer(x.astype("float32")), loop(layer, x), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("shortcut, kernels", [("projection", 4), ("identity", 3), (None, 3)])
def test_parameter_count(shortcut, kernels):
    assert weight_count(built(shortcut=shortcut)) == kernels * D * H * E


def test_permuting_the_fields_permutes_the_output():
    layer, x = built(), inputs().astype("float32")
    order = np.random.default_rng(0).permutation(F)
    np.testing.assert_allclose(layer(x[:, order]), np.asarray(layer(x))[:, order], rtol=1e-4, atol=1e-5)


def test_zero_queries_average_the_values():
    layer, x = built(shortcut=None, activation="linear"), inputs()
    layer.query_dense.kernel.assign(np.zeros((D, H * E)))
    values = x @ layer.value_dense.kernel.numpy()
    expected = np.broadcast_to(values.mean(axis=1, keepdims=True), values.shape)
    np.testing.assert_allclose(layer(x.astype("float32")), expected, rtol=1e-4, atol=1e-5)


def test_attention_weights():
    layer, x = built(), inputs().astype("float32")
    out, attention = layer(x, return_attention=True)
    np.testing.assert_allclose(out, layer(x), rtol=1e-6)
    assert attention.shape == (B, H, F, F)
    np.testing.assert_allclose(np.asarray(attention).sum(axis=-1), np.ones((B, H, F)), rtol=1e-5)
    symbols = layer(keras.Input((F, D)), return_attention=True)
    assert [tuple(s.shape) for s in symbols] == [(None, F, H * E), (None, H, F, F)]


def test_dropout_acts_on_the_attention_in_training_only():
    layer, x = built(dropout=0.5, shortcut=None, activation="linear"), inputs().astype("float32")
    np.testing.assert_array_equal(layer(x), layer(x))
    np.testing.assert_allclose(layer(x), built(shortcut=None, activation="linear")(x), rtol=1e-5)
    assert np.abs(np.asarray(layer(x, training=True)) - np.asarray(layer(x, training=True))).max() > 0.1


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_heads": 0}, "num_heads"),
        ({"key_dim": 0}, "key_dim"),
        ({"shortcut": "linear"}, "shortcut"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        InteractingLayer(**arguments)


def test_identity_shortcut_needs_the_width():
    with pytest.raises(ValueError, match="shortcut='projection'"):
        InteractingLayer(H, key_dim=E, shortcut="identity").build((None, F, D + 1))
