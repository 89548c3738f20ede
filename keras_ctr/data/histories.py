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

__all__ = ["build_histories", "partition_by_user"]


def build_histories(table, *, user: str, time: str, items: dict, max_length: int = 50, where=None, prior=None, delay: int = 0):
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
            new column; or `{new column: {user: list}}`. All of it must be older than the log.
        delay: Time after which an event is known: younger ones are not visible yet (labels arrive late, features are computed daily).

    Returns:
        `pa.Table`: the table with the new columns appended, its rows in the same order.

    Raises:
        EncodingError: On a missing column (with the nearest name) or a row without a time.
        ValueError: On a wrong `max_length`, `delay`, `where` or `prior`, or a new column that is there already.
    """
    if max_length < 1 or delay < 0:
        raise ValueError(f"max_length must be positive and delay not negative, got {max_length} and {delay}")
    table = pa.table(table) if not isinstance(table, pa.Table) else table
    check_columns([user, time, *items.values()], table.column_names, "the log")
    for name in items:
        if name in table.column_names:
            raise ValueError(f"the log has a column '{name}' already: give the history another name")
    users, codes = _user_codes(get_column(table, user))
    times = as_times(get_column(table, time), time)
    events = np.flatnonzero(_event_mask(table, where) & (codes >= 0))
    order, starts, ends = _visible(codes, times, events, max(int(delay), 1))
    earlier = _prior_lists(prior, user, users, codes, items)
    for name, source in items.items():
        table = table.append_column(name, _lists(one_array(table[source]), order, starts, ends, earlier.get(name), max_length))
    return table


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


def _prior_lists(prior, user, users, codes, items) -> dict:
    """Returns `{new column: (values, ends, lengths)}`, ends and lengths per row of the log."""
    if prior is None:
        return {}
    if not isinstance(prior, (dict, pa.Table, pa.RecordBatch)):
        raise ValueError(f"prior must be a table or a dict of dicts, got {type(prior).__name__}")
    found = {}
    for name in prior if isinstance(prior, dict) else items:
        if name not in items:
            raise ValueError(f"prior has a history '{name}' that is not among the new columns {sorted(items)}")
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
