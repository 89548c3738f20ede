"""RecentTokens against a loop, on every kind of history and on both padding sides."""

import numpy as np
import pytest

from keras_ctr.layers.recent import RecentTokens
from tests.layer_contract import check_layer
from tests.layers.interformer_oracles import masks, newest

B, T, D = 5, 7, 3
X = np.random.default_rng(0).standard_normal((B, T, D)).astype("float32")
MASK = masks(B, T)


@pytest.mark.parametrize("count", [1, 2, T, T + 2])
def test_equation(count):
    out = RecentTokens(count)(X, mask=MASK)
    np.testing.assert_array_equal(out, [newest(X[b], MASK[b], count) for b in range(B)])


def test_contract():
    check_layer(RecentTokens(2), X, call_kwargs={"mask": MASK}, sequence=(0,), has_weights=False)


def test_segments_and_skipped_tokens():
    out = RecentTokens(2, segments=(4, 2), skip=1)(X, mask=MASK)
    want = [np.concatenate([newest(X[b, 1:5], MASK[b, 1:5], 2), newest(X[b, 5:], MASK[b, 5:], 2)]) for b in range(B)]
    np.testing.assert_array_equal(out, want)


def test_no_mask_takes_the_last_steps():
    np.testing.assert_array_equal(RecentTokens(3)(X), X[:, -3:])


def test_padding_side_does_not_matter():
    events = X[:, :3]
    zeros = np.zeros((B, 2, D), "float32")
    after, before = np.concatenate([events, zeros], axis=1), np.concatenate([zeros, events], axis=1)
    valid = np.array([[1, 1, 1, 0, 0]] * B, bool)
    np.testing.assert_array_equal(RecentTokens(2)(after, mask=valid), RecentTokens(2)(before, mask=valid[:, ::-1]))


def test_errors():
    with pytest.raises(ValueError, match="num_recent"):
        RecentTokens(0)
    with pytest.raises(ValueError, match=r"segments \(4, 3\) and 1 skipped tokens do not add up to 7 steps"):
        RecentTokens(2, segments=(4, 3), skip=1)(X)
