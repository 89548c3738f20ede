"""The tensorflow-datasets builder: TFDS's own checks on a made-up release, and examples equal to the direct route's rows."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from keras_ctr import datasets
from keras_ctr.datasets import kuairand
from tests.datasets.kuairand_sample import write_release

tfds = pytest.importorskip("tensorflow_datasets")
kuairand_tfds = datasets.kuairand_tfds


@pytest.mark.slow
class KuairandPureTest(tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = kuairand_tfds.KuairandPure
    SKIP_CHECKSUMS = True

    @classmethod
    def setUpClass(cls):
        cls._temporary = tempfile.TemporaryDirectory()
        cls.EXAMPLE_DIR = cls._temporary.name
        log, _, _ = write_release(Path(cls.EXAMPLE_DIR))
        cls.SPLITS = {name: sum(a <= int(row["date"]) <= b for row in log) for name, (a, b) in kuairand.SPLIT_DAYS.items()}
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        cls._temporary.cleanup()
        super().tearDownClass()


def same(value, expected):
    if isinstance(expected, list):
        return value.tolist() == expected
    if isinstance(expected, str):
        return value.decode() == expected
    return value == expected or (np.isnan(value) and np.isnan(expected))


@pytest.mark.slow
def test_examples_are_the_rows_of_the_direct_route(tmp_path):
    write_release(tmp_path / "raw")
    config = kuairand_tfds.KuairandConfig(name="short", attributes=kuairand.ATTRIBUTES, max_length=7)
    builder = kuairand_tfds.KuairandPure(data_dir=tmp_path / "data", config=config)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=tmp_path / "raw"))
    direct = kuairand.load(tmp_path / "raw", attributes=kuairand.ATTRIBUTES, max_length=7)
    assert list(builder.info.splits) == list(direct)
    for name, table in direct.items():
        rows = table.to_pylist()
        examples = list(tfds.as_numpy(builder.as_dataset(split=name)))
        assert len(examples) == len(rows) == builder.info.splits[name].num_examples > 0
        for example, row in zip(examples, rows, strict=True):
            assert set(example) == set(row)
            assert all(same(example[column], row[column]) for column in row)


def test_missing_files_are_named(tmp_path):
    write_release(tmp_path / "raw")
    (tmp_path / "raw" / "log_standard_4_08_to_4_21_pure.csv").unlink()
    builder = kuairand_tfds.KuairandPure(data_dir=tmp_path / "data")
    with pytest.raises(FileNotFoundError, match="'log_standard_4_08_to_4_21_pure.csv' missing"):
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=tmp_path / "raw"))


def test_without_tensorflow_datasets_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.delitem(sys.modules, "keras_ctr.datasets.kuairand_tfds")
    with pytest.raises(ImportError, match=r"pip install keras_ctr\[data\]"):
        __import__("keras_ctr.datasets.kuairand_tfds")
