import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import tensorflow as tf

from keras_ctr.data.encode import EncodedBatch
from keras_ctr.data.example import serialize_examples
from keras_ctr.data.tfrecord import write_split
from tests.data.prepared_sample import encoded, pieces, sample_schema

ROOT = pathlib.Path(__file__).parents[2]


def read(folder, entry):
    """All records of a split, shard by shard."""
    return [[r.numpy() for r in tf.data.TFRecordDataset(str(folder / shard["name"]))] for shard in entry["shards"]]


def test_shards_hold_consecutive_rows_in_order(tmp_path):
    batch = encoded(101)
    entry = write_split(tmp_path, "train", pieces(batch, 17), sample_schema(), num_shards=4, total_rows=101)
    assert sorted(p.name for p in (tmp_path / "train").iterdir()) == [f"part-0000{i}-of-00004.tfrecord" for i in range(4)]
    shards = read(tmp_path / "train", entry)
    assert [r for shard in shards for r in shard] == serialize_examples(batch, sample_schema())
    assert [len(shard) for shard in shards] == [shard["rows"] for shard in entry["shards"]] == [25, 25, 25, 26]


def test_entry_says_what_was_written(tmp_path):
    batch = encoded(101)
    entry = write_split(tmp_path, "train", [batch], sample_schema(), rows_per_shard=40)
    assert entry["num_rows"] == 101
    assert entry["label_rate"] == {name: pytest.approx(batch.labels[name].mean()) for name in ("click", "like")}
    assert entry["one_class"] == []
    assert [shard["rows"] for shard in entry["shards"]] == [40, 40, 21]
    for shard in entry["shards"]:
        data = (tmp_path / "train" / shard["name"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard["bytes"], shard["sha256"])


@pytest.mark.parametrize("options, rows", [
    ({"num_shards": 5, "total_rows": 3}, [1, 1, 1]),
    ({"num_shards": 1, "total_rows": 3}, [3]),
    ({"num_shards": 2, "total_rows": 2}, [1, 2]),  # more rows than promised: the last shard takes them
    ({"num_shards": 2, "total_rows": 7}, [3]),  # fewer
    ({"num_shards": 3, "total_rows": 0}, [3]),
    ({"rows_per_shard": 3}, [3]),  # no empty last shard
    ({"rows_per_shard": 2}, [2, 1]),
    ({}, [3]),
])  # fmt: skip
def test_shard_sizes(tmp_path, options, rows):
    entry = write_split(tmp_path, "train", pieces(encoded(3), 2), sample_schema(), **options)
    assert [shard["rows"] for shard in entry["shards"]] == rows
    assert [len(shard) for shard in read(tmp_path / "train", entry)] == rows


@pytest.mark.parametrize("options, message", [
    ({"num_shards": 2}, "num_shards needs total_rows"),
    ({"num_shards": 0, "total_rows": 3}, "num_shards must be at least 1, got 0"),
    ({"rows_per_shard": -1}, "rows_per_shard must be at least 1, got -1"),
    ({"rows_per_shard": None}, "give num_shards .* or rows_per_shard"),
])  # fmt: skip
def test_bad_plans(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_split(tmp_path, "train", [encoded(3)], sample_schema(), **options)


@pytest.mark.parametrize("split", ["", ".hidden", "a/b", "..", None, "a\\b"])
def test_bad_split_names(tmp_path, split):
    with pytest.raises(ValueError, match="split name"):
        write_split(tmp_path, split, [encoded(3)], sample_schema())


@pytest.mark.parametrize("batches", [[], [encoded(0)]])
def test_empty_split_is_an_error(tmp_path, batches):
    with pytest.raises(ValueError, match="split 'test' has no rows"):
        write_split(tmp_path, "test", batches, sample_schema())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [0, 1])
def test_one_class(tmp_path, value):
    batch = encoded(7)
    labels = {**batch.labels, "like": np.full((7, 1), value, np.float32)}
    with pytest.warns(UserWarning, match=f"split 'test': label 'like' is {value} in all 7 rows"):
        entry = write_split(tmp_path, "test", [EncodedBatch(batch.features, labels)], sample_schema())
    assert entry["one_class"] == ["like"] and entry["label_rate"]["like"] == value


def test_both_classes_do_not_warn(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_split(tmp_path, "test", [encoded(7)], sample_schema())


@pytest.mark.parametrize("value", [0.5, np.nan, 2, -1])
def test_labels_are_0_or_1(tmp_path, value):
    batch = encoded(7)
    batch.labels["like"][3] = value
    with pytest.raises(ValueError, match="split 'train': label 'like' must be 0 or 1, but 1 of 7 rows hold others"):
        write_split(tmp_path, "train", [batch], sample_schema())


def test_progress(tmp_path):
    calls = []
    report = lambda *args: calls.append(args)  # noqa: E731
    write_split(tmp_path, "train", pieces(encoded(7), 3), sample_schema(), total_rows=7, progress=report)
    assert calls == [(3, 7, "writing train"), (6, 7, "writing train"), (7, 7, "writing train")]


def test_existing_shards_are_refused_and_kept(tmp_path):
    write_split(tmp_path, "train", [encoded(7)], sample_schema())
    with pytest.raises(FileExistsError, match="holds shards already .'part-00000-of-00001.tfrecord'"):
        write_split(tmp_path, "train", [encoded(7)], sample_schema())
    assert len(list((tmp_path / "train").iterdir())) == 1


def test_failing_source_leaves_nothing(tmp_path):
    def batches():
        yield from pieces(encoded(7), 2)
        assert len(list((tmp_path / "train").iterdir())) == 4  # three shards and one being written, none with a shard's name
        assert not list((tmp_path / "train").glob("*.tfrecord"))
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        write_split(tmp_path, "train", batches(), sample_schema(), rows_per_shard=2)
    assert list(tmp_path.iterdir()) == []


class FullDisk:
    """A file on a disk that has no room left after `room` bytes; writing is buffered, as the real thing."""

    def __init__(self, file, room, when):
        self.file, self.room, self.when = file, room, when

    def __getattr__(self, name):
        return getattr(self.file, name)

    def _fail(self, when):
        if self.room < 0 and when == self.when:
            raise OSError(28, "No space left on device")

    def write(self, data):
        self.room -= len(data)
        self._fail("write")
        return self.file.write(data)

    def flush(self):
        self._fail("flush")
        self.file.flush()


@pytest.mark.parametrize("when", ["write", "flush"])
def test_full_disk(tmp_path, monkeypatch, when):
    def opened(path, mode):
        return FullDisk(open(path, mode), 3000, when)

    monkeypatch.setattr("keras_ctr.data.tfrecord.open", opened, raising=False)
    with pytest.raises(OSError, match="No space left on device.*part-00000.incomplete") as caught:
        write_split(tmp_path, "train", pieces(encoded(101), 10), sample_schema())
    assert caught.value.errno == 28
    assert list(tmp_path.iterdir()) == []


def run_script(script, folder):
    """Starts a Python process on the sample data; `{folder}` in the script is the folder."""
    head = "from keras_ctr.data.tfrecord import write_split\nfrom tests.data.prepared_sample import encoded, pieces, sample_schema\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    text = head + textwrap.dedent(script).replace("{folder}", repr(str(folder)))
    return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on a process")
def test_file_size_limit_of_the_operating_system(tmp_path):
    process = run_script(
        """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
        try:
            write_split({folder}, "train", pieces(encoded(101), 10), sample_schema())
        except OSError as error:
            print(error)
        """,
        tmp_path,
    )
    out, _ = process.communicate(timeout=120)
    assert "cannot write the prepared data" in out and "part-00000.incomplete" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_killed_writer_leaves_nothing_that_reads_as_shards(tmp_path):
    process = run_script(
        """
        import time
        def batches():
            yield from pieces(encoded(101), 10)
            print("written", flush=True)
            time.sleep(600)
        write_split({folder}, "train", batches(), sample_schema(), rows_per_shard=30)
        """,
        tmp_path,
    )
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    process.stdout.close()
    left = sorted(p.name for p in (tmp_path / "train").iterdir())
    assert left == [f"part-0000{i}.incomplete" for i in range(4)]
    # a second writer clears what the first left
    entry = write_split(tmp_path, "train", [encoded(7)], sample_schema())
    assert [p.name for p in (tmp_path / "train").iterdir()] == [entry["shards"][0]["name"]]
