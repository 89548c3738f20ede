"""Batches for training, evaluation and prediction from a prepared data set, by tf.data."""

import os
import warnings

import numpy as np
import tensorflow as tf

from keras_ctr.data.cached import Columns, cached_batches
from keras_ctr.data.example import example_kinds
from keras_ctr.data.framing import CorruptDataError
from keras_ctr.data.manifest import FORMAT, PreparedData
from keras_ctr.data.negatives import add_negatives
from keras_ctr.schema import META_GROUP, META_TIME, nearest

__all__ = ["CorruptDataWarning", "PreparedData", "make_dataset", "parse_examples"]

SHUFFLE_ROWS = 65_536
"""Rows among which `shuffle=True` draws the next one (serialized: about 1 kB each with six sequences of 50)."""
# Shards read at a time when shuffling, and rows taken from one before the next one's turn (fewer changes are faster).
_OPEN_SHARDS = 16
_BLOCK_ROWS = 16
_LOAD_ROWS = 8192


class CorruptDataWarning(UserWarning):
    """What `skip_corrupt=True` could not read.

    Attributes:
        num_dropped: Rows that were written and cannot be read.
        num_rows: Rows that were written.
    """

    def __init__(self, message, num_dropped, num_rows):
        super().__init__(message)
        self.num_dropped = num_dropped
        self.num_rows = num_rows


def make_dataset(
    data,
    split,
    *,
    batch_size,
    shuffle=False,
    seed=None,
    repeat=False,
    drop_remainder=False,
    features=None,
    labels=None,
    with_labels=True,
    negatives=(),
    cache=False,
    shard=None,
    verify=True,
    skip_corrupt=False,
    num_parallel_calls=None,
) -> tf.data.Dataset:
    """Returns the batches of one split: `({feature: tensor}, {label: (B, 1) float32})`, then weights where labels are partial.

    Fields are (B,) ids, float numerics (B,) float32, sequences (B, max_length) ids, oldest first and padded with 0 after the end; ids
    have the schema's `encoded_dtype`. `"meta/group"` and `"meta/time"`, (B,) int64, always come along where the schema names them.

    If one of the labels read is partial (`Label.partial`), a third element `{label: (B, 1) float32}` has the sample weight 1 where a row's
    outcome is known and 0 where it is not (the label is 0 there, and counts for nothing). Keras divides the weighted loss by all rows of
    the batch, so a label known in a tenth of the rows enters the total with a tenth of its mean; `loss_weights` or a loss with
    `reduction="mean_with_sample_weight"` gives it the weight of the others.

    The road: shards, interleaved when shuffling -> shuffled records -> batches of serialized records -> `tf.io.parse_example` on whole
    batches (several times faster than row by row) -> prefetch. Without `shuffle` rows come in the order of writing, always. With it,
    every pass over the dataset (every epoch) has another order; with a `seed` (and the same TensorFlow global seed) two runs have the
    same orders, pass by pass.

    `cache=True` parses the split once, now, and keeps its columns in memory: 4 bytes an id, a sequence at its full length (and twice that
    while it loads). Not the serialized records are kept, as parsing is the dear part, and not the parsed batches, as their rows would
    stay together for ever: rows are drawn from the columns by a permutation of the whole split, a new one every pass, which shuffles
    better than a buffer and costs a fraction of parsing. For a split that does not fit into memory leave `cache` off.

    Args:
        data: `PreparedData` or the path of a prepared data set.
        split: Name of the split.
        batch_size: Rows of a batch.
        shuffle: True draws every row from the next `SHUFFLE_ROWS` rows of the interleaved shards; an int sets that number.
        seed: Seed of the shuffling.
        repeat: Start again after the last batch, for ever.
        drop_remainder: Leave out the last batch if it is not full.
        features: Names of the features to read; None reads all. Reading fewer is faster.
        labels: Names of the labels to read; None reads all.
        with_labels: False gives the feature dict alone.
        negatives: Names of sequences, of a group all or none, or True for all that are read: batches also hold sampled negative events
            `<name>_negatives` `(B, max_length)`, drawn anew in every pass under `seed` (`add_negatives`). For training only: a model
            whose `optional_inputs` they are is evaluated without.
        cache: Keep the parsed columns in memory.
        shard: `(index, count)`: of `count` workers, read the part of worker `index`: whole shards where their number is a multiple of
            `count`, otherwise every `count`-th row of every shard. Parts differ by a few rows; a synchronous training loop must stop at
            the same step on all workers.
        verify: Compare the shards with their checksums first (once for a `PreparedData` object), which costs one reading of the files but
            names the damaged file and byte before any training is spent on it. False compares sizes only: damage within a file then
            ends the reading with TensorFlow's `DataLossError`, which names no file.
        skip_corrupt: Read what can be read of damaged, truncated and missing shards; what was dropped is counted in a
            `CorruptDataWarning`, `PreparedData.scan` tells where it was.
        num_parallel_calls: Threads for reading and for parsing; None lets tf.data choose.

    Returns:
        A `tf.data.Dataset` of known cardinality.

    Raises:
        KeyError: If there is no such split, feature or label, or `negatives` names what is no sequence read; with the nearest name.
        ValueError: If an argument is out of range, `negatives` names a part of a group, or the shards have a form that this release does
            not read.
        FileNotFoundError: If the data set or a shard is missing.
        CorruptDataError: If a shard is not what was written, or nothing of it can be read; names the file and the byte.

    Warns:
        CorruptDataWarning: If `skip_corrupt` dropped rows.
    """
    _check_arguments(batch_size, shuffle, shard)
    if not isinstance(data, PreparedData):
        data = PreparedData(data, check=not skip_corrupt)
    if data.manifest["format"] != FORMAT:
        raise ValueError(f"{data.path}: shards of the form '{data.manifest['format']}'; this release reads '{FORMAT}'")
    features = None if features is None else tuple(features)
    parse = _Parse(data.schema, features, labels if with_labels else (), with_labels)
    parallel = tf.data.AUTOTUNE if num_parallel_calls is None else num_parallel_calls
    files, take = _assign(data, split, shard)
    runs = _readable_runs(data, split, files) if skip_corrupt else _whole_files(data, files, verify)
    num_rows = sum(_count_taken(rows, take) for _, _, rows in runs)
    if cache:
        records = _records(runs, take, parallel).batch(_LOAD_ROWS)
        columns = Columns(records.map(parse, num_parallel_calls=parallel, deterministic=True), num_rows)
        options = {"shuffle": bool(shuffle), "seed": seed, "drop_remainder": drop_remainder, "num_parallel_calls": parallel}
        dataset = cached_batches(columns, batch_size, **options)
    else:
        records = _records(runs, take, parallel, shuffle=bool(shuffle), seed=seed)
        if shuffle:
            buffer = SHUFFLE_ROWS if shuffle is True else shuffle
            records = records.shuffle(min(buffer, max(1, num_rows)), seed=seed, reshuffle_each_iteration=True)
        batches = records.batch(batch_size, drop_remainder=drop_remainder)
        dataset = batches.map(parse, num_parallel_calls=parallel, deterministic=True)
    num_batches = num_rows // batch_size if drop_remainder else -(-num_rows // batch_size)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(num_batches))
    if negatives:  # before `repeat`, so that every pass draws its own; after the cache, whose rows know nothing of their batch
        read = data.schema if features is None else data.schema.select(features=features)
        names = None if negatives is True else negatives
        dataset = add_negatives(dataset, read, names, seed=seed, num_parallel_calls=num_parallel_calls)
    return (dataset.repeat() if repeat else dataset).prefetch(tf.data.AUTOTUNE)


def parse_examples(serialized, schema, *, features=None, labels=None):
    """Parses a batch of serialized `tf.train.Example`s of encoded rows; works in graphs.

    Args:
        serialized: (B,) string tensor.
        schema: Schema of the rows.
        features: Names of the features to parse; None parses all. Meta keys that the schema has always come along.
        labels: Names of the labels to parse; None parses all.

    Returns:
        `({name: tensor}, {label: (B, 1) float32})`, and sample weights where a label is partial, as `make_dataset`.

    Raises:
        KeyError: If a name is not in the schema, with the nearest one.
    """
    return _Parse(schema, features, labels, True)(serialized)


class _Parse:
    """Parses batches of serialized rows; the specification is made once."""

    def __init__(self, schema, features, labels, with_labels):
        kinds = example_kinds(schema)
        names = schema.feature_names if features is None else tuple(features)
        self._dtypes = {name: schema.encoded_dtype(name) for name in names}  # an unknown name is a KeyError with the nearest one
        self._lengths = {name: shape[0] for name in names if (shape := schema.encoded_shape(name))}
        self._labels = schema.label_names if labels is None else tuple(labels)
        self._with_labels = with_labels
        for name in self._labels:
            if name not in schema.label_names:
                raise KeyError(f"no label '{name}' in the schema{nearest(name, schema.label_names)}")
        self._spec = {}
        for name in (*names, *(key for key in (META_GROUP, META_TIME) if key in kinds)):
            if name in self._lengths:
                self._spec[name] = tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True)  # padded with 0 to the longest
            else:
                self._spec[name] = tf.io.FixedLenFeature([], kinds[name])
        self._spec.update({name: tf.io.FixedLenFeature([1], tf.float32) for name in self._labels})
        self._weighted = any(label.partial for label in schema.labels if label.name in self._labels)

    def __call__(self, serialized):
        parsed = tf.io.parse_example(serialized, self._spec)
        labels = {name: parsed.pop(name) for name in self._labels}  # (B, 1)
        for name, length in self._lengths.items():
            steps = parsed[name]  # (B, longest of the batch)
            parsed[name] = tf.ensure_shape(tf.pad(steps, [[0, 0], [0, length - tf.shape(steps)[1]]]), [None, length])
        for name, dtype in self._dtypes.items():
            parsed[name] = tf.cast(parsed[name], dtype)
        if not self._with_labels:
            return parsed
        if not self._weighted:
            return parsed, labels
        known = {name: tf.math.logical_not(tf.math.is_nan(values)) for name, values in labels.items()}  # (B, 1)
        outcomes = {name: tf.where(known[name], values, 0.0) for name, values in labels.items()}
        return parsed, outcomes, {name: tf.cast(mask, tf.float32) for name, mask in known.items()}


def _check_arguments(batch_size, shuffle, shard):
    for name, value in (("batch_size", batch_size), ("shuffle", shuffle)):
        if isinstance(value, (int, np.integer)) and (value >= 1 or value is False):
            continue
        raise ValueError(f"{name} must be an int of at least 1{' or a bool' if name == 'shuffle' else ''}, got {value!r}")
    if isinstance(batch_size, bool):
        raise ValueError(f"batch_size must be an int of at least 1, got {batch_size!r}")
    if shard is not None:
        if len(shard) != 2 or not 0 <= shard[0] < shard[1]:
            raise ValueError(f"shard must be (index, count) with 0 <= index < count, got {shard!r}")


def _assign(data, split, shard):
    """Returns a worker's files [(path, manifest entry)], and (index, count) of the rows it takes of each, or None for all."""
    files = data.shards(split)
    if shard is None:
        return files, None
    index, count = shard
    return (files[index::count], None) if len(files) % count == 0 else (files, (index, count))


def _count_taken(rows, take):
    """Returns how many of a run's rows a worker takes."""
    return rows if take is None else len(range(take[0], rows, take[1]))


def _whole_files(data, files, verify):
    """Returns the runs (path, 0, rows) of files that are what was written."""
    data.verify_files(files, contents=verify)
    return [(os.fspath(path), 0, entry["rows"]) for path, entry in files]


def _readable_runs(data, split, files):
    """Returns runs (path, first byte, rows) of whole records, and warns of what lies between them."""
    scans = data.scan(split, files)
    written = sum(entry["rows"] for _, entry in files)
    dropped, damaged = 0, []
    for scan, (path, entry) in zip(scans, files, strict=True):
        lost = max(0, entry["rows"] - scan.num_records)
        if lost or scan.damages:
            places = [f"byte {damage.offset}: {damage.reason}" for damage in scan.damages[:3]]
            places += [f"{len(scan.damages) - 3} more places"] if len(scan.damages) > 3 else []
            what = "; ".join(places) or ("it ends early" if path.is_file() else "it is missing")
            damaged.append(f"{path}: {lost} of {entry['rows']} rows ({what})")
            dropped += lost
    runs = [(scan.path, offset, count) for scan in scans for offset, count in scan.segments]
    if not runs:
        raise CorruptDataError(f"split '{split}': none of {written} rows can be read; {', '.join(damaged)}", data.path)
    if damaged:
        message = f"split '{split}': {dropped} of {written} rows cannot be read and are skipped; {', '.join(damaged)}"
        warnings.warn(CorruptDataWarning(message, dropped, written), stacklevel=3)
    return runs


def _records(runs, take, parallel, *, shuffle=False, seed=None):
    """Returns the serialized rows of runs: one run after the other, or with `shuffle` from several runs of a random order in turn."""
    paths, offsets, counts = (list(column) for column in zip(*runs, strict=True))
    whole_files = not any(offsets) and len(set(paths)) == len(paths)

    def read(path, offset, count):
        if whole_files:
            records = tf.data.TFRecordDataset(path, buffer_size=1 << 20)
        else:  # only the op itself can begin within a file
            variant = tf.raw_ops.TFRecordDatasetV2(
                filenames=path[None], compression_type="", buffer_size=1 << 20, byte_offsets=offset[None]
            )
            records = tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))
        records = records.take(count)
        return records if take is None else records.shard(take[1], take[0])

    files = tf.data.Dataset.from_tensor_slices((paths, np.array(offsets, np.int64), np.array(counts, np.int64)))
    if not shuffle:
        return files.flat_map(read)
    files = files.shuffle(len(paths), seed=seed, reshuffle_each_iteration=True)
    cycle = min(len(paths), _OPEN_SHARDS)
    return files.interleave(read, cycle_length=cycle, block_length=_BLOCK_ROWS, num_parallel_calls=parallel, deterministic=True)
