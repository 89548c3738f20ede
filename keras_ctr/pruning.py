"""Smaller models with the same predictions: embedding rows that training has made zero are taken out."""

import copy
import dataclasses

import keras
import numpy as np

from keras_ctr.layers import FeatureEmbedding

__all__ = ["PrunedTable", "prune_zero_rows"]


@dataclasses.dataclass(frozen=True)
class PrunedTable:
    """What became of a fused table.

    Attributes:
        rows: Rows before.
        kept: Rows that are still stored: those that are not zero, and one zero row for all others.
        bytes_before, bytes_after: Of the table, and of the smaller table with its index of 4 bytes a row.
    """

    rows: int
    kept: int
    bytes_before: int
    bytes_after: int


def prune_zero_rows(model):
    """Returns a copy of a model that stores embedding rows of zeros once, and what was saved.

    `GroupLassoFTRL` makes whole rows exactly zero. In the copy each fused table holds its other rows and one row of zeros, found through
    an index `(rows,)` int32; ids and vocabularies stay as they are, so do all predictions, bit for bit. The copy is for serving and
    evaluation: its tables are not trainable, and it is not compiled.

    A table is left as it is if that would not make it smaller, if it is compressed (`quotient_remainder`) or pruned already, and if it
    belongs to a layer inside another layer (the linear parts).

    Args:
        model: A `CTRModel`.

    Returns:
        `(pruned model, {variable path: PrunedTable})`.

    Raises:
        ValueError: If the model has no embedding layer, or its tables are in a smaller type already (`serving.with_small_tables`).
    """
    layers = [layer for layer in model.layers if isinstance(layer, FeatureEmbedding)]
    if not layers:
        raise ValueError(f"model '{model.name}' has no FeatureEmbedding layer among its layers, so there is nothing to prune")
    config = copy.deepcopy(model.get_config())
    configs = {item["config"]["name"]: item["config"] for item in config["layers"]}
    values, report = {}, {}
    for layer in layers:
        if layer.table_dtype:
            raise ValueError(f"layer '{layer.path}' of the model '{model.name}' has {layer.table_dtype} tables: prune first")
        kept_rows = dict(layer.kept_rows)
        for key, plan in layer._widths.items():
            if key in kept_rows or plan["quotient_offset"]:
                continue
            variable = layer._tables[key]
            table = keras.ops.convert_to_numpy(variable)
            kept = np.flatnonzero(table.any(axis=1))
            found = PrunedTable(len(table), len(kept) + 1, table.nbytes, (len(kept) + 1) * table.itemsize * table.shape[1] + 4 * len(table))
            if found.bytes_after >= found.bytes_before:
                continue
            index = np.zeros(len(table), "int32")
            index[kept] = np.arange(1, len(kept) + 1)
            values[variable.path] = np.concatenate([np.zeros((1, table.shape[1]), table.dtype), table[kept]])
            values[variable.path.rsplit("/", 1)[0] + f"/row_index_{key}"] = index
            kept_rows[key] = len(kept) + 1
            report[variable.path] = found
        configs[layer.name]["kept_rows"] = kept_rows
    pruned = type(model).from_config(config)
    trained = {variable.path: variable for variable in model.variables}
    for variable in pruned.variables:
        value = values.get(variable.path)
        # A copy: on some backends a variable would share its array with the model's, which a later training step gives away.
        variable.assign(np.array(keras.ops.convert_to_numpy(trained[variable.path])) if value is None else value)
    return pruned, report
