import numpy as np
import pytest
import tensorflow as tf

from keras_ctr import Categorical, Label, Numeric, Schema, Sequence
from keras_ctr.data.encode import EncodedBatch
from keras_ctr.data.example import example_kinds, serialize_examples
from tests.data.prepared_sample import encoded, sample_schema


def protobuf_example(batch, row):
    """One row through protobuf's own objects."""
    example = tf.train.Example()
    for name, values in {**batch.features, **batch.labels}.items():
        feature = example.features.feature[name]
        row_values = np.atleast_1d(values[row])
        if values.dtype.kind == "f":
            feature.float_list.value.extend(row_values.tolist())
        else:
            last = max((i + 1 for i, value in enumerate(row_values) if value != 0), default=0)
            kept = row_values[:last] if values.ndim == 2 else row_values
            feature.int64_list.SetInParent()
            feature.int64_list.value.extend(int(value) for value in kept)
    return example


def check_equal(batch, schema):
    serialized = serialize_examples(batch, schema)
    assert len(serialized) == batch.num_rows
    for row, data in enumerate(serialized):
        expected = protobuf_example(batch, row)
        assert tf.train.Example.FromString(data) == expected
        assert len(data) == expected.ByteSize()  # no number is written longer than it must be


def test_equals_protobuf():
    check_equal(encoded(67), sample_schema())


def test_bytes_equal_protobufs_own():
    # protobuf's order of keys is its own affair where one name begins with another; of these names no order is in doubt
    schema = Schema([Categorical("b", 2**21), Sequence("a", max_length=3, vocabulary_size=2**21), Numeric("c", transform="none")], ["d"])
    ids = np.array([[1, 128, 0], [16384, 0, 0], [0, 0, 0]])
    features = {"a": ids, "b": ids[:, 0], "c": np.array([0.5, -1.5, 0.0], np.float32)}
    batch = EncodedBatch(features, {"d": np.array([[0], [1], [1]], np.float32)})
    expected = [protobuf_example(batch, row).SerializeToString(deterministic=True) for row in range(3)]
    assert serialize_examples(batch, schema) == expected


def test_sequence_zeros_at_the_end_are_left_out_and_inner_ones_kept():
    schema = Schema([Sequence("seq", max_length=4, vocabulary_size=9)], ["y"])
    ids = np.array([[0, 0, 0, 0], [5, 0, 0, 0], [0, 5, 0, 7], [0, 0, 3, 0]], np.int32)
    batch = EncodedBatch({"seq": ids}, {"y": np.zeros((4, 1), np.float32)})
    parsed = [tf.train.Example.FromString(data) for data in serialize_examples(batch, schema)]
    kept = [list(example.features.feature["seq"].int64_list.value) for example in parsed]
    assert kept == [[], [5], [0, 5, 0, 7], [0, 0, 3]]
    assert all(example.features.feature["seq"].WhichOneof("kind") == "int64_list" for example in parsed)
    check_equal(batch, schema)


def test_every_size_of_number():
    edges = [0, 1, -1, 2**63 - 1, -(2**63)]
    for bits in range(7, 64, 7):
        edges += [2**bits - 1, 2**bits % 2**63, -(2**bits % 2**63)]
    rows = len(edges)
    schema = Schema([Categorical("id", 2**40)], ["y"], group="id", time="t")
    meta = {"meta/group": np.array(edges), "meta/time": np.array(edges[::-1])}
    ids = np.array([abs(e) % 2**31 for e in edges], np.int32)
    check_equal(EncodedBatch({"id": ids, **meta}, {"y": np.ones((rows, 1), np.float32)}), schema)
    check_equal(EncodedBatch({"id": np.zeros(rows, np.int64), **meta}, {"y": np.ones((rows, 1), np.float32)}), schema)


def test_unsigned_and_boolean_ids():
    schema = Schema([Categorical("a", 300), Categorical("b", 3)], ["y"])
    features = {"a": np.array([255, 3], np.uint8), "b": np.array([True, False])}
    check_equal(EncodedBatch(features, {"y": np.ones((2, 1), np.float32)}), schema)


def test_odd_floats():
    schema = Schema([Numeric("x", transform="none")], ["y"])
    values = np.array([0.0, -0.0, np.inf, 1e-45, 3.4e38], np.float32)
    check_equal(EncodedBatch({"x": values}, {"y": np.ones((5, 1), np.float32)}), schema)


def test_float64_is_stored_as_float32():
    schema = Schema([Numeric("x", transform="none")], ["y"])
    data = serialize_examples(EncodedBatch({"x": np.array([0.1])}, {"y": np.ones((1, 1))}), schema)[0]
    assert tf.train.Example.FromString(data).features.feature["x"].float_list.value[0] == np.float32(0.1)


@pytest.mark.parametrize("length", [41, 127, 128, 6007])
def test_long_names_and_long_sequences(length):
    # lengths of one, two and three bytes at every level of the message, within one chunk of rows
    schema = Schema([Categorical("é" * 67, 9), Sequence("s" * 131, max_length=length, vocabulary_size=2**22)], [Label("标签")])
    rng = np.random.default_rng(0)
    count = np.array([0, 1, length // 2, length])
    ids = rng.integers(1, 2**22, (4, length)) * (np.arange(length) < count[:, None])
    batch = EncodedBatch({"é" * 67: np.arange(4), "s" * 131: ids}, {"标签": np.zeros((4, 1), np.float32)})
    check_equal(batch, schema)


def test_rows_of_a_large_batch_equal_rows_alone():
    batch, schema = encoded(4999), sample_schema()
    together = serialize_examples(batch, schema)
    assert len(together) == 4999
    for row in (0, 2047, 2048, 4998):
        alone = EncodedBatch(
            {k: v[row : row + 1] for k, v in batch.features.items()}, {k: v[row : row + 1] for k, v in batch.labels.items()}
        )
        assert serialize_examples(alone, schema) == [together[row]]


def test_no_rows():
    assert serialize_examples(encoded(0), sample_schema()) == []


def test_kinds():
    kinds = example_kinds(sample_schema())
    assert list(kinds) == [*sample_schema().feature_names, "meta/group", "meta/time", "click", "like"]
    assert kinds["price"] == kinds["click"] == "float32"
    assert kinds["age"] == kinds["clicked_item"] == kinds["meta/time"] == "int64"


def changed(**changes):
    batch = encoded(3)
    features = {**batch.features, **changes.pop("features", {})}
    labels = {**batch.labels, **changes.pop("labels", {})}
    for name in changes.pop("without", ()):
        features.pop(name, labels.pop(name, None))
    return EncodedBatch(features, labels)


@pytest.mark.parametrize(
    "batch, message",
    [
        (changed(without=["item"], features={"itme": np.zeros(3, int)}), "'item' is missing; did you mean 'itme'"),
        (changed(features={"extra": np.zeros(3, int)}), "'extra' is not in the schema"),
        (changed(without=["meta/time"]), "'meta/time' is missing"),
        (changed(without=["like"]), "'like' is missing"),
        (changed(features={"item": np.zeros(3)}), "'item' must be int64 of shape .3,., got float64"),
        (changed(features={"price": np.zeros(3, int)}), "'price' must be float32"),
        (changed(features={"user": np.array(["a", "b", "c"])}), "'user' must be int64"),
        (changed(features={"user": np.zeros(2, int)}), r"'user' must be int64 of shape \(3,\), got int64 of shape \(2,\)"),
        (changed(features={"liked_item": np.zeros((3, 4), int)}), r"'liked_item' must be int64 of shape \(3, 5\)"),
        (changed(labels={"click": np.zeros(3)}), r"'click' must be float32 of shape \(3, 1\)"),
    ],
)
def test_batches_that_do_not_fit(batch, message):
    with pytest.raises(ValueError, match=message):
        serialize_examples(batch, sample_schema())
