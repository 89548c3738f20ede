"""Numeric transforms in float32, written so that another runtime can repeat them operation by operation, and their streaming fit.

The order of operations, for a raw value x that has been rounded to float32 (missing: null or NaN; infinite counts as missing):

- log: `l = sign(x) * float32(log1p(float64(|x|)))`. The logarithm is taken in float64 and rounded once, because float32 logarithms differ
  between libraries in their last bits and correctly rounded float64 ones, rounded again, do not.
- `"none"`: x. `"log1p"`: l. `"standardize"`: `(x - m) * r`. `"log1p_standardize"`: `(l - m) * r`, with the float32 constants m = `mean`
  and r = `reciprocal(std)`; subtraction and product are float32. It is a product because TensorFlow's graph optimizer turns a division
  by a constant into one, which differs in the last bit. A missing value gives 0.0.
- `"log_square"`: `id = 2 + #{k : |x| >= b_k}` with the float32 constants `log_square_boundaries(num_bins)`: comparisons only, so every
  runtime agrees on every value. A missing value has the id 1.
"""

import numpy as np

from keras_ctr.schema import FIRST_ID, UNKNOWN_ID

__all__ = ["RunningStatistics", "log_square_boundaries", "log_square_ids", "logarithm", "reciprocal", "transform"]


def log_square_boundaries(num_bins: int) -> np.ndarray:
    """Returns the lower ends of the bins 1, 2, ... of DynInt's log-square binning: b_k = sqrt(e^k - 1), k = 1 ... num_bins - 1.

    floor(log(x^2 + 1)) >= k if and only if |x| >= b_k. Ends beyond float32 are infinite: their bins stay empty.

    Args:
        num_bins: Bins, the last one open above.

    Returns:
        (num_bins - 1,) float32, rising.
    """
    with np.errstate(over="ignore"):
        return np.sqrt(np.expm1(np.arange(1, num_bins, dtype=np.float64))).astype(np.float32)


def log_square_ids(values: np.ndarray, num_bins: int) -> np.ndarray:
    """Returns the ids 2 + min(floor(log(x^2 + 1)), num_bins - 1) of float32 values, 1 for NaN: `(n,) -> (n,)` int32."""
    bins = np.searchsorted(log_square_boundaries(num_bins), np.abs(values), side="right").astype(np.int32)
    return np.where(np.isnan(values), np.int32(UNKNOWN_ID), bins + np.int32(FIRST_ID))


def logarithm(values: np.ndarray) -> np.ndarray:
    """Returns sign(x) log(1 + |x|) of float32 values as float32."""
    return np.sign(values) * np.log1p(np.abs(values).astype(np.float64)).astype(np.float32)


def reciprocal(std: float) -> np.float32:
    """Returns the float32 factor that stands for a division by a standard deviation."""
    return np.float32(1) / np.float32(std)


def transform(values: np.ndarray, feature) -> np.ndarray:
    """Applies a fitted `Numeric` feature's transform.

    Args:
        values: (n,) float32 raw values, NaN where missing; no infinities.
        feature: The `Numeric` feature.

    Returns:
        (n,) float32, missing as 0.0; for `"log_square"` (n,) int32 ids.
    """
    if feature.is_binned:
        return log_square_ids(values, feature.num_bins)
    out = logarithm(values) if feature.transform.startswith("log1p") else values
    if feature.needs_statistics:
        out = (out - np.float32(feature.mean)) * reciprocal(feature.std)
    return np.where(np.isnan(out), np.float32(0), out)


class RunningStatistics:
    """Mean and standard deviation of a stream, batch by batch, in float64.

    Batches (n, mean, M2 = sum of squared distances to the mean) are merged by Chan, Golub and LeVeque (1979):
    mean = mean_a + d n_b / n, M2 = M2_a + M2_b + d^2 n_a n_b / n with d = mean_b - mean_a, n = n_a + n_b.

    Attributes:
        count: Values seen, missing ones left out.
    """

    def __init__(self):
        self.count = 0
        self._mean = 0.0
        self._squares = 0.0

    def update(self, values: np.ndarray):
        """Takes in a batch of values, (n,); NaN is left out."""
        values = values[~np.isnan(values)].astype(np.float64)
        if not len(values):
            return
        mean = values.mean()
        distance, total = mean - self._mean, self.count + len(values)
        self._squares += float(np.square(values - mean).sum() + distance * distance * self.count * len(values) / total)
        self._mean += float(distance * len(values) / total)
        self.count = total

    @property
    def mean(self) -> float:
        """The mean, rounded to float32 (0 without values)."""
        return float(np.float32(self._mean))

    @property
    def std(self) -> float:
        """The standard deviation of the values as a population, rounded to float32; 1 if there is none to divide by."""
        std = np.float32(np.sqrt(self._squares / self.count)) if self.count else np.float32(0)
        # A spread of the size of float32's rounding is none; dividing by it would turn the last bits into a feature.
        return float(std) if std > 1e-6 * abs(self._mean) and std > 1e-30 else 1.0
