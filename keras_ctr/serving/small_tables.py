"""Smaller embedding tables in what is served: a copy of a model whose tables are stored in int8 or float16."""

import copy

import keras
import numpy as np

from keras_ctr.layers import FeatureEmbedding
from keras_ctr.serving.quantized import DTYPES, embeddings, sizes, smaller

__all__ = ["with_small_tables"]


def with_small_tables(model, dtype="int8"):
    """Returns a copy of a model that stores its embedding tables in a smaller type, and what became of them.

    int8 tables have one float32 scale a row (`quantized.quantize_rows`), and a row that is looked up is `values * scale` in float32: the
    copy predicts what `quantized.quantized(model, dtype)` does. It is saved, loaded and exported like any model, each variable once, at
    its real size. Tables that would not get smaller (int8 rows of width 1 with their scale) stay in float32; pruned tables keep their
    index.

    The copy is for serving: it is not compiled, none of its variables is trainable, and `fit`, or a call with `training=True`, is an error.
    It may be compiled for `evaluate`.

    Args:
        model: A functional model such as a factory returns.
        dtype: `"int8"` or `"float16"`.

    Returns:
        `(model, {variable path: quantized.QuantizedTable})`.

    Raises:
        ValueError: On another dtype, a model without embedding tables or whose tables are small already, a `FeatureEmbedding` inside of a
            layer that has no argument `table_dtype`, or as `quantize_rows`.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    before = embeddings(model)
    config = copy.deepcopy(model.get_config())
    _set_dtype(model, config, {id(layer) for layer in before}, dtype)
    small = type(model).from_config(config)
    report, set_already = {}, (set(), set())
    after = [layer for layer in small._flatten_layers() if isinstance(layer, FeatureEmbedding)]
    for old, new in zip(before, after, strict=True):
        for key, table in old._tables.items():
            found = smaller(keras.ops.convert_to_numpy(table), dtype)
            if found is None:
                continue
            values, scales, report[table.path] = found
            new._tables[key].assign(values)
            set_already[0].add(id(table))
            set_already[1].add(id(new._tables[key]))
            if key in new._scales:
                new._scales[key].assign(scales)
                set_already[1].add(id(new._scales[key]))
    others = [[v for v in each.weights if id(v) not in ids] for each, ids in zip((model, small), set_already, strict=True)]
    for source, target in zip(*others, strict=True):
        target.assign(np.array(keras.ops.convert_to_numpy(source)))  # a copy: JAX gives up the arrays of a model that predicts
    small.trainable = False
    return small, report


def card_entry(model, dtype, report):
    """Returns what a model card says of smaller tables: the type, bytes of all tables before and after, the largest change of a weight."""
    return {"dtype": dtype, **sizes(model, report)}


def _set_dtype(model, config, tables, dtype):
    """Sets `table_dtype`, in the configuration of a functional model, of every layer that is or holds one of the embedding layers."""
    layers = {layer.name: layer for layer in model.layers}
    for item in config["layers"]:
        layer = layers.get(item["config"].get("name"))
        if layer is None:
            continue
        if isinstance(layer, keras.Model) and "layers" in item["config"]:
            _set_dtype(layer, item["config"], tables, dtype)
        elif any(id(inner) in tables for inner in layer._flatten_layers()):
            if "table_dtype" not in item["config"]:
                advice = "give it an argument table_dtype and hand that to its FeatureEmbedding"
                raise ValueError(f"layer '{layer.name}' looks rows up but has no table_dtype: {advice}")
            item["config"]["table_dtype"] = dtype
