"""What a case of `benchmarks.layers` is: one piece of mathematics, its sizes, and the forms in which it can be computed."""

from collections.abc import Callable
from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf

OURS = "ours"
MOST_BYTES = 8e9  # the batch is halved until the largest form of a case should stay under this


@dataclass(frozen=True)
class Form:
    """One way to compute a case.

    Args:
        call: `call(*inputs, *extras)` returns the output.
        weights: Keras variables that are differentiated, in the same order in all forms of a case.
    """

    call: Callable
    weights: list


@dataclass(frozen=True)
class Built:
    """A case with its tensors.

    Args:
        inputs: float32 arrays `(B, ...)` that are differentiated.
        forms: `{name: Form}`, the layer itself under `OURS`.
        extras: Further arrays `(B, ...)`, such as masks.
        dynamic_bytes: By formula, what a row-dependent interaction matrix takes in each form, for one layer.
    """

    inputs: list
    forms: dict
    extras: list = field(default_factory=list)
    dynamic_bytes: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A case of the benchmark.

    Args:
        name: What it is found by.
        build: `build(rng, batch, **sizes)` returns a `Built`.
        sizes: Keyword arguments of `build`.
        jit: Whether every form is also timed under XLA.
        memory: Whether the growth of resident memory is measured, one process a form.
        share: Part of the batch size that is used.
        row_bytes: Estimate of what the largest form holds at once for a row; 0 = no matter.
    """

    name: str
    build: Callable
    sizes: dict
    jit: bool = False
    memory: bool = False
    share: float = 1.0
    row_bytes: int = 0

    def batch(self, batch_size):
        """Returns B: `share` of the batch size, halved until the largest form takes at most `MOST_BYTES`."""
        batch = max(2, int(batch_size * self.share))
        while batch > 2 and batch * self.row_bytes > MOST_BYTES:
            batch //= 2
        return batch

    def make(self, batch, seed=1, **sizes):
        """Returns a `Built` of B = `batch`; `sizes` replace those of the case."""
        keras.utils.set_random_seed(seed)
        return self.build(np.random.default_rng(seed), batch, **{**self.sizes, **sizes})


def normal(rng, *shape):
    """Returns a float32 array of standard normal draws, halved: products of several stay of moderate size."""
    return 0.5 * rng.standard_normal(shape, dtype=np.float32)


def lengths_mask(rng, batch, length):
    """Returns a bool `(B, T)`, True at the first n steps, n uniform in [1, T]."""
    return np.arange(length) < rng.integers(1, length + 1, size=(batch, 1))


def tensor(weight):
    """Returns a Keras variable as a TensorFlow tensor."""
    return tf.convert_to_tensor(weight.value)
