"""Pairwise dot products of tokens."""

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="keras_ctr")
class DotInteraction(keras.Layer):
    """Dot products of all pairs of tokens: pool `(B, F, D) -> (B, P)`. No weights.

    `p_ij = <X_i, X_j>` for j < i in the order (1,0), (2,0), (2,1), (3,0), ..; P = F(F-1)/2. With `self_interaction` also j = i, last in
    each row: (0,0), (1,0), (1,1), ..; P = F(F+1)/2.

    Args:
        self_interaction: Whether to keep the squared norms.

    Raises:
        ValueError: If there is no pair: fewer than two tokens without `self_interaction`.

    Source: DLRM (arXiv:1906.00091, section 2.1.3).
    """

    def __init__(self, *, self_interaction=False, **kwargs):
        super().__init__(**kwargs)
        self.self_interaction = self_interaction

    def build(self, inputs_shape):
        if inputs_shape[1] < 2 and not self.self_interaction:
            raise ValueError(f"DotInteraction '{self.name}': a single token has no pair; give it two tokens or set self_interaction")
        self.built = True

    def call(self, inputs):
        fields = inputs.shape[1]
        rows, columns = np.tril_indices(fields, 0 if self.self_interaction else -1)
        products = ops.matmul(inputs, ops.transpose(inputs, (0, 2, 1)))  # (B, F, F)
        return ops.take(ops.reshape(products, (-1, fields * fields)), (rows * fields + columns).astype("int32"), axis=1)  # (B, P)

    def compute_output_shape(self, inputs_shape):
        fields = inputs_shape[1]
        return (inputs_shape[0], fields * (fields + 1) // 2 if self.self_interaction else fields * (fields - 1) // 2)

    def get_config(self):
        return {**super().get_config(), "self_interaction": self.self_interaction}
