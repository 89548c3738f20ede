"""The files of KuaiRand-Pure in both of their layouts, read as the same four tables.

Only the columns named here are read: outcomes other than the three labels, and the `*_cnt` totals of videos (counted over the whole
month, so they know the future), never enter.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_ctr.data.arrow import pa, pc, pcsv, pq
from keras_ctr.data.columns import as_integers, as_lists, as_strings, check_columns, one_array

__all__ = ["ACTIONS", "EXTRACT_FILES", "LABELS", "OFFICIAL_FILES", "ONEHOT", "USER_TEXT", "VIDEO_TEXT", "RawFiles", "find_file", "read"]

LABELS = ("is_click", "long_view", "is_like")
"""The outcomes that are predicted."""
ACTIONS = {"shown": 1, "clicked": 2, "long_view": 3, "liked": 4, "not_recorded": 5}
"""The strongest thing the user did with an impression; `not_recorded`: neither long view nor like, and the click is not known."""

ONEHOT = tuple(f"onehot_feat{i}" for i in range(18))
USER_TEXT = ("user_active_degree", "follow_user_num_range", "fans_user_num_range", "friend_user_num_range", "register_days_range")
USER_INTEGERS = ("is_live_streamer", "is_video_author", *ONEHOT)
VIDEO_TEXT = ("video_type", "upload_type", "upload_dt")
LOG_COLUMNS = ("user_id", "video_id", "date", "time_ms", "tab", *LABELS)
SEQUENCE_COLUMNS = ("watch_seq", "long_watch_seq", "like_seq")
EXTRACT_FILES = ("val", "test", "user_features", "video_features_basic_pure", "user_sequences")
"""Stems of the extract layout; each may be `.parquet` or `.csv` (`user_sequences` has lists: Parquet only)."""
OFFICIAL_FILES = (
    "log_standard_4_08_to_4_21_pure",
    "log_standard_4_22_to_5_08_pure",
    "user_features_pure",
    "video_features_basic_pure",
)
"""Stems of the official release, `.csv` there."""
RANDOM_FILE = "log_random_4_22_to_5_08_pure"


@dataclass(frozen=True)
class RawFiles:
    """KuaiRand-Pure as read.

    Attributes:
        log: Impressions, sorted by time (equal times keep the files' order): `LOG_COLUMNS` and `is_rand`, int64.
        users: `user_id` and the columns of `USER_TEXT` and `USER_INTEGERS`; missing integers are null.
        videos: `video_id`, `author_id`, `tag` (the first of the video's tags), `music_type`, `duration` (seconds, float), and `VIDEO_TEXT`.
        prior: What users did before the log, a row a user, lists oldest first: `user_id`, the videos of `watched`, `long_watched` and
            `liked`, and `watched_action`, the codes of `ACTIONS` that go with `watched`; None if the log is complete.
    """

    log: object
    users: object
    videos: object
    prior: object = None


def find_file(folder: Path, stem: str) -> Path | None:
    """Returns the file of that stem in a folder, Parquet before CSV, or None."""
    for suffix in (".parquet", ".csv"):
        if (folder / (stem + suffix)).is_file():
            return folder / (stem + suffix)
    return None


def find_layout(raw_dir) -> tuple:
    """Returns the folder with the files, and whether they are the official release.

    Raises:
        FileNotFoundError: Naming the files that are missing.
    """
    root = Path(os.fspath(raw_dir))
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; it must hold the files of KuaiRand-Pure (https://kuairand.com)")
    for folder in (root, root / "data"):  # the release unpacks to KuaiRand-Pure/data
        for stems, official in ((OFFICIAL_FILES, True), (EXTRACT_FILES, False)):
            # The video file is in both layouts, so it does not tell which one this is.
            own = [stem for stem in stems if stem != "video_features_basic_pure"]
            if any(find_file(folder, stem) for stem in own):
                missing = [stem for stem in stems if not find_file(folder, stem)]
                if missing:
                    kind = "official release" if official else "extract"
                    names = ", ".join(f"'{stem}{'.csv' if official else '.parquet'}'" for stem in missing)
                    raise FileNotFoundError(f"{folder}: {names} missing; the {kind} has {', '.join(stems)}")
                return folder, official
    raise FileNotFoundError(
        f"{root}: no files of KuaiRand-Pure; expected the official release ({', '.join(f'{s}.csv' for s in OFFICIAL_FILES)}) "
        f"or the extract ({', '.join(EXTRACT_FILES)})"
    )


def _read_table(folder, stem, columns):
    """Reads the named columns of a Parquet or CSV file; all text in CSV, so that nothing depends on type guessing."""
    path = find_file(folder, stem)
    if path.suffix == ".parquet":
        check_columns(columns, pq.read_schema(path).names, str(path))
        return pq.read_table(path, columns=list(columns))
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty (0 bytes)")
    with pcsv.open_csv(path) as reader:
        check_columns(columns, reader.schema.names, str(path))
    options = pcsv.ConvertOptions(include_columns=list(columns), column_types={c: pa.string() for c in columns}, strings_can_be_null=True)
    return pcsv.read_csv(path, convert_options=options)


def _integers(column, name, path):
    """Returns a column as int64 with nulls; text such as "3" or "3.0" is read as a number."""
    array = one_array(column)
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        try:
            array = array.cast(pa.float64()) if pc.any(pc.match_substring(array, ".")).as_py() else array.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path}: column '{name}' should hold integers: {error}") from error
    return as_integers(array, name)


def _read_log(folder, stem):
    table = _read_table(folder, stem, LOG_COLUMNS)
    path = find_file(folder, stem)
    columns = {name: _integers(table[name], name, path) for name in LOG_COLUMNS}
    for name, column in columns.items():
        if column.null_count:
            row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
            raise ValueError(f"{path}: column '{name}' has no value at row {row} (counted from 0)")
    for name in LABELS:
        bad = ~np.isin(columns[name].to_numpy(), (0, 1))
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(f"{path}: column '{name}' holds {columns[name][row]} at row {row} (counted from 0), not 0 or 1")
    return pa.table(columns)


def _read_users(folder, stem):
    table = _read_table(folder, stem, ("user_id", *USER_TEXT, *USER_INTEGERS))
    path = find_file(folder, stem)
    columns = {name: _integers(table[name], name, path) for name in ("user_id", *USER_INTEGERS)}
    return pa.table(columns | {name: as_strings(one_array(table[name]), name) for name in USER_TEXT})


def _read_videos(folder, stem):
    table = _read_table(folder, stem, ("video_id", "author_id", "tag", "music_type", "video_duration", *VIDEO_TEXT))
    path = find_file(folder, stem)
    columns = {name: _integers(table[name], name, path) for name in ("video_id", "author_id", "music_type", "video_duration")}
    tag = as_strings(one_array(table["tag"]).cast(pa.string()), "tag")
    # "39,68": the first tag; a video without tags has none (or "unknown")
    tag = pc.struct_field(pc.extract_regex(tag, r"^(?P<first>\d+)"), "first").cast(pa.int64())
    milliseconds = columns.pop("video_duration").cast(pa.float64())
    duration = pc.divide(pc.if_else(pc.greater(milliseconds, 0.0), milliseconds, None), 1000.0)
    text = {name: as_strings(one_array(table[name]), name) for name in VIDEO_TEXT}
    return pa.table(columns | {"tag": tag, "duration": duration} | text)


def _newest_first(column, name):
    """Returns lists as a matrix (n, T) of values, newest first, -1 after the end; T is the longest length, at least 1."""
    values, ends, lengths = as_lists(one_array(column), name)
    steps = np.arange(max(int(lengths.max(initial=0)), 1))
    at = ends[:, None] - 1 - steps
    valid = steps < lengths[:, None]
    values = np.append(as_integers(values, name).to_numpy(), -1)  # (all,) and one that is out of reach
    return np.where(valid, values[np.where(valid, at, -1)], -1)


def _as_lists(matrix, values):
    """Returns the entries of `values` (n, T), newest first, as lists oldest first, where `matrix` has an event."""
    valid = (matrix >= 0)[:, ::-1]
    offsets = np.append(0, np.cumsum(valid.sum(axis=1))).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[:, ::-1][valid]))


def _prior(sequences, log, path):
    """Returns each user's impressions from before the log, from the lists of the last 50 shown, long-viewed and liked videos.

    `watch_seq` holds every impression, clicked or not (`history_len`, its length before it was cut, sums over the users to the number
    of all impressions before 04-25). The other lists are its sub-lists, except that they reach further back; so, walking from the newest
    backwards, an impression is the next long view (like) whenever the videos agree.

    The lists carry one time, that of the last event. A user whose first impression in the log is not later than that gets no prior
    events: the rule "strictly before" could not be kept (3 users of 26,469: midnight belongs to both days).
    """
    users, times = _integers(sequences["user_id"], "user_id", path), _integers(sequences["last_time_ms"], "last_time_ms", path)
    first = log.group_by("user_id").aggregate([("time_ms", "min")])
    first = one_array(first["time_ms_min"]).take(pc.index_in(users, value_set=one_array(first["user_id"])))
    sequences = sequences.filter(pc.greater(first, times))  # null for a user who is not in the log: left out
    watched = _newest_first(sequences["watch_seq"], "watch_seq")  # (n, T)
    action = np.full(watched.shape, ACTIONS["not_recorded"], np.int8)
    lists = {"user_id": _integers(sequences["user_id"], "user_id", path)}
    rows = np.arange(len(watched))
    for column, group, code in (("long_watch_seq", "long_watched", "long_view"), ("like_seq", "liked", "liked")):  # the strongest last
        events = _newest_first(sequences[column], column)
        lists[group] = _as_lists(events, events)
        events = np.pad(events, ((0, 0), (0, 1)), constant_values=-2)
        pointer = np.zeros(len(watched), np.int64)
        for step in range(watched.shape[1]):
            same = (watched[:, step] == events[rows, pointer]) & (watched[:, step] >= 0)
            action[same, step] = ACTIONS[code]
            pointer += same
    return pa.table(lists | {"watched": _as_lists(watched, watched), "watched_action": _as_lists(watched, action)})


def read(raw_dir, *, random: bool = False) -> RawFiles:
    """Reads KuaiRand-Pure from a folder in either layout.

    Args:
        raw_dir: Folder with the official release (or the folder above its `data`), or with the extract.
        random: Whether to read the randomly exposed impressions of the official release too (`is_rand` 1).

    Raises:
        FileNotFoundError: Naming the files that are missing.
        EncodingError: Naming file and column of a missing column, with the nearest one there is.
        ValueError: On an empty file, a log column without a value, a label that is not 0 or 1, or text where integers should be.
    """
    folder, official = find_layout(raw_dir)
    stems = list(OFFICIAL_FILES[:2] if official else EXTRACT_FILES[:2])
    if random:
        if not find_file(folder, RANDOM_FILE):
            raise FileNotFoundError(f"{folder}: '{RANDOM_FILE}.csv' missing; the random exposures are in the official release only")
        stems.append(RANDOM_FILE)
    parts = [_read_log(folder, stem) for stem in stems]
    parts = [
        part.append_column("is_rand", pa.array(np.full(part.num_rows, stem == RANDOM_FILE)))
        for part, stem in zip(parts, stems, strict=True)
    ]
    log = pa.concat_tables(parts).combine_chunks()
    log = log.take(np.argsort(log["time_ms"].to_numpy(), kind="stable"))
    users = _read_users(folder, "user_features_pure" if official else "user_features")
    videos = _read_videos(folder, "video_features_basic_pure")
    prior = None
    if not official:
        sequences = _read_table(folder, "user_sequences", ("user_id", "last_time_ms", *SEQUENCE_COLUMNS))
        prior = _prior(sequences, log, find_file(folder, "user_sequences"))
    return RawFiles(log, users, videos, prior)
