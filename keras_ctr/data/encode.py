"""Raw Arrow rows -> ids and floats: what the model's feature dict holds, and a count of everything that did not fit."""

from dataclasses import asdict, dataclass, field

import numpy as np

from keras_ctr.data.arrow import pa, pc
from keras_ctr.data.columns import (
    MISSING_INT,
    EncodingError,
    as_binary,
    as_floats,
    as_groups,
    as_lists,
    as_times,
    as_values,
    check_columns,
    get_column,
    row_name,
)
from keras_ctr.data.hashing import buckets
from keras_ctr.data.transforms import transform
from keras_ctr.data.vocabulary import Vocabulary
from keras_ctr.schema import FIRST_ID, META_GROUP, META_TIME, PADDING_ID, UNKNOWN_ID, Categorical, Numeric, Schema, SchemaError

__all__ = ["EncodeReport", "EncodedBatch", "Encoder", "EncodingError", "FeatureCounts"]


@dataclass(frozen=True)
class EncodedBatch:
    """n encoded rows.

    Attributes:
        features: By feature name: fields (n,) int32 or int64 ids, numerics (n,) float32, sequences (n, max_length) ids padded with 0 after
            the end; and `"meta/group"`, `"meta/time"` (n,) int64 where the schema has them.
        labels: By label name: (n, 1) float32 zeros and ones; NaN where the outcome of a partial label (`Label.partial`) is unknown.
    """

    features: dict
    labels: dict

    @property
    def num_rows(self) -> int:
        """n."""
        return len(next(iter(self.features.values())))


@dataclass
class FeatureCounts:
    """What happened to one feature's raw values.

    Attributes:
        values: Values seen; of a sequence, the events kept.
        missing: Null, NaN and empty ones; in a hashed table of integers -1 too.
        unknown: Those outside the vocabulary. A hashed table knows every value: 0.
        infinite: Infinite ones, taken as missing.
        empty: Rows whose sequence has no events.
        truncated: Rows whose sequence was longer than `max_length`.
    """

    values: int = 0
    missing: int = 0
    unknown: int = 0
    infinite: int = 0
    empty: int = 0
    truncated: int = 0

    @property
    def unknown_rate(self) -> float:
        """Share of the present values that are outside the vocabulary (0 without values)."""
        present = self.values - self.missing - self.infinite
        return self.unknown / present if present else 0.0


@dataclass
class EncodeReport:
    """Counts per feature of everything an `Encoder` has encoded.

    Attributes:
        num_rows: Rows encoded.
        features: `{feature name: FeatureCounts}`.
    """

    num_rows: int = 0
    features: dict = field(default_factory=dict)

    def to_dict(self) -> dict:
        """Returns a JSON-ready dict; counts that are 0 are left out."""
        features = {}
        for name, counts in self.features.items():
            features[name] = {key: value for key, value in asdict(counts).items() if value or key == "values"}
            if counts.unknown:
                features[name]["unknown_rate"] = round(counts.unknown_rate, 6)
        return {"num_rows": self.num_rows, "features": features}


class _HashedValues:
    """Stands in for the vocabulary of a hashed table: every value has a code."""

    def __init__(self, num_buckets, dtype):
        self._num_buckets = num_buckets
        self._missing = "" if dtype == "string" else MISSING_INT

    def codes(self, array) -> np.ndarray:
        """Returns `Vocabulary.codes` of raw values (n,): 0 for missing ones, else 2 + bucket; (n,) int64."""
        encoded = array.dictionary_encode()
        unique = encoded.dictionary
        missing = pc.equal(unique, self._missing).to_numpy(zero_copy_only=False)
        codes = np.where(missing, PADDING_ID, buckets(unique, self._num_buckets) + FIRST_ID)
        return np.append(codes, PADDING_ID)[encoded.indices.fill_null(len(unique)).to_numpy()]  # the last one is for nulls


class Encoder:
    """Encodes raw rows by a fitted schema.

    Text and integers become ids by their table's vocabulary; null and the empty string are missing and have the id 1. An integer table
    of which the schema gives the size only holds ids already: 0 and 1 keep their meaning and the range is checked. A table with
    `hash_buckets` N gives a value the id 2 + fingerprint mod N (`hashing.buckets`) and a missing one, -1 among integers too, the id 1.
    Numbers are transformed (`transforms.py`). Sequences keep their newest `max_length` events, oldest first; a step at which every
    sequence of the group lacks a value (null, `""`, -1) is no event. Labels must be 0 or 1.

    Args:
        schema: A fitted `Schema`.
        vocabularies: `{table name: Vocabulary}`; a vocabulary that stands in the schema itself need not be repeated.
        strict: Whether an infinite number and an id outside its table are errors; otherwise they are counted and taken as
            missing and unknown. A value outside a vocabulary is never an error: rare values are left out on purpose.

    Attributes:
        report: `EncodeReport` of all batches so far.

    Raises:
        SchemaError: If the schema is not fitted, or a vocabulary is missing, has another size or type than the schema says, or belongs
            to a hashed table.
    """

    def __init__(self, schema: Schema, vocabularies: dict | None = None, *, strict: bool = False):
        schema.check_fitted()
        schema.check_vocabularies(vocabularies or ())
        self.schema = schema
        self.strict = strict
        self.report = EncodeReport(features={name: FeatureCounts() for name in schema.feature_names})
        self._vocabularies = {}
        for name, table in schema.tables.items():
            if table.hash_buckets is not None:
                self._vocabularies[name] = _HashedValues(table.hash_buckets, table.dtype)
                continue
            vocabulary = (vocabularies or {}).get(name)
            if vocabulary is None and table.vocabulary is not None:
                vocabulary = Vocabulary(table.vocabulary, table.dtype)
            if vocabulary is None and table.dtype == "string":
                raise SchemaError(f"table '{name}' (feature '{table.features[0]}') holds strings and has no vocabulary to look them up in")
            if vocabulary is not None and (vocabulary.size, vocabulary.dtype) != (table.vocabulary_size, table.dtype):
                raise SchemaError(
                    f"table '{name}': its vocabulary makes {vocabulary.size} rows of dtype '{vocabulary.dtype}', "
                    f"the schema says {table.vocabulary_size} of '{table.dtype}'"
                )
            self._vocabularies[name] = vocabulary

    def encode(self, batch, *, labels: bool = True) -> EncodedBatch:
        """Encodes one record batch (or table).

        Args:
            batch: `pa.RecordBatch` or `pa.Table` with the schema's raw columns; others are ignored.
            labels: Whether the labels are read; False for rows that are to be predicted.

        Returns:
            `EncodedBatch`, rows in the same order.

        Raises:
            EncodingError: Naming column, row and value of what does not fit.
        """
        names = [name for name in self.schema.raw_columns if labels or name not in self.schema.label_names]
        check_columns(names, batch.schema.names, "the data")
        row = self.report.num_rows
        features = {}
        for feature in self.schema.features:
            column = get_column(batch, feature.name)
            if isinstance(feature, Numeric):
                features[feature.name] = self._numbers(feature, column, row)
            elif isinstance(feature, Categorical):
                values = as_values(column, feature.name, self.schema.raw_dtype(feature.name), row)
                features[feature.name] = self._ids(feature, values, row)
        for members in self.schema.sequence_groups.values():
            features.update(self._histories(members, batch, row))
        features = {name: features[name] for name in self.schema.feature_names}
        if self.schema.group:
            features[META_GROUP] = as_groups(get_column(batch, self.schema.group), self.schema.group)
        if self.schema.time:
            features[META_TIME] = as_times(get_column(batch, self.schema.time), self.schema.time, row)
        outcomes = self._outcomes(batch, row) if labels else {}
        self.report.num_rows += batch.num_rows
        return EncodedBatch(features, outcomes)

    def _outcomes(self, batch, row) -> dict:
        """Returns `{label: (n, 1) float32}`, NaN where an outcome is unknown. `row` is as in `columns.row_name`."""
        labels = self.schema.labels
        # Where a label's condition fails, a null is as good as a 0: logs hold either.
        read = {x.name: as_binary(get_column(batch, x.name), x.name, row, optional=x.partial)[:, None] for x in labels}
        outcomes = {}
        for label in labels:
            values, given, by_name = read[label.name], label.given, {x.name: x for x in labels}
            needed = ~np.isnan(values)
            while given is not None:
                holds = read[given] == 1.0
                values, needed = np.where(holds, values, np.float32(np.nan)), needed | ~holds
                given = by_name[given].given
            if not label.optional and not needed.all():
                at = int(np.argmin(needed))
                raise EncodingError(
                    f"label '{label.name}' has no value at {row_name(row, at)}, where '{label.given}' is 1; "
                    "where outcomes may be unknown, declare Label(..., optional=True)"
                )
            outcomes[label.name] = values
        return outcomes

    def _ids(self, feature, values, row) -> np.ndarray:
        """Returns the ids (n,) of raw values; missing and unknown ones are 1. `row` is as in `columns.row_name`."""
        table = self.schema.table_of(feature)
        vocabulary = self._vocabularies[table.name]
        counts = self.report.features[feature.name]
        counts.values += len(values)
        if vocabulary is not None:
            ids = vocabulary.codes(values)
            # Codes tell missing (0) from unknown (1); ids do not.
            counts.missing += int(np.count_nonzero(ids == PADDING_ID))
            counts.unknown += int(np.count_nonzero(ids == UNKNOWN_ID))
            ids = np.maximum(ids, UNKNOWN_ID)
        else:
            missing = values.null_count
            ids = values.fill_null(UNKNOWN_ID).to_numpy()
            outside = (ids < PADDING_ID) | (ids >= table.vocabulary_size)
            if self.strict and outside.any():
                at = int(np.argmax(outside))
                raise EncodingError(
                    f"feature '{feature.name}': id {ids[at]} at {row_name(row, at)} is outside its table of {table.vocabulary_size} rows "
                    f"(ids 0 to {table.vocabulary_size - 1})"
                )
            counts.missing += missing
            counts.unknown += int(np.count_nonzero(outside | (ids == UNKNOWN_ID))) - missing
            ids = np.where(outside, UNKNOWN_ID, ids)
        return ids.astype(self.schema.encoded_dtype(feature.name), copy=False)

    def _numbers(self, feature, column, row) -> np.ndarray:
        values = as_floats(column, feature.name)  # (n,)
        counts = self.report.features[feature.name]
        infinite = np.isinf(values)
        if infinite.any():
            if self.strict:
                at = int(np.argmax(infinite))
                raise EncodingError(f"feature '{feature.name}': {column[at].as_py()!r} at {row_name(row, at)} is not finite")
            values = np.where(infinite, np.float32(np.nan), values)
        counts.values += len(values)
        counts.infinite += int(np.count_nonzero(infinite))
        counts.missing += int(np.count_nonzero(np.isnan(values) & ~infinite))
        return transform(values, feature).astype(self.schema.encoded_dtype(feature.name), copy=False)

    def _histories(self, members, batch, row) -> dict:
        """Returns the encoded sequences of one group: `{name: (n, T) ids}`.

        A step is an event unless every sequence of the group lacks its value there; the newest T events are kept.
        """
        values, rows = self._events(members, batch, row)
        present = np.zeros(len(rows), bool)  # (events,)
        for feature in members:
            present |= self._is_present(feature, values[feature.name])
        rows = rows[present]
        lengths = np.bincount(rows, minlength=batch.num_rows)  # (n,)
        length = members[0].max_length
        kept = np.arange(len(rows)) >= (np.cumsum(lengths) - length)[rows]
        chosen, rows = pa.array(np.flatnonzero(present)[kept]), rows[kept]
        filled = np.arange(length) < np.minimum(lengths, length)[:, None]  # (n, T)
        out = {}
        for feature in members:
            counts = self.report.features[feature.name]
            counts.truncated += int(np.count_nonzero(lengths > length))
            counts.empty += int(np.count_nonzero(lengths == 0))
            ids = self._ids(feature, values[feature.name].take(chosen), lambda event: row + int(rows[event]))
            out[feature.name] = np.full(filled.shape, PADDING_ID, ids.dtype)  # (n, T)
            out[feature.name][filled] = ids
        return out

    def _events(self, members, batch, row):
        """Returns all events of a group, row after row, `{name: Arrow values (events,)}`, and the row of each in the batch."""
        found, first = {}, None
        for feature in members:
            values, ends, lengths = as_lists(get_column(batch, feature.name), feature.name)
            first = lengths if first is None else first
            if not np.array_equal(first, lengths):
                at = int(np.argmax(first != lengths))
                raise EncodingError(
                    f"sequences '{members[0].name}' and '{feature.name}' of group '{feature.group}' are attributes of the same events, "
                    f"but {row_name(row, at)} has {first[at]} and {lengths[at]} of them; unrelated sequences belong to different groups"
                )
            rows = np.repeat(np.arange(len(lengths)), lengths)
            order = np.arange(len(rows)) + (ends - np.cumsum(lengths))[rows]
            values = values if np.array_equal(order, np.arange(len(values))) else values.take(pa.array(order))
            found[feature.name] = as_values(values, feature.name, self.schema.raw_dtype(feature.name), lambda i, of=rows: row + int(of[i]))
        return found, rows

    def _is_present(self, feature, values) -> np.ndarray:
        """Returns which values (events,) of a sequence are values: not null, not empty, not the -1 (among ids: 0) that pads integers."""
        if self.schema.raw_dtype(feature.name) == "string":
            present = pc.not_equal(values, "")
        elif self._vocabularies[self.schema.table_of(feature).name] is None:
            present = pc.greater(values, PADDING_ID)
        else:
            present = pc.not_equal(values, MISSING_INT)
        return present.fill_null(False).to_numpy(zero_copy_only=False)
