"""What smaller numbers in the embedding tables would cost: a model whose rows have gone through int8 or float16 and back."""

import dataclasses

import keras
import numpy as np

from keras_ctr import metrics
from keras_ctr.layers import FeatureEmbedding
from keras_ctr.layers.embedding_storage import SMALL_DTYPES, small_dtype, small_row_bytes
from keras_ctr.schema import nearest

__all__ = ["DTYPES", "QuantizedTable", "cost_report", "quantization_cost", "quantize_rows", "quantized"]

DTYPES = tuple(SMALL_DTYPES)
"""Types of the rows."""
COMPARED = ("auc", "gauc", "logloss")
"""Metrics of which the cost is told."""
_INT8_MAX = 127
_CHUNK = 1 << 18


@dataclasses.dataclass(frozen=True)
class QuantizedTable:
    """What became of a fused table.

    Attributes:
        rows, width: Its shape.
        bytes_before: As it is, in float32.
        bytes_after: In the smaller type, with one float32 scale a row for int8.
        largest_error: Largest change of a weight.
    """

    rows: int
    width: int
    bytes_before: int
    bytes_after: int
    largest_error: float


def quantize_rows(table, dtype="int8"):
    """Returns `(values, scales)` of a table `(V, D)`: `table[v] ~ values[v] scales[v]`.

    int8: `s_v = max_d |w_vd| / 127`, `q_vd = round(w_vd / s_v)`, so no weight moves by more than `s_v / 2`, and a row of zeros stays one.
    Each row has a scale of its own, since rows that few batches hold are far smaller than frequent ones. float16: the nearest number, no
    scales (all 1).

    Raises:
        ValueError: On another dtype, a table that is not `(V, D)` or not finite, or numbers past float16.
    """
    table = np.asarray(table, np.float32)
    _check_dtype(dtype)
    if table.ndim != 2 or not np.isfinite(table).all():
        raise ValueError(f"a table is (V, D) and finite, got shape {table.shape}")
    if dtype == "float16":
        if np.abs(table).max(initial=0.0) > np.finfo(np.float16).max:
            raise ValueError("the table holds numbers past float16's 65504: take int8")
        return table.astype(np.float16), np.ones(len(table), np.float32)
    scales = np.abs(table).max(axis=1, initial=0.0) / np.float32(_INT8_MAX)  # (V,)
    inverse = np.divide(1.0, scales, out=np.zeros(len(table), np.float64), where=scales > 0)
    return np.clip(np.rint(table * inverse[:, None]), -_INT8_MAX, _INT8_MAX).astype(np.int8), scales


def quantized(model, dtype="int8"):
    """Returns a copy of a model with the accuracy that smaller tables would have, and the size they would take.

    The rows of every embedding table are quantised (`quantize_rows`) and turned back into float32: the copy predicts what a server with
    quantised tables would, so its AUC is the price, but it is no smaller itself, and neither is its export: that is
    `keras_ctr.serving.with_small_tables`. Tables that would not get smaller (int8 rows of width 1 with their scale) are left alone. The
    copy is not compiled.

    Args:
        model: A `CTRModel`.
        dtype: `"int8"` or `"float16"`.

    Returns:
        `(model, {variable path: QuantizedTable})`.

    Raises:
        ValueError: If the model has no embedding table, its tables are small already, or as `quantize_rows`.
    """
    _check_dtype(dtype)
    embeddings(model)
    copied = type(model).from_config(model.get_config())
    copied.set_weights(model.get_weights())
    report = {}
    for variable in _tables(copied):
        found = smaller(keras.ops.convert_to_numpy(variable), dtype)
        if found is not None:
            values, scales, report[variable.path] = found
            variable.assign(values.astype(np.float32) * scales[:, None])
    return copied, report


def smaller(table, dtype):
    """Returns `(values, scales, QuantizedTable)` of a table, part by part as `quantize_rows`; None if it would not get smaller."""
    table = np.asarray(table)
    if small_dtype(dtype, table.shape[1]) is None:
        return None
    values, scales, error = np.empty(table.shape, dtype), np.empty(len(table), np.float32), 0.0
    for start in range(0, len(table), _CHUNK):
        part = slice(start, start + _CHUNK)
        values[part], scales[part] = quantize_rows(table[part], dtype)
        error = max(error, float(np.abs(values[part].astype(np.float32) * scales[part, None] - table[part]).max(initial=0.0)))
    return values, scales, QuantizedTable(*table.shape, table.nbytes, len(table) * small_row_bytes(table.shape[1], dtype), error)


def quantization_cost(model, x, y, *, dtypes=DTYPES, groups=None, sample_weight=None, batch_size=4096):
    """Returns what smaller tables would cost in accuracy and save in bytes, measured on rows with known labels.

    Take the rows of the validation split: whether to quantise is a choice like any other.

    Args:
        model: A `CTRModel`; it stays as it is.
        x: `{feature: (n,) or (n, T) array}`, encoded features.
        y: `{label: (n,) or (n, 1)}`, labels 0 or 1.
        dtypes: Types to try, of `"int8"` and `"float16"`.
        groups: Optional (n,), group of each row (the user), for the gAUC.
        sample_weight: Optional `{label: (n,) or (n, 1)}`: rows of weight 0, whose outcome is unknown, are left out. The other weights
            have no effect.
        batch_size: Rows scored at a time.

    Returns:
        `{dtype: {"bytes_before": int, "bytes_after": int, "largest_error": float, "labels": {label: {metric: {"before": float,
        "after": float, "difference": float}}}}}`, JSON-ready. Bytes are those of all tables, with the int8 rows' scales and the tables
        that stay in float32; `largest_error` is the largest change of a weight; the metrics are `"auc"`, with `groups` `"gauc"`, and
        `"logloss"`, as far as they are defined; the difference is after - before.

    Raises:
        KeyError: If the model has no such label, with the nearest one.
        ValueError: On no or an unknown dtype, no label, a label whose outcome is unknown in all rows, or as `quantized` and
            `keras_ctr.metrics`.
    """
    if not dtypes or not y:
        raise ValueError(f"quantization_cost needs at least one dtype and one label, got dtypes={dtypes!r} and labels {list(y)}")
    for dtype in dtypes:
        _check_dtype(dtype)
    for label in y:
        if label not in model.output:
            raise KeyError(f"model '{model.name}' has no label '{label}'{nearest(label, model.output)}")
    count, known = len(next(iter(x.values()))), {}
    for name, values in (("groups", groups), *((f"label '{label}'", values) for label, values in y.items())):
        if values is not None and len(values) != count:
            raise ValueError(f"{name} has {len(values)} rows, the features have {count}")
    for label, values in y.items():
        weight = (sample_weight or {}).get(label)
        known[label] = np.ones(len(values), bool) if weight is None else np.asarray(weight).reshape(-1) > 0
        if not known[label].any():
            raise ValueError(f"label '{label}' is unknown in all {len(values)} rows: there is nothing to compare with")

    def measure(scorer):
        scores, found = scorer.predict(x, batch_size=batch_size, verbose=0), {}
        for label, rows in known.items():
            users = None if groups is None else np.asarray(groups).reshape(-1)[rows]
            found[label] = metrics.evaluate(np.asarray(y[label])[rows], np.asarray(scores[label])[rows], groups=users)
        return found

    before, costs = measure(model), {}
    for dtype in dict.fromkeys(dtypes):
        smaller, report = quantized(model, dtype)
        costs[dtype] = cost_report(model, report, before, measure(smaller))
    return costs


def cost_report(model, report, before, after):
    """Returns one dtype's part of `quantization_cost` from measured metrics.

    Args:
        model: The model before.
        report: What `quantized` reports.
        before, after: `{label: {metric: value}}` of the model and of the copy with smaller tables.
    """
    labels = {}
    for label, values in before.items():
        labels[label] = {
            metric: {"before": values[metric], "after": after[label][metric], "difference": after[label][metric] - values[metric]}
            for metric in COMPARED
            if metric in values and metric in after[label]
        }
    return {**sizes(model, report), "labels": labels}


def sizes(model, report):
    """Returns `{"bytes_before", "bytes_after", "largest_error"}` of all tables of a model, those that stay in float32 among them."""
    size = sum(int(np.prod(v.shape)) * np.dtype(v.dtype).itemsize for v in _tables(model))
    saved = sum(table.bytes_before - table.bytes_after for table in report.values())
    error = max((table.largest_error for table in report.values()), default=0.0)
    return {"bytes_before": size, "bytes_after": size - saved, "largest_error": error}


def _check_dtype(dtype):
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")


def embeddings(model):
    """Returns the `FeatureEmbedding` layers of a model, also those inside of other layers, with tables in float32.

    Raises:
        ValueError: If there is none, or its tables are small already.
    """
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, FeatureEmbedding)]
    if not layers:
        raise ValueError(f"model '{model.name}' has no FeatureEmbedding layer, so there is nothing to quantise")
    for layer in layers:
        if layer.table_dtype:
            had = f"has {layer.table_dtype} tables already"
            raise ValueError(f"layer '{layer.path}' of the model '{model.name}' {had}: take the model from before that")
    return layers


def _tables(model):
    """Returns the variables that hold a model's fused embedding tables."""
    return [variable for layer in embeddings(model) for variable in layer._tables.values()]
