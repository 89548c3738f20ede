"""Columns of raw Arrow batches as the types that a schema asks for; every error names the column, and the row where it is known.

Rows are counted from 0 over all batches of a split: `first_row` is the number of rows before the batch.
"""

import numpy as np

from keras_ctr.data.arrow import pa, pc
from keras_ctr.data.hashing import hash64
from keras_ctr.schema import nearest

__all__ = [
    "MISSING_INT",
    "EncodingError",
    "as_binary",
    "as_floats",
    "as_groups",
    "as_integers",
    "as_lists",
    "as_strings",
    "as_times",
    "as_values",
    "check_columns",
    "get_column",
    "one_array",
    "plain_batch",
    "raw_types",
    "row_name",
]

MISSING_INT = -1
"""The integer that stands for no value in sequences of integers, where a served model's rectangular input cannot hold a null."""


class EncodingError(ValueError):
    """Raw data that does not fit its schema; the message names the column and, where known, the row and the value."""


def raw_types(schema) -> dict:
    """Returns the Arrow types with which a text file's columns are read for a schema: `{column: type}`.

    Sequence columns and the time are left out (text has no lists; times are read as they look), labels are read as booleans.
    """
    types = {schema.group: pa.string()} if schema.group else {}
    for feature in schema.features:
        if feature not in schema.sequences:
            types[feature.name] = {"string": pa.string(), "int64": pa.int64(), "float32": pa.float32()}[schema.raw_dtype(feature.name)]
    types.update({name: pa.bool_() for name in schema.label_names})
    return types


def _nearest(name, present):
    same = [other for other in present if other.lower() == name.lower()]  # another case is no near match to difflib
    return nearest(same[0], same) if same else nearest(name, present)


def check_columns(wanted, present, where: str):
    """Raises `EncodingError` naming the wanted columns that are not present, each with the nearest one that is."""
    present = list(present)
    missing = [f"'{name}'{_nearest(name, present)}" for name in wanted if name not in present]
    if missing:
        raise EncodingError(f"{where} has no column {', '.join(missing)} (columns: {', '.join(present[:50])})")
    twice = sorted({name for name in wanted if present.count(name) > 1})
    if twice:
        raise EncodingError(f"{where}: column '{twice[0]}' stands there twice")


def one_array(column):
    """Returns a column as one plain Arrow array: chunks joined, dictionaries and extension types resolved."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        column = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    return column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column


def plain_batch(batch):
    """Returns a record batch whose columns are plain arrays (`one_array`): batches of one source then have one schema."""
    return pa.RecordBatch.from_arrays([one_array(column) for column in batch.columns], names=batch.schema.names)


def get_column(batch, name: str, where: str = "the data"):
    """Returns one column of a RecordBatch or Table as one plain array.

    Raises:
        EncodingError: If there is no such column (with the nearest name), or two.
    """
    check_columns([name], batch.schema.names, where)
    return one_array(batch.column(batch.schema.get_field_index(name)))


def row_name(first_row, position) -> str:
    """Returns how a message names the row of a value: `first_row` is the row of position 0, or a function from positions to rows."""
    row = first_row(int(position)) if callable(first_row) else first_row + int(position)
    return f"row {row} (counted from 0)"


def as_strings(array, name: str):
    """Returns the array as Arrow strings. Text, and what has one obvious text (booleans, dates, times), is accepted.

    Raises:
        EncodingError: For any other type.
    """
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return array
    if pa.types.is_temporal(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind) or pa.types.is_string_view(kind):
        return array.cast(pa.string())
    hint = "; the schema may say dtype 'int64'" if pa.types.is_integer(kind) else ""
    raise EncodingError(f"column '{name}' has type {kind}, the schema expects string{hint}")


def as_integers(array, name: str, first_row: int = 0):
    """Returns the array as Arrow int64 with nulls. Integers, booleans and floats that hold whole numbers (NaN = null) are accepted.

    Raises:
        EncodingError: For other types, for fractions and for numbers past 64 bits, with value and row.
    """
    kind = array.type
    if pa.types.is_floating(kind):
        values = array.cast(pa.float64()).fill_null(np.nan).to_numpy()
        missing = np.isnan(values)
        bad = ~missing & ((np.floor(values) != values) | (np.abs(values) >= 2.0**63))
        if bad.any():
            at = int(np.argmax(bad))
            raise EncodingError(f"column '{name}': {values[at].item()} at {row_name(first_row, at)} is not an int64")
        return pa.array(np.where(missing, 0, values).astype(np.int64), mask=missing)
    if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)):
        hint = "; the schema may say dtype 'string'" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else ""
        raise EncodingError(f"column '{name}' has type {kind}, the schema expects int64{hint}")
    if kind == pa.uint64():
        values = array.fill_null(0).to_numpy()
        if values.size and values.max() > np.iinfo(np.int64).max:
            at = int(np.argmax(values))
            where = row_name(first_row, at)
            raise EncodingError(f"column '{name}': {values[at]} at {where} is not an int64; the schema may say dtype 'string'")
    return array.cast(pa.int64())


def as_values(array, name: str, dtype: str, first_row: int = 0):
    """Returns the array as Arrow values of a table's dtype, `"string"` or `"int64"`."""
    return as_strings(array, name) if dtype == "string" else as_integers(array, name, first_row)


def as_floats(array, name: str) -> np.ndarray:
    """Returns the array as float32 with NaN for null; a number beyond float32 becomes infinite.

    Raises:
        EncodingError: If the column does not hold numbers.
    """
    kind = array.type
    if pa.types.is_boolean(kind) or pa.types.is_null(kind) or pa.types.is_decimal(kind):
        array = array.cast(pa.float64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise EncodingError(f"column '{name}' has type {kind}, the schema expects a number")
    missing = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
    values = (array.fill_null(pa.scalar(0, array.type)) if array.null_count else array).to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if missing is not None:
        values[missing] = np.nan
    return values


def as_binary(array, name: str, first_row: int = 0, *, optional: bool = False) -> np.ndarray:
    """Returns a label column as float32 zeros and ones; with `optional`, NaN where the value is missing.

    Raises:
        EncodingError: With value and row for anything else, and for a missing value of a label that is not optional.
    """
    if optional and pa.types.is_null(array.type):
        return np.full(len(array), np.nan, np.float32)
    kind = array.type
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise EncodingError(f"label '{name}' has type {kind}, expected 0 and 1")
    values = as_floats(array, name)
    missing = np.isnan(values)
    bad = (values != 0.0) & (values != 1.0)
    if optional:
        bad &= ~missing
    if bad.any():
        at = int(np.argmax(bad))
        hint = "; where outcomes may be unknown, declare Label(..., optional=True)" if missing[at] else ""
        raise EncodingError(f"label '{name}': {array[at].as_py()!r} at {row_name(first_row, at)} is neither 0 nor 1{hint}")
    return values


def as_times(array, name: str, first_row: int = 0) -> np.ndarray:
    """Returns a time column as int64: integers as they are; dates, timestamps and ISO 8601 text as milliseconds since 1970 (UTC).

    Raises:
        EncodingError: For other types, text that is no time, fractions, and missing times, with the row.
    """
    if array.null_count:
        at = int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
        raise EncodingError(f"time column '{name}' has no value at {row_name(first_row, at)}")
    kind = array.type
    try:
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            zoned = len(array) and pc.any(pc.match_substring_regex(array, r"(Z|[+-]\d\d:?\d\d)$")).as_py()
            array = array.cast(pa.timestamp("ms", "UTC" if zoned else None))
        if pa.types.is_date(array.type) or pa.types.is_timestamp(array.type):
            array = pc.cast(array, pa.timestamp("ms", getattr(array.type, "tz", None)), safe=False).cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise EncodingError(f"time column '{name}': {error}; give an integer, a timestamp or ISO 8601 text") from error
    return as_integers(array, name, first_row).to_numpy()


def as_groups(array, name: str) -> np.ndarray:
    """Returns a group column as int64: integers as they are, text as its `hash64`; a missing group is -1."""
    if pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
        return as_integers(array, name).fill_null(-1).to_numpy()
    array = as_strings(array, name)
    hashed = hash64(array).view(np.int64)
    return np.where(array.is_null().to_numpy(zero_copy_only=False), -1, hashed) if array.null_count else hashed


def as_lists(array, name: str):
    """Returns a list column as `(values, ends, lengths)`: row r holds `values[ends[r] - lengths[r] : ends[r]]`; a null row is empty.

    Raises:
        EncodingError: If the column does not hold lists.
    """
    kind = array.type
    if pa.types.is_null(kind):
        return pa.nulls(0), np.zeros(len(array), np.int64), np.zeros(len(array), np.int64)
    if pa.types.is_fixed_size_list(kind):
        array = array.cast(pa.list_(kind.value_type))
    elif not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        hint = " (text files have no lists: use Parquet, or let prepare_file build them)" if pa.types.is_string(kind) else ""
        raise EncodingError(f"column '{name}' has type {kind}, the schema expects a list{hint}")
    offsets = array.offsets.to_numpy().astype(np.int64)
    lengths = np.diff(offsets)
    if array.null_count:
        lengths[array.is_null().to_numpy(zero_copy_only=False)] = 0
    return one_array(array.values), offsets[1:], lengths
