"""Gradients on every backend, for tests."""

import keras
import numpy as np


def gradients(function, weights):
    """Returns the gradients of a scalar as NumPy arrays, zeros where it does not depend on a weight.

    Args:
        function: takes nothing and returns the scalar, computed with `keras.ops` from the weights. To have the gradient of an input,
            make a `keras.Variable` of it and read it inside: `layer(ops.convert_to_tensor(variable))`.
        weights: list of `keras.Variable`.
    """
    found = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[keras.backend.backend()](function, weights)
    return [np.zeros(w.shape, "float32") if g is None else keras.ops.convert_to_numpy(g) for w, g in zip(weights, found, strict=True)]


def _tensorflow(function, weights):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        result = function()
    found = tape.gradient(result, [weight.value for weight in weights])
    return [gradient if gradient is None else tf.convert_to_tensor(gradient) for gradient in found]  # the table's come as rows


def _jax(function, weights):
    import jax

    def stateless(values):
        with keras.StatelessScope(state_mapping=list(zip(weights, values, strict=True)), collect_losses=True):
            return function()

    return jax.grad(stateless)([weight.value for weight in weights])


def _torch(function, weights):
    import torch

    result = function()
    if not result.requires_grad:  # depends on no weight at all
        return [None] * len(weights)
    return torch.autograd.grad(result, [weight.value for weight in weights], allow_unused=True)
