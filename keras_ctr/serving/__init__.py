"""Serving: SavedModel export with preprocessing in the graph, and a runner that scores it without TensorFlow's Python."""

import importlib

_EXPORTS = {
    "export_model": "export",
    "SIGNATURES": "export",
    "RawPreprocessing": "preprocessing",
    "SavedModelRunner": "runner",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name):
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"keras_ctr.serving.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module 'keras_ctr.serving' has no attribute '{name}'")
