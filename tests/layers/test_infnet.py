"""HubAggregation, the gated units and INFNet's blocks against loops of their equations; what they must be in special cases; their cost."""

import keras
import numpy as np
import pytest

from keras_ctr.layers.broadcast_gated_unit import BroadcastGatedUnit, ProxyGatedUnit
from keras_ctr.layers.hub_aggregation import HubAggregation
from keras_ctr.layers.infnet import INFNetBlock, INFNetV1Block
from tests.layer_contract import check_layer, weight_count
from tests.layers import infnet_oracles as oracle
from tests.layers.interformer_oracles import layer_norm, masks, randomize, sigmoid, under, weights
from tests.layers.token_pairs import token_pairs

B, D, U = 5, 6, 13
SIZES = {"categorical": 3, "sequence": 7, "task": 2}
HUBS = {"categorical": 11, "sequence": 1, "task": 4}
MASK = masks(B, SIZES["sequence"])
RNG = np.random.default_rng(0)


def draw(sizes):
    return {group: RNG.standard_normal((B, n, D)).astype("float32") for group, n in sizes.items()}


TOKENS, H = draw(SIZES), draw(HUBS)


def shapes(arrays):
    return {name: (None, *x.shape[1:]) for name, x in arrays.items()}


def row(arrays, b):
    return {name: x[b].astype("float64") for name, x in arrays.items()}


def built(layer, hubs=None, tokens=None):
    layer.build(shapes(hubs or H), shapes(tokens or TOKENS))
    return randomize(layer)


def same(found, expected, tolerance=2e-5):
    """Compares a dict of batches with a list of dicts of rows."""
    assert set(found) == set(expected[0])
    for name, value in found.items():
        want = np.array([one[name] for one in expected])
        value = np.asarray(value)
        if name == "sequence" and value.shape[1] == MASK.shape[1]:
            value, want = value[MASK], want[MASK]
        np.testing.assert_allclose(value, want, rtol=tolerance, atol=tolerance, err_msg=name)


# --- aggregation ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("fusion, residual", [("concat", True), ("concat", False), ("sum", True), ("sum", False)])
def test_aggregation_is_that_of_the_equation(heads, fusion, residual):
    layer = built(HubAggregation(heads, fusion=fusion, residual=residual, epsilon=0.03, name="aggregation"))
    out, attention = layer(H, TOKENS, mask=MASK, return_attention=True)
    want = [oracle.aggregate(weights(layer), row(H, b), row(TOKENS, b), MASK[b], heads, fusion, residual, 0.03) for b in range(B)]
    same(out, [one for one, _ in want])
    same(attention, [maps for _, maps in want])
    assert list(attention) == sorted(attention)


@pytest.mark.parametrize("fusion", HubAggregation.FUSIONS)
@pytest.mark.slow
def test_contract_of_aggregation(fusion):
    check_layer(HubAggregation(3, fusion=fusion), H, TOKENS, low_precision_tolerance=0.1)
    hubs, events = {"task": H["task"]}, {"sequence": TOKENS["sequence"]}
    check_layer(HubAggregation(3, fusion=fusion), hubs, events, call_kwargs={"mask": MASK}, sequence=(1,), low_precision_tolerance=0.1)


def test_one_hub_over_one_token_is_the_value_of_that_token():
    token, hub = {"categorical": TOKENS["categorical"][:, :1]}, {"task": H["task"][:, :1]}
    layer = built(HubAggregation(3, fusion="sum", residual=False), hub, token)
    (kernel,) = layer.get_weights()  # no query and no key: there is nothing to choose
    np.testing.assert_allclose(layer(hub, token)["task"], token["categorical"] @ kernel, rtol=1e-5, atol=1e-5)
    one = {"sequence": TOKENS["sequence"]}
    layer, alone = built(HubAggregation(fusion="sum", residual=False, name="aggregation"), hub, one), np.zeros_like(MASK)
    alone[:, 4] = True  # the same by the mask, with keys
    want = one["sequence"][:, 4:5] @ weights(layer)["value_sequence"]
    np.testing.assert_allclose(layer(hub, one, mask=alone)["task"], want, rtol=1e-5, atol=1e-5)


def test_equal_tokens_are_averaged_whatever_the_keys():
    tokens = {"sequence": np.repeat(TOKENS["sequence"][:, :1], 7, axis=1)}
    hub = {"task": H["task"]}
    layer = built(HubAggregation(2, fusion="sum", residual=False, name="aggregation"), hub, tokens)
    want = np.repeat(tokens["sequence"][:, :1] @ weights(layer)["value_sequence"], HUBS["task"], axis=1)
    np.testing.assert_allclose(layer(hub, tokens)["task"], want, rtol=1e-4, atol=1e-4)


def test_without_what_is_fused_the_hubs_are_normalised_alone():
    layer = built(HubAggregation(name="aggregation"))
    layer.fuse_kernels["task"].assign(np.zeros((3 * D, D)))
    norm = under(weights(layer), "norm_task")
    want = [[layer_norm(norm, h) for h in H["task"][b].astype("float64")] for b in range(B)]
    np.testing.assert_allclose(layer(H, TOKENS, mask=MASK)["task"], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fusion", HubAggregation.FUSIONS)
def test_a_source_without_valid_tokens_adds_nothing(fusion):
    layer = built(HubAggregation(2, fusion=fusion))
    out, attention = layer(H, TOKENS, mask=np.zeros_like(MASK), return_attention=True)
    assert not np.any(np.asarray(attention["task/sequence"]))
    layer.value_kernels["sequence"].assign(np.zeros((D, D)))
    for group, value in layer(H, TOKENS, mask=MASK).items():
        np.testing.assert_allclose(out[group], value, atol=1e-6)


def test_parameter_counts_of_aggregation():
    three = 3
    assert weight_count(built(HubAggregation(2))) == 2 * three * D**2 + three * ((1 + three) * D**2 + 2 * D)
    assert weight_count(built(HubAggregation(2, fusion="sum"))) == 2 * three * D**2 + three * D**2
    last = {"task": H["task"]}
    assert weight_count(built(HubAggregation(), last)) == 2 * three * D**2 + (1 + three) * D**2 + 2 * D
    assert weight_count(built(HubAggregation(fusion="sum"), last)) == 2 * 2 * D**2 + D**2  # it does not read its own group
    one_task = {**TOKENS, "task": TOKENS["task"][:, :1]}
    assert weight_count(built(HubAggregation(), tokens=one_task)) == 2 * three * D**2 - D**2 + three * ((1 + three) * D**2 + 2 * D)


def test_hubs_with_nothing_to_read_stay():
    layer = built(HubAggregation(fusion="sum"), {"categorical": H["categorical"]}, {"categorical": TOKENS["categorical"]})
    assert not layer.weights
    out = layer({"categorical": H["categorical"]}, {"categorical": TOKENS["categorical"]})
    np.testing.assert_array_equal(out["categorical"], H["categorical"])


@pytest.mark.parametrize("arguments, message", [({"num_heads": 0}, "num_heads"), ({"fusion": "sums"}, "did you mean 'sum'")])
def test_errors_of_aggregation(arguments, message):
    with pytest.raises(ValueError, match=message):
        HubAggregation(**arguments)
    with pytest.raises(ValueError, match="4 heads do not divide the width 6"):
        HubAggregation(4).build(shapes(H), shapes(TOKENS))


# --- broadcast ------------------------------------------------------------------------------------------------------------------------

X, HUB = TOKENS["sequence"], H["categorical"]
OWN = draw({"own": SIZES["sequence"]})["own"]


def unit(kind, hubs=HUB, **arguments):
    layer = kind(hidden_units=(U,), name="unit", **arguments)
    layer.build((None, *X.shape[1:]), (None, *hubs.shape[1:]))
    return randomize(layer)


@pytest.mark.parametrize("per_token", [False, True])
def test_units_are_those_of_the_equation(per_token):
    hubs = OWN if per_token else HUB
    for arguments in ({"epsilon": 0.07}, {"normalize": False}):
        layer = unit(BroadcastGatedUnit, hubs, per_token=per_token, **arguments)
        rows = [(X[b].astype("float64"), hubs[b].astype("float64")) for b in range(B)]
        want = [oracle.affine(weights(layer), *one, per_token, layer.normalize, layer.epsilon) for one in rows]
        np.testing.assert_allclose(layer(X, hubs), want, rtol=1e-4, atol=1e-4)
    layer = unit(ProxyGatedUnit, hubs, per_token=per_token)
    np.testing.assert_allclose(layer(X, hubs), [oracle.gated(weights(layer), *one, per_token) for one in rows], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [BroadcastGatedUnit, ProxyGatedUnit])
@pytest.mark.parametrize("per_token", [False, True])
def test_contract_of_units(kind, per_token):
    check_layer(kind(hidden_units=(U,), per_token=per_token), X, OWN if per_token else HUB, low_precision_tolerance=0.1)


def constant(layer, scale):
    """Makes sigmoid(alpha) of the unit a constant, and beta 0."""
    for dense, bias in ((layer.scale, scale), (getattr(layer, "shift", None), 0.0)):
        if dense is not None:
            dense.set_weights([np.zeros((U, D)), np.full(D, bias)])
    return layer


def test_a_zero_affine_map_is_the_identity_up_to_the_norm():
    layer = constant(unit(BroadcastGatedUnit), -200.0)
    norm = under(weights(layer), "norm")
    want = [[layer_norm(norm, x) for x in X[b].astype("float64")] for b in range(B)]
    np.testing.assert_allclose(layer(X, HUB), want, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(constant(unit(BroadcastGatedUnit, normalize=False), -200.0)(X, HUB), X)


def test_an_open_gate_without_shift_doubles_and_the_proxy_gate_keeps():
    np.testing.assert_array_equal(constant(unit(BroadcastGatedUnit, normalize=False), 200.0)(X, HUB), 2 * X)
    np.testing.assert_array_equal(constant(unit(ProxyGatedUnit), 200.0)(X, HUB), X)


def test_units_start_near_the_identity():
    for kind, factor in ((BroadcastGatedUnit, 1 + sigmoid(2.0)), (ProxyGatedUnit, sigmoid(2.0))):
        layer = kind(**({"normalize": False} if kind is BroadcastGatedUnit else {}))
        np.testing.assert_allclose(layer(X, np.zeros_like(HUB)), factor * X, rtol=1e-5)


def test_a_hub_of_its_own_is_a_group_of_one_token():
    for kind in (BroadcastGatedUnit, ProxyGatedUnit):
        layer, alone = unit(kind, OWN, per_token=True), unit(kind, OWN[:, :1])
        alone.set_weights(layer.get_weights())
        whole = np.asarray(layer(X, OWN))
        for i in range(X.shape[1]):
            np.testing.assert_allclose(alone(X[:, i : i + 1], OWN[:, i : i + 1])[:, 0], whole[:, i], rtol=1e-4, atol=1e-5)


def test_parameter_counts_of_units():
    n = HUBS["categorical"]
    assert weight_count(unit(ProxyGatedUnit)) == (n * D + 1) * U + (U + 1) * D
    assert weight_count(unit(BroadcastGatedUnit)) == (n * D + 1) * U + 2 * (U + 1) * D + 2 * D
    assert weight_count(unit(BroadcastGatedUnit, OWN, per_token=True)) == (D + 1) * U + 2 * (U + 1) * D + 2 * D


def test_errors_of_units():
    with pytest.raises(ValueError, match="epsilon"):
        BroadcastGatedUnit(epsilon=0)
    with pytest.raises(ValueError, match="a hub for each of 7 tokens, got 11"):
        unit(ProxyGatedUnit, HUB, per_token=True)


# --- blocks ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("groups", [oracle.GROUPS, ("task",), ("categorical", "sequence")])
def test_block_is_that_of_the_equations(heads, groups):
    hubs = {group: H[group] for group in groups}
    layer = built(INFNetBlock(heads, hidden_units=(U,), epsilon=0.1, name="block"), hubs)
    out, attention = layer(hubs, TOKENS, mask=MASK, return_attention=True)
    want = [oracle.block_v2(weights(layer), row(hubs, b), row(TOKENS, b), MASK[b], heads, 0.1) for b in range(B)]
    for found, index in ((out["hubs"], 0), (out["tokens"], 1), (attention, 2)):
        same(found, [one[index] for one in want])


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("groups", [oracle.GROUPS, ("task",), ("categorical", "sequence")])
def test_block_of_version_1_is_that_of_the_equations(residual, groups):
    hubs = {group: H[group] for group in groups}
    layer = built(INFNetV1Block(2, residual=residual, hidden_units=(U,), name="block"), hubs)
    out, attention = layer(hubs, TOKENS, mask=MASK, return_attention=True)
    want = [oracle.block_v1(weights(layer), row(hubs, b), row(TOKENS, b), MASK[b], 2, residual) for b in range(B)]
    same(out["hubs"], [one[0] for one in want])
    same(out["tokens"], [one[1] for one in want])
    if "task" in hubs:  # the task tokens ask first, their proxies after them
        assert attention["task/sequence"].shape[2] == SIZES["task"] + HUBS["task"]
        proxies = np.array([one[2]["task/sequence"] for one in want])
        np.testing.assert_allclose(attention["task/sequence"][:, :, SIZES["task"] :], proxies, atol=1e-5)


def test_a_hub_for_every_token_is_all_to_all_attention():
    layer = built(INFNetBlock(2, hidden_units=(U,), per_token=True, name="block"), TOKENS)
    out = layer(TOKENS, TOKENS, mask=MASK)
    want = [oracle.block_v2(weights(layer), row(TOKENS, b), row(TOKENS, b), MASK[b], 2, per_token=True) for b in range(B)]
    same(out["tokens"], [one[1] for one in want])


@pytest.mark.parametrize("kind", [INFNetBlock, INFNetV1Block])
def test_without_one_of_the_two_phases(kind):
    layer = built(kind(use_aggregation=False))
    out, attention = layer(H, TOKENS, mask=MASK, return_attention=True)
    assert not attention
    for group in oracle.GROUPS:
        np.testing.assert_array_equal(out["hubs"][group], H[group])
        np.testing.assert_allclose(out["tokens"][group], layer.units[group](TOKENS[group], H[group]), atol=1e-6)
    layer = built(kind(use_broadcast=False))
    out = layer(H, TOKENS, mask=MASK)
    for group in oracle.GROUPS:
        np.testing.assert_array_equal(out["tokens"][group], TOKENS[group])
        np.testing.assert_allclose(out["hubs"][group], layer.aggregation(H, TOKENS, mask=MASK)[group], atol=1e-6)


@pytest.mark.parametrize("kind", [INFNetBlock, INFNetV1Block])
@pytest.mark.slow
def test_contract_of_blocks(kind):
    # In a single block the new hubs are an output too, so everything has a gradient.
    check_layer(kind(3, hidden_units=(U,)), H, TOKENS, low_precision_tolerance=0.15)
    check_layer(kind(hidden_units=(U,)), {"task": H["task"]}, TOKENS, low_precision_tolerance=0.15)


@pytest.mark.parametrize("arguments", [{}, {"per_token": True}])
@pytest.mark.parametrize("kind", [INFNetBlock, INFNetV1Block])
def test_padding_changes_nothing(kind, arguments):
    hubs = TOKENS if arguments else H
    layer = built(kind(2, hidden_units=(U,), **arguments), hubs)

    def run(tokens, mask):
        out = layer(tokens if arguments else hubs, tokens, mask=mask)
        found = {name: np.asarray(x) for name, x in out["tokens"].items()}
        return {**found, "sequence": found["sequence"][mask], **{f"hub_{name}": np.asarray(out["hubs"][name]) for name in ("task",)}}

    want = run(TOKENS, MASK)
    garbage = np.where(MASK[..., None], TOKENS["sequence"], 10 * RNG.standard_normal(TOKENS["sequence"].shape)).astype("float32")
    for before, after in ((0, 0), (0, 3), (4, 0), (2, 1)):
        padded = np.pad(garbage, ((0, 0), (before, after), (0, 0)), constant_values=7.0)
        found = run({**TOKENS, "sequence": padded}, np.pad(MASK, ((0, 0), (before, after))))
        for name, value in want.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_parameter_counts_of_blocks():
    shared = sum((HUBS[group] * D + 1) * U for group in SIZES)
    cross = 2 * 3 * D**2 + 3 * (4 * D**2 + 2 * D)
    assert weight_count(built(INFNetBlock(hidden_units=(U,)))) == cross + shared + 3 * (2 * (U + 1) * D + 2 * D)
    assert weight_count(built(INFNetV1Block(hidden_units=(U,)))) == 9 * D**2 + shared + 3 * (U + 1) * D


@pytest.mark.parametrize("kind", [INFNetBlock, INFNetV1Block])
def test_shapes_are_known_before(kind):
    layer = built(kind(2, hidden_units=(U,)))
    spec, found = layer.compute_output_spec(H, TOKENS, return_attention=True), layer(H, TOKENS, return_attention=True)
    flat, expected = keras.tree.flatten(spec), keras.tree.flatten(found)
    assert [tuple(s.shape) for s in flat] == [tuple(x.shape) for x in expected] and set(spec[1]) == set(found[1])


def test_hubs_need_tokens_of_their_group():
    with pytest.raises(ValueError, match="hubs of 'sequence', but no tokens"):
        INFNetBlock().build(shapes({"sequence": H["sequence"]}), shapes({"task": TOKENS["task"]}))


# --- cost -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the tensors of a step are listed from TensorFlow's traced graph")
@pytest.mark.parametrize("kind", [INFNetBlock, INFNetV1Block])
def test_no_tensor_of_tokens_by_tokens_in_forward_or_backward(kind):
    sizes = {"categorical": 31, "sequence": 101, "task": 2}
    tokens = {name: np.zeros((B, n, D), "float32") for name, n in sizes.items()}
    axes = {31, 101, sum(sizes.values()), *(a + b for a in sizes.values() for b in sizes.values() if a != b)}
    assert not axes & {B, D, U, *HUBS.values(), sum(HUBS.values())}
    for own in (False, True):
        layer = built(kind(hidden_units=(U,), per_token=own), tokens if own else H, tokens)
        found = token_pairs(layer, tokens if own else H, tokens, np.ones((B, 101), bool), axes)
        assert bool(found) == own, found
