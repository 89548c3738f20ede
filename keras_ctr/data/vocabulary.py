"""Vocabularies: which raw values of a table have an id of their own, counted over a stream, looked up without a loop over rows."""

import os
from pathlib import Path
from urllib.parse import quote

import numpy as np

from keras_ctr.data import hashing
from keras_ctr.data.arrow import pa, pc
from keras_ctr.data.columns import as_values, one_array
from keras_ctr.schema import FIRST_ID, PADDING_ID, UNKNOWN_ID, Schema

__all__ = ["Vocabulary", "VocabularyBuilder", "load_vocabularies", "read_lines", "save_vocabularies", "vocabulary_path"]

_LINE_BREAK = "[\n\r]"  # values are lines of a file, and TensorFlow's reader of such files drops every carriage return
_WRITE_ROWS = 1 << 16
_GATHERED = 1 << 20  # counts that may gather before they are merged


def _flat(array):
    array = one_array(array)
    return one_array(array.flatten()) if hasattr(array, "flatten") and not pa.types.is_struct(array.type) else array


class Vocabulary:
    """The raw values of one table in id order: value i has the id i + 2; 0 is padding, 1 missing or unknown.

    Lookup sorts 64-bit keys of the values once (12 bytes a value) and searches each batch's distinct values among them, so its cost per
    batch does not grow with the vocabulary as a hash table built per call would.

    Args:
        values: Distinct values in id order: a sequence or an Arrow array. No nulls, no empty strings, no line breaks.
        dtype: `"string"` or `"int64"`.

    Raises:
        ValueError: On a value that cannot be in a vocabulary.
    """

    def __init__(self, values, dtype: str = "string"):
        if dtype not in ("string", "int64"):
            raise ValueError(f"vocabulary dtype must be 'string' or 'int64', got {dtype!r}")
        kind = pa.large_string() if dtype == "string" else pa.int64()
        is_arrow = isinstance(values, (pa.Array, pa.ChunkedArray))
        array = one_array(values).cast(kind) if is_arrow else pa.array(list(values), kind)
        if array.null_count:
            raise ValueError("a vocabulary cannot hold a null: missing values have the id 1")
        if dtype == "string":
            for bad, what in ((pc.equal(array, ""), "an empty string"), (pc.match_substring_regex(array, _LINE_BREAK), "a line break")):
                if len(array) and pc.any(bad).as_py():
                    raise ValueError(f"a vocabulary cannot hold {what}: value {pc.index(bad, True).as_py()}")
        self.dtype = dtype
        self.values = array
        keys = self._keys(array)
        self._order = np.argsort(keys, kind="stable").astype(np.int32 if len(keys) < 2**31 else np.int64)
        self._sorted = keys[self._order]
        # Strings of equal keys stand side by side; the search walks over the longest such run (1, but for chances of 2^-64).
        starts = np.flatnonzero(np.append(True, self._sorted[1:] != self._sorted[:-1]))
        self._longest_run = int(np.diff(np.append(starts, len(keys))).max()) if len(keys) else 0
        if self._longest_run > 1 and pc.count_distinct(array).as_py() < len(array):
            repeated = pc.value_counts(array).filter(pc.greater(pc.value_counts(array).field("counts"), 1))
            raise ValueError(f"a vocabulary holds each value once; repeated: {repeated.field('values')[0].as_py()!r}")

    def _keys(self, array) -> np.ndarray:
        return hashing.string_keys(array) if self.dtype == "string" else array.to_numpy()

    @property
    def size(self) -> int:
        """Rows of the embedding table: the values, padding and unknown."""
        return len(self.values) + FIRST_ID

    @property
    def id_dtype(self):
        """NumPy type of the ids: int32, or int64 past 2^31 rows."""
        return np.dtype(np.int32 if self.size < 2**31 else np.int64)

    def __len__(self):
        return len(self.values)

    def __eq__(self, other):
        return isinstance(other, Vocabulary) and self.dtype == other.dtype and self.values.equals(other.values)

    __hash__ = None

    def __repr__(self):
        return f"Vocabulary({len(self)} values, dtype={self.dtype!r})"

    def to_list(self) -> list:
        """Returns the values as Python strings or ints."""
        return self.values.to_pylist()

    def codes(self, array) -> np.ndarray:
        """Returns ids in which missing values (null and the empty string) are told from unknown ones: 0 missing, 1 unknown, >= 2 known.

        Args:
            array: Arrow array of the vocabulary's dtype, (n,).

        Returns:
            (n,) int32 or int64.
        """
        encoded = one_array(array).dictionary_encode()
        unique = encoded.dictionary
        if self.dtype == "string":
            unique = unique.cast(pa.large_string())
        keys = self._keys(unique)
        codes = np.full(len(keys) + 1, UNKNOWN_ID, self.id_dtype)
        codes[-1] = PADDING_ID  # for nulls
        if len(self.values):
            at = np.searchsorted(self._sorted, keys)
            for step in range(self._longest_run):
                near = np.minimum(at + step, len(self.values) - 1)
                found = self._sorted[near] == keys
                positions = self._order[near]
                if self.dtype == "string":
                    found &= pc.equal(self.values.take(pa.array(positions)), unique).to_numpy(zero_copy_only=False)
                codes[:-1][found] = positions[found] + FIRST_ID
        if self.dtype == "string":
            codes[:-1][pc.equal(unique, "").to_numpy(zero_copy_only=False)] = PADDING_ID
        return codes[encoded.indices.fill_null(len(keys)).to_numpy()]

    def lookup(self, array) -> np.ndarray:
        """Returns the ids of raw values: 1 for missing and unknown ones.

        Args:
            array: Arrow array (or sequence) of raw values, (n,); the elements of lists are taken one after the other.

        Returns:
            (n,) int32 or int64.

        Raises:
            EncodingError: If the array has another type than the vocabulary.
        """
        if not isinstance(array, (pa.Array, pa.ChunkedArray)):
            array = pa.array(array)
        return np.maximum(self.codes(as_values(_flat(array), "values", self.dtype)), UNKNOWN_ID)

    def save(self, path):
        """Writes the values as UTF-8 text, one a line: line i (from 0) has the id i + 2."""
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            for start in range(0, len(self), _WRITE_ROWS):
                lines = self.values.slice(start, _WRITE_ROWS).to_pylist()
                file.write("\n".join(map(str, lines)) + "\n")

    @classmethod
    def load(cls, path, dtype: str = "string") -> "Vocabulary":
        """Reads the file that `save` wrote.

        Raises:
            FileNotFoundError, ValueError: Naming the file.
        """
        try:
            lines = read_lines(path)
            return cls(lines if dtype == "string" else lines.cast(pa.int64()), dtype)
        except (ValueError, pa.ArrowException) as error:
            raise ValueError(f"{os.fspath(path)}: not a vocabulary of dtype {dtype!r}: {error}") from error


def read_lines(path):
    """Returns the lines of a UTF-8 text file as an Arrow array of strings, without a loop over them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no UTF-8 text.
    """
    data = np.fromfile(path, np.uint8)
    if len(data) and data[-1] != ord("\n"):
        data = np.append(data, np.uint8(ord("\n")))
    ends = np.flatnonzero(data == ord("\n"))
    offsets = np.append(0, ends - np.arange(len(ends))).astype(np.int64)  # of the text without its line feeds
    text = data[data != ord("\n")]
    lines = pa.LargeStringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(text))
    lines.validate(full=True)
    return lines


class VocabularyBuilder:
    """Counts the values of a stream and keeps the frequent ones.

    Memory is that of the distinct values: each batch's counts are merged into the whole's when as many have gathered as there are in it.

    Args:
        dtype: `"string"` or `"int64"`.
        min_count: Least number of occurrences of a value that is kept.
        capacity: Most rows of the table, padding and unknown included; the most frequent values are kept. None: no limit.

    Attributes:
        num_values: Values seen, missing ones left out.
        num_line_breaks: Those among them with a line break, which cannot be in a vocabulary.
        num_distinct: Distinct values seen, without those with line breaks; known after `build`.
        num_covered: Values seen that the vocabulary holds; known after `build`.
    """

    def __init__(self, dtype: str = "string", *, min_count: int = 1, capacity: int | None = None):
        if min_count < 1:
            raise ValueError(f"min_count must be at least 1, got {min_count}")
        if capacity is not None and capacity <= FIRST_ID:
            raise ValueError(f"capacity counts padding and unknown too, so it must be at least {FIRST_ID + 1}, got {capacity}")
        self.dtype, self.min_count, self.capacity = dtype, min_count, capacity
        self.num_values = self.num_line_breaks = self.num_distinct = self.num_covered = 0
        self._parts, self._gathered, self._merged = [], 0, 0

    def update(self, array):
        """Counts the values of an Arrow array; the elements of lists count one by one, nulls and empty strings not at all."""
        values = as_values(_flat(array), "values", self.dtype)
        if self.dtype == "string":
            values = values.cast(pa.large_string())
        counted = pc.value_counts(values)
        values, counts = counted.field("values"), counted.field("counts")
        keep = values.is_valid()
        if self.dtype == "string":
            keep = pc.and_(keep, pc.fill_null(pc.not_equal(values, ""), False))
        values, counts = values.filter(keep), counts.filter(keep)
        self.num_values += pc.sum(counts).as_py() or 0
        if self.dtype == "string":
            broken = pc.match_substring_regex(values, _LINE_BREAK)
            if pc.any(broken).as_py():
                self.num_line_breaks += pc.sum(counts.filter(broken)).as_py()
                values, counts = values.filter(pc.invert(broken)), counts.filter(pc.invert(broken))
        self._parts.append(pa.table({"value": values, "count": counts}))
        self._gathered += len(values)
        if self._gathered > max(_GATHERED, self._merged):
            self._merge()

    def _merge(self):
        if len(self._parts) > 1:
            merged = pa.concat_tables(self._parts).group_by("value", use_threads=False).aggregate([("count", "sum")])
            self._parts = [merged.rename_columns({"count_sum": "count"}).select(["value", "count"])]
        self._gathered, self._merged = 0, sum(part.num_rows for part in self._parts)

    def seen(self, vocabulary: Vocabulary) -> np.ndarray:
        """Returns which values of a vocabulary the stream held at least once: (number of values,) bool."""
        self._merge()
        seen = np.zeros(vocabulary.size, bool)
        for part in self._parts:
            seen[vocabulary.lookup(part["value"])] = True
        return seen[FIRST_ID:]

    def build(self, start: Vocabulary | None = None) -> Vocabulary:
        """Returns the vocabulary: values by falling count, equal counts by value; the same for every order and size of batches.

        Args:
            start: Vocabulary whose values come first and keep their ids, however often they were seen; the others follow while
                `capacity` has room.
        """
        self._merge()
        self.num_distinct = self._merged
        start = Vocabulary([], self.dtype) if start is None else start
        if not self._parts:
            return start
        table = self._parts[0]
        known = pa.array(start.lookup(table["value"]) >= FIRST_ID) if len(start) else None
        covered = table["count"].filter(known) if known is not None else table["count"].slice(0, 0)
        table = table.filter(pc.invert(known)) if known is not None else table
        table = table.filter(pc.field("count") >= self.min_count)
        table = table.sort_by([("count", "descending"), ("value", "ascending")])
        if self.capacity is not None:
            table = table.slice(0, max(0, self.capacity - start.size))
        self.num_covered = sum(pc.sum(counts).as_py() or 0 for counts in (covered, table["count"]))
        return Vocabulary(pa.chunked_array([start.values, *table["value"].chunks]), self.dtype)


def vocabulary_path(folder, table: str) -> Path:
    """Returns the file of a table's vocabulary in a prepared folder; odd characters of the name are percent-escaped."""
    return Path(folder) / "vocabularies" / f"{quote(table, safe='')}.txt"


def save_vocabularies(folder, vocabularies: dict):
    """Writes `{table name: Vocabulary}` to `<folder>/vocabularies/<table>.txt`."""
    for table, vocabulary in vocabularies.items():
        path = vocabulary_path(folder, table)
        path.parent.mkdir(parents=True, exist_ok=True)
        vocabulary.save(path)


def load_vocabularies(folder, schema: Schema | None = None) -> dict:
    """Reads the vocabularies of a prepared folder.

    Args:
        folder: The folder.
        schema: What says which tables there are and their dtypes; default: `<folder>/schema.json`.

    Returns:
        `{table name: Vocabulary}` of the tables that have one: those whose raw values are ids already have none.

    Raises:
        ValueError: If a file does not have as many values as the schema says; the message names it.
    """
    schema = Schema.load(Path(folder) / "schema.json") if schema is None else schema
    found = {}
    for name, table in schema.tables.items():
        path = vocabulary_path(folder, name)
        if table.vocabulary is not None:
            found[name] = Vocabulary(table.vocabulary, table.dtype)
        elif table.dtype != "float32" and path.exists():
            found[name] = Vocabulary.load(path, table.dtype)
            if table.vocabulary_size not in (None, found[name].size):
                raise ValueError(
                    f"{path}: {len(found[name])} values make a table of {found[name].size} rows, the schema says {table.vocabulary_size}"
                )
    return found
