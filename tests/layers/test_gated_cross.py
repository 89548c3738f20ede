"""GatedCrossNetwork against a loop written from the GDCN equation, and against CrossNetwork."""

import keras
import numpy as np
import pytest

from keras_ctr.layers.cross import CrossNetwork
from keras_ctr.layers.gated_cross import GatedCrossNetwork
from tests.layer_contract import check_layer, weight_count

B, N, L = 5, 7, 3


def built(layer, scale=0.4):
    layer.build((None, N))
    rng = np.random.default_rng(3)
    for weight in layer.weights:
        weight.assign(scale * rng.standard_normal(weight.shape))
    return layer


def inputs():
    return np.random.default_rng(4).standard_normal((B, N))


def loop(layer, x0):
    """The equation, one element at a time."""
    w = {v.name: v.numpy().astype("float64") for v in layer.weights}
    rows = []
    for row in x0:
        x = row.copy()
        for depth in range(layer.num_layers):
            new = np.empty(N)
            for i in range(N):
                crossed = sum(w[f"kernel_{depth}"][j, i] * x[j] for j in range(N)) + w[f"bias_{depth}"][i]
                score = sum(w[f"gate_kernel_{depth}"][j, i] * x[j] for j in range(N))
                new[i] = row[i] * crossed / (1 + np.exp(-score)) + x[i]
            x = new
        rows.append(x)
    return np.array(rows)


def test_contract():
    check_layer(GatedCrossNetwork(2, kernel_regularizer=keras.regularizers.L2(0.1)), (B, N))


def test_equation():
    layer, x = built(GatedCrossNetwork(L)), inputs()
    np.testing.assert_allclose(layer(x.astype("float32")), loop(layer, x), rtol=1e-5, atol=1e-6)


def test_parameter_count():
    assert weight_count(built(GatedCrossNetwork(L))) == L * (2 * N * N + N)


def test_zero_gate_kernels_pass_half_of_a_cross():
    """sigmoid(0) = 1/2, which goes into the W and b of an ungated cross network."""
    gated, x = built(GatedCrossNetwork(L)), inputs().astype("float32")
    plain = built(CrossNetwork(L))
    for depth in range(L):
        gated.gate_kernels[depth].assign(np.zeros((N, N)))
        plain.cross_weights[depth]["kernel"].assign(gated.kernels[depth].numpy() / 2)
        plain.cross_weights[depth]["bias"].assign(gated.biases[depth].numpy() / 2)
    np.testing.assert_allclose(gated(x), plain(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sign, opened", [(1.0, True), (-1.0, False)])
def test_saturated_gates_are_a_cross_network_or_nothing(sign, opened):
    gated, x = built(GatedCrossNetwork(1)), np.abs(inputs()).astype("float32") + 0.1
    gated.gate_kernels[0].assign(sign * 200.0 * np.ones((N, N)))
    plain = built(CrossNetwork(1))
    plain.cross_weights[0]["kernel"].assign(gated.kernels[0])
    plain.cross_weights[0]["bias"].assign(gated.biases[0])
    np.testing.assert_allclose(gated(x), plain(x) if opened else x, rtol=1e-6, atol=1e-6)


def test_no_layer_returns_the_input():
    x = inputs().astype("float32")
    np.testing.assert_array_equal(GatedCrossNetwork(0)(x), x)


def test_weights_of_equal_shape_start_apart():
    layer = GatedCrossNetwork(2, kernel_initializer=keras.initializers.GlorotUniform(seed=1))
    layer.build((None, N))
    kernels = [k.numpy() for k in (*layer.kernels, *layer.gate_kernels)]
    assert len({k.tobytes() for k in kernels}) == 4
    assert not np.any(layer.biases[0].numpy())


def test_errors():
    with pytest.raises(ValueError, match="num_layers"):
        GatedCrossNetwork(-1)
    with pytest.raises(ValueError, match="flatten the fields"):
        GatedCrossNetwork().build((None, 3, N))
