"""Sums over a history, as the codes of DIEN, DMIN and DMR put them beside their own pooling."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_ctr")
class HistorySum(keras.Layer):
    """Sum of the events, and its product with the candidate: pool `(B, T, D), (B, D) -> (B, 2D)`.

    `y = [sum_t s_t || e * sum_t s_t]` over the valid steps. No weights; an empty history gives zeros.

    Call arguments:
        sequence: s, `(B, T, D)`.
        target: e, the candidate, `(B, D)`.
        mask: `(B, T)` bool, True = valid; None = all valid.

    Raises:
        ValueError: If target and sequence differ in width.

    Source: the codes that the authors of DIEN (arXiv:1809.03672), DMIN and DMR published; their papers do not write it.
    """

    one_row_arguments = ("sequence", "mask")  # may have one row for all targets

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, sequence_shape, target_shape):
        if sequence_shape[-1] != target_shape[-1]:
            raise ValueError(
                f"HistorySum '{self.name}' needs a sequence and a target of equal width, got {sequence_shape[-1]} and {target_shape[-1]}"
            )
        self.built = True

    def call(self, sequence, target, mask=None):
        # float32: a sum over many events of low precision loses the small ones.
        events = ops.cast(sequence, keras.backend.result_type(self.compute_dtype, "float32"))
        if mask is not None:
            events = ops.where(ops.expand_dims(mask, -1), events, 0.0)
        total = ops.cast(ops.sum(events, axis=1), self.compute_dtype)  # (B, D)
        return ops.concatenate([ops.broadcast_to(total, ops.shape(target)), target * total], axis=-1)  # (B, 2D)

    def compute_mask(self, sequence, previous_mask=None):
        return None  # one vector, always valid

    def compute_output_shape(self, sequence_shape, target_shape):
        return (target_shape[0], 2 * sequence_shape[-1])
