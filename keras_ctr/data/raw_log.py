"""`prepare_file`: one click log, CSV or Parquet -> splits, histories, schema, prepared folder."""

import contextlib
import math
import shutil
from pathlib import Path

import numpy as np

from keras_ctr.data.arrow import ipc, pa
from keras_ctr.data.columns import EncodingError, as_times, check_columns, get_column, plain_batch, raw_types
from keras_ctr.data.histories import build_histories, partition_by_user, time_unit_of
from keras_ctr.data.infer import infer_schema
from keras_ctr.data.manifest import PreparedData
from keras_ctr.data.preparation import check_target, prepare
from keras_ctr.data.sources import count_rows, leaves, read_batches, source_columns
from keras_ctr.data.splitting import ColumnSplitter, RandomSplitter, TimeSplitter
from keras_ctr.data.vocabulary_age import check_evict_after, load_earlier
from keras_ctr.features import is_time_gap
from keras_ctr.schema import Schema, SchemaError

__all__ = ["prepare_file"]

_SPLIT = "__split__"  # the column in which a row's split rides along


def prepare_file(
    source,
    output_dir,
    *,
    label=None,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    split: str | None = None,
    fractions=(0.8, 0.1, 0.1),
    seed: int = 0,
    schema: Schema | None = None,
    extend=None,
    evict_after: int | None = None,
    history=None,
    history_length: int = 50,
    time_gap: bool = False,
    time_unit: str | None = None,
    events: str | None = None,
    delay: int = 0,
    exclude=(),
    min_count: int = 1,
    capacity: int | None = None,
    strict: bool = False,
    num_shards: int | None = 8,
    overwrite: bool = False,
    progress=None,
    batch_rows: int = 65536,
    partition_bytes: int = 1 << 28,
    column_names=None,
    delimiter: str | None = None,
) -> PreparedData:
    """Prepares one raw click log.

    The schema is inferred (`infer_schema`) or given, each row gets its split, histories are built from the same user's earlier rows
    (`build_histories`), and `prepare` does the rest. The log may be larger than RAM: rows are spilled beside `output_dir`, by user where
    histories are built, and removed at the end. Within a split, rows keep their order if the log is small (`partition_bytes`) or has no
    histories; else they are ordered by partition.

    Args:
        source: What `read_batches` reads.
        output_dir: Folder to create.
        label: Label column, or several. Not needed with `schema`.
        user, item, time: Columns from which histories are built. `user` becomes the schema's group, `time` its time. With `schema`,
            user and time default to its group and time, and every sequence that is no column of the log is built from its target
            (or else the first categorical feature of its table); one that has the form of a `keras_ctr.schema.time_gap_sequence` gets
            the time gaps of its group.
        split: `"time"` (default if there is a time), `"random"`, or the name of a column whose values name the splits. With a random
            split the histories of training rows hold outcomes of test rows, so prefer time.
        fractions: Shares of train, validation and test; 0 leaves one out.
        seed: Seed of the random split.
        schema: A schema to use, an edited one from `infer_schema`, say.
        extend: Folder of an earlier prepared data set or run whose schema and vocabularies go on: see `prepare`. Histories are built from
            the rows of this log alone, so a log that starts where the earlier one ended starts with empty histories.
        evict_after: See `prepare`.
        history, history_length, time_gap, exclude: See `infer_schema`.
        time_unit: What an integer of `time` counts, `"s"`, `"ms"`, `"us"` or `"ns"`: read for time gaps only (see `build_histories`).
        events: 0/1 column that says which rows go into histories; default: the first label.
        delay: See `build_histories`.
        min_count, capacity, strict, num_shards, overwrite, progress, batch_rows, column_names, delimiter: See `prepare`.
        partition_bytes: Size of raw data from which histories are built in parts, one after the other.

    Returns:
        `PreparedData`. What `infer_schema` noted stands in the manifest, in the train split's `report`, under `notes`.

    Raises:
        EncodingError, SchemaError, ValueError, FileExistsError, FileNotFoundError: As `infer_schema`, `build_histories` and `prepare`.
    """
    check_target(output_dir, overwrite)
    check_evict_after(evict_after, extend is not None)
    if extend is not None:
        if schema is not None or label is not None:
            raise ValueError("extend brings the earlier preparation's schema and labels: give neither schema nor label")
        extend = load_earlier(extend)
        schema = extend.schema
    if schema is not None and time_gap:
        raise ValueError("time_gap goes with an inferred schema; to have time gaps in a given one, add a time_gap_sequence to it")
    text = {"column_names": column_names, "delimiter": delimiter}
    present = source_columns(source, **text)
    split = split or ("time" if time or (schema and schema.time) else "random")
    by_column = split not in ("time", "random")
    notes = []
    if schema is None:
        if label is None:
            raise ValueError("give the label column(s), a schema, or an earlier preparation to extend")
        exclude = [*exclude, *([split] if by_column else [])]
        check_columns(exclude, present, "the log")
        roles = {"label": label, "user": user, "item": item, "time": time, "history": history, "exclude": exclude}
        schema, notes = infer_schema(source, history_length=history_length, time_gap=time_gap, **roles, **text)
    user, time, events = user or schema.group, time or schema.time, events or schema.label_names[0]
    built, gaps = _histories_to_build(schema, present, user, time)
    if split == "time" and not time:
        raise ValueError("a split by time needs the time column: give time, or split='random'")
    names = [name for name in schema.raw_columns if name not in {feature.name for feature in (*built, *gaps.values())}]
    names += [*built.values(), user, time, events] if built else []
    names += [time] if split == "time" else [split] if by_column else []
    names = list(dict.fromkeys(names))
    types = {
        events: pa.bool_(),
        **({user: pa.string()} if user else {}),
        **raw_types(schema),
        **({split: pa.string()} if by_column else {}),
    }

    def read(columns):
        return read_batches(source, columns, batch_rows, column_types=types, **text)

    unit = None
    if gaps:  # found out from the raw column, as times are numbers below
        unit = next((time_unit_of(get_column(batch, time), time, time_unit) for batch in read([time])), None)
    if split == "time":
        splitter = TimeSplitter(time, _times(read([time]), time), fractions)
    else:
        splitter = ColumnSplitter(split) if by_column else RandomSplitter(fractions, seed)
    spill = Path(f"{Path(output_dir)}.rows.incomplete")
    shutil.rmtree(spill, ignore_errors=True)
    spill.mkdir(parents=True)
    try:
        rows = _with_split(read(names), splitter, time if time not in schema else None, count_rows(source), progress)
        if built:
            parts = _partitions(rows, source, spill, user, partition_bytes)
            roles = {"user": user, "time": time, "where": events, "delay": delay, "time_unit": unit}
            rows = (batch for part in parts for batch in _add_histories(part, built, gaps, roles, batch_rows))
        files = _write_splits(rows, splitter.names, schema, spill)
        splitter.check(files)
        options = {"min_count": min_count, "capacity": capacity, "strict": strict, "num_shards": num_shards, "overwrite": overwrite}
        going_on = {"extend": extend, "evict_after": evict_after}
        schema = schema if extend is None else None
        return prepare(files, schema, output_dir, progress=progress, batch_rows=batch_rows, notes=notes, **going_on, **options)
    finally:
        shutil.rmtree(spill, ignore_errors=True)


def _histories_to_build(schema, present, user, time) -> tuple[dict, dict]:
    """Returns `{sequence feature: source column}` of the sequences that are no column of the log, and `{group: its time gaps}`."""
    built, gaps = {}, {}
    for feature in schema.sequences:
        if feature.name in present:
            continue
        same_table = [f.name for f in schema.categoricals if schema.table_of(f).name == schema.table_of(feature).name]
        if not (feature.target or same_table or is_time_gap(feature)):
            raise SchemaError(
                f"Sequence '{feature.name}' is no column of the log, and there is no categorical feature with its table "
                f"'{schema.table_of(feature).name}' from whose past values it could be built"
            )
        if not (user and time):
            raise SchemaError(f"Sequence '{feature.name}' is no column of the log; to build it, give the user and time columns")
        if feature.target or same_table:
            built[feature] = feature.target or same_table[0]
        elif feature.group in gaps:
            raise SchemaError(f"Sequences '{gaps[feature.group].name}' and '{feature.name}' are both time gaps of '{feature.group}'")
        else:
            gaps[feature.group] = feature
    for group, feature in gaps.items():
        own = [f for f in schema.sequence_groups[group] if f is not feature]
        if not own or any(f not in built for f in own):
            raise SchemaError(
                f"Sequence '{feature.name}' is no column of the log; time gaps are built together with the other sequences of their group "
                f"'{group}', of which {', '.join(f.name for f in own if f not in built) or 'there are none'}"
                f"{' came with the log' if own else ''}"
            )
    return built, gaps


def _times(batches, time):
    row = 0
    for batch in batches:
        yield as_times(get_column(batch, time), time, row)
        row += batch.num_rows


def _with_split(batches, splitter, time, total, progress):
    """Yields batches with each row's split in a column, and times as int64, so that all batches have one type."""
    rows = 0
    for batch in batches:
        batch = plain_batch(batch)
        if time is not None:
            at = batch.schema.get_field_index(time)
            batch = batch.set_column(at, time, pa.array(as_times(batch.column(at), time, rows)))
        yield batch.append_column(_SPLIT, pa.array(splitter.assign(batch).astype(np.int16)))
        rows += batch.num_rows
        if progress is not None:
            progress(rows, total, "splitting")


def _partitions(rows, source, spill, user, partition_bytes):
    """Yields tables that hold all rows of their users."""
    count = max(1, math.ceil(_size(source) / partition_bytes))
    if count == 1:
        yield pa.Table.from_batches(rows)
        return
    for path in partition_by_user(rows, spill / "users", user=user, num_partitions=min(count, 512)):
        yield pa.Table.from_batches(read_batches(path))
        path.unlink()


def _size(source) -> int:
    """Returns about how many bytes of memory a source's rows take."""
    total = 0
    for leaf in leaves(source):
        if isinstance(leaf, Path):
            total += leaf.stat().st_size * (6 if leaf.name.endswith(".gz") else 4 if leaf.suffix == ".parquet" else 1)
        else:
            total += leaf.nbytes if hasattr(leaf, "nbytes") else 1 << 32  # a function may give anything
    return total


def _add_histories(table, built, gaps, roles, batch_rows):
    """Yields a table's rows with the histories of every group of sequences, few at a time: lists are wide."""
    groups = {}
    for feature, column in built.items():
        groups.setdefault((feature.group, feature.max_length), {})[feature.name] = column
    for (group, length), items in groups.items():
        time_gap = gaps[group].name if group in gaps else None
        table = build_histories(table, items=items, max_length=length, time_gap=time_gap, **roles)
    yield from table.to_batches(max_chunksize=batch_rows)


def _write_splits(rows, names, schema, folder) -> dict:
    """Writes each split's rows to a file of its own and returns `{split: path}`."""
    paths, writers, kind = {}, {}, None
    with contextlib.ExitStack() as stack:
        for batch in rows:
            splits = batch.column(_SPLIT).to_numpy()
            batch = batch.select([name for name in batch.schema.names if name in schema.raw_columns])
            kind = kind or batch.schema
            if not batch.schema.equals(kind):
                changed = next((new, old) for new, old in zip(batch.schema, kind, strict=True) if not new.equals(old))
                raise EncodingError(
                    f"column '{changed[0].name}' is {changed[0].type} in one part of the log and {changed[1].type} in another"
                )
            for code in np.unique(splits):
                if code not in writers:
                    paths[names[code]] = folder / f"split-{code}.arrow"
                    options = ipc.IpcWriteOptions(compression="lz4")
                    writers[code] = stack.enter_context(ipc.new_file(str(paths[names[code]]), kind, options=options))
                writers[code].write(batch.filter(pa.array(splits == code)))
    return dict(sorted(paths.items(), key=lambda pair: names.index(pair[0])))
