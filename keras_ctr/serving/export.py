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
from keras_ctr.serving.ranking import candidate_names, rank
from keras_ctr.serving.request_checks import check_encoded, check_request, parse_examples
from keras_ctr.serving.signature_defs import finish_signatures

SIGNATURES = ("serving_default", "serve_examples", "encoded", "rank", "classify")
"""Signatures of every exported model: raw named features, serialized tf.Examples of raw features, encoded features, one user against N
candidates, TensorFlow Serving's classification. There is one of regression a label beside them (`signature_defs.regressions`)."""


def export_model(model, schema, vocabularies, path, *, candidate_features=None, overwrite=False):
    """Writes a SavedModel that scores raw features, serialized tf.Examples, ids, and one user against N candidates.

    The first four signatures return `{label: (B, 1)}` float32. `serving_default` takes raw named features and does vocabulary look-up,
    binning and truncation in the graph (`RawPreprocessing`); `serve_examples` takes `examples` `(B,)`, serialized tf.Examples of raw
    features in which a missing feature counts as missing; `encoded` takes ids; `rank` takes the raw features of one user in one row and
    those of N candidates in N (`ranking.candidate_names`, `ranking.rank`). `classify` and `regress` (with several labels
    `regress_<label>`) have the names and methods of TensorFlow Serving's classification and regression calls; they take tf.Examples.

    Features that do not belong together (other numbers of rows, or of steps in a group of sequences) are errors that name a feature.
    Vocabularies are copied into the SavedModel's assets, each variable is written once. The folder is written under a temporary name and
    renamed, so a folder at `path` is always whole.

    Args:
        model: A model built by a factory of this package on `schema` (TensorFlow backend).
        schema: The fitted `Schema`.
        vocabularies: `{table: keras_ctr.data.Vocabulary}` for the tables that have one.
        path: Folder to create; TF Serving wants `<name>/<version>`, version a number (`export_bundle` makes that and all else).
        candidate_features: Names of the features that are the candidate's in `rank`. None: all but the sequences and the schema's group.
        overwrite: Whether to replace a folder that is there.

    Returns:
        The path as a `pathlib.Path`.

    Raises:
        FileExistsError: If `path` exists and `overwrite` is False.
        RuntimeError: If the active Keras backend is not TensorFlow.
        SchemaError: If the model's inputs are not the schema's features, or on wrong `candidate_features`.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another version or pass overwrite=True")
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.incomplete-", dir=path.parent))
    try:
        write_saved_model(model, schema, vocabularies, staging / "saved_model", candidate_features=candidate_features)
        if path.exists():
            os.replace(path, staging / "replaced")  # deleted with the staging folder, after the new one is in place
        os.replace(staging / "saved_model", path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return path


def write_saved_model(model, schema, vocabularies, path, *, candidate_features=None):
    """Writes the SavedModel of `export_model` to a folder that nobody reads yet; arguments and errors as there."""
    if keras.backend.backend() != "tensorflow":
        active = keras.backend.backend()
        raise RuntimeError(f"export needs the TensorFlow backend, not '{active}': set KERAS_BACKEND=tensorflow")
    _check_inputs(model, schema)
    candidates = candidate_names(schema, candidate_features)
    with tempfile.TemporaryDirectory() as folder:
        preprocessing = RawPreprocessing(schema, _write_vocabularies(vocabularies, Path(folder)))
        _write(model, schema, preprocessing, candidates, path)
    finish_signatures(path, schema.label_names, [name for name in schema.feature_names if name not in candidates])


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


def _write(model, schema, preprocessing, candidates, path):
    encoded_specs = {
        name: tf.TensorSpec((None, *schema.encoded_shape(name)), schema.encoded_dtype(name), name=name) for name in schema.feature_names
    }
    raw_specs = preprocessing.raw_specs()
    users = [name for name in raw_specs if name not in candidates]
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.track(preprocessing)

    # One function that all signatures call, so that the model is traced, and stored, once.
    @tf.function(input_signature=[encoded_specs])
    def score(encoded):
        return {label: tf.cast(value, tf.float32) for label, value in model(encoded, training=False).items()}

    def score_raw(raw):
        return score(preprocessing(check_request(raw, schema)))

    def score_examples(examples):
        return score_raw(parse_examples(preprocessing, schema, examples))

    def score_candidates(raw):
        encoded = preprocessing(check_request(raw, schema, single=users))
        return {label: tf.cast(value, tf.float32) for label, value in rank(model, encoded, candidates).items()}

    def classify(inputs):
        found = score_examples(inputs)
        scores = tf.concat([found[label] for label in schema.label_names], axis=1)  # (B, L)
        classes = tf.broadcast_to(tf.constant([schema.label_names]), tf.shape(scores))
        return {"classes": classes, "scores": scores}

    # Keras turns a dict signature of one positional argument into named inputs.
    archive.add_endpoint("serving_default", score_raw, input_signature=[raw_specs])
    archive.add_endpoint("serve_examples", score_examples, input_signature=[tf.TensorSpec((None,), tf.string, name="examples")])
    archive.add_endpoint("encoded", lambda encoded: score(check_encoded(encoded, schema)), input_signature=[encoded_specs])
    archive.add_endpoint("rank", score_candidates, input_signature=[raw_specs])
    archive.add_endpoint("classify", classify, input_signature=[tf.TensorSpec((None,), tf.string, name="inputs")])
    # Keras 3.15 lists each variable as a Keras and as a TensorFlow object and so writes it twice; the TensorFlow objects suffice.
    trackable = archive._tf_trackable
    for collection in ("variables", "trainable_variables", "non_trainable_variables"):
        setattr(trackable, collection, [variable.value for variable in getattr(trackable, collection)])
    archive.write_out(str(path), verbose=False)
