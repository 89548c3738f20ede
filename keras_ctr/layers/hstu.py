"""HSTU: attention without a softmax, gated."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_epsilon, check_int

VALUE_EPSILON = 1e-10
"""Of the norm of what attention gathers: scores near 0 pass SiLU and are divided by n, so that norm sees numbers that start near 1e-5."""
INPUT_EPSILON = 1e-6


@keras.saving.register_keras_serializable(package="keras_ctr")
class HSTULayer(keras.Layer):
    """Hierarchical sequential transduction unit: map `(B, T, D) -> (B, T, D)`, causal.

    ```
    [U || V || Q || K] = SiLU(LN(X) W)                                   split into H heads, U and V of width E', Q and K of width E
    A_h[i, j] = SiLU(q_i . k_j + a[p_i - p_j] + b[bucket(i, j)]) / n     for valid j <= i, otherwise 0
    Y = X + [LN([A_1 V_1 || .. || A_H V_H]) * U] W_o + b_o
    ```

    p counts valid steps, so padding shifts no position; differences beyond the table read its last entry. n is a number of the model, not
    of the batch: a longer history weighs more, which a softmax would hide. LN has no weights. With `use_time` there is the bias b:
    `bucket(i, j) = floor(log2(1 + |s_i - s_j|))` with s the seconds to the row, each known up to its bucket and counted at its start.

    Parameters: `2 D H (E + E') + H E' D + D`, and the tables of `max_length` and, with `use_time`, 32 biases.

    Args:
        num_heads: H.
        key_dim: E; None = D / H.
        value_dim: E'; None = D / H.
        max_length: n, also the number of position biases: the longest sequence that the layer is meant for.
        use_time: Whether there is a time bias b; the call then needs `gaps`.
        dropout: Share of the gated values dropped in training, before W_o.
        epsilon: Of the norm of the input, added to a step's variance.
        value_epsilon: Of the norm of what attention gathered.

    Call arguments:
        inputs: X `(B, T, D)`, oldest first.
        mask: `(B, T)` bool, True = valid; None = all valid. Outputs at hidden steps are finite and mean nothing.
        gaps: int `(B, T)`, buckets of the time from each step to the row, `2 + min(floor(log2(seconds + 1)), 31)`, 2 at the candidate.
        target: e `(N, D)`, one more valid step behind all others, with gap 2, that none of them sees; N = B, or B = 1: N targets behind the
            same steps. None = there is none.
        target_only: Whether to compute the target's row alone: the form of a last layer of which nothing else is read.

    Returns:
        Y `(B, T, D)`; with a target `(Y, y)`, y `(N, D)` its row; with `target_only` y.

    Raises:
        ValueError: On an argument out of range, an H that does not divide D while a width is None, `use_time` without gaps, or
            `target_only` without a target.

    Source: HSTU (arXiv:2402.17152, section 3.2, Eq. 1 to 3).
    Deviations: causal, so only biases of differences p_i - p_j >= 0 exist. The start, W from N(0, 0.02^2), the mask after SiLU and the
    division by the maximum length are those of the code its authors published, which also adds absolute positions to the input.
    """

    TIME_BUCKETS = 32

    def __init__(
        self,
        num_heads=1,
        *,
        key_dim=None,
        value_dim=None,
        max_length=200,
        use_time=False,
        dropout=0.0,
        epsilon=INPUT_EPSILON,
        value_epsilon=VALUE_EPSILON,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_epsilon(self, epsilon)
        check_epsilon(self, value_epsilon)
        check_int(self, "num_heads", num_heads)
        check_int(self, "max_length", max_length)
        for argument, value in (("key_dim", key_dim), ("value_dim", value_dim)):
            if value is not None:
                check_int(self, argument, value)
        if not 0 <= dropout < 1:
            raise ValueError(f"HSTULayer '{self.name}': dropout must be in [0, 1), got {dropout!r}")
        self.num_heads = num_heads
        self.key_dim = key_dim
        self.value_dim = value_dim
        self.max_length = max_length
        self.use_time = use_time
        self.dropout = dropout
        self.epsilon = epsilon
        self.value_epsilon = value_epsilon
        self.supports_masking = True
        self.dropout_layer = keras.layers.Dropout(dropout, name="dropout", dtype=self.dtype_policy) if dropout else None

    def build(self, inputs_shape):
        width = inputs_shape[-1]
        if width % self.num_heads and None in (self.key_dim, self.value_dim):
            raise ValueError(
                f"HSTULayer '{self.name}': {self.num_heads} heads do not divide the width {width}; "
                "change num_heads, or set key_dim and value_dim"
            )
        key, value = (self.num_heads * (given or width // self.num_heads) for given in (self.key_dim, self.value_dim))
        self.widths = (value, value, key, key)
        small = keras.initializers.RandomNormal(stddev=0.02)
        self.kernel = self.add_weight(name="kernel", shape=(width, sum(self.widths)), initializer=small)
        self.position_bias = self.add_weight(name="position_bias", shape=(self.max_length,), initializer=small.clone())
        if self.use_time:
            self.time_bias = self.add_weight(name="time_bias", shape=(self.TIME_BUCKETS,), initializer=small.clone())
        self.output_kernel = self.add_weight(name="output_kernel", shape=(value, width), initializer="glorot_uniform")
        self.output_bias = self.add_weight(name="output_bias", shape=(width,), initializer="zeros")
        if self.dropout_layer is not None:
            self.dropout_layer.build((None, None, value))
        self.built = True

    def call(self, inputs, mask=None, gaps=None, training=None, *, target=None, target_only=False):
        if self.use_time and gaps is None:
            raise ValueError(f"HSTULayer '{self.name}' has a time bias: call it with gaps, or make it with use_time=False")
        if target_only and target is None:
            raise ValueError(f"HSTULayer '{self.name}': target_only needs a target (N, D)")
        if mask is None:
            mask = ops.ones_like(inputs[..., 0], dtype="bool")  # (B, T)
        x = self._norm(inputs, self.epsilon)  # (B, T, D)
        if target_only:
            _, value_kernel, _, key_kernel = self._split(ops.convert_to_tensor(self.kernel))
            k, v = (self._heads(ops.silu(ops.matmul(x, kernel))) for kernel in (key_kernel, value_kernel))  # (B, H, T, E), (B, H, T, E')
            return self._behind(target, k, v, mask, gaps, training)
        u, v, q, k = self._split(ops.silu(ops.matmul(x, self.kernel)))  # (B, T, H E') twice, (B, T, H E) twice
        q, k, v = (self._heads(part) for part in (q, k, v))  # (B, H, T, E)
        index = ops.arange(ops.shape(inputs)[1])
        shown = ops.logical_and(index[None, None, :] <= index[None, :, None], mask[:, None, :])  # (B, T, T)
        weights = self._weights(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))), self._bias(mask, gaps), shown)  # (B, H, T, T)
        out = self._gated(inputs, ops.matmul(ops.cast(weights, v.dtype), v), u, training)  # (B, T, D)
        return out if target is None else (out, self._behind(target, k, v, mask, gaps, training))

    def _behind(self, target, k, v, mask, gaps, training):
        """Returns the row `(N, D)` of a step behind all others, of which k `(B, H, T, E)` and v `(B, H, T, E')`, B = N or 1, are known."""
        x = ops.expand_dims(target, 1)  # (N, 1, D)
        u, own_v, q, own_k = self._split(ops.silu(ops.matmul(self._norm(x, self.epsilon), self.kernel)))
        q, own_k, own_v = (self._heads(part) for part in (q, own_k, own_v))  # (N, H, 1, E) twice, (N, H, 1, E')
        bias, own_bias = self._bias_behind(mask, gaps)
        # Apart, not as one key more: what is read of the steps may have one row for all targets.
        weights = self._weights(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))), bias, ops.expand_dims(mask, 1))  # (N, H, 1, T)
        own = ops.sum(ops.cast(q, "float32") * ops.cast(own_k, "float32"), axis=-1, keepdims=True)  # (N, H, 1, 1)
        own = ops.silu(own + own_bias) / self.max_length
        gathered = ops.matmul(ops.cast(weights, v.dtype), v) + ops.cast(own, v.dtype) * own_v  # (N, H, 1, E')
        return ops.squeeze(self._gated(x, gathered, u, training), 1)

    def _weights(self, products, bias, shown):
        """Returns A, float32, of the products `(B, H, Q, T)` of queries and keys; bias and shown are `(B, Q, T)`."""
        scores = ops.silu(ops.cast(products, "float32") + ops.expand_dims(bias, 1)) / self.max_length
        return scores * ops.cast(ops.expand_dims(shown, 1), "float32")

    def _gated(self, x, gathered, u, training):
        """Returns Y of X `(B, Q, D)`, of what its heads gathered, `(B, H, Q, E')`, and U `(B, Q, H E')`."""
        out = ops.transpose(gathered, (0, 2, 1, 3))  # (B, Q, H, E')
        out = ops.reshape(out, (-1, out.shape[1] or ops.shape(out)[1], self.widths[0]))
        out = self._norm(out, self.value_epsilon) * u  # (B, Q, H E')
        if self.dropout_layer is not None:
            out = self.dropout_layer(out, training=training)
        return x + ops.matmul(out, self.output_kernel) + self.output_bias

    def _bias(self, mask, gaps):
        """Returns what is added to the scores, float32 `(B, T, T)`."""
        position = ops.cumsum(ops.cast(mask, "int32"), axis=1)  # (B, T)
        distance = ops.expand_dims(position, 2) - ops.expand_dims(position, 1)  # (B, T, T), p_i - p_j
        bias = ops.take(ops.cast(self.position_bias, "float32"), ops.clip(distance, 0, self.max_length - 1), axis=0)
        if not self.use_time:
            return bias
        return bias + ops.take(ops.cast(self.time_bias, "float32"), time_buckets(gaps, self.TIME_BUCKETS), axis=0)

    def _bias_behind(self, mask, gaps):
        """Returns the same of a step behind all others, float32 `(B, 1, T)`, and of that step with itself, a number."""
        position = ops.cumsum(ops.cast(mask, "int32"), axis=1)  # (B, T)
        distance = ops.minimum(position[:, -1:] + 1 - position, self.max_length - 1)  # (B, T)
        table = ops.cast(self.position_bias, "float32")
        bias, own = ops.take(table, ops.expand_dims(distance, 1), axis=0), table[0]  # (B, 1, T), ()
        if not self.use_time:
            return bias, own
        # No time from it to the row: the differences are the gaps themselves.
        bucket = ops.clip(ops.cast(gaps, "int32") - 2, 0, self.TIME_BUCKETS - 1)  # (B, T)
        table = ops.cast(self.time_bias, "float32")
        return bias + ops.take(table, ops.expand_dims(bucket, 1), axis=0), own + table[0]

    def _norm(self, x, epsilon):
        x = ops.cast(x, "float32")
        x = x - ops.mean(x, axis=-1, keepdims=True)
        return ops.cast(x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + epsilon), self.compute_dtype)

    def _split(self, x):
        """Returns the parts of U, V, Q and K of a last axis."""
        return ops.split(x, [sum(self.widths[: i + 1]) for i in range(3)], axis=-1)

    def _heads(self, x):
        x = ops.reshape(x, (-1, x.shape[1] or ops.shape(x)[1], self.num_heads, x.shape[-1] // self.num_heads))  # (B, T, H, E)
        return ops.transpose(x, (0, 2, 1, 3))  # (B, H, T, E)

    def compute_mask(self, inputs, previous_mask=None):
        return None  # the caller has the mask

    def compute_output_shape(self, inputs_shape, target_shape=None):
        return tuple(inputs_shape) if target_shape is None else (tuple(inputs_shape), tuple(target_shape))

    def compute_output_spec(self, inputs, mask=None, gaps=None, training=None, *, target=None, target_only=False):
        out = keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)
        if target is None:
            return out
        row = keras.KerasTensor(target.shape, dtype=self.compute_dtype)
        return row if target_only else (out, row)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "key_dim": self.key_dim,
            "value_dim": self.value_dim,
            "max_length": self.max_length,
            "use_time": self.use_time,
            "dropout": self.dropout,
            "epsilon": self.epsilon,
            "value_epsilon": self.value_epsilon,
        }


def time_buckets(gaps, buckets):
    """Returns `min(floor(log2(1 + |s_i - s_j|)), buckets - 1)`, int32 `(B, T, T)`, of gaps in buckets `(B, T)`, `s = 2^(gap - 2) - 1`.

    In whole numbers, since a power of two less one second is no float32: with exponents a >= b, `1 + s_a - s_b = 2^a - 2^b + 1`, whose
    logarithm is 0 for a = b, a for b = 0, and otherwise at least a - 1 and below a.
    """
    exponent = ops.maximum(ops.cast(gaps, "int32") - 2, 0)  # (B, T)
    row, column = ops.expand_dims(exponent, 2), ops.expand_dims(exponent, 1)
    far, near = ops.maximum(row, column), ops.minimum(row, column)  # (B, T, T)
    bucket = ops.where(ops.equal(near, 0), far, far - 1)
    return ops.minimum(ops.where(ops.equal(far, near), ops.zeros_like(far), bucket), buckets - 1)


@keras.saving.register_keras_serializable(package="keras_ctr")
class HSTUEncoder(keras.Layer):
    """HSTU layers over the events and the candidate as last token: pool `(B, D), (B, T, D) -> (B, D)`.

    `X_0 = [s_1 ; .. ; s_T ; e]`, `X_l = HSTULayer(X_{l-1})`, the output is the candidate's row of X_L. No event sees the candidate: events
    with one row are encoded once for all candidates. Of the last layer only that row is computed. Parameters: those of the layers.

    Args:
        num_layers: L.
        num_heads: See `HSTULayer`, as are the others.
        key_dim: Width of a head's queries and keys.
        value_dim: Width of a head's values.
        max_length: Divisor and number of positions, the candidate's included.
        use_time: Whether there is a time bias.
        dropout: Share of the gated values dropped in training.
        epsilon: Of the norms of the layers' inputs.

    Call arguments:
        target: e `(B, D)`.
        events: s `(B, T, D)`, oldest first; or `(1, T, D)`, the same for all targets, with mask and gaps `(1, T)`.
        mask: `(B, T)` bool, True = valid; None = all valid.
        gaps: int `(B, T)`, see `HSTULayer`.

    Raises:
        ValueError: On an argument out of range, or widths of target and events that differ.

    Source: HSTU (arXiv:2402.17152, section 2.2, ranking: the candidate among the actions).
    Deviations: the paper trains on every action of a user at once; here a row is one candidate, read at the end.
    """

    one_row_arguments = ("events", "mask", "gaps")  # may have one row for all targets

    def __init__(
        self,
        num_layers=2,
        *,
        num_heads=1,
        key_dim=None,
        value_dim=None,
        max_length=200,
        use_time=False,
        dropout=0.0,
        epsilon=INPUT_EPSILON,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_int(self, "num_layers", num_layers)
        self.num_layers = num_layers
        self.layer_options = {
            "num_heads": num_heads,
            "key_dim": key_dim,
            "value_dim": value_dim,
            "max_length": max_length,
            "use_time": use_time,
            "dropout": dropout,
            "epsilon": epsilon,
        }
        self.supports_masking = True
        self.units = [HSTULayer(**self.layer_options, name=f"layer_{i}", dtype=self.dtype_policy) for i in range(num_layers)]

    def build(self, target_shape, events_shape):
        width = events_shape[-1]
        if target_shape[-1] != width:
            raise ValueError(f"HSTUEncoder '{self.name}': the target is {target_shape[-1]} wide, the events {width}")
        for unit in self.units:
            unit.build((None, None, width))
        self.built = True

    def call(self, target, events, mask=None, gaps=None, training=None):
        context = {"mask": mask, "gaps": gaps, "training": training}
        for unit in self.units[:-1]:
            events, target = unit(events, target=target, **context)  # (B, T, D), (B, D)
        return self.units[-1](events, target=target, target_only=True, **context)  # (B, D)

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def compute_output_shape(self, target_shape, events_shape):
        return tuple(target_shape)

    def get_config(self):
        return {**super().get_config(), "num_layers": self.num_layers, **self.layer_options}
