"""How a row-sparse optimizer applies `tf.IndexedSlices` on TensorFlow, on one device or several."""

import contextlib
import warnings

import tensorflow as tf


def sum_duplicates(gradient):
    """Returns an `IndexedSlices` in which every row stands once, with the sum of its gradients; dense gradients as they are."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    rows, position = tf.unique(gradient.indices)  # (U,), (N,)
    values = tf.math.unsorted_segment_sum(gradient.values, position, tf.size(rows))  # (U, D)
    return tf.IndexedSlices(values, rows, gradient.dense_shape)


def map_values(function, gradient):
    """Applies an elementwise function with f(0) = 0 to a gradient."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(function(gradient.values), gradient.indices, gradient.dense_shape)
    return function(gradient)


def values_of(gradient):
    """Returns the tensor that holds the nonzero elements of a gradient whose rows are distinct."""
    return gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient


def is_sparse(gradient):
    """Returns whether a gradient is an `IndexedSlices`."""
    return isinstance(gradient, tf.IndexedSlices)


def _gather(variable, rows):
    return tf.raw_ops.ResourceGather(resource=variable.handle, indices=rows, dtype=variable.dtype)


class _Divisible:
    """A sparse gradient while Keras divides gradients by the loss scale, which would make an `IndexedSlices` an error."""

    def __init__(self, gradient):
        self.gradient = gradient

    def __truediv__(self, scale):
        return _Divisible(map_values(lambda x: x / tf.cast(scale, x.dtype), self.gradient))


class RowUpdates:
    """The TensorFlow side of `RowSparseOptimizer`; stands before `keras.optimizers.Optimizer` in its bases."""

    @tf.autograph.experimental.do_not_convert
    def apply(self, grads, trainable_variables=None):
        """Applies gradients, dense or sparse, one a variable."""
        if self.loss_scale_factor is not None:
            grads = [_Divisible(g) if is_sparse(g) else g for g in grads]
        return super().apply(grads, trainable_variables)

    def _backend_apply_gradients(self, grads, trainable_variables):
        grads = [g.gradient if isinstance(g, _Divisible) else g for g in grads]
        self._check_gradients(grads, trainable_variables)
        if self.use_ema or self.gradient_accumulation_steps:
            return super()._backend_apply_gradients(grads, trainable_variables)
        variables = [v if isinstance(v, tf.Variable) else v.value for v in trainable_variables]
        # Replicas are summed first: clipping their parts one by one would not be clipping the gradient.
        pairs = self._all_reduce_sum_gradients(list(zip(grads, variables, strict=True)))
        summed = self._clip_gradients([sum_duplicates(gradient) for gradient, _ in pairs])
        tf.__internal__.distribute.interim.maybe_merge_call(
            self._distributed_tf_update_step,
            self._distribution_strategy,
            list(zip(summed, variables, strict=True)),
            self.learning_rate,
        )

    def _check_gradients(self, grads, variables):
        for gradient, variable in zip(grads, variables, strict=True):
            name = getattr(variable, "path", getattr(variable, "name", "?"))
            if is_sparse(gradient):
                for option in ("use_ema", "gradient_accumulation_steps"):
                    if getattr(self, option):
                        raise ValueError(
                            f"{type(self).__name__}: {option} is not supported for variable '{name}', whose gradient is sparse: it would "
                            f"rewrite the whole table each step. Leave {option} out, or set it on the optimizer of the dense variables "
                            "alone (keras.optimizers.MultiOptimizer)"
                        )
            elif getattr(variable, "row_sparse", False) and gradient is not None:
                warnings.warn(
                    f"{type(self).__name__}: embedding table '{name}' has a dense gradient, so this step rewrites all of its rows. A "
                    "regularizer on the whole table does that; embedding_l2 of the factories penalises the rows of a batch",
                    stacklevel=2,
                )

    def _distributed_tf_update_step(self, distribution, grads_and_vars, learning_rate):
        for gradient, variable in grads_and_vars:
            slots = [slot.value for slot in self.slots_of(variable)]  # as arguments, so that each device gets its own copies
            arguments = (gradient, learning_rate, *slots)
            distribution.extended.update(variable, self._update_on_device, args=arguments, group=False)

    def _update_on_device(self, variable, gradient, learning_rate, *slots):
        dtype = variable.dtype
        learning_rate = tf.cast(learning_rate, dtype)
        step = tf.cast(self.iterations + 1, dtype)
        if not is_sparse(gradient):
            value = self.decayed(tf.convert_to_tensor(variable), learning_rate, variable)
            current = [tf.convert_to_tensor(slot) for slot in slots]
            new, new_slots = self.rule(tf.cast(gradient, dtype), value, current, learning_rate, step)
            variable.assign(new)
            for slot, new_slot in zip(slots, new_slots, strict=True):
                slot.assign(new_slot)
            return
        rows = gradient.indices
        # Gathers by handle, that of the copy on this device: reading a variable as a tensor would copy the table at the next scatter.
        value, *current = [_gather(target, rows) for target in (variable, *slots)]
        value = self.decayed(value, learning_rate, variable)
        self.before_rows(variable)
        values = tf.ensure_shape(gradient.values, (None, *variable.shape[1:]))  # collectives forget the width
        new, new_slots = self.rule(tf.cast(values, dtype), value, current, learning_rate, step)
        for target, new_rows in zip((variable, *slots), (new, *new_slots), strict=True):
            tf.raw_ops.ResourceScatterUpdate(resource=target.handle, indices=rows, updates=new_rows)

    def before_rows(self, variable):
        """Hook: called before the rows of a variable are updated."""

    def slot_scope(self):
        """Slots are created outside of graphs: inside one, their initial values would take as much memory again."""
        if tf.executing_eagerly() or tf.distribute.has_strategy():
            return contextlib.nullcontext()
        return tf.init_scope()

    def add_row_slot(self, variable, name, initializer):
        """Adds a slot with one value a row of `variable`, on its device."""
        with self._distribution_strategy.extended.colocate_vars_with(variable if isinstance(variable, tf.Variable) else variable.value):
            return super().add_row_slot(variable, name, initializer)

    def _clip_gradients(self, grads):
        """Clips gradients whose rows are distinct; the norm of a sparse gradient is that of its rows."""
        if self.clipvalue and self.clipvalue > 0:
            return [map_values(lambda x: tf.clip_by_value(x, -self.clipvalue, self.clipvalue), g) for g in grads]
        if self.clipnorm and self.clipnorm > 0:
            return [self._shrink(g, tf.norm(values_of(g)), self.clipnorm) for g in grads]
        if self.global_clipnorm and self.global_clipnorm > 0:
            norm = tf.sqrt(sum(tf.reduce_sum(tf.square(tf.cast(values_of(g), "float32"))) for g in grads))
            return [self._shrink(g, norm, self.global_clipnorm) for g in grads]
        return grads

    @staticmethod
    def _shrink(gradient, norm, limit):
        # A norm that is not finite makes every element NaN: a diverged step must not pass for a clipped one.
        scale = limit / tf.maximum(norm, limit) + (norm - norm)
        return map_values(lambda x: x * tf.cast(scale, x.dtype), gradient)
