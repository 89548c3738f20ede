"""Calibration as layers: the equations, their ends, and what a Keras layer owes."""

import math

import numpy as np
import pytest
from keras.ops import convert_to_numpy as numpy

from keras_ctr.layers import PiecewiseLinear, PlattScaling
from keras_ctr.layers.calibration import EPSILON
from tests.layer_contract import check_layer

P = np.array([[0.0], [1e-9], [3e-4], [0.02], [0.31], [0.5], [0.875], [0.9999], [1.0 - 2.0**-24], [1.0]], "float32")
KNOTS, VALUES = [0.01, 0.02, 0.5, 0.75], [0.05, 0.05, 0.3, 0.9]


def platt(p, slope, intercept):
    p = min(max(float(p), EPSILON), 1.0 - EPSILON)
    return 1.0 / (1.0 + math.exp(-(slope * math.log(p / (1.0 - p)) + intercept)))


def line(p, knots, values):
    p = float(p)
    if p <= knots[0]:
        return values[0]
    for (a, b), (c, d) in zip(zip(knots, knots[1:], strict=False), zip(values, values[1:], strict=False), strict=True):
        if a <= p <= b:
            return c + (d - c) * (p - a) / (b - a)
    return values[-1]


@pytest.mark.parametrize("layer", [PlattScaling(0.7, -0.3), PiecewiseLinear(KNOTS, VALUES)], ids=lambda layer: type(layer).__name__)
def test_contract(layer):
    config = layer.get_config()
    check_layer(type(layer).from_config(config), P[2:7], has_weights=False, output_dtype="float32")


@pytest.mark.parametrize("slope, intercept", [(0.6, 1.3), (1.0, 0.0), (2.5, -4.0)])
def test_platt_scaling(slope, intercept):
    found = numpy(PlattScaling(slope, intercept)(P))
    np.testing.assert_allclose(found[:, 0], [platt(p, slope, intercept) for p in P[:, 0]], rtol=2e-5, atol=1e-7)
    assert np.all(np.diff(found[1:-1, 0]) >= 0)


def test_slope_one_and_intercept_zero_change_nothing():
    np.testing.assert_allclose(numpy(PlattScaling(1.0, 0.0)(P[2:8])), P[2:8], rtol=1e-6)


def test_piecewise_linear():
    found = numpy(PiecewiseLinear(KNOTS, VALUES)(P))
    np.testing.assert_allclose(found[:, 0], [line(p, KNOTS, VALUES) for p in P[:, 0]], atol=1e-7)


def test_knots_that_are_neighbours_in_float32():
    low = np.float32(0.3)
    high = np.nextafter(low, np.float32(1.0))
    layer = PiecewiseLinear([float(low), float(high)], [0.2, 0.7])
    np.testing.assert_allclose(numpy(layer(np.array([[low], [high]]))), [[0.2], [0.7]], atol=1e-7)


def test_one_knot_is_a_constant():
    np.testing.assert_allclose(numpy(PiecewiseLinear([0.5], [0.25])(P)), np.full_like(P, 0.25))


def test_errors():
    for slope, intercept in ((0.0, 0.0), (-1.0, 0.0), (float("nan"), 0.0), (1.0, float("inf"))):
        with pytest.raises(ValueError, match="slope must be finite and above 0"):
            PlattScaling(slope, intercept)
    for knots, values in (([], []), ([0.1], [0.1, 0.2]), ([0.2, 0.1], [0.1, 0.2]), ([0.1, 0.2], [0.2, 0.1]), ([0.1, 1.2], [0.1, 0.2])):
        with pytest.raises(ValueError, match="knots must increase and values never decrease"):
            PiecewiseLinear(knots, values)
