"""HiddenUnitGate against a loop written from the equation."""

import numpy as np
import pytest

from keras_ctr.layers.lhuc import HiddenUnitGate
from tests.layer_contract import check_layer, weight_count

B, N, P, H = 5, 7, 3, 11


def built(hidden_units):
    layer = HiddenUnitGate(hidden_units)
    layer.build((None, N), (None, P))
    rng = np.random.default_rng(3)
    for weight in layer.weights:
        weight.assign(0.7 * rng.standard_normal(weight.shape))
    return layer


def arrays():
    rng = np.random.default_rng(4)
    return rng.standard_normal((B, N)), rng.standard_normal((B, P))


@pytest.mark.parametrize("hidden_units", [(), (H,)])
def test_equation(hidden_units):
    layer, (x, c) = built(hidden_units), arrays()
    w = [v.numpy().astype("float64") for v in layer.weights]
    expected = np.empty((B, N))
    for b in range(B):
        z = c[b]
        if hidden_units:
            z = np.maximum([sum(z[i] * w[0][i, h] for i in range(P)) + w[1][h] for h in range(H)], 0)
        r = [sum(z[i] * w[-2][i, n] for i in range(len(z))) + w[-1][n] for n in range(N)]
        expected[b] = [x[b, n] * 2 / (1 + np.exp(-r[n])) for n in range(N)]
    np.testing.assert_allclose(layer(x.astype("float32"), c.astype("float32")), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hidden_units", [(), (H,)])
def test_contract(hidden_units):
    check_layer(HiddenUnitGate(hidden_units, activation="tanh"), (B, N), (B, P))


@pytest.mark.parametrize("hidden_units, count", [((), P * N + N), ((H,), P * H + H + H * N + N)])
def test_parameter_count(hidden_units, count):
    assert weight_count(built(hidden_units)) == count


@pytest.mark.parametrize("hidden_units", [(), (H,)])
def test_a_zero_last_layer_passes_the_hidden_units_on(hidden_units):
    layer, (x, c) = built(hidden_units), (a.astype("float32") for a in arrays())
    for weight in layer.weights[-2:]:
        weight.assign(np.zeros(weight.shape))
    np.testing.assert_array_equal(layer(x, c), x)


def test_errors():
    with pytest.raises(ValueError, match="hidden_units"):
        HiddenUnitGate((0,))
