"""GateNU against a loop written from the PEPNet equation; what its stop-gradient stops."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ctr.layers.gate_nu import GateNU
from tests.gradients import gradients
from tests.layer_contract import check_layer, weight_count

B, P, N, H, M = 5, 3, 7, 11, 2


def built(layer, with_inputs=True):
    layer.build((None, P), (None, N) if with_inputs else None)
    rng = np.random.default_rng(3)
    for weight in layer.weights:
        weight.assign(0.7 * rng.standard_normal(weight.shape))
    return layer


def arrays():
    rng = np.random.default_rng(4)
    return rng.standard_normal((B, P)), rng.standard_normal((B, N))


def test_contract():
    check_layer(GateNU(M, hidden_units=H), (B, P), (B, N))
    check_layer(GateNU(M, gamma=3.0), (B, P))


@pytest.mark.parametrize("with_inputs", [True, False])
@pytest.mark.parametrize("gamma", [2.0, 3.0])
def test_equation(with_inputs, gamma):
    layer = built(GateNU(M, hidden_units=H, gamma=gamma), with_inputs)
    prior, x = arrays()
    w1, b1, w2, b2 = (w.numpy().astype("float64") for w in layer.weights)
    expected = np.empty((B, M))
    for b in range(B):
        z = np.concatenate([prior[b], x[b]]) if with_inputs else prior[b]
        hidden = [max(0.0, sum(z[i] * w1[i, h] for i in range(len(z))) + b1[h]) for h in range(H)]
        for m in range(M):
            expected[b, m] = gamma / (1 + np.exp(-(sum(hidden[h] * w2[h, m] for h in range(H)) + b2[m])))
    args = [a.astype("float32") for a in ((prior, x) if with_inputs else (prior,))]
    np.testing.assert_allclose(layer(*args), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hidden, width", [(H, H), (None, M)])
def test_parameter_count(hidden, width):
    assert weight_count(built(GateNU(M, hidden_units=hidden))) == (P + N) * width + width + width * M + M
    assert weight_count(built(GateNU(M, hidden_units=hidden), with_inputs=False)) == P * width + width + width * M + M


def test_the_gated_input_gets_no_gradient_through_the_gate():
    """d (g * x) / dx is g alone, to the bit; the prior and all weights train."""
    layer = built(GateNU(N, hidden_units=H))
    prior, x = (keras.Variable(a) for a in arrays())

    def gate():
        return layer(ops.convert_to_tensor(prior), ops.convert_to_tensor(x))

    to_x, to_prior, *to_weights = gradients(lambda: ops.sum(gate()), [x, prior, *layer.trainable_weights])
    assert not np.any(to_x)
    assert np.all(np.any(to_prior != 0, axis=1)) and all(np.any(g != 0) for g in to_weights)
    (gated,) = gradients(lambda: ops.sum(gate() * ops.convert_to_tensor(x)), [x])
    np.testing.assert_array_equal(gated, gate())


def test_a_zero_last_layer_is_the_neutral_gate():
    layer = built(GateNU(M, hidden_units=H))
    for weight in layer.weights[2:]:
        weight.assign(np.zeros(weight.shape))
    np.testing.assert_array_equal(layer(*(a.astype("float32") for a in arrays())), np.ones((B, M)))


def test_small_embeddings_start_near_the_neutral_gate():
    layer = GateNU(M, hidden_units=H)
    prior, x = (0.01 * a.astype("float32") for a in arrays())
    assert np.abs(np.asarray(layer(prior, x)) - 1).max() < 0.1


@pytest.mark.parametrize("arguments, name", [({"units": 0}, "units"), ({"hidden_units": 0}, "hidden_units"), ({"gamma": 0.0}, "gamma")])
def test_errors(arguments, name):
    with pytest.raises(ValueError, match=name):
        GateNU(**{"units": M, **arguments})
