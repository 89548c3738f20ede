"""Raw rows as requests and as tf.Examples, and encoded rows turned back into raw ones."""

import numpy as np
import tensorflow as tf

from keras_ctr.data.arrow import pa
from keras_ctr.schema import FIRST_ID, PADDING_ID, SchemaError, Sequence, nearest
from keras_ctr.serving.preprocessing import MISSING_INT, MISSING_STRING

MISSING = {"string": MISSING_STRING, "int64": MISSING_INT, "float32": float("nan")}
"""Raw value that stands for a missing one, by type."""


def as_table(rows, schema, limit):
    """Returns at most `limit` raw rows as an Arrow table of the schema's features.

    Args:
        rows: Arrow table or record batch, or `{column: list}`; other columns are left out.
        schema: The schema.
        limit: Most rows.

    Raises:
        SchemaError: If a feature's column is missing, or there is no row.
    """
    present = list(rows) if isinstance(rows, dict) else rows.schema.names
    for name in schema.feature_names:
        if name not in present:
            raise SchemaError(f"rows lack the column '{name}' of the schema{nearest(name, present)}")
    columns = {name: pa.array(rows[name][:limit]) if isinstance(rows, dict) else rows.column(name) for name in schema.feature_names}
    table = pa.table(columns).slice(0, limit)
    if not table.num_rows:
        raise SchemaError("rows are empty: give at least one raw row")
    return table


def as_request(table, schema):
    """Returns raw rows as a request holds them: `{feature: (n,) or (n, T) array}`, strings as bytes, sequences padded at the end."""
    request = {}
    for name in schema.feature_names:
        kind = schema.raw_dtype(name)
        values = _values(table, schema, name)
        dtype = object if kind == "string" else kind
        if schema.encoded_shape(name):
            array = np.full((len(values), max(map(len, values))), MISSING[kind], dtype)
            for row, events in zip(array, values, strict=True):
                row[: len(events)] = events
        else:
            array = np.empty(len(values), dtype)
            array[:] = values
        request[name] = array
    return request


def as_examples(table, schema):
    """Returns raw rows as serialized tf.Examples, `(n,)` bytes; what is missing is left out."""
    columns = {name: _values(table, schema, name) for name in schema.feature_names}
    rows = np.empty(table.num_rows, object)
    for index in range(table.num_rows):
        features = {}
        for name, values in columns.items():
            kind = schema.raw_dtype(name)
            value = values[index] if schema.encoded_shape(name) else [values[index]]
            if not schema.encoded_shape(name) and (value[0] == MISSING[kind] or value[0] != value[0]):
                continue
            if kind == "string":
                features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
            elif kind == "int64":
                features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=value))
            else:
                features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=value))
        rows[index] = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)
    return rows


def _values(table, schema, name):
    """Returns a column as a list of values, or of lists of values, without None."""
    kind = schema.raw_dtype(name)
    own = {"string": lambda v: v if isinstance(v, bytes) else str(v).encode(), "int64": int, "float32": float}[kind]

    def value(v):
        return MISSING[kind] if v is None else own(v)

    values = table[name].to_pylist()
    return [[value(v) for v in row or ()] for row in values] if schema.encoded_shape(name) else [value(v) for v in values]


def from_encoded(features, schema, vocabularies):
    """Returns raw rows `{feature: list}` that encode to given encoded ones, as far as ids tell: for rows of a prepared data set.

    Ids become the values of the vocabulary and transforms of numbers are undone. Not given back: unknown values and those of hashed
    tables, which become missing, and which of the numbers 0 were missing.

    Args:
        features: `{feature: (n,) or (n, T) array}` of encoded features.
        schema: The fitted schema.
        vocabularies: `{table: keras_ctr.data.Vocabulary}`.
    """
    rows = {}
    for feature in schema.features:
        array = np.asarray(features[feature.name])
        if schema.raw_dtype(feature.name) == "float32":
            rows[feature.name] = _numbers(feature, array).tolist()
            continue
        value = _decoder(schema.table_of(feature), vocabularies)
        if isinstance(feature, Sequence):
            members = schema.sequence_groups[feature.group]
            valid = np.any([np.asarray(features[seq.name]) != PADDING_ID for seq in members], axis=0)
            rows[feature.name] = [[value(i) for i in ids[mask]] for ids, mask in zip(array, valid, strict=True)]
        else:
            rows[feature.name] = [value(i) for i in array]
    return rows


def _decoder(table, vocabularies):
    missing = "" if table.dtype == "string" else MISSING_INT
    if table.hash_buckets is not None:
        return lambda i: missing
    if table.name not in vocabularies:
        return int
    values = vocabularies[table.name].to_list()
    return lambda i: values[int(i) - FIRST_ID] if i >= FIRST_ID else missing


def _numbers(feature, x):
    if feature.is_binned:  # the middle of the bin's exponents
        return np.where(x >= FIRST_ID, np.sqrt(np.expm1(np.maximum(x - FIRST_ID, 0) + 0.5)), np.nan).astype("float32")
    if feature.needs_statistics:
        x = x * feature.std + feature.mean
    return np.sign(x) * np.expm1(np.abs(x)) if feature.transform.startswith("log1p") else x
