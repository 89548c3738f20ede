"""The kinds of features and labels that a schema holds. Standard library only."""

import difflib
from dataclasses import dataclass
from typing import Any, ClassVar

PADDING_ID = 0
"""Id of a padded sequence step; its embedding row is never read."""
UNKNOWN_ID = 1
"""Id of a missing value or of a value outside the vocabulary."""
FIRST_ID = 2
"""Id of the first value of a vocabulary: ``vocabulary[i]`` has the id ``i + FIRST_ID``."""
META_GROUP = "meta/group"
"""Key under which the group of a row (the user, for gAUC) rides along in an encoded feature dict."""
META_TIME = "meta/time"
"""Key under which the time of a row rides along in an encoded feature dict."""
TIME_GAP_BUCKETS = 32
"""Buckets of a sequence of time gaps: floor(log2(seconds + 1)), the last one for all gaps from 2^31 - 1 seconds on."""

_DTYPES = ("string", "int64")
_TRANSFORMS = ("none", "log1p", "standardize", "log1p_standardize", "log_square")


class SchemaError(ValueError):
    """A schema that contradicts itself or does not fit its use; the message names the feature."""


def nearest(name: str, candidates) -> str:
    """Returns ``"; did you mean 'x'?"`` for the candidate nearest to ``name``, or an empty string."""
    found = difflib.get_close_matches(str(name), [str(c) for c in candidates], n=1, cutoff=0.6)
    return f"; did you mean '{found[0]}'?" if found else ""


def check(condition, message):
    """Raises `SchemaError` with the message unless the condition holds."""
    if not condition:
        raise SchemaError(message)


def _is_count(value, least=1):
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_name(name, what="feature"):
    """Raises `SchemaError` unless `name` can name a feature, table, group or label."""
    check(isinstance(name, str) and name != "", f"{what} name must be a non-empty string, got {name!r}")
    check("/" not in name, f"{what} name '{name}' must not contain '/', which is kept for keys that ride along ('{META_GROUP}')")


def hashed_beside(option, buckets) -> str:
    """Returns why an option of vocabularies does not go with `hash_buckets`."""
    return f"{option} does not go with hash_buckets={buckets}: a hashed table has no vocabulary; give one of the two"


@dataclass(frozen=True)
class Table:
    """One embedding table: the ids that one or several features share. Derived by `Schema.tables`, never written by hand.

    Attributes:
        name: The table's name; that of its first feature unless features name a shared one.
        features: Names of the features that read it, in schema order.
        dtype: Raw value type, `"string"` or `"int64"`; `"float32"` for a binned numeric feature.
        vocabulary_size: Rows, with padding (0) and unknown (1); None before it is fitted.
        vocabulary: Raw values with ids 2, 3, ...; None where they live in a file or were never given.
        embedding_dim: Width that overrides the model's, or None.
        embedding_initializer: Keras initializer name or config that overrides the model's, or None.
        min_count: Least number of occurrences in the training split for a value to get an id of its own; None = the caller's.
        capacity: Most rows that vocabulary building may use, the most frequent values first; None = the caller's.
        quotient_remainder: Remainder rows m of a table stored as products of two smaller ones, or None.
        hash_buckets: N of a hashed table, whose values have the ids 2 + fingerprint mod N and no vocabulary, or None.
    """

    name: str
    features: tuple[str, ...]
    dtype: str
    vocabulary_size: int | None
    vocabulary: tuple | None
    embedding_dim: int | None
    embedding_initializer: Any
    min_count: int | None
    capacity: int | None
    quotient_remainder: int | None = None
    hash_buckets: int | None = None


class _Embedded:
    """The options of features that are looked up in an embedding table, and their checks."""

    def _check_embedded(self):
        where = f"{type(self).__name__} '{self.name}'"
        check(self.dtype in _DTYPES, f"{where}: dtype must be one of {_DTYPES}, got {self.dtype!r}")
        self._check_hashed(where)
        if self.vocabulary is not None:
            object.__setattr__(self, "vocabulary", tuple(self.vocabulary))
            kind = str if self.dtype == "string" else int
            for value in self.vocabulary:
                check(
                    isinstance(value, kind) and not isinstance(value, bool),
                    f"{where}: vocabulary value {value!r} does not have the feature's dtype {self.dtype!r}",
                )
            check(len(set(self.vocabulary)) == len(self.vocabulary), f"{where}: vocabulary has repeated values")
            size = len(self.vocabulary) + FIRST_ID
            if self.vocabulary_size is None:
                object.__setattr__(self, "vocabulary_size", size)
            check(
                self.vocabulary_size == size,
                f"{where}: vocabulary_size={self.vocabulary_size}, but {len(self.vocabulary)} values + {FIRST_ID} reserved ids make {size}",
            )
        if self.vocabulary_size is not None:
            check(
                _is_count(self.vocabulary_size, FIRST_ID),
                f"{where}: vocabulary_size must be an int >= {FIRST_ID} (0 is padding, 1 unknown), got {self.vocabulary_size!r}",
            )
        for option in ("embedding_dim", "min_count", "capacity", "quotient_remainder"):
            value = getattr(self, option)
            check(value is None or _is_count(value), f"{where}: {option} must be a positive int, got {value!r}")
        if self.table is not None:
            check_name(self.table, f"{where}: table")

    def _check_hashed(self, where):
        buckets = self.hash_buckets
        if buckets is None:
            return
        check(_is_count(buckets), f"{where}: hash_buckets must be a positive int, got {buckets!r}")
        for option in ("vocabulary", "min_count", "capacity"):
            check(getattr(self, option) is None, f"{where}: {hashed_beside(option, buckets)}")
        size = buckets + FIRST_ID
        if self.vocabulary_size is None:
            object.__setattr__(self, "vocabulary_size", size)
        check(
            self.vocabulary_size == size,
            f"{where}: vocabulary_size={self.vocabulary_size!r}, but hash_buckets={buckets} + {FIRST_ID} reserved ids make {size}; "
            "leave vocabulary_size out",
        )


@dataclass(frozen=True)
class Categorical(_Embedded):
    """A field with one id per row, looked up in an embedding table.

    Args:
        name: Column name in the raw data and key in the feature dict.
        vocabulary_size: Rows of the table with ids 0 (padding) and 1 (unknown); None until fitted.
        vocabulary: Raw values in id order from 2; sets `vocabulary_size`.
        table: Name of the embedding table; features that give the same name share its rows. Default: the feature's name.
        dtype: Type of the raw values, `"string"` or `"int64"`.
        embedding_dim: Width of the table where it differs from the model's (projected to the model's width by the embedding layer).
        embedding_initializer: Keras initializer (name or config dict) of the table where it differs from the model's.
        min_count, capacity: Vocabulary building limits that override those of `prepare`.
        quotient_remainder: m: the table is stored as m remainder rows and ceil(vocabulary_size / m) quotient rows, whose product
            id i reads at (i mod m, i div m): for vocabularies that do not fit. None or m >= vocabulary_size stores one row an id.
        hash_buckets: N: the hashing trick (Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", 2009, without its
            sign). There is no vocabulary and nothing to fit: a value has the id 2 + fingerprint(value) mod N, so the table has N + 2
            rows and values may share one. The fingerprint is FarmHash Fingerprint64 of the value's UTF-8 text (of an integer: its
            decimal digits), the same on every machine and in an exported model. Null, `""` and, of integers, -1 are missing (id 1).

    Raises:
        SchemaError: On a contradiction; the message names the feature.
    """

    kind: ClassVar[str] = "categorical"
    name: str
    vocabulary_size: int | None = None
    vocabulary: tuple | None = None
    table: str | None = None
    dtype: str = "string"
    embedding_dim: int | None = None
    embedding_initializer: Any = None
    min_count: int | None = None
    capacity: int | None = None
    quotient_remainder: int | None = None
    hash_buckets: int | None = None

    def __post_init__(self):
        check_name(self.name)
        self._check_embedded()


@dataclass(frozen=True)
class Sequence(_Embedded):
    """A behaviour sequence: up to `max_length` ids a row, oldest first, padded with 0 after the end, newest kept.

    Sequences of one `group` are attributes of the same events (item, category, ...): step t of one belongs to step t of the others.

    Args:
        name: Column name in the raw data and key in the feature dict.
        max_length: T, the number of steps kept.
        table: Table whose rows the events read; name a categorical feature's table to share it.
        target: Categorical feature that target attention compares the events with (usually the candidate item); it must share the table.
        group: Name of the group of aligned sequences.
        vocabulary_size, vocabulary, dtype, embedding_dim, embedding_initializer, min_count, capacity, quotient_remainder, hash_buckets:
            As for `Categorical`. A sequence that shares a categorical feature's table takes these from it.

    Raises:
        SchemaError: On a contradiction; the message names the feature.
    """

    kind: ClassVar[str] = "sequence"
    name: str
    max_length: int = 50
    table: str | None = None
    target: str | None = None
    group: str = "history"
    vocabulary_size: int | None = None
    vocabulary: tuple | None = None
    dtype: str = "string"
    embedding_dim: int | None = None
    embedding_initializer: Any = None
    min_count: int | None = None
    capacity: int | None = None
    quotient_remainder: int | None = None
    hash_buckets: int | None = None

    def __post_init__(self):
        check_name(self.name)
        check(_is_count(self.max_length), f"Sequence '{self.name}': max_length must be a positive int, got {self.max_length!r}")
        check_name(self.group, f"Sequence '{self.name}': group")
        self._check_embedded()


def negatives_of(name: str) -> str:
    """Returns the key under which a sequence's sampled negatives stand beside it in the feature dict."""
    return f"{name}_negatives"


def time_gap_sequence(name: str, max_length: int = 50, group: str = "history", *, table: str | None = None) -> Sequence:
    """Returns the `Sequence` of a group that says how long before the row each of its events was.

    Its values are ids already: 0 is no event, 1 an event of unknown time, and a gap of s seconds is in the bucket
    2 + min(floor(log2(s + 1)), 31), so that the table has 34 rows and there is nothing to fit. `build_histories(time_gap=name)` makes the
    column, `keras_ctr.data.time_gap_ids` the ids of gaps. A served model takes the ids too: whoever sends a history computes them.

    Args:
        name: Column name and key in the feature dict.
        max_length, group: Those of the events' other sequences.
        table: Name of a table that the time gaps of several groups share. Default: the sequence's name.

    Raises:
        SchemaError: As `Sequence`.
    """
    return Sequence(name, max_length=max_length, table=table, group=group, vocabulary_size=FIRST_ID + TIME_GAP_BUCKETS, dtype="int64")


def is_time_gap(feature) -> bool:
    """Returns whether a feature has the form of a `time_gap_sequence`."""
    form = (feature.kind, feature.dtype, feature.vocabulary_size, feature.vocabulary, feature.hash_buckets, feature.target)
    return form == ("sequence", "int64", FIRST_ID + TIME_GAP_BUCKETS, None, None, None)


@dataclass(frozen=True)
class Numeric:
    """A number per row.

    Transforms (x raw, m and s = `mean` and `std` fitted on the training split):
    `"none"`: x; `"log1p"`: sign(x) log(1 + |x|); `"standardize"`: (x - m) / s; `"log1p_standardize"`: (sign(x) log(1 + |x|) - m) / s;
    `"log_square"`: the bin floor(log(x^2 + 1)), at most `num_bins - 1` (DynInt, section 4.1.1, with the +1 of the authors' earlier
    code, without which 0 has no bin). A `"log_square"` feature is a field: its id is 2 + bin and it has an embedding table.

    A missing value (null or NaN) becomes 0.0 after the transform, or id 1 for `"log_square"`.

    Args:
        name: Column name in the raw data and key in the feature dict.
        transform: One of the above.
        mean, std: Statistics of the (log-transformed) training values; set by fitting.
        num_bins: Bins of `"log_square"`.
        embedding_dim, embedding_initializer: Table options of `"log_square"`.

    Raises:
        SchemaError: On an unknown transform or a non-positive `std`.
    """

    kind: ClassVar[str] = "numeric"
    name: str
    transform: str = "standardize"
    mean: float | None = None
    std: float | None = None
    num_bins: int = 64
    embedding_dim: int | None = None
    embedding_initializer: Any = None

    def __post_init__(self):
        check_name(self.name)
        check(
            self.transform in _TRANSFORMS,
            f"Numeric '{self.name}': transform must be one of {_TRANSFORMS}, got {self.transform!r}{nearest(self.transform, _TRANSFORMS)}",
        )
        check(self.std is None or self.std > 0, f"Numeric '{self.name}': std must be positive, got {self.std!r}")
        check(_is_count(self.num_bins), f"Numeric '{self.name}': num_bins must be a positive int, got {self.num_bins!r}")
        check(
            self.embedding_dim is None or _is_count(self.embedding_dim),
            f"Numeric '{self.name}': embedding_dim must be a positive int, got {self.embedding_dim!r}",
        )

    @property
    def is_binned(self) -> bool:
        """Whether the encoded feature is an id (a field) rather than a float."""
        return self.transform == "log_square"

    @property
    def needs_statistics(self) -> bool:
        """Whether the transform uses `mean` and `std`."""
        return self.transform.endswith("standardize")

    @property
    def vocabulary_size(self) -> int | None:
        """Rows of the table of a binned feature: padding, unknown and the bins."""
        return self.num_bins + FIRST_ID if self.is_binned else None


@dataclass(frozen=True)
class Label:
    """A binary outcome to predict: column `name` holds 0 and 1.

    Attributes:
        name: Name of the column.
        optional: Whether the outcome may be unknown: a null, NaN or empty value. Such a row has sample weight 0 for this label and counts
            for the others.
        given: Name of another label without which this one says nothing (a conversion is known only after a click): the outcome is taken
            as unknown in all rows where that label is not 1.
        rate: Share of ones that every model starts from: `log(rate / (1 - rate))` is added to its logit, so that a rare label (likes, 2 %)
            is calibrated from the first step. A constant, no weight; None adds nothing. The manifest of a prepared data set has the rate
            of its training split.
    """

    kind: ClassVar[str] = "label"
    name: str
    optional: bool = False
    given: str | None = None
    rate: float | None = None

    def __post_init__(self):
        check_name(self.name, "label")
        check(isinstance(self.optional, bool), f"label '{self.name}': optional must be True or False, got {self.optional!r}")
        if self.given is not None:
            check_name(self.given, f"label '{self.name}': given")
            check(self.given != self.name, f"label '{self.name}' is given itself: name another label or leave `given` out")
        number = isinstance(self.rate, (int, float)) and not isinstance(self.rate, bool)
        check(
            self.rate is None or (number and 0.0 < self.rate < 1.0),
            f"label '{self.name}': rate must be the share of ones, strictly between 0 and 1, got {self.rate!r}",
        )

    @property
    def partial(self) -> bool:
        """Whether some rows may have no outcome."""
        return self.optional or self.given is not None


def table_name(feature) -> str:
    """Returns the name of the embedding table that a feature reads."""
    return getattr(feature, "table", None) or feature.name


def own_dtype(feature) -> str:
    """Returns the raw value type that a feature itself declares."""
    return "float32" if isinstance(feature, Numeric) else feature.dtype
