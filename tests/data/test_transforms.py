"""Numeric transforms against plain Python arithmetic, and the streaming fit against the two-pass formula."""

import math

import numpy as np
import pytest

from keras_ctr.data.transforms import RunningStatistics, log_square_boundaries, log_square_ids, logarithm, transform
from keras_ctr.schema import Numeric

VALUES = np.array([-1e9, -3.7, -1.0, -1e-20, 0.0, 0.5, 1.0, 2.0, 1382.0, 3e38], np.float32)


def test_log_square_bins_by_definition():
    rng = np.random.default_rng(1)
    values = np.concatenate([VALUES[1:-1], rng.lognormal(2, 4, 997).astype(np.float32), -rng.lognormal(0, 2, 97).astype(np.float32)])
    for bins in (2, 5, 64):
        expected = []
        for value in values.tolist():
            expected.append(2 + min(math.floor(math.log(value * value + 1)), bins - 1))
        assert log_square_ids(values, bins).tolist() == expected


def test_log_square_boundaries_open_their_bins():
    ends = log_square_boundaries(67)
    assert ends.dtype == np.float32 and ends.shape == (66,) and (np.diff(ends) > 0).all()
    np.testing.assert_allclose(ends.astype(np.float64) ** 2 + 1, np.exp(np.arange(1, 67)), rtol=1e-6)
    assert log_square_ids(ends, 67).tolist() == list(range(3, 69))
    assert log_square_ids(np.nextafter(ends, np.float32(0)), 67).tolist() == list(range(2, 68))
    assert log_square_boundaries(1).shape == (0,) and log_square_ids(VALUES, 1).tolist() == [2] * len(VALUES)
    huge = log_square_boundaries(999)
    assert np.isinf(huge[-1]) and not np.isnan(huge).any()
    assert log_square_ids(np.array([3e38, np.nan], np.float32), 999).tolist() == [2 + math.floor(2 * math.log(3e38)), 1]


@pytest.mark.parametrize("name", ["none", "log1p", "standardize", "log1p_standardize", "log_square"])
def test_transform_equals_its_formula(name):
    values = np.append(VALUES, np.float32(np.nan))
    feature = Numeric("x", transform=name, mean=0.75, std=2.5, num_bins=11)

    def formula(x):
        if math.isnan(x):
            return 1 if name == "log_square" else 0.0
        log = math.copysign(math.log1p(abs(x)), x)
        standard = {"standardize": (x - 0.75) / 2.5, "log1p_standardize": (log - 0.75) / 2.5}
        return {"none": x, "log1p": log, "log_square": 2 + min(math.floor(math.log(x * x + 1)), 10), **standard}[name]

    out = transform(values, feature)
    assert out.dtype == (np.int32 if name == "log_square" else np.float32)
    np.testing.assert_allclose(out, [formula(x) for x in values.tolist()], rtol=3e-7)


def test_logarithm_is_rounded_once():
    values = np.random.default_rng(2).lognormal(0, 6, 10007).astype(np.float32)
    exact = np.array([math.log1p(v) for v in values.tolist()])
    assert (logarithm(values) == exact.astype(np.float32)).all()


@pytest.mark.parametrize("rows", [1, 89, 1013])
def test_running_statistics_equal_two_passes(rows):
    values = (np.random.default_rng(3).normal(1e6, 3.0, 1013)).astype(np.float32)
    values[::7] = np.nan
    running = RunningStatistics()
    for start in range(0, len(values), rows):
        running.update(values[start : start + rows])
    present = values[~np.isnan(values)].astype(np.float64)
    assert running.count == len(present)
    assert running.mean == np.float32(present.mean())
    assert running.std == pytest.approx(present.std(), rel=1e-6) and running.std > 2  # sum of squares would have lost it


def test_statistics_of_nothing_and_of_a_constant():
    empty = RunningStatistics()
    empty.update(np.array([np.nan], np.float32))
    assert (empty.mean, empty.std, empty.count) == (0.0, 1.0, 0)
    constant = RunningStatistics()
    for rows in (3, 7, 11, 13):
        constant.update(np.full(rows, 0.1, np.float32))
    assert constant.std == 1.0
    last_bits = RunningStatistics()
    last_bits.update(np.array([1e8] * 999 + [1e8 + 8], np.float32))  # neighbours in float32: their difference is rounding
    assert last_bits.std == 1.0
    feature = Numeric("x", mean=constant.mean, std=constant.std)
    assert transform(np.float32([0.1, np.nan]), feature).tolist() == [0.0, 0.0]
