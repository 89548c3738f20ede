"""Models for ONNX Runtime and LiteRT: the part behind the ids, which needs neither vocabularies nor strings."""

import importlib.util
import os
import tempfile
from pathlib import Path

import keras

__all__ = ["export_runtime"]

_FORMATS = {".onnx": "onnx", ".tflite": "litert"}
_NEEDS = {"onnx": ("tf2onnx", "onnx"), "litert": ()}


def export_runtime(model, path, *, overwrite=False):
    """Writes a model as one ONNX or LiteRT file that takes encoded features, as the signature `encoded` does.

    Keras' own exporters do the work (`Model.export`). Strings and look-ups stay outside, for no converter takes the hashing and the parsing
    of Examples: encode with `keras_ctr.data.Encoder`, or the vocabulary files beside a SavedModel. Inputs that only training uses are
    left out. ids are trusted: one outside its table is the caller's error in these runtimes.

    Args:
        model: A model of this package in float32 (TensorFlow backend).
        path: File to write; its ending chooses the format: `.onnx` or `.tflite`.
        overwrite: Whether to replace a file that is there.

    Returns:
        The path as a `pathlib.Path`.

    Raises:
        ValueError: On another ending, or a model that computes in half precision, which the exporters do not take.
        FileExistsError: If the file exists and `overwrite` is False.
        ImportError: If a package is missing.
        RuntimeError: If the active Keras backend is not TensorFlow.
    """
    path = Path(path)
    if path.suffix not in _FORMATS:
        raise ValueError(f"{path}: the file must end in {' or '.join(_FORMATS)}")
    kind = _FORMATS[path.suffix]
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(f"export needs the TensorFlow backend, not '{keras.backend.backend()}': set KERAS_BACKEND=tensorflow")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another file or pass overwrite=True")
    missing = [name for name in _NEEDS[kind] if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"the export to ONNX needs {', '.join(missing)}: pip install 'keras_ctr[onnx]'")
    low = sorted({layer.compute_dtype for layer in model._flatten_layers(include_self=False)} & {"float16", "bfloat16"})
    if low:
        raise ValueError(f"model '{model.name}' computes in {low[0]}, which this export does not take: build it under the policy float32")
    optional = getattr(model, "optional_inputs", frozenset())
    signature = [{t.name: keras.InputSpec(t.dtype, t.shape, name=t.name) for t in model.inputs if t.name not in optional}]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.incomplete-", dir=path.parent) as folder:
        file = os.path.join(folder, path.name)
        model.export(file, format=kind, verbose=False, input_signature=signature)
        os.replace(file, path)
    return path
