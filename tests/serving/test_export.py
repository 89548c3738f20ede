"""The exported SavedModel, scored through TensorFlow's C API in a process of its own, against the offline road."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pytest

import keras_ctr
from keras_ctr import Categorical, Numeric, Schema, SchemaError, Sequence
from keras_ctr.data import Encoder, fit_schema
from keras_ctr.schema import META_GROUP
from keras_ctr.serving import SIGNATURES, SavedModelRunner, export_model, runner

ROWS = 10_007
CANDIDATE = ("item", "price", "age")
"""Features of the candidate: the target of one of two sequences of the group `clicks`, a number and a binned one."""


def raw_schema():
    return Schema(
        features=[
            Categorical("city"),
            Categorical("item", dtype="int64"),
            Categorical("slot", vocabulary_size=7, dtype="int64"),
            Numeric("price", transform="log1p_standardize"),
            Numeric("age", transform="log_square", num_bins=11),
            Numeric("score", transform="standardize"),
            Sequence("items", 5, table="item", target="item", group="clicks"),
            Sequence("cities", 5, table="city", target="city", group="clicks"),
            Sequence("words", 3, group="words"),
        ],
        labels=["click"],
        group="city",
    )


def raw_table(rows=ROWS, seed=0):
    """Raw rows with everything that goes wrong: unknown values, missing ones, NaN, infinities, empty and long histories."""
    rng = np.random.default_rng(seed)
    cities = np.array(["Köln", "東京", "a b", "", "x" * 40, "rare"])
    lengths = rng.integers(0, 9, rows)
    words = rng.integers(0, 6, rows)
    price = rng.normal(size=rows).astype("float32") * 10 ** rng.integers(-3, 6, rows).astype("float32")
    price[rng.random(rows) < 0.05] = np.nan
    price[rng.random(rows) < 0.01] = np.inf
    age = (rng.normal(size=rows) * 30).astype("float32")
    # The ends of the bins themselves, where a different rounding would choose the neighbour.
    ends = np.sqrt(np.expm1(np.arange(1, 11))).astype("float32")
    age[:200] = np.resize(np.concatenate([ends, -ends, np.nextafter(ends, 0), np.nextafter(ends, 99)]), 200)
    return pa.table(
        {
            "city": pa.array(rng.choice(cities, rows)),
            "item": pa.array(rng.integers(0, 300, rows), pa.int64()),
            "slot": pa.array(rng.integers(2, 7, rows), pa.int64()),
            "price": pa.array(price),
            "age": pa.array(age),
            "score": pa.array(rng.normal(size=rows).astype("float32"), mask=rng.random(rows) < 0.1),
            "items": pa.array([rng.integers(-1, 400, n).tolist() for n in lengths], pa.list_(pa.int64())),
            "cities": pa.array([rng.choice(cities, n).tolist() for n in lengths], pa.list_(pa.string())),
            "words": pa.array([rng.choice(["p", "q", "r", "zz"], n).tolist() for n in words], pa.list_(pa.string())),
            "click": pa.array(rng.integers(0, 2, rows), pa.int64()),
        }
    )


def served(table, schema):
    """A raw Arrow table as the dict of a request: no nulls, sequences of one length padded with the missing value."""
    out = {}
    for name in schema.feature_names:
        kind = schema.raw_dtype(name)
        missing = {"string": "", "int64": -1, "float32": float("nan")}[kind]
        values = [missing if v is None else v for v in table[name].to_pylist()]
        if schema.encoded_shape(name):
            longest = max(map(len, values))
            values = [row + [missing] * (longest - len(row)) for row in values]
        if kind == "string":
            out[name] = values
        else:
            out[name] = np.array(values, dtype=kind)
    return out


@pytest.fixture(scope="module")
def fitted():
    table = raw_table()
    schema, vocabularies = fit_schema([table.slice(0, 500)], raw_schema(), min_count=2)
    return table, schema, vocabularies


def randomised(name, schema):
    model = keras_ctr.get_model(name, schema)
    rng = np.random.default_rng(0)
    for v in model.trainable_variables:
        v.assign(keras.ops.convert_to_numpy(v) + rng.normal(size=v.shape).astype("float32") * 0.05)
    return model


def test_ids_in_the_graph_are_the_ids_offline(fitted):
    """Train/serve skew: every id of every row, on 10,007 raw rows."""
    import tensorflow as tf

    from keras_ctr.serving.preprocessing import RawPreprocessing

    table, schema, vocabularies = fitted
    offline = Encoder(schema, vocabularies).encode(table.combine_chunks().to_batches()[0])
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, vocabulary in vocabularies.items():
            files[name] = Path(folder) / f"{name}.txt"
            vocabulary.save(files[name])
        graph = tf.function(RawPreprocessing(schema, files).__call__)
        online = graph({k: tf.constant(v) for k, v in served(table, schema).items()})
    for name in schema.feature_names:
        np.testing.assert_array_equal(online[name].numpy(), offline.features[name], err_msg=name)
    assert len(np.unique(offline.features["city"])) > 4 and (offline.features["item"] == 1).any()


@pytest.mark.parametrize("name", [n if n == "DNN" else pytest.param(n, marks=pytest.mark.slow) for n in keras_ctr.list_models()])
def test_savedmodel_equals_predict(name, fitted, tmp_path):
    table, schema, vocabularies = fitted
    model = randomised(name, schema)
    path = export_model(model, schema, vocabularies, tmp_path / "served" / "1", candidate_features=CANDIDATE)
    assert [p.name for p in (tmp_path / "served").iterdir()] == ["1"]
    part = table.slice(0, 256)
    encoded = Encoder(schema, vocabularies).encode(part.combine_chunks().to_batches()[0]).features
    expected = model.predict(encoded, verbose=0)["click"]
    with SavedModelRunner(path) as saved:
        assert set(SIGNATURES) <= set(saved.signatures)
        raw = saved.run("serving_default", served(part, schema))["click"]
        ids = saved.run("encoded", {k: encoded[k] for k in schema.feature_names})["click"]
        examples = saved.run("serve_examples", {"examples": [example(row, schema) for row in part.to_pylist()]})["click"]
        request = served(part, schema)
        rows, once = one_user(request, schema, user=longest(part))
        shared, ranked = saved.run("serving_default", rows)["click"], saved.run("rank", once)["click"]
    np.testing.assert_allclose(raw, expected, atol=1e-6)
    np.testing.assert_allclose(ids, expected, atol=1e-6)
    np.testing.assert_allclose(examples, expected, atol=1e-6)
    assert np.ptp(expected) > 1e-4
    # One user and 256 candidates: the same as 256 whole rows, and not the same as any other user's.
    assert ranked.shape == (256, 1)
    np.testing.assert_allclose(ranked, shared, atol=1e-6)
    assert np.ptp(shared) > 1e-5 and np.max(np.abs(shared - expected)) > 1e-5


def longest(table):
    """The row with the most clicks."""
    return int(np.argmax([len(row) for row in table["items"].to_pylist()]))


def one_user(request, schema, user, candidates=CANDIDATE):
    """Rows that all have the user's features of one row, and the same as a ranking request."""
    rows, once = dict(request), dict(request)
    for name, values in request.items():
        if name not in candidates:
            once[name] = values[user : user + 1]
            rows[name] = [values[user]] * len(values) if isinstance(values, list) else np.repeat(once[name], len(values), axis=0)
    return rows, once


def example(row, schema):
    """A serialized tf.Example of one raw row; what is missing is left out."""
    import tensorflow as tf

    features = {}
    for name in schema.feature_names:
        kind = schema.raw_dtype(name)
        missing = {"string": "", "int64": -1, "float32": None}[kind]
        values = row[name] if schema.encoded_shape(name) else [row[name]]
        if not schema.encoded_shape(name) and values[0] is None:
            continue
        values = [missing if v is None else v for v in values]
        if kind == "string":
            features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[v.encode() for v in values]))
        elif kind == "int64":
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        else:
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


@pytest.mark.slow
def test_runs_where_neither_keras_nor_keras_ctr_is_imported(fitted, tmp_path):
    table, schema, vocabularies = fitted
    model = randomised("InterFormer", schema)
    path = export_model(model, schema, vocabularies, tmp_path / "1")
    part = table.slice(0, 31)
    rows = {
        k: v if isinstance(v, list) else [[None if x != x else x for x in r] if np.ndim(r) else r for r in v.tolist()]
        for k, v in served(part, schema).items()
    }
    rows["price"] = [0.0 if v != v else v for v in rows["price"]]
    rows["score"] = [0.0 if v != v else v for v in rows["score"]]
    (tmp_path / "rows.json").write_text(json.dumps(rows).replace("Infinity", "1e30"))
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as done: assert not done.code, done.code\n"
        "assert not {'keras', 'keras_ctr', 'tensorflow'} & set(sys.modules)"
    )
    command = [
        sys.executable,
        "-c",
        code,
        runner.__file__,
        str(path),
        "--input",
        str(tmp_path / "rows.json"),
        "--output",
        str(tmp_path / "out.json"),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    scores = np.array(json.loads((tmp_path / "out.json").read_text())["click"], dtype="float64").reshape(-1)
    with SavedModelRunner(path) as saved:
        again = {
            k: (v if schema.raw_dtype(k) == "string" else np.array(v, dtype=schema.raw_dtype(k)))
            for k, v in json.loads((tmp_path / "rows.json").read_text()).items()
        }
        np.testing.assert_allclose(scores, saved.run("serving_default", again)["click"][:, 0], atol=1e-6)


@pytest.mark.slow
def test_variables_are_stored_once(fitted, tmp_path):
    import tensorflow as tf

    _, schema, vocabularies = fitted
    model = randomised("DNN", schema)
    path = export_model(model, schema, vocabularies, tmp_path / "1")
    stored = tf.train.list_variables(str(path / "variables" / "variables"))
    elements = sum(int(np.prod(shape)) for name, shape in stored if "VARIABLE_VALUE" in name)
    assert elements == model.count_params()
    assets = sorted(p.name for p in (path / "assets").iterdir())
    assert assets == ["vocabulary_city.txt", "vocabulary_item.txt", "vocabulary_words.txt"]


@pytest.mark.slow
def test_odd_batches_and_values(fitted, tmp_path):
    table, schema, vocabularies = fitted
    path = export_model(randomised("InterFormer", schema), schema, vocabularies, tmp_path / "1")
    rows = served(table.slice(0, 3), schema)
    with SavedModelRunner(path) as saved:
        dtypes = {"string": object, "int64": "int64", "float32": "float32"}
        empty = {k: np.zeros((0, 1) if schema.encoded_shape(k) else (0,), dtypes[schema.raw_dtype(k)]) for k in schema.feature_names}
        assert saved.run("serving_default", empty)["click"].shape == (0, 1)
        no_history = {**rows, "items": np.zeros((3, 0), "int64"), "cities": [[], [], []], "words": [[], [], []]}
        padded = {**rows, "items": np.full((3, 4), -1), "cities": [[""] * 4] * 3, "words": [[""]] * 3}
        np.testing.assert_allclose(
            saved.run("serving_default", no_history)["click"], saved.run("serving_default", padded)["click"], atol=1e-6
        )
        odd = {
            **rows,
            "item": np.array([-(2**63), 2**63 - 1, -1]),
            "slot": np.array([-5, 7, 10**12]),
            "city": [b"\xff\xfe", b"a\x00b", b"?"],
        }
        odd.update(price=np.array([np.nan, np.inf, -np.inf], "float32"), age=np.array([np.nan, np.inf, 3e38], "float32"))
        assert np.isfinite(saved.run("serving_default", odd)["click"]).all()
        with pytest.raises((ValueError, KeyError), match="item"):
            saved.run("serving_default", {k: v for k, v in rows.items() if k != "item"})


def test_meta_keys_are_no_inputs(fitted):
    _, schema, _ = fitted
    assert META_GROUP not in {t.name for t in keras_ctr.models.LR(schema).inputs}


@pytest.mark.slow
def test_errors(fitted, tmp_path):
    _, schema, vocabularies = fitted
    model = keras_ctr.models.LR(schema)
    path = export_model(model, schema, vocabularies, tmp_path / "1")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        export_model(model, schema, vocabularies, path)
    export_model(model, schema, vocabularies, path, overwrite=True)
    with pytest.raises(SchemaError, match="'words'"):
        export_model(keras_ctr.models.LR(schema.without_sequences()), schema, vocabularies, tmp_path / "2")
    assert not (tmp_path / "2").exists() and not list(tmp_path.glob(".2*"))
