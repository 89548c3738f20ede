"""Export of a trained model as a TensorFlow SavedModel that scores raw features."""

import os
import shutil
import tempfile
from pathlib import Path
from urllib.parse import quote

import keras
import tensorflow as tf

from keras_ctr.schema import SchemaError
from keras_ctr.serving.preprocessing import RawPreprocessing

SIGNATURES = ("serving_default", "serve_examples", "encoded")
"""Signatures of an exported model: raw named features, serialized tf.Examples of raw features, encoded features."""


def export_model(model, schema, vocabularies, path, *, overwrite=False):
    """Writes a SavedModel with the signatures `serving_default`, `serve_examples` and `encoded`.

    All three return `{label: (B, 1)}` float32. `serving_default` takes raw named features and does vocabulary look-up, binning and
    truncation in the graph (`RawPreprocessing`); `serve_examples` takes `examples` `(B,)`, serialized tf.Examples of raw features in
    which a missing feature counts as missing; `encoded` takes ids. Vocabularies are copied into the SavedModel's assets. The folder
    is written under a temporary name and renamed, so a folder at `path` is always whole.

    Args:
        model: A model built by a factory of this package on `schema` (TensorFlow backend).
        schema: The fitted `Schema`.
        vocabularies: `{table: keras_ctr.data.Vocabulary}` for the tables that have one.
        path: Folder to create; TF Serving wants `<name>/<version>`, version a number.
        overwrite: Whether to replace a folder that is there.

    Returns:
        The path as a `pathlib.Path`.

    Raises:
        FileExistsError: If `path` exists and `overwrite` is False.
        RuntimeError: If the active Keras backend is not TensorFlow.
        SchemaError: If the model's inputs are not the schema's features.
    """
    if keras.backend.backend() != "tensorflow":
        active = keras.backend.backend()
        raise RuntimeError(f"export needs the TensorFlow backend, not '{active}': set KERAS_BACKEND=tensorflow")
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another version or pass overwrite=True")
    _check_inputs(model, schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.incomplete-", dir=path.parent))
    try:
        with tempfile.TemporaryDirectory() as folder:
            preprocessing = RawPreprocessing(schema, _write_vocabularies(vocabularies, Path(folder)))
            _write(model, schema, preprocessing, staging / "saved_model")
        if path.exists():
            os.replace(path, staging / "replaced")  # deleted with the staging folder, after the new one is in place
        os.replace(staging / "saved_model", path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return path


def _check_inputs(model, schema):
    inputs = {tensor.name for tensor in model.inputs} - getattr(model, "optional_inputs", frozenset())
    if inputs != set(schema.feature_names):
        extra, missing = sorted(inputs - set(schema.feature_names)), sorted(set(schema.feature_names) - inputs)
        raise SchemaError(f"the model was not built on this schema: it has the inputs {extra} beside it and lacks {missing}")


def _write_vocabularies(vocabularies, folder):
    """One text file a table. The base name becomes the asset's name, so it carries the table's."""
    files = {}
    for name, vocabulary in vocabularies.items():
        files[name] = folder / f"vocabulary_{quote(name, safe='')}.txt"
        vocabulary.save(files[name])
    return files


def _write(model, schema, preprocessing, path):
    encoded_specs = {
        name: tf.TensorSpec((None, *schema.encoded_shape(name)), schema.encoded_dtype(name), name=name) for name in schema.feature_names
    }
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.track(preprocessing)

    def score(encoded):
        return {label: tf.cast(value, tf.float32) for label, value in model(encoded, training=False).items()}

    # Keras turns a dict signature of one positional argument into named inputs.
    archive.add_endpoint("serving_default", lambda raw: score(preprocessing(raw)), input_signature=[preprocessing.raw_specs()])
    archive.add_endpoint(
        "serve_examples",
        lambda examples: score(preprocessing(preprocessing.parse_examples(examples))),
        input_signature=[tf.TensorSpec((None,), tf.string, name="examples")],
    )
    archive.add_endpoint("encoded", score, input_signature=[encoded_specs])
    # Keras 3.15 lists each variable as a Keras and as a TensorFlow object and so writes it twice; the TensorFlow objects suffice.
    trackable = archive._tf_trackable
    for collection in ("variables", "trainable_variables", "non_trainable_variables"):
        setattr(trackable, collection, [variable.value for variable in getattr(trackable, collection)])
    archive.write_out(str(path), verbose=False)
