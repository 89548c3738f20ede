"""What the two files of the contract of models share: `test_contract.py` and `test_contract_training.py`."""

import dataclasses
import inspect

import keras
import numpy as np
import pytest

import keras_ctr
from keras_ctr.registry import model_info
from tests.sample import fields_schema, full_schema

QUICK = ("DNN", "LR")
MODELS = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in keras_ctr.list_models()]
WITH_DROPOUT = [name for name in keras_ctr.list_models() if "dropout" in inspect.signature(model_info(name).factory).parameters]
SCHEMAS = {"fields": fields_schema(), "sequences": full_schema(), "two_labels": full_schema(("click", "like"))}
ROWS = 23


def predict(model, x):
    return {label: np.asarray(keras.ops.convert_to_numpy(p)) for label, p in model(x).items()}


def spread(model):
    """Moves every weight away from its start, so that zero-initialised parts count too."""
    rng = np.random.default_rng(7)
    for v in model.trainable_variables:
        v.assign(keras.ops.convert_to_numpy(v) + rng.normal(size=v.shape).astype("float32") * 0.1)


def widened(schema):
    features = [dataclasses.replace(f, max_length=f.max_length + 4) if isinstance(f, keras_ctr.Sequence) else f for f in schema.features]
    return schema.replace(features=features)


def copy_weights(source, target):
    assert [v.shape for v in source.variables] == [v.shape for v in target.variables], "a weight's shape depends on the history's length"
    for a, b in zip(source.variables, target.variables, strict=True):
        b.assign(a)
