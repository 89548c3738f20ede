"""FactorizationMachine against the sum over pairs."""

import numpy as np
import pytest

from keras_ctr.layers.dot_interaction import DotInteraction
from keras_ctr.layers.factorization_machine import FactorizationMachine
from tests.layer_contract import check_layer

B, F, D = 5, 7, 3


def inputs():
    return np.random.default_rng(2).standard_normal((B, F, D))


@pytest.mark.parametrize("reduce", [True, False])
def test_contract(reduce):
    check_layer(FactorizationMachine(reduce=reduce), (B, F, D), has_weights=False)


def test_sum_over_pairs():
    x = inputs()
    pairs = np.zeros((B, D))
    for i in range(F):
        for j in range(i):
            pairs += x[:, i] * x[:, j]
    x = x.astype("float32")
    np.testing.assert_allclose(FactorizationMachine(reduce=False)(x), pairs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(FactorizationMachine()(x), pairs.sum(axis=1, keepdims=True), rtol=1e-5, atol=1e-5)


def test_equals_the_dot_products_of_all_pairs():
    x = inputs().astype("float32")
    dots = np.asarray(DotInteraction()(x))  # (B, F(F-1)/2)
    np.testing.assert_allclose(FactorizationMachine()(x)[:, 0], dots.sum(axis=1), rtol=1e-5, atol=1e-5)


def test_hand_computed():
    x = np.array([[[1.0, 2.0], [3.0, 4.0], [5.0, -1.0]]], "float32")  # dots: 11, 3, 11
    np.testing.assert_allclose(FactorizationMachine(reduce=False)(x), [[1 * 3 + 1 * 5 + 3 * 5, 2 * 4 - 2 * 1 - 4 * 1]])
    np.testing.assert_allclose(FactorizationMachine()(x), [[25.0]])


def test_one_token_has_no_pair():
    np.testing.assert_allclose(FactorizationMachine()(inputs()[:, :1].astype("float32")), np.zeros((B, 1)), atol=1e-6)


def test_half_precision_does_not_overflow():
    x = np.full((1, 2, 1), 200.0, "float16")  # the squared sum, 160000, is above float16's largest number; the dot product is not
    assert float(FactorizationMachine(dtype="float16")(x)[0, 0]) == 40000.0


def test_bad_input():
    with pytest.raises(ValueError, match=r"tokens \(B, F, D\)"):
        FactorizationMachine().build((None, F * D))
