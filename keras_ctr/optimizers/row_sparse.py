"""What all row-sparse optimizers share: one update rule, applied to whole variables or to the rows of a batch."""

import contextlib

import keras
from keras import ops

if keras.backend.backend() == "tensorflow":
    from keras_ctr.optimizers.tensorflow_rows import RowUpdates
else:

    class RowUpdates:
        """Other backends hand over dense gradients only: Keras' own way of applying them stays as it is."""

        def slot_scope(self):
            """Slots may be created anywhere."""
            return contextlib.nullcontext()


class RowSparseOptimizer(RowUpdates, keras.optimizers.Optimizer):
    """A Keras optimizer whose step costs O(rows in the batch) for variables with sparse gradients.

    On TensorFlow the gradient of a `FeatureEmbedding` table is a `tf.IndexedSlices`. For such a gradient the gradients of a row are
    summed first (the rules are not linear in them), then the rows of the variable and of its slots are gathered, updated and scattered
    back; all other rows, and their slots, are neither read nor written. A dense gradient, and every gradient on the JAX and torch
    backends, updates the whole variable by the same rule.

    A subclass declares `slots` and writes `rule`; both see whole variables and gathered rows alike. A **row** is the last axis of a
    variable of rank 2 or more; a vector is a column of rows of one element.

    Keras' own options around the rule, for sparse gradients:

    | option | what happens |
    |---|---|
    | learning rate schedules, callbacks | as in Keras |
    | `clipnorm`, `clipvalue`, `global_clipnorm` | after the gradients of a row, and of replicas, are summed; a norm is that of the whole
    gradient |
    | `weight_decay` | the rows of the batch decay, `w <- w - learning_rate * weight_decay * w`, before the rule; other rows do not |
    | `loss_scale_factor` | as in Keras; for dynamic scaling use `keras_ctr.optimizers.LossScaleOptimizer` |
    | `gradient_accumulation_steps`, `use_ema` | refused: both rewrite whole tables. With a recipe set them on the dense part |
    | `constraint` of a variable | as in Keras, which rewrites the whole variable |

    Inside `keras.optimizers.MultiOptimizer` clipping by global norm sees the variables of one optimizer, not of all.
    """

    def slots(self):
        """Returns the state of a variable: a list of `(name, one value a row instead of an element, initial value)`."""
        raise NotImplementedError

    def rule(self, gradient, value, slots, learning_rate, step):
        """Returns `(new value, [new slots])`.

        Args:
            gradient, value: `(rows, D)` of the batch or a whole variable and its gradient, all of one dtype.
            slots: The slots in the order of `slots()`, same rows.
            learning_rate: Scalar of the same dtype.
            step: Scalar of the same dtype, 1 in the first step.
        """
        raise NotImplementedError

    def build(self, variables):
        """Creates the slots. Keras calls it before the first step."""
        if self.built:
            return
        with self.slot_scope():
            super().build(variables)
            self._slots = []
            for variable in variables:
                self._slots.append([self._add_slot(variable, *slot) for slot in self.slots()])

    def _add_slot(self, variable, name, per_row, initial):
        # Not initializers.Constant, which needs the memory of the slot twice.
        initializer = (lambda shape, dtype=None: ops.full(shape, initial, dtype)) if initial else "zeros"
        if per_row and len(variable.shape) > 1:
            return self.add_row_slot(variable, name, initializer)
        return self.add_variable_from_reference(variable, name=name, initializer=initializer)

    def add_row_slot(self, variable, name, initializer):
        """Adds a slot with one value a row of `variable`: `(..., 1)`."""
        path = getattr(variable, "path", variable.name).replace("/", "_").replace(":", "_")
        return self.add_variable(shape=(*variable.shape[:-1], 1), dtype=variable.dtype, initializer=initializer, name=f"{path}_{name}")

    def slots_of(self, variable):
        """Returns the slot variables of a variable that the optimizer was built with."""
        return self._slots[self._get_variable_index(variable)]

    def decayed(self, value, learning_rate, variable):
        """Returns the value after decoupled weight decay."""
        if self.weight_decay is None or not self._use_weight_decay(variable):
            return value
        return value - value * ops.cast(self.weight_decay, value.dtype) * learning_rate

    def _apply_weight_decay(self, variables):
        """Nothing: `decayed` is part of the update, so that it can be limited to the rows of the batch."""

    def update_step(self, gradient, variable, learning_rate):
        """Applies the rule to a whole variable."""
        dtype = variable.dtype
        learning_rate = ops.cast(learning_rate, dtype)
        slots = self.slots_of(variable)
        value = self.decayed(ops.convert_to_tensor(variable), learning_rate, variable)
        step = ops.cast(self.iterations + 1, dtype)
        values = [ops.convert_to_tensor(slot) for slot in slots]
        new, new_slots = self.rule(ops.cast(gradient, dtype), value, values, learning_rate, step)
        self.assign(variable, new)
        for slot, new_value in zip(slots, new_slots, strict=True):
            self.assign(slot, new_value)


def check_positive(optimizer, **values):
    """Raises ValueError unless every value is a positive number."""
    for name, value in values.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise ValueError(f"{optimizer}: {name} must be a positive number, got {value!r}")


def check_not_negative(optimizer, **values):
    """Raises ValueError unless every value is a number of at least 0."""
    for name, value in values.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
            raise ValueError(f"{optimizer}: {name} must be a number >= 0, got {value!r}")


def check_share(optimizer, **values):
    """Raises ValueError unless every value is a number in [0, 1)."""
    for name, value in values.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
            raise ValueError(f"{optimizer}: {name} must be a number in [0, 1), got {value!r}")
