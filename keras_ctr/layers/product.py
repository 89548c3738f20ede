"""Product layers of PNN: inner products, the outer product and kernel products of tokens."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_choice
from keras_ctr.layers.bilinear import map_pairs
from keras_ctr.layers.field_matrixed_interaction import KINDS, add_pair_kernel, check_tokens, pair_indices


@keras.saving.register_keras_serializable(package="keras_ctr")
class InnerProduct(keras.Layer):
    """Dot products of all pairs of tokens: pool `(B, F, D) -> (B, P)`. No weights.

    `p_ij = <X_i, X_j>` for i < j in the order (0,1), (0,2), .., (1,2), ..; P = F(F-1)/2. (`DotInteraction` has DLRM's order.)

    Raises:
        ValueError: If the input is not `(B, F, D)`, or a single token.

    Source: PNN (arXiv:1611.00144, section III, IPNN). Deviations: each pair once, where the paper's double sum has it twice and the squared
    norms too; the weights of the dense layer that follows are not factorised (theta theta^T in the paper).
    """

    def build(self, inputs_shape):
        check_tokens(self, inputs_shape)
        self.built = True

    def call(self, inputs):
        return dot_products(inputs)

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], inputs_shape[1] * (inputs_shape[1] - 1) // 2)


@keras.saving.register_keras_serializable(package="keras_ctr")
class OuterProduct(keras.Layer):
    """Sum of the outer products of all tokens: pool `(B, F, D) -> (B, D^2)`. No weights.

    ```
    p = vec( sum_i sum_j X_i^T X_j ) = vec( s^T s ),   s = sum_f X_f (1, D)
    ```

    O((F + D) D) instead of O(F^2 D^2): the sum over all pairs loses which pair a product came from. p is symmetric; all D^2 values are
    given, as in the paper. The sum is taken in float32.

    Raises:
        ValueError: If the input is not `(B, F, D)`.

    Source: PNN (arXiv:1611.00144, section III, OPNN with superposition). Deviations: none; pairs are kept apart by `KernelProduct`.
    """

    def build(self, inputs_shape):
        if len(inputs_shape) != 3:
            raise ValueError(f"OuterProduct '{self.name}' needs tokens (B, F, D), got {tuple(inputs_shape)}")
        self.built = True

    def call(self, inputs):
        width = inputs.shape[2]
        x = ops.cast(inputs, keras.backend.result_type(self.compute_dtype, "float32"))
        total = ops.sum(x, axis=1)  # (B, D)
        outer = ops.expand_dims(total, 2) * ops.expand_dims(total, 1)  # (B, D, D)
        return ops.cast(ops.reshape(outer, (-1, width * width)), self.compute_dtype)

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], inputs_shape[2] ** 2)


@keras.saving.register_keras_serializable(package="keras_ctr")
class KernelProduct(keras.Layer):
    """Dot products of all pairs of tokens under a kernel of the pair: pool `(B, F, D) -> (B, P)`.

    ```
    matrix   p_ij = <X_i K_ij, X_j>              K_ij (D, D)     P D^2 weights
    vector   p_ij = sum_d k_ijd X_id X_jd        k_ij (D,)       P D
    scalar   p_ij = k_ij <X_i, X_j>              k_ij            P
    ```

    for i < j in the order (0,1), (0,2), .., (1,2), ..; P = F(F-1)/2. With identities or ones it is `InnerProduct`: so it starts.
    `<X_i K_ij, X_j>` is the product of K_ij with the outer product of the two tokens, element by element, which `OuterProduct` sums over
    all pairs. Matrices and vectors make a `(B, P, D)`.

    Args:
        kind: `"matrix"`, `"vector"` or `"scalar"`.
        kernel_initializer: Of the kernels `(P, D, D)`, `(P, D)` or `(P,)`; None starts as `InnerProduct`. The fans of a variance scaling
            one are those of one matrix.

    Raises:
        ValueError: On an unknown kind, an input that is not `(B, F, D)`, or a single token.

    Source: KPNN (arXiv:1807.00311, the kernel product). Deviations: the start is ours; no bias.
    """

    def __init__(self, kind="matrix", *, kernel_initializer=None, **kwargs):
        super().__init__(**kwargs)
        check_choice(self, "kind", kind, KINDS)
        self.kind = kind
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, inputs_shape):
        self.kernel = add_pair_kernel(self, inputs_shape, self.kind, self.kernel_initializer)
        self.built = True

    def call(self, inputs):
        if self.kind == "scalar":
            return dot_products(inputs) * self.kernel  # (B, P)
        left, right = pair_indices(inputs.shape[1])
        if self.kind == "vector":
            mapped = ops.take(inputs, left, axis=1) * self.kernel  # (B, P, D)
            return ops.sum(mapped * ops.take(inputs, right, axis=1), axis=-1)
        others = ops.take(ops.transpose(inputs, (1, 0, 2)), right, axis=0)  # (P, B, D)
        return ops.transpose(ops.sum(map_pairs(inputs, self.kernel) * others, axis=-1))  # (B, P)

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], inputs_shape[1] * (inputs_shape[1] - 1) // 2)

    def get_config(self):
        return {
            **super().get_config(),
            "kind": self.kind,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def dot_products(tokens):
    """Returns the dot products of all pairs i < j, `(B, F, D) -> (B, P)`."""
    fields = tokens.shape[1]
    left, right = pair_indices(fields)
    products = ops.matmul(tokens, ops.transpose(tokens, (0, 2, 1)))  # (B, F, F)
    return ops.take(ops.reshape(products, (-1, fields * fields)), left * fields + right, axis=1)
