"""Several behaviour sequences of different lengths as one."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_choice
from keras_ctr.layers.recent import RecentTokens


@keras.saving.register_keras_serializable(package="keras_ctr")
class MergeSequences(keras.Layer):
    """One sequence from G: map `[(B, T_g, D_g)] -> (B, T, D)`. No weights.

    `merge="tokens"`: one after the other on the time axis, T = sum of T_g; all D_g equal.
    `merge="features"`: side by side on the last axis, D = sum of D_g, T = max of T_g. The sequences are aligned at their newest events: the
    last step holds the newest event of each, the one before the second newest, and zeros where a sequence has no more.

    Args:
        merge: `"tokens"` or `"features"`.

    Call arguments:
        sequences: List of `(B, T_g, D_g)`, each oldest first.
        masks: List of `(B, T_g)` bool, True = valid.

    Returns:
        `{"mask": (B, T) bool, "tokens": (B, T, D)}`. With `"features"` a step is valid where any sequence has an event.

    Raises:
        ValueError: On an unknown merge, no sequence, or with `"tokens"` on unequal widths.

    Source: InterFormer (section 4.1: `"features"`; section 5.3.1, six sequences as one long sequence: `"tokens"`).
    Deviations: the paper aligns sequences by their padded index; from the newest event on it does not depend on the padding.
    """

    MERGES = ("tokens", "features")

    def __init__(self, merge="tokens", **kwargs):
        super().__init__(**kwargs)
        check_choice(self, "merge", merge, self.MERGES)
        self.merge = merge
        self.supports_masking = True

    def build(self, sequences_shape, masks_shape=None):
        if not sequences_shape:
            raise ValueError(f"MergeSequences '{self.name}': there is no sequence to merge")
        widths = [shape[-1] for shape in sequences_shape]
        if self.merge == "tokens" and len(set(widths)) > 1:
            raise ValueError(f"MergeSequences '{self.name}': merge='tokens' needs sequences of one width, got {widths}")
        if self.merge == "features":
            steps = max(shape[1] for shape in sequences_shape)
            self.align = RecentTokens(steps, name="align", dtype=self.dtype_policy)
            self.align.built = True  # no weights, and it serves sequences of several lengths
        self.built = True

    def call(self, sequences, masks):
        if self.merge == "tokens":
            return {"mask": ops.concatenate(masks, axis=1), "tokens": ops.concatenate(sequences, axis=1)}
        steps = self.align.num_recent
        aligned = [self.align(x, mask=mask) for x, mask in zip(sequences, masks, strict=True)]  # (B, T, D_g) each
        counts = [ops.sum(ops.cast(mask, "int32"), axis=1, keepdims=True) for mask in masks]
        longest = counts[0]
        for count in counts[1:]:
            longest = ops.maximum(longest, count)  # (B, 1)
        mask = ops.arange(steps, dtype="int32")[None, :] >= steps - longest  # (B, T)
        return {"mask": mask, "tokens": ops.concatenate(aligned, axis=-1)}

    def compute_mask(self, inputs, previous_mask=None):
        return None  # the mask is an output

    def compute_output_shape(self, sequences_shape, masks_shape=None):
        batch, steps = sequences_shape[0][0], [shape[1] for shape in sequences_shape]
        steps, width = (sum(steps), sequences_shape[0][-1]) if self.merge == "tokens" else (max(steps), sum(s[-1] for s in sequences_shape))
        return {"mask": (batch, steps), "tokens": (batch, steps, width)}

    def compute_output_spec(self, sequences, masks):
        shapes = self.compute_output_shape([x.shape for x in sequences])
        return {
            "mask": keras.KerasTensor(shapes["mask"], dtype="bool"),
            "tokens": keras.KerasTensor(shapes["tokens"], dtype=self.compute_dtype),
        }

    def get_config(self):
        return {**super().get_config(), "merge": self.merge}
