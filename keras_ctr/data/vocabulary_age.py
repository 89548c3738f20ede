"""Vocabularies that grow: what an earlier preparation left, how long each value has not been seen, which are added and which go."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from keras_ctr.data.arrow import pa
from keras_ctr.data.manifest import MANIFEST_FILE, SCHEMA_FILE, PreparedData
from keras_ctr.data.vocabulary import Vocabulary, load_vocabularies, read_lines, vocabulary_path
from keras_ctr.schema import Schema

__all__ = ["Earlier", "TableGrowth", "check_evict_after", "grow", "load_earlier", "load_unseen", "save_unseen", "unseen_path"]


@dataclasses.dataclass(frozen=True)
class Earlier:
    """What an earlier preparation fitted, from which another one goes on.

    Attributes:
        path: Where it was read.
        schema: The fitted schema.
        vocabularies: `{table name: Vocabulary}`.
        unseen: `{table name: (number of values,) int64}`, for how many preparations in a row each value was not seen; a table that is
            missing has zeros.
        is_run: Whether it came from a run folder, which keeps no such counts.
    """

    path: Path
    schema: Schema
    vocabularies: dict
    unseen: dict
    is_run: bool


@dataclasses.dataclass(frozen=True)
class TableGrowth:
    """What became of one table's vocabulary.

    Attributes:
        vocabulary: The new one: the old values that stay, in their order, then the new ones.
        unseen: (number of values,) int64, for how many preparations in a row each of them was not seen.
        kept, new, evicted: Numbers of values.
    """

    vocabulary: Vocabulary
    unseen: np.ndarray
    kept: int
    new: int
    evicted: int


def check_evict_after(evict_after, extends: bool):
    """Raises `ValueError` unless `evict_after` is None, or an int of at least 1 and there is something to extend."""
    if evict_after is not None and not extends:
        raise ValueError("evict_after goes with extend: only values of an earlier vocabulary can be evicted")
    if evict_after is not None and (not isinstance(evict_after, int) or isinstance(evict_after, bool) or evict_after < 1):
        raise ValueError(f"evict_after counts preparations without a value, so it must be an int of at least 1, got {evict_after!r}")


def grow(old: Vocabulary, unseen, builder, evict_after: int | None = None) -> TableGrowth:
    """Returns the vocabulary after the values that a builder has counted.

    An old value that was seen once is young again; one that was not is a preparation older and goes when it was not seen `evict_after`
    times in a row. Without evictions old values keep their ids; with them the ids close up and the order stays. New values need the
    builder's `min_count`, follow by falling count and are limited by its `capacity`, which old values never are.

    Args:
        old: The vocabulary so far.
        unseen: (number of values,) counts so far; None for zeros.
        builder: `VocabularyBuilder` with the training split's values.
        evict_after: K >= 1; None evicts nothing.
    """
    unseen = np.zeros(len(old), np.int64) if unseen is None else unseen
    unseen = np.where(builder.seen(old), 0, unseen + 1)
    stays = np.ones(len(old), bool) if evict_after is None else unseen < evict_after
    kept = old if stays.all() else Vocabulary(old.values.filter(pa.array(stays)), old.dtype)
    vocabulary = builder.build(kept)
    new = len(vocabulary) - len(kept)
    return TableGrowth(vocabulary, np.append(unseen[stays], np.zeros(new, np.int64)), len(kept), new, len(old) - len(kept))


def unseen_path(folder, table: str) -> Path:
    """Returns the file beside a table's vocabulary that says how long its values have not been seen.

    A `+` in a table's name is escaped (`vocabulary_path`), so the file is no other table's vocabulary; its ending puts it under the
    manifest's checksums.
    """
    path = vocabulary_path(folder, table)
    return path.with_name(f"{path.stem}+unseen.txt")


def save_unseen(folder, unseen: dict):
    """Writes `{table name: counts}`, one number a line: line i (from 0) belongs to line i of the vocabulary."""
    for table, counts in unseen.items():
        with open(unseen_path(folder, table), "w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{count}\n" for count in counts)


def load_unseen(folder, vocabularies: dict) -> dict:
    """Reads what `save_unseen` wrote for some vocabularies; a table without a file has none.

    Raises:
        ValueError: If a file does not hold one count for every value; the message names it.
    """
    found = {}
    for table, vocabulary in vocabularies.items():
        path = unseen_path(folder, table)
        if not path.exists():
            continue
        advice = "restore it, or delete it to start from zeros (a prepared data set's manifest then misses it)"
        try:
            counts = read_lines(path).cast(pa.int64()).to_numpy()
        except (ValueError, pa.ArrowException) as error:
            raise ValueError(f"{path}: not a list of counts: {error}; {advice}") from error
        if len(counts) != len(vocabulary):
            raise ValueError(f"{path}: {len(counts)} counts for the {len(vocabulary)} values of {vocabulary_path(folder, table)}; {advice}")
        if len(counts) and counts.min() < 0:
            raise ValueError(f"{path}, line {int(np.argmin(counts)) + 1}: {counts.min()} is no count; {advice}")
        found[table] = counts
    return found


def load_earlier(path) -> Earlier:
    """Reads what a prepared data set or a run folder was fitted to; shards are not needed.

    Raises:
        FileNotFoundError: If the folder is neither, or lacks a vocabulary.
        CorruptDataError: If a file of a prepared data set is not what its manifest says.
        ValueError: If a file does not fit the others.
    """
    if isinstance(path, Earlier):
        return path
    path = Path(path.path if isinstance(path, PreparedData) else path)
    is_run = not (path / MANIFEST_FILE).exists() and (path / "config.json").exists()
    if is_run:
        schema = Schema.load(path / SCHEMA_FILE)
    elif (path / MANIFEST_FILE).exists():
        data = PreparedData(path, check=False)
        data.verify_files([(path / name, entry) for name, entry in data.manifest["files"].items()])
        schema = data.schema
    else:
        raise FileNotFoundError(f"{os.fspath(path)} is neither a prepared data set ({MANIFEST_FILE}) nor a run folder (config.json)")
    schema.check_fitted()
    vocabularies = load_vocabularies(path, schema)
    for name, table in schema.tables.items():
        if table.dtype == "string" and table.hash_buckets is None and name not in vocabularies:
            raise FileNotFoundError(f"{vocabulary_path(path, name)} is missing: table '{name}' holds strings and cannot go on without it")
    return Earlier(path, schema, vocabularies, load_unseen(path, vocabularies), is_run)
