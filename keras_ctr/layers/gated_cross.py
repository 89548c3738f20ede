"""Gated cross network of GDCN: crosses that pass an information gate."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_int
from keras_ctr.layers.cloning import clone_initializer


@keras.saving.register_keras_serializable(package="keras_ctr")
class GatedCrossNetwork(keras.Layer):
    """Stack of gated cross layers: vector `(B, N) -> (B, N)`.

    ```
    x_{l+1} = x_0 * (W_l x_l + b_l) * sigmoid(W_l^(g) x_l) + x_l          l = 0 .. L-1
    ```

    The first factor holds the crosses of the next order, the gate decides bit by bit how much of them goes on. Parameters:
    `L (2 N^2 + N)`.

    Args:
        num_layers: L; 0 returns the input.
        kernel_initializer: Of W_l.
        gate_initializer: Of W_l^(g). With zeros every gate is 1/2: a `CrossNetwork` of half its W and b.
        bias_initializer: Of b_l.
        kernel_regularizer: Of all kernels.

    Raises:
        ValueError: On a negative `num_layers`, or an input that is not `(B, N)` with N known.

    Source: GDCN (arXiv:2311.04635, section 3, gated cross network). Deviations: none in the equation, which has no bias within the gate;
    b starts at 0, where a public implementation draws U(0, 1).

    Precision: matrix products run in the compute dtype; the running x_l is kept in float32 and cast at the end, since it grows with l.
    """

    def __init__(
        self,
        num_layers=3,
        *,
        kernel_initializer="glorot_uniform",
        gate_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_int(self, "num_layers", num_layers, least=0)
        self.num_layers = num_layers
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.gate_initializer = keras.initializers.get(gate_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)

    def build(self, inputs_shape):
        if len(inputs_shape) != 2 or inputs_shape[-1] is None:
            raise ValueError(
                f"GatedCrossNetwork '{self.name}' needs an input (B, N) with N known, got {tuple(inputs_shape)}: flatten the fields first"
            )
        width = inputs_shape[-1]
        self.kernels, self.gate_kernels, self.biases = [], [], []
        for layer in range(self.num_layers):
            for name, initializer, kernels in (
                ("kernel", self.kernel_initializer, self.kernels),
                ("gate_kernel", self.gate_initializer, self.gate_kernels),
            ):
                kernels.append(
                    self.add_weight(
                        name=f"{name}_{layer}",
                        shape=(width, width),
                        initializer=clone_initializer(initializer, layer),
                        regularizer=self.kernel_regularizer,
                    )
                )
            self.biases.append(self.add_weight(name=f"bias_{layer}", shape=(width,), initializer=self.bias_initializer))
        self.built = True

    def call(self, inputs):
        x0 = x = ops.cast(inputs, keras.backend.result_type(self.compute_dtype, "float32"))  # (B, N)
        for kernel, gate_kernel, bias in zip(self.kernels, self.gate_kernels, self.biases, strict=True):
            low = ops.cast(x, self.compute_dtype)
            crossed = ops.cast(ops.matmul(low, kernel) + bias, x0.dtype)  # (B, N)
            gate = ops.sigmoid(ops.cast(ops.matmul(low, gate_kernel), x0.dtype))  # (B, N)
            x = x0 * crossed * gate + x  # (B, N)
        return ops.cast(x, self.compute_dtype)

    def compute_output_shape(self, inputs_shape):
        return tuple(inputs_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "gate_initializer": keras.initializers.serialize(self.gate_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }
