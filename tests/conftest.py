"""Shared fixtures: one schema of every kind of feature, and random encoded rows for it."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import numpy as np
import pytest

if keras.backend.backend() == "torch":
    import torch

    def _array(tensor, dtype=None, copy=None):
        """As on the other backends, results become NumPy arrays although a gradient may be asked of them."""
        return np.array(tensor.detach().numpy(), dtype=dtype)

    def _wrap(tensor, array, *_, _original=torch.Tensor.__array_wrap__):
        """Arithmetic of a tensor with an array would lose the gradient: it stays the error it is without the line above."""
        if tensor.requires_grad:
            raise RuntimeError("NumPy arithmetic on a tensor that requires a gradient: use keras.ops, or np.asarray first")
        return _original(tensor, array)

    torch.Tensor.__array__, torch.Tensor.__array_wrap__ = _array, _wrap


if keras.backend.backend() == "jax":
    import itertools

    import jax

    _tests = itertools.count(1)

    @pytest.fixture(autouse=True)
    def _forget_programs():
        """Every test leaves compiled programs behind: together they would fill the memory."""
        yield
        if next(_tests) % 32 == 0:
            jax.clear_caches()


@pytest.fixture(autouse=True, scope="module")
def _fresh_session():
    """Layer names start anew in every file; clearing more often costs half a second a test."""
    keras.utils.clear_session()


@pytest.fixture(autouse=True)
def _fresh_state():
    """Each test starts from one seed and float32."""
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_dtype_policy("float32")
