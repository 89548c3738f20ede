"""Warm-up records: the bytes that TensorFlow Serving reads, and the replay that guards an export."""

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from keras_ctr import Categorical, Numeric, Schema, SchemaError, Sequence
from keras_ctr.data import Encoder, Vocabulary, fit_schema
from keras_ctr.serving import raw_rows, warmup
from keras_ctr.serving.warmup import WarmupRecord, read_warmup, replay_warmup, write_warmup
from tests.serving.test_export import raw_schema, raw_table, served

RECORD = WarmupRecord(
    "rank",
    {
        "city": np.array([b"K\xc3\xb6ln", b"", b"x" * 300], object),
        "items": np.array([[2**63 - 1, -1]], "int64"),
        "price": np.array([1.5, np.nan], "float32"),
        "words": np.empty((3, 0), object),
    },
    {"click": np.array([[0.25], [0.75]], "float32")},
)


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


def test_records_come_back(tmp_path):
    write_warmup(tmp_path, [RECORD, RECORD], "ctr")
    assert (tmp_path / "assets.extra" / "tf_serving_warmup_requests").is_file()
    records = read_warmup(tmp_path)
    assert [record.signature for record in records] == ["rank", "rank"]
    for record in records:
        same(record.inputs, RECORD.inputs)
        same(record.outputs, RECORD.outputs)


def descriptors():
    """The messages of tensorflow-serving-api that a warm-up file holds, with its field numbers, for protobuf's own parser."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="warmup.proto", package="t", syntax="proto3")

    def message(name, *fields):
        out = file.message_type.add(name=name)
        for number, field, kind, repeated in fields:
            one = out.field.add(name=field, number=number, label=3 if repeated else 1, type=11 if kind[0].isupper() else 9)
            if kind == "bytes":
                one.type = 12
            elif kind[0].isupper():
                one.type_name = f".t.{kind}"
        return out

    message("ModelSpec", (1, "name", "string", False), (3, "signature_name", "string", False))
    for name, number in (("PredictRequest", 2), ("PredictResponse", 1)):
        field = "inputs" if name == "PredictRequest" else "outputs"
        message(f"{name}Entry", (1, "key", "string", False), (2, "value", "bytes", False))
        message(name, (3 - number, "model_spec", "ModelSpec", False), (number, field, f"{name}Entry", True))
    message("PredictLog", (1, "request", "PredictRequest", False), (2, "response", "PredictResponse", False))
    message("PredictionLog", (6, "predict_log", "PredictLog", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.PredictionLog"))


def messages(folder):
    return list(tf.data.TFRecordDataset(str(folder / warmup.FILE)).as_numpy_iterator())


def test_protobuf_reads_the_messages(tmp_path):
    """Field numbers are those of tensorflow-serving-api's prediction_log.proto, predict.proto and model.proto."""
    write_warmup(tmp_path, [RECORD], "ctr")
    log = descriptors().FromString(messages(tmp_path)[0]).predict_log
    assert (log.request.model_spec.name, log.request.model_spec.signature_name) == ("ctr", "rank")
    for entries, expected in ((log.request.inputs, RECORD.inputs), (log.response.outputs, RECORD.outputs)):
        same({e.key: tf.make_ndarray(tensor_pb2.TensorProto.FromString(e.value)) for e in entries}, expected)


def test_tensorflow_serving_reads_the_messages(tmp_path):
    prediction_log_pb2 = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    write_warmup(tmp_path, [RECORD], "ctr")
    message = prediction_log_pb2.PredictionLog.FromString(messages(tmp_path)[0])
    assert message.WhichOneof("log_type") == "predict_log"
    request, response = message.predict_log.request, message.predict_log.response
    assert (request.model_spec.name, request.model_spec.signature_name) == ("ctr", "rank")
    same({k: tf.make_ndarray(v) for k, v in request.inputs.items()}, RECORD.inputs)
    same({k: tf.make_ndarray(v) for k, v in response.outputs.items()}, RECORD.outputs)


def test_a_folder_without_records_and_one_with_damaged_ones(tmp_path):
    assert read_warmup(tmp_path) == []
    write_warmup(tmp_path, [RECORD], "ctr")
    with tf.io.TFRecordWriter(str(tmp_path / warmup.FILE)) as writer:
        writer.write(b"\x0a\x00")  # a log without prediction
    with pytest.raises(ValueError, match="record 0 is no log of a prediction"):
        read_warmup(tmp_path)


def test_requests_of_raw_rows_are_what_the_export_tests_send():
    schema, _ = fit_schema([raw_table(300)], raw_schema(), min_count=2)
    table = raw_table(211, seed=1)
    expected = served(table, schema)
    for name, found in raw_rows.as_request(raw_rows.as_table(table, schema, 1000), schema).items():
        if schema.raw_dtype(name) == "string":
            found = np.vectorize(bytes.decode, otypes=[object])(found)
        np.testing.assert_array_equal(found, np.array(expected[name], found.dtype), err_msg=name)


def test_rows_may_be_columns_and_are_checked():
    schema = Schema(features=[Categorical("city", vocabulary=["a"]), Numeric("price", transform="none")], labels=["click"])
    rows = {"city": ["a", None, "b"], "price": [1.0, None, 2.0], "other": [1, 2, 3]}
    table = raw_rows.as_table(rows, schema, 2)
    assert table.column_names == ["city", "price"] and table.num_rows == 2
    assert raw_rows.as_request(table, schema)["city"].tolist() == [b"a", b""]
    example = tf.train.Example.FromString(raw_rows.as_examples(table, schema)[1])
    assert not example.features.feature  # all of it is missing
    with pytest.raises(SchemaError, match="lack the column 'city'"):
        raw_rows.as_table({"price": [1.0]}, schema, 2)
    with pytest.raises(SchemaError, match="at least one raw row"):
        raw_rows.as_table({"city": pa.array([], pa.string()), "price": pa.array([], pa.float32())}, schema, 2)


def test_encoded_rows_turn_back_into_raw_ones():
    """Encoding what comes back gives the same encoded rows, but for what ids do not tell."""
    schema = Schema(
        features=[
            Categorical("city", vocabulary=["a", "b", "c"]),
            Categorical("slot", vocabulary_size=7, dtype="int64"),
            Categorical("word", hash_buckets=5),
            Numeric("price", transform="log1p_standardize", mean=2.0, std=3.0),
            Numeric("score", transform="standardize", mean=-1.0, std=0.5),
            Numeric("plain", transform="none"),
            Numeric("age", transform="log_square", num_bins=11),
            Sequence("cities", 3, table="city", target="city", group="g"),
            Sequence("slots", 3, table="slot", group="g"),
        ],
        labels=["click"],
    )
    rows = {
        "city": ["c", None, "a"],
        "slot": [6, 2, 1],
        "word": [None, None, None],
        "price": [-3.0, 0.5, 700.0],
        "score": [1.0, -7.0, 0.0],
        "plain": [0.25, 1e6, -1e-3],
        "age": [None, 0.0, 40.0],
        "cities": [["a", "b"], [], ["c", "b", "a", "b"]],
        "slots": [[3, 0], [], [1, 2, 3, 4]],
    }
    encoder = Encoder(schema)
    encoded = encoder.encode(pa.table(rows), labels=False).features
    back = raw_rows.from_encoded(encoded, schema, {"city": Vocabulary(["a", "b", "c"])})
    assert back["city"] == ["c", "", "a"] and back["cities"] == [["a", "b"], [], ["b", "a", "b"]]
    types = {"cities": pa.list_(pa.string()), "slots": pa.list_(pa.int64())}
    table = pa.table({name: pa.array(values, types.get(name)) for name, values in back.items()})
    again = encoder.encode(table, labels=False).features
    for name in schema.feature_names:
        np.testing.assert_allclose(again[name], encoded[name], atol=1e-6, rtol=1e-5, err_msg=name)


def test_a_model_written_by_tensorflow_alone_does_not_load(tmp_path):
    """The control: this loads in Python and in no server, so a replay must refuse it."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    function = tf.function(lambda x: {"y": model(x)}, input_signature=[tf.TensorSpec((None, 3), name="x")])
    tf.saved_model.save(model, str(tmp_path), signatures=function)
    x = np.ones((1, 3), "float32")
    write_warmup(tmp_path, [WarmupRecord("serving_default", {"x": x}, {"y": np.asarray(model(x))})], "control")
    assert tf.saved_model.load(str(tmp_path)).signatures["serving_default"](x=tf.constant(x))["y"].shape == (1, 1)
    with pytest.raises(RuntimeError, match="TensorFlow: "):
        replay_warmup(tmp_path)
