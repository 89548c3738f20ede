"""BilinearInteraction against a loop over pairs."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ctr.layers.bilinear import KINDS, BilinearInteraction
from keras_ctr.layers.product import KernelProduct
from tests.layer_contract import check_layer, weight_count

B, F, D = 5, 7, 3
PAIRS = [(i, j) for i in range(F) for j in range(i + 1, F)]
P = len(PAIRS)
X = np.random.default_rng(8).standard_normal((B, F, D))


def built(kind):
    layer = BilinearInteraction(kind)
    layer.build((None, F, D))
    layer.kernel.assign(np.random.default_rng(9).standard_normal(layer.kernel.shape))
    return layer


def close(got, want, tolerance=1e-6):
    got = ops.convert_to_numpy(got)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


@pytest.mark.parametrize("kind", KINDS)
def test_contract(kind):
    check_layer(BilinearInteraction(kind), (B, F, D))


@pytest.mark.parametrize("kind", KINDS)
def test_equation(kind):
    layer = built(kind)
    kernel = ops.convert_to_numpy(layer.kernel).astype("float64")
    want = np.zeros((B, P, D))
    for b in range(B):
        for p, (i, j) in enumerate(PAIRS):
            w = {"all": kernel, "each": kernel[i] if i < len(kernel) else None, "interaction": kernel[p] if p < len(kernel) else None}[kind]
            want[b, p] = (X[b, i] @ w) * X[b, j]
    close(layer(X.astype("float32")), want)


def test_equal_matrices_make_the_kinds_equal():
    x = X.astype("float32")
    layers = {kind: built(kind) for kind in KINDS}
    matrix = ops.convert_to_numpy(layers["all"].kernel)
    want = ops.convert_to_numpy(layers["all"](x)).astype("float64")
    for kind, count in (("each", F - 1), ("interaction", P)):
        layers[kind].kernel.assign(np.tile(matrix, (count, 1, 1)))
        close(layers[kind](x), want, 2e-6)


def test_identity_gives_elementwise_products():
    layer = built("all")
    layer.kernel.assign(np.eye(D))
    x = X.astype("float32")
    np.testing.assert_allclose(layer(x), np.stack([x[:, i] * x[:, j] for i, j in PAIRS], axis=1), rtol=1e-6)


def test_summed_over_the_width_it_is_the_kernel_product():
    layer, products, x = built("interaction"), KernelProduct("matrix"), X.astype("float32")
    products.build((None, F, D))
    products.kernel.assign(layer.kernel)
    close(ops.sum(layer(x), axis=-1), ops.convert_to_numpy(products(x)).astype("float64"), 2e-6)


@pytest.mark.parametrize("kind, count", [("all", D * D), ("each", (F - 1) * D * D), ("interaction", P * D * D)])
def test_parameter_count(kind, count):
    assert weight_count(built(kind)) == count


@pytest.mark.parametrize("kind", KINDS)
def test_starts_at_the_scale_of_one_matrix(kind):
    layer = BilinearInteraction(kind, kernel_initializer=keras.initializers.GlorotUniform(seed=1))
    layer.build((None, F, 31))
    kernel, limit = np.abs(ops.convert_to_numpy(layer.kernel)), np.sqrt(6 / 62)
    assert 0.98 * limit < kernel.max() <= limit


@pytest.mark.parametrize(
    "shape, kind, message",
    [((None, F, D), "eech", "did you mean 'each'"), ((None, 1, D), "all", "single token"), ((None, F * D), "all", r"tokens \(B, F, D\)")],
)
def test_errors(shape, kind, message):
    with pytest.raises(ValueError, match=message):
        BilinearInteraction(kind).build(shape)
