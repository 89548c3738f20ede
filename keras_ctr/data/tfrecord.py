"""Writing one split of a prepared data set: TFRecord shards that are whole or not there."""

import contextlib
import hashlib
import os
import pathlib
import warnings

import numpy as np

from keras_ctr.data.example import serialize_examples
from keras_ctr.data.framing import frame_records

_INCOMPLETE = ".incomplete"
# Records framed and written at once.
_WRITE_ROWS = 2048


def write_split(folder, split, batches, schema, *, num_shards=None, rows_per_shard=131_072, total_rows=None, progress=None) -> dict:
    """Writes the rows of one split to `<folder>/<split>/part-00000-of-0000N.tfrecord` and so on.

    Shards hold consecutive rows, so reading them one after the other gives the rows in the order of writing (and the pipeline,
    which interleaves shards when it shuffles, mixes rows that were far from each other in the log).

    Every shard is written under a temporary name, flushed to the disk, and renamed when all rows are written. If anything fails
    on the way, the split's files are removed; a killed writer leaves files that no reader takes for shards (and no manifest,
    without which `PreparedData` opens nothing). Files that a killed writer left in the split's folder are removed first.

    Args:
        folder: Folder of the data set; made if it does not exist.
        split: Name of the split, e.g. `"train"`; it names a folder.
        batches: Iterable of `EncodedBatch`.
        schema: Schema of the rows.
        num_shards: Number of shards of equal size (fewer only if there are fewer rows); needs `total_rows`.
        rows_per_shard: Rows of a shard where `num_shards` is None.
        total_rows: Number of rows to come, where known: for `num_shards` and for `progress`. If the rows differ from it, all of them
            are written nevertheless and the last shard is longer, or shards are fewer.
        progress: Callable `(done, total, what)`, called after every batch.

    Returns:
        The split's entry in the manifest: `num_rows`; `label_rate` {label: share of ones among the rows whose outcome is known, None
        without any}; `label_known` {partial label: share of those rows}, where the schema has partial labels; `one_class` [labels with
        zeros only or ones only]; `shards` [{`name`, `rows`, `bytes`, `sha256`}].

    Raises:
        ValueError: If there is no row, a batch does not fit the schema, a label is neither 0 nor 1, or an argument is out of range.
        FileExistsError: If the folder of the split holds shards already.
        OSError: If a file cannot be written (a full disk); the message names it.

    Warns:
        UserWarning: If a label has one class only.
    """
    split_folder = pathlib.Path(folder) / _checked_split_name(split)
    plan = _ShardPlan(num_shards, rows_per_shard, total_rows)
    made_folder = not split_folder.exists()
    split_folder.mkdir(parents=True, exist_ok=True)
    _clear(split_folder)
    writer = _Writer(split_folder, plan)
    positives, known = (dict.fromkeys(schema.label_names, 0) for _ in range(2))
    try:
        for batch in batches:
            examples = serialize_examples(batch, schema)
            for label in schema.labels:
                ones, zeros = _count_outcomes(split, label, batch.labels[label.name])
                positives[label.name] += ones
                known[label.name] += ones + zeros
            writer.write(examples)
            if progress is not None:
                progress(writer.num_rows, total_rows, f"writing {split}")
        if not writer.num_rows:
            raise ValueError(f"split '{split}' has no rows: there is nothing to write to {split_folder}")
        shards = writer.finish()
    except BaseException:
        writer.discard()
        if made_folder:
            with contextlib.suppress(OSError):
                split_folder.rmdir()
        raise
    rows = writer.num_rows
    one_class = [name for name, count in positives.items() if count in (0, known[name])]
    for name in one_class:
        what = f"is {1 if positives[name] else 0} in all {known[name]} rows" if known[name] else f"is unknown in all {rows} rows"
        warnings.warn(f"split '{split}': label '{name}' {what}; AUC is not defined on it", stacklevel=2)
    rates = {name: count / known[name] if known[name] else None for name, count in positives.items()}
    entry = {"num_rows": rows, "label_rate": rates, "one_class": one_class, "shards": shards}
    if partial := [label.name for label in schema.labels if label.partial]:
        entry["label_known"] = {name: known[name] / rows for name in partial}
    return entry


def sync_folder(folder):
    """Asks the operating system to write a folder's entries (new and renamed files) to the disk."""
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _checked_split_name(split):
    if not isinstance(split, str) or not split or split.startswith(".") or any(c in split for c in '/\\:*?"<>|\0'):
        raise ValueError(f"split name {split!r} cannot name a folder: use letters, digits, '-' and '_'")
    return split


def _clear(split_folder):
    """Removes what a killed writer left; refuses a folder that holds shards."""
    shards = sorted(path.name for path in split_folder.glob("part-*.tfrecord"))
    if shards:
        raise FileExistsError(f"{split_folder} holds shards already ('{shards[0]}' first); remove it or write elsewhere")
    for path in split_folder.glob(f"part-*{_INCOMPLETE}"):
        path.unlink()


def _count_outcomes(split, label, values):
    """Returns how many ones and zeros there are; of a partial label the rest may be NaN."""
    ones = int(np.count_nonzero(values == 1))
    zeros = int(np.count_nonzero(values == 0))
    unknown = int(np.count_nonzero(np.isnan(values))) if label.partial else 0
    if ones + zeros + unknown != values.size:
        odd = values[(values != 0) & (values != 1) & ~(np.isnan(values) & label.partial)].ravel()
        raise ValueError(
            f"split '{split}': label '{label.name}' must be 0 or 1, but {odd.size} of {values.size} rows hold others, e.g. {odd[0]}"
        )
    return ones, zeros


class _ShardPlan:
    """Says after how many rows of the split each shard ends."""

    def __init__(self, num_shards, rows_per_shard, total_rows):
        for name, value in (("num_shards", num_shards), ("rows_per_shard", rows_per_shard)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if num_shards is not None and total_rows is None:
            raise ValueError("num_shards needs total_rows: shards hold consecutive rows; give total_rows, or rows_per_shard instead")
        if num_shards is None and rows_per_shard is None:
            raise ValueError("give num_shards (with total_rows) or rows_per_shard")
        self._rows_per_shard = rows_per_shard
        self._shards = None if num_shards is None else max(1, min(num_shards, total_rows))
        self._total = total_rows

    def end(self, shard):
        """Returns the number of rows up to the end of a shard, or None where it takes all the rest."""
        if self._shards is None:
            return (shard + 1) * self._rows_per_shard
        return None if shard + 1 >= self._shards else (shard + 1) * self._total // self._shards


class _Writer:
    """Distributes records over shards under temporary names, and renames the shards at the end."""

    def __init__(self, folder, plan):
        self.num_rows = 0
        self._folder = folder
        self._plan = plan
        self._shards = []  # closed ones: entries of the manifest, without names
        self._paths = []  # every file that was made
        self._file = None

    def write(self, records):
        """Appends records."""
        at = 0
        while at < len(records):
            end = self._plan.end(len(self._shards))
            if end is not None and self.num_rows == end:
                self._close()
                continue
            room = len(records) if end is None else end - self.num_rows
            part = records[at : at + min(room, _WRITE_ROWS)]
            if self._file is None:
                self._open()
            data = frame_records(part)
            self._call(self._file.write, data)
            self._checksum.update(data)
            self._entry["rows"] += len(part)
            self._entry["bytes"] += len(data)
            self.num_rows += len(part)
            at += len(part)

    def finish(self):
        """Closes the last shard, gives all shards their names and returns their entries."""
        if self._file is not None:
            self._close()
        count = len(self._shards)
        for i, entry in enumerate(self._shards):
            name = f"part-{i:05d}-of-{count:05d}.tfrecord"
            self._shards[i] = {"name": name, **entry}
            final = self._folder / name
            os.replace(self._paths[i], final)
            self._paths[i] = final
        sync_folder(self._folder)
        return self._shards

    def discard(self):
        """Removes every file that was made."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # closing writes what is buffered, which fails again on a full disk
                self._file.close()
        for path in self._paths:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _open(self):
        path = self._folder / f"part-{len(self._shards):05d}{_INCOMPLETE}"
        self._paths.append(path)
        self._file = self._call(open, path, "wb")
        self._checksum = hashlib.sha256()
        self._entry = {"rows": 0, "bytes": 0}

    def _close(self):
        self._call(self._file.flush)
        self._call(os.fsync, self._file.fileno())
        self._call(self._file.close)
        self._file = None
        self._shards.append({**self._entry, "sha256": self._checksum.hexdigest()})

    def _call(self, function, *args):
        """Calls a function that may fail for the file's sake, and names the file if it does."""
        try:
            return function(*args)
        except OSError as error:
            path = os.fspath(self._paths[-1])
            message = f"cannot write the prepared data ({error.strerror or error}); the unfinished split was removed"
            raise OSError(error.errno, message, path) from error
