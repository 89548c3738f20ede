"""The gating of STEM against a loop over its equation, and whom it trains."""

import keras
import numpy as np
import pytest

from keras_ctr.layers.stem import STEMLayer
from tests.gradients import gradients
from tests.layer_contract import check_layer, weight_count
from tests.layers.expert_oracles import built, gate_count, gate_of, mixed, mlp_count, mlp_of, numbers, weights_of

B, N, L, UNITS, GATE = 7, 5, 3, (13, 2), (11,)


def layer_of(specific=2, shared=1, **arguments):
    return STEMLayer(L, specific, shared, **{"expert_units": UNITS, "name": "stem", **arguments})


def vectors():
    return [np.random.default_rng(seed).standard_normal((B, N)) for seed in range(L + 1)]


@pytest.mark.parametrize("specific, shared", [(1, 1), (2, 1), (1, 3)])
@pytest.mark.parametrize("gate_units", [(), GATE])
def test_against_the_equation(specific, shared, gate_units):
    layer = built(layer_of(specific, shared, gate_units=gate_units), [(None, N)] * (L + 1))
    x, w = vectors(), weights_of(layer)
    out, gates = (numbers(t) for t in layer([v.astype("float32") for v in x], return_attention=True))
    for b in range(B):
        experts = [mlp_of(w, f"task_{j}_expert_{k}", x[j][b]) for j in range(L) for k in range(specific)]
        experts += [mlp_of(w, f"shared_expert_{k}", x[-1][b]) for k in range(shared)]
        for i in range(L):
            gate = gate_of(w, f"gate_{i}", x[i][b] + x[-1][b])
            np.testing.assert_allclose(gates[b, i], gate, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(out[b, i], mixed(gate, experts), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("arguments", [{}, {"gate_units": GATE, "shared": 2}])
def test_contract(arguments):
    check_layer(layer_of(**arguments), [(B, N)] * (L + 1))


def test_contract_of_one_task():
    check_layer(STEMLayer(1, expert_units=UNITS), [(B, N)] * 2)


@pytest.mark.parametrize("gate_units", [(), GATE])
def test_parameter_count(gate_units):
    layer = built(layer_of(2, 3, gate_units=gate_units), [(None, N)] * (L + 1))
    assert weight_count(layer) == (L * 2 + 3) * mlp_count(N, *UNITS) + L * gate_count(N, L * 2 + 3, *gate_units)


def test_the_loss_of_a_task_trains_its_own_part_and_the_shared_one():
    layer = built(layer_of(), [(None, N)] * (L + 1))
    x = [keras.Variable(v.astype("float32"), name=f"x_{j}") for j, v in enumerate(vectors())]
    weights = [*x, *layer.trainable_weights]
    for i in range(L):
        found = gradients(lambda i=i: keras.ops.sum(layer([keras.ops.convert_to_tensor(v) for v in x])[:, i]), weights)
        reached = {w.path: bool(np.any(g)) for w, g in zip(weights, found, strict=True)}
        for path, touched in reached.items():
            others = [f"{kind}{j}" for j in range(L) if j != i for kind in ("x_", "task_", "gate_")]
            part = path.split("stem/")[-1]
            assert touched != any(part.startswith(other) for other in others), (i, path)


def test_all_experts_are_read_forward():
    layer, x = built(layer_of(), [(None, N)] * (L + 1)), [v.astype("float32") for v in vectors()]
    changed = [v + (j == 1) for j, v in enumerate(x)]
    assert np.all(np.any(numbers(layer(changed)) != numbers(layer(x)), axis=(0, 2)))


@pytest.mark.parametrize("arguments, message", [({"specific": 0}, "num_specific_experts"), ({"shared": 0}, "num_shared_experts")])
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        layer_of(**arguments)


@pytest.mark.parametrize("shapes", [[(None, N)] * L, [(None, N)] * L + [(None, N + 1)]])
def test_bad_inputs(shapes):
    with pytest.raises(ValueError, match="list of 4 vectors"):
        layer_of().build(shapes)
