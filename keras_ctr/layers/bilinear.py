"""The bilinear interaction of FiBiNET."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_choice
from keras_ctr.layers.field_matrixed_interaction import check_tokens, matrix_by_matrix, pair_indices

KINDS = ("all", "each", "interaction")


@keras.saving.register_keras_serializable(package="keras_ctr")
class BilinearInteraction(keras.Layer):
    """Products of all pairs of tokens, the left one mapped: map `(B, F, D) -> (B, P, D)`.

    ```
    all           p_ij = (X_i W) * X_j           W (D, D)          D^2 weights
    each          p_ij = (X_i W_i) * X_j         one W a field     (F - 1) D^2: the last field is never on the left
    interaction   p_ij = (X_i W_ij) * X_j        one W a pair      P D^2
    ```

    for i < j in the order (0,1), (0,2), .., (1,2), ..; P = F(F-1)/2. No bias. With identity matrices p_ij is the elementwise product of
    two tokens.

    Args:
        kind: `"all"`, `"each"` or `"interaction"`.
        kernel_initializer: Of W; the fans of a variance scaling one are those of one `(D, D)`.

    Raises:
        ValueError: On an unknown kind, an input that is not `(B, F, D)`, or a single token.

    Source: FiBiNET (arXiv:1905.09433, section 3, bilinear-interaction layer). Deviations: none.
    """

    def __init__(self, kind="interaction", *, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        check_choice(self, "kind", kind, KINDS)
        self.kind = kind
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, inputs_shape):
        check_tokens(self, inputs_shape)
        _, fields, width = inputs_shape
        matrices = {"all": 1, "each": fields - 1, "interaction": fields * (fields - 1) // 2}[self.kind]
        shape = (width, width) if self.kind == "all" else (matrices, width, width)
        initializer = matrix_by_matrix(self.kernel_initializer, matrices)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=initializer)
        self.built = True

    def call(self, inputs):
        left, right = pair_indices(inputs.shape[1])
        if self.kind == "all":
            mapped = ops.take(ops.matmul(inputs, self.kernel), left, axis=1)  # (B, P, D)
        elif self.kind == "each":
            by_field = ops.matmul(ops.transpose(inputs[:, :-1], (1, 0, 2)), self.kernel)  # (F - 1, B, D)
            mapped = ops.take(ops.transpose(by_field, (1, 0, 2)), left, axis=1)
        else:
            mapped = ops.transpose(map_pairs(inputs, self.kernel), (1, 0, 2))
        return mapped * ops.take(inputs, right, axis=1)

    def compute_output_shape(self, inputs_shape):
        fields = inputs_shape[1]
        return (inputs_shape[0], fields * (fields - 1) // 2, inputs_shape[2])

    def get_config(self):
        return {
            **super().get_config(),
            "kind": self.kind,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def map_pairs(inputs, kernel):
    """Returns `X_i W_ij` of all pairs i < j, pairs first: `(B, F, D), (P, D, D) -> (P, B, D)`."""
    left, _ = pair_indices(inputs.shape[1])
    # P products of plain matrices: half the time of an einsum over (B, P, D).
    return ops.matmul(ops.take(ops.transpose(inputs, (1, 0, 2)), left, axis=0), kernel)
