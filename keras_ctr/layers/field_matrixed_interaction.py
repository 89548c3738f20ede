"""The second-order term of FmFM, FvFM and FwFM: pairs of tokens weighed by field, and what layers over pairs of fields share."""

import keras
import numpy as np
from keras import ops

from keras_ctr.layers.arguments import check_choice

KINDS = ("matrix", "vector", "scalar")
"""How a pair of fields may be weighed."""


@keras.saving.register_keras_serializable(package="keras_ctr")
class FieldMatrixedInteraction(keras.Layer):
    """Weighed sum of the products of all pairs of tokens: pool `(B, F, D) -> (B, 1)`, or `(B, D)` with `reduce=False`.

    ```
    matrix   p_d = sum_{i<j} (X_i M_ij)_d X_jd           M_ij (D, D)     P D^2 weights      FmFM
    vector   p_d = sum_{i<j} w_ijd X_id X_jd             w_ij (D,)       P D                FvFM, M_ij diagonal
    scalar   p_d = sum_{i<j} r_ij X_id X_jd              r_ij            P                  FwFM, M_ij = r_ij I
    z = sum_d p_d = sum_{i<j} <X_i M_ij, X_j>                                               (B, 1)
    ```

    P = F(F-1)/2 pairs in the order (0,1), (0,2), .., (1,2), ... With M_ij the identity, or vectors or scalars of 1, z is the second-order
    term of an FM: so it starts.

    Args:
        kind: `"matrix"`, `"vector"` or `"scalar"`.
        reduce: Whether to sum over d.
        kernel_initializer: Of the weights `(P, D, D)`, `(P, D)` or `(P,)`; None starts as an FM. The fans of a variance scaling one
            (`"glorot_uniform"`, ..) are those of one matrix.

    Raises:
        ValueError: On an unknown kind, an input that is not `(B, F, D)`, or a single token.

    Source: FmFM (arXiv:2102.12994, section 3); FwFM (arXiv:1806.03514). Deviations: all fields have one width, so matrices are square; the
    start as an FM is ours.

    Computation: the weights are laid out as one block matrix, upper triangular over fields, and all tokens are multiplied with it at once:
    no `(B, P, D)` is made, in training neither; the largest tensors are `(B, F, D)` and, for matrices, `(F D, F D)`. Twice the
    multiplications of the triangle alone. Products are summed in float32.
    """

    def __init__(self, kind="matrix", *, reduce=True, kernel_initializer=None, **kwargs):
        super().__init__(**kwargs)
        check_choice(self, "kind", kind, KINDS)
        self.kind = kind
        self.reduce = reduce
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, inputs_shape):
        self.kernel = add_pair_kernel(self, inputs_shape, self.kind, self.kernel_initializer)
        self.built = True

    def call(self, inputs):
        right = self._left_sums(inputs)  # (B, F, D): token j's is sum_{i<j} X_i M_ij
        wide = keras.backend.result_type(self.compute_dtype, "float32")
        parts = ops.sum(ops.cast(right, wide) * ops.cast(inputs, wide), axis=1)  # (B, D)
        return ops.cast(ops.sum(parts, axis=-1, keepdims=True) if self.reduce else parts, self.compute_dtype)

    def _left_sums(self, inputs):
        fields, width = inputs.shape[1:]
        if self.kind == "matrix":
            blocks = _upper_triangle(ops.transpose(self.kernel, (1, 0, 2)), fields)  # (D, F, F, D)
            blocks = ops.reshape(ops.transpose(blocks, (1, 0, 2, 3)), (fields * width, fields * width))
            return ops.reshape(ops.matmul(ops.reshape(inputs, (-1, fields * width)), blocks), (-1, fields, width))
        if self.kind == "vector":
            weights = _upper_triangle(ops.transpose(self.kernel), fields)  # (D, F, F)
            return ops.transpose(ops.matmul(ops.transpose(inputs, (2, 0, 1)), weights), (1, 2, 0))  # (D, B, F) -> (B, F, D)
        weights = _upper_triangle(ops.expand_dims(self.kernel, 0), fields)[0]  # (F, F)
        # With B and D merged: the gradient of a product with a matrix that all rows share would have a (B, F, F).
        flat = ops.reshape(ops.transpose(inputs, (0, 2, 1)), (-1, fields))  # (B D, F)
        return ops.transpose(ops.reshape(ops.matmul(flat, weights), (-1, width, fields)), (0, 2, 1))

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], 1 if self.reduce else inputs_shape[2])

    def get_config(self):
        return {
            **super().get_config(),
            "kind": self.kind,
            "reduce": self.reduce,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def pair_indices(fields):
    """Returns `(i, j)`, two int32 arrays `(P,)`: all pairs i < j in the order (0,1), (0,2), .., (1,2), .."""
    return tuple(index.astype("int32") for index in np.triu_indices(fields, 1))


def check_tokens(layer, inputs_shape):
    """Raises `ValueError` unless the input is `(B, F, D)` with known F >= 2 and D."""
    shape, what = tuple(inputs_shape), f"{type(layer).__name__} '{layer.name}'"
    if len(shape) != 3 or None in shape[1:]:
        raise ValueError(f"{what} needs tokens (B, F, D), F and D known, got {shape}")
    if shape[1] < 2:
        raise ValueError(f"{what}: a single token has no pair; give it at least two features")


def add_pair_kernel(layer, inputs_shape, kind, initializer):
    """Adds the weights of all pairs of tokens, `(P, D, D)`, `(P, D)` or `(P,)`; without an initializer identities or ones."""
    check_tokens(layer, inputs_shape)
    _, fields, width = inputs_shape
    pairs = fields * (fields - 1) // 2
    shape = {"matrix": (pairs, width, width), "vector": (pairs, width), "scalar": (pairs,)}[kind]
    if initializer is None:
        initializer = keras.initializers.Constant(np.eye(width) if kind == "matrix" else 1.0)
    elif kind == "matrix":
        initializer = matrix_by_matrix(initializer, pairs)
    return layer.add_weight(name="kernel", shape=shape, initializer=initializer)


def matrix_by_matrix(initializer, matrices):
    """Returns an initializer of `(matrices, n, m)` with the fans of one `(n, m)`: Keras takes the first axis for a receptive field."""
    if not isinstance(initializer, keras.initializers.VarianceScaling):
        return initializer
    return keras.initializers.VarianceScaling(
        initializer.scale * matrices, mode=initializer.mode, distribution=initializer.distribution, seed=initializer.seed
    )


def _upper_triangle(values, fields):
    """Spreads `(N, P, ..)` over a matrix of fields, zeros on and below the diagonal: `(N, F, F, ..)`."""
    rows, columns = pair_indices(fields)
    place = np.zeros(fields * fields, "int32")
    place[rows * fields + columns] = np.arange(len(rows))
    shown = np.zeros(fields * fields)
    shown[rows * fields + columns] = 1.0
    # Along axis 1: a gather along axis 0 would give the weights sparse gradients on TensorFlow.
    spread = ops.take(values, place, axis=1)
    spread = spread * ops.cast(shown.reshape(-1, *(1,) * (len(values.shape) - 2)), values.dtype)
    return ops.reshape(spread, (values.shape[0], fields, fields, *values.shape[2:]))
