"""The second-order term of factorization machines."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_ctr")
class FactorizationMachine(keras.Layer):
    """Sum of the dot products of all pairs of tokens: pool `(B, F, D) -> (B, 1)`, or `(B, D)` with `reduce=False`. No weights.

    ```
    p_d = sum_{i<j} X_id X_jd = 1/2 [(sum_i X_id)^2 - sum_i X_id^2]          (B, D)
    z   = sum_d p_d = sum_{i<j} <X_i, X_j>                                   (B, 1)
    ```

    O(F D) instead of O(F^2 D). With tokens `v_i x_i` this is the second-order term of an FM on the features x; one token gives 0.

    Args:
        reduce: Whether to sum over d.

    Raises:
        ValueError: If the input is not `(B, F, D)`.

    Source: Rendle 2010 (Factorization Machines, Eq. 1 and Lemma 3.1). Deviations: none.

    Precision: float32 at least whatever the policy, since two large numbers are subtracted; the result is cast to the compute dtype.
    """

    def __init__(self, *, reduce=True, **kwargs):
        super().__init__(**kwargs)
        self.reduce = reduce

    def build(self, inputs_shape):
        if len(inputs_shape) != 3:
            raise ValueError(f"FactorizationMachine '{self.name}' needs tokens (B, F, D), got {tuple(inputs_shape)}")
        self.built = True

    def call(self, inputs):
        x = ops.cast(inputs, keras.backend.result_type(self.compute_dtype, "float32"))  # (B, F, D)
        pairs = 0.5 * (ops.square(ops.sum(x, axis=1)) - ops.sum(ops.square(x), axis=1))  # (B, D)
        return ops.cast(ops.sum(pairs, axis=-1, keepdims=True) if self.reduce else pairs, self.compute_dtype)

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], 1 if self.reduce else inputs_shape[2])

    def get_config(self):
        return {**super().get_config(), "reduce": self.reduce}
