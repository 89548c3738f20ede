"""Crosses of categorical fields for a wide part: hashed into buckets, one weight a bucket."""

import keras
import numpy as np
from keras import ops

from keras_ctr import backend
from keras_ctr.layers.arguments import check_int
from keras_ctr.layers.embedding_storage import MAX_ROWS

# Arithmetic modulo 2^30 on halves of 15 bits: no product or sum passes 2^31, so that int32, which every backend has, never overflows.
_HALF = 15
_LOW = (1 << _HALF) - 1
_ALL = (1 << 2 * _HALF) - 1
_FACTORS = (0x2C1B3C6D, 0x297A2D39)  # odd, so that multiplying is one to one
_START = 0x1B873593


@keras.saving.register_keras_serializable(package="keras_ctr")
class HashedCrosses(keras.Layer):
    """Linear logit of crossed fields: pool `{field: ids} -> (B, units)`.

    ```
    z = sum_c w_c[ h(id_f1, .., id_fk) mod num_buckets ]             fields f1 .. fk of cross c
    ```

    A cross is the indicator of all its fields' values at once (a cross-product transformation), found through a hash instead of a
    vocabulary. h works on ids of the schema, in the order of the fields' names: neither the order in which a cross or the schema lists its
    fields nor the backend changes a bucket. Values that share a bucket share its weight; among v values of a cross one meets at least one
    other with the chance 1 - exp(-v / num_buckets), about. Parameters: `C num_buckets units` for C crosses, in one variable `table` read
    by one gather: a step costs O(batch), whatever `num_buckets` is.

    Buckets belong to ids: where a vocabulary changes so that values get other ids, these weights have to be learned anew.

    Args:
        crosses: Tuples of two or more names of fields.
        num_buckets: Buckets of every cross, each cross having its own.
        units: Outputs, one a label.
        initializer: Keras initializer of the weights.

    Call arguments:
        inputs: Dict with every crossed field, `(B,)` int, values in [0, 2^31); ids that are equal modulo 2^30 fall together. Other keys are
            ignored.

    Raises:
        ValueError: On no cross, a cross of fewer than two fields or with one of them twice, a cross that is there already, a non-positive
            `num_buckets` or `units`, or more than 2^31 - 1 rows.

    Source: Wide & Deep (arXiv:1606.07792, Eq. 1, the cross-product transformation). Deviations: the paper enumerates crosses; hashing them
    is what its public implementations do. The hash is ours: two rounds of xor-shift and multiplication a field, modulo 2^30.
    """

    def __init__(self, crosses, num_buckets=1 << 17, units=1, *, initializer="zeros", **kwargs):
        super().__init__(**kwargs)
        self.crosses = tuple(tuple(cross) if isinstance(cross, (list, tuple)) else (cross,) for cross in crosses)
        self._check_crosses()
        check_int(self, "num_buckets", num_buckets)
        check_int(self, "units", units)
        if num_buckets * len(self.crosses) > MAX_ROWS:
            raise ValueError(
                f"HashedCrosses '{self.name}': {len(self.crosses)} crosses of {num_buckets:,} buckets are more rows than one variable can "
                f"hold ({MAX_ROWS:,}); lower num_buckets"
            )
        self.num_buckets = num_buckets
        self.units = units
        self.initializer = keras.initializers.get(initializer)
        self.supports_jit = backend.lookup_supports_jit()

    def _check_crosses(self):
        what, seen = f"HashedCrosses '{self.name}'", set()
        if not self.crosses:
            raise ValueError(f"{what}: crosses is empty; give tuples of field names such as ('user', 'item')")
        for cross in self.crosses:
            if len(cross) < 2:
                raise ValueError(f"{what}: a cross has at least two fields, got {cross!r}; crosses is a list of tuples of field names")
            if len(set(cross)) < len(cross):
                raise ValueError(f"{what}: the cross {cross!r} names a field twice")
            if frozenset(cross) in seen:
                raise ValueError(f"{what}: the cross {cross!r} is there twice; the order of its fields does not matter")
            seen.add(frozenset(cross))

    def build(self, inputs_shape=None):
        shape = (len(self.crosses) * self.num_buckets, self.units)
        self.table = self.add_weight(name="table", shape=shape, initializer=self.initializer, autocast=False)
        self.table.row_sparse = True
        self.built = True

    def buckets(self, inputs):
        """Returns the bucket of every cross, `(B, C)` int32 in [0, num_buckets)."""
        names = sorted({name for cross in self.crosses for name in cross})
        ids = ops.stack([ops.cast(inputs[name], "int32") for name in names], axis=-1)  # (B, fields)
        ids = ops.bitwise_and(ids, _ALL)
        length = max(map(len, self.crosses))
        place = np.full((len(self.crosses), length), -1, "int32")  # of a cross's fields among the names
        for row, cross in zip(place, self.crosses, strict=True):
            row[: len(cross)] = [names.index(name) for name in sorted(cross)]
        state = _START
        for position in range(length):
            column, shown = np.maximum(place[:, position], 0), place[:, position] >= 0
            new = _mix(ops.bitwise_xor(state, ops.take(ids, column, axis=1)))  # (B, C)
            state = new if shown.all() else ops.where(shown, new, state)
        return ops.mod(state, self.num_buckets)

    def call(self, inputs):
        first = np.arange(len(self.crosses), dtype="int32") * self.num_buckets
        rows = backend.lookup(self.table, ops.add(self.buckets(inputs), first))  # (B, C, units)
        return ops.cast(ops.sum(rows, axis=1), self.compute_dtype)

    def compute_output_shape(self, inputs_shape):
        return (tuple(inputs_shape[self.crosses[0][0]])[0], self.units)

    def compute_output_spec(self, inputs):
        shape = self.compute_output_shape({name: tensor.shape for name, tensor in inputs.items()})
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "crosses": [list(cross) for cross in self.crosses],
            "num_buckets": self.num_buckets,
            "units": self.units,
            "initializer": keras.initializers.serialize(self.initializer),
        }


def _mix(x):
    """Maps int32 in [0, 2^30) one to one so that every bit of the result depends on every bit of x."""
    for factor in _FACTORS:
        x = _times(ops.bitwise_xor(x, ops.right_shift(x, _HALF)), factor)
    return ops.bitwise_xor(x, ops.right_shift(x, _HALF))


def _times(x, factor):
    """Returns `x factor mod 2^30`."""
    low, high = ops.bitwise_and(x, _LOW), ops.right_shift(x, _HALF)
    factor_low, factor_high = factor & _LOW, factor >> _HALF
    middle = ops.bitwise_and(low * factor_high + high * factor_low, _LOW)
    return ops.bitwise_and(low * factor_low + ops.left_shift(middle, _HALF), _ALL)
