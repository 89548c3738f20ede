"""MaskNet's layers against loops of their equations."""

import numpy as np
import pytest

from keras_ctr.layers.mask_block import BLOCK_NORM_EPSILON, FieldLayerNormalization, InstanceGuidedMask, MaskBlock
from tests.layer_contract import check_layer, weight_count
from tests.layers.interformer_oracles import layer_norm, mlp, randomize, under, weights

B, F, D, Z, U = 5, 7, 3, 13, 11
N = F * D
RATIO, HIDDEN = 1.3, 17  # round(1.3 Z)
RNG = np.random.default_rng(0)
TOKENS, V, X = (RNG.standard_normal(shape).astype("float32") for shape in ((B, F, D), (B, Z), (B, N)))


def built(layer, *shapes):
    layer.build(*shapes)
    return randomize(layer)


def relu(x):
    return np.maximum(x, 0)


def block(**arguments):
    return MaskBlock(U, reduction_ratio=RATIO, name="block", **arguments)


def block_loop(layer, v, x):
    values = weights(layer)
    out = []
    for hidden, embeddings in zip(v.astype("float64"), x.astype("float64"), strict=True):
        mask = mlp(under(values, "mask/mlp"), embeddings, relu)
        y = values["dense/kernel"].T @ (mask * hidden)
        out.append(relu(layer_norm(under(values, "norm"), y, BLOCK_NORM_EPSILON) if layer.layer_norm else y))
    return np.array(out)


def test_contracts():
    check_layer(FieldLayerNormalization(), TOKENS)
    check_layer(InstanceGuidedMask(Z, reduction_ratio=RATIO), X)
    for arguments in ({}, {"layer_norm": False, "activation": "tanh"}, {"dropout": 0.5}):
        check_layer(block(**arguments), V, X, low_precision_tolerance=0.1)


def test_field_normalisation():
    layer = built(FieldLayerNormalization(name="norm"), (None, F, D))
    gamma, beta = layer.gamma.numpy(), layer.beta.numpy()
    want = [[layer_norm({"gamma": gamma[f], "beta": beta[f]}, row[f]) for f in range(F)] for row in TOKENS.astype("float64")]
    np.testing.assert_allclose(layer(TOKENS), want, rtol=1e-5, atol=2e-6)


def test_mask_equation():
    layer = built(InstanceGuidedMask(Z, reduction_ratio=RATIO, name="mask"), (None, N))
    want = [mlp(under(weights(layer), "mlp"), x, relu) for x in X.astype("float64")]
    np.testing.assert_allclose(layer(X), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("with_norm", [True, False])
def test_block_equation(with_norm):
    layer = built(block(layer_norm=with_norm), (None, Z), (None, N))
    np.testing.assert_allclose(layer(V, X), block_loop(layer, V, X), rtol=1e-5, atol=1e-5)


def test_a_mask_of_ones_leaves_a_dense_layer():
    layer = built(block(layer_norm=False), (None, Z), (None, N))
    for weight in layer.mask.weights:
        weight.assign(np.zeros(weight.shape))
    np.testing.assert_array_equal(layer(V, X), np.zeros((B, U)))
    layer.mask.weights[-1].assign(np.ones(Z))
    np.testing.assert_allclose(layer(V, X), relu(V @ layer.dense.kernel.numpy()), rtol=1e-5, atol=1e-6)


def test_norm_forgets_the_scale_of_the_mask():
    """LN(W (c m * v)) = LN(W (m * v)): only the mask's direction counts."""
    layer = built(block(), (None, Z), (None, N))
    before = np.asarray(layer(V, X))
    for weight in layer.mask.weights[-2:]:
        weight.assign(7 * weight)
    np.testing.assert_allclose(layer(V, X), before, rtol=1e-4, atol=1e-5)


def test_parameter_counts():
    mask = N * HIDDEN + HIDDEN + HIDDEN * Z + Z
    assert weight_count(built(FieldLayerNormalization(), (None, F, D))) == 2 * F * D
    assert weight_count(built(InstanceGuidedMask(Z, reduction_ratio=RATIO), (None, N))) == mask
    assert weight_count(built(block(), (None, Z), (None, N))) == mask + Z * U + 2 * U
    assert weight_count(built(block(layer_norm=False), (None, Z), (None, N))) == mask + Z * U


def test_a_small_ratio_keeps_a_hidden_unit():
    layer = built(InstanceGuidedMask(Z, reduction_ratio=0.01), (None, N))
    assert weight_count(layer) == N + 1 + Z + Z


def test_small_embeddings_are_normalised_not_swamped():
    """Embeddings as tables start them, N(0, 0.01^2), with and without a normalisation before the block."""
    tokens = (0.01 * np.random.default_rng(0).standard_normal((31, F, 16))).astype("float32")
    norm = FieldLayerNormalization()
    norm.build((None, F, 16))
    normal = np.asarray(norm(tokens))
    assert normal.std(axis=-1).min() > 0.97
    flat = tokens.reshape(31, -1)
    for v in (normal.reshape(31, -1), flat):
        layer = MaskBlock(37, activation="linear")
        layer.build((None, F * 16), (None, F * 16))
        assert np.asarray(layer(v, flat)).std(axis=-1).min() > 0.9


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MaskBlock(0), "units"),
        (lambda: MaskBlock(U, reduction_ratio=0), "reduction_ratio"),
        (lambda: MaskBlock(U, dropout=1.0), "dropout"),
        (lambda: InstanceGuidedMask(0), "units"),
        (lambda: InstanceGuidedMask(Z, reduction_ratio="2"), "reduction_ratio"),
        (lambda: FieldLayerNormalization(epsilon=0), "epsilon"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
