"""A small prepared data set made of random encoded rows, without the steps before encoding."""

import numpy as np

from keras_ctr.data.encode import EncodedBatch
from keras_ctr.data.manifest import PreparedData, write_manifest
from keras_ctr.data.tfrecord import write_split
from keras_ctr.schema import META_TIME
from tests.sample import full_schema, random_rows


def sample_schema():
    """Fields, numerics, sequences, two labels, group and time."""
    return full_schema(labels=("click", "like")).replace(time="when")


def encoded(rows, seed=0):
    """Random encoded rows of `sample_schema`; `meta/time` is the number of the row."""
    features, labels = random_rows(sample_schema(), rows, seed)
    return EncodedBatch({**features, META_TIME: np.arange(rows) - 3}, labels)


def pieces(batch, size):
    """The rows of a batch in batches of `size`."""
    rows = batch.num_rows
    for at in range(0, rows, size):
        part = slice(at, at + size)
        yield EncodedBatch({k: v[part] for k, v in batch.features.items()}, {k: v[part] for k, v in batch.labels.items()})


def write_data(folder, *, rows=211, num_shards=5, splits=("train",)):
    """Writes a prepared data set of random rows and opens it; the rows of split i are `encoded(rows, i)`."""
    schema = sample_schema()
    folder.mkdir(parents=True, exist_ok=True)
    schema.save(folder / "schema.json")
    entries = {}
    for i, split in enumerate(splits):
        batches = pieces(encoded(rows, i), 29)
        entries[split] = write_split(folder, split, batches, schema, num_shards=num_shards, total_rows=rows)
    write_manifest(folder, entries, reports={splits[0]: {"unknown": np.int64(3)}})
    return PreparedData(folder)
