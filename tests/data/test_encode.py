"""Encoding against a loop over rows written from the rules, what is counted, and every error of bad input."""

import math
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from keras_ctr.data.columns import as_times
from keras_ctr.data.encode import EncodedBatch, Encoder, EncodingError
from keras_ctr.data.vocabulary import Vocabulary
from keras_ctr.schema import META_GROUP, META_TIME, Categorical, Numeric, Schema, SchemaError, Sequence

SCHEMA = Schema(
    features=[
        Categorical("city", vocabulary=("rome", "oslo", "bonn")),
        Categorical("item", dtype="int64", vocabulary_size=7),
        Categorical("given", dtype="int64", vocabulary_size=5),
        Numeric("price", mean=2.0, std=4.0),
        Numeric("bin", transform="log_square", num_bins=3),
        Sequence("past", max_length=3, table="item", target="item", group="g"),
        Sequence("where", max_length=3, table="city", group="g"),
    ],
    labels=["click", "buy"],
    group="user",
    time="at",
)
VOCABULARIES = {"item": Vocabulary([10, 20, 30, 40, 50], "int64")}
COLUMNS = {
    "city": ["oslo", None, "", "paris", "rome"],
    "item": [10, 50, None, 99, 20],
    "given": [0, 1, 4, None, 2],
    "price": [2.0, None, 6.0, 0.0, math.nan],
    "bin": [0.0, 1.5, None, -100.0, 1.0],
    "past": [[10, 20, 30, 40], None, [], [99, None], [50]],
    "where": [["rome", "oslo", "bonn", "paris"], None, [], ["oslo", "rome"], [""]],
    "click": [1, 0, 0, 1, 1],
    "buy": [True, False, False, False, True],
    "user": ["u", "v", "u", None, "w"],
    "at": [5, 6, 7, 8, 9],
}


def table(**changes):
    values = {**COLUMNS, **changes}
    return pa.table({name: column for name, column in values.items() if column is not None})


def encode(strict=False, schema=SCHEMA, **changes):
    encoder = Encoder(schema, VOCABULARIES, strict=strict)
    return encoder.encode(table(**changes)), encoder.report


def test_every_kind_of_feature():
    batch, _ = encode()
    out = batch.features
    assert list(out) == [*SCHEMA.feature_names, META_GROUP, META_TIME]
    assert out["city"].tolist() == [3, 1, 1, 1, 2]
    assert out["item"].tolist() == [2, 6, 1, 1, 3]
    assert out["given"].tolist() == [0, 1, 4, 1, 2]
    assert out["price"].tolist() == [0.0, 0.0, 1.0, -0.5, 0.0]
    assert out["bin"].tolist() == [2, 3, 1, 4, 2]  # log(1.5^2 + 1) = 1.18, log(10001) = 9.2 -> the last bin, log(2) = 0.69
    assert out["past"].tolist() == [[3, 4, 5], [0, 0, 0], [0, 0, 0], [1, 1, 0], [6, 0, 0]]
    assert out["where"].tolist() == [[3, 4, 1], [0, 0, 0], [0, 0, 0], [3, 2, 0], [1, 0, 0]]
    assert out[META_TIME].tolist() == [5, 6, 7, 8, 9]
    groups = out[META_GROUP].tolist()
    assert groups[0] == groups[2] and groups[3] == -1 and len(set(groups)) == 4
    assert list(batch.labels) == ["click", "buy"]
    assert {(values.dtype.name, values.shape) for values in batch.labels.values()} == {("float32", (5, 1))}
    assert batch.labels["buy"].ravel().tolist() == [1, 0, 0, 0, 1] and batch.num_rows == 5
    for name in SCHEMA.feature_names:
        assert out[name].dtype == SCHEMA.encoded_dtype(name) and out[name].shape == (5, *SCHEMA.encoded_shape(name))


def test_report_counts_what_did_not_fit():
    _, report = encode(price=[2.0, math.inf, -math.inf, 1e39, None])
    assert report.num_rows == 5
    counts = report.to_dict()["features"]
    assert counts["city"] == {"values": 5, "missing": 2, "unknown": 1, "unknown_rate": 0.333333}
    assert counts["item"] == {"values": 5, "missing": 1, "unknown": 1, "unknown_rate": 0.25}
    assert counts["given"] == {"values": 5, "missing": 1, "unknown": 1, "unknown_rate": 0.25}  # the 1 says "unknown" itself
    assert counts["price"] == {"values": 5, "missing": 1, "infinite": 3}
    assert counts["bin"] == {"values": 5, "missing": 1}
    assert counts["past"] == {"values": 6, "missing": 1, "unknown": 1, "empty": 2, "truncated": 1, "unknown_rate": 0.2}


def test_counts_add_up_over_batches_and_rows_are_numbered_over_them():
    encoder = Encoder(SCHEMA, VOCABULARIES, strict=True)
    for _ in range(3):
        encoder.encode(table())
    assert encoder.report.num_rows == 15 and encoder.report.features["city"].missing == 6
    with pytest.raises(EncodingError, match="label 'click': 2 at row 16 "):
        encoder.encode(table(click=[1, 2, 0, 0, 0]))


def test_batches_and_slices_encode_as_the_whole():
    whole, _ = encode()
    for start in range(4):
        part = Encoder(SCHEMA, VOCABULARIES).encode(table().to_batches()[0].slice(start, 2))
        for name, values in {**part.features, **part.labels}.items():
            np.testing.assert_array_equal(values, {**whole.features, **whole.labels}[name][start : start + 2])


def test_equals_a_loop_on_random_sequences():
    rng = np.random.default_rng(5)
    lists = [None if rng.random() < 0.1 else rng.integers(-1, 60, rng.integers(0, 9)).tolist() for _ in range(211)]
    lists = [None if values is None else [None if v == 7 else v for v in values] for values in lists]
    schema = Schema(features=[Categorical("item", dtype="int64", vocabulary_size=7), SCHEMA["past"]], labels=["y"])
    encoder = Encoder(schema, VOCABULARIES)
    columns = {"item": [10] * 211, "past": pa.array(lists, pa.large_list(pa.int32())), "y": [0] * 211}
    out = encoder.encode(pa.table(columns)).features["past"]
    ids = {value: i + 2 for i, value in enumerate([10, 20, 30, 40, 50])}
    for row, values in zip(out.tolist(), lists, strict=True):
        events = [ids.get(v, 1) for v in values or [] if v is not None and v != -1][-3:]
        assert row == events + [0] * (3 - len(events))


def test_steps_without_any_value_are_no_events():
    batch, _ = encode(past=[[10, None, 20], [-1, 30], [-1, -1], [], []], where=[["rome", "", None], ["", "oslo"], ["", None], [], []])
    assert batch.features["past"].tolist()[:3] == [[2, 3, 0], [4, 0, 0], [0, 0, 0]]
    assert batch.features["where"].tolist()[:3] == [[2, 1, 0], [3, 0, 0], [0, 0, 0]]


def test_types_that_say_the_same_are_accepted():
    expected, _ = encode(item=[10, 50, 20, 99, 20])
    same = {
        "city": pa.array(COLUMNS["city"]).dictionary_encode(),
        "item": [10.0, 50.0, 20.0, 99.0, 20.0],
        "given": pa.array(COLUMNS["given"], pa.uint8()),
        "price": pa.array(COLUMNS["price"], pa.float64()),
        "past": pa.array(COLUMNS["past"], pa.large_list(pa.int16())),
        "where": pa.array(COLUMNS["where"], pa.large_list(pa.large_string())),
        "click": pa.array([1.0, 0.0, 0.0, 1.0, 1.0]),
        "user": pa.array(COLUMNS["user"], pa.large_string()),
        "at": pa.array([5, 6, 7, 8, 9], pa.timestamp("ms")),
    }
    found, _ = encode(**same)
    for name, values in {**expected.features, **expected.labels}.items():
        np.testing.assert_array_equal({**found.features, **found.labels}[name], values, err_msg=name)


def test_a_column_of_nulls_is_all_missing():
    batch, report = encode(city=pa.nulls(5), item=pa.nulls(5), price=pa.nulls(5), past=pa.nulls(5), where=pa.nulls(5))
    assert batch.features["city"].tolist() == batch.features["item"].tolist() == [1] * 5
    assert batch.features["price"].tolist() == [0.0] * 5 and not batch.features["past"].any()
    assert report.features["past"].empty == 5


def test_null_lists_are_empty_whatever_lies_under_them():
    offsets, mask = pa.array([0, 1, 3, 4, 4, 4], pa.int32()), pa.array([False, True, False, False, False])
    past = pa.ListArray.from_arrays(offsets, pa.array([10, 20, 30, 40]), mask=mask)
    where = pa.ListArray.from_arrays(offsets, pa.array(["rome"] * 4), mask=mask)
    batch, report = encode(past=past, where=where)
    assert batch.features["past"].tolist() == [[2, 0, 0], [0, 0, 0], [5, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert report.features["past"].values == 2


def test_rows_to_predict_need_no_labels():
    out = Encoder(SCHEMA, VOCABULARIES).encode(table(click=None, buy=None), labels=False)
    assert out.labels == {} and out.num_rows == 5


@pytest.mark.parametrize("strict", [False, True])
def test_ids_outside_their_table(strict):
    changes = {"given": [0, 5, -1, 2**40, 2]}
    if strict:
        with pytest.raises(EncodingError, match=r"feature 'given': id 5 at row 1 \(counted from 0\) is outside its table of 5 rows"):
            encode(strict=True, **changes)
    else:
        batch, report = encode(**changes)
        assert batch.features["given"].tolist() == [0, 1, 1, 1, 2] and report.features["given"].unknown == 3


def test_ids_outside_their_table_in_sequences_name_the_row():
    schema = Schema(features=[Sequence("s", max_length=2, dtype="int64", vocabulary_size=9)], labels=["y"])
    data = pa.table({"s": [[2, 3, 4], [], [5], [99, 8, 9]], "y": [0, 1, 0, 1]})
    assert Encoder(schema).encode(data).features["s"].tolist() == [[3, 4], [0, 0], [5, 0], [8, 1]]
    with pytest.raises(EncodingError, match="feature 's': id 9 at row 3 "):
        Encoder(schema, strict=True).encode(data)


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e39])
@pytest.mark.parametrize("name", ["price", "bin"])
def test_infinity(name, value):
    missing = 0.0 if name == "price" else 1
    batch, report = encode(**{name: [1.0, 1.0, 1.0, value, 1.0]})
    assert batch.features[name][3] == missing and np.isfinite(batch.features[name]).all()
    assert report.features[name].infinite == 1
    with pytest.raises(EncodingError, match=rf"feature '{name}': .* at row 3 \(counted from 0\) is not finite"):
        encode(strict=True, **{name: [1.0, 1.0, 1.0, value, 1.0]})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"city": None, "citi": ["a"] * 5}, "no column 'city'; did you mean 'citi'"),
        ({"user": None}, "no column 'user'"),
        ({"city": [1] * 5}, "column 'city' has type int64, the schema expects string; the schema may say dtype 'int64'"),
        ({"item": ["10"] * 5}, "column 'item' has type string, the schema expects int64; the schema may say dtype 'string'"),
        ({"item": [1.0, 2.5, None, 1.0, 1.0]}, "column 'item': 2.5 at row 1 .* is not an int64"),
        ({"item": pa.array([1, 2, 3, 4, 2**64 - 1], pa.uint64())}, "column 'item': 18446744073709551615 at row 4 .* is not an int64"),
        ({"price": ["1.0"] * 5}, "column 'price' has type string, the schema expects a number"),
        ({"past": [1] * 5}, "column 'past' has type int64, the schema expects a list"),
        ({"past": ["1 2"] * 5}, "column 'past' has type string, the schema expects a list .*use Parquet"),
        ({"past": [["a"], None, [], [], []]}, "column 'past' has type string, the schema expects int64"),
        ({"past": [[1], None, [], [1, 2], [1]]}, "'past' and 'where' of group 'g' .* row 0 .* has 1 and 4 of them"),
        ({"click": [1, 0, 2, 0, 0]}, "label 'click': 2 at row 2 .* is neither 0 nor 1"),
        ({"click": [1, 0, 0.5, 0, 0]}, "label 'click': 0.5 at row 2"),
        ({"click": [1, 0, None, 0, 0]}, "label 'click': None at row 2"),
        ({"click": ["yes"] * 5}, "label 'click' has type string, expected 0 and 1"),
        ({"at": [1, None, 2, 3, 4]}, "time column 'at' has no value at row 1"),
        ({"at": ["yesterday"] * 5}, "time column 'at': .*yesterday.*ISO 8601"),
        ({"at": [1.0, 1.5, 2.0, 3.0, 4.0]}, "column 'at': 1.5 at row 1"),
    ],
)
def test_bad_input_is_named(changes, message):
    with pytest.raises(EncodingError, match=message):
        encode(**changes)


def test_two_columns_of_one_name():
    data = pa.Table.from_arrays([*table().columns, pa.array([1] * 5)], names=[*table().column_names, "city"])
    with pytest.raises(EncodingError, match="column 'city' stands there twice"):
        Encoder(SCHEMA, VOCABULARIES).encode(data)


def test_schema_and_vocabularies_must_fit():
    with pytest.raises(SchemaError, match="not fitted: 'c'"):
        Encoder(Schema(features=[Categorical("c")], labels=["y"]))
    with pytest.raises(SchemaError, match="table 'c' .* holds strings and has no vocabulary"):
        Encoder(Schema(features=[Categorical("c", vocabulary_size=5)], labels=["y"]))
    with pytest.raises(SchemaError, match="table 'item': its vocabulary makes 3 rows of dtype 'int64', the schema says 7"):
        Encoder(SCHEMA, {"item": Vocabulary([1], "int64")})


def test_times_of_all_kinds():
    instant = 1650880800123
    for array in (
        pa.array([instant]),
        pa.array([instant], pa.timestamp("ms", "UTC")),
        pa.array([instant * 1000 + 7], pa.timestamp("us")),
        pa.array(["2022-04-25 10:00:00.123"]),
        pa.array(["2022-04-25T12:00:00.123+02:00"], pa.large_string()),
    ):
        assert as_times(array, "t").tolist() == [instant]
    assert as_times(pa.array([19107], pa.date32()), "t").tolist() == [19107 * 86_400_000]


def test_groups_are_the_same_in_another_process():
    code = "import pyarrow as pa; from keras_ctr.data.columns import as_groups; print(as_groups(pa.array(['u', 'v']), 'g').tolist())"
    first, second = (subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(2))
    batch, _ = encode()
    assert first == second and eval(first) == batch.features[META_GROUP].tolist()[:2]


def test_large_tables_have_64_bit_ids():
    schema = Schema(features=[Categorical("c", dtype="int64", vocabulary_size=2**31 + 5)], labels=["y"])
    out = Encoder(schema).encode(pa.table({"c": [2**31 + 4], "y": [1]})).features["c"]
    assert out.dtype == np.int64 and out.tolist() == [2**31 + 4]


def test_missing_pyarrow_says_what_to_install():
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "import keras_ctr.data\nfrom keras_ctr.data import EncodedBatch, Encoder, Vocabulary\n"
        "try:\n    Vocabulary(['a'])\nexcept ImportError as error:\n    print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install keras_ctr[data]" in out


def test_encoded_batch_is_frozen():
    with pytest.raises(AttributeError):
        EncodedBatch({}, {}).features = {}
