import json
import shutil
import warnings

import numpy as np
import pytest
import tensorflow as tf

from keras_ctr import Categorical, Schema
from keras_ctr.data.encode import EncodedBatch
from keras_ctr.data.example import serialize_examples
from keras_ctr.data.framing import CorruptDataError
from keras_ctr.data.manifest import PreparedData
from keras_ctr.data.pipeline import CorruptDataWarning, make_dataset, parse_examples
from tests.data.prepared_sample import encoded, sample_schema, write_data

ROWS = 211  # in 5 shards: 42, 42, 42, 42, 43


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "prepared", rows=ROWS, num_shards=5)


@pytest.fixture
def damaged(data, tmp_path):
    """A copy of the data whose shard 1 is cut within its last record and whose record 2 of shard 3 is damaged."""
    folder = shutil.copytree(data.path, tmp_path / "prepared")
    cut, flipped = (folder / "train" / f"part-0000{i}-of-00005.tfrecord" for i in (1, 3))
    cut.write_bytes(cut.read_bytes()[:-5])
    content = bytearray(flipped.read_bytes())
    at = 0
    for _ in range(2):
        at += 16 + int.from_bytes(content[at : at + 8], "little")
    content[at + 15] ^= 1
    flipped.write_bytes(content)
    return folder


def rows_of(dataset):
    """The numbers of the rows in a dataset's order (`meta/time` counts from -3)."""
    return [int(t) + 3 for batch in dataset for t in (batch[0] if isinstance(batch, tuple) else batch)["meta/time"]]


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("batch_size", [1, 37, 300])
def test_rows_come_back_in_the_order_of_writing(data, batch_size, cache):
    if batch_size == 1:
        data = PreparedData(data.path)
    dataset = make_dataset(data, "train", batch_size=batch_size, cache=cache)
    batches = list(dataset)
    assert len(batches) == dataset.cardinality().numpy() == -(-ROWS // batch_size)
    expected = encoded(ROWS)
    schema = sample_schema()
    for part, arrays in ((0, expected.features), (1, expected.labels)):
        assert set(batches[0][part]) == set(arrays)
        for name, values in arrays.items():
            got = np.concatenate([batch[part][name].numpy() for batch in batches])
            np.testing.assert_array_equal(got, values)
            assert got.dtype == (schema.encoded_dtype(name) if name in schema else "int64" if "meta" in name else "float32")


@pytest.mark.parametrize("cache", [False, True])
def test_shapes_and_types_are_known(data, cache):
    features, labels = make_dataset(data, "train", batch_size=37, cache=cache).element_spec
    assert features["user"] == tf.TensorSpec([None], tf.int32)
    assert features["age"] == tf.TensorSpec([None], tf.int32)
    assert features["price"] == tf.TensorSpec([None], tf.float32)
    assert features["clicked_item"] == tf.TensorSpec([None, 7], tf.int32)
    assert features["meta/group"] == tf.TensorSpec([None], tf.int64)
    assert labels["like"] == tf.TensorSpec([None, 1], tf.float32)


def test_path_instead_of_data(data):
    assert rows_of(make_dataset(str(data.path), "train", batch_size=100)) == list(range(ROWS))


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("shuffle", [True, pytest.param(40, marks=pytest.mark.slow)])
def test_every_pass_has_another_order_and_two_runs_the_same_ones(data, cache, shuffle):
    def passes(seed):
        dataset = make_dataset(data, "train", batch_size=20, shuffle=shuffle, seed=seed, cache=cache)
        return [rows_of(dataset) for _ in range(3)]

    first = passes(7)
    assert all(sorted(order) == list(range(ROWS)) for order in first)
    assert first[0] != first[1] and first[1] != first[2] and first[0] != first[2]
    assert passes(7) == first
    assert passes(8)[0] != first[0]


@pytest.mark.parametrize("cache", [False, True])
def test_without_a_seed_the_global_seed_decides(data, cache):
    def order(seed):
        tf.random.set_seed(seed)
        return rows_of(make_dataset(data, "train", batch_size=20, shuffle=True, cache=cache))

    assert order(3) == order(3) != order(4)


@pytest.mark.parametrize("cache", [False, True])
def test_shuffling_mixes_rows_of_all_shards(data, cache):
    order = rows_of(make_dataset(data, "train", batch_size=20, shuffle=50, seed=1, cache=cache))
    assert len({row // 43 for row in order[:40]}) == 5


@pytest.mark.parametrize("cache", [False, True])
def test_repeat(data, cache):
    dataset = make_dataset(data, "train", batch_size=100, shuffle=True, seed=1, repeat=True, cache=cache)
    assert dataset.cardinality().numpy() == tf.data.INFINITE_CARDINALITY
    batches = [rows_of([batch]) for batch in dataset.take(6)]
    assert [len(rows) for rows in batches] == [100, 100, 11] * 2
    first, second = sum(batches[:3], []), sum(batches[3:], [])
    assert sorted(first) == sorted(second) == list(range(ROWS)) and first != second


@pytest.mark.parametrize("cache", [False, True])
def test_drop_remainder(data, cache):
    dataset = make_dataset(data, "train", batch_size=100, drop_remainder=True, cache=cache)
    assert [len(batch[0]["user"]) for batch in dataset] == [100, 100]
    assert dataset.cardinality().numpy() == 2


@pytest.mark.parametrize("cache", [False, True])
def test_some_features_and_labels(data, cache):
    options = {"features": ["clicked_item", "price"], "labels": ["like"], "cache": cache}
    features, labels = next(iter(make_dataset(data, "train", batch_size=10, **options)))
    assert set(features) == {"clicked_item", "price", "meta/group", "meta/time"} and set(labels) == {"like"}
    np.testing.assert_array_equal(features["clicked_item"], encoded(ROWS).features["clicked_item"][:10])
    assert "user" not in make_dataset(data, "train", batch_size=10, features=[], cache=cache).element_spec[0]


@pytest.mark.parametrize("cache", [False, True])
def test_without_labels(data, cache):
    batch = next(iter(make_dataset(data, "train", batch_size=10, with_labels=False, cache=cache)))
    assert set(batch) == set(encoded(1).features)


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("count", [1, 2, *(pytest.param(count, marks=pytest.mark.slow) for count in (5, 7))])  # 5 shards
def test_workers_share_the_rows(data, count, cache):
    parts = [rows_of(make_dataset(data, "train", batch_size=10, shard=(i, count), shuffle=True, seed=i, cache=cache)) for i in range(count)]
    assert sorted(sum(parts, [])) == list(range(ROWS))
    assert max(map(len, parts)) - min(map(len, parts)) <= 5
    ordered = rows_of(make_dataset(data, "train", batch_size=10, shard=(0, count), cache=cache))
    assert ordered == sorted(parts[0])


def test_ids_past_2_to_31():
    schema = Schema([Categorical("id", 2**33)], ["y"])
    batch = EncodedBatch({"id": np.array([2**33 - 1])}, {"y": np.ones((1, 1))})
    features, _ = parse_examples(tf.constant(serialize_examples(batch, schema)), schema)
    assert features["id"].dtype == "int64" and features["id"].numpy().tolist() == [2**33 - 1]


def test_parse_in_a_graph(data):
    schema = sample_schema()
    parse = tf.function(
        lambda rows: parse_examples(rows, schema, features=["user", "liked_item"], labels=[]),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )
    features, labels = parse(tf.constant(serialize_examples(encoded(3), schema)))
    assert labels == {} and features["liked_item"].shape == (3, 5)
    np.testing.assert_array_equal(features["user"], encoded(3).features["user"])


def test_record_without_a_feature_is_an_error_that_names_it():
    fewer = sample_schema().select(features=["user"])
    batch = encoded(3)
    small = EncodedBatch({k: batch.features[k] for k in ("user", "meta/group", "meta/time")}, batch.labels)
    with pytest.raises(tf.errors.InvalidArgumentError, match="item"):
        parse_examples(tf.constant(serialize_examples(small, fewer)), sample_schema(), features=["item"])


@pytest.mark.parametrize("options, error, message", [
    ({"split": "trian"}, KeyError, "no split 'trian'.*did you mean 'train'"),
    ({"features": ["usr"]}, KeyError, "no feature 'usr'.*did you mean 'user'"),
    ({"labels": ["clik"]}, KeyError, "no label 'clik'.*did you mean 'click'"),
    ({"batch_size": 0}, ValueError, "batch_size must be an int of at least 1, got 0"),
    ({"batch_size": True}, ValueError, "batch_size must be an int of at least 1, got True"),
    ({"batch_size": 2.5}, ValueError, "batch_size"),
    ({"shuffle": 0}, ValueError, "shuffle must be an int of at least 1 or a bool, got 0"),
    ({"shard": (2, 2)}, ValueError, "0 <= index < count"),
    ({"shard": (0, 1, 2)}, ValueError, "must be .index, count."),
])  # fmt: skip
def test_bad_arguments(data, options, error, message):
    with pytest.raises(error, match=message):
        make_dataset(data, **{"split": "train", "batch_size": 10, **options})


def test_unknown_form_of_shards(data, tmp_path):
    folder = shutil.copytree(data.path, tmp_path / "prepared")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": "later"}))
    with pytest.raises(ValueError, match="shards of the form 'later'; this release reads 'tfrecord-example'"):
        make_dataset(folder, "train", batch_size=10)


def test_truncated_shard_is_an_error_before_reading(damaged):
    with pytest.raises(CorruptDataError, match="part-00001-of-00005.tfrecord.*at byte .*the file ends inside the record") as caught:
        make_dataset(damaged, "train", batch_size=10)
    assert caught.value.offset > 0


def test_damage_inside_a_shard_is_an_error_before_reading(data, damaged):
    shutil.copy(data.shards("train")[1][0], damaged / "train")
    with pytest.raises(CorruptDataError, match="part-00003-of-00005.tfrecord.*at byte .*the record does not fit its checksum") as caught:
        make_dataset(damaged, "train", batch_size=10)
    assert caught.value.path.name == "part-00003-of-00005.tfrecord"
    dataset = make_dataset(damaged, "train", batch_size=10, verify=False)
    with pytest.raises(
        tf.errors.DataLossError, match=f"corrupted record at {caught.value.offset + 12}"
    ):  # TensorFlow names the byte after the size
        list(dataset)
    # a worker whose shards are whole is not stopped
    assert len(rows_of(make_dataset(damaged, "train", batch_size=10, shard=(1, 5)))) == 42


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_skip_corrupt_counts_and_drops_what_cannot_be_read(damaged, cache, shuffle):
    with pytest.warns(CorruptDataWarning, match="split 'train': 2 of 211 rows cannot be read and are skipped") as caught:
        dataset = make_dataset(damaged, "train", batch_size=10, skip_corrupt=True, shuffle=shuffle, seed=1, cache=cache)
    warning = caught[0].message
    assert (warning.num_dropped, warning.num_rows) == (2, ROWS)
    assert "part-00001-of-00005.tfrecord: 1 of 42 rows (byte " in str(warning)
    assert "part-00003-of-00005.tfrecord: 1 of 42 rows (byte " in str(warning)
    kept = [row for row in range(ROWS) if row not in (83, 128)]
    rows = rows_of(dataset)
    assert (sorted(rows) if shuffle else rows) == kept
    assert dataset.cardinality().numpy() == 21


def test_skip_corrupt_without_damage_is_silent(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = make_dataset(data, "train", batch_size=10, skip_corrupt=True)
    assert rows_of(dataset) == list(range(ROWS))


def test_skip_corrupt_with_a_missing_shard_and_workers(damaged):
    (damaged / "train" / "part-00004-of-00005.tfrecord").unlink()
    parts = []
    for i in range(2):
        with pytest.warns(CorruptDataWarning, match="45 of 211 rows.*part-00004-of-00005.tfrecord: 43 of 43 rows .it is missing"):
            parts += rows_of(make_dataset(damaged, "train", batch_size=10, skip_corrupt=True, shard=(i, 2)))
    assert sorted(parts) == [row for row in range(168) if row not in (83, 128)]


def test_skip_corrupt_with_a_shard_cut_between_records(data, tmp_path):
    folder = shutil.copytree(data.path, tmp_path / "prepared")
    first = folder / "train" / "part-00000-of-00005.tfrecord"
    content = first.read_bytes()
    first.write_bytes(content[: 16 + int.from_bytes(content[:8], "little")])
    with pytest.warns(CorruptDataWarning, match="41 of 211 rows.*part-00000-of-00005.tfrecord: 41 of 42 rows .it ends early"):
        rows = rows_of(make_dataset(folder, "train", batch_size=10, skip_corrupt=True))
    assert rows == [0, *range(42, ROWS)]


def test_nothing_left(damaged):
    for path in (damaged / "train").iterdir():
        path.write_bytes(b"x" * 1000)
    with pytest.raises(CorruptDataError, match="none of 211 rows can be read; .*part-00004.*: 43 of 43 rows .byte 0: the size of"):
        make_dataset(damaged, "train", batch_size=10, skip_corrupt=True)
