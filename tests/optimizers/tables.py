"""Tables with sparse gradients, alone and in a small model."""

import keras
import numpy as np
import tensorflow as tf

from keras_ctr import models
from tests.optimizers import oracles
from tests.sample import fields_schema


def numpy(variable):
    return np.array(variable.value.numpy())


def table(shape=(oracles.ROWS, oracles.WIDTH), name="table"):
    return keras.Variable(oracles.initial_weights(shape), dtype="float32", name=name)


def slices(indices, values, variable):
    return tf.IndexedSlices(tf.constant(values, variable.dtype), tf.constant(indices), tf.constant(variable.shape))


def small_dnn(schema=None, **arguments):
    return models.DNN(schema or fields_schema(), embedding_dim=3, hidden_units=(5,), **arguments)


def embedding_table(model):
    return next(v for v in model.trainable_variables if v.path == "embedding/table")


def unseen_rows(model, x):
    """Rows of the fused table that no feature of the data reads."""
    schema, layer = fields_schema(), model.get_layer("embedding")
    seen, start = set(), 0
    for feature in schema.fields:
        if feature.name in x and np.issubdtype(x[feature.name].dtype, np.integer):
            size = schema.table_of(feature).vocabulary_size
            seen |= {start + i for i in set(np.ravel(x[feature.name]).tolist())}
            start += size
    assert start == embedding_table(model).shape[0] == sum(len(layer.rows(name)) for name in schema.tables)
    return np.array(sorted(set(range(start)) - seen))
