"""Multi-head attention with a mask that is data, and rotary positions."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_int

MASKED = -1e9
"""Added to the float32 score of a hidden key. Finite, so that a row without any valid key has a softmax; its output is zeroed after."""


@keras.saving.register_keras_serializable(package="keras_ctr")
class RotaryEmbedding(keras.Layer):
    """Rotary position embedding: map `(B, T, E) -> (B, T, E)` or `(B, T, H, E) -> (B, T, H, E)`, E even. No weights.

    With `theta_i = max_wavelength^(-2i/E)` and the vector at position p split into halves `a = x[:E/2]`, `b = x[E/2:]`:

    ```
    y_i         = a_i cos(p theta_i) - b_i sin(p theta_i)         i = 0 .. E/2 - 1
    y_{i + E/2} = b_i cos(p theta_i) + a_i sin(p theta_i)
    ```

    so that `<y(q, p), y(k, p')>` depends on p and p' through `p - p'` only.

    Args:
        max_wavelength: Base of the geometric series of angles.

    Call arguments:
        inputs: `(B, T, E)` or `(B, T, H, E)`.
        positions: int `(B, T)` or `(T,)`; None = 0, 1, ... T - 1.

    Raises:
        ValueError: If E is odd or `max_wavelength` is not above 1.

    Source: RoFormer (arXiv:2104.09864, Eq. 34).
    Deviations: coordinate i is paired with i + E/2 ("half-split"), not 2i with 2i + 1. The paper's form is this one after a fixed
    permutation of the columns of the query and key kernels, so nothing is lost; interleaved slices cost twice as much.
    """

    def __init__(self, *, max_wavelength=10000.0, **kwargs):
        super().__init__(**kwargs)
        if not max_wavelength > 1:
            raise ValueError(f"RotaryEmbedding '{self.name}': max_wavelength must be above 1, got {max_wavelength!r}")
        self.max_wavelength = max_wavelength

    def build(self, inputs_shape):
        if inputs_shape[-1] % 2:
            raise ValueError(f"RotaryEmbedding '{self.name}': the width of a head must be even, got {inputs_shape[-1]}")
        self.built = True

    def angles(self, positions, width):
        """Returns `cos, sin`, each positions' shape + `(width / 2,)`, in the compute dtype."""
        exponents = ops.arange(width // 2, dtype="float32") * (-2.0 / width)
        # float32 whatever the policy: an angle is a large number modulo a small one.
        angle = ops.expand_dims(ops.cast(positions, "float32"), -1) * ops.power(float(self.max_wavelength), exponents)
        return ops.cast(ops.cos(angle), self.compute_dtype), ops.cast(ops.sin(angle), self.compute_dtype)

    def rotate(self, inputs, cos, sin):
        """Rotates `inputs` by angles that broadcast to `(..., E/2)`."""
        a, b = ops.split(inputs, 2, axis=-1)
        return ops.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def call(self, inputs, positions=None):
        positions = ops.arange(ops.shape(inputs)[1]) if positions is None else positions
        cos, sin = self.angles(positions, inputs.shape[-1])  # (B, T, E/2) or (T, E/2)
        if len(inputs.shape) == 4:
            cos, sin = ops.expand_dims(cos, -2), ops.expand_dims(sin, -2)  # one angle for all heads
        return self.rotate(inputs, cos, sin)

    def compute_output_shape(self, inputs_shape):
        return tuple(inputs_shape)

    def get_config(self):
        return {**super().get_config(), "max_wavelength": self.max_wavelength}


@keras.saving.register_keras_serializable(package="keras_ctr")
class MultiHeadAttention(keras.Layer):
    """Multi-head attention: map `(B, T_q, D) -> (B, T_q, D')`.

    ```
    q, k, v = Q W_Q + b_Q, V W_K + b_K, V W_V + b_V          split into H heads of width E = key_dim
    A_h = softmax(q_h k_h^T / sqrt(E))                       over the valid keys
    out = [A_1 v_1 || .. || A_H v_H] W_O + b_O
    ```

    Parameters with H E = D = D': `4 (D^2 + D)`.

    Args:
        num_heads: H.
        key_dim: E, the width of a head; None = D / H.
        output_dim: D'; None = D.
        rotary: Whether to turn queries and keys by their positions (`RotaryEmbedding`); self-attention only.
        use_bias: Whether the four projections have biases.
        kernel_initializer: Of the four kernels.

    Call arguments:
        query: `(B, T_q, D)`.
        value: `(B, T_k, D_v)`, keys and values; None = `query` (self-attention).
        mask: `(B, T_k)` bool, True = valid key; None = all valid. Rows of the query are never hidden.
        positions: int `(B, T_q)` for `rotary`; None = 0, 1, ...
        return_attention: Whether to return `(out, A)`, A `(B, H, T_q, T_k)` float32, rows summing to 1.

    Returns:
        `(B, T_q, D')`. Where no key is valid, zeros (and A = 0).

    Raises:
        ValueError: If H does not divide D while `key_dim` is None, E is odd with `rotary`, or `rotary` meets a `value`.

    Source: Vaswani et al. (arXiv:1706.03762, section 3.2.2); InterFormer (Eq. 2 and 3).
    Deviations: the softmax runs in float32 under every policy.
    """

    def __init__(
        self,
        num_heads=1,
        *,
        key_dim=None,
        output_dim=None,
        rotary=False,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_int(self, "num_heads", num_heads)
        for argument, value in (("key_dim", key_dim), ("output_dim", output_dim)):
            if value is not None:
                check_int(self, argument, value)
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.output_dim = output_dim
        self.rotary = rotary
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.supports_masking = True

    def build(self, query_shape, value_shape=None):
        width = query_shape[-1]
        if self.rotary and value_shape is not None:
            raise ValueError(f"MultiHeadAttention '{self.name}': rotary positions need self-attention; call it without a value")
        head = head_width(self, width)
        value_shape = query_shape if value_shape is None else value_shape
        inner = self.num_heads * head
        self.query_dense = self._dense(inner, "query", query_shape)
        self.key_dense = self._dense(inner, "key", value_shape)
        self.value_dense = self._dense(inner, "value", value_shape)
        self.output_dense = self._dense(self.output_dim or width, "output", (None, None, inner))
        if self.rotary:
            self.rotary_embedding = RotaryEmbedding(name="rotary", dtype=self.dtype_policy)
            self.rotary_embedding.build((None, None, self.num_heads, head))
        self.built = True

    def _dense(self, units, name, shape):
        initializer = self.kernel_initializer.clone()
        dense = keras.layers.Dense(units, use_bias=self.use_bias, kernel_initializer=initializer, name=name, dtype=self.dtype_policy)
        dense.build((*shape[:-1], shape[-1]))
        return dense

    def call(self, query, value=None, *, mask=None, positions=None, return_attention=False):
        memory = query if value is None else value  # (B, T_k, D_v)
        q, k, v = (self._heads(d(x)) for d, x in ((self.query_dense, query), (self.key_dense, memory), (self.value_dense, memory)))
        head = q.shape[-1]
        q = q * head**-0.5  # (B, T_q, H, E): cheaper than scaling the scores
        if self.rotary:
            positions = ops.arange(ops.shape(query)[1]) if positions is None else positions
            cos, sin = self.rotary_embedding.angles(positions, head)  # (B, T, E/2)
            cos, sin = ops.expand_dims(cos, -2), ops.expand_dims(sin, -2)  # (B, T, 1, E/2)
            q, k = self.rotary_embedding.rotate(q, cos, sin), self.rotary_embedding.rotate(k, cos, sin)
        q = ops.transpose(q, (0, 2, 1, 3))  # (B, H, T_q, E)
        k = ops.transpose(k, (0, 2, 3, 1))  # (B, H, E, T_k)
        v = ops.transpose(v, (0, 2, 1, 3))  # (B, H, T_k, E)
        scores = ops.cast(ops.matmul(q, k), "float32")  # (B, H, T_q, T_k)
        if mask is not None:
            scores = scores + key_bias(mask)[:, None, None, :]
        attention = ops.softmax(scores, axis=-1)  # (B, H, T_q, T_k)
        out = ops.matmul(ops.cast(attention, v.dtype), v)  # (B, H, T_q, E)
        out = ops.reshape(ops.transpose(out, (0, 2, 1, 3)), (-1, out.shape[2] or ops.shape(out)[2], self.num_heads * head))
        out = self.output_dense(out)  # (B, T_q, D')
        if mask is not None:
            any_valid = ops.any(mask, axis=1)[:, None, None]  # (B, 1, 1)
            out = out * ops.cast(any_valid, out.dtype)
            if return_attention:
                attention = attention * ops.cast(any_valid, "float32")[..., None]
        return (out, attention) if return_attention else out

    def _heads(self, x):
        return ops.reshape(x, (-1, x.shape[1] or ops.shape(x)[1], self.num_heads, x.shape[-1] // self.num_heads))  # (B, T, H, E)

    def compute_mask(self, inputs, previous_mask=None):
        return None  # the caller has the mask

    def compute_output_shape(self, query_shape, value_shape=None):
        return (*tuple(query_shape)[:-1], self.output_dim or query_shape[-1])

    def compute_output_spec(self, query, value=None, *, mask=None, positions=None, return_attention=False):
        out = keras.KerasTensor(self.compute_output_shape(query.shape), dtype=self.compute_dtype)
        keys = (query if value is None else value).shape[1]
        attention = keras.KerasTensor((query.shape[0], self.num_heads, query.shape[1], keys), dtype="float32")
        return (out, attention) if return_attention else out

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "output_dim": self.output_dim,
            "rotary": self.rotary,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def key_bias(mask):
    """Returns 0 for valid and `MASKED` for hidden keys, float32, in the mask's shape: an addition reads less memory than a `where`."""
    return (1.0 - ops.cast(mask, "float32")) * MASKED


def head_width(layer, width):
    """Returns E of an attention layer with `num_heads` and `key_dim` on tokens of `width`.

    Raises:
        ValueError: If `key_dim` is None and `num_heads` does not divide `width`.
    """
    if layer.key_dim is None and width % layer.num_heads:
        raise ValueError(
            f"{type(layer).__name__} '{layer.name}': {layer.num_heads} heads do not divide the width {width}; "
            "change num_heads or the embedding width, or set key_dim"
        )
    return layer.key_dim or width // layer.num_heads
