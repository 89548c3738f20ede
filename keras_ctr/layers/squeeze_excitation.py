"""Squeeze and excitation of fields (SENET) of FiBiNET."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_int
from keras_ctr.layers.cloning import clone_initializer


@keras.saving.register_keras_serializable(package="keras_ctr")
class SqueezeExcitation(keras.Layer):
    """Weighs each token by its importance in the row: map `(B, F, D) -> (B, F, D)`.

    ```
    z_f = mean_d X_fd                            squeeze      (B, F)
    a   = g( relu(z W_1) W_2 )                   excitation   (B, F)     W_1 (F, R), W_2 (R, F), R = max(1, floor(F / r)), no bias
    V_f = a_f X_f                                re-weigh
    ```

    2 F R weights. The mean and the gates are computed in float32.

    Args:
        reduction_ratio: r.
        gate_activation: g. Under `"relu"` a gate may be 0 for a field whatever the row, for good; `"sigmoid"` always lets a part through.
        kernel_initializer: Of W_1 and W_2.

    Raises:
        ValueError: On a non-positive `reduction_ratio` or an input that is not `(B, F, D)`.

    Source: FiBiNET (arXiv:1905.09433, section 3, SENET layer). Deviations: none; public implementations round F / r differently.
    """

    def __init__(self, reduction_ratio=3, *, gate_activation="relu", kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        check_int(self, "reduction_ratio", reduction_ratio)
        self.reduction_ratio = reduction_ratio
        self.gate_activation = keras.activations.get(gate_activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, inputs_shape):
        if len(inputs_shape) != 3 or None in tuple(inputs_shape[1:]):
            raise ValueError(f"SqueezeExcitation '{self.name}' needs tokens (B, F, D), F and D known, got {tuple(inputs_shape)}")
        fields = inputs_shape[1]
        reduced = max(1, fields // self.reduction_ratio)
        self.kernels = []
        for index, shape in enumerate(((fields, reduced), (reduced, fields))):
            initializer = clone_initializer(self.kernel_initializer, index)
            self.kernels.append(self.add_weight(name=f"kernel_{index}", shape=shape, initializer=initializer, autocast=False))
        self.built = True

    def gates(self, inputs):
        """Returns the weight of every token, `(B, F)` in float32: which fields the row's score listens to."""
        squeeze, excite = self.kernels
        means = ops.mean(ops.cast(inputs, squeeze.dtype), axis=-1)  # (B, F)
        return self.gate_activation(ops.matmul(ops.relu(ops.matmul(means, squeeze)), excite))

    def call(self, inputs):
        return inputs * ops.cast(ops.expand_dims(self.gates(inputs), -1), self.compute_dtype)

    def compute_output_shape(self, inputs_shape):
        return inputs_shape

    def get_config(self):
        return {
            **super().get_config(),
            "reduction_ratio": self.reduction_ratio,
            "gate_activation": keras.activations.serialize(self.gate_activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
