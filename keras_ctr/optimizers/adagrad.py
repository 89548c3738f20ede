"""Adagrad with a sum of squares for every element, or one for every row."""

import keras
from keras import ops

from keras_ctr.optimizers.row_sparse import RowSparseOptimizer, check_not_negative


class _Adagrad(RowSparseOptimizer):
    def __init__(self, learning_rate, initial_accumulator_value, epsilon, name, **kwargs):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        check_not_negative(type(self).__name__, initial_accumulator_value=initial_accumulator_value, epsilon=epsilon)
        self.initial_accumulator_value = initial_accumulator_value
        self.epsilon = epsilon

    def get_config(self):
        return {**super().get_config(), "initial_accumulator_value": self.initial_accumulator_value, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="keras_ctr")
class Adagrad(_Adagrad):
    """Adagrad: steps shrink with the gradients that an element has seen.

    `n <- n + g^2;   w <- w - lr g / sqrt(n + epsilon)`, n starting at `initial_accumulator_value`.

    A row without a gradient does not change under either form, so sparse and dense steps are equal.

    Args:
        learning_rate: lr, a float, schedule or callable.
        initial_accumulator_value: Start of n, >= 0.
        epsilon: Added to n under the root, >= 0.
        name: Name of the optimizer.
        **kwargs: As for `keras.optimizers.Optimizer`; what they mean for sparse gradients is in `RowSparseOptimizer`.

    Raises:
        ValueError: On a negative argument.

    Source: Duchi et al., JMLR 2011; `keras.optimizers.Adagrad`, whose dense rule this is.
    """

    def __init__(self, learning_rate=0.001, initial_accumulator_value=0.1, epsilon=1e-7, name="Adagrad", **kwargs):
        super().__init__(learning_rate, initial_accumulator_value, epsilon, name, **kwargs)

    def slots(self):
        return [("accumulator", False, self.initial_accumulator_value)]

    def rule(self, gradient, value, slots, learning_rate, step):
        squares = slots[0] + ops.square(gradient)
        return value - learning_rate * gradient / ops.sqrt(squares + self.epsilon), [squares]


@keras.saving.register_keras_serializable(package="keras_ctr")
class RowWiseAdagrad(_Adagrad):
    """Adagrad with one step size a row: its state is 1/D of the table instead of a second table.

    `n_r <- n_r + mean_d(g_{r,d}^2);   w_r <- w_r - lr g_r / (sqrt(n_r) + epsilon)`, one n for every row r, starting at
    `initial_accumulator_value`.

    A row is the last axis of a variable of rank 2 or more; the elements of a vector are rows of one element. A row without a gradient
    does not change under either form, so sparse and dense steps are equal.

    Args:
        learning_rate: lr, a float, schedule or callable.
        initial_accumulator_value: Start of n, >= 0.
        epsilon: Added to the root, >= 0. A row whose gradients are all zero needs it to be positive.
        name: Name of the optimizer.
        **kwargs: As for `keras.optimizers.Optimizer`; what they mean for sparse gradients is in `RowSparseOptimizer`.

    Raises:
        ValueError: On a negative argument.

    Source: the row-wise Adagrad of DLRM (Naumov et al., arXiv:1906.00091) and FBGEMM (Khudia et al., arXiv:2101.05615).
    """

    def __init__(self, learning_rate=0.01, initial_accumulator_value=0.0, epsilon=1e-8, name="RowWiseAdagrad", **kwargs):
        super().__init__(learning_rate, initial_accumulator_value, epsilon, name, **kwargs)

    def slots(self):
        return [("row_accumulator", True, self.initial_accumulator_value)]

    def rule(self, gradient, value, slots, learning_rate, step):
        squares = ops.square(gradient)
        squares = slots[0] + (ops.mean(squares, axis=-1, keepdims=True) if len(gradient.shape) > 1 else squares)
        return value - learning_rate * gradient / (ops.sqrt(squares) + self.epsilon), [squares]
