"""Hashes of Arrow strings and integers, the same on every machine and in every process."""

import numpy as np

from keras_ctr.data.arrow import pa

__all__ = ["buckets", "hash64", "string_keys"]

_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64
_CHUNK_BYTES = 1 << 22
_powers = {}


def _power_table(base: int, length: int) -> np.ndarray:
    """Returns base^0 ... base^(length - 1) modulo 2^64, kept between calls."""
    table = _powers.get(base)
    if table is None or len(table) < length:
        table = np.full(max(length, 1 << 16), base, np.uint64)
        table[0] = 1
        np.multiply.accumulate(table, out=table)
        _powers[base] = table
    return table[:length]


def string_keys(array) -> np.ndarray:
    """Returns a 64-bit key of each string: the polynomial sum_j (byte_j + 1) base^j modulo 2^64.

    Two different strings have the same key with a chance of about 2^-64, so a caller that must be right compares the strings of equal keys.
    All strings are hashed at once: a running sum over all bytes, its difference between the ends of a string, divided by base^start.

    Args:
        array: Arrow string or large string array without nulls, (n,).

    Returns:
        (n,) uint64.
    """
    array = array.cast(pa.large_string())
    if len(array) == 0:
        return np.zeros(0, np.uint64)
    _, offsets, data = array.buffers()
    offsets = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    keys = np.empty(len(array), np.uint64)
    first = 0
    while first < len(array):  # a chunk of strings at a time bounds the memory of the running sums
        last = max(int(np.searchsorted(offsets, offsets[first] + _CHUNK_BYTES, side="right")) - 1, first + 1)
        ends = offsets[first : last + 1] - offsets[first]
        size = int(ends[-1])
        sums = np.zeros(size + 1, np.uint64)
        values = data[offsets[first] : offsets[last]].astype(np.uint64) + np.uint64(1)
        np.cumsum(values * _power_table(_BASE, size), out=sums[1:])
        inverse = _power_table(pow(_BASE, -1, 2**64), size + 1)
        keys[first:last] = (sums[ends[1:]] - sums[ends[:-1]]) * inverse[ends[:-1]]
        first = last
    return keys


def hash64(array) -> np.ndarray:
    """Returns a well-mixed 64-bit hash of each value of a string or integer array; a null has the hash of nothing else, 0.

    Args:
        array: Arrow string, large string or integer array, (n,).

    Returns:
        (n,) uint64: the key (`string_keys`, or the integer itself) after the finalizer of splitmix64.
    """
    encoded = array.dictionary_encode()
    unique = encoded.dictionary
    if pa.types.is_integer(unique.type):
        keys = unique.cast(pa.int64()).to_numpy().view(np.uint64).copy()
    else:
        keys = string_keys(unique)
    keys += np.uint64(_BASE)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    keys ^= keys >> np.uint64(31)
    positions = encoded.indices.fill_null(len(keys)).to_numpy()
    return np.append(keys, np.uint64(0))[positions]


def buckets(array, num_buckets: int) -> np.ndarray:
    """Returns the bucket of each value's text: FarmHash's Fingerprint64 of its UTF-8 bytes, modulo the number of buckets.

    The text of an integer is its decimal digits, after a minus sign if it is negative. TensorFlow's own operation
    (`tf.strings.to_hash_bucket_fast`) hashes, so that an exported model, which has it in its graph, finds the same buckets.

    Args:
        array: Arrow string, large string or integer array without nulls, (n,); each value is hashed, so pass distinct ones.
        num_buckets: N.

    Returns:
        (n,) int64 in [0, N).
    """
    import tensorflow as tf  # reading and writing data needs no tensorflow unless something is hashed

    text = array.cast(pa.large_string()).cast(pa.large_binary()).to_numpy(zero_copy_only=False)
    with tf.device("CPU"):
        return tf.strings.to_hash_bucket_fast(tf.constant(text, tf.string), num_buckets).numpy()
