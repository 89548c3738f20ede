"""Hashed tables in the graph and in the exported SavedModel: the ids of the offline road, for every kind of value."""

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

import keras_ctr
from keras_ctr import Categorical, Numeric, Schema, SchemaError, Sequence
from keras_ctr.data import Encoder, Vocabulary, fit_schema
from keras_ctr.serving import SavedModelRunner, export_model
from keras_ctr.serving.preprocessing import RawPreprocessing
from tests.serving.test_export import example, served

ROWS = 1009
SCHEMA = Schema(
    features=[
        Categorical("city", hash_buckets=97),
        Categorical("item", dtype="int64", hash_buckets=10**6 + 3, quotient_remainder=1009),
        Categorical("brand"),
        Categorical("slot", vocabulary_size=7, dtype="int64"),
        Numeric("price"),
        Sequence("items", 5, table="item", target="item", group="clicks"),
        Sequence("cities", 5, table="city", target="city", group="clicks"),
        Sequence("slots", 3, table="slot", group="slots"),
        Sequence("words", 3, hash_buckets=13, group="words"),
    ],
    labels=["click"],
)
CITIES = ["Köln", "東京", "a b", "", "x" * 40, "y" * 200, "\U0001f600", "a\nb", "a\0b", "7", "-1", None]
ITEMS = [None, -1, 0, 1, 7, -2, 2**63 - 1, -(2**63), 10**18]


def raw_table(rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)

    def pick(values, count):
        return [values[i] for i in rng.integers(0, len(values), count)]

    lengths = rng.integers(0, 9, rows)
    some = [*ITEMS, *rng.integers(-(2**63), 2**63, 400).tolist(), *range(300)]
    many = [*CITIES, *(f"city {i} " + "z" * (i % 80) for i in range(300))]
    return pa.table(
        {
            "city": pa.array(pick(many, rows)),
            "item": pa.array(pick(some, rows), pa.int64()),
            "brand": pa.array(pick(["u", "v", "w"], rows)),
            "slot": pa.array(rng.integers(2, 7, rows), pa.int64()),
            "price": pa.array(rng.random(rows).astype("float32")),
            "items": pa.array([pick(some + [-1] * 300, n) for n in lengths], pa.list_(pa.int64())),
            "cities": pa.array([pick(many + ["", None] * 100, n) for n in lengths], pa.list_(pa.string())),
            "slots": pa.array([rng.integers(0, 7, n).tolist() for n in rng.integers(0, 6, rows)], pa.list_(pa.int64())),
            "words": pa.array([pick(["p", "q", "", "ß"], n) for n in rng.integers(0, 6, rows)], pa.list_(pa.string())),
            "click": pa.array(rng.integers(0, 2, rows), pa.int64()),
        }
    )


def request(table, schema):
    """`served`, with the missing steps inside a sequence written as a request writes them."""
    columns = {}
    for name in table.column_names:
        values = table[name].to_pylist()
        if name in schema.feature_names and schema.encoded_shape(name):
            missing = "" if schema.raw_dtype(name) == "string" else -1
            values = [[missing if v is None else v for v in row] for row in values]
        columns[name] = pa.array(values, table[name].type)
    return served(pa.table(columns), schema)


@pytest.fixture(scope="module")
def fitted():
    table = raw_table()
    return table, *fit_schema([table], SCHEMA)


def test_ids_in_the_graph_are_the_ids_offline(fitted, tmp_path):
    table, schema, vocabularies = fitted
    encoder = Encoder(schema, vocabularies)
    offline = encoder.encode(table).features
    vocabularies["brand"].save(tmp_path / "brand.txt")
    graph = tf.function(RawPreprocessing(schema, {"brand": tmp_path / "brand.txt"}).__call__)
    online = graph({k: tf.constant(v) for k, v in request(table, schema).items()})
    for name in schema.feature_names:
        assert online[name].dtype == schema.encoded_dtype(name)
        np.testing.assert_array_equal(online[name].numpy(), offline[name], err_msg=name)
    assert len(np.unique(offline["item"])) > 300 and len(np.unique(offline["city"])) > 80
    for name in ("city", "item"):  # a missing value is the unknown id, a value never is; padding is no id of a field
        missing = np.array([v in (None, "", -1) for v in table[name].to_pylist()])
        np.testing.assert_array_equal(offline[name] == 1, missing)
        assert missing.any() and offline[name].min() == 1 and encoder.report.features[name].unknown == 0
    assert {0, 1} < set(offline["items"].ravel().tolist()) and {0, 1} < set(offline["cities"].ravel().tolist())


@pytest.mark.slow
def test_savedmodel_equals_predict(fitted, tmp_path):
    table, schema, vocabularies = fitted
    model = keras_ctr.models.DNN(schema, embedding_dim=3, hidden_units=(5,))
    rng = np.random.default_rng(0)
    for v in model.trainable_variables:
        v.assign(keras.ops.convert_to_numpy(v) + rng.normal(size=v.shape).astype("float32"))
    path = export_model(model, schema, vocabularies, tmp_path / "1")
    assert [p.name for p in (path / "assets").iterdir()] == ["vocabulary_brand.txt"]
    part = table.slice(0, 256)
    x = Encoder(schema, vocabularies).encode(part).features
    expected = model.predict(x, verbose=0)["click"]
    rows = request(part, schema)
    with SavedModelRunner(path) as saved:
        raw = saved.run("serving_default", rows)["click"]
        examples = saved.run("serve_examples", {"examples": [example(row, schema) for row in part.to_pylist()]})["click"]
        others = saved.run("serving_default", {**rows, "city": rows["city"][1:] + rows["city"][:1]})["click"]
        odd = saved.run("serving_default", {k: [b"\xff\xfe", b"\0"] if k == "city" else v[:2] for k, v in rows.items()})["click"]
    np.testing.assert_allclose(raw, expected, atol=1e-6)
    np.testing.assert_allclose(examples, expected, atol=1e-6)
    assert np.isfinite(odd).all()
    # The comparison sees wrong ids: another city gives another score, by far more than the tolerance.
    changed = x["city"] != np.roll(x["city"], -1)
    assert changed.sum() > 200 and np.mean(np.abs(others - expected)[changed] > 1e-5) > 0.9


def test_a_hashed_table_takes_no_vocabulary(fitted, tmp_path):
    _, schema, vocabularies = fitted
    wrong = {**vocabularies, "words": Vocabulary([f"v{i}" for i in range(13)])}
    with pytest.raises(SchemaError, match=r"table 'words' \(feature 'words'\) has hash_buckets=13, .* leave the table out of the voc"):
        export_model(keras_ctr.models.LR(schema), schema, wrong, tmp_path / "1")
    assert not (tmp_path / "1").exists()
