"""The sum of a history's events, and its product with the candidate."""

import numpy as np
import pytest
from keras.ops import convert_to_numpy as numpy

from keras_ctr.layers.history_sum import HistorySum
from tests.layer_contract import check_layer
from tests.layers.interest_oracles import EMPTY, MASK, B, T, close, f32, normal

D = 3


def test_contract():
    check_layer(HistorySum(), (B, T, D), (B, D), call_kwargs={"mask": MASK}, sequence=(0,), has_weights=False)


def test_equation():
    s, e = normal(B, T, D), normal(B, D, seed=3)
    total = np.array([sum((s[b, t] for t in range(T) if MASK[b, t]), np.zeros(D)) for b in range(B)])
    out = HistorySum()(*f32(s, e), mask=MASK)
    close(out, np.concatenate([total, e * total], axis=1))
    assert not np.any(numpy(out[EMPTY]))
    close(HistorySum()(*f32(s, e)), np.concatenate([s.sum(axis=1), e * s.sum(axis=1)], axis=1))


def test_widths_must_be_equal():
    with pytest.raises(ValueError, match="equal width"):
        HistorySum()(*f32(normal(B, T, D), normal(B, 5)))
