"""Vocabularies that grow and shrink over preparations: against loops over dicts, by hand, and their files."""

import collections
import json

import numpy as np
import pyarrow as pa
import pytest

from keras_ctr.data import PreparedData, Vocabulary, VocabularyBuilder, make_dataset, prepare, prepare_file, save_vocabularies
from keras_ctr.data.fit import SchemaFitter
from keras_ctr.data.framing import CorruptDataError
from keras_ctr.data.vocabulary_age import grow, load_earlier, load_unseen, save_unseen, unseen_path
from keras_ctr.schema import Categorical, Numeric, Schema, Sequence

SCHEMA = Schema(
    features=[
        Categorical("item", dtype="int64"),
        Categorical("city"),
        Categorical("fixed", vocabulary=("x", "y")),
        Categorical("place", 5, dtype="int64"),
        Numeric("price"),
        Sequence("past", max_length=3, table="item", target="item"),
    ],
    labels=["click"],
)


def day(cities, items=None, past=None, prices=None):
    rows = len(cities)
    return pa.table(
        {
            "item": items or [1] * rows,
            "city": cities,
            "fixed": ["x", "new"] * (rows // 2) + ["y"] * (rows % 2),
            "place": [2] * rows,
            "price": prices or [float(i) for i in range(rows)],
            "past": past or [[]] * rows,
            "click": [0, 1] * (rows // 2) + [1] * (rows % 2),
        }
    )


def state(data, table="city"):
    """Values in id order with how long each was not seen."""
    earlier = load_earlier(data.path)
    values = data.vocabularies[table].to_list()
    return dict(zip(values, earlier.unseen.get(table, np.zeros(len(values), int)).tolist(), strict=True))


def growth(data):
    return {name: tuple(counts.values()) for name, counts in data.entry("train")["report"]["growth"]["tables"].items()}


def test_three_preparations_by_hand(tmp_path):
    first = prepare({"train": day(list("aaabbc"), items=[7, 7, 5, 5, 5, 9], past=[[9], [], [9, -1], [], [], [9]])}, SCHEMA, tmp_path / "1")
    assert state(first) == {"a": 0, "b": 0, "c": 0} and not unseen_path(first.path, "city").exists()
    assert first.vocabularies["item"].to_list() == [9, 5, 7]  # 9: once as an item and three times in the past

    second = prepare({"train": day(list("addee"), past=[[9], [8], [], [], []])}, None, tmp_path / "2", extend=first.path, evict_after=2)
    assert state(second) == {"a": 0, "b": 1, "c": 1, "d": 0, "e": 0}  # d and e are equally frequent: by value
    assert state(second, "item") == {9: 0, 5: 1, 7: 1, 1: 0, 8: 0}
    assert growth(second) == {"item": (3, 2, 0), "city": (3, 2, 0)}
    assert second.entry("train")["report"]["growth"]["from"] == str(first.path)
    assert second.schema["past"].vocabulary_size == second.schema["item"].vocabulary_size == 7
    assert second.schema["city"].vocabulary_size == 7 and second.schema["place"].vocabulary_size == 5
    assert second.schema["fixed"].vocabulary == ("x", "y")
    assert (second.schema["price"].mean, second.schema["price"].std) == (first.schema["price"].mean, first.schema["price"].std)

    third = prepare({"train": day(list("cdff"))}, None, tmp_path / "3", extend=second, evict_after=2)
    assert state(third) == {"a": 1, "c": 0, "d": 0, "e": 1, "f": 0}  # b goes: unseen twice in a row; c came back in time
    assert state(third, "item") == {9: 1, 1: 0, 8: 1}
    assert growth(third) == {"item": (3, 0, 2), "city": (4, 1, 1)}
    city = next(make_dataset(third, "train", batch_size=4).as_numpy_iterator())[0]["city"]
    assert city.tolist() == [3, 4, 6, 6]

    fourth = prepare({"train": day(list("bf"))}, None, tmp_path / "4", extend=third)
    assert state(fourth) == {"a": 2, "c": 1, "d": 1, "e": 2, "f": 0, "b": 0}  # without evict_after ages are counted, nothing goes
    fifth = prepare({"train": day(list("fa"))}, None, tmp_path / "5", extend=fourth, evict_after=1)
    assert state(fifth) == {"a": 0, "f": 0}
    for data in (second, third, fourth, fifth):
        data.verify()


def by_loop(vocabulary, unseen, values, min_count, capacity, evict_after):
    counts = collections.Counter(v for v in values if v)
    kept = {v: 0 if counts[v] else age + 1 for v, age in zip(vocabulary, unseen, strict=True)}
    if evict_after is not None:
        kept = {v: age for v, age in kept.items() if age < evict_after}
    new = sorted((v for v in counts if v not in kept and counts[v] >= min_count), key=lambda v: (-counts[v], v))
    room = len(new) if capacity is None else max(0, capacity - 2 - len(kept))
    return {**kept, **dict.fromkeys(new[:room], 0)}


@pytest.mark.parametrize("min_count, capacity, evict_after", [(1, None, None), (2, None, 2), (1, 11, 1), (3, 13, 3), (1, 5, None)])
def test_growth_equals_a_loop_over_many_preparations(min_count, capacity, evict_after):
    rng = np.random.default_rng(11)
    vocabulary, unseen = Vocabulary([]), None
    expected, counts = {}, [0, 0, 0]
    for preparation in range(9):
        words = [f"w{i}" for i in preparation * 3 + rng.integers(0, 17, 41)] + ["", None]
        builder = VocabularyBuilder(min_count=min_count, capacity=capacity)
        for start in range(0, len(words), 13):
            builder.update(pa.array(words[start : start + 13]))
        before = set(expected)
        expected = by_loop(expected, expected.values(), words, min_count, capacity, evict_after)
        step = grow(vocabulary, unseen, builder, evict_after)
        vocabulary, unseen = step.vocabulary, step.unseen
        assert dict(zip(vocabulary.to_list(), unseen.tolist(), strict=True)) == expected
        assert vocabulary.to_list() == list(expected)
        assert (step.kept, step.new, step.evicted) == tuple(
            map(len, (before & set(expected), set(expected) - before, before - set(expected)))
        )
        assert builder.num_covered == sum(w in expected for w in words)
        counts = [a + b for a, b in zip(counts, (step.kept, step.new, step.evicted), strict=True)]
    assert counts[0] and counts[1] and bool(counts[2]) == (evict_after is not None)


def test_old_values_are_not_limited_by_capacity():
    builder = VocabularyBuilder("int64", min_count=2, capacity=4)
    builder.update(pa.array([8, 8, 8, 9, 9, 3]))
    old = Vocabulary([1, 2, 3], "int64")
    assert builder.seen(old).tolist() == [False, False, True]
    assert builder.build(old) == old  # five rows are there already, so there is no room
    assert builder.build(Vocabulary([3], "int64")).to_list() == [3, 8] and builder.num_covered == 4
    assert builder.build().to_list() == [8, 9] and builder.num_covered == 5
    assert VocabularyBuilder("int64").build(old) == old and not VocabularyBuilder("int64").seen(old).any()


def test_min_count_counts_the_new_split_alone_and_old_values_need_none(tmp_path):
    first = prepare({"train": day(list("aab"))}, SCHEMA, tmp_path / "1", min_count=2)
    assert first.vocabularies["city"].to_list() == ["a"]
    second = prepare({"train": day(list("abccc"))}, None, tmp_path / "2", min_count=2, extend=first)
    assert state(second) == {"a": 0, "c": 0}
    counts = second.entry("train")["report"]["vocabularies"]["city"]
    assert counts == {"values": 5, "distinct": 3, "kept": 2, "coverage": 0.8}


def test_only_the_training_split_counts(tmp_path):
    first = prepare({"train": day(list("ab"))}, SCHEMA, tmp_path / "1")
    second = prepare({"train": day(list("aa")), "test": day(list("bc"))}, None, tmp_path / "2", extend=first)
    assert state(second) == {"a": 0, "b": 1}
    assert second.entry("test")["report"]["features"]["city"]["unknown"] == 1


def test_a_run_folder_is_extended_too(tmp_path):
    first = prepare({"train": day(list("aab"))}, SCHEMA, tmp_path / "1")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    first.schema.save(run / "schema.json")
    save_vocabularies(run, first.vocabularies)
    second = prepare({"train": day(list("bc"))}, None, tmp_path / "2", extend=run, evict_after=2)
    assert state(second) == {"a": 1, "b": 0, "c": 0}
    assert "keeps no counts" in second.entry("train")["report"]["notes"][0]
    (run / "vocabularies" / "city.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"city\.txt is missing: table 'city' holds strings"):
        prepare({"train": day(list("bc"))}, None, tmp_path / "3", extend=run)


def test_a_data_set_may_replace_the_one_it_extends(tmp_path):
    prepare({"train": day(list("ab"))}, SCHEMA, tmp_path / "data")
    data = prepare({"train": day(list("bc"))}, None, tmp_path / "data", extend=tmp_path / "data", overwrite=True)
    assert state(data) == {"a": 1, "b": 0, "c": 0}
    for part in (tmp_path / "data" / "train").iterdir():
        part.unlink()
    again = prepare({"train": day(list("c"))}, None, tmp_path / "next", extend=tmp_path / "data")  # shards are not needed
    assert state(again) == {"a": 2, "b": 1, "c": 0}


def test_counts_are_written_and_read_back(tmp_path):
    vocabularies = {
        "a": Vocabulary(["p", "q", "r"]),
        "a+unseen": Vocabulary(["s"]),
        "b/c": Vocabulary([], "int64"),
        "none": Vocabulary(["t"]),
    }
    save_vocabularies(tmp_path, vocabularies)
    written = {"a": np.array([0, 11, 2]), "a+unseen": np.array([5]), "b/c": np.array([], int)}
    save_unseen(tmp_path, written)
    assert unseen_path(tmp_path, "a").read_text() == "0\n11\n2\n"
    assert Vocabulary.load(tmp_path / "vocabularies" / "a%2Bunseen.txt") == vocabularies["a+unseen"]
    found = load_unseen(tmp_path, vocabularies)
    assert found.keys() == written.keys() and all(found[name].tolist() == written[name].tolist() for name in written)


@pytest.mark.parametrize(
    "text, match",
    [("0\n1\n", "2 counts for the 3 values of .*a.txt"), ("0\none\n2\n", "not a list of counts"), ("0\n1\n-4\n", "line 3: -4 is")],
)
def test_damaged_counts_are_named(tmp_path, text, match):
    vocabularies = {"a": Vocabulary(["p", "q", "r"])}
    save_vocabularies(tmp_path, vocabularies)
    unseen_path(tmp_path, "a").write_text(text)
    with pytest.raises(ValueError, match=rf"a\+unseen\.txt.*{match}.*delete it to start from zeros"):
        load_unseen(tmp_path, vocabularies)


def test_the_manifest_vouches_for_the_counts(tmp_path):
    first = prepare({"train": day(list("ab"))}, SCHEMA, tmp_path / "1")
    second = prepare({"train": day(list("bc"))}, None, tmp_path / "2", extend=first)
    path = unseen_path(second.path, "city")
    assert path.read_text() == "1\n0\n0\n"
    path.write_text("0\n0\n1\n")  # the same size
    with pytest.raises(CorruptDataError, match=r"city\+unseen\.txt does not fit its checksum"):
        second.verify()
    with pytest.raises(CorruptDataError, match=r"city\+unseen\.txt does not fit its checksum"):
        prepare({"train": day(list("c"))}, None, tmp_path / "3", extend=second.path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"city\+unseen\.txt is missing"):
        PreparedData(second.path)


def test_one_log_goes_on_with_histories(tmp_path):
    def log(start, items):
        rows = len(items)
        return pa.table(
            {"uid": ["u", "v"] * (rows // 2), "iid": items, "at": range(start, start + rows), "click": [1, 1, 0, 1] * (rows // 4)}
        )

    first = prepare_file(log(0, list("abcd") * 5), tmp_path / "1", label="click", user="uid", item="iid", time="at")
    second = prepare_file(log(20, list("bxcd") * 5), tmp_path / "2", extend=first.path, evict_after=1)
    assert second.schema.feature_names == first.schema.feature_names and second.splits == first.splits
    assert second.vocabularies["iid"].to_list()[:3] == [v for v in first.vocabularies["iid"].to_list() if v != "a"]
    assert second.vocabularies["iid"].to_list()[3:] == ["x"]
    assert second.schema.sequences[0].vocabulary_size == 6


def test_mistakes_are_named(tmp_path):
    first = prepare({"train": day(list("ab"))}, SCHEMA, tmp_path / "1")
    train, out = {"train": day(list("ab"))}, tmp_path / "2"
    with pytest.raises(ValueError, match="evict_after goes with extend"):
        prepare(train, SCHEMA, out, evict_after=1)
    with pytest.raises(ValueError, match="evict_after goes with extend"):
        prepare_file(day(list("ab")), out, label="click", evict_after=1)
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="must be an int of at least 1"):
            prepare(train, None, out, extend=first, evict_after=wrong)
    with pytest.raises(ValueError, match="pass schema=None and no vocabularies"):
        prepare(train, SCHEMA, out, extend=first)
    with pytest.raises(ValueError, match="pass schema=None and no vocabularies"):
        prepare(train, None, out, extend=first, vocabularies=first.vocabularies)
    with pytest.raises(ValueError, match="give neither schema nor label"):
        prepare_file(day(list("ab")), out, label="click", extend=first)
    with pytest.raises(ValueError, match="give a schema, or extend"):
        prepare(train, None, out)
    with pytest.raises(ValueError, match="splits must have 'train'"):
        prepare({"day2": day(list("ab"))}, None, out, extend=first)
    with pytest.raises(FileNotFoundError, match="neither a prepared data set .* nor a run folder"):
        prepare(train, None, out, extend=tmp_path)
    assert not out.exists()


def test_a_data_set_of_fixed_tables_has_nothing_to_grow(tmp_path):
    schema = SCHEMA.select(features=["fixed", "place"])
    first = prepare({"train": day(list("ab"))}, schema, tmp_path / "1")
    second = prepare({"later": day(list("ab"))}, None, tmp_path / "2", extend=first)
    assert (
        second.schema == first.schema
        and json.loads((second.path / "manifest.json").read_text())["splits"]["later"]["report"]["growth"]["tables"] == {}
    )
    fitter = SchemaFitter(first.schema, extend=load_earlier(first))
    assert not fitter.is_needed


def test_hashed_tables_do_not_stand_in_the_way(tmp_path):
    schema = Schema(features=[Categorical("city", hash_buckets=7), Categorical("item", dtype="int64")], labels=["click"])
    rows = [pa.table({"city": list("abc"), "item": items, "click": [0, 1, 0]}) for items in ([1, 2, 3], [3, 4, 5])]
    first = prepare({"train": rows[0]}, schema, tmp_path / "1")
    second = prepare({"train": rows[1]}, None, tmp_path / "2", extend=first.path)
    assert second.schema["city"].vocabulary_size == 9
    assert growth(second) == {"item": (3, 2, 0)}
