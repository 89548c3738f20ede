"""RankMixer: tokens mixed by a transpose, and a feed-forward network for each of them."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_epsilon, check_int
from keras_ctr.layers.field_matrixed_interaction import matrix_by_matrix
from keras_ctr.layers.masked_attention import LAYER_NORM_EPSILON


@keras.saving.register_keras_serializable(package="keras_ctr")
class SemanticTokens(keras.Layer):
    """Cuts a vector of features in equal pieces and projects each by itself: map `(B, N) -> (B, T, D)`.

    `y_t = x[a_t : a_{t+1}] W_t + b_t`, t = 1 .. T, with pieces of N / T numbers; where T does not divide N, the first N mod T pieces have
    one number more. Parameters: `(N + T) D`.

    Args:
        num_tokens: T.
        hidden_dim: D.

    Raises:
        ValueError: On a non-positive argument, or fewer numbers than tokens.

    Source: RankMixer (arXiv:2507.15551, section 3.2).
    Deviations: the paper has people put related features side by side before the cut; here their order is the caller's.
    """

    def __init__(self, num_tokens=16, hidden_dim=64, **kwargs):
        super().__init__(**kwargs)
        check_int(self, "num_tokens", num_tokens)
        check_int(self, "hidden_dim", hidden_dim)
        self.num_tokens = num_tokens
        self.hidden_dim = hidden_dim

    def build(self, inputs_shape):
        width = inputs_shape[-1]
        if len(inputs_shape) != 2 or width is None:
            raise ValueError(f"SemanticTokens '{self.name}' needs an input (B, N) with N known, got {tuple(inputs_shape)}")
        if width < self.num_tokens:
            raise ValueError(
                f"SemanticTokens '{self.name}': {width} numbers cannot make {self.num_tokens} tokens; "
                "lower num_tokens or widen the embeddings"
            )
        self.piece, self.wide = divmod(width, self.num_tokens)
        glorot = keras.initializers.GlorotUniform()
        if self.wide:
            shape = (self.wide, self.piece + 1, self.hidden_dim)
            self.wide_kernel = self.add_weight(name="wide_kernel", shape=shape, initializer=matrix_by_matrix(glorot, shape[0]))
        shape = (self.num_tokens - self.wide, self.piece, self.hidden_dim)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=matrix_by_matrix(glorot.clone(), shape[0]))
        self.bias = self.add_weight(name="bias", shape=(self.num_tokens, self.hidden_dim), initializer="zeros")
        self.built = True

    def call(self, inputs):
        end = self.wide * (self.piece + 1)
        pieces = ops.reshape(inputs[:, end:], (-1, self.num_tokens - self.wide, self.piece))  # (B, T - w, N // T)
        tokens = per_token(pieces, self.kernel)  # (B, T - w, D)
        if self.wide:
            pieces = ops.reshape(inputs[:, :end], (-1, self.wide, self.piece + 1))  # (B, w, N // T + 1)
            tokens = ops.concatenate([per_token(pieces, self.wide_kernel), tokens], axis=1)  # (B, T, D)
        return tokens + self.bias

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], self.num_tokens, self.hidden_dim)

    def get_config(self):
        return {**super().get_config(), "num_tokens": self.num_tokens, "hidden_dim": self.hidden_dim}


@keras.saving.register_keras_serializable(package="keras_ctr")
class TokenMixing(keras.Layer):
    """Gives every token a part of every other: map `(B, T, D) -> (B, T, D)`. No weights.

    Each token is split in T heads of D / T numbers; token h of the output is `[x_1^(h) || .. || x_T^(h)]`, head h of all tokens. Done
    twice, it is the identity.

    Raises:
        ValueError: If T does not divide D.

    Source: RankMixer (arXiv:2507.15551, section 3.3.1), with its choice of as many heads as tokens, which the residual sum needs.
    """

    def build(self, inputs_shape):
        tokens, width = inputs_shape[1:]
        if None in (tokens, width) or width % tokens:
            raise ValueError(
                f"TokenMixing '{self.name}': {tokens} tokens do not divide their width {width}; change the number of tokens or their width"
            )
        self.built = True

    def call(self, inputs):
        tokens, width = inputs.shape[1:]
        heads = ops.reshape(inputs, (-1, tokens, tokens, width // tokens))  # (B, T, H, D / T)
        return ops.reshape(ops.transpose(heads, (0, 2, 1, 3)), (-1, tokens, width))  # (B, H, D)

    def compute_output_shape(self, inputs_shape):
        return tuple(inputs_shape)


@keras.saving.register_keras_serializable(package="keras_ctr")
class PerTokenFFN(keras.Layer):
    """A feed-forward network of its own for every token: map `(B, T, D) -> (B, T, D)`.

    `y_t = f(x_t W1_t + b1_t) W2_t + b2_t`, W1_t `(D, k D)`, W2_t `(k D, D)`. Parameters: `T (2 k D^2 + (k + 1) D)`.

    Args:
        expansion: k.
        activation: f.
        dropout: Share of the hidden units dropped in training.

    Raises:
        ValueError: On an argument out of range, or an unknown number of tokens.

    Source: RankMixer (arXiv:2507.15551, section 3.3.2).
    """

    def __init__(self, expansion=4, *, activation="gelu", dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        check_int(self, "expansion", expansion)
        if not 0 <= dropout < 1:
            raise ValueError(f"PerTokenFFN '{self.name}': dropout must be in [0, 1), got {dropout!r}")
        self.expansion = expansion
        self.activation = keras.activations.get(activation)
        self.dropout = dropout
        self.dropout_layer = keras.layers.Dropout(dropout, name="dropout", dtype=self.dtype_policy) if dropout else None

    def build(self, inputs_shape):
        if len(inputs_shape) != 3 or None in tuple(inputs_shape[1:]):
            raise ValueError(f"PerTokenFFN '{self.name}' needs an input (B, T, D) with T and D known, got {tuple(inputs_shape)}")
        _, tokens, width = inputs_shape
        hidden = self.expansion * width
        glorot = matrix_by_matrix(keras.initializers.GlorotUniform(), tokens)
        self.hidden_kernel = self.add_weight(name="hidden_kernel", shape=(tokens, width, hidden), initializer=glorot)
        self.hidden_bias = self.add_weight(name="hidden_bias", shape=(tokens, hidden), initializer="zeros")
        self.output_kernel = self.add_weight(name="output_kernel", shape=(tokens, hidden, width), initializer=glorot.clone())
        self.output_bias = self.add_weight(name="output_bias", shape=(tokens, width), initializer="zeros")
        if self.dropout_layer is not None:
            self.dropout_layer.build((None, tokens, hidden))
        self.built = True

    def call(self, inputs, training=None):
        hidden = self.activation(per_token(inputs, self.hidden_kernel) + self.hidden_bias)  # (B, T, k D)
        if self.dropout_layer is not None:
            hidden = self.dropout_layer(hidden, training=training)
        return per_token(hidden, self.output_kernel) + self.output_bias  # (B, T, D)

    def compute_output_shape(self, inputs_shape):
        return tuple(inputs_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "expansion": self.expansion,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
        }


def per_token(x, kernel):
    """Returns each token times its own matrix: `(B, T, N), (T, N, M) -> (B, T, M)`."""
    return ops.transpose(ops.matmul(ops.transpose(x, (1, 0, 2)), kernel), (1, 0, 2))


@keras.saving.register_keras_serializable(package="keras_ctr")
class RankMixerBlock(keras.Layer):
    """One layer of RankMixer, norms after the sums: map `(B, T, D) -> (B, T, D)`.

    ```
    S = LN(TokenMixing(X) + X)
    Y = LN(PerTokenFFN(S) + S)
    ```

    Parameters: `T (2 k D^2 + (k + 1) D) + 4 D`; the last are the norms'.

    Args:
        expansion: k of `PerTokenFFN`.
        activation: Of its hidden units.
        dropout: Share of its hidden units dropped in training.
        epsilon: Of the norms, added to a token's variance.

    Raises:
        ValueError: On an argument out of range, or if T does not divide D.

    Source: RankMixer (arXiv:2507.15551, Eq. 1).
    Deviations: dense networks only; the paper's sparse mixture of experts in their place, for models of a billion parameters, is not here.
    """

    def __init__(self, expansion=4, *, activation="gelu", dropout=0.0, epsilon=LAYER_NORM_EPSILON, **kwargs):
        super().__init__(**kwargs)
        check_epsilon(self, epsilon)
        self.epsilon = epsilon
        self.mixing = TokenMixing(name="mixing", dtype=self.dtype_policy)
        self.ffn = PerTokenFFN(expansion, activation=activation, dropout=dropout, name="ffn", dtype=self.dtype_policy)
        self.norms = [
            keras.layers.LayerNormalization(epsilon=epsilon, name=name, dtype=self.dtype_policy) for name in ("mixing_norm", "ffn_norm")
        ]

    def build(self, inputs_shape):
        for part in (self.mixing, self.ffn, *self.norms):
            part.build(inputs_shape)
        self.built = True

    def call(self, inputs, training=None):
        mixed = self.norms[0](self.mixing(inputs) + inputs)  # (B, T, D)
        return self.norms[1](self.ffn(mixed, training=training) + mixed)

    def compute_output_shape(self, inputs_shape):
        return tuple(inputs_shape)

    def get_config(self):
        ffn = self.ffn.get_config()
        return {**super().get_config(), **{key: ffn[key] for key in ("expansion", "activation", "dropout")}, "epsilon": self.epsilon}
