"""Schemas inferred from made-up logs that look like the public ones."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from keras_ctr.data.columns import EncodingError
from keras_ctr.data.infer import history_name, infer_schema
from keras_ctr.schema import Categorical, Numeric, Schema, SchemaError, Sequence

ROWS = 1500


@pytest.fixture
def rng():
    return np.random.default_rng(4)


def with_gaps(values, rng, share=0.3):
    return [None if gap else value for value, gap in zip(values, rng.random(len(values)) < share, strict=True)]


def write(path, columns, delimiter=",", header=True):
    options = pyarrow.csv.WriteOptions(delimiter=delimiter, include_header=header, quoting_style="needed")
    pyarrow.csv.write_csv(pa.table(columns), path, options)
    return path


def kinds(schema):
    return {f.name: f.transform if isinstance(f, Numeric) else f.dtype for f in schema.features}


def criteo(rng):
    """Counts with missing values and heavy tails, few-valued counts with missing values, hex strings."""
    counts = np.floor(rng.lognormal(2, 2, ROWS)).astype(int)
    hexes = [f"{v * 2654435761 % 2**32:08x}" for v in rng.integers(0, 300, ROWS)]
    return {
        "label": rng.integers(0, 2, ROWS),
        "I1": with_gaps(counts.tolist(), rng),
        "I2": np.floor(rng.lognormal(1, 1.8, ROWS)).astype(int) - 2,
        "I10": with_gaps(rng.poisson(0.7, ROWS).tolist(), rng),
        "C1": hexes,
        "C2": ["00000123"] * 700 + ["00004567"] * (ROWS - 700),
    }


def test_criteo_like(tmp_path, rng):
    columns = criteo(rng)
    path = write(tmp_path / "criteo.txt", columns, "\t", header=False)
    schema, notes = infer_schema(path, label="label", column_names=list(columns))
    expected = {"I1": "log1p_standardize", "I2": "log1p_standardize", "I10": "standardize", "C1": "string", "C2": "string"}
    assert kinds(schema) == expected and not notes and schema.label_names == ("label",)
    assert schema.group is None and schema.time is None


def test_avazu_like(tmp_path, rng):
    columns = {
        "id": [str(10**19 + 7919 * int(i)) for i in rng.permutation(ROWS)],  # past 64 bits
        "click": rng.integers(0, 2, ROWS),
        "hour": 14102100 + rng.integers(0, 24, ROWS),
        "C1": rng.choice([1001, 1002, 1005], ROWS),
        "banner_pos": rng.integers(0, 8, ROWS),
        "site_id": rng.choice(["1fbe01fe", "85f751fd", "e151e245"], ROWS),
        "C14": rng.choice(np.arange(375, 24000, 29), ROWS),
        "C20": rng.choice([-1, *range(100000, 100100)], ROWS),
        "C21": rng.choice([1, 13, 15, 23, 33, *range(50, 250, 4)], ROWS),
    }
    schema, notes = infer_schema(write(tmp_path / "avazu.csv", columns), label="click")
    names = ["hour", "C1", "banner_pos", "site_id", "C14", "C20", "C21"]
    assert kinds(schema) == {name: "string" if name == "site_id" else "int64" for name in names}
    assert all(isinstance(f, Categorical) for f in schema.features)
    assert len(notes) == 1 and notes[0].startswith("'id': left out")


def test_types_names_and_columns_left_out(rng):
    day = np.array(["2022-04-25", "2022-04-26"], "datetime64[D]")
    columns = {
        "click": rng.integers(0, 2, ROWS).astype(bool),
        "row": np.arange(ROWS),
        "constant": ["x"] * ROWS,
        "nothing": [None] * ROWS,
        "flag": rng.integers(0, 2, ROWS).astype(bool),
        "day": rng.choice(day, ROWS),
        "price": rng.normal(100, 10, ROWS),
        "watch_count": rng.integers(500, 600, ROWS),
        "shop_id": rng.integers(0, 40, ROWS),
        "model": rng.integers(0, 300, ROWS),
        "age": rng.integers(18, 90, ROWS),
        "tags": [[1, 2]] * ROWS,
        "struct": [{"a": 1}] * ROWS,
        "url": [f"page{i}" for i in range(ROWS)],
    }
    schema, notes = infer_schema(pa.table(columns), label="click", history_length=7)
    assert kinds(schema) == {
        **{"flag": "string", "day": "string", "price": "standardize", "watch_count": "standardize"},
        **{"shop_id": "int64", "model": "int64", "age": "standardize", "tags": "int64"},
    }
    assert isinstance(schema["tags"], Sequence) and schema["tags"].max_length == 7
    named = [note.split("'")[1] for note in notes]
    assert named == ["row", "constant", "nothing", "tags", "struct", "url"]
    schema, _ = infer_schema(pa.table(columns), label="click", exclude=["price", "tags"])
    assert "price" not in schema and "tags" not in schema


def test_histories_group_and_time(rng):
    columns = {
        "who": [f"u{i}" for i in rng.integers(0, 50, ROWS)],
        "what": rng.integers(0, 40, ROWS),
        "brand": rng.integers(0, 9, ROWS),
        "when": np.arange(ROWS),
        "click": rng.integers(0, 2, ROWS),
        "like": rng.integers(0, 2, ROWS),
    }
    roles = {"user": "who", "item": "what", "time": "when"}
    schema, _ = infer_schema(pa.table(columns), label=["click", "like"], history=["brand"], history_length=11, **roles)
    assert kinds(schema) == {"who": "string", "what": "int64", "brand": "int64", "hist_what": "int64", "hist_brand": "int64"}
    assert (schema.group, schema.time, schema.label_names) == ("who", "when", ("click", "like"))
    history = schema["hist_brand"]
    assert (history.table, history.target, history.group, history.max_length) == ("brand", "brand", "history", 11)
    assert list(schema.sequence_groups) == ["history"] and history_name("what") == "hist_what"
    assert Schema.from_json(schema.to_json()) == schema
    for fewer in ({"history": ()}, {"item": None}, {"time": None}):
        assert not infer_schema(pa.table(columns), label="click", **{**roles, **fewer})[0].sequences
    with pytest.raises(SchemaError, match="history column 'price' is not a categorical feature"):
        infer_schema(pa.table({**columns, "price": rng.random(ROWS)}), label="click", history=["price"], **roles)


def test_outcomes_are_pointed_at(rng):
    click = rng.integers(0, 2, ROWS)
    seconds = np.where(click == 1, rng.exponential(10, ROWS), 0)
    columns = {"click": click, "seconds": seconds, "bought": click * (rng.random(ROWS) < 0.9), "noise": rng.random(ROWS)}
    for table in (pa.table(columns), pa.table(columns).cast(pa.schema([(name, pa.string()) for name in columns]))):
        _, notes = infer_schema(table, label="click")
        assert [note.split("'")[1] for note in notes] == ["seconds", "bought"] and "exclude" in notes[0]


def test_only_the_first_rows_are_looked_at(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("y,a\n" + "0,1\n1,2\n" * 50 + "0,text\n")
    schema, _ = infer_schema(path, label="y", sample_rows=100)
    assert kinds(schema) == {"a": "int64"}
    assert kinds(infer_schema(path, label="y")[0]) == {"a": "string"}


def test_errors_name_the_cause(tmp_path, rng):
    table = pa.table({"click": [0, 1, 0], "a": ["x", "y", "x"], "word": ["no", "yes", "no"], "many": [0, 1, 2], "one": [1, 1, 1]})
    with pytest.raises(EncodingError, match="'clik'; did you mean 'click'"):
        infer_schema(table, label="clik")
    with pytest.raises(EncodingError, match="no column 'usr'"):
        infer_schema(table, label="click", user="usr")
    with pytest.raises(SchemaError, match="label 'word' must hold 0 and 1, found"):
        infer_schema(table, label="word")
    with pytest.raises(EncodingError, match="label 'many': 2"):
        infer_schema(table, label="many")
    with pytest.raises(SchemaError, match="label 'one' has only one class"):
        infer_schema(table, label="one")
    with pytest.raises(SchemaError, match="no column is left to be a feature: 'one': left out"):
        infer_schema(table.select(["click", "one"]), label="click")
    path = tmp_path / "headless.csv"
    path.write_text("1,0,0\n0,5,a\n")
    with pytest.raises(ValueError, match="column '0' stands twice in the header line; if the file has no header, give column_names"):
        infer_schema(path, label="click")
