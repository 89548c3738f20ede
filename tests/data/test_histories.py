"""Histories against a brute-force loop over random logs full of ties, and the spill against the in-memory form."""

import numpy as np
import pyarrow as pa
import pytest

from keras_ctr.data.columns import EncodingError
from keras_ctr.data.histories import build_histories, partition_by_user
from keras_ctr.data.sources import read_batches


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
