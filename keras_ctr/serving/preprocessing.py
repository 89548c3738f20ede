"""Raw features to ids inside the TensorFlow graph: the serving twin of `keras_ctr.data.Encoder`."""

import os

import numpy as np
import tensorflow as tf

from keras_ctr.data.transforms import log_square_boundaries, reciprocal
from keras_ctr.schema import FIRST_ID, PADDING_ID, UNKNOWN_ID, Categorical, Numeric, SchemaError

MISSING_STRING = b""
"""Raw value of a missing string, and of a padded step of a string sequence."""
MISSING_INT = -1
"""Raw value of a missing integer, and of a padded step of an integer sequence."""

_TF_DTYPES = {"string": tf.string, "int64": tf.int64, "float32": tf.float32}


class RawPreprocessing(tf.Module):
    """Maps a dict of raw features to the encoded features that a model takes, with the same ids as `keras_ctr.data.Encoder`.

    Fields: `(B,)` strings or int64 -> ids by a hash table read from the vocabulary file (an asset of the SavedModel); a value outside
    the vocabulary, `""` and, unless the vocabulary holds it, -1 give id 1. Tables without a vocabulary take ids as they are; an id
    outside [0, vocabulary_size) gives 1.
    Tables with `hash_buckets` hash in the graph: no file, and any value but `""` and -1 has the id of its bucket.
    Numerics: `(B,)` float32; NaN and infinity are missing.
    Sequences: `(B, T)` for any T >= 0. A step is an event unless every attribute of its group is missing (`""` or -1), wherever it
    stands; the newest `max_length` events are kept, oldest first, and padded with 0 after the end.

    Args:
        schema: A fitted `Schema`.
        vocabulary_files: `{table: path}` of one-value-a-line files for the tables that have a vocabulary.

    Raises:
        SchemaError: If an integer sequence's vocabulary holds -1, which pads integer sequences, or a hashed table has a file.
        FileNotFoundError: If a vocabulary file does not exist.
    """

    def __init__(self, schema, vocabulary_files):
        super().__init__(name="raw_preprocessing")
        schema.check_fitted()
        schema.check_vocabularies(vocabulary_files)
        self._schema = schema
        self.hash_tables = {}
        for name, table in schema.tables.items():
            if name not in vocabulary_files:
                continue
            path = os.fspath(vocabulary_files[name])
            if not os.path.exists(path):
                raise FileNotFoundError(f"table '{name}': there is no vocabulary file {path}")
            initializer = tf.lookup.TextFileInitializer(
                path,
                key_dtype=_TF_DTYPES[table.dtype],
                key_index=tf.lookup.TextFileIndex.WHOLE_LINE,
                value_dtype=tf.int64,
                value_index=tf.lookup.TextFileIndex.LINE_NUMBER,
            )
            # The first line has the id 2, so the default -1 becomes the unknown id 1 by the same addition.
            self.hash_tables[name] = tf.lookup.StaticHashTable(initializer, default_value=UNKNOWN_ID - FIRST_ID)
        self._check_padding()

    def _check_padding(self):
        for seq in self._schema.sequences:
            table = self.hash_tables.get(self._schema.table_of(seq).name)
            if table is not None and table.key_dtype == tf.int64 and int(table.lookup(tf.constant(MISSING_INT, tf.int64))) >= 0:
                raise SchemaError(
                    f"Sequence '{seq.name}': its vocabulary holds {MISSING_INT}, which pads integer sequences of raw features; "
                    "shift the raw ids or make them strings"
                )

    def raw_specs(self):
        """Returns `{feature: tf.TensorSpec}` of the raw features: `(None,)`, or `(None, None)` for sequences."""
        specs = {}
        for name in self._schema.feature_names:
            shape = (None, None) if self._schema.encoded_shape(name) else (None,)
            specs[name] = tf.TensorSpec(shape, _TF_DTYPES[self._schema.raw_dtype(name)], name=name)
        return specs

    def example_specs(self):
        """Returns the `tf.io.parse_example` specification of raw features; a feature that an Example lacks is missing."""
        missing = {"string": MISSING_STRING, "int64": MISSING_INT, "float32": float("nan")}
        specs = {}
        for name in self._schema.feature_names:
            dtype = self._schema.raw_dtype(name)
            if self._schema.encoded_shape(name):
                specs[name] = tf.io.VarLenFeature(_TF_DTYPES[dtype])
            else:
                specs[name] = tf.io.FixedLenFeature([], _TF_DTYPES[dtype], default_value=missing[dtype])
        return specs

    def parse_examples(self, serialized):
        """Returns the raw features of serialized tf.Examples `(B,)`; sequences become `(B, T)`, T the longest of the batch."""
        parsed = tf.io.parse_example(serialized, self.example_specs())
        missing = {tf.string: MISSING_STRING, tf.int64: MISSING_INT}
        return {
            name: tf.sparse.to_dense(value, default_value=missing[value.dtype]) if isinstance(value, tf.SparseTensor) else value
            for name, value in parsed.items()
        }

    def __call__(self, raw):
        """Returns the encoded features `{feature: ids or numbers}` of a dict of raw features."""
        schema, encoded = self._schema, {}
        for feature in schema.features:
            if isinstance(feature, Categorical):
                encoded[feature.name] = self._cast(feature.name, self._ids(feature, raw[feature.name]))
            elif isinstance(feature, Numeric):
                encoded[feature.name] = self._cast(feature.name, transform_numeric(feature, raw[feature.name]))
        for members in schema.sequence_groups.values():
            valid = tf.zeros_like(raw[members[0].name], dtype=tf.bool)
            for seq in members:
                valid = tf.logical_or(valid, self._present(seq, raw[seq.name]))  # (B, T)
            for seq in members:
                events = tf.ragged.boolean_mask(self._ids(seq, raw[seq.name]), valid)[:, -seq.max_length :]
                dense = events.to_tensor(default_value=PADDING_ID, shape=[None, seq.max_length])  # (B, max_length)
                encoded[seq.name] = self._cast(seq.name, dense)
        return encoded

    def _cast(self, name, value):
        return tf.cast(value, self._schema.encoded_dtype(name))

    def _present(self, feature, value):
        if value.dtype == tf.string:
            return tf.not_equal(value, MISSING_STRING)
        table = self._schema.table_of(feature)
        # Ids that are given as they are pad with 0 as encoded features do; raw values pad with -1.
        holds_ids = table.name not in self.hash_tables and table.hash_buckets is None
        return value > PADDING_ID if holds_ids else tf.not_equal(value, MISSING_INT)

    def _ids(self, feature, value):
        table = self._schema.table_of(feature)
        if table.name in self.hash_tables:
            return self.hash_tables[table.name].lookup(value) + FIRST_ID
        if table.hash_buckets is not None:
            is_text = value.dtype == tf.string
            missing = tf.equal(value, MISSING_STRING if is_text else MISSING_INT)
            bucket = tf.strings.to_hash_bucket_fast(value if is_text else tf.strings.as_string(value), table.hash_buckets)
            return tf.where(missing, tf.constant(UNKNOWN_ID, tf.int64), bucket + FIRST_ID)
        inside = tf.logical_and(value >= 0, value < table.vocabulary_size)
        return tf.where(inside, value, tf.constant(UNKNOWN_ID, value.dtype))


def transform_numeric(feature, value):
    """Applies a `Numeric` feature's transform to raw float32 values `(B,)`, in the operation order of `keras_ctr.data.transforms`."""
    finite = tf.math.is_finite(value)
    x = tf.where(finite, value, 0.0)
    if feature.is_binned:
        boundaries = log_square_boundaries(feature.num_bins)
        bins = tf.searchsorted(tf.constant(boundaries), tf.abs(x), side="right", out_type=tf.int64)
        return tf.where(finite, bins + FIRST_ID, tf.constant(UNKNOWN_ID, tf.int64))
    if feature.transform.startswith("log1p"):
        # The logarithm is taken in float64 and rounded once, as offline: float32 logarithms differ between libraries.
        x = tf.sign(x) * tf.cast(tf.math.log1p(tf.cast(tf.abs(x), tf.float64)), tf.float32)
    if feature.needs_statistics:
        x = (x - np.float32(feature.mean)) * reciprocal(feature.std)
    return tf.where(finite, x, 0.0)
