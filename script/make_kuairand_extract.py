#!/usr/bin/env python3
"""Makes the compact KuaiRand-Pure extract that ships in keras_ctr/datasets/kuairand_extract: some users with all their rows.

    script/make_kuairand_extract.py --raw FOLDER --out FOLDER [--percent 48]

FOLDER holds the official release or an extract (see `keras_ctr.datasets.kuairand.load`). The same input gives the same rows: whether a
user is in is decided by a hash of the id. Prints rows, users and label rates. The licence travels with the data: README.md and LICENSE
are copied.
"""

import argparse
import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from keras_ctr.datasets import kuairand, kuairand_files

LIST_LENGTH = 50
FIRST_DAYS = {"val": kuairand.SPLIT_DAYS["train"][0], "test": kuairand.SPLIT_DAYS["test"][0]}


def is_in(user: int, percent: float) -> bool:
    """Whether a user is in the extract: the hash of the id is spread evenly over [0, 2^64)."""
    return int.from_bytes(hashlib.blake2b(str(user).encode(), digest_size=8).digest(), "big") < percent / 100 * 2**64


def sequences_from_log(log):
    """Returns `user_sequences` made from the log before the first day of `val`: the last 50 shown, long-viewed and liked videos a user."""
    early = log.filter(pc.less(log["date"], FIRST_DAYS["val"])).sort_by([("user_id", "ascending"), ("time_ms", "ascending")])
    users, first = np.unique(early["user_id"].to_numpy(), return_index=True)
    bounds = np.append(first, early.num_rows)
    video, time = early["video_id"].to_numpy(), early["time_ms"].to_numpy()
    columns = {"user_id": users, "last_time_ms": time[bounds[1:] - 1]}
    for name, label in (("watch_seq", None), ("long_watch_seq", "long_view"), ("like_seq", "is_like")):
        chosen = np.ones(len(video), bool) if label is None else early[label].to_numpy() == 1
        lists = [video[a:b][chosen[a:b]][-LIST_LENGTH:] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
        columns[name] = pa.array(lists, pa.list_(pa.int64()))
    return pa.table(columns)


def compact(table, **encodings):
    """Returns the table with each integer column (or list of integers) in the smallest type that holds its values."""
    for i, name in enumerate(table.column_names):
        column = table[name].combine_chunks()
        is_list = pa.types.is_list(column.type)
        values = column.values if is_list else column
        if pa.types.is_integer(values.type) and len(values) > values.null_count:
            bounds = pc.min_max(values).as_py()
            for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64()):
                if -(2 ** (kind.bit_width - 1)) <= bounds["min"] and bounds["max"] < 2 ** (kind.bit_width - 1):
                    break
            table = table.set_column(i, name, column.cast(pa.list_(kind) if is_list else kind))
    return table


def write(table, path):
    """Writes a table as Parquet; times are stored as differences, which is what they compress by."""
    table = compact(table.combine_chunks()).replace_schema_metadata(None)
    times = [name for name in ("time_ms", "last_time_ms") if name in table.column_names]
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=19,
        use_dictionary=[name for name in table.column_names if name not in times],
        column_encoding={name: "DELTA_BINARY_PACKED" for name in times} or None,
        write_statistics=False,
        store_schema=False,
    )


def make(raw, out, percent):
    """Writes the extract of a raw folder."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    files = kuairand_files.read(raw)
    folder, official = kuairand_files.find_layout(raw)
    sequences = sequences_from_log(files.log) if official else pq.read_table(folder / "user_sequences.parquet")
    sequences = sequences.select(["user_id", "last_time_ms", *kuairand_files.SEQUENCE_COLUMNS])
    users = np.unique(files.log["user_id"].to_numpy())
    users = pa.array([user for user in users.tolist() if is_in(user, percent)], pa.int64())
    log = files.log.filter(pc.is_in(files.log["user_id"], users)).select(kuairand_files.LOG_COLUMNS)
    log = log.filter(pc.greater_equal(log["date"], FIRST_DAYS["val"]))
    is_test = pc.greater_equal(log["date"], FIRST_DAYS["test"])
    for name, rows in (("val", log.filter(pc.invert(is_test))), ("test", log.filter(is_test))):
        write(rows, out / f"{name}.parquet")
        rates = ", ".join(f"{label} {pc.mean(rows[label]).as_py():.4f}" for label in kuairand.LABELS)
        print(f"{name}: {rows.num_rows} rows, {pc.count_distinct(rows['user_id']).as_py()} users, {rates}")
    sequences = sequences.filter(pc.is_in(sequences["user_id"], pc.unique(log["user_id"].combine_chunks())))
    write(sequences, out / "user_sequences.parquet")
    write(files.users.filter(pc.is_in(files.users["user_id"], users)), out / "user_features.parquet")
    seen = [log["video_id"].combine_chunks(), *(sequences[c].combine_chunks().flatten() for c in kuairand_files.SEQUENCE_COLUMNS)]
    seen = pc.unique(pa.concat_arrays([array.cast(pa.int64()) for array in seen]))
    videos = files.videos.filter(pc.is_in(files.videos["video_id"], seen))
    milliseconds = pc.round(pc.multiply(videos["duration"], 1000.0)).cast(pa.int64())
    videos = videos.append_column("video_duration", milliseconds).drop_columns(["duration"])
    videos = videos.set_column(videos.column_names.index("tag"), "tag", videos["tag"].cast(pa.string()))
    write(videos, out / "video_features_basic_pure.parquet")
    for name in ("README.md", "LICENSE"):
        if out.resolve() != kuairand.EXTRACT.resolve():
            shutil.copyfile(kuairand.EXTRACT / name, out / name)
    sizes = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    print(f"{len(users)} users, {videos.num_rows} videos, {sequences.num_rows} users with lists")
    print(f"{sum(sizes.values()) / 1e6:.2f} MB: " + ", ".join(f"{name} {size}" for name, size in sizes.items()))


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--raw", required=True, type=os.path.abspath, help="folder with KuaiRand-Pure, either layout")
    parser.add_argument("--out", required=True, type=os.path.abspath, help="folder to write to")
    parser.add_argument("--percent", type=float, default=48.0, help="share of the users, 0 to 100")
    arguments = parser.parse_args()
    make(arguments.raw, arguments.out, arguments.percent)


if __name__ == "__main__":
    main()
