"""MergeSequences on two groups of different length."""

import numpy as np
import pytest

from keras_ctr.layers.sequence_merge import MergeSequences
from tests.layers.interformer_oracles import masks, newest

B, T1, T2, D1, D2 = 5, 7, 4, 3, 2
RNG = np.random.default_rng(0)
A = RNG.standard_normal((B, T1, D1)).astype("float32")
Z = RNG.standard_normal((B, T2, D2)).astype("float32")
MASKS = [masks(B, T1), np.roll(masks(B, T2, seed=6), 1, axis=0)]  # rows where the second is longer, too


def test_features_align_the_newest_events():
    out = MergeSequences("features")([A, Z], MASKS)
    for b in range(B):
        want = np.concatenate([newest(A[b], MASKS[0][b], T1), newest(Z[b], MASKS[1][b], T1)], axis=-1)
        np.testing.assert_array_equal(out["tokens"][b], want)
        longest = max(MASKS[0][b].sum(), MASKS[1][b].sum())
        np.testing.assert_array_equal(out["mask"][b], np.arange(T1) >= T1 - longest)


def test_tokens_stand_one_after_the_other():
    other = RNG.standard_normal((B, T2, D1)).astype("float32")
    out = MergeSequences("tokens")([A, other], MASKS)
    np.testing.assert_array_equal(out["tokens"], np.concatenate([A, other], axis=1))
    np.testing.assert_array_equal(out["mask"], np.concatenate(MASKS, axis=1))


@pytest.mark.parametrize("merge, widths", [("tokens", (D1, D1)), ("features", (D1, D2))])
def test_symbolic_shapes_and_types(merge, widths):
    import keras

    layer = MergeSequences(merge)
    again = MergeSequences.from_config(layer.get_config())
    inputs = [keras.Input((t, w)) for t, w in zip((T1, T2), widths, strict=True)]
    out = again(inputs, [keras.Input((t,), dtype="bool") for t in (T1, T2)])
    steps, width = (T1 + T2, D1) if merge == "tokens" else (T1, D1 + D2)
    assert tuple(out["tokens"].shape) == (None, steps, width) and tuple(out["mask"].shape) == (None, steps)
    assert out["mask"].dtype == "bool"


def test_errors():
    with pytest.raises(ValueError, match="merge must be one of"):
        MergeSequences("token")
    with pytest.raises(ValueError, match="one width"):
        MergeSequences("tokens")([A, Z], MASKS)
