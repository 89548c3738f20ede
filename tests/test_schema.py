"""Schema: links, sharing, errors that name the feature, JSON."""

import json

import pytest

from keras_ctr import Categorical, Label, Numeric, Schema, SchemaError, Sequence
from tests.sample import fields_schema, full_schema


def test_tables_are_shared_by_name():
    schema = full_schema()
    assert schema.tables["item"].features == ("item", "clicked_item", "liked_item")
    assert schema.tables["item"].vocabulary_size == 53
    assert schema.tables["brand"].dtype == "int64"
    assert schema.raw_dtype("clicked_brand") == "int64"
    assert schema.tables["age"].vocabulary_size == 7 + 2


def test_kinds_of_features():
    schema = full_schema()
    assert [f.name for f in schema.fields] == ["user", "item", "brand", "age"]
    assert [f.name for f in schema.numerics] == ["price"]
    assert {g: [s.name for s in m] for g, m in schema.sequence_groups.items()} == {
        "clicks": ["clicked_item", "clicked_brand"],
        "likes": ["liked_item"],
    }
    assert schema.encoded_shape("clicked_item") == (7,)
    assert schema.encoded_dtype("price") == "float32"
    assert schema.encoded_dtype("age") == "int32"
    assert Schema([Categorical("x", 2**31 + 5)], ["y"]).encoded_dtype("x") == "int64"


@pytest.mark.parametrize("schema", [fields_schema(), full_schema(("click", "like"))], ids=["fields", "full"])
def test_json_round_trip(schema, tmp_path):
    assert Schema.from_json(schema.to_json()) == schema
    schema.save(tmp_path / "schema.json")
    assert Schema.load(tmp_path / "schema.json") == schema
    assert [p.name for p in tmp_path.iterdir()] == ["schema.json"]


def test_json_keeps_vocabulary_and_options():
    schema = Schema([Categorical("c", vocabulary=("a", "b"), embedding_dim=3, embedding_initializer="zeros")], [Label("y")], time="t")
    again = Schema.from_json(schema.to_json())
    assert again == schema
    assert again.tables["c"].vocabulary_size == 4
    assert "min_count" not in json.loads(schema.to_json())["features"][0]


def test_select_keeps_links_that_remain():
    schema = full_schema(("click", "like"))
    part = schema.select(features=["user", "liked_item"], labels=["like"])
    assert part.feature_names == ("user", "liked_item")
    assert part["liked_item"].target is None
    assert part.tables["item"].vocabulary_size == 53
    assert part.label_names == ("like",)
    assert schema.without_sequences().sequences == ()
    with pytest.raises(KeyError, match="did you mean 'user'"):
        schema.select(features=["usr"])
    with pytest.raises(KeyError, match="did you mean 'like'"):
        schema.select(labels=["likes"])


def hashed_pair(first, second):
    """A schema of two features that share a table."""
    return Schema([Categorical("a", table="t", **first), Categorical("b", table="t", **second)], ["y"])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Categorical(""), "non-empty"),
        (lambda: Categorical("a/b"), "'a/b' must not contain '/'"),
        (lambda: Categorical("c", dtype="float"), "Categorical 'c': dtype"),
        (lambda: Categorical("c", 1), "Categorical 'c': vocabulary_size"),
        (lambda: Categorical("c", vocabulary=("a", "a")), "Categorical 'c': vocabulary has repeated"),
        (lambda: Categorical("c", vocabulary=("a", 1)), "Categorical 'c': vocabulary value 1"),
        (lambda: Categorical("c", 9, vocabulary=("a",)), "Categorical 'c': vocabulary_size=9"),
        (lambda: Categorical("c", embedding_dim=0), "Categorical 'c': embedding_dim"),
        (lambda: Numeric("n", transform="log"), "Numeric 'n': transform .* did you mean 'log1p'"),
        (lambda: Numeric("n", std=0.0), "Numeric 'n': std"),
        (lambda: Sequence("s", max_length=0), "Sequence 's': max_length"),
        (lambda: Schema([], ["y"]), "at least one feature"),
        (lambda: Schema([Numeric("n")], []), "at least one label"),
        (lambda: Schema([Numeric("n"), Numeric("n")], ["y"]), "'n' stands twice"),
        (lambda: Schema([Numeric("n")], ["n"]), "'n' stands twice"),
        (lambda: Schema([Sequence("s", 9, target="item"), Categorical("itme", 5)], ["y"]), "Sequence 's': target 'item'.*'itme'"),
        (lambda: Schema([Sequence("s", 9, target="i"), Categorical("i", 5)], ["y"]), "give the sequence table='i'"),
        (lambda: Schema([Sequence("s", 9), Sequence("r", 8)], ["y"]), "Sequence 'r': max_length=8.*'s'.*has 9"),
        (lambda: Schema([Categorical("a", 5, table="t"), Categorical("b", 6, table="t")], ["y"]), "table 't': 'a' has vocabulary_size=5"),
        (lambda: Schema([Categorical("a", table="t"), Categorical("b", table="t", dtype="int64")], ["y"]), "table 't'.*different dtypes"),
        (lambda: Schema([Numeric("n")], ["y"]).check_fitted(), "'n' \\(mean and std\\)"),
        (lambda: Schema([Categorical("c")], ["y"]).check_fitted(), "'c' \\(vocabulary_size\\)"),
        (lambda: Categorical("c", hash_buckets=0), "Categorical 'c': hash_buckets must be a positive int, got 0"),
        (lambda: Sequence("s", hash_buckets=True), "Sequence 's': hash_buckets must be a positive int, got True"),
        (lambda: Categorical("c", hash_buckets=2, vocabulary=("a", "b")), "Categorical 'c': vocabulary does not go with hash_buckets=2"),
        (lambda: Categorical("c", hash_buckets=7, min_count=1), "Categorical 'c': min_count does not go with hash_buckets=7"),
        (lambda: Sequence("s", hash_buckets=7, capacity=9), "Sequence 's': capacity does not go with hash_buckets=7"),
        (lambda: Categorical("c", 7, hash_buckets=7), "vocabulary_size=7, but hash_buckets=7 .* make 9; leave vocabulary_size out"),
        (lambda: hashed_pair({"hash_buckets": 7}, {"hash_buckets": 11}), "table 't': 'a' has hash_buckets=7 but 'b' has 11"),
        (lambda: hashed_pair({"hash_buckets": 2}, {"vocabulary": ("u", "v")}), r"table 't' of \['a', 'b'\]: vocabulary does not go with"),
        (lambda: hashed_pair({"hash_buckets": 7}, {"min_count": 2}), "table 't' .*min_count does not go with hash_buckets=7"),
        (lambda: hashed_pair({"hash_buckets": 7}, {"vocabulary_size": 8}), "table 't': 'a' has vocabulary_size=9 but 'b' has 8"),
        (
            lambda: Schema([Numeric("n", transform="log_square", num_bins=7), Sequence("s", table="n", hash_buckets=7)], ["y"]),
            r"table 'n' of \['n', 's'\]: binned numbers",
        ),
        (lambda: Schema.from_json("{"), "not JSON.*line 1"),
        (lambda: Schema.from_dict({"featuers": []}), "unknown key 'featuers'; did you mean 'features'"),
        (lambda: Schema.from_dict({"version": 9}), "version 9"),
        (lambda: Schema.from_dict({"features": [{"kind": "categoric", "name": "c"}], "labels": ["y"]}), "'c'.*did you mean 'categorical'"),
        (lambda: Schema.from_dict({"features": [{"kind": "numeric", "name": "c", "men": 1}], "labels": ["y"]}), "did you mean 'mean'"),
        (lambda: Schema.from_dict({"features": [{"kind": "numeric"}], "labels": ["y"]}), "'name' is missing"),
    ],
)
def test_contradictions_name_the_feature(build, message):
    with pytest.raises(SchemaError, match=message):
        build()


def test_load_error_names_the_file(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text("[]")
    with pytest.raises(SchemaError, match="broken.json"):
        Schema.load(path)


def test_unknown_feature_suggests_the_nearest():
    with pytest.raises(KeyError, match="did you mean 'price'"):
        full_schema()["prize"]


def test_hashed_tables_have_their_size_by_themselves():
    schema = Schema(
        [
            Categorical("item", hash_buckets=11, quotient_remainder=5),
            Categorical("id", dtype="int64", hash_buckets=2**31),
            Sequence("past", 3, table="item", target="item"),
            Sequence("words", 3, hash_buckets=7, group="words"),
        ],
        ["y"],
    )
    schema.check_fitted()
    assert {name: (t.hash_buckets, t.vocabulary_size) for name, t in schema.tables.items()} == {
        "item": (11, 13),
        "id": (2**31, 2**31 + 2),
        "words": (7, 9),
    }
    assert schema.tables["item"].quotient_remainder == 5 and schema.tables["item"].vocabulary is None
    assert schema.encoded_dtype("id") == "int64" and schema.encoded_dtype("item") == schema.encoded_dtype("past") == "int32"
    assert Schema.from_json(schema.to_json()) == schema
    assert "hash_buckets" not in fields_schema().to_json()
    part = schema.select(features=["past"])
    assert part.tables["item"].hash_buckets == 11 and part.tables["item"].vocabulary_size == 13
    assert Schema.from_json(part.to_json()) == part


def test_vocabularies_of_hashed_tables_are_refused():
    schema = Schema([Categorical("a", hash_buckets=7), Categorical("b")], ["y"])
    schema.check_vocabularies({"b": None, "elsewhere": None})
    with pytest.raises(SchemaError, match=r"table 'a' \(feature 'a'\) has hash_buckets=7"):
        schema.check_vocabularies(["b", "a"])
