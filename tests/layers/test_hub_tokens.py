"""BehaviorTokens and HubTokens against loops of their equations."""

import numpy as np
import pytest

from keras_ctr.layers.hub_tokens import BehaviorTokens, HubTokens
from tests.layer_contract import check_layer, weight_count
from tests.layers.infnet_oracles import hub_tokens
from tests.layers.interformer_oracles import masks, randomize, weights

B, T, D, N, U, P = 5, 7, 3, 2, 11, 4
RNG = np.random.default_rng(0)
X = RNG.standard_normal((B, T, D)).astype("float32")
EVENTS = RNG.standard_normal((B, T, 2 * D)).astype("float32")
MASK = masks(B, T)
KINDS = [("mlp", None), ("mlp", "mean"), ("mlp", "sum"), ("mean", None), ("random", None)]
each_kind = pytest.mark.parametrize("initialization, pooling", KINDS)


def built(initialization, pooling, **arguments):
    layer = HubTokens(N, initialization=initialization, pooling=pooling, hidden_units=(U,), name="hubs", **arguments)
    layer.build((None, T, D))
    return randomize(layer)


# --- hubs -----------------------------------------------------------------------------------------------------------------------------


@each_kind
def test_hubs_are_those_of_the_equation(initialization, pooling):
    layer = built(initialization, pooling)
    mask = None if (initialization, pooling) == ("mlp", None) else MASK
    valid = np.ones((B, T), bool) if mask is None else mask
    want = [hub_tokens(weights(layer), X[b].astype("float64"), valid[b], N, initialization, pooling) for b in range(B)]
    np.testing.assert_allclose(layer(X, mask=mask), want, rtol=1e-5, atol=1e-5)
    whole = [hub_tokens(weights(layer), X[b].astype("float64"), valid[2], N, initialization, pooling) for b in range(B)]
    np.testing.assert_allclose(layer(X), whole, rtol=1e-5, atol=1e-5)


@each_kind
def test_contract_of_hubs(initialization, pooling):
    layer = HubTokens(N, initialization=initialization, pooling=pooling)
    if (initialization, pooling) == ("mlp", None):
        check_layer(layer, X)
    else:
        check_layer(layer, X, call_kwargs={"mask": MASK}, sequence=(0,))


def test_one_event_twice_is_twice_the_sum_and_the_same_mean():
    twice = np.concatenate([X[:, :1], X[:, :1]], axis=1)
    for pooling, factor in (("sum", 2), ("mean", 1)):
        layer = built("mlp", pooling)
        np.testing.assert_allclose(layer(twice), factor * np.asarray(layer(X[:, :1])), rtol=1e-5, atol=1e-6)


def test_no_valid_event_gives_zeros_or_the_learned_vectors():
    empty = np.zeros((B, T), bool)
    for pooling in ("mean", "sum"):
        assert np.all(np.asarray(built("mlp", pooling)(X, mask=empty)) == 0)
    layer = built("mean", None)
    np.testing.assert_allclose(np.asarray(layer(X, mask=empty))[0], layer.offsets, atol=1e-6)


def test_hubs_of_one_mean_differ_by_what_is_learned():
    layer = built("mean", None)
    hubs = np.asarray(layer(X, mask=MASK))
    gap = np.asarray(layer.offsets)
    np.testing.assert_allclose(hubs[:, 1] - hubs[:, 0], np.broadcast_to(gap[1] - gap[0], (B, D)), atol=1e-5)


def test_parameter_counts_of_hubs():
    assert weight_count(built("mlp", None)) == (T * D + 1) * U + (U + 1) * N * D
    assert weight_count(built("mlp", "mean")) == weight_count(built("mlp", "sum")) == (D + 1) * U + (U + 1) * N * D
    assert weight_count(built("mean", None)) == weight_count(built("random", None)) == N * D
    default = HubTokens(N, pooling="mean")
    default.build((None, T, D))
    assert weight_count(default) == (D + 1) * 4 * D + (4 * D + 1) * N * D


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_hubs": 0}, "num_hubs must be an int of at least 1"),
        ({"initialization": "means"}, "did you mean 'mean'"),
        ({"pooling": "max"}, "pooling must be one of"),
        ({"hidden_units": (0,)}, "hidden_units"),
    ],
)
def test_errors_of_hubs(arguments, message):
    with pytest.raises(ValueError, match=message):
        HubTokens(**{"num_hubs": N, **arguments})


def test_fields_side_by_side_take_no_mask():
    with pytest.raises(ValueError, match="needs pooling='mean' or 'sum'"):
        HubTokens(N)(X, mask=MASK)


# --- events ---------------------------------------------------------------------------------------------------------------------------


def events_layer(**arguments):
    layer = BehaviorTokens(D, max_positions=P, name="events", **arguments)
    layer.build((None, T, 2 * D))
    return randomize(layer)


def events_oracle(layer, events, valid):
    values, out = weights(layer), []
    for t, x in enumerate(events.astype("float64")):
        attributes = [x[:D], x[D:]]
        interval = attributes.pop(layer.interval) if layer.interval is not None else np.zeros(D)
        token = values["project/kernel"].T @ np.concatenate(attributes) + values["project/bias"] + interval
        if layer.use_positions:
            token = token + values["positions"][min(sum(valid[t + 1 :]), P - 1)]
        out.append(token)
    return np.array(out)


@pytest.mark.parametrize("arguments", [{}, {"use_positions": False}, {"interval": 0}, {"interval": 1}])
def test_events_are_those_of_the_equation(arguments):
    layer = events_layer(**arguments)
    want = np.array([events_oracle(layer, EVENTS[b], MASK[b]) for b in range(B)])
    np.testing.assert_allclose(np.asarray(layer(EVENTS, mask=MASK))[MASK], want[MASK], rtol=1e-5, atol=1e-5)
    want = [events_oracle(layer, EVENTS[b], np.ones(T, bool)) for b in range(B)]
    np.testing.assert_allclose(layer(EVENTS), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("interval", [None, 1])
def test_contract_of_events(interval):
    layer = BehaviorTokens(D, interval=interval, max_positions=P)
    check_layer(layer, EVENTS, call_kwargs={"mask": MASK}, sequence=(0,), mask_output="sequence")


def test_the_side_of_the_padding_moves_no_position():
    layer = events_layer()
    events, valid = np.zeros((B, T, 2 * D), "float32"), np.zeros((B, T), bool)
    events[:, :4], valid[:, :4] = EVENTS[:, :4], True
    alone = layer(EVENTS[:, :4])
    for shift in range(4):
        out = np.asarray(layer(np.roll(events, shift, axis=1), mask=np.roll(valid, shift, axis=1)))
        np.testing.assert_allclose(out[:, shift : shift + 4], alone, atol=1e-6)


def test_parameter_counts_of_events():
    assert weight_count(events_layer(use_positions=False)) == 2 * D * D + D
    assert weight_count(events_layer()) == 2 * D * D + D + P * D
    assert weight_count(events_layer(interval=0)) == D * D + D + P * D


@pytest.mark.parametrize("arguments, width", [({"interval": 2}, 2 * D), ({"interval": 0}, D), ({"interval": 0}, 2 * D + 1)])
def test_an_interval_must_be_one_attribute_of_several(arguments, width):
    with pytest.raises(ValueError, match="interval="):
        BehaviorTokens(D, **arguments).build((None, T, width))
