"""Numbers as tokens: how architectures that work on field embeddings take numeric features."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_ctr")
class NumericTokens(keras.Layer):
    """Turns numbers into tokens: map `(B, N) -> (B, N', D)`.

    `kind="scale_embedding"`: token n is `v_n w_n`, `w_n` in R^D without bias, N' = N (AutoInt and the public benchmarks; ND weights).
    `kind="dense_projection"`: one token `v W`, `W` `(N, D)` without bias, N' = 1 (InterFormer, section 4.1; ND weights).

    Args:
        embedding_dim: D.
        kind: `"scale_embedding"` or `"dense_projection"`.

    Raises:
        ValueError: On an unknown kind or a non-positive width.
    """

    KINDS = ("scale_embedding", "dense_projection")

    def __init__(self, embedding_dim, *, kind="scale_embedding", **kwargs):
        super().__init__(**kwargs)
        if kind not in self.KINDS:
            raise ValueError(f"NumericTokens '{self.name}': kind must be one of {self.KINDS}, got {kind!r}")
        if not isinstance(embedding_dim, int) or embedding_dim < 1:
            raise ValueError(f"NumericTokens '{self.name}': embedding_dim must be a positive int, got {embedding_dim!r}")
        self.embedding_dim = embedding_dim
        self.kind = kind

    def build(self, inputs_shape):
        self.kernel = self.add_weight(name="kernel", shape=(inputs_shape[-1], self.embedding_dim), initializer="glorot_uniform")
        self.built = True

    def call(self, inputs):
        if self.kind == "dense_projection":
            return ops.expand_dims(ops.matmul(inputs, self.kernel), 1)  # (B, 1, D)
        return ops.expand_dims(inputs, -1) * self.kernel  # (B, N, D)

    def compute_output_shape(self, inputs_shape):
        tokens = 1 if self.kind == "dense_projection" else inputs_shape[-1]
        return (inputs_shape[0], tokens, self.embedding_dim)

    def get_config(self):
        return {**super().get_config(), "embedding_dim": self.embedding_dim, "kind": self.kind}
