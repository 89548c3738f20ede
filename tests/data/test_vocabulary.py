"""Vocabularies against counting loops, their file form against TensorFlow's reader, and the limits of what may be in one."""

import collections

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_ctr.data import hashing, vocabulary
from keras_ctr.data.columns import EncodingError
from keras_ctr.data.vocabulary import Vocabulary, VocabularyBuilder, load_vocabularies, save_vocabularies, vocabulary_path
from keras_ctr.schema import Categorical, Schema

WORDS = ["ünï", "b", "a", "aa", "日本", "a b", "#", "\t", "longer than the others " * 9]


def by_loop(values, min_count=1, capacity=None):
    counts = collections.Counter(v for v in values if v is not None and v != "")
    kept = sorted((v for v in counts if counts[v] >= min_count), key=lambda v: (-counts[v], v.encode() if isinstance(v, str) else v))
    return kept[: None if capacity is None else capacity - 2]


@pytest.mark.parametrize("dtype", ["string", "int64"])
@pytest.mark.parametrize("min_count, capacity", [(1, None), (3, None), (2, 7)])
def test_builder_equals_counting_by_loop_whatever_the_batches(dtype, min_count, capacity, monkeypatch):
    rng = np.random.default_rng(3)
    pool = WORDS + [None, ""] if dtype == "string" else [*range(-5, 6), 2**62, None]
    values = [pool[int(i)] for i in np.minimum(rng.pareto(0.8, 499), len(pool) - 1)]
    expected = by_loop(values, min_count, capacity)
    for rows in (499, 7):
        builder = VocabularyBuilder(dtype, min_count=min_count, capacity=capacity)
        for start in range(0, 499, rows):
            builder.update(pa.array(values[start : start + rows], pa.string() if dtype == "string" else pa.int64()))
        found = builder.build()
        assert found.to_list() == expected
        assert builder.num_values == sum(v is not None and v != "" for v in values)
        assert builder.num_distinct == len({v for v in values if v is not None and v != ""})
        assert builder.num_covered == sum(v in set(expected) for v in values)


def test_builder_merges_as_it_goes(monkeypatch):
    monkeypatch.setattr(vocabulary, "_GATHERED", 1000)
    builder, most = VocabularyBuilder("int64"), 0
    for start in range(0, 50_000, 500):
        builder.update(pa.array(np.arange(start, start + 500) % 701))
        most = max(most, sum(part.num_rows for part in builder._parts))
    assert most <= 701 + 1500  # of 100 batches of 500 distinct values
    found = builder.build().to_list()
    assert found == [*range(50_000 % 701), *range(50_000 % 701, 701)]  # 72 times first, then 71 times, by value


def test_builder_flattens_lists_and_dictionaries():
    builder = VocabularyBuilder("string")
    builder.update(pa.array([["a", "b"], None, [], ["a", None]]))
    builder.update(pa.array(["b", "a", "a"]).dictionary_encode())
    builder.update(pa.chunked_array([["c"], ["a"]]))
    assert builder.build().to_list() == ["a", "b", "c"]
    assert VocabularyBuilder("string").build().to_list() == []


@pytest.mark.parametrize("options", [{"min_count": 0}, {"capacity": 2}])
def test_builder_checks_its_limits(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        VocabularyBuilder(**options)


def test_values_with_line_breaks_are_counted_out():
    builder = VocabularyBuilder()
    builder.update(pa.array(["a\nb", "a\nb", "c\r", "d"]))
    assert builder.build().to_list() == ["d"] and builder.num_line_breaks == 3


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=5), unique=True), st.lists(st.one_of(st.none(), st.text(max_size=5))))
def test_lookup_equals_a_dict(values, queries):
    values = [v for v in values if v and "\n" not in v and "\r" not in v]
    found = Vocabulary(values)
    ids = {v: i + 2 for i, v in enumerate(values)}
    codes = found.codes(pa.array(queries, pa.string()))
    assert codes.tolist() == [ids.get(q, 1) if q else 0 for q in queries]
    assert found.lookup(pa.array(queries, pa.string())).tolist() == [ids.get(q, 1) if q else 1 for q in queries]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True), st.lists(st.one_of(st.none(), st.integers(-9, 9))))
def test_integer_lookup_equals_a_dict(values, queries):
    ids = {v: i + 2 for i, v in enumerate(values)}
    got = Vocabulary(values, "int64").lookup(pa.array(queries + values, pa.int64()))
    assert got.tolist() == [ids.get(q, 1) for q in queries + values]
    assert got.dtype == np.int32


def test_equal_keys_are_told_apart_by_their_strings(monkeypatch):
    monkeypatch.setattr(hashing, "string_keys", lambda array: np.array([len(v) % 2 for v in array.to_pylist()], np.uint64))
    found = Vocabulary(WORDS)
    assert found.lookup([*WORDS, "x", "yy", ""]).tolist() == [*range(2, len(WORDS) + 2), 1, 1, 1]
    with pytest.raises(ValueError, match="each value once; repeated: 'b'"):
        Vocabulary([*WORDS, "b"])


def test_string_keys_are_the_polynomial_of_the_bytes(monkeypatch):
    monkeypatch.setattr(hashing, "_CHUNK_BYTES", 13)  # several chunks, one of them a single long string

    def by_loop(text):
        return sum((byte + 1) * pow(0x9E3779B97F4A7C15, j, 2**64) for j, byte in enumerate(text.encode())) % 2**64

    words = ["", *WORDS, "", "z"]
    array = pa.array(["cut off", *words])[1:]
    assert hashing.string_keys(array).tolist() == [by_loop(word) for word in words]
    assert hashing.hash64(pa.array(["a", None, "a", "b"])).tolist()[1] == 0
    assert len(set(hashing.hash64(pa.array(range(10007))).tolist())) == 10007


def test_lists_are_looked_up_flat():
    found = Vocabulary([5, 3], "int64")
    assert found.lookup(pa.array([[3, None], None, [], [5, 4]])).tolist() == [3, 1, 2, 1]
    assert found.lookup([5]).tolist() == [2] and found.size == 4 and len(found) == 2


@pytest.mark.parametrize("values", [["a", "a"], ["a", ""], ["a", None], ["a\nb"], ["a\rb"]])
def test_values_that_cannot_be_are_refused(values):
    with pytest.raises(ValueError, match="a vocabulary (cannot hold|holds each value once)"):
        Vocabulary(values)


def test_wrong_types_are_named():
    with pytest.raises(EncodingError, match="type string, the schema expects int64"):
        Vocabulary([1], "int64").lookup(pa.array(["1"]))
    with pytest.raises(EncodingError, match="type int64, the schema expects string"):
        Vocabulary(["1"]).lookup(pa.array([1]))
    with pytest.raises(ValueError, match="'string' or 'int64'"):
        Vocabulary([1.5], "float32")


@pytest.mark.parametrize("values, dtype", [(WORDS, "string"), ([3, -1, 2**62], "int64"), ([], "string"), ([], "int64")])
def test_save_and_load(tmp_path, values, dtype, monkeypatch):
    monkeypatch.setattr(vocabulary, "_WRITE_ROWS", 2)
    found = Vocabulary(values, dtype)
    found.save(tmp_path / "v.txt")
    assert Vocabulary.load(tmp_path / "v.txt", dtype) == found
    assert (tmp_path / "v.txt").read_text(encoding="utf-8").split("\n") == [*map(str, values), ""]


def test_file_is_what_tensorflow_reads(tmp_path):
    import tensorflow as tf

    found = Vocabulary(WORDS)
    found.save(tmp_path / "v.txt")
    reader = tf.lookup.TextFileInitializer(
        str(tmp_path / "v.txt"), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    table = tf.lookup.StaticHashTable(reader, -1)
    queries = [*WORDS, "unknown"]
    assert (table.lookup(tf.constant(queries)).numpy() + 2).tolist() == found.lookup(queries).tolist()


DAMAGED = [(b"1\nx\n", "int64"), (b"a\n\nb\n", "string"), (b"a\na\n", "string"), (b"\xff\n", "string"), (b"a\r\n", "string")]


@pytest.mark.parametrize("text, dtype", DAMAGED)
def test_damaged_files_are_named(tmp_path, text, dtype):
    path = tmp_path / "v.txt"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=r"v\.txt: not a vocabulary of dtype"):
        Vocabulary.load(path, dtype)
    with pytest.raises(FileNotFoundError):
        Vocabulary.load(tmp_path / "none.txt")


def test_folder_of_vocabularies(tmp_path):
    features = [
        Categorical("a%b c", vocabulary_size=4),
        Categorical("n", dtype="int64", vocabulary_size=3),
        Categorical("given", dtype="int64", vocabulary_size=9),
        Categorical("small", vocabulary=("x",)),
    ]
    schema = Schema(features=features, labels=["y"])
    made = {"a%b c": Vocabulary(["u", "v"]), "n": Vocabulary([7], "int64")}
    save_vocabularies(tmp_path, made)
    schema.save(tmp_path / "schema.json")
    assert load_vocabularies(tmp_path) == {**made, "small": Vocabulary(["x"])}
    assert vocabulary_path(tmp_path, "../up").parent == tmp_path / "vocabularies"
    made["n"] = Vocabulary([7, 8], "int64")
    save_vocabularies(tmp_path, made)
    with pytest.raises(ValueError, match="n.txt: 2 values make a table of 4 rows, the schema says 3"):
        load_vocabularies(tmp_path)
