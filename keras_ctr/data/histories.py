"""Behaviour histories from the log itself: for each row, what the same user did strictly before it.

The rule against leaks: an event is visible to a row if it is older than the row by at least `delay`, and by more than nothing. Events of
the same instant are never visible, so the order of rows in the file does not matter and a row never sees itself.
"""

import os
from pathlib import Path

import numpy as np

from keras_ctr.data.arrow import ipc, pa, pc
from keras_ctr.data.columns import EncodingError, as_binary, as_lists, as_times, check_columns, get_column, one_array, plain_batch
from keras_ctr.data.hashing import hash64
from keras_ctr.schema import FIRST_ID, TIME_GAP_BUCKETS, UNKNOWN_ID

__all__ = ["build_histories", "partition_by_user", "time_gap_ids", "time_unit_of"]

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def build_histories(
    table,
    *,
    user: str,
    time: str,
    items: dict,
    max_length: int = 50,
    where=None,
    prior=None,
    delay: int = 0,
    time_gap: str | None = None,
    time_unit: str | None = None,
):
    """Adds list columns: the values of the same user's earlier rows, oldest to newest, the newest `max_length` of them.

    Vectorised: events are sorted by (user, time); two binary searches give each row's range of visible events.

    Args:
        table: `pa.Table` or `pa.RecordBatch`, the log, in any order.
        user: Column with the user; a row without a user has an empty history and is in none.
        time: Column with the time, an integer in any unit (or a timestamp, then milliseconds: see `columns.as_times`).
        items: `{new column: source column}`; the new columns are aligned with each other: step t is the same event in all of them.
        max_length: Most events of a history.
        where: Which rows are events (clicked ones, say): the name of a 0/1 column, or a boolean mask (n,); null is no. None: all rows.
        prior: Earlier history than the log's, put in front of it: a table with the `user` column, one row a user, and a list column per
            new column; or `{new column: {user: list}}`. All of it must be older than the log. Under the name `time_gap` it may hold the
            times of its events, in the form of `time` or null; without, their gaps are unknown.
        delay: Time after which an event is known: younger ones are not visible yet (labels arrive late, features are computed daily).
        time_gap: Name of one more column, aligned with the others: how long before the row each event was, as ids (`time_gap_ids` of row
            time - event time; 1 where `prior` gives no time; null where all `items` of the event are null, so that such a step stays
            none). Its feature is `keras_ctr.schema.time_gap_sequence`.
        time_unit: What an integer of `time` counts: `"s"`, `"ms"`, `"us"` or `"ns"`. Read for `time_gap` only, and not needed for dates,
            timestamps and text, which are milliseconds.

    Returns:
        `pa.Table`: the table with the new columns appended, its rows in the same order.

    Raises:
        EncodingError: On a missing column (with the nearest name) or a row without a time.
        ValueError: On a wrong `max_length`, `delay`, `where`, `prior` or `time_unit`, or a new column that is there already.
    """
    if max_length < 1 or delay < 0:
        raise ValueError(f"max_length must be positive and delay not negative, got {max_length} and {delay}")
    table = pa.table(table) if not isinstance(table, pa.Table) else table
    check_columns([user, time, *items.values()], table.column_names, "the log")
    if time_gap is not None and time_gap in items:
        raise ValueError(f"time_gap and items both make a column '{time_gap}'")
    for name in (*items, *([time_gap] if time_gap is not None else [])):
        if name in table.column_names:
            raise ValueError(f"the log has a column '{name}' already: give the history another name")
    unit = None if time_gap is None else time_unit_of(get_column(table, time), time, time_unit)
    users, codes = _user_codes(get_column(table, user))
    times = as_times(get_column(table, time), time)
    events = np.flatnonzero(_event_mask(table, where) & (codes >= 0))
    order, starts, ends = _visible(codes, times, events, max(int(delay), 1))
    earlier = _prior_lists(prior, user, users, codes, items, time_gap)
    found = {name: _lists(one_array(table[source]), order, starts, ends, earlier.get(name), max_length) for name, source in items.items()}
    if time_gap is not None:
        before = _prior_times(earlier, items, time_gap) if earlier else None
        event_times = _lists(pa.array(times), order, starts, ends, before, max_length)
        found[time_gap] = _time_gaps(event_times, times, list(found.values()), unit)
    for name, lists in found.items():
        table = table.append_column(name, lists)
    return table


def time_gap_ids(gaps, time_unit: str = "s") -> np.ndarray:
    """Returns the ids of time gaps: 2 + min(floor(log2(seconds + 1)), 31), int64, of the same shape.

    A gap below a second has the id 2, below three seconds 3, below seven 4; a day 18, a year 26. What is not positive counts as 0.

    Args:
        gaps: Numbers, time of the row less time of the event.
        time_unit: What they count: `"s"`, `"ms"`, `"us"` or `"ns"`.

    Raises:
        ValueError: On an unknown unit.
    """
    if time_unit not in _PER_SECOND:
        raise ValueError(f"time_unit must be one of {tuple(_PER_SECOND)}, got {time_unit!r}")
    # Whole seconds do: the powers of two are whole. The exponent of frexp is the number of binary digits, which rounds nothing.
    seconds = np.clip(np.asarray(gaps) // np.int64(_PER_SECOND[time_unit]), 0, 2 ** (TIME_GAP_BUCKETS - 1) - 1)
    return FIRST_ID - 1 + np.frexp(seconds + 1.0)[1].astype(np.int64)


def time_unit_of(column, name: str, time_unit: str | None) -> str:
    """Returns what `columns.as_times` of a time column counts: milliseconds, or of integers the unit given.

    Raises:
        ValueError: If the column holds integers and no unit is given, or the unit is another than the column's.
    """
    numbers = pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_null(column.type)
    if time_unit not in (None, *_PER_SECOND):
        raise ValueError(f"time_unit must be one of {tuple(_PER_SECOND)}, got {time_unit!r}")
    if numbers and time_unit is None:
        raise ValueError(f"time column '{name}' holds numbers: time gaps need time_unit, what one counts: {', '.join(_PER_SECOND)}")
    if not numbers and time_unit not in (None, "ms"):
        raise ValueError(f"time column '{name}' has type {column.type}, which is read in milliseconds: leave time_unit='{time_unit}' out")
    return time_unit if numbers else "ms"


def _user_codes(column):
    """Returns the distinct users and each row's position among them, -1 without a user."""
    encoded = column.dictionary_encode()
    return encoded.dictionary, encoded.indices.fill_null(-1).to_numpy().astype(np.int64)


def _event_mask(table, where) -> np.ndarray:
    if where is None:
        return np.ones(table.num_rows, bool)
    if isinstance(where, str):
        column = get_column(table, where)
        return as_binary(column.fill_null(pa.scalar(0).cast(column.type)) if column.null_count else column, where) == 1
    if isinstance(where, (pa.Array, pa.ChunkedArray)):
        where = pc.fill_null(one_array(where), False).to_numpy(zero_copy_only=False)
    where = np.asarray(where)
    if where.dtype != bool or where.shape != (table.num_rows,):
        raise ValueError(f"where must be a column name or a boolean mask of {table.num_rows} rows, got {where.dtype} {where.shape}")
    return where


def _visible(codes, times, events, age):
    """Returns the events' rows sorted by (user, time, row) and, for each row of the log, the range of those it may see.

    An event is visible if its time is at most the row's minus `age`. Times are replaced by their ranks among the events' times, so that
    user and time make one sortable integer.
    """
    ranks = np.unique(times[events])
    base = len(ranks) + 1
    keys = codes[events] * base + np.searchsorted(ranks, times[events])
    by_key = np.argsort(keys, kind="stable")
    keys = keys[by_key]
    known = np.searchsorted(ranks, times - age, side="right")  # number of event times that are old enough
    starts = np.searchsorted(keys, codes * base, side="left")
    ends = np.searchsorted(keys, codes * base + known, side="left")
    return events[by_key], starts, np.where(codes >= 0, ends, starts)


def _prior_lists(prior, user, users, codes, items, time_gap) -> dict:
    """Returns `{new column: (values, ends, lengths)}`, ends and lengths per row of the log."""
    if prior is None:
        return {}
    if not isinstance(prior, (dict, pa.Table, pa.RecordBatch)):
        raise ValueError(f"prior must be a table or a dict of dicts, got {type(prior).__name__}")
    found, known = {}, [*items, *([time_gap] if time_gap is not None else [])]
    for name in prior if isinstance(prior, dict) else [name for name in known if name != time_gap or name in prior.schema.names]:
        if name not in known:
            raise ValueError(f"prior has a history '{name}' that is not among the new columns {sorted(known)}")
        if isinstance(prior, dict):
            keys = pa.array(list(prior[name]), users.type)
            lists = pa.array([list(values) for values in prior[name].values()]) if len(keys) else pa.array([], pa.list_(pa.null()))
        else:
            keys, lists = get_column(prior, user, "prior").cast(users.type), get_column(prior, name, "prior")
        if pc.count_distinct(keys).as_py() < len(keys):
            raise ValueError(f"prior has two rows for one '{user}'")
        values, ends, lengths = as_lists(lists, name)
        at = pc.index_in(users, value_set=keys).fill_null(len(keys)).to_numpy()  # once per distinct user
        ends, lengths = (np.append(x, 0)[np.append(at, len(keys))[codes]] for x in (ends, lengths))
        found[name] = (values, ends, lengths)
    return found


def _prior_times(earlier, items, time_gap):
    """Returns the times of the prior events, null where they are not known, as `_prior_lists` returns a history."""
    names = [*items, *([time_gap] if time_gap in earlier else [])]
    lengths = [earlier[name][2] if name in earlier else 0 for name in names]
    if any(not np.array_equal(lengths[0], other) for other in lengths[1:]):
        raise ValueError(f"time gaps need prior histories that are aligned: of one length in each of {', '.join(names)}")
    if time_gap not in earlier:
        return pa.nulls(int(lengths[0].max(initial=0)), pa.int64()), lengths[0], lengths[0]  # all rows read the same nulls
    values, ends, counts = earlier[time_gap]
    times, missing = np.zeros(len(values), np.int64), values.is_null().to_numpy(zero_copy_only=False)
    times[~missing] = as_times(values.drop_null(), f"{time_gap} of prior")
    return pa.array(times, mask=missing), ends, counts


def _time_gaps(event_times, times, histories, time_unit):
    """Returns the list array of the gap ids of events: int8, 1 where the time is not known, null where no history has a value."""
    events, offsets = event_times.values, event_times.offsets
    unknown = events.is_null().to_numpy(zero_copy_only=False)
    gaps = np.repeat(times, np.diff(offsets.to_numpy())) - events.fill_null(0).to_numpy()
    ids = np.where(unknown, UNKNOWN_ID, time_gap_ids(gaps, time_unit)).astype(np.int8)
    missing = [lists.values.is_null().to_numpy(zero_copy_only=False) for lists in histories] or [np.zeros(len(ids), bool)]
    return type(event_times).from_arrays(offsets, pa.array(ids, mask=np.logical_and.reduce(missing)))


def _lists(source, order, starts, ends, prior, max_length):
    """Returns the list array: the newest events among `order[starts:ends]`, after the newest prior ones, at most max_length in all."""
    late = np.minimum(ends - starts, max_length)
    values, prior_ends, early = (pa.nulls(0, source.type), None, np.zeros_like(late)) if prior is None else prior
    early = np.minimum(early, max_length - late)
    total = early + late
    offsets = np.append(0, np.cumsum(total))
    steps = np.arange(offsets[-1]) - np.repeat(offsets[:-1], total)  # step of each event in its row
    log_at = steps + np.repeat(ends - total, total)  # order[ends - late + (step - early)]
    positions = np.empty(len(steps), np.int64)
    from_log = steps >= np.repeat(early, total)
    positions[from_log] = order[log_at[from_log]] + len(values)
    if prior is not None:
        prior_at = steps + np.repeat(prior_ends - early, total)
        positions[~from_log] = prior_at[~from_log]
    pool = pa.concat_arrays([values.cast(source.type), source])
    if pa.types.is_string(pool.type) and pool.nbytes * len(steps) > len(pool) * 2**30:
        pool = pool.cast(pa.large_string())  # the text may pass the 2 GiB of a plain string array
    kind = pa.ListArray if offsets[-1] < 2**31 else pa.LargeListArray
    return kind.from_arrays(pa.array(offsets.astype(np.int32) if kind is pa.ListArray else offsets), pool.take(pa.array(positions)))


def partition_by_user(batches, folder, *, user: str, num_partitions: int = 16) -> list[Path]:
    """Splits a log that is larger than memory into files that each hold all rows of their users.

    Build histories file by file: `build_histories` of a file's table equals that of the whole log for the same rows. Rows keep their
    order within a file. Which file a user goes to is `hash64(user) % num_partitions`.

    Args:
        batches: Iterable of `pa.RecordBatch`es, all of one Arrow schema.
        folder: Folder for the files; made if need be.
        user: Column with the user; rows without one go to the first file.
        num_partitions: Number of files; choose it so that one file's rows and histories fit in memory.

    Returns:
        Paths of the `.arrow` files that have rows, which `read_batches` reads.

    Raises:
        EncodingError: If there is no such column, or a batch has another schema than the first.
    """
    if num_partitions < 1:
        raise ValueError(f"num_partitions must be positive, got {num_partitions}")
    os.makedirs(folder, exist_ok=True)
    paths = [Path(folder) / f"users-{i:05d}-of-{num_partitions:05d}.arrow" for i in range(num_partitions)]
    writers, schema = {}, None
    try:
        for batch in map(plain_batch, batches):
            schema = schema or batch.schema
            if not batch.schema.equals(schema):
                raise EncodingError(f"the log's columns change from {schema.to_string()} to {batch.schema.to_string()}")
            parts = hash64(get_column(batch, user, "the log")) % np.uint64(num_partitions)
            order = np.argsort(parts, kind="stable")
            bounds = np.searchsorted(parts[order], np.arange(num_partitions + 1))
            for i in np.flatnonzero(np.diff(bounds)):
                if i not in writers:
                    writers[i] = ipc.new_file(str(paths[i]), schema, options=ipc.IpcWriteOptions(compression="lz4"))
                writers[i].write(batch.take(pa.array(order[bounds[i] : bounds[i + 1]])))
    finally:
        for writer in writers.values():
            writer.close()
    return [paths[i] for i in sorted(writers)]
