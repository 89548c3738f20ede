"""Click-through-rate models for Keras 3: schema, layers and model factories.

>>> import keras_ctr
>>> model = keras_ctr.models.InterFormer(schema)
>>> model.compile(keras_ctr.optimizers.default(), "binary_crossentropy")

`layers`, `models` and the other rooms are imported when first used, so that work on schemas and data files does not wait for Keras.
"""

import importlib

from keras_ctr.schema import Categorical, Label, Numeric, Schema, SchemaError, Sequence

__version__ = "0.1.0"

_ROOMS = (
    "backend",
    "callbacks",
    "data",
    "datasets",
    "distribution",
    "layers",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "pruning",
    "schema",
    "serving",
    "tables",
)
_REGISTRY = ("get_model", "list_models", "model_info")

__all__ = ["Categorical", "Label", "Numeric", "Schema", "SchemaError", "Sequence", *_ROOMS, *_REGISTRY]


def __getattr__(name):
    if name in _ROOMS:
        return importlib.import_module(f"keras_ctr.{name}")
    if name in _REGISTRY:
        importlib.import_module("keras_ctr.models")  # fills the registry
        return getattr(importlib.import_module("keras_ctr.registry"), name)
    raise AttributeError(f"module 'keras_ctr' has no attribute '{name}'")


def __dir__():
    return sorted({*globals(), *__all__})
