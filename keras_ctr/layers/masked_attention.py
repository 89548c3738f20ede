"""Ad-Rec: self-attention over features that drops the weights below a threshold, and the encoder layer around it."""

import keras
import numpy as np
from keras import ops

from keras_ctr.layers.arguments import check_choice, check_epsilon, check_int
from keras_ctr.layers.mlp import MLP

LAYER_NORM_EPSILON = 1e-6
"""Embeddings start with a variance of about 1e-4: Keras' default of 1e-3 would swamp it."""


@keras.saving.register_keras_serializable(package="keras_ctr")
class MaskedFeatureAttention(keras.Layer):
    """Multi-head self-attention without its weak weights: map `(B, F, D) -> (B, F, D)`.

    For head h of width E = D / H, with a fixed threshold theta_h:

    ```
    s_ij = <q_i, k_j> / sqrt(E)                q, k, v = X W + b, split into heads
    a_ij = softmax_j(s_ij)
    A_ij = softmax_j(s_ij where a_ij > theta_h, -infinity elsewhere)
    Y    = [A_1 V_1 || .. || A_H V_H] W_O + b_O
    ```

    The rows of A sum to 1, and a permutation of the features permutes the output alike. The second softmax is `a_ij` over the sum of the
    kept ones, computed so. Parameters: `4 (D^2 + D)`; `4 D^2` without biases. The D biases of the keys cancel in both softmaxes; they are
    there because the published sizes count them.

    Args:
        num_heads: H; divides D.
        mask_thresholds: theta: `"geometric"` for 10^-1, 10^-2, .. 10^-H; one number for all heads; a list of H numbers, one a head; None
            for ordinary attention. Each in [0, 1).
        fallback: What a feature attends to if none of its weights is above the threshold: `"argmax"`, the largest (all that tie);
            `"uniform"`, everything alike.
        scale: Whether to divide the scores by sqrt(E).
        use_bias: Whether the four projections have biases.
        kernel_initializer: Of the four kernels.

    Call arguments:
        inputs: `(B, F, D)`.
        return_attention: Whether to return `(out, A)`, A `(B, H, F, F)` float32, rows summing to 1.

    Raises:
        ValueError: On a non-positive H, an H that does not divide D, thresholds out of range or not one a head, or an unknown fallback.

    Source: Ad-Rec (arXiv:2308.14902, Eq. 1 to 4).
    Deviations: Eq. 1 has no factor (`scale=False`), Eq. 14 of the appendix divides by the root of the width. A row that the threshold
    empties is undefined in Eq. 3; it happens, for theta = 0.1 and 27 features say, whenever attention is near uniform. Both softmaxes run
    in float32 under every policy; yet a mask is a step, and in bfloat16 a weight near its threshold may fall on the other side of it.
    """

    FALLBACKS = ("argmax", "uniform")

    def __init__(
        self,
        num_heads=2,
        *,
        mask_thresholds="geometric",
        fallback="argmax",
        scale=True,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_int(self, "num_heads", num_heads)
        check_choice(self, "fallback", fallback, self.FALLBACKS)
        self.num_heads = num_heads
        self.thresholds = self._thresholds(mask_thresholds)
        given = mask_thresholds is None or isinstance(mask_thresholds, (str, int, float))
        self.mask_thresholds = mask_thresholds if given else list(self.thresholds)
        self.fallback = fallback
        self.scale = scale
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def _thresholds(self, given):
        """Returns one float a head, or None."""
        if given is None:
            return None
        if isinstance(given, str):
            check_choice(self, "mask_thresholds", given, ("geometric",))
            return tuple(10.0**-head for head in range(1, self.num_heads + 1))
        values = (given,) * self.num_heads if isinstance(given, (int, float)) else tuple(given)
        if len(values) != self.num_heads:
            raise ValueError(
                f"{type(self).__name__} '{self.name}': mask_thresholds has {len(values)} numbers for {self.num_heads} heads; "
                "give one for each, or a single number for all"
            )
        for value in values:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise ValueError(f"{type(self).__name__} '{self.name}': mask_thresholds must be numbers in [0, 1), got {value!r}")
        return tuple(float(value) for value in values)

    def build(self, inputs_shape):
        width = inputs_shape[-1]
        if width % self.num_heads:
            raise ValueError(
                f"{type(self).__name__} '{self.name}': {self.num_heads} heads do not divide the width {width}; "
                "change num_heads or the embedding width"
            )
        self.query_dense = self._dense("query", inputs_shape)
        self.key_dense = self._dense("key", inputs_shape)
        self.value_dense = self._dense("value", inputs_shape)
        self.output_dense = self._dense("output", inputs_shape)
        self.built = True

    def _dense(self, name, shape):
        initializer = self.kernel_initializer.clone()
        dense = keras.layers.Dense(shape[-1], use_bias=self.use_bias, kernel_initializer=initializer, name=name, dtype=self.dtype_policy)
        dense.build(shape)
        return dense

    def call(self, inputs, *, return_attention=False):
        fields, width = inputs.shape[1], inputs.shape[2]
        q, k, v = (self._heads(dense(inputs), fields) for dense in (self.query_dense, self.key_dense, self.value_dense))
        q = ops.transpose(q, (0, 2, 1, 3))  # (B, H, F, E)
        k = ops.transpose(k, (0, 2, 3, 1))  # (B, H, E, F)
        v = ops.transpose(v, (0, 2, 1, 3))  # (B, H, F, E)
        if self.scale:
            q = q * (width // self.num_heads) ** -0.5
        attention = ops.softmax(ops.cast(ops.matmul(q, k), "float32"), axis=-1)  # (B, H, F, F)
        if self.thresholds is not None:
            attention = self._masked(attention)  # (B, H, F, F)
        out = ops.transpose(ops.matmul(ops.cast(attention, v.dtype), v), (0, 2, 1, 3))  # (B, F, H, E)
        out = self.output_dense(ops.reshape(out, (-1, fields, width)))  # (B, F, D)
        return (out, attention) if return_attention else out

    def _masked(self, attention):
        """The second softmax: `(B, H, F, F) -> (B, H, F, F)`."""
        limits = ops.convert_to_tensor(np.reshape(self.thresholds, (1, self.num_heads, 1, 1)).astype("float32"))
        keep = attention > limits  # (B, H, F, F)
        if self.fallback == "argmax":
            # A row's largest weight is among the kept ones unless none is above the threshold: then it is the only one.
            keep = ops.logical_or(keep, attention >= ops.max(attention, axis=-1, keepdims=True))
        kept = attention * ops.cast(keep, "float32")
        total = ops.sum(kept, axis=-1, keepdims=True)  # (B, H, F, 1), above the threshold unless the row is empty
        if self.fallback == "argmax":
            return kept / total
        empty = ops.cast(total <= 0, "float32")
        return kept / (total + empty) + empty / attention.shape[-1]

    def _heads(self, x, fields):
        return ops.reshape(x, (-1, fields, self.num_heads, x.shape[-1] // self.num_heads))  # (B, F, H, E)

    def compute_output_shape(self, inputs_shape):
        return tuple(inputs_shape)

    def compute_output_spec(self, inputs, *, return_attention=False):
        out = keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)
        attention = keras.KerasTensor((inputs.shape[0], self.num_heads, inputs.shape[1], inputs.shape[1]), dtype="float32")
        return (out, attention) if return_attention else out

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "mask_thresholds": self.mask_thresholds,
            "fallback": self.fallback,
            "scale": self.scale,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


@keras.saving.register_keras_serializable(package="keras_ctr")
class MaskedTransformerBlock(keras.Layer):
    """Encoder layer of Ad-Rec, threshold-masked attention and a feed-forward network: map `(B, F, D) -> (B, F, D)`.

    ```
    norm_first:      Z = X + dropout(MSA(LN(X)));     Y = Z + dropout(FFN(LN(Z)))
    norm_first=False Z = LN(X + dropout(MSA(X)));     Y = LN(Z + dropout(FFN(Z)))
    ```

    MSA is a `MaskedFeatureAttention`, FFN `D -> ffn_units -> D` on each token, linear at its end. With `mask_thresholds=None` it is an
    ordinary transformer encoder layer. Parameters: `4 (D^2 + D) + 2 D U + U + D + 4 D`, U = ffn_units; the last `4 D` are the norms'.

    Args:
        num_heads: H, heads of the attention; divides D.
        ffn_units: Width of the feed-forward network's hidden layer.
        mask_thresholds: See `MaskedFeatureAttention`, as is `fallback`.
        fallback: `"argmax"` or `"uniform"`.
        scale: Whether to divide the scores by sqrt(D / H).
        norm_first: Whether to normalise before each part, as in the equations of the paper, or after the sum.
        layer_norm: Whether to normalise at all.
        epsilon: Of the norms, added to a token's variance.
        activation: Of the feed-forward network's hidden layer.
        dropout: Share of the outputs of either part dropped in training.

    Call arguments:
        inputs: `(B, F, D)`.
        return_attention: Whether to return `(out, A)`, A `(B, H, F, F)` float32.

    Raises:
        ValueError: On an argument out of range, see `MaskedFeatureAttention`.

    Source: Ad-Rec (arXiv:2308.14902, Eq. 6 and 7). `layer_norm=False` is the ablation of its Table 3.
    Deviations: the public code believed to be the authors' normalises after the sum (`norm_first=False`).
    """

    def __init__(
        self,
        num_heads=2,
        *,
        ffn_units=128,
        mask_thresholds="geometric",
        fallback="argmax",
        scale=True,
        norm_first=True,
        layer_norm=True,
        epsilon=LAYER_NORM_EPSILON,
        activation="relu",
        dropout=0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_int(self, "ffn_units", ffn_units)
        check_epsilon(self, epsilon)
        if not 0 <= dropout < 1:
            raise ValueError(f"MaskedTransformerBlock '{self.name}': dropout must be in [0, 1), got {dropout!r}")
        self.attention = MaskedFeatureAttention(
            num_heads,
            mask_thresholds=mask_thresholds,
            fallback=fallback,
            scale=scale,
            name="attention",
            dtype=self.dtype_policy,
        )
        self.ffn_units = ffn_units
        self.norm_first = norm_first
        self.layer_norm = layer_norm
        self.epsilon = epsilon
        self.activation = keras.activations.get(activation)
        self.dropout = dropout
        self.dropouts = [keras.layers.Dropout(dropout, name=f"dropout_{i}", dtype=self.dtype_policy) for i in range(2 if dropout else 0)]

    def build(self, inputs_shape):
        self.ffn = MLP((self.ffn_units,), activation=self.activation, output_units=inputs_shape[-1], name="ffn", dtype=self.dtype_policy)
        self.norms = []
        if self.layer_norm:
            self.norms = [
                keras.layers.LayerNormalization(epsilon=self.epsilon, name=name, dtype=self.dtype_policy)
                for name in ("attention_norm", "ffn_norm")
            ]
        for part in (self.attention, self.ffn, *self.norms, *self.dropouts):
            part.build(inputs_shape)
        self.built = True

    def call(self, inputs, training=None, *, return_attention=False):
        attended, attention = self.attention(self._norm(0, inputs, self.norm_first), return_attention=True)  # (B, F, D)
        x = self._norm(0, inputs + self._drop(0, attended, training), not self.norm_first)
        hidden = self.ffn(self._norm(1, x, self.norm_first))
        x = self._norm(1, x + self._drop(1, hidden, training), not self.norm_first)  # (B, F, D)
        return (x, attention) if return_attention else x

    def _norm(self, index, x, here):
        return self.norms[index](x) if here and self.norms else x

    def _drop(self, index, x, training):
        return self.dropouts[index](x, training=training) if self.dropouts else x

    def compute_output_shape(self, inputs_shape):
        return tuple(inputs_shape)

    def compute_output_spec(self, inputs, training=None, *, return_attention=False):
        return self.attention.compute_output_spec(inputs, return_attention=return_attention)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.attention.num_heads,
            "ffn_units": self.ffn_units,
            "mask_thresholds": self.attention.mask_thresholds,
            "fallback": self.attention.fallback,
            "scale": self.attention.scale,
            "norm_first": self.norm_first,
            "layer_norm": self.layer_norm,
            "epsilon": self.epsilon,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
        }


@keras.saving.register_keras_serializable(package="keras_ctr")
class FieldPositionEmbedding(keras.Layer):
    """Adds a learned vector to each field: map `(B, F, D) -> (B, F, D)`.

    `Y_f = X_f + P_f`, `P (F, D)`: F D parameters.

    Args:
        initializer: Of P.

    Source: Ad-Rec (arXiv:2308.14902, Eq. 17), an ablation that its section D.1 finds harmful.
    """

    def __init__(self, *, initializer="random_normal", **kwargs):
        super().__init__(**kwargs)
        self.initializer = keras.initializers.get(initializer)

    def build(self, inputs_shape):
        self.positions = self.add_weight(name="positions", shape=tuple(inputs_shape[1:]), initializer=self.initializer.clone())
        self.built = True

    def call(self, inputs):
        return inputs + self.positions

    def compute_output_shape(self, inputs_shape):
        return tuple(inputs_shape)

    def get_config(self):
        return {**super().get_config(), "initializer": keras.initializers.serialize(self.initializer)}
