"""Which rows of one log train, validate and test: by time, at random, or as a column says."""

import numpy as np

from keras_ctr.data.columns import EncodingError, as_times, get_column, row_name
from keras_ctr.schema import nearest

__all__ = ["SPLITS", "ColumnSplitter", "RandomSplitter", "TimeSplitter", "time_boundaries"]

SPLITS = ("train", "validation", "test")
_SAMPLE = 1 << 22


def _checked(fractions) -> np.ndarray:
    fractions = np.asarray(fractions, np.float64)
    if fractions.shape != (3,) or (fractions < 0).any() or abs(fractions.sum() - 1) > 1e-6 or fractions[0] == 0:
        raise ValueError(f"fractions must be three numbers for {', '.join(SPLITS)} that add up to 1, the first positive, got {fractions}")
    return fractions


def _check_found(found, fractions):
    for name, share in zip(SPLITS, fractions, strict=True):
        if share > 0 and name not in found:
            raise EncodingError(f"the log is too small for its split: no row came to '{name}', which was to have {share:.0%}")


class RandomSplitter:
    """Assigns rows independently. The same seed gives the same rows, however the log is cut into batches.

    Args:
        fractions: Shares of train, validation and test.
        seed: Seed.
    """

    def __init__(self, fractions=(0.8, 0.1, 0.1), seed: int = 0):
        self.names = list(SPLITS)
        self._fractions = _checked(fractions)
        self._ends = np.cumsum(self._fractions)[:2]
        self._random = np.random.default_rng(seed)

    def assign(self, batch) -> np.ndarray:
        """Returns each row's split as an index into `names`, (n,)."""
        return np.searchsorted(self._ends, self._random.random(batch.num_rows), side="right")

    def check(self, found):
        """Raises `EncodingError` if a split that was to have rows is not among those found."""
        _check_found(found, self._fractions)


class TimeSplitter:
    """Assigns the oldest rows to train, then validation, then test: whoever tests on the past of the training data measures a leak.

    Args:
        time: The time column.
        times: Iterable of int64 arrays: all times of the log, for `time_boundaries`.
        fractions: Shares of train, validation and test.
    """

    def __init__(self, time: str, times, fractions=(0.8, 0.1, 0.1)):
        self.names = list(SPLITS)
        self._fractions = _checked(fractions)
        self._time, self._boundaries = time, np.asarray(time_boundaries(times, fractions), np.int64)

    def assign(self, batch) -> np.ndarray:
        """Returns each row's split as an index into `names`, (n,)."""
        return np.searchsorted(self._boundaries, as_times(get_column(batch, self._time), self._time), side="right")

    def check(self, found):
        """Raises `EncodingError` if a split that was to have rows is not among those found."""
        _check_found(found, self._fractions)


class ColumnSplitter:
    """Assigns rows by the text in a column.

    Args:
        column: The column; its values name the splits.

    Attributes:
        names: Splits seen so far.
    """

    def __init__(self, column: str):
        self.names = []
        self._column = column
        self._rows = 0

    def assign(self, batch) -> np.ndarray:
        """Returns each row's split as an index into `names`, (n,).

        Raises:
            EncodingError: If a row names no split.
        """
        encoded = get_column(batch, self._column).dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy()
        values = [str(value) for value in encoded.dictionary.to_pylist()]
        empty = (codes < 0) | np.isin(codes, [i for i, value in enumerate(values) if not value])
        if empty.any():
            raise EncodingError(f"split column '{self._column}' has no value at {row_name(self._rows, np.argmax(empty))}")
        self.names += [value for value in values if value not in self.names]
        self._rows += batch.num_rows
        return np.array([self.names.index(value) for value in values], np.int64)[codes]

    def check(self, found):
        """Raises `EncodingError` if no row was for training; `found` are the splits that have rows."""
        if "train" not in found:
            raise EncodingError(f"split column '{self._column}' has no 'train', only {sorted(self.names)}{nearest('train', self.names)}")


def time_boundaries(times, fractions=(0.8, 0.1, 0.1)) -> tuple[int, int]:
    """Returns the first instants of validation and test, so that the splits' shares come nearest to `fractions`.

    Rows of one instant stay together, every split with a positive share gets rows, and memory is bounded: past four million values every
    second one is dropped, again and again.

    Args:
        times: Iterable of int64 arrays, all times of the log.
        fractions: Shares of train, validation and test.

    Raises:
        EncodingError: If there are fewer instants than splits.
    """
    wanted = _checked(fractions)
    instants, counts = np.unique(_sample(times), return_counts=True)
    parts = int((wanted > 0).sum())
    if len(instants) < parts:
        raise EncodingError(f"the log has {len(instants)} distinct times, too few for {parts} splits by time; split it at random instead")
    shares = np.cumsum(counts)[:-1] / counts.sum()  # share before the instants 1, 2, ...
    never = np.iinfo(np.int64).max
    if parts == 1:
        return never, never
    first = int(np.argmin(np.abs(shares[: len(shares) - (parts - 2)] - wanted[0]))) + 1
    if wanted[2] == 0:
        return int(instants[first]), never
    if wanted[1] == 0:
        return int(instants[first]), int(instants[first])
    second = first + 1 + int(np.argmin(np.abs(shares[first:] - wanted[:2].sum())))
    return int(instants[first]), int(instants[second])


def _sample(times) -> np.ndarray:
    """Returns every k-th of all values, k the power of two that leaves at most 2 * _SAMPLE of them."""
    kept, count, stride, skip = [], 0, 1, 0
    for values in times:
        part = values[skip::stride]
        skip = (skip - len(values)) % stride if len(values) > skip else skip - len(values)
        kept, count = [*kept, part], count + len(part)
        while count > 2 * _SAMPLE:
            skip += stride * (count % 2)  # the last one is kept if their number is odd, and then the next one is not
            kept, count, stride = [np.concatenate(kept)[::2]], (count + 1) // 2, 2 * stride
    return np.concatenate([np.zeros(0, np.int64), *kept])
