"""The logit of a product of probabilities against the product in float64 and, where that rounds, in exact arithmetic."""

from decimal import Decimal, localcontext

import keras
import numpy as np
import pytest

from keras_ctr.layers.entire_space import EntireSpaceLogits
from tests.gradients import gradients
from tests.layer_contract import check_layer

B = 7


def numbers(tensor):
    return keras.ops.convert_to_numpy(tensor)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_against_the_product_of_probabilities():
    z = 2 * np.random.default_rng(0).standard_normal((B, 5))
    out = numbers(EntireSpaceLogits(1, (0, 3))(z.astype("float32"))).astype("float64")
    for column in (0, 3):
        np.testing.assert_allclose(sigmoid(out[:, column]), sigmoid(z[:, 1]) * sigmoid(z[:, column]), rtol=2e-6)
    np.testing.assert_array_equal(out[:, [1, 2, 4]], z.astype("float32")[:, [1, 2, 4]])


def exact(a, b):
    """log(p / (1 - p)) of p = sigmoid(a) sigmoid(b), with 400 digits."""
    with localcontext() as context:
        context.prec = 400
        p = 1 / ((1 + (-Decimal(a)).exp()) * (1 + (-Decimal(b)).exp()))
        return float((p / (1 - p)).ln())


EXTREMES = (-300.0, -90.0, -17.0, -1.5, 0.0, 0.25, 17.0, 90.0, 300.0)


def test_extreme_logits():
    """Where the product in float32 is 0 or 1, and so are the probabilities themselves."""
    z = np.array([[a, b] for a in EXTREMES for b in EXTREMES], "float32")
    out = numbers(EntireSpaceLogits(0, (1,))(z))[:, 1]
    np.testing.assert_allclose(out, [exact(*map(float, pair)) for pair in z], rtol=1e-6, atol=2e-7)


def test_gradients_are_finite_and_those_of_the_product():
    """d logit / da = (1 - pCTR) / (1 - pCTR pCVR), which is exp(-a) (1 + exp(-b)) / (exp(-a) + exp(-b) + exp(-a - b))."""
    z = keras.Variable(np.array([[a, b] for a in EXTREMES for b in EXTREMES], "float32"))
    layer = EntireSpaceLogits(0, (1,))
    layer.build(z.shape)
    (found,) = gradients(lambda: keras.ops.sum(layer(keras.ops.convert_to_tensor(z))[:, 1]), [z])
    for (a, b), (da, db) in zip(numbers(z).astype("float64"), found, strict=True):
        top = max(-a, -b, -a - b)
        parts = np.exp(np.array([-a, -b, -a - b]) - top)
        expected = [(parts[0] + parts[2]) / parts.sum(), (parts[1] + parts[2]) / parts.sum()]
        # Some backends take the parts as exp(z - logit), with the rounding of a logit of 300.
        np.testing.assert_allclose([da, db], expected, rtol=5e-5, atol=1e-37)


def test_a_certain_conversion_has_the_odds_of_the_click():
    a = np.linspace(-8, 8, B, dtype="float32")
    out = numbers(EntireSpaceLogits(0, (1,))(np.stack([a, np.full(B, 60, "float32")], axis=1)))[:, 1]
    np.testing.assert_allclose(out, a, rtol=1e-6)


@pytest.mark.parametrize("conversions", [(2,), (0, 2), ()])
def test_contract(conversions):
    check_layer(EntireSpaceLogits(1, conversions), (B, 3), has_weights=False, output_dtype="float32")


@pytest.mark.parametrize(
    "click, conversions, message",
    [(-1, (1,), "click"), (0, (0,), "twice or is the click"), (0, (1, 1), "twice"), (0, (1.0,), "conversions"), (0, (3,), "no logit 3")],
)
def test_bad_arguments(click, conversions, message):
    with pytest.raises(ValueError, match=message):
        EntireSpaceLogits(click, conversions).build((None, 3))
