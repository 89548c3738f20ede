"""Fitting: which tables get a vocabulary from which columns, which numbers get statistics, and what is left as it was given."""

import math

import numpy as np
import pyarrow as pa
import pytest

from keras_ctr.data.columns import EncodingError
from keras_ctr.data.fit import SchemaFitter, fit_schema
from keras_ctr.data.vocabulary import Vocabulary
from keras_ctr.schema import Categorical, Numeric, Schema, SchemaError, Sequence

TABLE = pa.table(
    {
        "city": ["rome", "oslo", "rome", None, ""],
        "item": [10, 20, 10, 10, -1],
        "past": [[20, 20, 30], None, [], [-1, 30], [20]],
        "tags": [["x"], ["y", "x"], None, [], [None, ""]],
        "given": [2, 3, 4, 2, 3],
        "price": [1.0, 3.0, None, math.nan, math.inf],
        "count": [0, 1, 7, 15, 31],
        "fixed": [1.0, 2.0, 3.0, 4.0, 5.0],
        "bin": [1.0, 2.0, 3.0, 4.0, 5.0],
        "y": [0, 1, 0, 1, 0],
    }
)
FEATURES = [
    Categorical("city"),
    Categorical("item", dtype="int64"),
    Categorical("given", dtype="int64", vocabulary_size=9),
    Numeric("price"),
    Numeric("count", transform="log1p_standardize"),
    Numeric("fixed", mean=0.0, std=10.0),
    Numeric("bin", transform="log_square", num_bins=5),
    Sequence("past", max_length=2, table="item", target="item"),
    Sequence("tags", max_length=2, group="t"),
]
SCHEMA = Schema(features=FEATURES, labels=["y"])


@pytest.mark.parametrize("rows", [1, 5])
def test_fit(rows):
    schema, vocabularies = fit_schema(TABLE.to_batches(max_chunksize=rows), SCHEMA)
    schema.check_fitted()
    # 20: once as an item and three times in the past; 10: three times as an item; 30: twice in the past.
    assert {name: v.to_list() for name, v in vocabularies.items()} == {"city": ["rome", "oslo"], "item": [20, 10, 30], "tags": ["x", "y"]}
    assert [schema.tables[t].vocabulary_size for t in ("city", "item", "given", "bin", "tags")] == [4, 5, 9, 7, 4]
    assert (schema["price"].mean, schema["price"].std) == (2.0, 1.0)
    logs = np.log1p([0, 1, 7, 15, 31])
    assert schema["count"].mean == pytest.approx(logs.mean()) and schema["count"].std == pytest.approx(logs.std())
    assert (schema["fixed"].mean, schema["fixed"].std) == (0.0, 10.0)
    assert Schema.from_json(schema.to_json()) == schema


def test_limits_of_the_call_and_of_the_table():
    features = [Categorical("city", min_count=1), Categorical("item", dtype="int64", capacity=3), SCHEMA["past"]]
    schema, vocabularies = fit_schema(TABLE.to_batches(), Schema(features=features, labels=["y"]), min_count=3, capacity=99)
    assert vocabularies["city"].to_list() == ["rome", "oslo"]
    assert vocabularies["item"].to_list() == [20] and schema["past"].vocabulary_size == 3
    _, vocabularies = fit_schema(TABLE.to_batches(), SCHEMA, min_count=2, capacity=4)
    assert vocabularies["item"].to_list() == [20, 10] and vocabularies["city"].to_list() == ["rome"]


def test_given_vocabularies_are_kept():
    features = [Categorical("city", vocabulary=("oslo",)), Categorical("item", dtype="int64"), SCHEMA["past"], SCHEMA["price"]]
    given = {"item": Vocabulary([7], "int64")}
    fitter = SchemaFitter(Schema(features=features, labels=["y"]), vocabularies=given)
    assert fitter.columns == ("price",)
    fitter.update(TABLE)
    schema, vocabularies = fitter.finish()
    assert vocabularies == {"city": Vocabulary(["oslo"]), **given}
    assert schema["item"].vocabulary_size == schema.tables["item"].vocabulary_size == 3


def test_counts_say_what_is_covered():
    fitter = SchemaFitter(SCHEMA, min_count=3)
    fitter.update(TABLE)
    fitter.finish()
    assert fitter.counts()["item"] == {"values": 9, "distinct": 3, "kept": 2, "coverage": round(7 / 9, 6)}


def test_a_fitted_schema_needs_no_data():
    schema = Schema(features=[SCHEMA["given"], SCHEMA["fixed"], SCHEMA["bin"]], labels=["y"])
    fitter = SchemaFitter(schema)
    assert not fitter.is_needed and fitter.finish() == (schema, {})


def test_line_breaks_are_warned_of():
    schema = Schema(features=[Categorical("city")], labels=["y"])
    with pytest.warns(UserWarning, match="table 'city': 1 values with a line break"):
        fit_schema([pa.table({"city": ["a\nb", "c"]})], schema)


def test_errors_name_the_cause():
    with pytest.raises(EncodingError, match="no rows to fit"):
        fit_schema([], SCHEMA)
    with pytest.raises(EncodingError, match="no column 'price'"):
        fit_schema([TABLE.drop_columns(["price"])], SCHEMA)
    with pytest.raises(EncodingError, match="column 'city' has type int64"):
        fit_schema([TABLE.set_column(0, "city", pa.array([1] * 5))], SCHEMA)
    with pytest.raises(EncodingError, match="'tags' has type string, the schema expects a list"):
        fit_schema([TABLE.set_column(3, "tags", pa.array(["x"] * 5))], SCHEMA)
    with pytest.raises(SchemaError, match="table 'city' .* gives vocabulary_size=9 without a vocabulary"):
        SchemaFitter(Schema(features=[Categorical("city", vocabulary_size=9)], labels=["y"]))
