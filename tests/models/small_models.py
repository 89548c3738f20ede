"""Small sizes, and what tests of models measure of one: parameters, scores, outputs of inner layers."""

import re

import keras
import numpy as np

from keras_ctr.optimizers.recipes import TABLES
from tests.sample import random_rows

D = 6
ROWS = 7
UNITS = (11, 5)
FIELDS, NUMERICS, SEQUENCES = 4, 1, 3  # of full_schema: the binned age is a field
TOKENS = FIELDS + NUMERICS + SEQUENCES
N0 = FIELDS * D + NUMERICS + SEQUENCES * D
SMALL = {"embedding_dim": D, "hidden_units": UNITS}


def dense_weights(model):
    """Trainable scalars outside of embedding tables."""
    return sum(int(np.prod(w.shape)) for w in model.trainable_weights if not re.fullmatch(TABLES, w.path))


def mlp(inputs, *units):
    total = 0
    for width in units:
        total += inputs * width + width
        inputs = width
    return total


def spread(model):
    rng = np.random.default_rng(7)
    for weight in model.trainable_variables:
        weight.assign(0.3 * rng.standard_normal(weight.shape))


def check_runs(model, schema):
    x, y = random_rows(schema, ROWS)
    for p in model(x).values():
        p = keras.ops.convert_to_numpy(p)
        assert p.shape == (ROWS, 1) and np.all((p > 0) & (p < 1))
    model.compile("adam", "binary_crossentropy", run_eagerly=True)
    assert np.all(np.isfinite(model.train_on_batch(x, y)))


def scores(model, schema, rows=ROWS):
    x, _ = random_rows(schema, rows)
    return np.concatenate([keras.ops.convert_to_numpy(p) for p in model(x).values()], axis=1)


def inner(model, x, name):
    return keras.ops.convert_to_numpy(keras.Model(model.inputs, model.get_layer(name).output)([x[t.name] for t in model.inputs]))
