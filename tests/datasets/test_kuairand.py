"""KuaiRand: no leak (against a loop over the raw rows), split dates, columns, both layouts, errors, the extract that ships."""

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from keras_ctr.data import fit_schema
from keras_ctr.data.columns import EncodingError
from keras_ctr.datasets import kuairand
from keras_ctr.schema import time_gap_sequence
from tests.datasets.kuairand_sample import action_of, age_of, earlier, write_release

ROOT = Path(__file__).parents[2]
KEEP = {"watched": lambda e: True, "long_watched": lambda e: e["long_view"] == 1, "liked": lambda e: e["is_like"] == 1}
OUTCOMES = set(
    "is_click is_like is_follow is_comment is_forward is_hate long_view play_time_ms profile_stay_time comment_stay_time is_profile_enter "
    "watch_ratio finish like long_watch is_positive".split()
)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    return folder, *write_release(folder)


@pytest.fixture(scope="module")
def extract():
    return kuairand.load(attributes=kuairand.ATTRIBUTES)


def rows_of(table, drop=()):
    return [{k: v for k, v in row.items() if k not in drop and v == v} for row in table.to_pylist()]  # v == v: NaN is no value


def test_official_release_against_the_loop(release):
    folder, log, _, videos = release
    tables = kuairand.load(folder, attributes=kuairand.ATTRIBUTES, max_length={"watched": 11, "liked": 2})
    expected = {name: [row for row in log if a <= int(row["date"]) <= b] for name, (a, b) in kuairand.SPLIT_DAYS.items()}
    lengths = {"watched": 11, "long_watched": 50, "liked": 2}
    ties = 0
    for name, rows in expected.items():
        rows = sorted(rows, key=lambda row: row["time_ms"])
        got = tables[name].to_pylist()
        assert len(got) == len(rows) > 0
        for one, row in zip(got, rows, strict=True):
            assert {k: one[k] for k in ("user_id", "video_id", "time_ms", "tab", *kuairand.LABELS)} == {
                k: row[k] for k in ("user_id", "video_id", "time_ms", "tab", *kuairand.LABELS)
            }
            video = videos[row["video_id"]]
            assert one["author_id"] == video["author_id"] and one["upload_dt"] == video["upload_dt"]
            assert one["tag"] == int(video["tag"].split(",")[0] or -1)
            assert one["hour"] == int(row["hourmin"]) // 100
            for group, keep in KEEP.items():
                events = earlier(row, log, keep)[-lengths[group] :]
                ties += sum(e["time_ms"] == row["time_ms"] and e["user_id"] == row["user_id"] for e in log) - 1
                assert one[f"{group}_video_id"] == [e["video_id"] for e in events]
                assert one[f"{group}_author_id"] == [videos[e["video_id"]]["author_id"] for e in events]
                assert one[f"{group}_tag"] == [int(videos[e["video_id"]]["tag"].split(",")[0] or -1) for e in events]
                if group == "watched":
                    assert one["watched_action"] == [action_of(e) for e in events]
                    assert one["watched_tab"] == [e["tab"] for e in events]
                    assert one["watched_age"] == [age_of(e, row) for e in events]
    assert ties > 50  # the sample has what the strict comparison is about


def gap_of(event, row):
    """2 + floor(log2(seconds + 1)) by counting the binary digits."""
    return 1 + len(bin((row["time_ms"] - event["time_ms"]) // 1000 + 1)) - 2


def test_time_gaps_against_the_loop(release):
    folder, log, _, _ = release
    lengths = {"watched": 11, "long_watched": 50, "liked": 2}
    tables, plain = kuairand.load(folder, max_length=lengths, time_gaps=True), kuairand.load(folder, max_length=lengths)
    seen = set()
    for name, (first, last) in kuairand.SPLIT_DAYS.items():
        rows = sorted((row for row in log if first <= int(row["date"]) <= last), key=lambda row: row["time_ms"])
        same = [column for column in plain[name].column_names if column != "duration"]  # which holds NaN
        assert tables[name].select(same).equals(plain[name].select(same))
        for one, row in zip(tables[name].to_pylist(), rows, strict=True):
            for group, keep in KEEP.items():
                expected = [gap_of(e, row) for e in earlier(row, log, keep)[-lengths[group] :]]
                assert one[f"{group}_time_gap"] == expected
                seen.update(expected)
    assert len(seen) > 4 and min(seen) >= 2


@pytest.mark.slow
def test_time_gaps_of_the_shipped_extract(extract):
    tables = kuairand.load(attributes=kuairand.ATTRIBUTES, time_gaps=True)
    for name, table in tables.items():
        for group in kuairand.HISTORIES:
            gaps, videos = table[f"{group}_time_gap"], table[f"{group}_video_id"]
            assert pc.list_value_length(gaps).equals(pc.list_value_length(videos))
            assert pc.min(pc.list_flatten(gaps)).as_py() == 1 and pc.max(pc.list_flatten(gaps)).as_py() < 34  # 14 days are 2^20.2 s
        # Unknown exactly where the age is: `age` counts the binary digits of the seconds, the gap those of one second more.
        gaps, ages = (pc.list_flatten(table[f"watched_{side}"]).to_numpy().astype(int) for side in ("time_gap", "age"))
        assert ((gaps == 1) == (ages == -1)).all()
        digits = (gaps - 1 - ages)[ages >= 0]
        assert set(np.unique(digits)) == {0, 1} and (gaps[ages == 0] == 2).all()
        assert [column for column in table.column_names if "time_gap" not in column] == extract[name].column_names


def test_time_gap_columns_are_the_schema_s(release):
    arguments = {"histories": ("watched", "liked"), "max_length": {"liked": 3}, "time_gaps": True}
    schema, table = kuairand.schema(**arguments), kuairand.load(release[0], **arguments)["test"]
    assert tuple(table.column_names) == schema.raw_columns
    assert all(table[name].type == kuairand.column_type(name) for name in table.column_names)
    assert schema["liked_time_gap"] == time_gap_sequence("liked_time_gap", 3, "liked", table="time_gap")
    assert schema.tables["time_gap"].features == ("watched_time_gap", "liked_time_gap")
    assert not [f.name for f in kuairand.schema().features if "time_gap" in f.name]


def test_missing_values_and_user_columns(release):
    table = pa.concat_tables(kuairand.load(release[0], histories=(), first_day=20220408).values())
    for row in table.to_pylist():
        assert row["user_active_degree"] == f"user_active_degree-{row['user_id']}"
        assert row["onehot_feat4"] == (-1 if row["user_id"] == 1 else 100 + row["user_id"])
        assert row["onehot_feat12"] == (1 if row["user_id"] == 2 else 100 + row["user_id"])
        assert row["music_type"] == (-1 if row["video_id"] == 7 else 9)
        if row["video_id"] == 5:
            assert np.isnan(row["duration"])
        else:
            assert row["duration"] == 7 + row["video_id"]


def test_first_day_and_random_split(release):
    folder, log, exposed, _ = release
    tables = kuairand.load(folder, first_day=20220408, random=True)
    assert list(tables) == ["train", "validation", "test", "random"]
    assert tables["train"].num_rows == sum(row["date"] <= "20220429" for row in log)
    rows = sorted((row for row in exposed if row["date"] >= "20220501"), key=lambda row: row["time_ms"])
    got = tables["random"].to_pylist()
    assert [one["video_id"] for one in got] == [row["video_id"] for row in rows]
    for one, row in zip(got, rows, strict=True):  # random impressions are in no history
        assert one["watched_video_id"] == [e["video_id"] for e in earlier(row, log)][-50:]


def test_shipped_histories_against_the_loop(extract):
    log = [row for name in ("val", "test") for row in pq.read_table(kuairand.EXTRACT / f"{name}.parquet").to_pylist()]
    prior = {row["user_id"]: row for row in pq.read_table(kuairand.EXTRACT / "user_sequences.parquet").to_pylist()}
    counts = {}
    for row in log:
        counts[row["user_id"]] = counts.get(row["user_id"], 0) + 1
    random = np.random.default_rng(5)
    # The busiest users, some at random, and one without lists.
    users = {*sorted(counts, key=counts.get)[-7:], *random.choice(sorted(counts), 23).tolist(), min(set(counts) - set(prior))}
    log = [row for row in log if row["user_id"] in users]
    columns = {"watched": "watch_seq", "long_watched": "long_watch_seq", "liked": "like_seq"}
    checked = 0
    for name, (first, last) in kuairand.SPLIT_DAYS.items():
        rows = sorted((row for row in log if first <= row["date"] <= last), key=lambda row: row["time_ms"])
        table = extract[name].filter(pc.is_in(extract[name]["user_id"], pa.array(sorted(users), pa.int32())))
        got = table.select([c for c in table.column_names if "watched" in c or "liked" in c or c in ("user_id", "time_ms")]).to_pylist()
        for one, row in zip(got, rows, strict=True):
            assert (one["user_id"], one["time_ms"]) == (row["user_id"], row["time_ms"])
            for group, keep in KEEP.items():
                events = earlier(row, log, keep)
                before = prior[row["user_id"]][columns[group]] if row["user_id"] in prior else []
                videos = [*before, *(e["video_id"] for e in events)]
                assert one[f"{group}_video_id"] == videos[-50:]
                if group == "watched":
                    n = min(len(events), 50)
                    assert one["watched_action"][len(videos[-50:]) - n :] == [action_of(e) for e in events][-50:]
                    assert one["watched_age"] == ([-1] * len(before) + [age_of(e, row) for e in events])[-50:]
                    assert one["watched_tab"] == ([-1] * len(before) + [e["tab"] for e in events])[-50:]
                    told = one["watched_action"][: len(videos[-50:]) - n]
                    assert set(told) <= {3, 4, 5} and told.count(4) <= len(prior.get(row["user_id"], {"like_seq": []})["like_seq"])
            checked += 1
    assert checked > 500


def test_lists_end_before_the_first_impression_that_sees_them(release, tmp_path):
    make_extract(release[0], tmp_path / "extract")
    path = tmp_path / "extract" / "user_sequences.parquet"
    lists = pq.read_table(path).to_pylist()
    first = {}
    for row in pq.read_table(tmp_path / "extract" / "val.parquet").to_pylist():
        first[row["user_id"]] = min(row["time_ms"], first.get(row["user_id"], row["time_ms"]))
    late = lists[2]["user_id"]
    lists[2]["last_time_ms"] = first[late]  # not strictly before
    pq.write_table(pa.Table.from_pylist(lists), path)
    for table in kuairand.load(tmp_path / "extract").values():
        for row in table.to_pylist():
            assert (-1 in row["watched_action"] or 5 in row["watched_action"]) <= (row["user_id"] != late)
            if row["user_id"] == late and row["time_ms"] == first[late]:
                assert row["watched_video_id"] == row["long_watched_video_id"] == row["liked_video_id"] == []


def make_extract(raw, out, percent=100.0):
    spec = importlib.util.spec_from_file_location("make_kuairand_extract", ROOT / "script" / "make_kuairand_extract.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.make(raw, out, percent)


def test_extract_of_the_release_has_the_same_rows(tmp_path):
    folder = tmp_path / "release"
    write_release(folder, videos=499)  # so many that a user hardly meets one twice: lists of videos then say which event was which
    make_extract(folder, tmp_path / "extract")
    official, compact = kuairand.load(folder), kuairand.load(tmp_path / "extract")
    assert sorted(p.name for p in (tmp_path / "extract").glob("[A-Z]*")) == ["LICENSE", "README.md"]
    for name, table in official.items():
        assert rows_of(compact[name], ["watched_action"]) == rows_of(table, ["watched_action"])
        for told, true in zip(compact[name]["watched_action"].to_pylist(), table["watched_action"].to_pylist(), strict=True):
            assert len(told) == len(true)
            # What the lists do not say is whether an early impression was clicked.
            assert all(a == b or (a == 5 and b in (1, 2)) for a, b in zip(told, true, strict=True))
    again = tmp_path / "again"
    make_extract(tmp_path / "extract", again)
    for path in again.glob("*.parquet"):
        assert pq.read_table(path).equals(pq.read_table(tmp_path / "extract" / path.name)), path.name


def test_part_of_the_users_is_whole(release, tmp_path):
    make_extract(release[0], tmp_path / "part", percent=50.0)
    part, whole = kuairand.load(tmp_path / "part"), kuairand.load(release[0])
    users = set(part["train"]["user_id"].to_pylist())
    assert 0 < len(users) < 5
    for name in whole:
        rows = [row for row in rows_of(whole[name], ["watched_action"]) if row["user_id"] in users]
        assert rows_of(part[name], ["watched_action"]) == rows


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"labels": ["long_view", "is_click"]},
        {"histories": ()},
        {"histories": "liked", "max_length": 3},
        {"histories": ("watched",), "attributes": ("age", "video_id")},
    ],
)
def test_columns_are_the_schema_s(arguments, release):
    schema = kuairand.schema(**arguments)
    for table in kuairand.load(release[0], **arguments).values():
        assert tuple(table.column_names) == schema.raw_columns
        assert all(table[name].type == kuairand.column_type(name) and table[name].null_count == 0 for name in table.column_names)
        for seq in schema.sequences:
            assert pc.max(pc.list_value_length(table[seq.name])).as_py() <= seq.max_length


def test_no_outcome_is_a_feature():
    schema = kuairand.schema(attributes=kuairand.ATTRIBUTES)
    assert not {f.name for f in schema.features} & OUTCOMES
    assert not [f.name for f in schema.features if f.name.endswith("_cnt") or "_user_num" in f.name and not f.name.endswith("_range")]
    assert schema.label_names == ("is_click", "long_view", "is_like")
    assert (schema.group, schema.time) == ("user_id", "time_ms")
    assert {s.target for s in schema.sequence_groups["watched"]} == {"video_id", "author_id", "tag", "tab", None}


def test_shipped_extract(extract):
    assert {name: table.num_rows for name, table in extract.items()} == {"train": 36020, "validation": 10239, "test": 64972}
    raw = {name: pq.read_table(kuairand.EXTRACT / f"{name}.parquet") for name in ("val", "test")}
    assert pc.sum(pc.less(raw["val"]["date"], 20220430)).as_py() == 36020
    assert (pc.min(raw["val"]["date"]).as_py(), pc.max(raw["val"]["date"]).as_py()) == (20220425, 20220430)
    assert (pc.min(raw["test"]["date"]).as_py(), pc.max(raw["test"]["date"]).as_py()) == (20220501, 20220508)
    for table in extract.values():
        assert 0.42 < pc.mean(table["is_click"]).as_py() < 0.47
        assert pc.mean(pc.equal(pc.list_value_length(table["watched_video_id"]), 0)).as_py() < 0.01
    files = list(kuairand.EXTRACT.iterdir())
    assert sum(path.stat().st_size for path in files) < 4e6
    assert "Attribution-ShareAlike 4.0 International" in (kuairand.EXTRACT / "LICENSE").read_text(encoding="utf-8")[:100]
    notice = (kuairand.EXTRACT / "README.md").read_text(encoding="utf-8")
    assert "Gao" in notice and "CIKM 2022" in notice and "CC BY-SA" in notice.replace("Attribution-ShareAlike", "CC BY-SA")
    assert "36020" not in notice and f"{46259:,}" in notice and f"{64972:,}" in notice


def test_schema_fits_the_extract(extract):
    schema, vocabularies = fit_schema(extract["train"].to_batches(), kuairand.schema())
    assert schema.tables["action"].vocabulary_size == 2 + 5
    assert schema.tables["tab"].vocabulary_size <= 2 + 15
    assert vocabularies["upload_dt"].to_list() and schema.tables["upload_dt"].vocabulary_size == 2 + 3


def test_missing_files_are_named(release, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        kuairand.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="log_standard_4_08_to_4_21_pure.csv.*val, test"):
        kuairand.load(tmp_path)
    write_release(tmp_path / "data", with_random=False)
    assert kuairand.load(tmp_path)["test"].num_rows > 0  # the files may lie in data/
    with pytest.raises(FileNotFoundError, match="'log_random_4_22_to_5_08_pure.csv' missing"):
        kuairand.load(tmp_path, random=True)
    (tmp_path / "data" / "user_features_pure.csv").unlink()
    with pytest.raises(FileNotFoundError, match="'user_features_pure.csv' missing; the official release has"):
        kuairand.load(tmp_path)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "val.parquet").write_bytes((kuairand.EXTRACT / "val.parquet").read_bytes())
    with pytest.raises(FileNotFoundError, match="'test.parquet', 'user_features.parquet'.* missing; the extract has"):
        kuairand.load(tmp_path / "half")


def rewrite(path, change):
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    change(rows)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_bad_files_are_named(tmp_path):
    path = tmp_path / "log_standard_4_22_to_5_08_pure.csv"

    def misspell(rows):
        for row in rows:
            row["is_clik"] = row.pop("is_click")

    def break_one(name, value):
        def change(rows):
            rows[4][name] = value

        return change

    for change, error, match in (
        (misspell, EncodingError, r"log_standard_4_22_to_5_08_pure.csv has no column 'is_click'; did you mean 'is_clik'"),
        (break_one("tab", ""), ValueError, r"log_standard_4_22.*column 'tab' has no value at row 4"),
        (break_one("video_id", "x7"), ValueError, r"log_standard_4_22.*column 'video_id' should hold integers"),
        (break_one("is_click", "2"), ValueError, r"log_standard_4_22.*column 'is_click' holds 2 at row 4"),
    ):
        write_release(tmp_path)
        rewrite(path, change)
        with pytest.raises(error, match=match):
            kuairand.load(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="log_standard_4_22_to_5_08_pure.csv: the file is empty"):
        kuairand.load(tmp_path)
    write_release(tmp_path)
    rewrite(path, lambda rows: [row.update(date="20220503") for row in rows])
    with pytest.raises(ValueError, match="split 'train' has no rows"):
        kuairand.load(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"labels": ["is_clik"]}, "no label 'is_clik'; did you mean 'is_click'"),
        ({"histories": ["wached"]}, "no history 'wached'; did you mean 'watched'"),
        ({"max_length": {"like": 3}}, "no history 'like'"),
        ({"max_length": 0}, "max_length of history 'watched' must be a positive int, got 0"),
        ({"attributes": ["gap"]}, "no event attribute 'gap'"),
        ({"attributes": []}, "at least one of video_id"),
    ],
)
def test_bad_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        kuairand.schema(**arguments)
    with pytest.raises(ValueError, match=match):
        kuairand.load(**arguments)
