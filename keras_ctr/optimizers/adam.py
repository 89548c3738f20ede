"""Adam whose moments are lazy for sparse gradients."""

import keras
from keras import ops

from keras_ctr.optimizers.row_sparse import RowSparseOptimizer, check_positive, check_share


@keras.saving.register_keras_serializable(package="keras_ctr")
class LazyAdam(RowSparseOptimizer):
    """Adam; for a sparse gradient only the rows of the batch update their moments and move.

    At step t (1 in the first), for every element, or every element of the rows in the batch:

    ```
    m <- m + (1 - beta_1) (g - m)
    v <- v + (1 - beta_2) (g^2 - v)
    w <- w - lr sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon)
    ```

    Lazy: a row that is not in the batch keeps w, m and v, where Adam would let m and v decay and go on moving w by m. The bias
    corrections use the step of the whole training, not the visits of a row. With dense gradients it is `keras.optimizers.Adam`.

    Args:
        learning_rate: lr, a float, schedule or callable.
        beta_1, beta_2: Decay of the moments, in [0, 1).
        epsilon: Positive.
        name: Name of the optimizer.
        **kwargs: As for `keras.optimizers.Optimizer`; what they mean for sparse gradients is in `RowSparseOptimizer`.

    Raises:
        ValueError: On an argument out of range.

    Source: Kingma and Ba, arXiv:1412.6980; `keras.optimizers.Adam`, whose dense rule this is.
    """

    def __init__(self, learning_rate=0.001, beta_1=0.9, beta_2=0.999, epsilon=1e-7, name="LazyAdam", **kwargs):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        check_share(type(self).__name__, beta_1=beta_1, beta_2=beta_2)
        check_positive(type(self).__name__, epsilon=epsilon)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def slots(self):
        return [("momentum", False, 0.0), ("velocity", False, 0.0)]

    def rule(self, gradient, value, slots, learning_rate, step):
        momentum, velocity = slots
        momentum = momentum + (1 - self.beta_1) * (gradient - momentum)
        velocity = velocity + (1 - self.beta_2) * (ops.square(gradient) - velocity)
        beta_1, beta_2 = (ops.power(ops.cast(beta, value.dtype), step) for beta in (self.beta_1, self.beta_2))
        rate = learning_rate * ops.sqrt(1 - beta_2) / (1 - beta_1)
        return value - rate * momentum / (ops.sqrt(velocity) + self.epsilon), [momentum, velocity]

    def get_config(self):
        return {**super().get_config(), "beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="keras_ctr")
class LazyAdamW(LazyAdam):
    """`LazyAdam` with decoupled weight decay: `w <- w - lr weight_decay w` before the step, on the rows of the batch.

    A row decays as often as it is visited, so rare rows decay less than under `keras.optimizers.AdamW`, to whose dense rule it is equal
    otherwise. `exclude_from_weight_decay` works as in Keras.

    Args:
        learning_rate: lr, a float, schedule or callable.
        weight_decay: >= 0.
        beta_1, beta_2, epsilon: As for `LazyAdam`.
        name: Name of the optimizer.
        **kwargs: As for `keras.optimizers.Optimizer`; what they mean for sparse gradients is in `RowSparseOptimizer`.

    Raises:
        ValueError: On an argument out of range.

    Source: Loshchilov and Hutter, arXiv:1711.05101; `keras.optimizers.AdamW`.
    """

    def __init__(self, learning_rate=0.001, weight_decay=0.004, beta_1=0.9, beta_2=0.999, epsilon=1e-7, name="LazyAdamW", **kwargs):
        if weight_decay is None or not weight_decay >= 0:
            raise ValueError(f"LazyAdamW: weight_decay must be a number >= 0, got {weight_decay!r}")
        arguments = {"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon, "weight_decay": weight_decay}
        super().__init__(learning_rate, name=name, **arguments, **kwargs)
