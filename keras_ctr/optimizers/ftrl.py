"""FTRL-Proximal, element-wise and with a group lasso over embedding rows."""

import keras
from keras import ops

from keras_ctr.optimizers.row_sparse import RowSparseOptimizer, check_not_negative

SEMANTICS = ("anchored", "original")


class _FTRL(RowSparseOptimizer):
    def __init__(self, learning_rate, beta, l1, l2, initial_accumulator_value, semantics, name, **kwargs):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        check_not_negative(type(self).__name__, beta=beta, l1=l1, l2=l2, initial_accumulator_value=initial_accumulator_value)
        if semantics not in SEMANTICS:
            raise ValueError(f"{type(self).__name__}: semantics must be one of {SEMANTICS}, got {semantics!r}")
        if beta == 0 and initial_accumulator_value == 0 and l2 == 0:
            raise ValueError(f"{type(self).__name__}: beta, l2 and initial_accumulator_value are all 0: the first step would divide by 0")
        self.beta = beta
        self.l1 = l1
        self.l2 = l2
        self.initial_accumulator_value = initial_accumulator_value
        self.semantics = semantics

    def slots(self):
        return [("linear", False, 0.0), ("accumulator", False, self.initial_accumulator_value)]

    def before_rows(self, variable):
        """Under `semantics="original"` weights are a function of the slots alone: untouched rows are zero from the first step on."""
        if self.semantics == "original":
            zeros = keras.initializers.Zeros()
            ops.cond(self._iterations < 1, lambda: _done(variable.assign(zeros(variable.shape, variable.dtype))), lambda: True)

    def rule(self, gradient, value, slots, learning_rate, step):
        linear, squares = slots
        new_squares = squares + ops.square(gradient)
        sigma = (ops.sqrt(new_squares) - ops.sqrt(squares)) / learning_rate
        untouched = None
        if self.semantics == "anchored":
            # No slot tells a weight that never had a gradient from others, but these two values together do.
            initial = ops.convert_to_tensor(self.initial_accumulator_value, squares.dtype)
            fresh = ops.logical_and(ops.equal(linear, 0), ops.equal(squares, initial))
            anchor = -value * ((self.beta + self.initial_accumulator_value**0.5) / learning_rate)
            untouched = self.whole_groups(ops.logical_and(fresh, ops.equal(gradient, 0)))
            linear = ops.where(fresh, anchor, linear)
        new_linear = linear + gradient - sigma * value
        curvature = (self.beta + ops.sqrt(new_squares)) / learning_rate + self.l2
        new = self.minimizer(new_linear, ops.where(curvature > 0, curvature, 1))
        if untouched is not None:
            new = ops.where(untouched, value, new)
            new_linear = ops.where(untouched, slots[0], new_linear)
        return new, [new_linear, new_squares]

    def get_config(self):
        own = ("beta", "l1", "l2", "initial_accumulator_value", "semantics")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def _done(_):
    return True


@keras.saving.register_keras_serializable(package="keras_ctr")
class FTRL(_FTRL):
    """FTRL-Proximal: adaptive steps with L1 that makes exact zeros.

    With n the sum of squared gradients and z the linear part of the objective, for every element:

    ```
    sigma = (sqrt(n + g^2) - sqrt(n)) / lr;   z <- z + g - sigma w;   n <- n + g^2
    w <- 0 if |z| <= l1, else -(z - sign(z) l1) / ((beta + sqrt(n)) / lr + l2)
    ```

    **Initial values.** w is the minimiser of `z w + (beta + sqrt(n)) / (2 lr) w^2 + l1 |w| + l2/2 w^2`, so with z = 0 at the start the
    first step forgets the weight's initial value; that is what TensorFlow's and Keras' Ftrl do (rows whose gradient is zero included),
    and what `semantics="original"` means. `"anchored"`, the default, starts z at `-w_0 (beta + sqrt(n_0)) / lr` when a weight has its
    first gradient that is not zero: the proximal term then pulls to w_0 instead of to 0 (without l1 and l2 the first step is `w_0 - g /
    ((beta + sqrt(n_1)) / lr)`), and a weight that never had a gradient keeps w_0. Both equal McMahan's rule for weights that start at 0.

    **Penalties.** l1 and l2 are the paper's: `l1 |w| + l2/2 w^2` in the objective. TensorFlow counts l2 twice (`l2_w w^2`): its
    `l2_regularization_strength` is half of this `l2`; l1 and beta are the same.

    **Sum or mean loss.** Papers and TF1 code sum the loss over the batch, Keras takes its mean. g, z, sqrt(n) scale with the loss, so
    values of `beta`, `l1`, `l2` for a sum over B rows give the same weights under the mean when divided by B; the learning rate stays.
    The default beta is 1 for a sum over 4,096 rows.

    **Sparse gradients.** Rows outside the batch are untouched, which is exact for a constant learning rate: z and n do not change
    without a gradient, and w is a function of them. (Under a schedule the dense form would recompute such rows with the new rate.)

    Args:
        learning_rate: lr (alpha), a float, schedule or callable.
        beta: Smoothing of the step size, >= 0.
        l1, l2: Penalties, >= 0.
        initial_accumulator_value: Start of n, >= 0; 0 in the papers, 0.1 in TensorFlow.
        semantics: `"anchored"` or `"original"`.
        name: Name of the optimizer.
        **kwargs: As for `keras.optimizers.Optimizer`; what they mean for sparse gradients is in `RowSparseOptimizer`.

    Raises:
        ValueError: On a negative argument, unknown semantics, or nothing that keeps the first step finite.

    Source: McMahan et al., KDD 2013, algorithm 1. Deviation: the anchor above.
    """

    def __init__(
        self,
        learning_rate=0.02,
        beta=1 / 4096,
        l1=0.0,
        l2=0.0,
        initial_accumulator_value=0.0,
        semantics="anchored",
        name="FTRL",
        **kwargs,
    ):
        super().__init__(learning_rate, beta, l1, l2, initial_accumulator_value, semantics, name, **kwargs)

    def whole_groups(self, elements):
        """An element is its own group."""
        return elements

    def minimizer(self, linear, curvature):
        """Returns argmin_w of `linear w + curvature/2 w^2 + l1 |w|`."""
        return ops.where(ops.abs(linear) <= self.l1, 0.0, (ops.sign(linear) * self.l1 - linear) / curvature)


@keras.saving.register_keras_serializable(package="keras_ctr")
class GroupLassoFTRL(_FTRL):
    """FTRL-Proximal with a group lasso over rows (G-FTRL): an embedding row is zero as a whole or not at all.

    z and n as for `FTRL`; for a row r of D elements with `t = l1 sqrt(D)`:

    ```
    w_r <- 0 if |z_r|_2 <= t, else z_r (t / |z_r|_2 - 1) / ((beta + sqrt(n_r)) / lr + l2)          (n element-wise)
    ```

    A row is the last axis of a variable of rank 2 or more; the elements of a vector are rows of one element, for which this is `FTRL`.

    **Initial values, penalties, sum or mean loss, sparse gradients**: as for `FTRL`; under `"anchored"` a row keeps its initial values
    until one of its elements has a gradient that is not zero. Rows that collect little evidence against `l1` become exactly zero at their
    first visit, and can be taken out (`keras_ctr.pruning.prune_zero_rows`). `"original"` is the authors' rule as published: what
    a row held at the start is forgotten at its first update, and the first step sets all rows without a gradient to zero.

    Args:
        learning_rate: lr (alpha), a float, schedule or callable.
        beta: Smoothing of the step size, >= 0.
        l1: Strength of the group lasso, >= 0; the authors' 10 for a loss summed over 4,096 rows is 10 / 4096 here.
        l2: L2 penalty, >= 0.
        initial_accumulator_value: Start of n, >= 0.
        semantics: `"anchored"` or `"original"`.
        name: Name of the optimizer.
        **kwargs: As for `keras.optimizers.Optimizer`; what they mean for sparse gradients is in `RowSparseOptimizer`.

    Raises:
        ValueError: On a negative argument, unknown semantics, or nothing that keeps the first step finite.

    Source: xDeepInt (Yan and Li, arXiv:2301.01089) and DynInt (arXiv:2301.08139, section 4.1.3); Ni et al., ADKDD 2019, for G-FTRL.
    Deviation: the anchor, see `FTRL`. The authors' code also reads n after it may have been written; here it is read before.
    """

    def __init__(
        self,
        learning_rate=0.02,
        beta=1 / 4096,
        l1=0.0,
        l2=0.0,
        initial_accumulator_value=0.0,
        semantics="anchored",
        name="GroupLassoFTRL",
        **kwargs,
    ):
        super().__init__(learning_rate, beta, l1, l2, initial_accumulator_value, semantics, name, **kwargs)

    def whole_groups(self, elements):
        """Returns True for the rows of which all elements are."""
        return ops.all(elements, axis=-1, keepdims=True) if len(elements.shape) > 1 else elements

    def minimizer(self, linear, curvature):
        """Returns argmin over rows of `linear . w + sum curvature/2 w^2 + l1 sqrt(D) |w|_2` (exact for equal curvatures in a row)."""
        if len(linear.shape) > 1:
            norm = ops.sqrt(ops.sum(ops.square(linear), axis=-1, keepdims=True))  # (rows, 1)
            threshold = self.l1 * linear.shape[-1] ** 0.5
        else:
            norm, threshold = ops.abs(linear), self.l1
        shrink = ops.where(norm <= threshold, 0.0, 1.0 - threshold / ops.where(norm > 0, norm, 1.0))
        return -linear * shrink / curvature
