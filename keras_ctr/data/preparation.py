"""`prepare`: raw splits -> a folder with schema, vocabularies and encoded shards, whole or not there at all."""

import contextlib
import os
import shutil
from pathlib import Path

from keras_ctr.data.columns import EncodingError, raw_types
from keras_ctr.data.encode import Encoder
from keras_ctr.data.fit import SchemaFitter
from keras_ctr.data.manifest import MANIFEST_FILE, SCHEMA_FILE, PreparedData, write_manifest
from keras_ctr.data.sources import count_rows, read_batches
from keras_ctr.data.tfrecord import write_split
from keras_ctr.data.vocabulary import save_vocabularies
from keras_ctr.data.vocabulary_age import load_earlier, save_unseen
from keras_ctr.schema import Schema, nearest

__all__ = ["check_target", "prepare", "staged_folder"]

_TRAIN = "train"


def prepare(
    splits: dict,
    schema: Schema | None,
    output_dir,
    *,
    min_count: int = 1,
    capacity: int | None = None,
    vocabularies: dict | None = None,
    extend=None,
    evict_after: int | None = None,
    strict: bool = False,
    num_shards: int | None = 8,
    overwrite: bool = False,
    progress=None,
    batch_rows: int = 65536,
    column_names=None,
    delimiter: str | None = None,
    notes=(),
) -> PreparedData:
    """Encodes raw splits once, for any number of trainings.

    Two passes over streams, so data may be larger than RAM: the first over the split `"train"` alone fits what the schema leaves open
    (`SchemaFitter`), the second encodes every split and writes its shards. Everything is written to `<output_dir>.incomplete`, the
    manifest last, and renamed at the end; if anything fails the folder is removed.

    Args:
        splits: `{split name: source}`; a source is whatever `read_batches` reads. `"train"` must be among them unless the schema is fitted.
        schema: The schema, fitted or not; None with `extend`.
        output_dir: Folder to create.
        min_count, capacity: Vocabulary limits of tables that do not give their own.
        vocabularies: `{table: Vocabulary}` to encode with instead of building them: those of an earlier preparation, with its schema,
            encode new data for its models.
        extend: Folder of an earlier prepared data set, or of a run, to go on from: its schema with statistics and sizes, and its
            vocabularies, in which old values keep their ids and new ones of `"train"` that reach `min_count` are appended. Vocabularies
            that stand in the schema itself stay as they are.
        evict_after: K >= 1, with `extend`: values that `"train"` lacked in K preparations in a row lose their ids, which then close up.
            The counts are kept beside the vocabularies, whether or not K is given.
        strict: Whether infinite numbers and ids outside their table are errors; otherwise counted and taken as missing and unknown.
        num_shards: Files per split; None, and text whose number of rows is not known beforehand: one per 131,072 rows.
        overwrite: Whether a prepared data set that is there already is replaced (after the new one is complete).
        progress: Callable `(rows done, rows in all or None, what)`.
        batch_rows: Most rows encoded at a time.
        column_names, delimiter: For text files: see `read_batches`.
        notes: Lines to keep in the manifest, in the report of the split `"train"`.

    Returns:
        `PreparedData`. Its manifest holds, per split, rows, label rates, shards, and the encoder's counts under `report`; that of
        `"train"` also what the vocabularies cover and, with `extend`, per table how many values were kept, new and evicted (`growth`).

    Raises:
        FileExistsError: If `output_dir` exists and `overwrite` is False, or is no prepared data set.
        EncodingError: On data that does not fit; the message starts with the split.
        SchemaError, ValueError, FileNotFoundError: On a wrong schema or source.
    """
    earlier, notes = None, list(notes)
    if extend is not None:
        if schema is not None or vocabularies is not None:
            raise ValueError("extend brings the schema and vocabularies of the earlier preparation: pass schema=None and no vocabularies")
        earlier = load_earlier(extend)
        schema = earlier.schema
        if earlier.is_run and evict_after is not None:
            notes.append(f"{earlier.path} is a run, which keeps no counts of how long values were not seen: they start at 0 here")
    elif schema is None:
        raise ValueError("give a schema, or extend an earlier preparation")
    options = {"column_names": column_names, "delimiter": delimiter, "column_types": raw_types(schema)}
    fitter = SchemaFitter(schema, min_count, capacity, vocabularies=vocabularies, extend=earlier, evict_after=evict_after)
    if not splits or (fitter.is_needed and _TRAIN not in splits):
        raise ValueError(f"splits must have '{_TRAIN}' to fit the schema on, got {sorted(splits)}{nearest(_TRAIN, splits)}")
    totals = {}
    for split, source in splits.items():
        with _naming(split):  # opened, not read: a missing file or column in the last split is found before hours of work on the first
            read_batches(source, schema.raw_columns, batch_rows, **options)
            totals[split] = count_rows(source)
    with staged_folder(output_dir, overwrite) as folder:
        if fitter.is_needed:
            with _naming(_TRAIN):
                for batch in read_batches(splits[_TRAIN], fitter.columns, batch_rows, **options):
                    fitter.update(batch)
                    if progress is not None:
                        progress(fitter.num_rows, totals[_TRAIN], f"fitting on {_TRAIN}")
            totals[_TRAIN] = fitter.num_rows
        fitted, vocabularies = fitter.finish()
        fitted.save(folder / SCHEMA_FILE)
        save_vocabularies(folder, vocabularies)
        save_unseen(folder, {name: table.unseen for name, table in fitter.growth.items()})
        entries, reports = {}, {}
        for split, source in splits.items():
            encoder = Encoder(fitted, vocabularies, strict=strict)
            shards = {"total_rows": totals[split], "num_shards": num_shards if totals[split] else None}
            with _naming(split):
                batches = map(encoder.encode, read_batches(source, fitted.raw_columns, batch_rows, **options))
                entries[split] = write_split(folder, split, batches, fitted, progress=progress, **shards)
            reports[split] = encoder.report.to_dict()
        if fitter.is_needed:
            reports[_TRAIN]["vocabularies"] = fitter.counts()
        if earlier is not None:
            tables = {name: {"kept": t.kept, "new": t.new, "evicted": t.evicted} for name, t in fitter.growth.items()}
            reports[_first(splits)]["growth"] = {"from": os.fspath(earlier.path), "tables": tables}
        if notes:
            reports[_first(splits)]["notes"] = notes
        write_manifest(folder, entries, reports=reports)
    return PreparedData(output_dir)


def _first(splits):
    """Returns the split whose report holds what concerns the data set as a whole."""
    return _TRAIN if _TRAIN in splits else next(iter(splits))


@contextlib.contextmanager
def _naming(split):
    """Puts the split's name in front of errors about its data."""
    try:
        yield
    except EncodingError as error:
        raise EncodingError(f"split '{split}': {error}") from error


def check_target(output_dir, overwrite: bool = False) -> Path:
    """Returns the folder to create.

    Raises:
        FileExistsError: If it exists and `overwrite` is False, or is neither empty nor a prepared data set.
    """
    target = Path(output_dir)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists already; choose another folder, or overwrite it (overwrite=True)")
    if target.exists() and not (target / MANIFEST_FILE).exists() and (target.is_file() or any(target.iterdir())):
        raise FileExistsError(f"{target} is no prepared data set, so it is not overwritten; remove it yourself or choose another folder")
    return target


@contextlib.contextmanager
def staged_folder(output_dir, overwrite: bool = False):
    """A context whose folder becomes `output_dir` if the block ends well and is removed if it does not.

    The folder is `<output_dir>.incomplete`; what a killed process left there is removed first.

    Raises:
        FileExistsError: See `check_target`.
    """
    target = check_target(output_dir, overwrite)
    staging, old = (target.with_name(f"{target.name}{suffix}") for suffix in (".incomplete", ".replaced"))
    for path in (staging, old):
        shutil.rmtree(path, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        if target.exists():
            os.replace(target, old)
        os.replace(staging, target)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
