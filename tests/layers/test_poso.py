"""POSO's gate and MLP against loops written from the equations."""

import numpy as np
import pytest

from keras_ctr.layers.dice import Dice
from keras_ctr.layers.mlp import MLP
from keras_ctr.layers.poso import POSOMLP, PersonalizedGate
from tests.layer_contract import check_layer, weight_count

B, N, P, H, K = 5, 7, 3, 11, 3
UNITS = (13, 2)


def built(layer, *shapes):
    layer.build(*((None, n) for n in shapes))
    rng = np.random.default_rng(3)
    for weight in layer.weights:
        weight.assign(0.6 * rng.standard_normal(weight.shape))
    return layer


def arrays():
    rng = np.random.default_rng(4)
    return rng.standard_normal((B, N)), rng.standard_normal((B, P))


def single(*values):
    return [v.astype("float32") for v in values]


def dense(layer, x):
    """A row through the dense layers of an `MLP`, ReLU between them, from its weights."""
    w = [v.numpy().astype("float64") for v in layer.weights]
    for index in range(0, len(w), 2):
        x = np.array([sum(x[i] * w[index][i, j] for i in range(len(x))) + w[index + 1][j] for j in range(len(w[index + 1]))])
        x = np.maximum(x, 0) if index // 2 < len(layer.hidden_units) else x
    return x


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def mlp_count(inputs, *units):
    total = 0
    for width in units:
        total += inputs * width + width
        inputs = width
    return total


@pytest.mark.parametrize("hidden_units", [(), (H,)])
def test_gate(hidden_units):
    layer, (_, p) = built(PersonalizedGate(N, scale=3.0, hidden_units=hidden_units), P), arrays()
    expected = np.array([3 * sigmoid(dense(layer.mlp, row)) for row in p])
    np.testing.assert_allclose(layer(*single(p)), expected, rtol=1e-5, atol=1e-6)
    assert weight_count(layer) == mlp_count(P, *hidden_units, N)
    check_layer(PersonalizedGate(N, hidden_units=hidden_units), (B, P))


@pytest.mark.parametrize("gate_units", [(), (H,)])
@pytest.mark.parametrize("scale", [None, 3.0])
def test_masks(gate_units, scale):
    layer, (x, p) = built(POSOMLP(UNITS, gate_units=gate_units, scale=scale), N, P), arrays()
    expected = []
    for row, user in zip(x, p, strict=True):
        for mlp, gate in zip(layer.mlps, layer.gates, strict=True):
            row = (scale or 2.0) * sigmoid(dense(gate.mlp, user)) * dense(mlp, row)
        expected.append(row)
    np.testing.assert_allclose(layer(*single(x, p)), expected, rtol=1e-5, atol=1e-6)
    assert weight_count(layer) == mlp_count(N, *UNITS) + sum(mlp_count(P, *gate_units, u) for u in UNITS)


@pytest.mark.parametrize("gate_units", [(), (H,)])
@pytest.mark.parametrize("scale", [None, 3.0])
def test_networks(gate_units, scale):
    layer, (x, p) = built(POSOMLP(UNITS, form="networks", num_networks=K, gate_units=gate_units, scale=scale), N, P), arrays()
    expected = []
    for row, user in zip(x, p, strict=True):
        gate = sigmoid(dense(layer.gates[0].mlp, user))
        expected.append((scale or 2 / K) * sum(gate[i] * dense(layer.mlps[i], row) for i in range(K)))
    np.testing.assert_allclose(layer(*single(x, p)), expected, rtol=1e-5, atol=1e-6)
    assert weight_count(layer) == K * mlp_count(N, *UNITS) + mlp_count(P, *gate_units, K)


@pytest.mark.parametrize("form", POSOMLP.FORMS)
def test_contract(form):
    check_layer(POSOMLP(UNITS, form=form, gate_units=(H,), activation="tanh"), (B, N), (B, P))
    check_layer(POSOMLP(UNITS, form=form, activation=Dice()), (B, N), (B, P), low_precision_tolerance=0.1)


def neutral(layer):
    for gate in layer.gates:
        for weight in gate.mlp.weights:
            weight.assign(np.zeros(weight.shape))
    return layer


def test_neutral_masks_are_an_mlp():
    layer, (x, p) = neutral(built(POSOMLP(UNITS), N, P)), single(*arrays())
    plain = MLP(UNITS)
    plain.build((None, N))
    plain.set_weights([w for mlp in layer.mlps for w in mlp.get_weights()])
    np.testing.assert_allclose(layer(x, p), plain(x), rtol=1e-6, atol=1e-6)


def test_neutral_networks_are_the_mean_of_their_mlps():
    layer, (x, p) = neutral(built(POSOMLP(UNITS, form="networks", num_networks=K), N, P)), single(*arrays())
    np.testing.assert_allclose(layer(x, p), np.mean([mlp(x) for mlp in layer.mlps], axis=0), rtol=1e-5, atol=1e-6)


def test_masks_are_networks_that_share_a_linear_map():
    """The paper's reduction: sub-module i holds row i of W alone, so the sum over all has g_i (W x)_i as its i-th element."""
    units = N  # one network an output unit
    masks = built(POSOMLP((units,), activation="linear"), N, P)
    networks = built(POSOMLP((units,), form="networks", num_networks=units, scale=2.0, activation="linear"), N, P)
    networks.gates[0].set_weights(masks.gates[0].get_weights())
    kernel, bias = masks.mlps[0].get_weights()
    for i, mlp in enumerate(networks.mlps):
        only = np.eye(units)[i]
        mlp.set_weights([kernel * only, bias * only])
    x, p = single(*arrays())
    np.testing.assert_allclose(masks(x, p), networks(x, p), rtol=1e-4, atol=1e-5)


def test_dropout_acts_in_training_only():
    x, p = single(*arrays())
    for form in POSOMLP.FORMS:
        layer = built(POSOMLP((31,), form=form, dropout=0.5), N, P)
        np.testing.assert_array_equal(layer(x, p), layer(x, p, training=False))
        assert np.any(np.asarray(layer(x, p, training=True)) != np.asarray(layer(x, p)))


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"hidden_units": ()}, "hidden_units"),
        ({"hidden_units": (0,)}, "hidden_units"),
        ({"form": "mask"}, "did you mean 'masks'"),
        ({"num_networks": 0}, "num_networks"),
        ({"scale": 0.0}, "scale"),
        ({"gate_units": (0,)}, "gate_units"),
    ],
)
def test_errors(arguments, name):
    with pytest.raises(ValueError, match=name):
        POSOMLP(**{"hidden_units": UNITS, **arguments})


def test_gate_errors():
    with pytest.raises(ValueError, match="scale"):
        PersonalizedGate(2, scale=-1.0)
