"""The blocks of Wukong against loops over their equations."""

import numpy as np
import pytest

from keras_ctr.layers.wukong import LAYER_NORM_EPSILON, FactorizationMachineBlock, LinearCompressionBlock, WukongLayer
from tests.layer_contract import check_layer, weight_count

B, N, D, K, M, L, HIDDEN = 5, 7, 3, 2, 4, 6, (11, 5)  # M + L != N: the shortcut is a map


def built(layer):
    layer.build((None, N, D))
    rng = np.random.default_rng(3)
    for weight in layer.weights:
        weight.assign(0.5 * rng.standard_normal(weight.shape))
    return layer


def inputs():
    return np.random.default_rng(4).standard_normal((B, N, D))


def values(layer):
    """Weights in float64 by the last two parts of their paths."""
    return {"/".join(w.path.split("/")[-2:]): w.numpy().astype("float64") for w in layer.weights}


def norm(x, gamma, beta):
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + LAYER_NORM_EPSILON) * gamma + beta


def linear_block(weight, x):
    out = np.zeros((len(x), weight.shape[1], D))
    for j in range(weight.shape[1]):
        for i in range(weight.shape[0]):
            out[:, j] += weight[i, j] * x[:, i]
    return out


def fm_block(layer, x):
    """One row at a time: dots of all tokens, projected, normalised, through the MLP."""
    w = values(layer)
    out = []
    for row in x:
        dots = np.array([[row[i] @ row[j] for j in range(N)] for i in range(N)])
        if layer.rank is not None:
            dots = dots @ w[f"{layer.name}/kernel"]  # X (X^T Y) = (X X^T) Y
        z = norm(dots.reshape(-1), w["norm/gamma"], w["norm/beta"])
        for index in range(len(HIDDEN)):
            z = np.maximum(z @ w[f"dense_{index}/kernel"] + w[f"dense_{index}/bias"], 0)
        out.append((z @ w["output/kernel"] + w["output/bias"]).reshape(M, D))
    return np.array(out)


def mlp(inputs, units):
    total = 0
    for width in units:
        total += inputs * width + width
        inputs = width
    return total


def fm_layer(rank=K):
    return FactorizationMachineBlock(M, rank=rank, hidden_units=HIDDEN, name="fm")


@pytest.mark.parametrize("rank", [K, None])
def test_fm_block(rank):
    layer, x = built(fm_layer(rank)), inputs()
    np.testing.assert_allclose(layer(x.astype("float32")), fm_block(layer, x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rank", [K, None])
def test_contract_of_the_fm_block(rank):
    check_layer(fm_layer(rank), (B, N, D))


def test_full_rank_identity_takes_all_dot_products():
    projected, full, x = built(fm_layer(N)), built(fm_layer(None)), inputs().astype("float32")
    for target, source in zip(projected.weights[1:], full.weights, strict=True):
        target.assign(source)
    projected.kernel.assign(np.eye(N))
    np.testing.assert_allclose(projected(x), full(x), rtol=1e-4, atol=1e-5)


def test_linear_block():
    check_layer(LinearCompressionBlock(L), (B, N, D))
    layer, x = built(LinearCompressionBlock(L, name="linear")), inputs()
    assert weight_count(layer) == N * L
    np.testing.assert_allclose(layer(x.astype("float32")), linear_block(layer.kernel.numpy(), x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("linear_tokens", [L, N - M])  # a mapped and an identity shortcut
def test_wukong_layer(linear_tokens):
    layer, x = built(WukongLayer(M, linear_tokens, rank=K, hidden_units=HIDDEN)), inputs()
    assert (layer.shortcut is None) == (linear_tokens == N - M)
    w = values(layer)
    mixed = np.concatenate([fm_block(layer.fm_block, x), linear_block(w["linear_block/kernel"], x)], axis=1)
    mixed = mixed + (x if layer.shortcut is None else linear_block(w["shortcut/kernel"], x))
    expected = norm(mixed, layer.norm.gamma.numpy(), layer.norm.beta.numpy())
    np.testing.assert_allclose(layer(x.astype("float32")), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("linear_tokens", [L, N - M])
def test_contract_of_the_layer(linear_tokens):
    check_layer(WukongLayer(M, linear_tokens, rank=K, hidden_units=HIDDEN), (B, N, D))


@pytest.mark.parametrize("rank, products, projection", [(K, N * K, N * K), (None, N * N, 0)])
def test_parameter_count(rank, products, projection):
    fm = projection + 2 * products + mlp(products, (*HIDDEN, M * D))
    assert weight_count(built(fm_layer(rank))) == fm
    layer = built(WukongLayer(M, L, rank=rank, hidden_units=HIDDEN))
    assert weight_count(layer) == fm + N * L + N * (M + L) + 2 * D
    same = built(WukongLayer(M, N - M, rank=rank, hidden_units=HIDDEN))
    assert weight_count(same) == fm + N * (N - M) + 2 * D


def test_small_embeddings_are_normalised_not_swamped():
    """Tokens as tables start them, N(0, 0.01^2): the dot products leave the inner normalisation with a variance near 1."""
    layer = FactorizationMachineBlock(M, rank=K, hidden_units=())
    layer.build((None, N, 16))
    x = (0.01 * np.random.default_rng(0).standard_normal((31, N, 16))).astype("float32")
    products = x @ (x.transpose(0, 2, 1) @ layer.kernel.numpy())
    spread = np.asarray(layer.norm(products.reshape(31, -1))).std(axis=1)
    assert spread.min() > 0.8


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"fm_tokens": 0}, "fm_tokens"),
        ({"linear_tokens": 0}, "linear_tokens"),
        ({"rank": 0}, "rank"),
        ({"hidden_units": (0,)}, "hidden_units"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        WukongLayer(**arguments)
