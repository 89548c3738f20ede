"""The last layer of every model: the probability of one label."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_ctr")
class LabelPrediction(keras.Layer):
    """Probability of label i: vector `(B, L) -> (B, 1)`, in float32 under every dtype policy.

    `p = sigmoid(z_i + c)`, or `z_i + c` with `activation="linear"`. The logit is sliced before the sigmoid, which stays the very last
    operation: so the TensorFlow backend recovers it from the probability and binary cross-entropy is exact at any magnitude.

    Args:
        index: i, the position of the label's logit.
        activation: `"sigmoid"` or `"linear"` (None is `"linear"`).
        offset: c, a constant: `log(r / (1 - r))` starts an untrained model at the rate r of the label (`Label.rate`).
        uncertainty: Whether the layer holds the label's log-variance, a scalar weight that `losses.UncertaintyWeighted` trains and that the
            output does not depend on.

    Raises:
        ValueError: On another activation, or if there are at most `index` logits.
    """

    def __init__(self, index=0, *, activation="sigmoid", offset=0.0, uncertainty=False, **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.index = index
        self.activation = activation or "linear"
        self.offset = offset
        self.uncertainty = uncertainty
        if self.activation not in ("sigmoid", "linear"):
            raise ValueError(f"LabelPrediction '{self.name}': activation must be 'sigmoid', 'linear' or None, got {activation!r}")

    def build(self, inputs_shape):
        if not 0 <= self.index < inputs_shape[-1]:
            raise ValueError(f"LabelPrediction '{self.name}': there is no logit {self.index} among {inputs_shape[-1]}")
        if self.uncertainty:
            self.log_variance = self.add_weight(name="log_variance", shape=(), initializer="zeros")
        self.built = True

    def call(self, inputs):
        logit = inputs[:, self.index : self.index + 1]  # (B, 1)
        if self.offset:
            logit = logit + self.offset
        return ops.sigmoid(logit) if self.activation == "sigmoid" else logit

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], 1)

    def get_config(self):
        return {
            **super().get_config(),
            "index": self.index,
            "activation": self.activation,
            "offset": self.offset,
            "uncertainty": self.uncertainty,
        }
