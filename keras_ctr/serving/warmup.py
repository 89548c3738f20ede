"""Warm-up requests: what TensorFlow Serving replays before it takes traffic, with the answers that they must have."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from keras_ctr.data import Encoder
from keras_ctr.serving.agreement import largest_difference
from keras_ctr.serving.raw_rows import as_examples, as_request
from keras_ctr.serving.runner import SavedModelRunner, _fields, _varint

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
"""Place of the file in a SavedModel, which TensorFlow Serving fixes. It reads at most 1000 records."""
_REQUEST, _RESPONSE = 1, 2  # fields of PredictLog


class WarmupRecord(NamedTuple):
    """A request and its answer: the signature's name, `{input: array}`, `{output: array}`."""

    signature: str
    inputs: dict
    outputs: dict


def make_records(model, schema, vocabularies, table, candidates):
    """Returns warm-up records of raw rows: of `serving_default`, `serve_examples` and `encoded` with one row and with all, and of `rank`
    with the first row's user and all candidates. The answers are those of `model.predict` on rows that were encoded offline.

    Args:
        model: The model.
        schema: The fitted schema.
        vocabularies: `{table: keras_ctr.data.Vocabulary}`.
        table: Arrow table of raw rows.
        candidates: Names of the candidates' features.
    """
    encoder = Encoder(schema.replace(group=None, time=None), vocabularies)
    encoded = encoder.encode(table.combine_chunks(), labels=False).features
    request, examples, rows = as_request(table, schema), as_examples(table, schema), table.num_rows

    def predict(features):
        found = model.predict(features, batch_size=rows, verbose=0)
        return {label: np.asarray(value, "float32") for label, value in found.items()}

    expected, records = predict(encoded), []
    for count in sorted({1, rows}):
        answer = {label: value[:count] for label, value in expected.items()}
        records += [
            WarmupRecord("serving_default", {name: value[:count] for name, value in request.items()}, answer),
            WarmupRecord("serve_examples", {"examples": examples[:count]}, answer),
            WarmupRecord("encoded", {name: value[:count] for name, value in encoded.items()}, answer),
        ]
    shared = {name: value if name in candidates else np.repeat(value[:1], rows, axis=0) for name, value in encoded.items()}
    ranked = {name: value if name in candidates else value[:1] for name, value in request.items()}
    return [*records, WarmupRecord("rank", ranked, predict(shared))]


def write_warmup(folder, records, name):
    """Writes the records as a TFRecord file of `PredictionLog` messages into a SavedModel's folder.

    The messages are written by hand: the classes are in tensorflow-serving-api, and of their fields only these few are needed.

    Args:
        folder: The SavedModel.
        records: `WarmupRecord`s.
        name: Name of the served model.
    """
    file = Path(folder) / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for record in records:
            spec = _field(1, name.encode()) + _field(3, record.signature.encode())  # ModelSpec: name, signature_name
            request = _field(1, spec) + _tensors(2, record.inputs)  # PredictRequest: model_spec, inputs
            response = _tensors(1, record.outputs) + _field(2, spec)  # PredictResponse: outputs, model_spec
            log = _field(_REQUEST, request) + _field(_RESPONSE, response)
            writer.write(_field(6, log))  # PredictionLog: predict_log


def read_warmup(folder):
    """Returns the `WarmupRecord`s of a SavedModel's folder; an empty list if it has no such file.

    Raises:
        ValueError: If a record is not a `PredictionLog` of a prediction.
    """
    file = Path(folder) / FILE
    if not file.exists():
        return []
    records = []
    for index, message in enumerate(tf.data.TFRecordDataset(str(file)).as_numpy_iterator()):
        try:
            log = dict(_fields(dict(_fields(memoryview(message)))[6]))
            spec = next(dict(_fields(value)) for number, value in _fields(log[_REQUEST]) if number == 1)
            signature = str(spec[3], "utf-8")
            records.append(WarmupRecord(signature, _arrays(log[_REQUEST], 2), _arrays(log[_RESPONSE], 1)))
        except (KeyError, StopIteration, ValueError) as error:
            raise ValueError(f"{file}: record {index} is no log of a prediction with its answer: {error!r}") from error
    return records


def replay_warmup(folder, *, tolerance=1e-5):
    """Runs every warm-up record of a SavedModel through TensorFlow's C API, as a server loads it, and compares the answers.

    Args:
        folder: The SavedModel.
        tolerance: Largest difference of a score.

    Returns:
        `(number of records, largest difference)`.

    Raises:
        ValueError: If an answer differs, naming record, signature and output.
        RuntimeError: If the model does not load or a request fails.
    """
    records, largest = read_warmup(folder), 0.0
    with SavedModelRunner(folder) as saved:
        for index, record in enumerate(records):
            found = saved.run(record.signature, record.inputs)
            where = f"{folder}: warm-up record {index} of signature '{record.signature}'"
            largest = max(largest, largest_difference(found, record.outputs, where, tolerance))
    return len(records), largest


def _field(number, payload):
    """Returns a length-delimited field of a protobuf message."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _tensors(number, arrays):
    """Returns a field `map<string, TensorProto>`."""
    fields = b""
    for name, array in sorted(arrays.items()):
        dtype = tf.string if array.dtype == object else tf.as_dtype(array.dtype)
        proto = tf.make_tensor_proto(array, dtype=dtype, shape=array.shape).SerializeToString(deterministic=True)
        fields += _field(number, _field(1, name.encode()) + _field(2, proto))
    return fields


def _arrays(message, number):
    """Returns the arrays of a field `map<string, TensorProto>`."""
    arrays = {}
    for field, value in _fields(message):
        if field == number:
            entry = dict(_fields(value))
            arrays[str(entry[1], "utf-8")] = tf.make_ndarray(tensor_pb2.TensorProto.FromString(bytes(entry[2])))
    return arrays
