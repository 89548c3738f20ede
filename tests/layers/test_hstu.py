"""HSTU against loops over its equations; causality, positions and times."""

import keras
import numpy as np
import pytest

from keras_ctr.layers.hstu import HSTUEncoder, HSTULayer, time_buckets
from tests.layer_contract import check_layer, weight_count
from tests.layers.transformer_oracles import B, T, built, check_padding, mask, normal, part, values

D, HEADS, KEY, VALUE, N = 11, 2, 3, 5, 4  # N < T: differences are clipped
EPSILON, VALUE_EPSILON = 1e-2, 1e-3  # large: the numbers of the loops are compared in float32


def layer_of(**kwargs):
    return HSTULayer(
        HEADS, **{"key_dim": KEY, "value_dim": VALUE, "max_length": N, "epsilon": EPSILON, "value_epsilon": VALUE_EPSILON, **kwargs}
    )


def gaps():
    return np.random.default_rng(4).integers(2, 34, (B, T)).astype("int32")


def silu(x):
    return x / (1 + np.exp(-x))


def norm(x, epsilon=EPSILON):
    return (x - x.mean()) / np.sqrt(x.var() + epsilon)


def seconds(gap):
    return 2 ** (max(int(gap), 2) - 2) - 1


def bucket(one, other):
    return min(int(np.floor(np.log2(1 + abs(seconds(one) - seconds(other))))), 31)


def loop(w, x, valid, gap=None, epsilon=EPSILON, value_epsilon=VALUE_EPSILON):
    """One row: `x (T, D)`, its mask and its gaps."""
    steps = len(x)
    u, v, q, k = (np.zeros((steps, HEADS, width)) for width in (VALUE, VALUE, KEY, KEY))
    for t in range(steps):
        z = silu(norm(x[t], epsilon) @ w["kernel"])
        start = 0
        for name in (u, v, q, k):
            size = name[t].size
            name[t] = z[start : start + size].reshape(name[t].shape)
            start += size
    out = np.zeros_like(x)
    for i in range(steps):
        pooled = np.zeros((HEADS, VALUE))
        for h in range(HEADS):
            for j in range(i + 1):
                if not valid[j]:
                    continue
                between = max(sum(valid[: i + 1]) - sum(valid[: j + 1]), 0)
                score = q[i, h] @ k[j, h] + w["position_bias"][min(between, N - 1)]
                if gap is not None:
                    score += w["time_bias"][bucket(gap[i], gap[j])]
                pooled[h] += silu(score) / N * v[j, h]
        gated = norm(pooled.reshape(-1), value_epsilon) * u[i].reshape(-1)
        out[i] = x[i] + gated @ w["output_kernel"] + w["output_bias"]
    return out


@pytest.mark.parametrize("use_time", [False, True])
def test_equation(use_time):
    layer, x = built(layer_of(use_time=use_time), (None, T, D)), normal(B, T, D)
    gap = gaps() if use_time else None
    for valid, given in ((mask(), mask()), (np.ones((B, T), bool), None)):
        out = np.asarray(layer(x, mask=given, gaps=gap))
        for b in range(B):
            expected = loop(values(layer), x[b].astype("float64"), valid[b], None if gap is None else gap[b])
            np.testing.assert_allclose(out[b][valid[b]], expected[valid[b]], rtol=1e-4, atol=1e-5)
            assert np.all(np.isfinite(out[b]))


def test_time_buckets():
    got = np.asarray(time_buckets(np.arange(34)[None], 32))[0]
    for i in range(34):
        for j in range(34):
            assert got[i, j] == bucket(i, j), (i, j)


def test_causal():
    """The output at step i does not change with any later step."""
    layer, x = built(layer_of(), (None, T, D)), normal(B, T, D)
    whole = np.asarray(layer(x, mask=mask()))
    for i in range(T - 1):
        changed = np.concatenate([x[:, : i + 1], normal(B, T - i - 1, D, seed=i)], axis=1)
        np.testing.assert_allclose(np.asarray(layer(changed, mask=mask()))[:, : i + 1], whole[:, : i + 1], rtol=1e-6, atol=1e-6)
    first = np.concatenate([normal(B, 1, D, seed=8), x[:, 1:]], axis=1)
    moved = np.abs(np.asarray(layer(first)) - np.asarray(layer(x))).max(axis=-1)
    assert (moved > 1e-3).all()  # but every step sees the first


def test_a_longer_history_weighs_more():
    """No softmax: an event k times in the history counts k times, until the second norm hides it."""
    layer = built(layer_of(), (None, T, D))
    layer._norm = lambda x, epsilon: x
    layer.position_bias.assign(np.zeros(N))
    layer.output_bias.assign(np.zeros(D))
    event = np.repeat(normal(1, 1, D), 3, axis=1)
    once, thrice = (np.asarray(layer(event[:, :n]))[0, -1] - event[0, 0] for n in (1, 3))
    assert np.abs(once).max() > 1e-3
    np.testing.assert_allclose(thrice, 3 * once, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("use_time", [False, True])
def test_a_target_is_one_more_step(use_time):
    """Behind all others, whether it stands in X or apart from it."""
    layer, x, target = built(layer_of(use_time=use_time), (None, T, D)), normal(B, T, D), normal(B, D, seed=1)
    shown = np.concatenate([mask(), np.ones((B, 1), bool)], axis=1)
    times = {"gaps": gaps()} if use_time else {}
    longer = {key: np.pad(value, ((0, 0), (0, 1)), constant_values=2) for key, value in times.items()}
    whole = np.asarray(layer(np.concatenate([x, target[:, None]], axis=1), mask=shown, **longer))
    steps, row = layer(x, mask=mask(), target=target, **times)
    np.testing.assert_allclose(steps, whole[:, :-1], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(row, whole[:, -1], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(layer(x, mask=mask(), **times), steps)
    np.testing.assert_allclose(layer(x, mask=mask(), target=target, target_only=True, **times), row, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("use_time", [False, True])
def test_contract(use_time):
    check_layer(
        layer_of(use_time=use_time),
        (B, T, D),
        call_kwargs={"mask": mask(), **({"gaps": gaps()} if use_time else {})},
        sequence=(0, "gaps"),
        mask_output="sequence",
        low_precision_tolerance=0.1,
    )


def test_contract_with_a_target():
    check_layer(
        layer_of(use_time=True),
        (B, T, D),
        call_kwargs={"mask": mask(), "gaps": gaps(), "target": (B, D)},
        sequence=(0, "gaps"),
        mask_output=["sequence", "pool"],
        low_precision_tolerance=0.1,
    )


def encoder(**kwargs):
    return HSTUEncoder(2, num_heads=HEADS, key_dim=KEY, value_dim=VALUE, max_length=N, **kwargs)


@pytest.mark.parametrize("use_time", [False, True])
def test_encoder_reads_the_candidate_after_the_events(use_time):
    layer = built(encoder(use_time=use_time), (None, D), (None, T, D))
    target, events, gap = normal(B, D, seed=1), normal(B, T, D, seed=2), gaps()
    out = layer(target, events, mask=mask(), gaps=gap if use_time else None)
    w = values(layer)
    for b in range(B):
        x = np.concatenate([events[b], target[b : b + 1]]).astype("float64")
        times = np.append(gap[b], 2) if use_time else None
        for index in range(2):
            x = loop(part(w, f"layer_{index}"), x, [*mask()[b], True], times, layer.units[0].epsilon, layer.units[0].value_epsilon)
        np.testing.assert_allclose(out[b], x[-1], rtol=1e-4, atol=1e-5)


def test_contract_of_the_encoder():
    check_layer(
        encoder(use_time=True),
        (B, D),
        (B, T, D),
        call_kwargs={"mask": mask(), "gaps": gaps()},
        sequence=(1, "gaps"),
        low_precision_tolerance=0.1,
    )


def test_padding_on_either_side_changes_nothing():
    layer = built(encoder(use_time=True), (None, D), (None, T, D))
    check_padding(layer, normal(B, D, seed=1), normal(B, T, D, seed=2), steps=(1,), mask=mask(), gaps=gaps())


def test_small_embeddings_are_normalised_not_swamped():
    """Tokens as tables start them, N(0, 0.01^2): what the gate multiplies has a variance near 1."""
    layer = HSTULayer(max_length=200)
    layer.build((None, 50, 32))
    seen = []
    original = layer._norm
    layer._norm = lambda x, epsilon: seen.append(original(x, epsilon)) or seen[-1]
    layer(0.01 * normal(5, 50, 32))
    seen = [keras.ops.convert_to_numpy(x) for x in seen]
    assert seen[0].std(axis=-1).min() > 0.9 and np.median(seen[1].std(axis=-1)[:, 10:]) > 0.5


def test_parameter_count():
    count = 2 * D * HEADS * (KEY + VALUE) + HEADS * VALUE * D + D
    assert weight_count(built(layer_of(), (None, T, D))) == count + N
    assert weight_count(built(layer_of(use_time=True), (None, T, D))) == count + N + 32
    assert weight_count(built(HSTULayer(max_length=N), (None, T, D))) == 4 * D * D + D * D + D + N


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: HSTULayer(0), "num_heads"),
        (lambda: HSTULayer(max_length=0), "max_length"),
        (lambda: HSTULayer(key_dim=0), "key_dim"),
        (lambda: HSTULayer(dropout=1.0), "dropout"),
        (lambda: HSTULayer(2).build((None, T, D)), "2 heads do not divide the width 11"),
        (lambda: built(layer_of(use_time=True), (None, T, D))(normal(B, T, D)), "time bias"),
        (lambda: built(layer_of(), (None, T, D))(normal(B, T, D), target_only=True), "target_only needs a target"),
        (lambda: HSTUEncoder(0), "num_layers"),
        (lambda: encoder().build((None, D + 1), (None, T, D)), "the target is 12 wide"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
