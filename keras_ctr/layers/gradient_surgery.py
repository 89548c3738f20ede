"""Gradient surgery: tasks whose gradients conflict no longer undo each other's work on what they share."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_int


@keras.saving.register_keras_serializable(package="keras_ctr")
class GradientSurgery(keras.Layer):
    """PCGrad between a shared vector and the towers of L tasks: vector to map, `(B, N) -> (B, L, N)`. No weights.

    Forward, every task gets the shared vector. Backward, with `g_i` the gradient of task i's loss for the batch with respect to that vector
    (all B N numbers of it), the gradient that goes on into the shared network is

    ```
    g'_i := g_i;   for j != i, in order:  if <g'_i, g_j> < 0:  g'_i := g'_i - (<g'_i, g_j> / <g_j, g_j>) g_j
    out = sum_i g'_i
    ```

    Without a conflict (no negative inner product) it is the plain sum. Place it between the last shared layer and towers that take one
    vector a task (`TaskTowers`), or give it as the `head` of `models.with_task_heads`.

    Args:
        num_tasks: L.

    Raises:
        ValueError: If `num_tasks` is no positive integer.

    Source: Yu et al., Gradient Surgery for Multi-Task Learning (arXiv:2001.06782, algorithm 1).
    Deviations: the paper projects gradients with respect to all shared parameters, which takes a backward pass a task through the whole
    network; here they are projected where the tasks part, so one pass serves. The two agree on which tasks conflict only as far as the
    shared network's Jacobian keeps angles. The order of j is that of the labels instead of a random one (the same thing for two tasks).
    Under a distribution strategy each replica projects the gradients of its part of the batch.
    """

    def __init__(self, num_tasks, **kwargs):
        super().__init__(**kwargs)
        check_int(self, "num_tasks", num_tasks)
        self.num_tasks = num_tasks

    def build(self, inputs_shape):
        self.built = True

    def call(self, inputs):
        return _split(self.num_tasks)(inputs)

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], self.num_tasks, inputs_shape[-1])

    def get_config(self):
        return {**super().get_config(), "num_tasks": self.num_tasks}


def _split(num_tasks):
    """Returns the function `(B, N) -> (B, L, N)` whose gradient is the sum of the projected gradients of its copies."""

    @ops.custom_gradient
    def run(x):
        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream  # (B, L, N); PyTorch hands it over by name
            wide = ops.cast(upstream, keras.backend.result_type(x.dtype, "float32"))
            weights = ops.cast(_weights(ops.einsum("bln,bkn->lk", wide, wide)), wide.dtype)  # (L,)
            return ops.cast(ops.einsum("l,bln->bn", weights, wide), x.dtype)

        return ops.repeat(ops.expand_dims(x, 1), num_tasks, axis=1), gradient

    return run


def _weights(products):
    """Returns a `(L,)` with `sum_i g'_i = sum_k a_k g_k`, from the inner products `<g_l, g_k>` `(L, L)`.

    A projected gradient stays in the span of the gradients, so its L coefficients say all, and no long vector is made twice.
    """
    num_tasks = products.shape[0]
    total = ops.zeros((num_tasks,), dtype=products.dtype)
    for i in range(num_tasks):
        own = ops.one_hot(i, num_tasks, dtype=products.dtype)  # g'_i = sum_k own_k g_k
        for j in range(num_tasks):
            if j == i:
                continue
            inner = ops.sum(own * products[:, j])
            share = ops.minimum(inner, 0.0) / ops.maximum(products[j, j], keras.backend.epsilon() ** 4)
            own = own - share * ops.one_hot(j, num_tasks, dtype=products.dtype)
        total = total + own
    return total
