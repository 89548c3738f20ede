"""A split's parsed columns in memory, and batches drawn from them."""

import numpy as np
import tensorflow as tf


class Columns:
    """All rows of a dataset of batches, parsed, side by side in one matrix a dtype.

    One matrix a dtype, because drawing a row from it reads memory at one place instead of one place a column: twice as fast.

    Args:
        batches: Dataset of batches, a structure of tensors (B,) and (B, k).
        num_rows: Rows in all of its batches.
    """

    def __init__(self, batches, num_rows):
        self._spec = batches.element_spec
        self._places = []  # of every tensor: (dtype, first column, columns or None for a tensor (B,))
        widths = {}
        for spec in tf.nest.flatten(self._spec):
            columns = None if spec.shape.rank == 1 else spec.shape[1]
            first = widths.get(spec.dtype, 0)
            self._places.append((spec.dtype, first, columns))
            widths[spec.dtype] = first + (1 if columns is None else columns)
        matrices = {dtype: np.empty((num_rows, width), dtype.as_numpy_dtype) for dtype, width in widths.items()}
        at = 0
        for batch in batches:
            tensors = [tensor.numpy() for tensor in tf.nest.flatten(batch)]
            end = at + len(tensors[0])
            for (dtype, first, columns), values in zip(self._places, tensors, strict=True):
                matrices[dtype][at:end, first : first + (columns or 1)] = values if columns else values[:, None]
            at = end
        self.num_rows = num_rows
        with tf.device("CPU:0"):
            self._matrices = {dtype: tf.convert_to_tensor(matrices.pop(dtype)) for dtype in widths}

    def rows(self, pick):
        """Returns the structure of the rows that `pick` takes out of each matrix (n, k)."""
        picked = {dtype: pick(matrix) for dtype, matrix in self._matrices.items()}
        tensors = []
        for dtype, first, columns in self._places:
            matrix = picked[dtype]
            tensors.append(matrix[:, first] if columns is None else matrix[:, first : first + columns])
        return tf.nest.pack_sequence_as(self._spec, tensors)


def cached_batches(columns, batch_size, *, shuffle, seed, drop_remainder, num_parallel_calls):
    """Returns a dataset of the batches of `Columns`: in order, or by a new permutation of all rows every pass."""
    num_rows = columns.num_rows
    num_batches = num_rows // batch_size if drop_remainder else -(-num_rows // batch_size)
    starts = tf.data.Dataset.range(0, num_batches * batch_size, batch_size)

    def rows_at(start):
        return columns.rows(lambda matrix: matrix[start : start + batch_size])

    def rows_of(indices):
        return columns.rows(lambda matrix: tf.gather(matrix, indices))

    def drawn_pass(words):
        order = tf.random.experimental.stateless_shuffle(tf.range(num_rows), words)  # (rows,)
        return starts.map(lambda start: order[start : start + batch_size])

    if not shuffle:
        return starts.map(rows_at, num_parallel_calls=num_parallel_calls, deterministic=True)
    words = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2, drop_remainder=True).take(1)
    return words.flat_map(drawn_pass).map(rows_of, num_parallel_calls=num_parallel_calls, deterministic=True)
