"""Histories against a brute-force loop over random logs full of ties, and the spill against the in-memory form."""

import numpy as np
import pyarrow as pa
import pytest

from keras_ctr.data.columns import EncodingError
from keras_ctr.data.encode import Encoder
from keras_ctr.data.histories import build_histories, partition_by_user, time_gap_ids
from keras_ctr.data.infer import infer_schema
from keras_ctr.data.sources import read_batches
from keras_ctr.schema import Label, Schema, SchemaError, Sequence, time_gap_sequence


def brute_force(rows, max_length, delay=0, prior=None):
    """One history a row of (user, time, item, is_event), from the definition."""
    out = []
    for user, time, _, _ in rows:
        if user is None:
            out.append([])
            continue
        # Python's sort is stable: events of one instant stay in the order of the file.
        events = [r for r in rows if r[0] == user and r[3] and r[1] < time and time - r[1] >= delay]
        past = list((prior or {}).get(user, [])) + [r[2] for r in sorted(events, key=lambda r: r[1])]
        out.append(past[-max_length:])
    return out


def random_log(seed, n=211, users=7, instants=13):
    rng = np.random.default_rng(seed)
    names = [None, *(f"user{i}" for i in range(users))]
    times, items, marks = rng.integers(-3, instants, n), rng.integers(0, 97, n), rng.random(n) < 0.6
    rows = [(names[rng.integers(0, users + 1)], int(t), int(i), bool(m)) for t, i, m in zip(times, items, marks, strict=True)]
    columns = dict(zip(("user", "time", "item", "clicked"), map(list, zip(*rows, strict=True)), strict=True))
    return rows, pa.table(columns)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("max_length", [1, 3, 1000])
def test_equals_brute_force_on_logs_with_ties(seed, max_length):
    rows, table = random_log(seed)
    out = build_histories(table, user="user", time="time", items={"past": "item"}, max_length=max_length, where="clicked")
    assert out["past"].to_pylist() == brute_force(rows, max_length)
    assert out.select(table.column_names).equals(table)


@pytest.mark.parametrize("delay", [1, 2, 5])
def test_delay_hides_young_events(delay):
    rows, table = random_log(11)
    out = build_histories(table, user="user", time="time", items={"past": "item"}, where="clicked", delay=delay)
    assert out["past"].to_pylist() == brute_force(rows, 50, delay=delay)
    assert (delay == 1) == (out["past"].to_pylist() == brute_force(rows, 50))


def test_no_leak_own_row_and_ties_and_future():
    table = pa.table({"user": [1, 1, 1, 2], "time": [5, 5, 6, 7], "item": ["a", "b", "c", "d"]})
    out = build_histories(table, user="user", time="time", items={"past": "item"})
    assert out["past"].to_pylist() == [[], [], ["a", "b"], []]


def test_changing_the_future_changes_nothing():
    rows, table = random_log(3)
    now = 5
    before = build_histories(table, user="user", time="time", items={"past": "item"})
    late = np.array([r[1] >= now for r in rows])
    changed = table.set_column(2, "item", pa.array([r[2] + 1000 * bool(x) for r, x in zip(rows, late, strict=True)]))
    after = build_histories(changed, user="user", time="time", items={"past": "item"})
    seen = np.array([r[1] <= now for r in rows])
    assert before["past"].filter(seen).equals(after["past"].filter(seen))
    assert not before["past"].equals(after["past"])


def test_row_order_of_the_file_does_not_matter():
    _, table = random_log(5)
    table = table.set_column(1, "time", pa.array(np.random.default_rng(0).permutation(table.num_rows)))  # no ties
    order = np.random.default_rng(1).permutation(table.num_rows)
    build = {"user": "user", "time": "time", "items": {"past": "item"}}
    assert build_histories(table.take(order), **build).equals(build_histories(table, **build).take(order).combine_chunks())


@pytest.mark.parametrize("as_table", [False, True])
def test_prior_history_stands_in_front(as_table):
    rows, table = random_log(7)
    prior = {"user1": [1000, 1001, 1002], "user3": [2000], "user4": [], "stranger": [7]}
    given = pa.table({"user": list(prior), "past": list(prior.values())}) if as_table else {"past": prior}
    for max_length in (2, 5, 60):
        out = build_histories(table, user="user", time="time", items={"past": "item"}, where="clicked", max_length=max_length, prior=given)
        assert out["past"].to_pylist() == brute_force(rows, max_length, prior=prior)


def test_several_columns_stay_aligned_with_nulls_kept():
    table = pa.table({"u": [1, 1, 1], "t": [1, 2, 3], "item": [10, None, 30], "brand": ["x", "y", "z"]})
    out = build_histories(table, user="u", time="t", items={"items": "item", "brands": "brand"})
    assert out["items"].to_pylist() == [[], [10], [10, None]]
    assert out["brands"].to_pylist() == [[], ["x"], ["x", "y"]]


def test_timestamps_and_masks_and_empty_events():
    times = pa.array(["2022-04-25 10:00:00", "2022-04-25 10:00:01", "2022-04-25 10:00:02"])
    zoned = pa.array([f"{text}+02:00" for text in times.to_pylist()])
    for column in (times, zoned, times.cast(pa.timestamp("s")), zoned.cast(pa.timestamp("us", "UTC"))):
        table = pa.table({"u": ["a", "a", "a"], "t": column, "i": [1, 2, 3]})
        mask = np.array([True, False, True])
        assert build_histories(table, user="u", time="t", items={"p": "i"}, where=mask)["p"].to_pylist() == [[], [1], [1]]
        assert build_histories(table, user="u", time="t", items={"p": "i"}, delay=1001)["p"].to_pylist() == [[], [], [1]]
        assert build_histories(table, user="u", time="t", items={"p": "i"}, where=~mask & False)["p"].to_pylist() == [[], [], []]


@pytest.mark.parametrize("rows_a_batch", [10, 211])
def test_spill_equals_memory_up_to_row_order(tmp_path, rows_a_batch):
    _, table = random_log(2)
    table = table.append_column("row", pa.array(range(table.num_rows)))
    build = {"user": "user", "time": "time", "items": {"past": "item"}, "where": "clicked", "max_length": 4}
    paths = partition_by_user(table.to_batches(max_chunksize=rows_a_batch), tmp_path / "spill", user="user", num_partitions=3)
    assert len(paths) == 3
    parts = [build_histories(pa.Table.from_batches(read_batches(path)), **build) for path in paths]
    for part in parts:
        assert part["row"].to_pylist() == sorted(part["row"].to_pylist())
    users = [set(part["user"].to_pylist()) for part in parts]
    assert sum(map(len, users)) == len(set.union(*users))
    assert pa.concat_tables(parts).sort_by("row").combine_chunks().equals(build_histories(table, **build).combine_chunks())


def test_integer_users_spread_over_the_files(tmp_path):
    table = pa.table({"user": np.arange(1000), "time": np.arange(1000)})
    paths = partition_by_user(table.to_batches(), tmp_path, user="user", num_partitions=4)
    sizes = [sum(b.num_rows for b in read_batches(path)) for path in paths]
    assert sum(sizes) == 1000 and min(sizes) > 180


def bucket(seconds):
    """2 + min(floor(log2(seconds + 1)), 31) by doubling."""
    place, end = 0, 2
    while seconds + 1 >= end and place < 31:
        place, end = place + 1, 2 * end
    return 2 + place


def test_time_gap_ids_by_hand():
    seconds = [0, 1, 2, 3, 6, 7, 3600, 86_400, 365 * 86_400, 2**31 - 2, 2**31 - 1, 2**40, 2**62]
    expected = [2, 3, 3, 4, 4, 5, 13, 18, 26, 32, 33, 33, 33]
    assert time_gap_ids(seconds).tolist() == [bucket(s) for s in seconds] == expected
    assert time_gap_ids(-5) == 2
    around = [2**k - 1 + step for k in range(1, 34) for step in (-1, 0, 1)]
    assert time_gap_ids(around).tolist() == [bucket(s) for s in around]
    assert time_gap_ids(np.array([999, 1000, 2999, 3000]), "ms").tolist() == [2, 3, 3, 4]
    assert time_gap_ids([2_999_999, 3_000_000], "us").tolist() == time_gap_ids([2_999_999_999, 3_000_000_000], "ns").tolist() == [3, 4]
    assert time_gap_ids([[0.5, 0.99], [1.0, 6.9]]).tolist() == [[2, 2], [3, 4]]
    with pytest.raises(ValueError, match="time_unit must be one of .*, got 'h'"):
        time_gap_ids(3, "h")


def gaps_by_loop(rows, max_length, per_second, delay=0, prior=None):
    """The gap ids of `brute_force`'s histories; prior is {user: list of times or None}."""
    out = []
    for user, time, _, _ in rows:
        events = [] if user is None else [r for r in rows if r[0] == user and r[3] and r[1] < time and time - r[1] >= delay]
        times = [*(prior or {}).get(user, []), *sorted(r[1] for r in events)]
        out.append([1 if t is None else bucket((time - t) // per_second) for t in times][-max_length:])
    return out


@pytest.mark.parametrize(("time_unit", "per_second"), [("s", 1), ("ms", 1000)])
@pytest.mark.parametrize(("max_length", "delay"), [(3, 0), (1000, 2)])
def test_time_gaps_against_a_loop(time_unit, per_second, max_length, delay):
    rows, table = random_log(13)
    rows = [(user, time * 700, item, mark) for user, time, item, mark in rows]  # gaps of 0.7 to 11.2 s, or of minutes and hours
    table = table.set_column(1, "time", pa.array([r[1] for r in rows]))
    build = {"user": "user", "time": "time", "items": {"past": "item"}, "where": "clicked", "max_length": max_length, "delay": delay}
    out = build_histories(table, **build, time_gap="gap", time_unit=time_unit)
    assert out["gap"].to_pylist() == gaps_by_loop(rows, max_length, per_second, delay)
    assert len({value for gaps in out["gap"].to_pylist() for value in gaps}) >= 3
    assert out.drop_columns("gap").equals(build_histories(table, **build)) and out.column_names[-1] == "gap"


def test_time_gaps_of_timestamps_and_text():
    text = pa.array(["2022-04-25 10:00:00", "2022-04-25 10:00:01", "2022-04-25 11:00:00"])
    for column in (text, text.cast(pa.timestamp("s")), text.cast(pa.timestamp("us"))):
        table = pa.table({"u": ["a", "a", "a"], "t": column, "i": [1, 2, 3]})
        for unit in (None, "ms"):
            out = build_histories(table, user="u", time="t", items={"p": "i"}, time_gap="g", time_unit=unit)
            assert out["g"].to_pylist() == [[], [3], [bucket(3600), bucket(3599)]]


@pytest.mark.parametrize("as_table", [False, True])
def test_time_gaps_of_prior_histories(as_table):
    rows, table = random_log(7)
    past = {"user1": [1000, 1001, 1002], "user3": [2000], "user4": [], "stranger": [7]}
    known = {"user1": [-2000, None, -9], "user3": [-90_000], "user4": [], "stranger": [None]}
    build = {"user": "user", "time": "time", "items": {"past": "item"}, "where": "clicked", "time_gap": "gap", "time_unit": "s"}
    for times in (None, known):
        prior = {"past": past} if times is None else {"past": past, "gap": times}
        given = prior
        if as_table:
            given = pa.table({"user": list(past), **{name: list(lists.values()) for name, lists in prior.items()}})
        expected = times or {user: [None] * len(items) for user, items in past.items()}
        for max_length in (2, 5, 60):
            out = build_histories(table, **build, max_length=max_length, prior=given)
            assert out["past"].to_pylist() == brute_force(rows, max_length, prior=past)
            assert out["gap"].to_pylist() == gaps_by_loop(rows, max_length, 1, prior=expected)
    assert {1, bucket(2000), bucket(90_001)} <= {value for gaps in out["gap"].to_pylist() for value in gaps}
    short = {"past": past, "gap": {**known, "user3": []}}
    with pytest.raises(ValueError, match="prior histories that are aligned: of one length in each of past, gap"):
        build_histories(table, **build, prior=short)


def test_a_step_without_values_has_no_gap_and_stays_no_event():
    table = pa.table({"u": [1, 1, 1, 1], "t": [1, 2, 3, 10], "item": [10, None, None, 40], "brand": ["x", "y", None, "z"]})
    items = {"items": "item", "brands": "brand"}
    out = build_histories(table, user="u", time="t", items=items, time_gap="gaps", time_unit="s")
    assert out["gaps"].to_pylist() == [[], [3], [3, 3], [bucket(9), bucket(8), None]]
    schema = Schema(
        [
            Sequence("items", 5, dtype="int64", vocabulary=(10, 40)),
            Sequence("brands", 5, vocabulary=("x", "y", "z")),
            time_gap_sequence("gaps", 5),
        ],
        [Label("y")],
    )
    encoded = Encoder(schema).encode(out, labels=False).features
    assert encoded["gaps"].tolist() == [[0] * 5, [3, 0, 0, 0, 0], [3, 3, 0, 0, 0], [5, 5, 0, 0, 0]]
    assert encoded["brands"][3].tolist() == [2, 3, 0, 0, 0]
    assert encoded["gaps"].dtype == schema.encoded_dtype("gaps")


def test_time_gap_sequence_is_fitted_and_may_share_a_table():
    schema = Schema([time_gap_sequence("a_gap", 3, "a", table="gap"), time_gap_sequence("b_gap", 7, "b", table="gap")], ["y"])
    schema.check_fitted()
    assert schema["a_gap"].max_length == 3 and list(schema.sequence_groups) == ["a", "b"]
    assert {name: table.vocabulary_size for name, table in schema.tables.items()} == {"gap": 34}
    assert Schema.from_json(schema.to_json()) == schema


def test_inferred_histories_may_have_time_gaps():
    _, table = random_log(0)
    roles = {"label": "clicked", "user": "user", "item": "item", "time": "time", "history_length": 3}
    schema, _ = infer_schema(table, time_gap=True, **roles)
    plain, _ = infer_schema(table, **roles)
    assert schema.features == (*plain.features, time_gap_sequence("hist_time_gap", 3, plain["hist_item"].group))
    for missing in ({"user": None}, {"history": ()}):
        with pytest.raises(SchemaError, match="time_gap is an attribute of histories"):
            infer_schema(table, time_gap=True, **{**roles, **missing})


def test_time_gap_errors():
    table = pa.table({"user": [1, 2], "time": [1, 2], "item": [1, 2]})
    build = {"user": "user", "time": "time", "items": {"p": "item"}}
    with pytest.raises(ValueError, match="time column 'time' holds numbers: time gaps need time_unit"):
        build_histories(table, **build, time_gap="g")
    with pytest.raises(ValueError, match="time_unit must be one of .*, got 'h'"):
        build_histories(table, **build, time_gap="g", time_unit="h")
    with pytest.raises(ValueError, match="both make a column 'p'"):
        build_histories(table, **build, time_gap="p", time_unit="s")
    with pytest.raises(ValueError, match="column 'item' already"):
        build_histories(table, **build, time_gap="item", time_unit="s")
    dated = table.set_column(1, "time", pa.array(["2022-04-25", "2022-04-26"]))
    with pytest.raises(ValueError, match="read in milliseconds: leave time_unit='s' out"):
        build_histories(dated, **build, time_gap="g", time_unit="s")


def test_errors_name_the_cause():
    table = pa.table({"user": [1, 2], "time": [1, None], "item": [1, 2], "clicked": [1, 2]})
    full = table.set_column(1, "time", pa.array([1, 2]))
    with pytest.raises(EncodingError, match="'users'; did you mean 'user'"):
        build_histories(table, user="users", time="time", items={"p": "item"})
    with pytest.raises(EncodingError, match="time column 'time' has no value at row 1"):
        build_histories(table, user="user", time="time", items={"p": "item"})
    with pytest.raises(EncodingError, match="'clicked': 2 at row 1"):
        build_histories(full, user="user", time="time", items={"p": "item"}, where="clicked")
    with pytest.raises(ValueError, match="boolean mask of 2 rows"):
        build_histories(full, user="user", time="time", items={"p": "item"}, where=np.array([True]))
    with pytest.raises(ValueError, match="column 'item' already"):
        build_histories(full, user="user", time="time", items={"item": "item"})
    with pytest.raises(ValueError, match="two rows for one 'user'"):
        build_histories(full, user="user", time="time", items={"p": "item"}, prior=pa.table({"user": [1, 1], "p": [[1], [2]]}))
    with pytest.raises(ValueError, match="'q' that is not among"):
        build_histories(full, user="user", time="time", items={"p": "item"}, prior={"q": {}})
    with pytest.raises(ValueError, match="max_length must be positive"):
        build_histories(full, user="user", time="time", items={"p": "item"}, max_length=0)
