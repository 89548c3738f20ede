"""The one seam between backends: what `keras.ops` cannot do fast.

TensorFlow is imported only here (of the layers' side), and only when it is the active backend.
"""

import keras
from keras import ops


def lookup(table, ids):
    """Gathers rows of an embedding table.

    On TensorFlow the rows are read from the variable itself (`ResourceGather`): its gradient is a sparse `IndexedSlices`, and the
    whole table is never read as a tensor, which would make the next scatter of a row-sparse optimizer copy it. On the other backends
    it is `keras.ops.take`.

    Args:
        table: `keras.Variable` `(V, D)`, created with `autocast=False` (a cast would read the whole table).
        ids: int tensor of any shape, values in [0, V).

    Returns:
        Tensor `ids.shape + (D,)` in the table's dtype.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(_own_copy(table.value), ids)
    return ops.take(table.value, ids, axis=0)


def _own_copy(variable):
    """Returns the copy of a MirroredVariable that the running replica reads: gathering from the whole makes a tensor of the table."""
    import tensorflow as tf

    copies = getattr(variable, "values", None)
    context = tf.distribute.get_replica_context() if copies is not None else None
    if context is None:
        return variable
    replica = tf.get_static_value(tf.convert_to_tensor(context.replica_id_in_sync_group))
    return variable if replica is None else copies[int(replica)]


def lookup_supports_jit():
    """Returns whether `lookup` may be compiled by XLA when nobody says otherwise.

    False on TensorFlow: under XLA the update of the embedding table is dense, so a step would cost O(vocabulary).
    """
    return keras.backend.backend() != "tensorflow"


def can_write_rows():
    """Returns whether `write_rows` works here: on TensorFlow, outside of graphs."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return tf.executing_eagerly()


def write_rows(table, start, rows):
    """Overwrites rows of a variable in place, on every device that holds it.

    Args:
        table: `keras.Variable` `(V, D)`.
        start: First row to overwrite.
        rows: `(n, D)`.
    """
    import tensorflow as tf

    indices = tf.range(start, start + rows.shape[0], dtype="int64")
    for variable in getattr(table.value, "values", (table.value,)):  # the copies of a MirroredVariable
        with tf.device(variable.device):
            tf.raw_ops.ResourceScatterUpdate(resource=variable.handle, indices=indices, updates=tf.cast(rows, variable.dtype))
