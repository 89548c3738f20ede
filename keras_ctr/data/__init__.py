"""From raw click logs to batches of ids: vocabularies, encoding, prepared folders, input pipelines.

Names are imported when first used: making a schema needs neither tensorflow nor pyarrow, training from a prepared folder needs no pyarrow.
"""

import importlib

_HOMES = {
    "encode": ("EncodeReport", "EncodedBatch", "Encoder", "EncodingError"),
    "fit": ("fit_schema",),
    "framing": ("CorruptDataError",),
    "histories": ("build_histories", "partition_by_user", "time_gap_ids"),
    "infer": ("infer_schema",),
    "manifest": ("PreparedData",),
    "negatives": ("add_negatives", "negative_events"),
    "pipeline": ("make_dataset",),
    "preparation": ("prepare",),
    "raw_log": ("prepare_file",),
    "sources": ("count_rows", "read_batches"),
    "synthetic": (),
    "tfrecord": ("write_split",),
    "transforms": ("log_square_boundaries",),
    "vocabulary": ("Vocabulary", "VocabularyBuilder", "load_vocabularies", "save_vocabularies"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME, "synthetic"])


def __getattr__(name):
    if name in _HOME:
        return getattr(importlib.import_module(f"keras_ctr.data.{_HOME[name]}"), name)
    if name in _HOMES:
        return importlib.import_module(f"keras_ctr.data.{name}")
    raise AttributeError(f"module 'keras_ctr.data' has no attribute '{name}'")


def __dir__():
    return sorted({*globals(), *__all__})
