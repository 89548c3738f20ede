"""The two gates of GateNet: one on feature embeddings, one on hidden layers."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_choice
from keras_ctr.layers.cloning import clone_initializer


@keras.saving.register_keras_serializable(package="keras_ctr")
class FeatureGate(keras.Layer):
    """Lets every token decide how much of itself to pass: map `(B, F, D) -> (B, F, D)`.

    ```
    Y_i = X_i * f(X_i W_i)          W_i (D, 1): one gate a token (vector-wise), or (D, D): one for every element (bit-wise)
    ```

    Parameters: `F D` or `F D^2` with private weights, `D` or `D^2` with one W for all tokens.

    Args:
        kind: `"vector"` or `"bit"`.
        sharing: `"private"`, a W for each token, or `"shared"`.
        activation: f, of the gate.
        kernel_initializer: Of each W_i by itself.

    Raises:
        ValueError: On an unknown `kind` or `sharing`, or an input that is not `(B, F, D)` with F and D known.

    Source: GateNet (arXiv:2007.03519, section 3, feature embedding gate). Deviations: read as without bias. The gate starts near
    sigmoid(0) = 1/2 as in the paper, not at 1.
    """

    KINDS = ("vector", "bit")
    SHARINGS = ("private", "shared")

    def __init__(self, kind="vector", *, sharing="private", activation="sigmoid", kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        check_choice(self, "kind", kind, self.KINDS)
        check_choice(self, "sharing", sharing, self.SHARINGS)
        self.kind = kind
        self.sharing = sharing
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, inputs_shape):
        if len(inputs_shape) != 3 or None in tuple(inputs_shape[1:]):
            raise ValueError(f"FeatureGate '{self.name}' needs an input (B, F, D) with F and D known, got {tuple(inputs_shape)}")
        _, tokens, width = inputs_shape
        shape = (width, 1 if self.kind == "vector" else width)
        initializer = clone_initializer(self.kernel_initializer)
        if self.sharing == "private":
            shape, initializer = (tokens, *shape), self._draw_each
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=initializer)
        self.built = True

    def _draw_each(self, shape, dtype=None):
        """Draws the W of each token by itself: its fans are its own, not those of the stack."""
        return ops.stack([clone_initializer(self.kernel_initializer, i)(shape[1:], dtype=dtype) for i in range(shape[0])])

    def call(self, inputs):
        if self.sharing == "shared":
            score = ops.matmul(inputs, self.kernel)  # (B, F, 1) or (B, F, D)
        elif self.kind == "vector":
            score = ops.sum(inputs * ops.squeeze(self.kernel, -1), axis=-1, keepdims=True)  # (B, F, 1)
        else:
            score = ops.matmul(ops.transpose(inputs, (1, 0, 2)), self.kernel)  # (F, B, D)
            score = ops.transpose(score, (1, 0, 2))  # (B, F, D)
        return inputs * self.activation(score)

    def compute_output_shape(self, inputs_shape):
        return tuple(inputs_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "kind": self.kind,
            "sharing": self.sharing,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


@keras.saving.register_keras_serializable(package="keras_ctr")
class HiddenGate(keras.Layer):
    """Gate of a hidden layer on itself: vector `(B, N) -> (B, N)`.

    `y = a * f(a W)`, W (N, N): N^2 parameters.

    Args:
        activation: f, of the gate.
        kernel_initializer: Of W.

    Source: GateNet (arXiv:2007.03519, section 3, hidden gate). Deviations: read as without bias. As `FeatureGate`, it starts near 1/2.
    """

    def __init__(self, *, activation="sigmoid", kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, inputs_shape):
        shape = (inputs_shape[-1], inputs_shape[-1])
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=clone_initializer(self.kernel_initializer))
        self.built = True

    def call(self, inputs):
        return inputs * self.activation(ops.matmul(inputs, self.kernel))  # (B, N)

    def compute_output_shape(self, inputs_shape):
        return tuple(inputs_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
