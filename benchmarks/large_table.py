"""Trains on more than 2^31 embedding rows in all, more than one variable of TensorFlow can be gathered from.

    python -m benchmarks.large_table [--rows 2200000000]

Two features of half the rows each, width 1 (8.8 GB at the default; SGD, no slots), come to lie in two variables. Their first and last rows
are looked up and updated, and the neighbours of these must stay as they were.
"""

import argparse
import os
import resource

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_ctr
from keras_ctr import Categorical, Schema


def check(rows):
    """Trains one step and returns the shapes of the variables; raises AssertionError if any row is not what it must be."""
    half = rows // 2
    schema = Schema([Categorical("a", half), Categorical("b", half)], ["click"])
    layer = keras_ctr.layers.FeatureEmbedding(schema, 1, initializer="zeros", name="embedding")
    inputs = keras_ctr.models.build_inputs(schema)
    total = keras.layers.Flatten()(layer(inputs)["fields"])
    output = keras.layers.Activation("sigmoid", name="click")(keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(total))
    model = keras_ctr.models.CTRModel(inputs, {"click": output})
    model.get_layer(index=-2).trainable = False
    model.compile(keras_ctr.optimizers.SGD(1.0), "binary_crossentropy")
    x = {"a": np.array([2, half - 1], "int32"), "b": np.array([2, half - 1], "int32")}
    model.train_on_batch(x, {"click": np.ones((2, 1), "float32")})
    # p = 1/2 everywhere at the start, so the gradient of a row is (p - 1) / 2 = -1/4.
    for name in ("a", "b"):
        key = next(key for key, plan in layer._widths.items() if name in plan["offset"])
        start = layer._widths[key]["offset"][name]
        for row, expected in ((2, 0.25), (3, 0.0), (half - 2, 0.0), (half - 1, 0.25)):
            found = float(layer._read(key, start + row, start + row + 1)[0, 0])
            assert found == expected, f"row {row:,} of '{name}': {found}, expected {expected}"
    return [tuple(v.shape) for v in layer.variables]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_200_000_000)
    arguments = parser.parse_args()
    shapes = check(arguments.rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{arguments.rows:,} rows in variables {shapes}: the rows of the batch moved, their neighbours did not; peak {peak:.1f} GiB")


if __name__ == "__main__":
    main()
