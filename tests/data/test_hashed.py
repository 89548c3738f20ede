"""Hashed tables: buckets against the fingerprint written out, ids of what is there and what is missing, a prepared and trained one."""

import subprocess
import sys

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

import keras_ctr
from keras_ctr import tables
from keras_ctr.data import Encoder, Vocabulary, fit_schema, make_dataset, prepare
from keras_ctr.data.fit import SchemaFitter
from keras_ctr.data.hashing import buckets
from keras_ctr.layers import FeatureEmbedding
from keras_ctr.schema import Categorical, Numeric, Schema, SchemaError, Sequence

WORD = 2**64
K0, K2 = 0xC3A5C85C97CB3127, 0x9AE16A3B2F90404F


def fingerprint(text):
    """FarmHash's Fingerprint64 of up to 16 bytes, in Python's integers (farmhash.cc, `farmhashna::HashLen0to16`)."""
    size = len(text)
    assert 0 < size <= 16

    def number(at, count):
        return int.from_bytes(text[at : at + count], "little")

    def rotated(x, by):
        return (x >> by | x << (64 - by)) % WORD

    def mixed(x, y, by):
        x = (x ^ y) * by % WORD
        x ^= x >> 47
        y = (y ^ x) * by % WORD
        return (y ^ y >> 47) * by % WORD

    by = (K2 + 2 * size) % WORD
    if size >= 8:
        a, b = (number(0, 8) + K2) % WORD, number(size - 8, 8)
        return mixed((rotated(b, 37) * by + a) % WORD, (rotated(a, 25) + b) * by % WORD, by)
    if size >= 4:
        return mixed(size + 8 * number(0, 4), number(size - 4, 4), by)
    y, z = text[0] + 256 * text[size // 2], size + 4 * text[-1]
    x = y * K2 % WORD ^ z * K0 % WORD
    return (x ^ x >> 47) * K2 % WORD


STRINGS = ["a", "b\n", "oslo", "Köln", "東京", "x\0y", " a ", "sixteen letters!", "\U0001f600"]
INTEGERS = [0, 7, -2, 10**9 + 7, 2**53 + 1, -(10**14) - 1]


def hashed(value, count):
    """The id by hand: None, the empty string and -1 are missing."""
    if value in (None, "", -1):
        return 1
    return 2 + fingerprint(str(value).encode()) % count


@pytest.mark.parametrize("count", [1, 13, 2**31 - 1, 2**62 + 11])
def test_buckets_are_the_fingerprint_modulo_their_number(count):
    for values in (STRINGS, INTEGERS):
        found = buckets(pa.array(values), count)
        assert found.dtype == np.int64
        assert found.tolist() == [fingerprint(str(value).encode()) % count for value in values]


def test_buckets_are_those_of_tensorflow():
    assert buckets(pa.array(["Hello", "TensorFlow", "2.x"]), 3).tolist() == [0, 2, 2]  # the example of TensorFlow's documentation
    texts = [*STRINGS, *("long" * n + "é" * (n % 3) for n in range(1, 67))]
    expected = tf.strings.to_hash_bucket_fast(texts, 10**9 + 7).numpy()
    for kind in (pa.string(), pa.large_string()):
        np.testing.assert_array_equal(buckets(pa.array(texts, kind), 10**9 + 7), expected)
        assert buckets(pa.array([], kind), 5).shape == (0,)
    ends = [2**63 - 1, -(2**63), 0]
    assert buckets(pa.array(ends), 10**9).tolist() == tf.strings.to_hash_bucket_fast(list(map(str, ends)), 10**9).numpy().tolist()
    assert buckets(pa.array(["pad", *texts]).slice(1), 10**9 + 7).tolist() == expected.tolist()


SCHEMA = Schema(
    features=[
        Categorical("city", hash_buckets=101),
        Categorical("item", dtype="int64", hash_buckets=10007),
        Categorical("slot", dtype="int64", vocabulary_size=5),
        Sequence("items", max_length=3, table="item", target="item", group="clicks"),
        Sequence("cities", max_length=3, table="city", group="clicks"),
        Sequence("words", max_length=2, hash_buckets=7, group="words"),
    ],
    labels=["click"],
)
COLUMNS = {
    "city": ["oslo", None, "", "東京", "oslo"],
    "item": [7, None, -1, 0, -2],
    "slot": [2, 3, 4, 2, 3],
    "items": [[7, 0, -1, -2], None, [], [None, 5], [-1, 5]],
    "cities": [["a", "b", "Köln", ""], None, [], ["x", ""], ["", None]],
    "words": [["p", None, "q"], ["", "r"], None, ["s", "t", "u"], [""]],
    "click": [1, 0, 1, 0, 1],
}


def test_ids_by_hand():
    encoder = Encoder(SCHEMA)
    out = encoder.encode(pa.table(COLUMNS)).features
    for name, count in (("city", 101), ("item", 10007)):
        assert out[name].tolist() == [hashed(value, count) for value in COLUMNS[name]]
        assert out[name].dtype.name == SCHEMA.encoded_dtype(name) == "int32"
    item, city, word = ({v: hashed(v, n) for v in values} for values, n in (((0, 5, -2), 10007), (("b", "Köln", "x"), 101), ("pqrtu", 7)))
    # A step is an event if one of its group's sequences has a value: 0 and -2 are values of raw integers, -1 alone is none.
    assert out["items"].tolist() == [[item[0], 1, item[-2]], [0, 0, 0], [0, 0, 0], [1, item[5], 0], [item[5], 0, 0]]
    assert out["cities"].tolist() == [[city["b"], city["Köln"], 1], [0, 0, 0], [0, 0, 0], [city["x"], 1, 0], [1, 0, 0]]
    assert out["words"].tolist() == [[word["p"], word["q"]], [word["r"], 0], [0, 0], [word["t"], word["u"]], [0, 0]]
    counts = encoder.report.to_dict()["features"]
    assert counts["city"] == {"values": 5, "missing": 2} and counts["item"] == {"values": 5, "missing": 2}
    assert counts["items"] == {"values": 6, "missing": 2, "empty": 2, "truncated": 1}
    assert counts["words"] == {"values": 5, "empty": 2, "truncated": 1}


def test_integers_hash_their_decimal_text():
    schema = Schema([Categorical("i", dtype="int64", hash_buckets=10**6), Categorical("s", hash_buckets=10**6)], ["y"])
    out = Encoder(schema).encode(pa.table({"i": INTEGERS, "s": list(map(str, INTEGERS)), "y": [0] * len(INTEGERS)})).features
    np.testing.assert_array_equal(out["i"], out["s"])
    assert len(set(out["i"].tolist())) == len(INTEGERS)


def test_slices_dictionaries_and_columns_of_nulls():
    whole = Encoder(SCHEMA).encode(pa.table(COLUMNS)).features
    for start in range(4):
        part = Encoder(SCHEMA).encode(pa.table(COLUMNS).slice(start, 2)).features
        for name, ids in whole.items():
            np.testing.assert_array_equal(part[name], ids[start : start + 2], err_msg=name)
    nulls = {**COLUMNS, "city": pa.array(COLUMNS["city"]).dictionary_encode(), "item": pa.nulls(5), "words": pa.nulls(5)}
    out = Encoder(SCHEMA).encode(pa.table(nulls)).features
    assert out["city"].tolist() == whole["city"].tolist()
    assert out["item"].tolist() == [1] * 5 and not out["words"].any()
    empty = Encoder(SCHEMA).encode(pa.table(COLUMNS).slice(0, 0)).features
    assert empty["city"].shape == (0,) and empty["items"].shape == (0, 3)


def test_tables_past_31_bits():
    schema = Schema([Categorical("c", hash_buckets=2**40)], ["y"])
    out = Encoder(schema).encode(pa.table({"c": STRINGS, "y": [1] * len(STRINGS)})).features["c"]
    assert out.dtype == np.int64 and out.tolist() == [hashed(text, 2**40) for text in STRINGS]
    assert out.max() > 2**31


def test_there_is_nothing_to_fit():
    fitter = SchemaFitter(SCHEMA, min_count=3, capacity=5)
    assert not fitter.is_needed and fitter.finish() == (SCHEMA, {})
    mixed = SCHEMA.replace(features=(*SCHEMA.features, Categorical("brand")))
    table = pa.table({**COLUMNS, "brand": ["u", "v", "u", None, "u"]})
    fitted, vocabularies = fit_schema([table], mixed, min_count=2)
    assert {name: v.to_list() for name, v in vocabularies.items()} == {"brand": ["u"]}
    assert fitted.tables["city"] == SCHEMA.tables["city"]


def test_a_hashed_table_takes_no_vocabulary():
    given = {"city": Vocabulary([f"v{i}" for i in range(101)])}
    for build in (lambda: Encoder(SCHEMA, given), lambda: SchemaFitter(SCHEMA, vocabularies=given)):
        with pytest.raises(SchemaError, match=r"table 'city' \(feature 'city'\) has hash_buckets=101, .* leave the table out of the voc"):
            build()


@pytest.mark.slow
def test_tensorflow_is_imported_only_when_something_is_hashed():
    code = (
        "import sys, pyarrow as pa\nfrom keras_ctr.schema import Categorical, Schema\nfrom keras_ctr.data.encode import Encoder\n"
        "for feature in (Categorical('c', vocabulary=('a',)), Categorical('c', hash_buckets=5)):\n"
        "    ids = Encoder(Schema([feature], ['y'])).encode(pa.table({'c': ['a'], 'y': [1]})).features['c']\n"
        "    print(ids.tolist(), 'tensorflow' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")
    assert out[:2] == ["[2] False", f"[{hashed('a', 5)}] True"]  # and the same id in another process


def log(rows, seed):
    rng = np.random.default_rng(seed)
    histories = [rng.integers(0, 997, n).tolist() for n in rng.integers(0, 5, rows)]
    users = [None if i % 11 == 0 else f"user {n}" for i, n in enumerate(rng.integers(0, 10**6, rows))]
    return pa.table(
        {"user": users, "item": rng.integers(0, 997, rows), "past": histories, "price": rng.random(rows), "y": rng.integers(0, 2, rows)}
    )


TRAINED = Schema(
    features=[
        Categorical("user", hash_buckets=53),
        Categorical("item", dtype="int64", hash_buckets=31, quotient_remainder=5),
        Numeric("price"),
        Sequence("past", max_length=3, table="item", target="item"),
    ],
    labels=["y"],
)


def test_prepare_and_train(tmp_path):
    data = prepare({"train": log(67, 0), "test": log(29, 1)}, TRAINED, tmp_path / "data", min_count=5, num_shards=1)
    assert data.vocabularies == {} and not (tmp_path / "data" / "vocabularies").exists()
    assert data.schema.tables == TRAINED.tables and data.schema.tables["item"].vocabulary_size == 33
    report = data.entry("train")["report"]
    assert report["features"]["user"] == {"values": 67, "missing": 7} and report["vocabularies"] == {}
    x, y = next(iter(make_dataset(data, "train", batch_size=67)))
    assert x["user"].numpy().tolist() == [hashed(value, 53) for value in log(67, 0)["user"].to_pylist()]
    assert x["item"].numpy().tolist() == [hashed(value, 31) for value in log(67, 0)["item"].to_pylist()]
    model = keras_ctr.models.DIN(data.schema, embedding_dim=3, attention_units=(4,), hidden_units=(5,))
    model.compile("sgd", "binary_crossentropy")
    embedding = next(layer for layer in model._flatten_layers() if isinstance(layer, FeatureEmbedding))
    before = {name: embedding.rows(name) for name in ("user", "item")}
    assert np.isfinite(model.train_on_batch(x, y))
    seen = np.unique(x["user"].numpy())
    moved = (embedding.rows("user") != before["user"]).any(axis=1)
    assert before["item"].shape == (33, 3) and (embedding.rows("item") != before["item"]).any()
    assert set(np.flatnonzero(moved)) == set(seen.tolist())
    again = prepare(
        {"day2": log(13, 2)}, TRAINED.replace(features=TRAINED.features[:2]), tmp_path / "day2"
    )  # nothing to fit, so no train split
    assert again.num_rows("day2") == 13


def test_rows_are_carried_over_as_they_are():
    def world(brands, num_buckets):
        features = [*TRAINED.features[1:], Categorical("brand", vocabulary=brands)]
        return Schema([Categorical("user", hash_buckets=num_buckets), *features], ["y"])

    def build(schema):
        return keras_ctr.models.DIN(schema, embedding_dim=3, attention_units=(4,), hidden_units=(5,))

    price = {"mean": 0.5, "std": 0.25}
    old, new, other = (
        schema.replace(features=[Numeric("price", **price) if f.name == "price" else f for f in schema.features])
        for schema in (world(("u", "v"), 53), world(("w", "v", "u"), 53), world(("u", "v"), 59))
    )
    one, two = build(old), build(new)
    for variable in one.trainable_variables:
        variable.assign(np.random.default_rng(3).normal(size=variable.shape))
    report = tables.transfer(one, old, new, {}, {}, two)
    assert (report["user"].kept, report["user"].new, report["user"].evicted) == (53, 0, 0)
    assert (report["brand"].kept, report["brand"].new) == (2, 1)
    layers = [next(layer for layer in model._flatten_layers() if isinstance(layer, FeatureEmbedding)) for model in (one, two)]
    for name in ("user", "item"):
        np.testing.assert_array_equal(layers[0].rows(name), layers[1].rows(name))
    table = log(19, 5).append_column("brand", pa.array(["u", "v"] * 9 + ["?"]))
    before, after = (keras.ops.convert_to_numpy(m(Encoder(s).encode(table).features)["y"]) for m, s in ((one, old), (two, new)))
    np.testing.assert_array_equal(before, after)
    assert np.ptp(before) > 1e-3
    with pytest.raises(
        SchemaError, match="feature 'user': hash_buckets is 59 in the new schema, the model was trained with 53; .*train a new"
    ):
        tables.transfer(one, old, other, {}, {}, build(other))
    with pytest.raises(SchemaError, match="table 'user' .*has hash_buckets=53"):
        tables.transfer(one, old, new, {}, {"user": Vocabulary([f"v{i}" for i in range(53)])}, two)
