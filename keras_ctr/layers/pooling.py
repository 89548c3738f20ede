"""Pooling of behaviour sequences into one vector or one token per sequence."""

import keras
from keras import ops


def masked_mean(events, mask):
    """Returns the mean over the valid steps, zeros where there is none: `(B, T, D), (B, T) -> (B, D)`."""
    weights = ops.cast(mask, events.dtype)  # (B, T)
    total = ops.squeeze(ops.matmul(ops.expand_dims(weights, 1), events), 1)  # (B, D)
    return total / ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1)


@keras.saving.register_keras_serializable(package="keras_ctr")
class SequencePooling(keras.Layer):
    """Masked mean of a group's sequences, one token a sequence: map `(B, T, M*D) -> (B, M, D)`.

    `y_m = sum_t mask_t x_{t,m} / max(1, sum_t mask_t)`. No weights; an empty history gives zeros.

    Args:
        num_sequences: M, the sequences that lie side by side on the last axis.

    Call arguments:
        inputs: `(B, T, M*D)`.
        mask: `(B, T)` bool, True = valid; None = all valid.

    Raises:
        ValueError: If the width is no multiple of `num_sequences`.

    Source: how public benchmarks feed histories to non-sequential models.
    """

    def __init__(self, num_sequences=1, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(num_sequences, int) or num_sequences < 1:
            raise ValueError(f"SequencePooling '{self.name}': num_sequences must be a positive int, got {num_sequences!r}")
        self.num_sequences = num_sequences
        self.supports_masking = True

    def build(self, inputs_shape):
        if inputs_shape[-1] % self.num_sequences:
            raise ValueError(f"SequencePooling '{self.name}': width {inputs_shape[-1]} is no multiple of {self.num_sequences} sequences")
        self.built = True

    def call(self, inputs, mask=None):
        pooled = ops.mean(inputs, axis=1) if mask is None else masked_mean(inputs, mask)  # (B, M*D)
        return ops.reshape(pooled, (-1, self.num_sequences, inputs.shape[-1] // self.num_sequences))  # (B, M, D)

    def compute_mask(self, inputs, previous_mask=None):
        return None  # one token a sequence, always valid

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], self.num_sequences, inputs_shape[-1] // self.num_sequences)

    def get_config(self):
        return {**super().get_config(), "num_sequences": self.num_sequences}
