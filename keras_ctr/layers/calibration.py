"""Maps from a model's probabilities to calibrated ones: the last layer of a calibrated model."""

import math

import keras
from keras import ops

EPSILON = 2.0**-23
"""Distance from 0 and 1 at which probabilities are clipped before their logit; `1 - EPSILON` is a float32 number."""


@keras.saving.register_keras_serializable(package="keras_ctr")
class PlattScaling(keras.Layer):
    """Platt scaling of a probability: vector `(B, 1) -> (B, 1)`, in float32 under every dtype policy.

        p' = sigmoid(a logit(p) + b),    logit(p) = log(p) - log(1 - p)

    with p clipped to `[EPSILON, 1 - EPSILON]` first. For a > 0 the order of the rows, and so AUC, stays. No weights.

    Args:
        slope: a, a finite number above 0.
        intercept: b, a finite number.

    Raises:
        ValueError: If the slope is not above 0, or one of the numbers is not finite.

    Source: Platt, Probabilistic Outputs for Support Vector Machines (1999), on log-odds in place of an SVM's scores.
    """

    def __init__(self, slope=1.0, intercept=0.0, **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.slope, self.intercept = slope, intercept
        if not (math.isfinite(slope) and slope > 0.0 and math.isfinite(intercept)):
            raise ValueError(
                f"PlattScaling '{self.name}': slope must be finite and above 0, intercept finite; got {slope!r} and {intercept!r}"
            )

    def build(self, inputs_shape):
        self.built = True

    def call(self, inputs):
        p = ops.clip(inputs, EPSILON, 1.0 - EPSILON)
        return ops.sigmoid(self.slope * (ops.log(p) - ops.log1p(-p)) + self.intercept)

    def compute_output_shape(self, inputs_shape):
        return tuple(inputs_shape)

    def get_config(self):
        return {**super().get_config(), "slope": self.slope, "intercept": self.intercept}


@keras.saving.register_keras_serializable(package="keras_ctr")
class PiecewiseLinear(keras.Layer):
    """Monotone piecewise-linear table over probabilities: vector `(B, 1) -> (B, 1)`, in float32 under every dtype policy.

        p' = y_0 + sum_k (y_(k+1) - y_k) clip((p - x_k) / (x_(k+1) - x_k), 0, 1)

    which is y_k at x_k, linear between and constant outside. Every term of the sum is at least 0, so nothing cancels; and there is no
    search in it, so every backend and runtime has its operations. O(B K) for K knots. No weights: the table is in the configuration.

    Args:
        knots: x, K numbers in [0, 1] that increase in float32.
        values: y, K numbers in [0, 1] that never decrease.

    Raises:
        ValueError: If the lists are empty, differ in length, leave [0, 1] or are not in order.
    """

    def __init__(self, knots, values, **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.knots, self.values = [float(x) for x in knots], [float(y) for y in values]
        x, y = self.knots, self.values
        inside = all(0.0 <= v <= 1.0 for v in (*x, *y))
        ordered = all(a < b for a, b in zip(x, x[1:], strict=False)) and all(a <= b for a, b in zip(y, y[1:], strict=False))
        if not x or len(x) != len(y) or not inside or not ordered:
            raise ValueError(
                f"PiecewiseLinear '{self.name}': knots must increase and values never decrease, both in [0, 1] and equally many; "
                f"got {len(x)} knots and {len(y)} values"
            )

    def build(self, inputs_shape):
        self.built = True

    def call(self, inputs):
        x, y = self.knots, self.values
        if len(x) == 1:
            return ops.zeros_like(inputs) + y[0]
        starts = ops.convert_to_tensor([x[:-1]], "float32")  # (1, K - 1)
        widths = ops.convert_to_tensor([[b - a for a, b in zip(x, x[1:], strict=False)]], "float32")
        rises = ops.convert_to_tensor([[b - a for a, b in zip(y, y[1:], strict=False)]], "float32")
        passed = ops.clip((inputs - starts) / widths, 0.0, 1.0)  # (B, K - 1)
        return y[0] + ops.sum(rises * passed, axis=-1, keepdims=True)

    def compute_output_shape(self, inputs_shape):
        return tuple(inputs_shape)

    def get_config(self):
        return {**super().get_config(), "knots": self.knots, "values": self.values}
