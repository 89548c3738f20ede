"""TransAct's encoder against loops, and its random time window."""

import keras
import numpy as np
import pytest

from keras_ctr.layers.trans_act import TransActEncoder, gap_seconds
from tests.layer_contract import check_layer, weight_count
from tests.layers.transformer_oracles import CLOSE, B, T, block, built, check_padding, dense, mask, mlp_count, normal, part, values

D, U, K, HEADS, LAYERS = 3, 11, 2, 2, 2
SHAPES = ((None, D), (None, T, D))


def layer_of(**kwargs):
    return TransActEncoder(LAYERS, **{"num_heads": HEADS, "ffn_units": U, "num_recent": K, "dropout": 0.0, **kwargs})


def inputs():
    return normal(B, D, seed=1), normal(B, T, D, seed=2)


def gaps():
    """Older events are further away: 8, 7, .. 2, that is 63, 31, .. 0 seconds and more."""
    return np.tile(np.arange(T + 1, 1, -1), (B, 1)).astype("int32")


def loop(layer, target, events, valid):
    w, out = values(layer), []
    for b in range(B):
        x = np.array([np.concatenate([events[b, t], target[b]]) for t in range(T)]).astype("float64")
        for index in range(LAYERS):
            x = block(part(w, f"block_{index}"), x, valid[b], HEADS)
        steps = [t for t in range(T) if valid[b, t]]
        newest = [x[t] for t in reversed(steps)][:K]
        newest += [np.zeros(2 * D)] * (K - len(newest))
        top = np.array([max(x[t, i] for t in steps) for i in range(2 * D)]) if steps else np.zeros(2 * D)
        out.append(np.concatenate([*newest, dense(part(w, "max_dense"), top)]))
    return np.array(out)


def test_equation():
    layer, (target, events) = built(layer_of(), *SHAPES), inputs()
    np.testing.assert_allclose(layer(target, events, mask=mask()), loop(layer, target, events, mask()), **CLOSE)
    np.testing.assert_allclose(layer(target, events), loop(layer, target, events, np.ones((B, T), bool)), **CLOSE)


def test_an_empty_history_gives_zeros_and_the_bias():
    layer, (target, events) = built(layer_of(), *SHAPES), inputs()
    row = np.asarray(layer(target, events, mask=mask()))[1]
    assert not row[: K * 2 * D].any()
    np.testing.assert_allclose(row[K * 2 * D :], layer.max_dense.bias, rtol=1e-6)


@pytest.mark.parametrize("window", [0.0, 60.0])
def test_contract(window):
    check_layer(
        layer_of(time_window=window),
        (B, D),
        (B, T, D),
        call_kwargs={"mask": mask(), "gaps": gaps()},
        sequence=(1, "gaps"),
        no_gradient=("key/bias",),
    )


def test_padding_on_either_side_changes_nothing():
    layer, (target, events) = built(layer_of(), *SHAPES), inputs()
    check_padding(layer, target, events, steps=(1,), mask=mask())


def test_gap_seconds_is_the_start_of_the_bucket():
    for seconds in (0, 1, 2, 3, 100, 3599, 3600, 2**20):
        bucket = 2 + min(int(np.floor(np.log2(seconds + 1))), 31)
        start = float(gap_seconds(np.array([bucket]))[0])
        assert start <= seconds < 2 * start + 1
    np.testing.assert_array_equal(gap_seconds(np.array([0, 2, 3, 5])), [0, 0, 1, 7])


def test_a_window_of_zero_is_no_mask():
    plain, windowed = built(layer_of(), *SHAPES), built(layer_of(time_window=0.0), *SHAPES)
    target, events = inputs()
    expected = plain(target, events, mask=mask(), training=True)
    np.testing.assert_array_equal(windowed(target, events, mask=mask(), gaps=gaps(), training=True), expected)


def test_the_window_hides_the_youngest_events_in_training_only():
    """With one window, a row's output is that of the row without its j youngest events for one j."""
    layer, plain = built(layer_of(time_window=100.0), *SHAPES), built(layer_of(), *SHAPES)
    target, events = inputs()
    np.testing.assert_array_equal(layer(target, events, gaps=gaps()), plain(target, events))
    np.testing.assert_array_equal(layer(target, events, training=True), plain(target, events))  # no gaps, no window
    shorter = np.array([plain(target, events, mask=np.tile(np.arange(T) < n, (B, 1))) for n in range(T + 1)])  # (T + 1, B, ..)
    seen = set()
    for _ in range(20):
        out = np.asarray(layer(target, events, gaps=gaps(), training=True))
        kept = np.abs(shorter - out).max(axis=-1).argmin(axis=0)
        np.testing.assert_allclose(out, shorter[kept, np.arange(B)], **CLOSE)
        seen |= set(kept.tolist())
    # u ~ U(0, 100): above 63, the oldest event's start, nothing is left, below it six events or fewer stay: gap 0 < u nearly always.
    assert 0 in seen and T not in seen and len(seen) >= 3


def test_a_window_is_reproducible():
    target, events = inputs()

    def draw(layer_seed=None):
        keras.utils.set_random_seed(5)
        layer = built(layer_of(time_window=100.0, seed=layer_seed), *SHAPES)
        return np.array([layer(target, events, gaps=gaps(), training=True) for _ in range(3)])

    first = draw()
    np.testing.assert_array_equal(draw(), first)
    assert np.ptp(first, axis=0).max() > 1e-2  # another draw each step
    assert np.abs(draw(layer_seed=11) - first).max() > 1e-2


def test_parameter_count():
    m = 2 * D
    per_block = 4 * m * m + 4 * m + mlp_count(m, U, m) + 4 * m
    assert per_block == 4 * m * m + 4 * m + 2 * m * U + U + m + 4 * m
    assert weight_count(built(layer_of(), *SHAPES)) == LAYERS * per_block + m * m + m
    assert weight_count(built(layer_of(time_window=1.0), *SHAPES)) == LAYERS * per_block + m * m + m


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: TransActEncoder(0), "num_layers"),
        (lambda: TransActEncoder(num_recent=0), "num_recent"),
        (lambda: TransActEncoder(time_window=-1), "time_window"),
        (lambda: TransActEncoder(ffn_units=0), "ffn_units"),
        (lambda: layer_of(num_heads=5).build(*SHAPES), "5 heads do not divide the width 6"),
        (lambda: layer_of().build((None, D + 1), (None, T, D)), "the target is 4 wide"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
