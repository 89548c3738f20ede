"""Raw files to a prepared folder: what is in it, what fails how, and that nothing half-written is ever there."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from keras_ctr.data import PreparedData, make_dataset, prepare, prepare_file, splitting
from keras_ctr.data.columns import EncodingError
from keras_ctr.data.encode import Encoder
from keras_ctr.data.histories import build_histories
from keras_ctr.data.infer import infer_schema
from keras_ctr.data.splitting import ColumnSplitter, RandomSplitter, time_boundaries
from keras_ctr.schema import Categorical, Numeric, Schema, SchemaError, Sequence, time_gap_sequence

SCHEMA = Schema(
    features=[
        Categorical("user", dtype="int64"),
        Categorical("item"),
        Numeric("price"),
        Numeric("age", transform="log_square", num_bins=5),
    ],
    labels=["click"],
    group="user",
    time="at",
)


def log(rows=307, seed=0):
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "user": rng.integers(100, 117, rows),
            "item": [f"i{i}" for i in rng.integers(0, 29, rows)],
            "price": [None if rng.random() < 0.1 else float(p) for p in rng.lognormal(0, 2, rows).round(3)],
            "age": rng.integers(0, 90, rows),
            "at": rng.integers(0, 101, rows),
            "click": rng.integers(0, 2, rows),
        }
    )


def rows_of(data, split):
    """All rows of a split as the input pipeline gives them, in the order of writing."""
    out = {}
    for features, labels in make_dataset(data, split, batch_size=64).as_numpy_iterator():
        for name, values in {**features, **labels}.items():
            out.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in out.items()}


def left_over(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["table", "csv", "parquet", "function"])
def test_prepared_rows_are_the_encoded_rows(tmp_path, kind):
    splits = {"train": log(), "test": log(59, seed=1)}
    sources = dict(splits)
    for name, table in splits.items():
        if kind == "csv":
            pyarrow.csv.write_csv(table, tmp_path / f"{name}.csv")
            sources[name] = [tmp_path / f"{name}.csv"]
        elif kind == "parquet":
            pq.write_table(table, tmp_path / f"{name}.parquet")
            sources[name] = str(tmp_path / f"{name}.parquet")
        elif kind == "function":
            sources[name] = lambda table=table: table.to_batches(max_chunksize=50)
    seen = []
    data = prepare(sources, SCHEMA, tmp_path / "out", min_count=3, num_shards=3, batch_rows=100, progress=lambda *step: seen.append(step))
    assert isinstance(data, PreparedData) and data.splits == ("train", "test")
    data.schema.check_fitted()
    encoder = Encoder(data.schema, data.vocabularies)
    for name, table in splits.items():
        expected = encoder.encode(table)
        for key, values in rows_of(data, name).items():
            np.testing.assert_array_equal(values, {**expected.features, **expected.labels}[key], err_msg=key)
    counts = np.unique(splits["train"]["item"].to_pylist(), return_counts=True)[1]
    assert len(data.vocabularies["item"]) == (counts >= 3).sum()
    assert data.label_rate("train") == {"click": pytest.approx(np.mean(splits["train"]["click"].to_pylist()))}
    report = data.entry("test")["report"]
    assert report["num_rows"] == 59 and report["features"]["price"]["missing"] == splits["test"]["price"].null_count
    assert data.entry("train")["report"]["vocabularies"]["item"]["distinct"] == len(counts)
    assert len(data.entry("train")["shards"]) == 3
    assert [step for step in seen if step[0] == 307 and "train" in step[2]] and all(done <= (total or done) for done, total, _ in seen)
    assert left_over(tmp_path).count("out") == 1 and "out.incomplete" not in left_over(tmp_path)


def test_new_data_is_encoded_with_the_vocabularies_of_old(tmp_path):
    old = prepare({"train": log()}, SCHEMA, tmp_path / "old")
    new = prepare({"day2": log(31, seed=2)}, old.schema, tmp_path / "new", vocabularies=old.vocabularies)
    assert new.schema == old.schema and new.vocabularies == old.vocabularies
    assert "vocabularies" not in new.entry("day2")["report"]


def test_existing_folders(tmp_path):
    target = tmp_path / "out"
    first = prepare({"train": log()}, SCHEMA, target)
    with pytest.raises(FileExistsError, match="out exists already"):
        prepare({"train": log(11)}, SCHEMA, target)
    assert PreparedData(target).num_rows("train") == first.num_rows("train") == 307
    assert prepare({"train": log(11)}, SCHEMA, target, overwrite=True).num_rows("train") == 11
    assert left_over(tmp_path) == ["out"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("x")
    with pytest.raises(FileExistsError, match="no prepared data set, so it is not overwritten"):
        prepare({"train": log()}, SCHEMA, mine, overwrite=True)
    assert (mine / "thesis.txt").exists()


def failing_source(error):
    def source():
        yield from log(200).to_batches(max_chunksize=50)
        raise error

    return source


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("network")])
@pytest.mark.parametrize("where", ["train", "test"])
def test_a_failure_leaves_nothing_and_the_old_data_whole(tmp_path, error, where):
    prepare({"train": log(11)}, SCHEMA, tmp_path / "out")
    sources = {"train": log(), "test": log(), where: failing_source(error)}
    with pytest.raises(type(error)):
        prepare(sources, SCHEMA, tmp_path / "out", overwrite=True)
    with pytest.raises(type(error)):
        prepare(sources, SCHEMA, tmp_path / "other")
    assert left_over(tmp_path) == ["out"] and PreparedData(tmp_path / "out").num_rows("train") == 11


def test_a_killed_writer_leaves_nothing_readable_and_the_next_run_cleans_up(tmp_path):
    code = (
        "import sys, time; sys.path[:0] = sys.argv[2:]\n"
        "import pyarrow as pa\nfrom keras_ctr import Categorical, Schema\nfrom keras_ctr.data.preparation import prepare\n"
        "table = pa.table({'a': ['x', 'y'] * 500, 'y': [0, 1] * 500})\n"
        "calls = []\n"
        "def source():\n"
        "    calls.append(1)\n"
        "    yield table\n"
        "    if len(calls) > 1:\n"
        "        print('writing', flush=True); time.sleep(60)\n"
        "prepare({'train': source}, Schema(features=[Categorical('a')], labels=['y']), sys.argv[1], num_shards=None)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out"), *sys.path], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert left_over(tmp_path) == ["out.incomplete"]
    for name in ("out", "out.incomplete"):
        with pytest.raises(FileNotFoundError):
            PreparedData(tmp_path / name)
    prepare({"train": log()}, SCHEMA, tmp_path / "out")
    assert left_over(tmp_path) == ["out"]


def test_bad_input_is_found_before_the_work_and_named(tmp_path):
    good, calls = log(), []

    def prepared(**splits):
        return prepare(splits, SCHEMA, tmp_path / "out", progress=lambda *step: calls.append(step))

    with pytest.raises(FileNotFoundError, match="nothere.csv"):
        prepared(train=good, test=tmp_path / "nothere.csv")
    with pytest.raises(EncodingError, match="split 'test': the table has no column 'price'"):
        prepared(train=good, test=good.drop_columns(["price"]))
    with pytest.raises(ValueError, match="splits must have 'train'"):
        prepared(trian=good)
    assert not calls
    bad = good.set_column(5, "click", pa.array([0] * 306 + [7]))
    with pytest.raises(EncodingError, match="split 'test': label 'click': 7 at row 306"):
        prepared(train=good, test=bad)
    with pytest.raises(ValueError, match="no rows"):
        prepared(train=good, test=good.slice(0, 0))
    (tmp_path / "bad.csv").write_text("user,item,price,age,at,click\n1,a,2.0,3,4,1\n2,b,cheap,3,4,0\n")
    with pytest.raises(ValueError, match=r"bad\.csv, line 3: column 'price': 'cheap' is not float"):
        prepared(train=good, test=tmp_path / "bad.csv")
    assert left_over(tmp_path) == ["bad.csv"]


def test_strict_and_one_class(tmp_path):
    infinite = log().set_column(2, "price", pa.array([1.0] * 306 + [np.inf]))
    with pytest.raises(EncodingError, match="split 'test': feature 'price': inf at row 306"):
        prepare({"train": log(), "test": infinite}, SCHEMA, tmp_path / "out", strict=True)
    data = prepare({"train": log(), "test": infinite}, SCHEMA, tmp_path / "out")
    assert data.entry("test")["report"]["features"]["price"]["infinite"] == 1
    with pytest.warns(UserWarning, match="split 'test': label 'click' is 0 in all"):
        data = prepare({"train": log(), "test": log().set_column(5, "click", pa.array([0] * 307))}, SCHEMA, tmp_path / "two")
    assert data.label_rate("test") == {"click": 0.0}


# One log: split, histories, schema.


@pytest.mark.parametrize("partition_bytes", [1 << 28, 4096])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_one_file_by_time_with_histories(tmp_path, kind, partition_bytes):
    table = log().append_column("row", pa.array([f"r{i}" for i in range(307)]))
    path = tmp_path / f"log.{kind}"
    pyarrow.csv.write_csv(table, path) if kind == "csv" else pq.write_table(table, path)
    options = {"user": "user", "item": "item", "time": "at", "history_length": 4, "batch_rows": 60, "partition_bytes": partition_bytes}
    data = prepare_file(path, tmp_path / "out", label="click", delay=9, **options)
    assert (data.schema.group, data.schema.time) == ("user", "at") and "row" not in data.schema
    assert "'row': left out" in data.entry("train")["report"]["notes"][0]
    whole = build_histories(table, user="user", time="at", items={"hist_item": "item"}, max_length=4, where="click", delay=9)
    times = np.array(table["at"].to_pylist())
    ends = time_boundaries([times])
    seen = 0
    for name, mask in (("train", times < ends[0]), ("validation", (times >= ends[0]) & (times < ends[1])), ("test", times >= ends[1])):
        expected = Encoder(data.schema, data.vocabularies).encode(whole.filter(mask))
        found = rows_of(data, name)
        keys = sorted(found)

        def as_rows(columns, keys=keys):
            return [tuple(np.ravel(columns[key][i]).tolist() for key in keys) for i in range(len(columns["meta/time"]))]

        expected, found = as_rows({**expected.features, **expected.labels}), as_rows(found)
        assert sorted(map(str, found)) == sorted(map(str, expected))
        if partition_bytes > 4096:
            assert found == expected
        seen += len(found)
    assert seen == 307 and abs(data.num_rows("train") / 307 - 0.8) < 0.02
    assert left_over(tmp_path) == sorted([path.name, "out"])


def test_one_file_with_an_edited_schema(tmp_path):
    table = log().append_column("brand", pa.array([f"b{i % 5}" for i in range(307)]))
    pyarrow.csv.write_csv(table, tmp_path / "log.csv")
    schema, _ = infer_schema(tmp_path / "log.csv", label="click", user="user", item="item", time="at")
    schema.save(tmp_path / "schema.json")
    text = json.loads((tmp_path / "schema.json").read_text())
    text["features"] = [f for f in text["features"] if f["name"] not in ("age", "hist_item")]
    text["features"].append({"kind": "sequence", "name": "past_brands", "table": "brand", "max_length": 3, "group": "brands"})
    (tmp_path / "schema.json").write_text(json.dumps(text))
    data = prepare_file(tmp_path / "log.csv", tmp_path / "out", schema=Schema.load(tmp_path / "schema.json"))
    assert data.schema.feature_names == ("user", "item", "price", "brand", "past_brands")
    assert (rows_of(data, "test")["past_brands"] > 1).any()
    with pytest.raises(SchemaError, match="'past_brands' is no column of the log; to build it, give the user and time"):
        prepare_file(tmp_path / "log.csv", tmp_path / "two", schema=data.schema.replace(group=None, time=None))


def test_time_gaps_of_an_edited_schema(tmp_path):
    table = log().append_column("day", pa.array([f"2024-05-{1 + i % 9:02d} 10:00:{i % 60:02d}" for i in range(307)]))
    schema = Schema(
        features=[
            Categorical("item"),
            Sequence("past", 5, table="item", target="item", group="clicks"),
            time_gap_sequence("gaps", 5, "clicks"),
        ],
        labels=["click"],
        group="user",
        time="day",
    )
    data = prepare_file(table, tmp_path / "out", schema=schema)
    whole = build_histories(table, user="user", time="day", items={"past": "item"}, max_length=5, where="click", time_gap="gaps")
    expected = Encoder(data.schema, data.vocabularies).encode(whole, labels=False).features["gaps"]
    found = np.concatenate([rows_of(data, split)["gaps"] for split in data.splits])
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, expected.tolist())) and len(np.unique(expected)) > 4
    alone = schema.replace(features=[Categorical("item"), time_gap_sequence("gaps", 5, "alone")])
    with pytest.raises(SchemaError, match="'gaps' is no column of the log.*group 'alone', of which there are none"):
        prepare_file(table, tmp_path / "two", schema=alone)
    twice = schema.replace(features=[*schema.features, time_gap_sequence("more", 5, "clicks")])
    with pytest.raises(SchemaError, match="'gaps' and 'more' are both time gaps of 'clicks'"):
        prepare_file(table, tmp_path / "two", schema=twice)
    there = table.append_column("past", pa.array([["x"]] * 307))
    with pytest.raises(SchemaError, match="group 'clicks', of which past came with the log"):
        prepare_file(there, tmp_path / "two", schema=schema)


def test_one_file_at_random_or_by_a_column(tmp_path):
    table = log().append_column("part", pa.array((["train"] * 6 + ["valid"] * 4) * 30 + ["train"] * 7))
    random = prepare_file(table, tmp_path / "random", label="click", exclude=["at", "part"], fractions=(0.7, 0.0, 0.3), seed=5)
    assert random.splits == ("train", "test") and random.num_rows("train") + random.num_rows("test") == 307
    again = prepare_file(table, tmp_path / "again", label="click", exclude=["at", "part"], fractions=(0.7, 0, 0.3), seed=5, batch_rows=13)
    assert [s["sha256"] for s in again.entry("test")["shards"]] == [s["sha256"] for s in random.entry("test")["shards"]]
    column = prepare_file(table, tmp_path / "column", label="click", split="part")
    assert {split: column.num_rows(split) for split in column.splits} == {"train": 187, "valid": 120} and "part" not in column.schema


def test_one_file_errors(tmp_path):
    table = log()
    with pytest.raises(ValueError, match="give the label column"):
        prepare_file(table, tmp_path / "out")
    with pytest.raises(EncodingError, match="'items'; did you mean 'item'"):
        prepare_file(table, tmp_path / "out", label="click", user="user", item="items", time="at")
    with pytest.raises(EncodingError, match="no column 'part'"):
        prepare_file(table, tmp_path / "out", label="click", split="part")
    with pytest.raises(ValueError, match="needs the time column"):
        prepare_file(table, tmp_path / "out", label="click", split="time")
    with pytest.raises(EncodingError, match="split column 'item' has no 'train'"):
        prepare_file(table, tmp_path / "out", label="click", split="item")
    with pytest.raises(EncodingError, match="1 distinct times, too few for 3 splits"):
        prepare_file(table.set_column(4, "at", pa.array([5] * 307)), tmp_path / "out", label="click", time="at")
    with pytest.raises(EncodingError, match="too small for its split: no row came to 'test'"):
        prepare_file(table.slice(0, 30), tmp_path / "out", label="click", split="random", fractions=(0.9, 0.0999, 0.0001))
    schema = Schema(features=[Categorical("item"), Sequence("past", table="brand")], labels=["click"], group="user", time="at")
    with pytest.raises(SchemaError, match="'past' is no column of the log, and there is no categorical feature with its table"):
        prepare_file(table, tmp_path / "out", schema=schema)
    assert left_over(tmp_path) == []


def test_time_boundaries_come_nearest_to_the_shares():
    times = np.repeat(np.arange(10), [50, 10, 10, 10, 5, 5, 4, 3, 2, 1])
    assert time_boundaries([times]) == (4, 6)  # 80 % before 4, 90 % before 6
    assert time_boundaries([times], (0.8, 0.2, 0.0)) == (4, np.iinfo(np.int64).max)
    assert time_boundaries([times], (0.5, 0.0, 0.5)) == (1, 1)
    assert time_boundaries([np.array([3, 1, 2, 1, 1, 1])]) == (2, 3)
    rng = np.random.default_rng(0)
    for fractions in ((0.8, 0.1, 0.1), (0.2, 0.5, 0.3)):
        times = rng.integers(0, 1000, 5003)
        first, second = time_boundaries(np.array_split(times, 7), fractions)
        shares = [(times < first).mean(), ((times >= first) & (times < second)).mean()]
        assert shares == pytest.approx(fractions[:2], abs=0.002)
    with pytest.raises(ValueError, match="add up to 1"):
        time_boundaries([times], (0.8, 0.1, 0.2))


def test_time_boundaries_of_a_long_log_need_little_memory(monkeypatch):
    monkeypatch.setattr(splitting, "_SAMPLE", 500)
    times = np.arange(100_003)
    for pieces in (101, 7, 20_011):
        kept = splitting._sample(np.array_split(times, pieces))
        assert kept.tolist() == times[::128].tolist()  # 782 of them: the next coarser sample would be below 500
    first, second = time_boundaries(np.array_split(times, 101))
    assert first == pytest.approx(80_000, abs=200) and second == pytest.approx(90_000, abs=200)


def test_splitters_assign_rows():
    table = log()
    whole = RandomSplitter((0.5, 0.2, 0.3), seed=3).assign(table)
    splitter = RandomSplitter((0.5, 0.2, 0.3), seed=3)
    assert np.concatenate([splitter.assign(batch) for batch in table.to_batches(max_chunksize=17)]).tolist() == whole.tolist()
    assert np.bincount(whole) / 307 == pytest.approx([0.5, 0.2, 0.3], abs=0.08)
    column = ColumnSplitter("part")
    parts = [["b", "a"], ["c", "a", "b"]]
    codes = [column.assign(pa.table({"part": part})).tolist() for part in parts]
    assert [[column.names[c] for c in code] for code in codes] == parts
    with pytest.raises(EncodingError, match="split column 'part' has no value at row 6"):
        column.assign(pa.table({"part": ["a", None, "b"]}))
