"""The most recent events of a sequence, whatever its padding."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_int


@keras.saving.register_keras_serializable(package="keras_ctr")
class RecentTokens(keras.Layer):
    """The last K valid steps, oldest first: pool `(B, T, D) -> (B, G*K, D)`. No weights.

    Output j of 0 .. K-1 is the valid step that has exactly K - 1 - j valid steps after it, or a zero vector where there are too few.
    With K = T it moves a sequence to the right end, so that step T is the newest one in every row.

    Args:
        num_recent: K.
        segments: Lengths `(T_1, .., T_G)` of the sequences that lie one after the other on the time axis; the last K of each are taken,
            in the order of the segments. None = one segment.
        skip: Number of leading tokens that belong to no segment and are never taken (CLS tokens).

    Call arguments:
        inputs: `(B, skip + T, D)`, oldest first.
        mask: `(B, skip + T)` bool, True = valid; None = all valid.

    Raises:
        ValueError: On a non-positive count, or if the segments do not add up to T.

    Source: InterFormer (section 4.4, S_recent), after TransAct (arXiv:2306.00248).
    """

    def __init__(self, num_recent, *, segments=None, skip=0, **kwargs):
        super().__init__(**kwargs)
        check_int(self, "num_recent", num_recent)
        check_int(self, "skip", skip, 0)
        self.num_recent = num_recent
        self.segments = None if segments is None else tuple(segments)
        for length in self.segments or ():
            check_int(self, "every segment", length)
        self.skip = skip
        self.supports_masking = True

    def build(self, inputs_shape):
        steps = inputs_shape[1]
        if self.segments and steps is not None and sum(self.segments) + self.skip != steps:
            raise ValueError(
                f"RecentTokens '{self.name}': segments {self.segments} and {self.skip} skipped tokens do not add up to {steps} steps"
            )
        self.built = True

    def call(self, inputs, mask=None):
        steps = inputs.shape[1] or ops.shape(inputs)[1]
        if mask is None:
            mask = ops.ones((1, steps), dtype="bool")
        wanted = ops.arange(self.num_recent, 0, -1, dtype="int32")[None, :, None]  # (1, K, 1)
        start, rows = self.skip, []
        for length in self.segments or (steps - self.skip,):
            valid = ops.cast(mask[:, start : start + length], "int32")  # (B, T_g)
            age = ops.flip(ops.cumsum(ops.flip(valid, axis=1), axis=1), axis=1) * valid  # 1 = newest, 0 = padded
            chosen = ops.cast(ops.equal(age[:, None, :], wanted), inputs.dtype)  # (B, K, T_g)
            rows.append(ops.pad(chosen, ((0, 0), (0, 0), (start, steps - start - length))))  # (B, K, skip + T)
            start += length
        selection = rows[0] if len(rows) == 1 else ops.concatenate(rows, axis=1)  # (B, G*K, skip + T)
        # A product with 0/1 rows: its gradient is a product too, where a gather's is a scatter.
        return ops.matmul(selection, inputs)  # (B, G*K, D)

    def compute_mask(self, inputs, previous_mask=None):
        return None  # the caller has the mask

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], self.num_recent * len(self.segments or (1,)), inputs_shape[2])

    def get_config(self):
        return {
            **super().get_config(),
            "num_recent": self.num_recent,
            "segments": None if self.segments is None else list(self.segments),
            "skip": self.skip,
        }
