"""Prepared data as one `.npz` file, for studies on machines or backends without TensorFlow.

python -m benchmarks.arrays PREPARED_FOLDER data.npz
"""

import json
import sys
from pathlib import Path

import numpy as np

from keras_ctr.schema import META_TIME, Schema


def save_arrays(data, path):
    """Writes all splits of a `PreparedData` to `path` (`.npz`), schema and label rates included."""
    from keras_ctr.data import make_dataset

    arrays = {}
    for split in data.splits:
        parts = {}
        for x, y in make_dataset(data, split, batch_size=8192):
            for name, values in {**{f"x/{k}": v for k, v in x.items()}, **{f"y/{k}": v for k, v in y.items()}}.items():
                parts.setdefault(name, []).append(np.asarray(values))
        for name, values in parts.items():
            if not name.endswith(META_TIME):
                arrays[f"{split}/{name}"] = _smallest(np.concatenate(values))
    rates = json.dumps(data.label_rate("train"))
    np.savez_compressed(Path(path), schema=np.array(data.schema.to_json()), label_rate=np.array(rates), **arrays)


def load_arrays(path):
    """Returns `(schema, {label: training rate}, {split: (x, y)})` of a file written by `save_arrays`."""
    file = np.load(path)
    schema = Schema.from_json(str(file["schema"]))
    splits = {}
    for key in file.files:
        if key in ("schema", "label_rate"):
            continue
        split, kind, name = key.split("/", 2)
        values = file[key]
        dtype = schema.encoded_dtype(name) if name in schema else "float32" if kind == "y" else values.dtype
        splits.setdefault(split, ({}, {}))[0 if kind == "x" else 1][name] = values.astype(dtype)
    return schema, json.loads(str(file["label_rate"])), splits


def _smallest(values):
    """Ids in the smallest integer type that holds them: the file travels."""
    return values.astype(np.min_scalar_type(int(values.max()))) if values.dtype.kind == "i" and values.min() >= 0 else values


if __name__ == "__main__":
    from keras_ctr.data import PreparedData

    save_arrays(PreparedData(sys.argv[1]), sys.argv[2])
