"""The personalized feed-forward network: a linear map of the sequence whose matrix is made from the fields."""

import keras
import numpy as np
from keras import ops

from keras_ctr.layers.arguments import check_choice, check_units
from keras_ctr.layers.mlp import MLP


@keras.saving.register_keras_serializable(package="keras_ctr")
class PersonalizedFFN(keras.Layer):
    """Maps each token of a sequence by a matrix made from the row's field summary: map `(B, S, D), (B, n, D) -> (B, S, D)`.

    ```
    kind="mlp":     Y = S M,  M = reshape_{D x D}( MLP(vec(X)) )          MLP: nD -> hidden_units -> D^2, linear at its end
    kind="linear":  Y = S M,  M^T = X^T W, W (n, D) learned               rank(M) <= n
    ```

    with S the tokens as rows and X the summary. Parameters: `"linear"` nD; `"mlp"` with one hidden layer of h: `nD h + h + h D^2 + D^2`.

    Args:
        kind: `"mlp"` (Eq. 8: "f is an MLP") or `"linear"` (section A.2.2).
        hidden_units: Of the MLP; None = `(D,)`. Only for `"mlp"`.
        activation: Of its hidden layers.
        start: `"zeros"` or `"identity"`: the bias of the MLP's last layer, so that M starts near 0 (for a residual block) or near the
            identity (for a block without a residual, where a product of two small numbers would not train). Only for `"mlp"`.
        kernel_initializer: Of W (`"linear"`).

    Call arguments:
        sequence: `(B, S, D)`.
        summary: `(B, n, D)`.

    Raises:
        ValueError: On an unknown kind or start, or if the widths of the two differ.

    Source: InterFormer (Eq. 8 and section A.2.2).
    Deviations: both readings of the paper are here. With `"linear"` every token falls into the span of the n = 4 summary tokens, and a
    block without residual collapses the sequence to that.
    """

    KINDS = ("mlp", "linear")
    STARTS = ("zeros", "identity")

    def __init__(self, *, kind="mlp", hidden_units=None, activation="swish", start="zeros", kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        check_choice(self, "kind", kind, self.KINDS)
        check_choice(self, "start", start, self.STARTS)
        self.kind = kind
        self.hidden_units = None if hidden_units is None else check_units(self, "hidden_units", hidden_units)
        self.activation = keras.activations.get(activation)
        self.start = start
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, sequence_shape, summary_shape):
        tokens, width = summary_shape[1], summary_shape[2]
        if sequence_shape[-1] != width:
            raise ValueError(f"PersonalizedFFN '{self.name}': sequence width {sequence_shape[-1]} and summary width {width} differ")
        if self.kind == "linear":
            self.kernel = self.add_weight(name="kernel", shape=(tokens, width), initializer=self.kernel_initializer.clone())
        else:
            units = (width,) if self.hidden_units is None else self.hidden_units
            self.mlp = MLP(units, activation=self.activation, name="mlp", dtype=self.dtype_policy)
            self.mlp.build((None, tokens * width))
            bias = "zeros" if self.start == "zeros" else _flat_identity(width)
            self.matrix = keras.layers.Dense(width * width, bias_initializer=bias, name="matrix", dtype=self.dtype_policy)
            self.matrix.build(self.mlp.compute_output_shape((None, tokens * width)))
        self.built = True

    def call(self, sequence, summary):
        tokens, width = summary.shape[1], summary.shape[2]
        if self.kind == "linear":
            # S M = (S W^T) X: the D x D matrix is never formed.
            return ops.matmul(ops.matmul(sequence, ops.transpose(self.kernel)), summary)  # (B, S, n) x (B, n, D)
        flat = ops.reshape(summary, (-1, tokens * width))  # (B, n*D)
        matrix = ops.reshape(self.matrix(self.mlp(flat)), (-1, width, width))  # (B, D, D)
        return ops.matmul(sequence, matrix)  # (B, S, D)

    def compute_output_shape(self, sequence_shape, summary_shape=None):
        return tuple(sequence_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "kind": self.kind,
            "hidden_units": None if self.hidden_units is None else list(self.hidden_units),
            "activation": keras.activations.serialize(self.activation),
            "start": self.start,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def _flat_identity(width):
    return keras.initializers.Constant(np.eye(width, dtype="float32").reshape(-1))
