"""Dice, the data-adaptive activation of DIN."""

import keras
from keras import ops

from keras_ctr.layers.mlp import BATCH_NORM_MOMENTUM


@keras.saving.register_keras_serializable(package="keras_ctr")
class Dice(keras.Layer):
    """Data-adaptive PReLU: map `(..., N) -> (..., N)`.

    `p = sigmoid((x - mean) / sqrt(var + epsilon))`, `y = p x + (1 - p) alpha x`, per unit; mean and variance of the batch in training,
    moving averages otherwise. Parameters: N trained (alpha, from 0), 2N moving statistics.

    Args:
        momentum: Share of the old moving average that a step keeps.
        epsilon: Added to the variance.
        masked_stats: Whether the batch statistics leave out the steps that `mask` hides; public implementations count padding in.

    Call arguments:
        inputs: `(..., N)`, at least two axes.
        mask: bool `(...)`, True = valid; None = all valid. Only training statistics depend on it: every step is activated.

    Raises:
        ValueError: On a momentum outside [0, 1], a negative epsilon or an input with fewer than two axes.

    Source: DIN (Zhou et al. 2018, arXiv:1706.06978), equation 3. The statistics over valid steps are ours: the paper has no padding.
    Public code keeps 0.99 of the moving statistics in a step, which leaves much of their initial values after a short epoch.
    """

    def __init__(self, *, momentum=BATCH_NORM_MOMENTUM, epsilon=1e-9, masked_stats=True, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= momentum <= 1:
            raise ValueError(f"Dice '{self.name}': momentum must be in [0, 1], got {momentum!r}")
        if epsilon < 0:
            raise ValueError(f"Dice '{self.name}': epsilon must not be negative, got {epsilon!r}")
        self.momentum = momentum
        self.epsilon = epsilon
        self.masked_stats = masked_stats
        self.supports_masking = True
        self.norm = keras.layers.BatchNormalization(
            momentum=momentum, epsilon=epsilon, center=False, scale=False, name="norm", dtype=self.dtype_policy
        )

    def build(self, input_shape):
        if len(input_shape) < 2 or input_shape[-1] is None:
            raise ValueError(f"Dice '{self.name}' needs an input (..., N) with at least two axes and known N, got {tuple(input_shape)}")
        self.norm.build(input_shape)
        self.alpha = self.add_weight(name="alpha", shape=(input_shape[-1],), initializer="zeros")
        self.built = True

    def call(self, inputs, mask=None, training=None):
        x = inputs  # (..., N)
        if self.masked_stats and mask is not None:
            normal = self.norm(x, mask=mask, training=training)
        else:
            normal = self.norm(x, training=training)
        gate = ops.sigmoid(normal)  # (..., N)
        return x * (gate + (1 - gate) * self.alpha)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum, "epsilon": self.epsilon, "masked_stats": self.masked_stats}
