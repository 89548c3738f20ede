"""Global aggregation: hub tokens gather from all groups of tokens by cross-attention."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_choice, check_epsilon, check_int
from keras_ctr.layers.interest_evolution import masked_softmax

MASKED_GROUP = "sequence"
"""The one group of tokens that padding may be among."""


@keras.saving.register_keras_serializable(package="keras_ctr")
class HubAggregation(keras.Layer):
    """Cross-attention of hub tokens to groups of tokens: map `{g: (B, n_g, D)}, {j: (B, N_j, D)} -> {g: (B, n_g, D)}`.

    ```
    Z_gj = softmax( H_g Q_g K_j^T X_j^T / sqrt(E) ) X_j V_j            over the valid tokens of source j, in H heads of width E = D / H
    fusion="concat"   H_g <- LN( H_g + [Z_g1 || .. || Z_gJ] W_g )      j = all J groups
    fusion="sum"      H_g <- H_g + sum_j Z_gj                          j = all groups but g
    ```

    Q_g, K_j, V_j are `(D, D)`, W_g `(J D, D)`. Each source has one K_j and V_j for all hubs. They act on the hubs' side of the products, so
    that beside the `(n, N_j)` weights nothing of the size of a source is made: the cost is linear in the number of tokens.
    Parameters with G groups of hubs, J of tokens: `2 J D^2 + G ((1 + J) D^2 + 2 D)`; with `"sum"` `2 J D^2 + G D^2`. A source of a single
    token has no K_j (D^2 less), a group of hubs that reads only such sources no Q_g.

    Args:
        num_heads: H.
        fusion: `"concat"` or `"sum"`.
        residual: Whether H_g is added; with `"sum"` a group that reads nothing stays as it is.
        epsilon: Of the norm, added to a token's variance.

    Call arguments:
        hubs: `{group: (B, n_g, D)}`, the queries.
        tokens: `{group: (B, N_j, D)}`, what they read.
        mask: `(B, N_j)` bool of the tokens of the group `"sequence"`, True = valid; None = all valid.
        return_attention: Whether to return `(hubs, {"g/j": A})`, A `(B, H, n_g, N_j)` float32, rows summing to 1; zeros where no token
            is valid.

    Returns:
        `{group: (B, n_g, D)}` for the groups of `hubs`. A source without any valid token adds zeros.

    Raises:
        ValueError: On an argument out of range, or an H that does not divide D.

    Source: INFNet (arXiv:2508.11565; `"concat"` is version 2, phase 1 of a block, `"sum"` version 1).
    Deviations: heads have no further output map. Version 1 has no residual in its equations, but in its text.
    """

    FUSIONS = ("concat", "sum")

    def __init__(self, num_heads=1, *, fusion="concat", residual=True, epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        check_int(self, "num_heads", num_heads)
        check_choice(self, "fusion", fusion, self.FUSIONS)
        check_epsilon(self, epsilon)
        self.num_heads = num_heads
        self.fusion = fusion
        self.residual = residual
        self.epsilon = epsilon
        self.supports_masking = True

    def _sources(self, group, tokens):
        """Names of the groups of tokens that a group of hubs reads."""
        return [source for source in sorted(tokens) if self.fusion == "concat" or source != group]

    def build(self, hubs_shape, tokens_shape):
        width = next(iter(tokens_shape.values()))[-1]
        if width % self.num_heads:
            raise ValueError(
                f"HubAggregation '{self.name}': {self.num_heads} heads do not divide the width {width}; change num_heads or the width"
            )
        choices = {source for source, shape in tokens_shape.items() if shape[1] != 1}  # among one token there is nothing to choose
        self.query_kernels, self.key_kernels, self.value_kernels, self.fuse_kernels, self.norms = {}, {}, {}, {}, {}
        for source in sorted({source for group in hubs_shape for source in self._sources(group, tokens_shape)}):
            if source in choices:
                self.key_kernels[source] = self._kernel(f"key_{source}", width, width)
            self.value_kernels[source] = self._kernel(f"value_{source}", width, width)
        for group in sorted(hubs_shape):
            sources = self._sources(group, tokens_shape)
            if choices.intersection(sources):
                self.query_kernels[group] = self._kernel(f"query_{group}", width, width)
            if self.fusion == "concat":
                self.fuse_kernels[group] = self._kernel(f"fuse_{group}", len(sources) * width, width)
                self.norms[group] = keras.layers.LayerNormalization(epsilon=self.epsilon, name=f"norm_{group}", dtype=self.dtype_policy)
                self.norms[group].build(hubs_shape[group])
        self.built = True

    def _kernel(self, name, rows, columns):
        return self.add_weight(name=name, shape=(rows, columns), initializer="glorot_uniform")

    def call(self, hubs, tokens, mask=None, return_attention=False):
        queries = {group: ops.matmul(hubs[group], kernel) for group, kernel in self.query_kernels.items()}  # (B, n_g, D)
        gathered, attention = {group: [] for group in sorted(hubs)}, {}
        for source in sorted(tokens):
            readers = [group for group in gathered if source in self._sources(group, tokens)]
            if not readers:
                continue
            # All hubs that read the source at once: one pass over it.
            sizes = [hubs[group].shape[1] for group in readers]
            asked = [queries[group] for group in readers] if source in self.key_kernels else None
            z, a = self._attend(source, asked, tokens[source], mask if source == MASKED_GROUP else None, sum(sizes))
            for group, part in zip(readers, _split(z, sizes, axis=1), strict=True):
                gathered[group].append(part)  # (B, n_g, D)
            attention.update({f"{g}/{source}": part for g, part in zip(readers, _split(a, sizes, axis=2), strict=True)})
        out = {group: self._fuse(group, hubs[group], parts) for group, parts in gathered.items()}
        return (out, {key: attention[key] for key in sorted(attention)}) if return_attention else out

    def _attend(self, source, queries, x, mask, count):
        """Returns `(B, n, D)` and the attention `(B, H, n, N)` of n = `count` hubs to the tokens `(B, N, D)` of one source."""
        heads, width, steps = self.num_heads, x.shape[-1], x.shape[1] or ops.shape(x)[1]
        if queries is None:
            attention = ops.ones((ops.shape(x)[0], heads * count, 1), dtype="float32")
            attention = attention if mask is None else attention * ops.cast(mask, "float32")[:, None, :]
        else:
            q = ops.concatenate(queries, axis=1) * (width // heads) ** -0.5  # (B, n, D)
            q = ops.reshape(ops.transpose(ops.reshape(q, (-1, count, heads, width // heads)), (2, 0, 1, 3)), (heads, -1, width // heads))
            q = ops.matmul(q, ops.transpose(self._per_head(self.key_kernels[source]), (0, 2, 1)))  # (H, B n, D)
            q = ops.transpose(ops.reshape(q, (heads, -1, count, width)), (1, 0, 2, 3))
            scores = ops.matmul(ops.reshape(q, (-1, heads * count, width)), ops.transpose(x, (0, 2, 1)))  # (B, H n, N)
            scores = ops.cast(scores, "float32")
            attention = ops.softmax(scores, axis=-1) if mask is None else masked_softmax(scores, mask[:, None, :])
        pooled = ops.reshape(ops.matmul(ops.cast(attention, x.dtype), x), (-1, heads, count, width))
        pooled = ops.reshape(ops.transpose(pooled, (1, 0, 2, 3)), (heads, -1, width))  # (H, B n, D)
        values = ops.reshape(ops.matmul(pooled, self._per_head(self.value_kernels[source])), (heads, -1, count, width // heads))
        values = ops.reshape(ops.transpose(values, (1, 2, 0, 3)), (-1, count, width))  # (B, n, D)
        return values, ops.reshape(attention, (-1, heads, count, steps))

    def _per_head(self, kernel):
        width = kernel.shape[0]
        return ops.transpose(ops.reshape(kernel, (width, self.num_heads, -1)), (1, 0, 2))  # (H, D, E)

    def _fuse(self, group, hubs, parts):
        if not parts:
            return hubs
        if self.fusion == "concat":
            z = ops.matmul(parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1), self.fuse_kernels[group])
        else:
            z = sum(parts[1:], parts[0])
        z = hubs + z if self.residual else z  # (B, n_g, D)
        return self.norms[group](z) if self.fusion == "concat" else z

    def compute_mask(self, inputs, previous_mask=None):
        return None  # hubs are always valid

    def compute_output_shape(self, hubs_shape, tokens_shape):
        return {group: tuple(hubs_shape[group]) for group in sorted(hubs_shape)}

    def compute_output_spec(self, hubs, tokens, mask=None, return_attention=False):
        out = {group: keras.KerasTensor(hubs[group].shape, dtype=self.compute_dtype) for group in sorted(hubs)}
        attention = {}
        for group in sorted(hubs):
            for source in self._sources(group, tokens):
                batch, count, _ = hubs[group].shape
                shape = (batch, self.num_heads, count, tokens[source].shape[1])
                attention[f"{group}/{source}"] = keras.KerasTensor(shape, dtype="float32")
        return (out, attention) if return_attention else out

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "fusion": self.fusion,
            "residual": self.residual,
            "epsilon": self.epsilon,
        }


def _split(x, sizes, axis):
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    return ops.split(x, ends, axis=axis) if ends else [x]
