"""Small schemas with distinct prime sizes, and random encoded rows for them."""

import numpy as np

from keras_ctr import Categorical, Numeric, Schema, Sequence
from keras_ctr.schema import META_GROUP


def fields_schema(labels=("click",)):
    """Categorical fields and a numeric, no sequence."""
    return Schema(
        features=[
            Categorical("user", 101),
            Categorical("item", 53),
            Categorical("brand", 11, dtype="int64"),
            Numeric("price", transform="none"),
            Numeric("age", transform="log_square", num_bins=7),
        ],
        labels=labels,
        group="user",
    )


def full_schema(labels=("click",)):
    """Fields, numerics and two groups of sequences of different length, one with two attributes."""
    return Schema(
        features=[
            *fields_schema().features,
            Sequence("clicked_item", max_length=7, table="item", target="item", group="clicks"),
            Sequence("clicked_brand", max_length=7, table="brand", target="brand", group="clicks"),
            Sequence("liked_item", max_length=5, table="item", target="item", group="likes"),
        ],
        labels=labels,
        group="user",
    )


def random_rows(schema, rows, seed=0):
    """Encoded features and labels: histories of every length from empty to full, some padded in front."""
    rng = np.random.default_rng(seed)
    x = {}
    lengths = {}
    for feature in schema.features:
        name = feature.name
        dtype = schema.encoded_dtype(name)
        if dtype == "float32":
            x[name] = rng.normal(size=rows).astype("float32")
            continue
        size = schema.table_of(feature).vocabulary_size
        shape = schema.encoded_shape(name)
        ids = rng.integers(1, size, (rows, *shape)).astype(dtype)
        if shape:
            count = lengths.setdefault(feature.group, rng.integers(0, shape[0] + 1, rows))
            ids[np.arange(shape[0])[None, :] >= count[:, None]] = 0
        x[name] = ids
    x[META_GROUP] = rng.integers(0, 13, rows)
    y = {label: (rng.random((rows, 1)) < 0.4).astype("float32") for label in schema.label_names}
    return x, y
