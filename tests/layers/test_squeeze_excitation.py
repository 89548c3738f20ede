"""SqueezeExcitation against its equations, one row at a time."""

import numpy as np
import pytest
from keras import ops

from keras_ctr.layers.squeeze_excitation import SqueezeExcitation
from tests.layer_contract import check_layer, weight_count

B, F, D, R = 5, 7, 3, 2  # 7 fields reduced by 3: 2
X = np.random.default_rng(1).standard_normal((B, F, D))


def built(**arguments):
    layer = SqueezeExcitation(**arguments)
    layer.build((None, F, D))
    rng = np.random.default_rng(2)
    for weight in layer.weights:
        weight.assign(rng.standard_normal(weight.shape))
    return layer


@pytest.mark.parametrize("gate_activation", ["relu", "sigmoid"])
def test_contract(gate_activation):
    check_layer(SqueezeExcitation(gate_activation=gate_activation), (B, F, D))


@pytest.mark.parametrize("gate_activation", ["relu", "sigmoid"])
def test_equation(gate_activation):
    layer = built(gate_activation=gate_activation)
    first, second = (ops.convert_to_numpy(w).astype("float64") for w in layer.weights)
    gate = {"relu": lambda v: np.maximum(v, 0), "sigmoid": lambda v: 1 / (1 + np.exp(-v))}[gate_activation]
    want, gates = np.zeros((B, F, D)), np.zeros((B, F))
    for b in range(B):
        means = [sum(X[b, f]) / D for f in range(F)]
        hidden = [max(0.0, sum(means[f] * first[f, r] for f in range(F))) for r in range(R)]
        for f in range(F):
            gates[b, f] = gate(sum(hidden[r] * second[r, f] for r in range(R)))
            want[b, f] = gates[b, f] * X[b, f]
    got = ops.convert_to_numpy(layer(X.astype("float32")))
    assert np.abs(want).max() > 0.1 and np.abs(got - want).max() <= 1e-6 * np.abs(want).max()
    np.testing.assert_allclose(layer.gates(X.astype("float32")), gates, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gate_activation, gate", [("relu", 0.0), ("sigmoid", 0.5)])
def test_neutral_gates(gate_activation, gate):
    layer = built(gate_activation=gate_activation)
    layer.kernels[1].assign(np.zeros((R, F)))
    np.testing.assert_allclose(layer(X.astype("float32")), gate * X, rtol=1e-6)


@pytest.mark.parametrize("ratio, reduced", [(1, 7), (2, 3), (3, 2), (7, 1), (8, 1)])
def test_parameter_count(ratio, reduced):
    assert weight_count(built(reduction_ratio=ratio)) == 2 * F * reduced


@pytest.mark.parametrize("ratio", [0, 2.5])
def test_bad_ratio(ratio):
    with pytest.raises(ValueError, match="reduction_ratio"):
        SqueezeExcitation(ratio)


def test_bad_input():
    with pytest.raises(ValueError, match=r"tokens \(B, F, D\)"):
        SqueezeExcitation().build((None, F * D))
