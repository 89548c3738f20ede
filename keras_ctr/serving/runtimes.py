"""Models for ONNX Runtime and LiteRT: the part behind the ids, which needs neither vocabularies nor strings."""

import contextlib
import importlib.util
import logging
import os
import tempfile
import warnings
from importlib import metadata
from pathlib import Path

import keras
import numpy as np

from keras_ctr.schema import nearest
from keras_ctr.serving.agreement import largest_difference

__all__ = ["RUNTIMES", "RuntimeRunner", "check_packages", "check_runtime", "export_runtime"]

RUNTIMES = {"onnx": ".onnx", "litert": ".tflite"}
"""The runtimes and how the names of their files end."""
_NEEDS = {"onnx": ("tf2onnx", "onnx"), "litert": ()}
_LARGEST = 2**31 - 1
"""Bytes of weights that a file can hold: one protobuf message (ONNX) and the offsets of a flatbuffer (LiteRT) end there."""


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
        ValueError: On another ending, a model that computes in half precision, which the exporters do not take, one with 2 GiB of
            weights, which no file of these formats holds, or float16 tables (`with_small_tables`) for LiteRT, which looks up none.
        FileExistsError: If the file exists and `overwrite` is False.
        ImportError: If a package is missing.
        RuntimeError: If the active Keras backend is not TensorFlow, or the exporter fails on the model.
    """
    path = Path(path)
    kind = _runtime_of(path)
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(f"export needs the TensorFlow backend, not '{keras.backend.backend()}': set KERAS_BACKEND=tensorflow")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another file or pass overwrite=True")
    check_packages([kind])
    check_model(model, [kind])
    optional = getattr(model, "optional_inputs", frozenset())
    signature = [{t.name: keras.InputSpec(t.dtype, t.shape, name=t.name) for t in model.inputs if t.name not in optional}]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.incomplete-", dir=path.parent) as folder:
        file = os.path.join(folder, path.name)
        try:
            with _quiet():
                model.export(file, format=kind, verbose=False, input_signature=signature)
        except Exception as error:  # the converters have classes of their own, and messages without the model
            raise RuntimeError(f"model '{model.name}' does not convert to {path.suffix}: {error}") from error
        os.replace(file, path)
    return path


def check_packages(runtimes):
    """Checks, before any work, that models can be exported for the runtimes.

    Args:
        runtimes: Names from `RUNTIMES`.

    Raises:
        ValueError: On another name, with the nearest one.
        ImportError: If packages of the exporter are missing, naming them. (A missing runtime is no error: the file is just not checked.)
    """
    for kind in runtimes:
        if kind not in RUNTIMES:
            raise ValueError(f"no runtime '{kind}'{nearest(str(kind), RUNTIMES)}; runtimes: {', '.join(RUNTIMES)}")
        missing = [name for name in _NEEDS[kind] if importlib.util.find_spec(name) is None]
        if missing:
            raise ImportError(f"the export to ONNX needs {', '.join(missing)}: pip install 'keras_ctr[onnx]'")


def check_model(model, runtimes=()):
    """Raises ValueError for a model that the exporters do not take, whose weights no file holds, or whose tables a runtime cannot read."""
    low = sorted({layer.compute_dtype for layer in model._flatten_layers(include_self=False)} & {"float16", "bfloat16"})
    if low:
        raise ValueError(f"model '{model.name}' computes in {low[0]}, which this export does not take: build it under the policy float32")
    if "litert" in runtimes and any(getattr(layer, "table_dtype", None) == "float16" for layer in model._flatten_layers()):
        raise ValueError(f"model '{model.name}' has float16 tables, in which LiteRT has no look-up: take int8")
    size = sum(int(np.prod(v.shape)) * np.dtype(v.dtype).itemsize for v in model.variables)
    if size > _LARGEST:
        advice = "hashing or quotient-remainder tables make it smaller; a SavedModel has no such limit"
        raise ValueError(f"model '{model.name}' has {size:,} bytes of weights, and a file of this format holds {_LARGEST:,}: {advice}")


def installed_runtime(kind):
    """Returns the runtime that would read a file here, with its version, such as `"onnxruntime 1.31.1"`; None if there is none.

    LiteRT is the package ai-edge-litert, or without it the interpreter that TensorFlow still brings.
    """
    package = {"onnx": "onnxruntime", "litert": "ai_edge_litert"}[kind]
    if importlib.util.find_spec(package) is not None:
        return f"{package.replace('_', '-')} {_version(package)}"
    return f"LiteRT in tensorflow {_version('tensorflow')}" if kind == "litert" else None


class RuntimeRunner:
    """A file of `export_runtime` in its runtime, on the processor.

        RuntimeRunner("served/1/assets.extra/model.onnx").run(encoded)["click"]  # (B, 1)

    Attributes:
        runtime: What scores, with its version.
        inputs: Names of the features that the file takes.

    Raises:
        ValueError: If the file ends in neither `.onnx` nor `.tflite`.
        FileNotFoundError: If there is no such file.
        ImportError: If the runtime is not installed.
    """

    def __init__(self, path):
        path = Path(path)
        kind = _runtime_of(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such file; 'keras-ctr export --runtime {kind}' writes one")
        self.runtime = installed_runtime(kind)
        if self.runtime is None:
            raise ImportError(f"{path} needs onnxruntime: pip install 'keras_ctr[onnx]'")
        self._path = path
        self.inputs, self._score = (_load_onnx if kind == "onnx" else _load_litert)(path)

    def run(self, features):
        """Returns `{label: (B, 1)}` of encoded features `{feature: (B,) or (B, T) array}`; keys that the model lacks are ignored.

        Raises:
            KeyError: If a feature is missing, with the nearest key that is there.
        """
        for name in self.inputs:
            if name not in features:
                raise KeyError(f"{self._path} takes the feature '{name}', which is missing{nearest(name, features)}")
        return self._score({name: np.asarray(features[name]) for name in self.inputs})


def check_runtime(path, features, expected, *, tolerance=1e-5):
    """Scores encoded features with a file of `export_runtime` and compares the result with the model's.

    Args:
        path: The file.
        features: `{feature: (B,) or (B, T) array}`, as for `model.predict`.
        expected: `{label: (B, 1)}`, the outcome of `model.predict`.
        tolerance: Largest difference of a score.

    Returns:
        The largest difference.

    Raises:
        ValueError: If an output is missing or differs, naming it.
        ImportError: If the runtime is not installed.
    """
    runner = RuntimeRunner(path)
    return largest_difference(runner.run(features), expected, f"{path} in {runner.runtime}", tolerance)


def write_runtimes(model, bundle, runtimes, requests, *, tolerance):
    """Writes the files of a bundle, `assets.extra/model<ending>`, each scored in its runtime if that is installed.

    TensorFlow Serving does not read this folder, but for its warm-up requests, so the version loads as it would without them.

    Args:
        model: The model.
        bundle: The SavedModel's folder, which nobody reads yet.
        runtimes: Names from `RUNTIMES`.
        requests: `[(encoded features, {label: (B, 1)} of predict)]` to check with.
        tolerance: Largest difference of a score.

    Returns:
        `{runtime: JSON-ready dict}`: the file, its bytes, and how it was checked (`largest_difference` None: not at all).
    """
    report = {}
    for kind in runtimes:
        name = f"assets.extra/model{RUNTIMES[kind]}"
        file = export_runtime(model, Path(bundle) / name)
        runtime = installed_runtime(kind)
        checks = requests if runtime else []
        differences = [check_runtime(file, features, expected, tolerance=tolerance) for features, expected in checks]
        report[kind] = {
            "file": name,
            "bytes": file.stat().st_size,
            "runtime": runtime,
            "rows": max([len(next(iter(expected.values()))) for _, expected in checks], default=0),
            "largest_difference": max(differences, default=None),
        }
    return report


@contextlib.contextmanager
def _quiet():
    """Leaves out what the converters log and warn of their own affairs; their errors are exceptions."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _runtime_of(path):
    for kind, ending in RUNTIMES.items():
        if path.suffix == ending:
            return kind
    raise ValueError(f"{path}: the file must end in {' or '.join(RUNTIMES.values())}")


def _load_onnx(path):
    """Returns the names of the inputs, and a function from arrays to outputs by name."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    return [value.name for value in session.get_inputs()], lambda x: dict(zip(outputs, session.run(outputs, x), strict=True))


def _load_litert(path):
    """Returns the names of the inputs, and a function from arrays to outputs by name."""
    if importlib.util.find_spec("ai_edge_litert") is not None:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(path))
    else:
        import tensorflow as tf

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is deprecated", category=UserWarning)
            interpreter = tf.lite.Interpreter(str(path))
    signature = interpreter.get_signature_runner()
    return list(signature.get_input_details()), lambda x: signature(**x)


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of an unknown version"
