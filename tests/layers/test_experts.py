"""The mixture of experts against loops over its equations."""

import numpy as np
import pytest

from keras_ctr.layers.dice import Dice
from keras_ctr.layers.experts import ExpertGate, MultiGateMixtureOfExperts
from keras_ctr.layers.mlp import MLP
from tests.layer_contract import check_layer, weight_count
from tests.layers.expert_oracles import built, gate_count, gate_of, mixed, mlp_count, mlp_of, numbers, weights_of

B, N, L, E, UNITS, GATE = 7, 5, 3, 4, (13, 2), (11,)


def inputs(seed=4):
    return np.random.default_rng(seed).standard_normal((B, N))


def layer_of(**arguments):
    return MultiGateMixtureOfExperts(L, **{"num_experts": E, "expert_units": UNITS, "name": "experts", **arguments})


@pytest.mark.parametrize("gate_units", [(), GATE])
@pytest.mark.parametrize("shared_gate", [False, True])
def test_against_the_equation(gate_units, shared_gate):
    layer, x = built(layer_of(gate_units=gate_units, shared_gate=shared_gate), (None, N)), inputs()
    w = weights_of(layer)
    out, gates = (numbers(t) for t in layer(x.astype("float32"), return_attention=True))
    assert out.shape == (B, L, UNITS[-1]) and gates.shape == (B, 1 if shared_gate else L, E)
    for b in range(B):
        experts = [mlp_of(w, f"expert_{k}", x[b]) for k in range(E)]
        for i in range(L):
            gate = gate_of(w, f"gate_{0 if shared_gate else i}", x[b])
            np.testing.assert_allclose(gates[b, 0 if shared_gate else i], gate, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(out[b, i], mixed(gate, experts), rtol=1e-5, atol=2e-6)
    np.testing.assert_array_equal(numbers(layer(x.astype("float32"))), out)


@pytest.mark.parametrize("arguments", [{}, {"gate_units": GATE}, {"shared_gate": True}, {"num_experts": 1}, {"activation": Dice()}])
@pytest.mark.slow
def test_contract(arguments):
    check_layer(layer_of(**arguments), (B, N))


@pytest.mark.parametrize("units", [(), GATE])
@pytest.mark.slow
def test_contract_of_the_gate(units):
    check_layer(ExpertGate(E, units), (B, N), output_dtype="float32")


@pytest.mark.parametrize("gate_units", [(), GATE])
def test_parameter_count(gate_units):
    experts, gate = E * mlp_count(N, *UNITS), gate_count(N, E, *gate_units)
    assert weight_count(built(layer_of(gate_units=gate_units), (None, N))) == experts + L * gate
    assert weight_count(built(layer_of(gate_units=gate_units, shared_gate=True), (None, N))) == experts + gate
    assert weight_count(built(layer_of(gate_units=gate_units, num_experts=1), (None, N))) == mlp_count(N, *UNITS)


def test_one_expert_is_a_shared_bottom():
    layer, bottom = built(layer_of(num_experts=1), (None, N)), MLP(UNITS)
    bottom.build((None, N))
    bottom.set_weights(layer.get_weights())
    x = inputs().astype("float32")
    out, gates = layer(x, return_attention=True)
    assert gates is None
    for i in range(L):
        np.testing.assert_array_equal(numbers(out)[:, i], numbers(bottom(x)))


def test_equal_gates_are_one_gate():
    many, one = built(layer_of(), (None, N)), built(layer_of(shared_gate=True), (None, N))
    for mine, theirs in zip(many.experts, one.experts, strict=True):
        mine.set_weights(theirs.get_weights())
    for gate in many.gates:
        gate.set_weights(one.gates[0].get_weights())
    x = inputs().astype("float32")
    np.testing.assert_allclose(numbers(many(x)), numbers(one(x)), rtol=1e-6, atol=1e-6)


def test_a_gate_of_zeros_takes_the_mean():
    layer = built(layer_of(), (None, N))
    for gate in layer.gates:
        gate.scores.kernel.assign(np.zeros((N, E)))
    x = inputs().astype("float32")
    mean = np.mean([numbers(expert(x)) for expert in layer.experts], axis=0)
    np.testing.assert_allclose(numbers(layer(x)), np.repeat(mean[:, None], L, axis=1), rtol=1e-5, atol=1e-6)


def test_gates_stay_float32_in_mixed_precision():
    """Two scores 2^-10 apart at 4: bfloat16 has steps of 2^-6 there, so it would not see the difference."""
    gate = ExpertGate(2, dtype="mixed_bfloat16")
    gate.build((None, 1))
    gate.scores.kernel.assign([[4.0, 4.0 + 2.0**-10]])
    weights = numbers(gate(np.ones((1, 1), "float32")))
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights[0, 1] - weights[0, 0], np.tanh(2.0**-11), rtol=1e-3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_tasks": 0}, "num_tasks"),
        ({"num_experts": 0}, "num_experts"),
        ({"expert_units": ()}, "expert_units is empty"),
        ({"expert_units": (3, 0)}, "expert_units"),
        ({"gate_units": (0,)}, "gate_units"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiGateMixtureOfExperts(**{"num_tasks": L, **arguments})


def test_a_gate_needs_two_experts():
    with pytest.raises(ValueError, match="num_experts"):
        ExpertGate(1)
