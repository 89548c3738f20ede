"""The last layer of every model: the probability of one label."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_ctr")
class LabelPrediction(keras.Layer):
    """Probability of label i: vector `(B, L) -> (B, 1)`, in float32 under every dtype policy.

    `p = sigmoid(z_i)`, or `z_i` with `activation="linear"`. The logit is sliced before the sigmoid, which stays the very last
    operation: so the TensorFlow backend recovers it from the probability and binary cross-entropy is exact at any magnitude.

    Args:
        index: i, the position of the label's logit.
        activation: `"sigmoid"` or `"linear"` (None is `"linear"`).

    Raises:
        ValueError: On another activation, or if there are at most `index` logits.
    """

    def __init__(self, index=0, *, activation="sigmoid", **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.index = index
        self.activation = activation or "linear"
        if self.activation not in ("sigmoid", "linear"):
            raise ValueError(f"LabelPrediction '{self.name}': activation must be 'sigmoid', 'linear' or None, got {activation!r}")

    def build(self, inputs_shape):
        if not 0 <= self.index < inputs_shape[-1]:
            raise ValueError(f"LabelPrediction '{self.name}': there is no logit {self.index} among {inputs_shape[-1]}")
        self.built = True

    def call(self, inputs):
        logit = inputs[:, self.index : self.index + 1]  # (B, 1)
        return ops.sigmoid(logit) if self.activation == "sigmoid" else logit

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], 1)

    def get_config(self):
        return {**super().get_config(), "index": self.index, "activation": self.activation}
