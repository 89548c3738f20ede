"""The tensorflow-datasets builder: TFDS's own checks on a made-up release, and examples equal to the direct route's rows."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from keras_ctr.datasets import kuairand
from tests.datasets.kuairand_sample import write_release

tfds = pytest.importorskip("tensorflow_datasets")
kuairand_tfds = pytest.importorskip("keras_ctr.datasets.kuairand_tfds")

FOLDER = Path(tempfile.mkdtemp(prefix="kuairand_release"))
LOG, _, _ = write_release(FOLDER)
SPLITS = {name: sum(a <= int(row["date"]) <= b for row in LOG) for name, (a, b) in kuairand.SPLIT_DAYS.items()}


class KuairandPureTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = kuairand_tfds.KuairandPure
    EXAMPLE_DIR = FOLDER
    SPLITS = SPLITS
    SKIP_CHECKSUMS = True


def same(value, expected):
    if isinstance(expected, list):
        return value.tolist() == expected
    if isinstance(expected, str):
        return value.decode() == expected
    return value == expected or (np.isnan(value) and np.isnan(expected))


def test_examples_are_the_rows_of_the_direct_route(tmp_path):
    config = kuairand_tfds.KuairandConfig(name="short", attributes=kuairand.ATTRIBUTES, max_length=7)
    builder = kuairand_tfds.KuairandPure(data_dir=tmp_path, config=config)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=FOLDER))
    direct = kuairand.load(FOLDER, attributes=kuairand.ATTRIBUTES, max_length=7)
    assert list(builder.info.splits) == list(direct)
    for name, table in direct.items():
        rows = table.to_pylist()
        examples = list(tfds.as_numpy(builder.as_dataset(split=name)))
        assert len(examples) == len(rows) == SPLITS[name]
        for example, row in zip(examples, rows, strict=True):
            assert set(example) == set(row)
            assert all(same(example[column], row[column]) for column in row)


def test_missing_files_are_named(tmp_path):
    (tmp_path / "raw").mkdir()
    builder = kuairand_tfds.KuairandPure(data_dir=tmp_path / "data")
    with pytest.raises(FileNotFoundError, match="log_standard_4_08_to_4_21_pure.csv"):
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=tmp_path / "raw"))


def test_without_tensorflow_datasets_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.delitem(sys.modules, "keras_ctr.datasets.kuairand_tfds")
    with pytest.raises(ImportError, match=r"pip install keras_ctr\[data\]"):
        __import__("keras_ctr.datasets.kuairand_tfds")
