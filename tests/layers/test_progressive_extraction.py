"""Customized gate control and its stack against loops over their equations."""

import numpy as np
import pytest

from keras_ctr.layers.experts import MultiGateMixtureOfExperts
from keras_ctr.layers.progressive_extraction import CustomizedGateControl, ProgressiveLayeredExtraction
from tests.layer_contract import check_layer, weight_count
from tests.layers.expert_oracles import built, cgc, gate_count, mlp_count, numbers, weights_of

B, N, L, UNITS, GATE = 7, 5, 3, (13, 4), (11,)


def inputs(*shape):
    return np.random.default_rng(4).standard_normal((B, *shape))


def cgc_of(specific=2, shared=3, **arguments):
    return CustomizedGateControl(L, specific, shared, **{"expert_units": UNITS, "name": "cgc", **arguments})


def ple_of(num_layers=2, specific=1, shared=2, **arguments):
    counts = {"num_specific_experts": specific, "num_shared_experts": shared}
    return ProgressiveLayeredExtraction(L, num_layers, **{**counts, "expert_units": UNITS, "name": "ple", **arguments})


CASES = [(2, 3, True), (2, 3, False), (1, 1, True), (0, 2, True), (2, 0, False), (1, 0, False), (0, 1, True)]


@pytest.mark.parametrize("specific, shared, shared_output", CASES)
@pytest.mark.parametrize("rank", [2, 3])
def test_cgc_against_the_equation(specific, shared, shared_output, rank):
    layer = built(cgc_of(specific, shared, shared_output=shared_output, gate_units=GATE), (None, N))
    x = inputs(N) if rank == 2 else inputs(L + bool(shared), N)
    out, gates = layer(x.astype("float32"), return_attention=True)
    w = weights_of(layer)
    for b in range(B):
        rows = [x[b]] * (L + 1) if rank == 2 else list(x[b])
        expected, expected_gates = cgc(w, rows, L, specific, shared, shared_output)
        np.testing.assert_allclose(numbers(out)[b], expected, rtol=1e-5, atol=2e-6)
        if specific + shared > 1:
            np.testing.assert_allclose(numbers(gates["tasks"])[b], expected_gates[:L], rtol=1e-5, atol=1e-6)
        else:
            assert gates["tasks"] is None
        if shared_output and L * specific + shared > 1:
            np.testing.assert_allclose(numbers(gates["shared"])[b, 0], expected_gates[L], rtol=1e-5, atol=1e-6)
        else:
            assert gates["shared"] is None


@pytest.mark.parametrize("specific, shared, num_layers", [(1, 2, 2), (2, 1, 3), (1, 1, 1), (0, 2, 2), (2, 0, 2)])
def test_ple_against_the_equation(specific, shared, num_layers):
    layer, x = built(ple_of(num_layers, specific, shared), (None, N)), inputs(N)
    out = numbers(layer(x.astype("float32")))
    w = weights_of(layer)
    for b in range(B):
        rows = [x[b]] * (L + 1)
        for index in range(num_layers):
            rows, _ = cgc(w, rows, L, specific, shared, bool(shared) and index < num_layers - 1, prefix=f"cgc_{index}/")
        np.testing.assert_allclose(out[b], rows, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("specific, shared, shared_output", CASES[:5])
@pytest.mark.slow
def test_contract_of_cgc(specific, shared, shared_output):
    check_layer(cgc_of(specific, shared, shared_output=shared_output), (B, L + bool(shared), N))


def test_contract_of_cgc_on_one_vector():
    check_layer(cgc_of(shared_output=True, gate_units=GATE), (B, N))


@pytest.mark.parametrize(
    "arguments",
    [{}, {"num_layers": 1}, {"specific": 0}, {"specific": 2, "shared": 0}, {"expert_units": ((13, 4), (3,)), "gate_units": GATE}],
)
@pytest.mark.slow
def test_contract_of_ple(arguments):
    check_layer(ple_of(**arguments), (B, N))


def test_contract_of_one_task():
    check_layer(ProgressiveLayeredExtraction(1, 2, expert_units=UNITS), (B, N))


def test_parameter_count():
    def one(width, specific, shared, shared_output, units=UNITS, gate=()):
        experts = (L * specific + shared) * mlp_count(width, *units)
        gates = L * gate_count(width, specific + shared, *gate) if specific + shared > 1 else 0
        return experts + gates + (gate_count(width, L * specific + shared, *gate) if shared_output else 0)

    assert weight_count(built(cgc_of(shared_output=True), (None, N))) == one(N, 2, 3, True)
    assert weight_count(built(cgc_of(gate_units=GATE), (None, N))) == one(N, 2, 3, False, gate=GATE)
    assert weight_count(built(cgc_of(1, 0), (None, N))) == one(N, 1, 0, False)
    assert weight_count(built(ple_of(3), (None, N))) == one(N, 1, 2, True) + one(4, 1, 2, True) + one(4, 1, 2, False)
    assert weight_count(built(ple_of(2, 2, 0), (None, N))) == one(N, 2, 0, False) + one(4, 2, 0, False)
    widths = ple_of(2, expert_units=((13, 4), (3,)))
    assert weight_count(built(widths, (None, N))) == one(N, 1, 2, True) + one(4, 1, 2, False, units=(3,))
    assert widths.compute_output_shape((None, N)) == (None, L, 3)


@pytest.mark.parametrize("gate_units", [(), GATE])
def test_one_layer_without_specific_experts_is_the_mixture_of_experts(gate_units):
    ple = built(ple_of(1, 0, 4, gate_units=gate_units), (None, N))
    mixture = built(MultiGateMixtureOfExperts(L, 4, expert_units=UNITS, gate_units=gate_units), (None, N))
    layer = ple.cgc_layers[0]
    for mine, theirs in zip([*layer.shared_experts, *layer.gates], [*mixture.experts, *mixture.gates], strict=True):
        mine.set_weights(theirs.get_weights())
    assert weight_count(ple) == weight_count(mixture)
    x = inputs(N).astype("float32")
    np.testing.assert_allclose(numbers(ple(x)), numbers(mixture(x)), rtol=1e-6, atol=1e-6)


def test_without_shared_experts_a_task_sees_its_own_vector_only():
    layer = built(cgc_of(2, 0), (None, L, N))
    x = inputs(L, N).astype("float32")
    changed = x.copy()
    changed[:, 1] += 1
    moved = numbers(layer(changed)) != numbers(layer(x))
    assert moved[:, 1].any() and not moved[:, [0, 2]].any()


def test_the_last_layer_builds_no_shared_gate():
    layer = built(ple_of(2), (None, N))
    _, gates = layer(inputs(N).astype("float32"), return_attention=True)
    assert list(gates) == ["cgc_0/tasks", "cgc_0/shared", "cgc_1/tasks", "cgc_1/shared"]
    assert gates["cgc_0/shared"].shape == (B, 1, L + 2) and gates["cgc_1/shared"] is None


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: cgc_of(0, 0), "no expert"),
        (lambda: cgc_of(-1), "num_specific_experts"),
        (lambda: cgc_of(1, 0, shared_output=True), "nobody reads"),
        (lambda: ple_of(0), "num_layers"),
        (lambda: ple_of(2, 0, 0), "no expert"),
        (lambda: ple_of(3, expert_units=((5,), (3,))), "widths for 2 layers, there are 3"),
        (lambda: ple_of(2, expert_units=((5,), ())), "empty"),
        (lambda: ple_of(2, expert_units=((5,), 3)), "expert_units"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make, shape", [(cgc_of, (None, L, N)), (lambda: cgc_of(2, 0), (None, L + 1, N)), (ple_of, (None, L + 1, N))])
def test_bad_inputs(make, shape):
    with pytest.raises(ValueError, match="the input must be"):
        make().build(shape)
