import json
import shutil

import numpy as np
import pytest

import keras_ctr
from keras_ctr.data.framing import CorruptDataError
from keras_ctr.data.manifest import PreparedData, read_manifest, write_manifest
from keras_ctr.data.tfrecord import write_split
from tests.data.prepared_sample import encoded, sample_schema, write_data


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "prepared", splits=("train", "test")).path


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "prepared")


def shard(folder, index=2):
    return folder / "train" / f"part-{index:05d}-of-00005.tfrecord"


def test_what_a_prepared_data_set_tells(folder):
    data = PreparedData(folder)
    assert data.splits == ("train", "test")
    assert data.schema == sample_schema()
    assert data.num_rows("train") == 211
    assert data.label_rate("test") == {name: pytest.approx(y.mean()) for name, y in encoded(211, 1).labels.items()}
    assert data.entry("train")["report"] == {"unknown": 3} and data.entry("test")["report"] == {}
    assert data.manifest["format"] == "tfrecord-example"
    assert data.manifest["package"] == keras_ctr.__version__
    assert "train: 211 rows" in repr(data)
    data.verify()


def test_unknown_split_names_the_nearest(folder):
    with pytest.raises(KeyError, match="no split 'trian' in .*; did you mean 'train'"):
        PreparedData(folder).num_rows("trian")


def test_vocabularies(folder, tmp_path):
    path = folder / "vocabularies" / "item.txt"
    path.parent.mkdir()
    path.write_text("".join(f"item {i}\n" for i in range(51)))
    splits = {split: {k: v for k, v in read_manifest(folder)["splits"][split].items() if k != "report"} for split in ("train", "test")}
    assert "vocabularies/item.txt" in write_manifest(folder, splits)["files"]
    assert PreparedData(folder).vocabularies["item"].size == 53
    path.write_text(path.read_text().replace("item 3\n", "item X\n"))
    with pytest.raises(CorruptDataError, match="item.txt does not fit its checksum"):
        PreparedData(folder).verify()
    path.write_text("item 1\n")
    with pytest.raises(CorruptDataError, match="item.txt has 7 bytes"):
        PreparedData(folder)


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        PreparedData(tmp_path / "nothing")


def test_no_manifest(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match="not finished, or it is no prepared data set"):
        PreparedData(folder)


@pytest.mark.parametrize("text, message", [
    ('{"version": 1', "is not JSON"),
    ("[]", "is no manifest"),
    ('{"version": 2}', "has version 2, this release reads 1"),
    ('{"version": 1, "format": "x"}', "lacks .'files', 'splits'."),
])  # fmt: skip
def test_broken_manifest(folder, text, message):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        PreparedData(folder)


def test_changed_schema(folder):
    path = folder / "schema.json"
    path.write_text(path.read_text().replace("53", "59"))
    with pytest.raises(CorruptDataError, match="schema.json was changed after the data had been prepared"):
        PreparedData(folder)


def test_missing_shard(folder):
    shard(folder).unlink()
    with pytest.raises(FileNotFoundError, match="part-00002-of-00005.tfrecord is missing"):
        PreparedData(folder)
    assert PreparedData(folder, check=False).num_rows("train") == 211


def test_truncated_shard_names_file_and_byte(folder):
    whole = shard(folder).read_bytes()
    shard(folder).write_bytes(whole[:-3])
    last = len(whole) - 16
    while int.from_bytes(whole[last : last + 8], "little") != len(whole) - last - 16:
        last -= 1
    with pytest.raises(CorruptDataError, match="part-00002-of-00005.tfrecord has .* bytes.*reading fails at byte") as caught:
        PreparedData(folder)
    assert caught.value.path == shard(folder) and caught.value.offset == last
    assert f"at byte {last}: the file ends inside the record" in str(caught.value)


def test_shard_cut_between_records(folder):
    whole = shard(folder).read_bytes()
    shard(folder).write_bytes(whole[: 16 + int.from_bytes(whole[:8], "little")])
    with pytest.raises(CorruptDataError, match="it holds 1 whole records, 42 were written"):
        PreparedData(folder)


def test_verify_names_file_and_byte(folder):
    data = PreparedData(folder)
    whole = bytearray(shard(folder).read_bytes())
    whole[20] ^= 1
    shard(folder).write_bytes(whole)
    with pytest.raises(CorruptDataError, match="part-00002-of-00005.tfrecord does not fit.*byte 0: the record does not fit") as caught:
        data.verify("train")
    assert caught.value.offset == 0
    data.verify("test")
    with pytest.raises(CorruptDataError):
        PreparedData(folder).verify()


def test_verify_reports_progress_and_reads_once(folder, monkeypatch):
    data, calls = PreparedData(folder), []
    data.verify(progress=lambda *args: calls.append(args))
    total = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    assert calls[-1] == (total, total, "verifying") and len(calls) == 11
    monkeypatch.setattr("keras_ctr.data.manifest._sha256", lambda path: "read again")
    data.verify()


def test_scan(folder):
    data = PreparedData(folder)
    assert [scan.segments for scan in data.scan("train")] == [((0, rows),) for rows in (42, 42, 42, 42, 43)]
    whole = bytearray(shard(folder).read_bytes())
    second = 16 + int.from_bytes(whole[:8], "little")
    whole[second + 13] ^= 1
    shard(folder).write_bytes(whole)
    shard(folder, 3).unlink()
    scans = data.scan("train")
    assert [scan.num_records for scan in scans] == [42, 42, 41, 0, 43]
    assert scans[2].damages[0].offset == second


def test_writing_needs_everything_in_place(tmp_path):
    with pytest.raises(ValueError, match="at least one split"):
        write_manifest(tmp_path, {})
    entry = write_split(tmp_path, "train", [encoded(7)], sample_schema())
    with pytest.raises(FileNotFoundError, match="schema.json is missing"):
        write_manifest(tmp_path, {"train": entry})
    sample_schema().save(tmp_path / "schema.json")
    with pytest.raises(ValueError, match="report of split 'tran', but no such split; did you mean 'train'"):
        write_manifest(tmp_path, {"train": entry}, reports={"tran": {}})
    shutil.move(tmp_path / "train" / entry["shards"][0]["name"], tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="write the split before"):
        write_manifest(tmp_path, {"train": entry})
    assert not (tmp_path / "manifest.json").exists()


def test_failing_writer_leaves_the_old_manifest(folder):
    before = (folder / "manifest.json").read_bytes()
    splits = read_manifest(folder)["splits"]
    with pytest.raises(TypeError, match="a report in the manifest holds"):
        write_manifest(folder, splits, reports={"train": {"x": object()}})
    assert (folder / "manifest.json").read_bytes() == before
    assert not list(folder.glob("*.incomplete"))


def test_numpy_numbers_in_reports(folder):
    splits = read_manifest(folder)["splits"]
    report = {"count": np.int64(3), "share": np.float32(0.5), "list": np.arange(2)}
    write_manifest(folder, splits, reports={"test": report})
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["splits"]["test"]["report"] == {"count": 3, "share": 0.5, "list": [0, 1]}
