"""Checks of requests inside the exported graph: what does not fit is an error that names the feature, or counts as missing."""

import tensorflow as tf

from keras_ctr.schema import UNKNOWN_ID, Numeric
from keras_ctr.serving.preprocessing import MISSING_INT, MISSING_STRING


def check_request(raw, schema, *, single=()):
    """Returns raw features of which the graph has checked that they belong together.

    Without this a feature with one row would be broadcast over the others, and other differences would end in an error of some inner
    operation.

    Args:
        raw: `{feature: (B,) or (B, T)}`.
        schema: The schema.
        single: Names of the features that must have exactly one row; all others must have one number of rows.
    """
    checks = [_all_equal([n for n in raw if n not in single], raw, 0, "rows", "every feature of a request has one value a row")]
    if single:
        checks.append(_all_one(list(single), raw))
    for group, members in schema.sequence_groups.items():
        if len(members) > 1:
            names, why = [seq.name for seq in members], f"sequences of the group '{group}' are attributes of the same events"
            checks.append(_all_equal(names, raw, 1, "steps", why))
    names = list(raw)
    with tf.control_dependencies([check for check in checks if check is not None]):
        return dict(zip(names, tf.identity_n([raw[name] for name in names]), strict=True))


def _sizes(names, raw, axis):
    return tf.concat([tf.shape(raw[name])[axis : axis + 1] for name in names], axis=0)


def _all_equal(names, raw, axis, what, why):
    if len(names) < 2:
        return None
    sizes = _sizes(names, raw, axis)
    other = tf.argmax(tf.cast(tf.not_equal(sizes, sizes[0]), tf.int32), output_type=tf.int32)  # the first that differs
    data = [
        f"feature '{names[0]}' has this many {what}:",
        sizes[0],
        "and this feature:",
        tf.gather(names, other),
        "has:",
        sizes[other],
        why,
    ]
    return tf.debugging.Assert(tf.reduce_all(tf.equal(sizes, sizes[0])), data, name=f"check_{what}")


def _all_one(names, raw):
    sizes = _sizes(names, raw, 0)
    other = tf.argmax(tf.cast(tf.not_equal(sizes, 1), tf.int32), output_type=tf.int32)
    data = ["a ranking request holds one row of the user's features, but this one:", tf.gather(names, other), "has:", sizes[other]]
    return tf.debugging.Assert(tf.reduce_all(tf.equal(sizes, 1)), data, name="check_user")


def parse_examples(preprocessing, schema, serialized):
    """Returns the raw features of serialized tf.Examples `(B,)`: `{feature: (B,)}`, sequences `(B, T)`, T the longest of their group.

    An Example that lacks one attribute of a group of sequences lacks it at every step; attributes of different lengths are an error
    that names them.
    """
    parsed = tf.io.parse_example(serialized, preprocessing.example_specs())
    missing = {tf.string: MISSING_STRING, tf.int64: MISSING_INT}
    for group, members in schema.sequence_groups.items():
        ragged = {seq.name: tf.RaggedTensor.from_sparse(parsed[seq.name]) for seq in members}
        lengths = tf.stack([value.row_lengths() for value in ragged.values()])  # (M, B)
        longest = tf.reduce_max(lengths, axis=0)  # (B,)
        fits = tf.reduce_all(tf.logical_or(tf.equal(lengths, longest), tf.equal(lengths, 0)), axis=1)  # (M,)
        names = [seq.name for seq in members]
        data = [
            f"sequences {', '.join(names)} of the group '{group}' are attributes of the same events, but an Example has fewer values of:",
            tf.gather(names, tf.argmin(tf.cast(fits, tf.int32), output_type=tf.int32)),
        ]
        steps = tf.reduce_max(tf.pad(longest, [[0, 1]]))  # 0 of an empty batch
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(fits), data, name="check_steps")]):
            for name, value in ragged.items():
                parsed[name] = value.to_tensor(
                    default_value=missing[value.dtype], shape=tf.stack([tf.constant(-1, tf.int64), steps])
                )  # (B, T)
    return parsed


def check_encoded(encoded, schema):
    """Returns encoded features as the model may see them: an id outside its table is unknown (1), a number that is not finite is 0.

    In the fused table of an embedding such an id would read another feature's row. There is no assertion here, which other runtimes'
    converters may refuse: a feature of another shape than the first one's fails in an operation named `shape_of_<feature>`.
    """
    first = next(iter(encoded.values()))
    rows, out = tf.shape(first)[0], {}
    for name, value in encoded.items():
        shape = tf.stack([rows, *schema.encoded_shape(name)])
        out[name] = tf.reshape(value, shape, name=f"shape_of_{_scope(name)}")
    for dtype in sorted({value.dtype.name for value in out.values()}):
        for rank in (1, 2):
            names = [n for n, v in out.items() if v.dtype.name == dtype and len(v.shape) == rank]
            if not names:
                continue
            block = tf.stack([out[n] for n in names], axis=1) if rank == 1 else tf.concat([out[n] for n in names], axis=1)
            if block.dtype.is_floating:
                block = tf.where(tf.math.is_finite(block), block, tf.zeros_like(block))
            else:
                sizes = [schema[n].max_length if rank == 2 else 1 for n in names]
                limits = tf.repeat(tf.constant([_rows(schema, n) for n in names], block.dtype), sizes)
                inside = tf.logical_and(block >= 0, block < limits)
                block = tf.where(inside, block, tf.constant(UNKNOWN_ID, block.dtype))
            parts = tf.unstack(block, axis=1) if rank == 1 else tf.split(block, [schema[n].max_length for n in names], axis=1)
            out.update(zip(names, parts, strict=True))
    return out


def _rows(schema, name):
    feature = schema[name]
    return feature.vocabulary_size if isinstance(feature, Numeric) else schema.table_of(feature).vocabulary_size


def _scope(name):
    """Returns a name that TensorFlow takes for an operation; other characters become `_`."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "_" for c in name)
