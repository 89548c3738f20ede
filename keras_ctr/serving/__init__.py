"""Serving: SavedModel export with preprocessing in the graph, and a runner that scores it without TensorFlow's Python."""

import importlib

_EXPORTS = {
    "export_bundle": "bundle",
    "export_model": "export",
    "replay_warmup": "warmup",
    "SIGNATURES": "export",
    "RawPreprocessing": "preprocessing",
    "SavedModelRunner": "runner",
    "RestClient": "client",
    "GrpcClient": "client",
    "ServingError": "client",
    "calibrated": "calibration",
    "calibration_report": "calibration",
    "fit_isotonic": "calibration",
    "fit_offset": "calibration",
    "fit_platt": "calibration",
    "negative_sampling": "calibration",
    "RuntimeRunner": "runtimes",
    "check_runtime": "runtimes",
    "export_runtime": "runtimes",
    "quantization_cost": "quantized",
    "with_small_tables": "small_tables",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name):
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"keras_ctr.serving.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module 'keras_ctr.serving' has no attribute '{name}'")
