"""Subspace crossing and the polynomial interaction network against loops written from their equations."""

import keras
import numpy as np
import pytest

from keras_ctr.layers.polynomial import FeatureMapLogits, PolynomialInteraction, SubspaceCrossing
from tests.layer_contract import check_layer, weight_count
from tests.layers.interaction_oracles import B, F, cross, pin, random_input, randomise

D = 10


def test_contract():
    check_layer(PolynomialInteraction(2, num_subspaces=5), (B, F, D))
    check_layer(FeatureMapLogits(2), (B, F, D))
    check_layer(SubspaceCrossing(5), (B, F, D), has_weights=False)
    check_layer(SubspaceCrossing(5, merge=True), (B, 5 * F, D // 5), has_weights=False)


@pytest.mark.parametrize("h", [1, 2, 5, 10])
def test_crossing_puts_chunk_s_of_field_f_in_row_sF_plus_f(h):
    x = random_input(D)
    split = np.asarray(SubspaceCrossing(h)(x.astype("float32")))
    for s in range(h):
        for f in range(F):
            chunk = x[:, f, s * D // h : (s + 1) * D // h]
            np.testing.assert_array_equal(split[:, s * F + f], chunk.astype("float32"))
    np.testing.assert_array_equal(SubspaceCrossing(h, merge=True)(split), x.astype("float32"))


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("h", [1, 2, 10])
def test_equation(h, residual):
    layer = PolynomialInteraction(3, num_subspaces=h, residual=residual)
    layer.build((None, F, D))
    randomise(layer)
    x = random_input(D)
    matrices = [kernel.numpy().T.astype("float64") for kernel in layer.kernels]
    np.testing.assert_allclose(layer(x.astype("float32")), pin(x, matrices, h, residual), rtol=1e-4, atol=1e-4)


def test_no_layers_is_identity():
    x = random_input(D).astype("float32")
    np.testing.assert_array_equal(PolynomialInteraction(0, num_subspaces=2)(x), x)


def test_one_subspace_is_equivariant_to_the_embedding_axis_and_two_are_not():
    x = random_input(D).astype("float32")
    order = np.random.default_rng(1).permutation(D)
    for h, same in ((1, True), (2, False)):
        layer = PolynomialInteraction(2, num_subspaces=h)
        layer.build((None, F, D))
        assert np.allclose(layer(x[:, :, order]), np.asarray(layer(x))[:, :, order], atol=1e-5) == same


def test_degree():
    """Scaling the input by c makes X_L a polynomial in c of degree L + 1 without constant term."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the fit needs float64, and Keras multiplies matrices in float32 on the other backends")
    layer = PolynomialInteraction(3, num_subspaces=2, dtype="float64")
    layer.build((None, F, D))
    x = random_input(D)
    scales = np.arange(7.0)
    values = np.stack([np.asarray(layer(c * x)).ravel() for c in scales])
    coefficients = np.polynomial.polynomial.polyfit(scales, values, 6)
    scale = np.abs(coefficients).max()
    assert np.abs(coefficients[[0, 5, 6]]).max() < 1e-9 * scale
    assert np.abs(coefficients[4]).max() > 1e-6 * scale


def test_logits_equation():
    layer, x = FeatureMapLogits(2), random_input(D)
    layer.build((None, F, D))
    randomise(layer)
    w, b = layer.kernel.numpy().astype("float64"), layer.bias.numpy().astype("float64")
    expected = np.zeros((B, 2))
    for d in range(D):
        expected += x[:, :, d] @ w + b
    np.testing.assert_allclose(layer(x.astype("float32")), expected, rtol=1e-4, atol=1e-4)
    assert weight_count(layer) == 2 * (F + 1)


@pytest.mark.parametrize("h", [1, 5])
def test_parameter_count(h):
    layer = PolynomialInteraction(3, num_subspaces=h)
    layer.build((None, F, D))
    assert weight_count(layer) == 3 * (h * F) ** 2


def test_layers_start_different_under_a_seed():
    layer = PolynomialInteraction(2, kernel_initializer=keras.initializers.GlorotUniform(seed=5))
    layer.build((None, F, D))
    assert not np.allclose(layer.kernels[0], layer.kernels[1])


def test_cross_of_the_oracle_is_the_definition():
    x = random_input(D)
    assert cross(x, 5).shape == (B, 5 * F, D // 5)
    assert cross(x, 5)[1, 3 * F + 2, 1] == x[1, 2, 3 * (D // 5) + 1]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: PolynomialInteraction(-1), "num_layers"),
        (lambda: PolynomialInteraction(1, num_subspaces=0), "num_subspaces"),
        (lambda: PolynomialInteraction(1, num_subspaces=3).build((None, F, D)), "does not divide"),
        (lambda: PolynomialInteraction(1).build((None, F)), r"\(B, F, D\)"),
        (lambda: FeatureMapLogits(0), "units"),
        (lambda: FeatureMapLogits().build((None, F)), r"\(B, F, D\)"),
        (lambda: SubspaceCrossing(0), "num_subspaces"),
        (lambda: SubspaceCrossing(3).build((None, F, D)), "does not divide"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
