"""Stochastic gradient descent whose momentum is lazy for sparse gradients."""

import keras

from keras_ctr.optimizers.row_sparse import RowSparseOptimizer, check_share


@keras.saving.register_keras_serializable(package="keras_ctr")
class SGD(RowSparseOptimizer):
    """Gradient descent with momentum.

    ```
    momentum = 0   w <- w - lr g
    momentum > 0   v <- momentum v - lr g;   w <- w + v,   or with nesterov   w <- w + momentum v - lr g
    ```

    For a sparse gradient only the rows of the batch decay their velocity v and move (lazy momentum): a row seen every k-th step keeps
    the velocity of its last visit instead of coasting on. Without momentum sparse and dense steps are equal.

    Args:
        learning_rate: lr, a float, schedule or callable.
        momentum: In [0, 1).
        nesterov: Whether to look ahead.
        name: Name of the optimizer.
        **kwargs: As for `keras.optimizers.Optimizer`; what they mean for sparse gradients is in `RowSparseOptimizer`.

    Raises:
        ValueError: On a momentum out of range.

    Source: `keras.optimizers.SGD`, whose dense rule this is.
    """

    def __init__(self, learning_rate=0.01, momentum=0.0, nesterov=False, name="SGD", **kwargs):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        check_share("SGD", momentum=momentum)
        self.momentum = momentum
        self.nesterov = nesterov

    def slots(self):
        return [("momentum", False, 0.0)] if self.momentum else []

    def rule(self, gradient, value, slots, learning_rate, step):
        if not self.momentum:
            return value - learning_rate * gradient, []
        velocity = self.momentum * slots[0] - learning_rate * gradient
        move = self.momentum * velocity - learning_rate * gradient if self.nesterov else velocity
        return value + move, [velocity]

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum, "nesterov": self.nesterov}
