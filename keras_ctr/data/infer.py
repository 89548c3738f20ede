"""A first schema from the data itself, for a person to read and edit."""

import re
from dataclasses import dataclass

import numpy as np

from keras_ctr.data.arrow import pa, pc
from keras_ctr.data.columns import as_binary, check_columns, one_array
from keras_ctr.data.sources import NULL_WORDS, is_text, leaves, read_batches, source_columns
from keras_ctr.schema import Categorical, Label, Numeric, Schema, SchemaError, Sequence, time_gap_sequence

__all__ = ["history_name", "infer_schema"]

_GROUP = "history"
_ID_WORDS = {"id", "ids", "code", "hash", "type", "category", "cat", "zip"}
_QUANTITY_WORDS = {
    *("count", "cnt", "num", "number", "amount", "price", "cost", "bid", "total", "sum", "avg", "mean", "rate", "ratio", "score"),
    *("duration", "age", "size", "length", "ms", "seconds", "secs", "minutes", "days"),
}
_YES = ["1", "1.0", "true", "True", "TRUE"]
_SUSPICIOUS_AUC = 0.8  # what is known before an impression rarely orders outcomes so well by itself
_MANY = 200  # rows from which "no value repeats" says something


def history_name(column: str) -> str:
    """Returns the name of the sequence feature that is built from a column's past values."""
    return f"hist_{column}"


@dataclass(frozen=True)
class _Column:
    """What the sample shows of one column: its present values as an Arrow array, their number and the distinct ones."""

    name: str
    values: object
    rows: int
    distinct: int

    @property
    def kind(self) -> str:
        kind = self.values.type
        if pa.types.is_integer(kind):
            return "integer"
        return "real" if pa.types.is_floating(kind) or pa.types.is_decimal(kind) else "list" if pa.types.is_nested(kind) else "text"

    @property
    def has_missing(self) -> bool:
        return len(self.values) < self.rows

    def numbers(self) -> np.ndarray:
        return self.values.cast(pa.float64()).to_numpy(zero_copy_only=False)


def infer_schema(
    source,
    *,
    label,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    history=None,
    history_length: int = 50,
    time_gap: bool = False,
    exclude=(),
    max_distinct: int = 16,
    sample_rows: int = 100_000,
    column_names=None,
    delimiter: str | None = None,
) -> tuple[Schema, list]:
    """Looks at the first rows of a log and proposes a schema.

    - Text, booleans and dates: `Categorical`. Numbers with a fraction: `Numeric`.
    - Whole numbers: `Numeric` if they look like quantities: missing here and there or more than `max_distinct` values, starting near 0,
      the small ones without big gaps, and skewed to the right; or if the name says so (`price`, `view_count`). Else `Categorical`.
    - Transform: `"log1p_standardize"` for a heavy right tail, else `"standardize"`.
    - Left out, each with a note: columns with one value, columns of which no value repeats (row ids), lists without integers or text.
    - Noted, not left out: columns that predict a label suspiciously well by themselves, as outcomes known only afterwards do.
    - `user` and `item` are `Categorical` whatever they look like; `user` is the schema's group, `time` its time and no feature.

    Args:
        source: What `read_batches` reads.
        label: Name of the label column, or several.
        user, item, time: Columns from which histories are built (all three) and by which rows are grouped and ordered.
        history: Columns whose past values become sequences, besides `item`; default: `item` alone. Pass `()` for no histories.
        history_length: Their `max_length`.
        time_gap: Whether the histories say how long before the row each event was: one more sequence, `history_name("time_gap")`.
        exclude: Columns to leave out: outcomes that are known only after the impression, say.
        max_distinct: Whole numbers with no more distinct values than this, and none missing, are categories.
        sample_rows: Rows looked at.
        column_names, delimiter: See `read_batches`.

    Returns:
        The unfitted `Schema`, and a list of notes: what was left out and why, what deserves a look.

    Raises:
        EncodingError: If a named column does not exist (with the nearest name).
        SchemaError: If a label is not 0/1, no feature is left, or there are no histories for `time_gap`.
    """
    labels = [label] if isinstance(label, str) else list(label)
    options = {"column_names": column_names, "delimiter": delimiter}
    present = source_columns(source, **options)
    named = [name for name in (user, item, time) if name]
    check_columns([*labels, *named, *(history or ()), *exclude], present, "the data")
    sample = _sample(source, sample_rows, present, options)
    outcomes = {}
    for name in labels:
        _check_label(name, _describe(name, sample[name]).values)
        outcomes[name] = pc.is_in(one_array(sample[name]).cast(pa.string()), value_set=pa.array(_YES)).to_numpy(zero_copy_only=False)
    notes, features = [], []
    for name in present:
        if name in (*labels, *exclude, time):
            continue
        feature, note = _propose(_describe(name, sample[name]), name in (user, item), max_distinct, history_length)
        features += [feature] if feature else []
        notes += [note] if note else []
        for target in labels if feature and not isinstance(feature, Sequence) else ():
            auc = _auc_alone(one_array(sample[name]), outcomes[target], isinstance(feature, Numeric))
            if auc > _SUSPICIOUS_AUC:
                notes.append(f"'{name}': alone it has an AUC of {auc:.2f} on '{target}'; if it is known only afterwards, exclude it")
    if user and item and time and history != ():
        features += _histories(features, dict.fromkeys([item, *(history or ())]), history_length)
        features += [time_gap_sequence(history_name("time_gap"), history_length, _GROUP)] if time_gap else []
    elif time_gap:
        raise SchemaError("time_gap is an attribute of histories: give the user, item and time columns to build them from")
    if not features:
        raise SchemaError(f"no column is left to be a feature: {'; '.join(notes) or 'there are only labels'}")
    return Schema(features=features, labels=[Label(name) for name in labels], group=user, time=time), notes


def _sample(source, rows, present, options):
    # Text is read as text and typed below, by all rows of the sample: Arrow's guess would go by a first block and then insist on it.
    types = dict.fromkeys(present, pa.string()) if is_text(leaves(source)[0]) else None
    batches, count = [], 0
    for batch in read_batches(source, column_types=types, **options):
        batches.append(batch.slice(0, rows - count))
        count += len(batches[-1])
        if count >= rows:
            break
    return pa.Table.from_batches(batches)


def _describe(name, column) -> _Column:
    column = one_array(column)
    rows = len(column)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = _typed(column.filter(pc.not_equal(column, "").fill_null(False)))
    column = column.drop_null()
    if pa.types.is_floating(column.type):
        column = column.filter(pc.is_finite(column))
    distinct = 0 if pa.types.is_nested(column.type) else len(pc.unique(column))
    return _Column(name, column, rows, distinct)


def _typed(text):
    """Returns text as numbers if all of it is numbers; leading zeros (codes, hashes) are kept as text."""
    present = text.filter(pc.invert(pc.is_in(text, value_set=pa.array(NULL_WORDS, text.type))))
    if pc.any(pc.match_substring_regex(present, r"^-?0\d")).as_py():
        return text
    for kind in (pa.int64(), pa.float64()):
        try:
            return present.cast(kind)
        except pa.ArrowInvalid:
            continue
    return text


def _check_label(name, values):
    words = {"true", "false"}
    is_text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    found = {str(value) for value in pc.unique(values).to_pylist()}
    if is_text and not {value.lower() for value in found} <= words:
        raise SchemaError(f"label '{name}' must hold 0 and 1, found {sorted(found)[:3]}")
    if not is_text:
        as_binary(values, name)
    if len(found) < 2:
        raise SchemaError(f"label '{name}' has only one class in the sample: {sorted(found)}")


def _propose(column: _Column, is_key: bool, max_distinct: int, history_length: int):
    """Returns a feature or None, and a note or None."""
    name = column.name
    if column.kind == "list":
        values = column.values.type.value_type if hasattr(column.values.type, "value_type") else None
        if values is not None and (pa.types.is_integer(values) or pa.types.is_string(values) or pa.types.is_large_string(values)):
            dtype = "int64" if pa.types.is_integer(values) else "string"
            note = f"'{name}': taken as a sequence; give it the table and target of the feature whose values it holds"
            return Sequence(name, max_length=history_length, dtype=dtype, group=name), note
        return None, f"'{name}': left out, {column.values.type} is no list of integers or text"
    if column.distinct == 0 and not is_key:
        return None, f"'{name}': left out, it has no values in the sample"
    categorical = Categorical(name, dtype="int64" if column.kind == "integer" else "string")
    if is_key:
        return categorical, None
    if column.distinct == 1 and not (column.has_missing and column.kind != "text"):
        return None, f"'{name}': left out, its only value is {column.values[0].as_py()!r}"
    never_repeats = column.distinct == len(column.values) >= min(_MANY, column.rows) and column.rows >= _MANY
    if column.kind == "real":
        numbers = column.numbers()
        if np.all(numbers == np.floor(numbers)) and np.abs(numbers).max() >= 2.0**53:  # integers past 64 bits
            return (None, f"'{name}': left out, no value repeats") if never_repeats else (Categorical(name), None)
        return _numeric(column), None
    if never_repeats:
        return None, f"'{name}': left out, no value repeats in {column.rows} rows (a row's own id?)"
    if column.kind == "text" or not _is_quantity(column, max_distinct):
        many = column.kind == "integer" and column.distinct > 1000
        hint = f"'{name}': {column.distinct} distinct whole numbers are taken as ids; make it a numeric feature if they are quantities"
        return categorical, hint if many else None
    return _numeric(column), None


def _auc_alone(column, outcome, is_number) -> float:
    """Returns the AUC of a column's own click rates: by value where there are few, by 32 ranges of a number; 0.5 if neither or few rows."""
    if len(column) < 5 * _MANY:
        return 0.5
    if is_number:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = pc.if_else(pc.is_in(column, value_set=pa.array(NULL_WORDS, column.type)), pa.scalar(None, column.type), column)
        numbers = column.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
        ends = np.unique(np.nanquantile(numbers, np.linspace(0, 1, 33)[1:-1]))
        codes = np.where(np.isnan(numbers), len(ends) + 1, np.searchsorted(ends, numbers))
    else:
        codes = column.dictionary_encode(null_encoding="encode").indices.to_numpy()
    ones, zeros = (np.bincount(codes[outcome == y], minlength=codes.max() + 1).astype(np.float64) for y in (True, False))
    if len(ones) > 64 or not (ones.sum() and zeros.sum()):
        return 0.5
    order = np.argsort(ones / np.maximum(ones + zeros, 1))
    ones, zeros = ones[order], zeros[order]
    return float((ones * (np.cumsum(zeros) - zeros / 2)).sum() / (ones.sum() * zeros.sum()))


def _is_quantity(column: _Column, max_distinct: int) -> bool:
    words = {word.lower() for word in re.split(r"[\W_]+|(?<=[a-z])(?=[A-Z])", column.name)}
    if words & _ID_WORDS or column.distinct == 1 or (column.distinct <= max_distinct and not column.has_missing):
        return False
    if words & _QUANTITY_WORDS:
        return True
    numbers = column.numbers()
    low, middle, high = numbers.min(), np.median(numbers), numbers.max()
    small = np.unique(numbers[numbers < low + 10])
    return low <= 1 and len(small) >= min(5, column.distinct) and middle - low <= 0.25 * (high - low)


def _numeric(column: _Column) -> Numeric:
    numbers = column.numbers()
    low, middle, high = np.quantile(numbers, [0, 0.5, 0.99])
    heavy = low >= -0.05 * high and high > 10 * max(middle, 1.0)  # below 1 the logarithm changes little
    return Numeric(column.name, transform="log1p_standardize" if heavy else "standardize")


def _histories(features, columns, max_length) -> list:
    """Returns the sequences of the past values of columns; one table and target each, all of one group, for they are the same events."""
    by_name = {f.name: f for f in features}
    found = []
    for name in columns:
        if not isinstance(by_name.get(name), Categorical):
            raise SchemaError(f"history column '{name}' is not a categorical feature of the log, so its past values are no sequence of ids")
        dtype = by_name[name].dtype
        found.append(Sequence(history_name(name), max_length=max_length, table=name, target=name, dtype=dtype, group=_GROUP))
    return found
