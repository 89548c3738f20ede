"""Encoded rows as `tf.train.Example` bytes, many rows at a time: the wire format written by NumPy, no protobuf object a row."""

import numpy as np

from keras_ctr.schema import META_GROUP, META_TIME, nearest

# Rows handled at once: enough to spread NumPy's cost a call, few enough for the byte matrix to stay in the processor's cache.
_CHUNK = 2048
# Protobuf tags, field number * 8 + wire type 2 (size, then bytes). Feature: field 2 is the float_list, field 3 the int64_list.
_FIELD_1, _FIELD_2, _FIELD_3 = b"\x0a", b"\x12", b"\x1a"


def example_kinds(schema) -> dict[str, str]:
    """Returns what an encoded row of the schema holds, by key: `"int64"` (Int64List) or `"float32"` (FloatList).

    Features first, then `"meta/group"` and `"meta/time"` where the schema names them, then the labels, each in schema order.
    """
    kinds = {name: "float32" if schema.encoded_dtype(name) == "float32" else "int64" for name in schema.feature_names}
    kinds.update({key: "int64" for key, column in ((META_GROUP, schema.group), (META_TIME, schema.time)) if column})
    kinds.update(dict.fromkeys(schema.label_names, "float32"))
    return kinds


def serialize_examples(batch, schema) -> list[bytes]:
    """Turns encoded rows into serialized `tf.train.Example`s.

    The bytes are as protobuf itself would write them (shortest varints, packed lists), with the keys sorted, so equal rows have equal
    bytes. Ids, sequences and meta keys become an Int64List, float numerics and labels a FloatList of one value.
    The zeros after a sequence's last event are left out; an empty sequence is an empty Int64List.

    Args:
        batch: `EncodedBatch`, or anything with `features` ({key: (n,) or (n, max_length) array}) and `labels` ({name: (n, 1) array}).
        schema: Schema of the rows.

    Returns:
        n byte strings, in row order.

    Raises:
        ValueError: If a key is missing or unknown, or an array has the wrong type or shape; the message names it.
    """
    columns = _checked_columns(batch, schema)
    rows = len(next(iter(columns.values())))
    examples = []
    for start in range(0, rows, _CHUNK):
        examples += _serialize({name: values[start : start + _CHUNK] for name, values in columns.items()})
    return examples


def _checked_columns(batch, schema):
    """Returns `{key: array}` of features, meta keys and labels, sorted by key, after comparing them with the schema."""
    kinds = example_kinds(schema)
    given = {**batch.features, **batch.labels}
    missing = [name for name in kinds if name not in given]
    unknown = [name for name in given if name not in kinds]
    if missing or unknown:
        parts = [f"'{name}' is missing{nearest(name, unknown)}" for name in missing]
        parts += [f"'{name}' is not in the schema{nearest(name, kinds)}" for name in unknown]
        raise ValueError(f"encoded batch does not fit the schema: {'; '.join(parts)}")
    columns, rows = {}, None
    for name in sorted(kinds, key=lambda key: key.encode()):
        values = np.asarray(given[name])
        rows = len(values) if rows is None and values.ndim else rows
        if name in schema.label_names:
            shape = (rows, 1)
        else:
            shape = (rows, *(schema.encoded_shape(name) if name in schema else ()))
        fits = values.dtype.kind == "f" if kinds[name] == "float32" else values.dtype.kind in "iub"
        if values.shape != shape or not fits:
            raise ValueError(f"encoded batch: '{name}' must be {kinds[name]} of shape {shape}, got {values.dtype} of shape {values.shape}")
        columns[name] = values
    return columns


def _varint(values):
    """Returns the base-128 bytes of integers, (..., w) uint8 with w the longest, and their sizes (...) uint8."""
    if values.size and values.min() < 0:
        values = values.astype(np.int64).view(np.uint64)  # protobuf writes a negative int64 as its two's complement, 10 bytes
    top = int(values.max()) if values.size else 0
    values = values.astype(np.uint32 if top < 2**32 else np.uint64, copy=False)
    width = max(1, -(-top.bit_length() // 7))
    out = np.empty((*values.shape, width), np.uint8)
    sizes = np.ones(values.shape, np.uint8)
    for j in range(width - 1):
        rest = values >> values.dtype.type(7 * j)
        more = rest >= 128
        sizes += more
        out[..., j] = rest
        out[..., j] &= 127
        out[..., j] |= more.view(np.uint8) << 7
    out[..., -1] = values >> values.dtype.type(7 * (width - 1))
    return out, sizes


def _within(sizes, width):
    """Returns the mask of the first `sizes` bytes of `width`: (..., width) bool."""
    mask = np.empty((*sizes.shape, width), bool)
    for j in range(width):  # faster than one comparison with a short last axis
        np.greater(sizes, j, out=mask[..., j])
    return mask


def _delimited(size):
    """Returns the varint of the sizes (n,) of a message, and the bytes that tag, varint and message take together (n,)."""
    encoded = _varint(size)
    return encoded, size + encoded[1] + 1


def _payload(values):
    """Returns one column's packed list: bytes (n, w), mask of those that count or None for all, and sizes (n,) int64."""
    rows = len(values)
    if values.dtype.kind == "f":
        data = np.ascontiguousarray(values, "<f4").view(np.uint8).reshape(rows, -1)
        return data, None, np.full(rows, data.shape[1])
    if values.ndim == 2:
        steps = values.shape[1]
        events = values != 0
        lengths = np.where(events.any(axis=1), steps - events[:, ::-1].argmax(axis=1), 0)  # up to the last event
    data, sizes = _varint(values)
    if values.ndim == 2:
        sizes *= np.arange(steps) < lengths[:, None]  # (n, T): no byte of a step after the last event counts
    mask = _within(sizes, data.shape[-1]).reshape(rows, -1)
    return data.reshape(rows, -1), mask, sizes.reshape(rows, -1).sum(axis=1, dtype=np.int64)


class _Row:
    """Columns of bytes that stand side by side in every row, from the left to the right."""

    def __init__(self, rows):
        self.rows = rows
        self.columns = []  # (bytes (n, w) or (w,), mask (n, w) or (n, 1) of those that count, or None for all)

    def add(self, data, mask=None):
        """Adds bytes: the same for every row or (n, w), those that the mask leaves."""
        self.columns.append((np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data, mask))

    def add_varint(self, encoded, where=None):
        """Adds what `_varint` returned, to every row or to the rows of a bool array (n, 1)."""
        data, sizes = encoded
        mask = None if data.shape[1] == 1 else _within(sizes, data.shape[1])
        if where is not None:
            mask = where if mask is None else mask & where
        self.add(data, mask)

    def join(self):
        """Returns the bytes of all rows one after the other."""
        width = sum(data.shape[-1] for data, _ in self.columns)
        out = np.empty((self.rows, width), np.uint8)
        keep = np.ones((self.rows, width), bool)
        at = 0
        for data, mask in self.columns:
            end = at + data.shape[-1]
            out[:, at:end] = data
            if mask is not None:
                keep[:, at:end] = mask
            at = end
        return out[keep].tobytes()


def _serialize(columns):
    """Returns the serialized Examples of a chunk of rows; `columns` are sorted by key.

    Message by message from the inside, as each begins with the size of what is in it:
    Example{features} > Features{one map entry a key} > entry{key, Feature} > Feature{list} > list{packed values}.
    """
    rows = len(next(iter(columns.values())))
    body, body_size = _Row(rows), np.zeros(rows, np.int64)
    for name, values in columns.items():
        key = name.encode()
        key_part = _FIELD_1 + _varint(np.array([len(key)]))[0].tobytes() + key + _FIELD_2
        data, mask, size = _payload(values)
        values_varint, list_size = _delimited(size)
        filled = None
        if not size.all():  # an empty packed list has neither tag nor size
            filled = (size > 0)[:, None]
            list_size *= filled[:, 0]
        list_varint, feature_size = _delimited(list_size)
        feature_varint, value_size = _delimited(feature_size)
        entry_varint, entry_size = _delimited(value_size + (len(key_part) - 1))  # key_part ends with the value's tag
        body_size += entry_size
        body.add(_FIELD_1)
        body.add_varint(entry_varint)
        body.add(key_part)
        body.add_varint(feature_varint)
        body.add(_FIELD_2 if values.dtype.kind == "f" else _FIELD_3)
        body.add_varint(list_varint)
        body.add(_FIELD_1, filled)
        body.add_varint(values_varint, filled)
        body.add(data, mask)
    example = _Row(rows)
    example.add(_FIELD_1)
    varint, size = _delimited(body_size)
    example.add_varint(varint)
    example.columns += body.columns
    buffer = example.join()
    ends = np.cumsum(size).tolist()
    return [buffer[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
