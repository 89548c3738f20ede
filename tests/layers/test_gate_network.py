"""The two dense layers behind every dynamic gate."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ctr.layers.gate_network import GateNetwork
from tests.gradients import gradients
from tests.layer_contract import check_layer, weight_count
from tests.layers.interaction_oracles import gate_network, random_input, randomise

B, F, D, M = 3, 7, 5, 11


def test_contract():
    check_layer(GateNetwork(M, reduction_ratio=2), (B, F, D))
    check_layer(GateNetwork(M, activation="tanh"), (B, F * D))
    check_layer(GateNetwork(M, normalize=True), (B, F, D))


@pytest.mark.parametrize("normalize", [False, True])
def test_equation_and_parameter_count(normalize):
    gate = GateNetwork(M, reduction_ratio=4, normalize=normalize)
    gate.build((None, F, D))
    randomise(gate)
    x = random_input(D)
    np.testing.assert_allclose(gate(x.astype("float32")), gate_network(gate, x), rtol=1e-4, atol=1e-5)
    hidden = F * D // 4
    assert weight_count(gate) == F * D * hidden + hidden + hidden * M + M


def test_a_large_ratio_leaves_one_hidden_unit():
    gate = GateNetwork(M, reduction_ratio=1000)
    gate.build((None, F, D))
    assert gate.hidden.units == 1


def test_normalized_gates_tell_rows_apart_whatever_the_scale_of_the_embeddings():
    """At the size of embeddings after an epoch the plain gate says nearly the same for every row."""
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(64, F, D)).astype("float32")
    plain, normed = GateNetwork(M), GateNetwork(M, normalize=True)

    def outputs(gate, inputs):
        return ops.convert_to_numpy(gate(inputs))

    large, small = (outputs(plain, x * scale).std(axis=0).mean() for scale in (1.0, 0.03))
    assert small < 0.05 * large
    np.testing.assert_allclose(outputs(normed, x * 0.03 + 2.0), outputs(normed, x), rtol=1e-3, atol=1e-4)
    assert outputs(normed, x * 0.03).std(axis=0).mean() > 0.5 * large
    assert np.all(np.isfinite(outputs(normed, np.zeros((1, F, D), "float32"))))


@pytest.mark.parametrize("stopped", [True, False])
def test_input_gets_no_gradient(stopped):
    gate = GateNetwork(M, stop_gradient=stopped)
    gate.build((None, F, D))
    x = keras.Variable(random_input(D), dtype="float32")
    gradient, to_kernel = gradients(lambda: ops.sum(gate(ops.convert_to_tensor(x))), [x, gate.out.kernel])
    assert np.any(gradient != 0) != stopped and np.any(to_kernel != 0)


def test_starts_near_zero_but_not_alike():
    keras.utils.set_random_seed(0)
    y = np.asarray(GateNetwork(M)(random_input(D).astype("float32")))
    assert np.abs(y).max() < 0.3
    assert len(np.unique(y[0])) == M


@pytest.mark.parametrize("arguments", [{"units": 0}, {"units": 3, "reduction_ratio": 0}])
def test_errors(arguments):
    with pytest.raises(ValueError, match="must be"):
        GateNetwork(**arguments)
