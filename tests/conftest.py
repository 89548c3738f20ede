"""Shared fixtures: one schema of every kind of feature, and random encoded rows for it."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import pytest


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
