"""Dynamic loss scaling that costs O(rows in the batch)."""

import keras

if keras.backend.backend() == "tensorflow":
    from keras_ctr.optimizers.tensorflow_rows import values_of
else:

    def values_of(gradient):
        """Gradients of the other backends are dense."""
        return gradient


@keras.saving.register_keras_serializable(package="keras_ctr")
class LossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """`keras.optimizers.LossScaleOptimizer`, whose look for infinite gradients makes a dense copy of each sparse one, without that copy.

    The loss is multiplied by a scale that halves when a gradient is not finite (the step is then skipped) and doubles after
    `dynamic_growth_steps` finite steps. For `mixed_float16`; `mixed_bfloat16` does not need it. Keras wraps an optimizer in its own when
    a model with the policy `mixed_float16` is compiled, unless it is given this one.

    Args:
        inner_optimizer: The optimizer that takes the step: any of `keras_ctr.optimizers` or of Keras.
        initial_scale: Scale at the start.
        dynamic_growth_steps: Finite steps before the scale doubles.
        name: Name of the optimizer.
        **kwargs: As for `keras.optimizers.LossScaleOptimizer`.
    """

    def check_finite(self, grads):
        """Returns whether all elements of all gradients are finite."""
        return super().check_finite([None if g is None else values_of(g) for g in grads])
