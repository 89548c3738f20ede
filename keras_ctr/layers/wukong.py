"""Wukong: stacked factorization machines."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_int, check_units
from keras_ctr.layers.gating import LinearCompressedEmbedding
from keras_ctr.layers.mlp import MLP

LAYER_NORM_EPSILON = 1e-8
"""Dot products of embeddings that start at N(0, 0.01^2) have a variance of about 4e-7: Keras' default of 1e-3 would swamp them."""


@keras.saving.register_keras_serializable(package="keras_ctr")
class LinearCompressionBlock(LinearCompressedEmbedding):
    """Linear mix of tokens (LCB): map `(B, n, D) -> (B, l, D)`.

    `Y_j = sum_i W_ij X_i`, `W (n, l)`, no bias: n l parameters. It carries what a Wukong layer has not multiplied yet.

    Args:
        num_tokens: l.
        kernel_initializer: Of W.

    Raises:
        ValueError: On a non-positive `num_tokens`.

    Source: Wukong (arXiv:2403.02545, section 3, LCB): the same map as InterFormer's LCE.
    """


@keras.saving.register_keras_serializable(package="keras_ctr")
class FactorizationMachineBlock(keras.Layer):
    """Factorization machine as tokens (FMB): map `(B, n, D) -> (B, m, D)`.

    ```
    u = reshape_{m x D}( MLP( LayerNorm( vec( X (X^T Y) ) ) ) )          Y (n, k) learned, shared by all rows
    ```

    `X (X^T Y)` holds the n dot products of every token, projected to k: O(n k D) instead of O(n^2 D). With `rank=None` Y is the identity
    and all n^2 dot products are taken. Parameters: `n k + 2 n k + MLP(n k -> hidden_units -> m D)`; `2 n^2 + MLP(n^2 -> ..)` without Y.

    Args:
        num_tokens: m.
        rank: k; None = all dot products.
        hidden_units: Hidden widths of the MLP, whose last layer is linear.
        activation: Of the hidden layers.
        kernel_initializer: Of Y.

    Raises:
        ValueError: On a non-positive number.

    Source: Wukong (arXiv:2403.02545, section 3, FMB with the optimized FM).
    Deviations: Y is a parameter; the paper's variant in which a network makes it from X is not offered. Y starts at Glorot, where a public
    implementation draws N(0, 1), which multiplies the scores by sqrt(n).
    """

    def __init__(self, num_tokens=16, *, rank=24, hidden_units=(512,), activation="relu", kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        check_int(self, "num_tokens", num_tokens)
        if rank is not None:
            check_int(self, "rank", rank)
        self.num_tokens = num_tokens
        self.rank = rank
        self.hidden_units = check_units(self, "hidden_units", hidden_units)
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, inputs_shape):
        _, tokens, width = inputs_shape
        if self.rank is not None:
            shape = (tokens, self.rank)
            self.kernel = self.add_weight(name="kernel", shape=shape, initializer=self.kernel_initializer.clone())
        products = (None, tokens * (self.rank or tokens))
        self.norm = keras.layers.LayerNormalization(epsilon=LAYER_NORM_EPSILON, name="norm", dtype=self.dtype_policy)
        self.norm.build(products)
        outputs = self.num_tokens * width
        self.mlp = MLP(self.hidden_units, activation=self.activation, output_units=outputs, name="mlp", dtype=self.dtype_policy)
        self.mlp.build(products)
        self.built = True

    def call(self, inputs):
        tokens, width = inputs.shape[1:]
        if self.rank is None:
            right = ops.transpose(inputs, (0, 2, 1))  # (B, D, n)
        else:
            # One plain product with B and D merged.
            right = ops.reshape(ops.transpose(inputs, (0, 2, 1)), (-1, tokens))  # (B D, n)
            right = ops.reshape(ops.matmul(right, self.kernel), (-1, width, self.rank))  # (B, D, k)
        products = ops.matmul(inputs, right)  # (B, n, k)
        flat = ops.reshape(products, (-1, tokens * (self.rank or tokens)))  # (B, n k)
        return ops.reshape(self.mlp(self.norm(flat)), (-1, self.num_tokens, width))  # (B, m, D)

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], self.num_tokens, inputs_shape[2])

    def get_config(self):
        return {
            **super().get_config(),
            "num_tokens": self.num_tokens,
            "rank": self.rank,
            "hidden_units": list(self.hidden_units),
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


@keras.saving.register_keras_serializable(package="keras_ctr")
class WukongLayer(keras.Layer):
    """One layer of Wukong: map `(B, n, D) -> (B, m + l, D)`.

    ```
    Y = LayerNorm( [FMB(X) ; LCB(X)] + R(X) )          [;] on the token axis
    ```

    `R` is the identity if m + l = n, else a linear mix of tokens `(n, m + l)`; LayerNorm is over D. L layers hold interactions of up to
    2^L tokens. Parameters: those of the two blocks, `n (m + l)` for a linear R, and 2D.

    Args:
        fm_tokens: m, tokens of the `FactorizationMachineBlock`.
        linear_tokens: l, tokens of the `LinearCompressionBlock`.
        rank: k of the block's projection; None = all dot products.
        hidden_units: Hidden widths of the block's MLP.
        activation: Of its hidden layers.

    Raises:
        ValueError: On a non-positive number.

    Source: Wukong (arXiv:2403.02545, section 3). Deviations: see `FactorizationMachineBlock`.
    """

    def __init__(self, fm_tokens=16, linear_tokens=16, *, rank=24, hidden_units=(512,), activation="relu", **kwargs):
        super().__init__(**kwargs)
        check_int(self, "fm_tokens", fm_tokens)
        check_int(self, "linear_tokens", linear_tokens)
        if rank is not None:
            check_int(self, "rank", rank)
        self.fm_tokens = fm_tokens
        self.linear_tokens = linear_tokens
        self.rank = rank
        self.hidden_units = check_units(self, "hidden_units", hidden_units)
        self.activation = keras.activations.get(activation)

    def build(self, inputs_shape):
        tokens = self.fm_tokens + self.linear_tokens
        self.fm_block = FactorizationMachineBlock(
            self.fm_tokens,
            rank=self.rank,
            hidden_units=self.hidden_units,
            activation=self.activation,
            name="fm_block",
            dtype=self.dtype_policy,
        )
        self.linear_block = LinearCompressionBlock(self.linear_tokens, name="linear_block", dtype=self.dtype_policy)
        self.shortcut = None
        if tokens != inputs_shape[1]:
            self.shortcut = LinearCompressedEmbedding(tokens, name="shortcut", dtype=self.dtype_policy)
        for part in (self.fm_block, self.linear_block, self.shortcut):
            if part is not None:
                part.build(inputs_shape)
        self.norm = keras.layers.LayerNormalization(epsilon=LAYER_NORM_EPSILON, name="norm", dtype=self.dtype_policy)
        self.norm.build((None, tokens, inputs_shape[2]))
        self.built = True

    def call(self, inputs):
        mixed = ops.concatenate([self.fm_block(inputs), self.linear_block(inputs)], axis=1)  # (B, m + l, D)
        return self.norm(mixed + (inputs if self.shortcut is None else self.shortcut(inputs)))

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], self.fm_tokens + self.linear_tokens, inputs_shape[2])

    def get_config(self):
        return {
            **super().get_config(),
            "fm_tokens": self.fm_tokens,
            "linear_tokens": self.linear_tokens,
            "rank": self.rank,
            "hidden_units": list(self.hidden_units),
            "activation": keras.activations.serialize(self.activation),
        }
