"""Raw data as a stream of Arrow record batches: CSV, TSV, Parquet and Arrow files, tables, and functions that return batches.

No file is read whole: memory is bounded by a block of text or a row group's pages, so a log may be larger than RAM.
"""

import csv
import gzip
import io
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from keras_ctr.data.arrow import ipc, pa, pcsv, pq
from keras_ctr.data.columns import check_columns

__all__ = ["NULL_WORDS", "count_rows", "is_text", "leaves", "read_batches", "source_columns"]

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
_SUFFIXES = (*_DELIMITERS, ".parquet", ".arrow")
_BLOCK_BYTES = 1 << 23
# What counts as missing where text is read as a number; text columns keep these words, and only the empty string is missing there.
NULL_WORDS = ["", "NULL", "null", "NA", "N/A", "#N/A", "NaN", "nan", "None", "none", "\\N"]
_CONVERSION = re.compile(r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to ([^:]+): (.*)", re.DOTALL)


def _suffix(path: Path) -> str:
    name = path.name.lower()
    suffix = os.path.splitext(name.removesuffix(".gz"))[1]
    if suffix not in _SUFFIXES or (name.endswith(".gz") and suffix not in _DELIMITERS):
        raise ValueError(f"{path}: unknown kind of file; known: {', '.join(_SUFFIXES)}, and text also as .gz")
    return suffix


def is_text(leaf) -> bool:
    """Whether a leaf of a source is a text file, whose column types are the reader's choice."""
    return isinstance(leaf, Path) and _suffix(leaf) in _DELIMITERS


def leaves(source) -> list:
    """Returns the parts of a source, in order: existing files (a folder's known files by name), tables, batches, functions.

    Raises:
        FileNotFoundError: Naming the file.
        ValueError: If a file is empty or of an unknown kind, or the source has no parts.
        TypeError: For anything that can be read only once, or not at all.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.is_file() and p.name.lower().removesuffix(".gz").endswith(_SUFFIXES))
            if not files:
                raise ValueError(f"{path}: the folder has no file of a known kind ({', '.join(_SUFFIXES)})")
            return [leaf for file in files for leaf in leaves(file)]
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file")
        _suffix(path)
        if path.stat().st_size == 0:
            raise ValueError(f"{path}: the file is empty (0 bytes)")
        return [path]
    if isinstance(source, (list, tuple)):
        if not source:
            raise ValueError("a source needs at least one file or table, got an empty list")
        return [leaf for item in source for leaf in leaves(item)]
    if isinstance(source, (pa.Table, pa.RecordBatch)) or callable(source):
        return [source]
    if isinstance(source, (pa.RecordBatchReader, Iterator)):
        raise TypeError(f"a {type(source).__name__} can be read only once; give a function that returns a new one")
    if hasattr(source, "__arrow_c_stream__"):  # pandas, polars, duckdb
        return [pa.table(source)]
    raise TypeError(f"a source is a path, a table, a function that returns record batches, or a list of these; got {type(source).__name__}")


def count_rows(source) -> int | None:
    """Returns the number of rows of a source if it is known without reading the data, else None."""
    total = 0
    for leaf in leaves(source):
        if isinstance(leaf, (pa.Table, pa.RecordBatch)):
            total += leaf.num_rows
        elif isinstance(leaf, Path) and _suffix(leaf) == ".parquet":
            total += _open_parquet(leaf).metadata.num_rows
        else:
            return None
    return total


def source_columns(source, *, column_names=None, delimiter=None) -> tuple[str, ...]:
    """Returns the column names of a source's first part; of a function, those of its first batch."""
    first = leaves(source)[0]
    if not callable(first):
        return _columns(first, column_names, delimiter)
    for batch in _called(first):
        return tuple(batch.schema.names)
    raise ValueError("the function that was given as a source returned no batches")


def read_batches(source, columns=None, batch_rows=65536, *, column_types=None, column_names=None, delimiter=None):
    """Returns an iterator over a source's record batches of at most `batch_rows` rows, in order.

    Args:
        source: A path (`.csv` comma, `.tsv`/`.txt` tab, these also with `.gz`, `.parquet`, `.arrow`; or a folder of such files), a
            `pa.Table` or `pa.RecordBatch`, any Arrow-speaking data frame, a function without arguments that returns an iterable of record
            batches or tables, or a list of all these.
        columns: Names of the columns wanted, in order; None for all.
        batch_rows: Most rows of a batch; text blocks and row groups may make it fewer.
        column_types: Text only: `{column: pa.DataType}`; Arrow guesses the others from each file's first block.
        column_names: Text only: names for a file without a header line.
        delimiter: Text only: the separator, where it is not the suffix's.

    Returns:
        An iterator of `pa.RecordBatch`. In text, an empty field is null in a number column and an empty string in a text column.

    Raises:
        FileNotFoundError, ValueError: At once for a missing or empty file and a missing column (with the nearest one); while reading for
            text that does not fit its type (file, line, column and value named), ragged lines and damaged files.
    """
    if batch_rows < 1:
        raise ValueError(f"batch_rows must be positive, got {batch_rows}")
    parts = leaves(source)
    for leaf in parts:
        if not callable(leaf):
            present = _columns(leaf, column_names, delimiter)
            check_columns(present if columns is None else columns, present, _name(leaf))
    return _read(parts, columns and list(columns), batch_rows, column_types or {}, column_names, delimiter)


def _read(parts, columns, batch_rows, column_types, column_names, delimiter):
    rows = 0
    for leaf in parts:
        if is_text(leaf):
            batches = _text_batches(leaf, columns, column_types, column_names, delimiter)
        elif isinstance(leaf, Path):
            batches = _file_batches(leaf, columns, batch_rows)
        else:
            batches = (_select(batch, columns) for batch in (_called(leaf) if callable(leaf) else (leaf,)))
        for batch in batches:
            for piece in batch.to_batches(max_chunksize=batch_rows) if isinstance(batch, pa.Table) else (batch,):
                rows += piece.num_rows
                for start in range(0, piece.num_rows, batch_rows):
                    yield piece.slice(start, batch_rows)
    if rows == 0:
        raise ValueError(f"{', '.join(_name(leaf) for leaf in parts[:3])}: no rows")


def _name(leaf) -> str:
    return str(leaf) if isinstance(leaf, Path) else "the table" if not callable(leaf) else "the source function's batch"


def _columns(leaf, column_names, delimiter) -> tuple[str, ...]:
    if not isinstance(leaf, Path):
        return tuple(leaf.schema.names)
    if not is_text(leaf):
        return tuple((_open_parquet if _suffix(leaf) == ".parquet" else _open_arrow)(leaf).schema_arrow.names)
    if column_names is not None:
        return tuple(column_names)
    try:
        with gzip.open(leaf) if leaf.name.lower().endswith(".gz") else open(leaf, "rb") as file:
            with io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="") as text:
                names = next(csv.reader(text, delimiter=delimiter or _DELIMITERS[_suffix(leaf)]), [])
    except (OSError, EOFError, csv.Error) as error:
        raise ValueError(f"{leaf}: the header line cannot be read: {error}") from error
    twice = [name for name in names if names.count(name) > 1]
    if not names or twice or "" in names:
        why = f"column '{twice[0]}' stands twice in the header line" if names else "the header line is empty"
        raise ValueError(f"{leaf}: {why}; if the file has no header, give column_names")
    return tuple(names)


def _called(function):
    batches = function()
    if isinstance(batches, (pa.Table, pa.RecordBatch)):
        return (batches,)
    if not isinstance(batches, Iterable):
        raise TypeError(f"a function given as a source must return an iterable of record batches, got {type(batches).__name__}")
    return batches


def _select(batch, columns):
    if columns is None:
        return batch
    check_columns(columns, batch.schema.names, "the table")
    return batch.select(columns)


def _open_parquet(path):
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: not a readable Parquet file: {error}") from error


def _open_arrow(path):
    try:
        return _ArrowFile(path)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: not a readable Arrow file: {error}") from error


class _ArrowFile:
    """An Arrow IPC file with the two methods of `pq.ParquetFile` that are used here."""

    def __init__(self, path):
        self._reader = ipc.open_file(pa.memory_map(str(path)))
        self.schema_arrow = self._reader.schema

    def iter_batches(self, batch_size, columns):
        for index in range(self._reader.num_record_batches):
            yield _select(self._reader.get_batch(index), columns)


def _file_batches(path, columns, batch_rows):
    file = (_open_parquet if _suffix(path) == ".parquet" else _open_arrow)(path)
    try:
        for batch in file.iter_batches(batch_size=batch_rows, columns=columns):
            yield batch if columns is None else batch.select(columns)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: {error}") from error


def _text_batches(path, columns, column_types, column_names, delimiter):
    names = _columns(path, column_names, delimiter)
    try:
        reader = pcsv.open_csv(
            path,
            # One thread is as fast as several on a streaming read, and only then do errors know their line.
            read_options=pcsv.ReadOptions(block_size=_BLOCK_BYTES, column_names=column_names, use_threads=False),
            parse_options=pcsv.ParseOptions(delimiter=delimiter or _DELIMITERS[_suffix(path)], newlines_in_values=True),
            convert_options=pcsv.ConvertOptions(
                column_types={name: kind for name, kind in column_types.items() if name in names},
                include_columns=columns,
                null_values=NULL_WORDS,
                true_values=["1", "1.0", "true", "True", "TRUE"],
                false_values=["0", "0.0", "false", "False", "FALSE"],
            ),
        )
        last = None
        for batch in reader:
            if batch.num_rows:
                last = batch
                yield batch
    except (OSError, pa.ArrowException) as error:
        if "Empty CSV file" in str(error):  # a header line and nothing else: one of many files may be so
            return
        raise ValueError(f"{path}{_explain(error, names)}") from error
    _check_closed(path, last)


def _explain(error, names) -> str:
    message = str(error)
    found = _CONVERSION.match(message)
    if not found:
        if "straddling" in message:
            return f": a row is longer than {_BLOCK_BYTES >> 20} MiB; is a quotation mark opened and never closed?"
        return f": {message.replace('CSV parse error: Row #', 'line ')}"
    column, line, kind, what = found.groups()
    kind = "0 or 1" if kind == "bool" else kind
    value = re.match(r"invalid value (.*)", what, re.DOTALL)
    what = f"{value[1]} is not {kind}" if value else what
    return f"{f', line {line}' if line else ''}: column '{names[int(column)]}': {what}"


def _check_closed(path, batch):
    """A quotation mark that is never closed swallows the rest of the file; it then stands in the last row."""
    for name in batch.schema.names if batch is not None else ():
        value = batch.column(name)[-1].as_py()
        if isinstance(value, str) and value.endswith("\n"):
            raise ValueError(f"{path}: column '{name}': a quotation mark opens and is never closed: {value[:60]!r}")
