"""KuaiRand-Pure: 27,285 users, 7,583 short videos of Kuaishou, every impression from 2022-04-08 to 2022-05-08 with its outcomes.

Gao et al., "KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos", CIKM 2022, https://kuairand.com,
CC BY-SA 4.0. `load()` reads a compact extract that ships with this package; `load(folder)` reads the full files.

    tables = kuairand.load()
    schema = kuairand.schema(labels=["is_click"])
    keras_ctr.data.prepare(tables, schema, "kuairand_prepared")
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from keras_ctr.data import build_histories, time_gap_ids
from keras_ctr.data.arrow import pa, pc
from keras_ctr.data.columns import as_lists, one_array
from keras_ctr.datasets import kuairand_files as files
from keras_ctr.schema import UNKNOWN_ID, Categorical, Label, Numeric, Schema, Sequence, nearest, time_gap_sequence

__all__ = ["ACTIONS", "ATTRIBUTES", "EXTRACT", "HISTORIES", "LABELS", "MISSING", "SPLIT_DAYS", "column_type", "load", "schema"]

EXTRACT = Path(__file__).parent / "kuairand_extract"
"""Folder of the extract that ships with the package."""
LABELS = files.LABELS
ACTIONS = files.ACTIONS
HISTORIES = ("watched", "long_watched", "liked")
"""Event groups: every earlier impression, those viewed long, those liked."""
SPLIT_DAYS = {"train": (20220425, 20220429), "validation": (20220430, 20220430), "test": (20220501, 20220508)}
"""First and last `date` of each split."""
ATTRIBUTES = ("video_id", "author_id", "tag", "action", "tab", "age")
"""What is known of an event of `watched`; the other histories have the first three."""
MISSING = -1
"""Stands for a missing integer: it gets the unknown id where events share the table, an id of its own elsewhere."""

_UTC_OFFSET_MS = 8 * 3_600_000  # the log was taken in China
_SIDES = ATTRIBUTES[:3]
_TIME_GAP = "time_gap"
_TEXT = (*files.VIDEO_TEXT, *files.USER_TEXT)
_WHERE = {"watched": None, "long_watched": "long_view", "liked": "is_like"}


def _chosen(names, known, what) -> tuple:
    """Returns the chosen names in the order of the known ones.

    Raises:
        ValueError: On an unknown name, with the nearest one.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in known:
            raise ValueError(f"KuaiRand has no {what} '{name}'{nearest(name, known)}; it has {', '.join(known)}")
    return tuple(name for name in known if name in names)


def _lengths(histories, max_length) -> dict:
    """Returns `{group: max_length}` of the chosen groups, in the order of `HISTORIES`."""
    given = max_length if isinstance(max_length, Mapping) else dict.fromkeys(HISTORIES, max_length)
    _chosen(given, HISTORIES, "history")
    lengths = {name: given.get(name, 50) for name in _chosen(histories, HISTORIES, "history")}
    for name, length in lengths.items():
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise ValueError(f"max_length of history '{name}' must be a positive int, got {length!r}")
    return lengths


def schema(*, labels=LABELS, histories=HISTORIES, attributes=ATTRIBUTES[:4], max_length=50, time_gaps=False) -> Schema:
    """Returns the raw schema of KuaiRand: no vocabulary is fitted yet (`keras_ctr.data.prepare` or `fit_schema` does that).

    Fields: user and video ids, what the video is (author, first tag, type, kind of upload, day of upload, kind of music, duration in
    seconds), where and when it is shown (tab of the app, hour in China), who the user is (activity, ranges of the numbers of followed
    users, fans, friends and days since registration, and the release's 18 encrypted features, one field each).
    Left out: `is_lowactive_period` (one value for all users); day of week and age of the video (each validation and test day has values
    that no training day has; the day of upload says the same without the drift); the video's `*_cnt` totals and every other outcome.

    Histories: see `load`. Their events read the tables of `video_id`, `author_id`, `tag` and `tab`.

    Args:
        labels: Some of `LABELS`, in this order.
        histories: Some of `HISTORIES`; an empty tuple for a schema without sequences.
        attributes: Some of `ATTRIBUTES`, at least one: what the model sees of an event of `watched`. The default leaves out the tab and
            age of events, which added nothing to the validation AUC.
        max_length: Events of a history: an int, or `{history: int}` (50 where one is not named).
        time_gaps: Whether the events of every history also say how long before the row they were: `<history>_time_gap`, of one table
            (`keras_ctr.schema.time_gap_sequence`).

    Raises:
        ValueError: On an unknown label, history or attribute, with the nearest one, no attribute, or a `max_length` that is not a
            positive int.
    """
    labels = _chosen(labels, LABELS, "label")
    sides = {"watched": _chosen(attributes, ATTRIBUTES, "event attribute")}
    if not sides["watched"]:
        raise ValueError(f"attributes must name at least one of {', '.join(ATTRIBUTES)}; for no history at all leave it out of histories")
    integer = {"dtype": "int64"}
    fields = [
        Categorical("user_id", **integer),
        Categorical("video_id", **integer),
        Categorical("author_id", **integer),
        Categorical("tag", **integer),
        Categorical("video_type"),
        Categorical("upload_type"),
        Categorical("upload_dt"),
        Categorical("music_type", **integer),
        Numeric("duration", transform="log_square", num_bins=16),
        Categorical("tab", **integer),
        Categorical("hour", **integer),
        *(Categorical(name) for name in files.USER_TEXT),
        *(Categorical(name, **integer) for name in files.USER_INTEGERS),
    ]
    events = []
    for group, length in _lengths(histories, max_length).items():
        for side in sides.get(group, _SIDES):
            own = integer if side in ("action", "age") else {"target": side}
            events.append(Sequence(f"{group}_{side}", max_length=length, table=side, group=group, **own))
        if time_gaps:
            events.append(time_gap_sequence(f"{group}_{_TIME_GAP}", length, group, table=_TIME_GAP))
    return Schema(
        features=[*fields, *events],
        labels=[Label(name) for name in labels],
        group="user_id",
        time="time_ms",
    )


def column_type(name: str):
    """Returns the Arrow type of a column of the tables that `load` returns: the narrowest that holds the release's values."""
    for group in HISTORIES:
        if name.startswith(f"{group}_"):
            side = name.removeprefix(f"{group}_")
            return pa.list_(pa.int8() if side in ("tab", "action", "age", _TIME_GAP) else column_type(side))
    if name in _TEXT:
        return pa.string()
    narrow = {"time_ms": pa.int64(), "duration": pa.float32(), "tag": pa.int16()} | {label: pa.int8() for label in LABELS}
    return narrow.get(name, pa.int32())


def load(
    raw_dir=None,
    *,
    labels=LABELS,
    histories=HISTORIES,
    attributes=ATTRIBUTES[:4],
    max_length=50,
    time_gaps=False,
    first_day=SPLIT_DAYS["train"][0],
    random=False,
) -> dict:
    """Reads KuaiRand as tables of raw rows, split by time.

    `train` is 2022-04-25 to 04-29, `validation` 04-30 (the last day of the training log), `test` 05-01 to 05-08, by the log's `date`.
    A row's history holds what the user did at a `time_ms` strictly before the row's; rows of the same instant (the log repeats some)
    see nothing of each other. Events of all three splits count: on a test day yesterday's clicks are known.

    `watched_*`: every earlier impression, clicked or not, with video, author, first tag, `action` (the strongest thing the user did,
    `ACTIONS`), and on demand `tab` and `age` (0 for less than a second before the row, else 1 + floor(log2(seconds))).
    `long_watched_*` and `liked_*`: those viewed long and those liked, with video, author and tag.
    `*_time_gap`, on demand: the bucket of the time between event and row (`keras_ctr.data.time_gap_ids`).

    The official release has the log from 04-08, so histories come from it alone. The extract starts at 04-25 and has lists of each user's
    last 50 impressions, long views and likes before that; of those tab, age and time gap (id 1) are missing, and of the impressions that
    were neither viewed long nor liked the click is not known (`ACTIONS["not_recorded"]`).

    No value is null. A missing integer is -1 (`MISSING`), a missing text "UNKNOWN", a missing duration NaN.

    Args:
        raw_dir: Folder with the official release (`log_standard_4_08_to_4_21_pure.csv`, ...) or with an extract (`val.parquet`, ...).
            None: the extract that ships with the package, a part of the users with all their rows.
        labels, histories, attributes, max_length, time_gaps: As for `schema`.
        first_day: First `date` of `train`. The official release goes back to 20220408.
        random: Whether to add the split `random`: impressions of the test days that were exposed at random, an unbiased test (official
            release only). Their histories hold standard impressions, as everywhere.

    Returns:
        `{"train": pa.Table, "validation": ..., "test": ...}`, sorted by time, with the columns of `schema(...).raw_columns`.

    Raises:
        FileNotFoundError: Naming the files that are missing.
        EncodingError: Naming file and column of a missing column.
        ValueError: On a wrong argument, an empty file, a log column with missing or wrong values, or a split without rows.
    """
    wanted = schema(labels=labels, histories=histories, attributes=attributes, max_length=max_length, time_gaps=time_gaps)
    raw = files.read(EXTRACT if raw_dir is None else raw_dir, random=random)
    log, days = raw.log, raw.log["date"].to_numpy()
    standard = ~raw.log["is_rand"].to_numpy()
    last, first = SPLIT_DAYS["train"][1], SPLIT_DAYS["test"][0]
    splits = {
        "train": standard & (days >= first_day) & (days <= last),
        "validation": standard & (days > last) & (days < first),
        "test": standard & (days >= first),
    }
    if random:
        splits["random"] = ~standard & (days >= first)
    positions = {group: _positions(raw, group, length, standard) for group, length in _lengths(histories, max_length).items()}
    out = {}
    for name, mask in splits.items():
        rows = np.flatnonzero(mask)
        if not len(rows):
            raise ValueError(f"the split '{name}' has no rows: the log's dates are {days.min(initial=0)} to {days.max(initial=0)}")
        columns = _fields(raw, log.take(rows))
        for group, lists in positions.items():
            columns |= _events(raw, group, lists.take(pa.array(rows)), log["time_ms"].to_numpy()[rows], time_gaps)
        out[name] = pa.table({column: columns[column] for column in wanted.raw_columns})
    return out


def _fill(table, names) -> dict:
    """Returns columns of a table by name, without nulls and with the types of `column_type`."""
    found = {}
    for name in names:
        column, kind = one_array(table[name]), column_type(name)
        missing = "UNKNOWN" if pa.types.is_string(kind) else np.nan if pa.types.is_floating(kind) else MISSING
        found[name] = column.cast(kind).fill_null(pa.scalar(missing, kind))
    return found


def _join(keys, table, key):
    """Returns the table's rows that belong to the keys, in their order; nulls for a key that it does not have."""
    return table.take(pc.index_in(keys, value_set=one_array(table[key])))


def _fields(raw, log) -> dict:
    """Returns the columns that are one value a row, labels and time included."""
    users = _join(one_array(log["user_id"]), raw.users, "user_id")
    videos = _join(one_array(log["video_id"]), raw.videos, "video_id")
    hours = (log["time_ms"].to_numpy() + _UTC_OFFSET_MS) // 3_600_000 % 24
    columns = _fill(log, ("user_id", "video_id", "tab", "time_ms", *LABELS)) | {"hour": pa.array(hours, column_type("hour"))}
    columns |= _fill(videos, ("author_id", "tag", "music_type", "duration", *files.VIDEO_TEXT))
    return columns | _fill(users, (*files.USER_TEXT, *files.USER_INTEGERS))


def _positions(raw, group, max_length, standard):
    """Returns, per row of the log, the positions of its events: rows of the log, then (from `len(log)` on) the group's prior events."""
    log = raw.log.append_column("position", pa.array(np.arange(raw.log.num_rows, dtype=np.int32)))
    prior = None
    if raw.prior is not None:
        values, ends, lengths = as_lists(one_array(raw.prior[group]), group)
        offsets = pa.array(np.append(0, ends).astype(np.int32))
        at = pa.array(np.arange(len(values), dtype=np.int32) + log.num_rows)
        prior = pa.table({"user_id": raw.prior["user_id"], "event": pa.ListArray.from_arrays(offsets, at)})
    where = standard if _WHERE[group] is None else standard & (log[_WHERE[group]].to_numpy() == 1)
    table = build_histories(
        log.select(["user_id", "time_ms", "position"]),
        user="user_id",
        time="time_ms",
        items={"event": "position"},
        max_length=max_length,
        where=where,
        prior=prior,
    )
    return one_array(table["event"])


def _events(raw, group, lists, times, time_gaps) -> dict:
    """Returns the attributes of a group's events: `lists` holds their positions as `_positions` gives them, `times` the rows' times."""
    at, ends, lengths = as_lists(lists, group)
    at = at.to_numpy()[(ends - lengths)[0] : ends[-1]] if len(ends) else at.to_numpy()
    offsets = pa.array(np.append(0, np.cumsum(lengths)).astype(np.int32))
    log, n = raw.log, raw.log.num_rows
    before = at >= n
    prior = np.zeros(0, np.int64) if raw.prior is None else one_array(raw.prior[group]).flatten().to_numpy()
    video = pa.array(np.concatenate([log["video_id"].to_numpy(), prior])[at])
    values = _fill(_join(video, raw.videos, "video_id"), _SIDES) | {"video_id": video}
    in_log = np.where(before, 0, at)
    if time_gaps:
        gaps = np.repeat(times, lengths) - log["time_ms"].to_numpy()[in_log]
        values[_TIME_GAP] = pa.array(np.where(before, UNKNOWN_ID, time_gap_ids(gaps, "ms")))
    if group == "watched":
        action = np.full(n, ACTIONS["shown"], np.int8)
        for label, name in (("is_click", "clicked"), ("long_view", "long_view"), ("is_like", "liked")):  # the strongest last
            action[log[label].to_numpy() == 1] = ACTIONS[name]
        told = np.zeros(0, np.int8) if raw.prior is None else one_array(raw.prior["watched_action"]).flatten().to_numpy()
        seconds = (np.repeat(times, lengths) - log["time_ms"].to_numpy()[in_log]) // 1000
        values["tab"] = pa.array(np.where(before, MISSING, log["tab"].to_numpy()[in_log]))
        values["action"] = pa.array(np.concatenate([action, told])[at])
        values["age"] = pa.array(np.where(before, MISSING, np.frexp(seconds)[1]))  # the exponent is the number of binary digits
    found = {}
    for side, column in values.items():
        kind = column_type(f"{group}_{side}")
        found[f"{group}_{side}"] = pa.ListArray.from_arrays(offsets, column.cast(kind.value_type), type=kind)
    return found
