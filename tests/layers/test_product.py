"""The product layers of PNN against loops over pairs."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ctr.layers.dot_interaction import DotInteraction
from keras_ctr.layers.product import InnerProduct, KernelProduct, OuterProduct
from tests.layer_contract import check_layer, weight_count

B, F, D = 5, 7, 3
PAIRS = [(i, j) for i in range(F) for j in range(i + 1, F)]
P = len(PAIRS)
KINDS = ("matrix", "vector", "scalar")
X = np.random.default_rng(5).standard_normal((B, F, D))


def close(got, want, tolerance=1e-6):
    got = ops.convert_to_numpy(got)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


def built(kind, x=X):
    layer = KernelProduct(kind)
    layer.build((None, *x.shape[1:]))
    layer.kernel.assign(np.random.default_rng(6).standard_normal(layer.kernel.shape))
    return layer


@pytest.mark.parametrize("layer", [InnerProduct, OuterProduct])
def test_contract(layer):
    check_layer(layer(), (B, F, D), has_weights=False)


@pytest.mark.parametrize("kind", KINDS)
def test_contract_of_kernels(kind):
    check_layer(KernelProduct(kind), (B, F, D))


def test_inner_products():
    want = np.array([[row[i] @ row[j] for i, j in PAIRS] for row in X])
    close(InnerProduct()(X.astype("float32")), want)


def test_inner_products_are_the_dot_interaction_in_another_order():
    x = X.astype("float32")
    lower = [(j, i) for i in range(F) for j in range(i)]
    dots = dict(zip(lower, ops.convert_to_numpy(DotInteraction()(x)).T, strict=True))
    np.testing.assert_array_equal(InnerProduct()(x), np.stack([dots[pair] for pair in PAIRS], axis=1))


def test_outer_product_is_the_sum_over_all_ordered_pairs():
    want = np.zeros((B, D, D))
    for b in range(B):
        for i in range(F):
            for j in range(F):
                want[b] += np.outer(X[b, i], X[b, j])
    close(OuterProduct()(X.astype("float32")), want.reshape(B, D * D))


def test_trace_of_the_outer_product_holds_the_inner_ones():
    """tr (sum E)^T (sum E) = sum_f |E_f|^2 + 2 sum_{i<j} <E_i, E_j>."""
    x = X.astype("float32")
    outer = ops.convert_to_numpy(OuterProduct()(x)).reshape(B, D, D)
    inner = ops.convert_to_numpy(InnerProduct()(x))
    np.testing.assert_allclose(np.trace(outer, axis1=1, axis2=2), (X**2).sum(axis=(1, 2)) + 2 * inner.sum(axis=1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_kernel_products(kind):
    layer = built(kind)
    kernel = ops.convert_to_numpy(layer.kernel).astype("float64")
    want = np.zeros((B, P))
    for p, (i, j) in enumerate(PAIRS):
        matrix = {"matrix": lambda w: w, "vector": np.diag, "scalar": lambda w: w * np.eye(D)}[kind](kernel[p])
        for b in range(B):
            want[b, p] = sum(X[b, i, d] * matrix[d, e] * X[b, j, e] for d in range(D) for e in range(D))
    close(layer(X.astype("float32")), want)


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_start_as_inner_products(kind):
    x = X.astype("float32")
    close(KernelProduct(kind)(x), ops.convert_to_numpy(InnerProduct()(x)).astype("float64"), 2e-6)


def test_kernels_weigh_the_outer_product_of_a_pair():
    """Two tokens: <E_0 K, E_1> = sum_de K_de (E_0^T E_1)_de, whose symmetric part is what the outer product of the sum knows."""
    x = X[:, :2]
    layer = built("matrix", x)
    kernel = ops.convert_to_numpy(layer.kernel)[0].astype("float64")
    symmetric = (kernel + kernel.T) / 2
    layer.kernel.assign(symmetric[None])
    outer = ops.convert_to_numpy(OuterProduct()(x.astype("float32"))).reshape(B, D, D)
    squares = np.einsum("bfd,bfe->bde", x, x)  # of the tokens with themselves
    want = ((outer - squares) * symmetric).sum(axis=(1, 2))[:, None] / 2
    np.testing.assert_allclose(layer(x.astype("float32")), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_parameter_count(kind):
    assert weight_count(built(kind)) == {"matrix": P * D * D, "vector": P * D, "scalar": P}[kind]


def test_half_precision_does_not_lose_the_sum():
    x = np.full((1, 2048 + 1, 1), 1.0, "float16")  # float16 cannot count beyond 2048
    keras.config.set_dtype_policy("float16")
    assert float(OuterProduct()(x / 64)[0, 0]) == pytest.approx((2049 / 64) ** 2, rel=1e-3)


@pytest.mark.parametrize("layer", [InnerProduct, KernelProduct])
def test_a_single_token_has_no_pair(layer):
    with pytest.raises(ValueError, match="single token"):
        layer().build((None, 1, D))


@pytest.mark.parametrize("layer", [InnerProduct, KernelProduct, OuterProduct])
def test_bad_input(layer):
    with pytest.raises(ValueError, match=r"tokens \(B, F, D\)"):
        layer().build((None, F * D))


def test_unknown_kind():
    with pytest.raises(ValueError, match="did you mean 'vector'"):
        KernelProduct("vectors")
