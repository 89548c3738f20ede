"""The interacting layer of AutoInt: multi-head self-attention over fields."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_choice, check_int


@keras.saving.register_keras_serializable(package="keras_ctr")
class InteractingLayer(keras.Layer):
    """Multi-head self-attention of the fields with a shortcut: map `(B, F, D) -> (B, F, H E)`.

    ```
    A_h = softmax_j( <X_i W_Q^h, X_j W_K^h> )                     (F, F)
    Y   = f( [A_1 X W_V^1 || .. || A_H X W_V^H] + S(X) )          S(X) = X W_R, X or 0
    ```

    No positions: a permutation of the fields permutes the output alike. Parameters: `4 D H E` with the projected shortcut, `3 D H E`
    without.

    Args:
        num_heads: H.
        key_dim: E, the width of a head.
        shortcut: S: `"projection"` (the paper), `"identity"` (needs D = H E) or None.
        scale: Whether to divide the scores by sqrt(E). The paper does not.
        activation: f.
        dropout: Share of the attention weights dropped in training.
        kernel_initializer: Of the kernels.

    Call arguments:
        inputs: `(B, F, D)`.
        return_attention: Whether to return `(out, A)`, A `(B, H, F, F)` float32, rows summing to 1 (before dropout).

    Raises:
        ValueError: On a non-positive size, an unknown shortcut, a dropout rate outside [0, 1), or `"identity"` with D != H E.

    Source: AutoInt (arXiv:1810.11921, Eq. 5 to 8).
    Deviations: none by default; the softmax runs in float32 under every policy.
    """

    SHORTCUTS = ("projection", "identity", None)

    def __init__(
        self,
        num_heads=2,
        *,
        key_dim=32,
        shortcut="projection",
        scale=False,
        activation="relu",
        dropout=0.0,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_int(self, "num_heads", num_heads)
        check_int(self, "key_dim", key_dim)
        check_choice(self, "shortcut", shortcut, self.SHORTCUTS)
        if not 0 <= dropout < 1:
            raise ValueError(f"InteractingLayer '{self.name}': dropout must be in [0, 1), got {dropout!r}")
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.shortcut = shortcut
        self.scale = scale
        self.activation = keras.activations.get(activation)
        self.dropout = dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.attention_dropout = keras.layers.Dropout(dropout, name="dropout", dtype=self.dtype_policy) if dropout else None

    def build(self, inputs_shape):
        width, out = inputs_shape[-1], self.num_heads * self.key_dim
        if self.shortcut == "identity" and width != out:
            raise ValueError(
                f"InteractingLayer '{self.name}': shortcut='identity' needs num_heads * key_dim = {out} to be the width {width}; "
                "use shortcut='projection'"
            )
        self.query_dense = self._dense("query", inputs_shape)
        self.key_dense = self._dense("key", inputs_shape)
        self.value_dense = self._dense("value", inputs_shape)
        self.shortcut_dense = self._dense("shortcut", inputs_shape) if self.shortcut == "projection" else None
        if self.attention_dropout is not None:
            self.attention_dropout.build((None, self.num_heads, inputs_shape[1], inputs_shape[1]))
        self.built = True

    def _dense(self, name, shape):
        units, initializer = self.num_heads * self.key_dim, self.kernel_initializer.clone()
        dense = keras.layers.Dense(units, use_bias=False, kernel_initializer=initializer, name=name, dtype=self.dtype_policy)
        dense.build(shape)
        return dense

    def call(self, inputs, training=None, *, return_attention=False):
        fields = inputs.shape[1]
        q, k, v = (self._heads(dense(inputs), fields) for dense in (self.query_dense, self.key_dense, self.value_dense))
        q = ops.transpose(q, (0, 2, 1, 3))  # (B, H, F, E)
        k = ops.transpose(k, (0, 2, 3, 1))  # (B, H, E, F)
        v = ops.transpose(v, (0, 2, 1, 3))  # (B, H, F, E)
        if self.scale:
            q = q * self.key_dim**-0.5
        attention = ops.softmax(ops.cast(ops.matmul(q, k), "float32"), axis=-1)  # (B, H, F, F)
        weights = ops.cast(attention, v.dtype)
        if self.attention_dropout is not None:
            weights = self.attention_dropout(weights, training=training)
        out = ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3))  # (B, F, H, E)
        out = ops.reshape(out, (-1, fields, self.num_heads * self.key_dim))  # (B, F, H E)
        if self.shortcut is not None:
            out = out + (inputs if self.shortcut_dense is None else self.shortcut_dense(inputs))
        out = self.activation(out)
        return (out, attention) if return_attention else out

    def _heads(self, x, fields):
        return ops.reshape(x, (-1, fields, self.num_heads, self.key_dim))

    def compute_output_shape(self, inputs_shape):
        return (*tuple(inputs_shape)[:2], self.num_heads * self.key_dim)

    def compute_output_spec(self, inputs, training=None, *, return_attention=False):
        out = keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=self.compute_dtype)
        attention = keras.KerasTensor((inputs.shape[0], self.num_heads, inputs.shape[1], inputs.shape[1]), dtype="float32")
        return (out, attention) if return_attention else out

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "shortcut": self.shortcut,
            "scale": self.scale,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
