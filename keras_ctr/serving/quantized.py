"""What smaller numbers in the embedding tables would cost: a model whose rows have gone through int8 or float16 and back."""

import dataclasses

import keras
import numpy as np

__all__ = ["QuantizedTable", "quantize_rows", "quantized"]

_DTYPES = ("int8", "float16")
_INT8_MAX = 127


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
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
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
    quantised tables would, so its AUC is the price, but it is no smaller itself, and neither is its export. Tables that would not get
    smaller (int8 rows of width 1 with their scale) are left alone. The copy is not compiled.

    Args:
        model: A `CTRModel`.
        dtype: `"int8"` or `"float16"`.

    Returns:
        `(model, {variable path: QuantizedTable})`.

    Raises:
        ValueError: If the model has no embedding table, or as `quantize_rows`.
    """
    from keras_ctr.layers import FeatureEmbedding

    copied = type(model).from_config(model.get_config())
    copied.set_weights(model.get_weights())
    layers = [layer for layer in copied._flatten_layers() if isinstance(layer, FeatureEmbedding)]
    if not layers:
        raise ValueError(f"model '{model.name}' has no FeatureEmbedding layer, so there is nothing to quantise")
    report = {}
    for layer in layers:
        for variable in layer._tables.values():
            table = keras.ops.convert_to_numpy(variable)
            values, scales = quantize_rows(table, dtype)
            size = values.nbytes + (scales.nbytes if dtype == "int8" else 0)
            if size >= table.nbytes:
                continue
            restored = values.astype(np.float32) * scales[:, None]
            variable.assign(restored)
            error = float(np.abs(restored - table).max(initial=0.0))
            report[variable.path] = QuantizedTable(*table.shape, table.nbytes, size, error)
    return copied, report
