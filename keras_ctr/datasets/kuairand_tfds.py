"""KuaiRand-Pure as a tensorflow-datasets builder: the same rows as `kuairand.load`, through `tfds.load`.

    from keras_ctr.datasets import kuairand_tfds
    builder = kuairand_tfds.KuairandPure(data_dir="tfds")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir="KuaiRand-Pure"))
    data = builder.as_dataset(split="train")

Importing this module needs tensorflow-datasets (extra `data`).
"""

import dataclasses

import numpy as np

from keras_ctr.data.arrow import pa
from keras_ctr.datasets import kuairand

try:
    import tensorflow_datasets as tfds
except ModuleNotFoundError as error:
    if error.name != "tensorflow_datasets":
        raise
    raise ImportError("keras_ctr.datasets.kuairand_tfds needs tensorflow-datasets: pip install keras_ctr[data]") from error

__all__ = ["KuairandConfig", "KuairandPure"]

_DESCRIPTION = """
KuaiRand-Pure: impressions of short videos in the apps of Kuaishou, with the users' reactions, for click-through-rate prediction.
A row is an impression with features of user, video and context, what the user did strictly before it, and the labels is_click,
long_view and is_like. Split by time: train (2022-04-25 to 04-29), validation (04-30), test (05-01 to 05-08). CC BY-SA 4.0.
"""
_CITATION = """
@inproceedings{gao2022kuairand,
  title={KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos},
  author={Gao, Chongming and Li, Shijun and Zhang, Yuan and Chen, Jiawei and Li, Biao and Lei, Wenqiang and Jiang, Peng and He, Xiangnan},
  booktitle={Proceedings of the 31st ACM International Conference on Information and Knowledge Management},
  year={2022}
}
"""
_ROWS = 1024  # rows that are Python objects at a time


@dataclasses.dataclass(kw_only=True)
class KuairandConfig(tfds.core.BuilderConfig):
    """Which histories the rows have; the fields are the arguments of `kuairand.schema`."""

    histories: tuple = kuairand.HISTORIES
    attributes: tuple = kuairand.ATTRIBUTES[:4]
    max_length: int = 50

    def arguments(self) -> dict:
        """Returns the keyword arguments of `kuairand.schema` and `kuairand.load`."""
        return {"histories": self.histories, "attributes": self.attributes, "max_length": self.max_length}


class KuairandPure(tfds.core.GeneratorBasedBuilder):
    """Builder of KuaiRand-Pure from files that were downloaded by hand.

    Its examples are the rows of `kuairand.load(manual_dir)`: same values, same order (it does not shuffle on disk).
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Download KuaiRand-Pure.tar.gz from https://kuairand.com and unpack it into manual_dir, so that it holds (itself or in `data/`)
    log_standard_4_08_to_4_21_pure.csv, log_standard_4_22_to_5_08_pure.csv, user_features_pure.csv and video_features_basic_pure.csv.
    """
    BUILDER_CONFIGS = [KuairandConfig(name="full", description="All three histories, 50 events each.")]

    def _info(self):
        schema = kuairand.schema(**self.builder_config.arguments())
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            citation=_CITATION,
            homepage="https://kuairand.com",
            license="CC BY-SA 4.0",
            features=tfds.features.FeaturesDict({name: _feature(kuairand.column_type(name)) for name in schema.raw_columns}),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        tables = kuairand.load(dl_manager.manual_dir, **self.builder_config.arguments())
        return {name: self._generate_examples(table) for name, table in tables.items()}

    def _generate_examples(self, table):
        row = 0
        for batch in table.to_batches(max_chunksize=_ROWS):
            for example in batch.to_pylist():
                yield row, example
                row += 1


def _feature(kind):
    """Returns the tfds feature of an Arrow type: a scalar of the same type, text, or a list."""
    if pa.types.is_list(kind):
        return tfds.features.Sequence(_feature(kind.value_type))
    return tfds.features.Text() if pa.types.is_string(kind) else tfds.features.Scalar(np.dtype(kind.to_pandas_dtype()))
