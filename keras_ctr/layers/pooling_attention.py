"""Pooling by multi-head attention: learned seeds summarise a sequence."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_int
from keras_ctr.layers.attention import head_width, key_bias


@keras.saving.register_keras_serializable(package="keras_ctr")
class PoolingByMultiheadAttention(keras.Layer):
    """Multi-head attention from k learned seeds to a sequence: pool `(B, T, D) -> (B, k, D)`.

    `PMA(S) = MHA(Q, S, S)` with learned `Q (k, D)`. Written out for head h of width E, with `q_h = Q W_Qh + b_Qh` `(k, E)`:

    ```
    A_h = softmax(S (W_Kh q_h^T) / sqrt(E))^T        (B, k, T), over the valid steps
    o_h = (A_h S) W_Vh + b_Vh                        (B, k, E)
    out = [o_1 || .. || o_H] W_O + b_O
    ```

    The seeds are the same for all rows, so `W_Kh q_h^T` `(D, k)` is formed once a step and the sequence is pooled before its value
    projection: nothing of the size of the sequence is ever made. The result is that of the textbook order.
    Parameters with H E = D: `k D + 4 D^2 + 3 D`.

    Args:
        num_seeds: k.
        num_heads: H.
        key_dim: E; None = D / H.
        kernel_initializer: Of the four kernels.

    Call arguments:
        inputs: `(B, T, D)`.
        mask: `(B, T)` bool, True = valid; None = all valid.
        return_attention: Whether to return `(out, A)`, A `(B, H, k, T)` float32.

    Returns:
        `(B, k, D)`; zeros (and A = 0) where no step is valid.

    Raises:
        ValueError: If H does not divide D while `key_dim` is None.

    Source: Set Transformer (arXiv:1810.00825, section 3.2); InterFormer (Eq. 4).
    Deviations: no key bias. It would add the same number to every score of a seed and cancel in the softmax: a weight without effect.
    """

    def __init__(self, num_seeds=1, *, num_heads=1, key_dim=None, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        check_int(self, "num_seeds", num_seeds)
        check_int(self, "num_heads", num_heads)
        if key_dim is not None:
            check_int(self, "key_dim", key_dim)
        self.num_seeds = num_seeds
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.supports_masking = True

    def build(self, inputs_shape):
        width = inputs_shape[-1]
        head = head_width(self, width)
        inner = self.num_heads * head
        kernel = self.kernel_initializer
        self.seeds = self.add_weight(name="seeds", shape=(self.num_seeds, width), initializer=keras.initializers.RandomNormal(stddev=0.02))
        self.query_kernel = self.add_weight(name="query_kernel", shape=(width, inner), initializer=kernel.clone())
        self.query_bias = self.add_weight(name="query_bias", shape=(inner,), initializer="zeros")
        self.key_kernel = self.add_weight(name="key_kernel", shape=(width, inner), initializer=kernel.clone())
        self.value_kernel = self.add_weight(name="value_kernel", shape=(width, inner), initializer=kernel.clone())
        self.value_bias = self.add_weight(name="value_bias", shape=(inner,), initializer="zeros")
        self.output_kernel = self.add_weight(name="output_kernel", shape=(inner, width), initializer=kernel.clone())
        self.output_bias = self.add_weight(name="output_bias", shape=(width,), initializer="zeros")
        self.head_dim = head
        self.built = True

    def call(self, inputs, mask=None, return_attention=False):
        steps, width = inputs.shape[1] or ops.shape(inputs)[1], inputs.shape[-1]
        heads, seeds, head = self.num_heads, self.num_seeds, self.head_dim
        q = (ops.matmul(self.seeds, self.query_kernel) + self.query_bias) * head**-0.5  # (k, H*E)
        q = ops.transpose(ops.reshape(q, (seeds, heads, head)), (1, 2, 0))  # (H, E, k)
        keys = ops.transpose(ops.reshape(self.key_kernel, (width, heads, head)), (1, 0, 2))  # (H, D, E)
        probe = ops.reshape(ops.transpose(ops.matmul(keys, q), (1, 0, 2)), (width, heads * seeds))  # (D, H*k)
        scores = ops.cast(ops.matmul(inputs, probe), "float32")  # (B, T, H*k)
        if mask is not None:
            scores = scores + key_bias(mask)[:, :, None]
        attention = ops.softmax(ops.transpose(scores, (0, 2, 1)), axis=-1)  # (B, H*k, T)
        pooled = ops.matmul(ops.cast(attention, inputs.dtype), inputs)  # (B, H*k, D)
        pooled = ops.reshape(pooled, (-1, heads, seeds, width))
        values = ops.transpose(ops.reshape(self.value_kernel, (width, heads, head)), (1, 0, 2))  # (H, D, E)
        pooled = ops.reshape(ops.transpose(pooled, (1, 0, 2, 3)), (heads, -1, width))  # (H, B*k, D)
        out = ops.reshape(ops.matmul(pooled, values), (heads, -1, seeds, head))  # (H, B, k, E)
        out = ops.reshape(ops.transpose(out, (1, 2, 0, 3)), (-1, seeds, heads * head)) + self.value_bias  # (B, k, H*E)
        out = ops.matmul(out, self.output_kernel) + self.output_bias  # (B, k, D)
        any_valid = None if mask is None else ops.any(mask, axis=1)[:, None, None]  # (B, 1, 1)
        if mask is not None:
            out = out * ops.cast(any_valid, out.dtype)
        if not return_attention:
            return out
        attention = ops.reshape(attention, (-1, heads, seeds, steps))  # (B, H, k, T)
        return out, attention if mask is None else attention * ops.cast(any_valid, "float32")[..., None]

    def compute_mask(self, inputs, previous_mask=None):
        return None  # summaries are always valid

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], self.num_seeds, inputs_shape[-1])

    def compute_output_spec(self, inputs, mask=None, return_attention=False):
        out = keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=self.compute_dtype)
        attention = keras.KerasTensor((inputs.shape[0], self.num_heads, self.num_seeds, inputs.shape[1]), dtype="float32")
        return (out, attention) if return_attention else out

    def get_config(self):
        return {
            **super().get_config(),
            "num_seeds": self.num_seeds,
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
