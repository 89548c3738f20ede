"""Floors of `benchmarks.serving_latency`: ten models as plain TensorFlow graphs, without Keras, on the model's own weights.

A floor does what the model's equation says and nothing else: the gathers, the matrix products, the activations, the softmaxes. It has no
checks, and it rests on what these requests hold and a model must not assume: every id is inside its table, a history starts at step 0, all
attributes of an event are there, a padded step reads a row of zeros. What follows from the weights alone is computed when the graph is
built: sums of kernels, the scale of queries, Dice's normalisation, the scores' part of learned seeds, the angles of rotary positions.
"""

import numpy as np
import tensorflow as tf

from benchmarks.serving_floors.fields import dcn_v2, deep_fm, dnn, dyn_int, fm, lr, x_deep_int
from benchmarks.serving_floors.parts import array
from benchmarks.serving_floors.sequences import bst, din, interformer

FLOORS = {"LR": lr, "FM": fm, "DNN": dnn, "DeepFM": deep_fm, "DCNv2": dcn_v2, "DynInt": dyn_int, "XDeepInt": x_deep_int}
FLOORS |= {"DIN": din, "BST": bst, "InterFormer": interformer}


def build(name, model, schema):
    """Returns a `tf.Module` whose `signature` takes the encoded features by name and gives `{label: (B, 1)}`.

    Args:
        name: Name of the model, a key of `FLOORS`.
        model: The model as its factory makes it by default, with one label; its weights are copied.
        schema: Its schema: fields, numerics and one group of sequences whose targets are neighbours among the fields, tables of one width.
    """
    module = tf.Module()
    module.weights = []

    def weight(value):
        module.weights.append(tf.Variable(np.asarray(array(value), "float32"), trainable=False))
        return module.weights[-1]

    score = FLOORS[name](weight, model, schema)
    label = schema.label_names[0]
    specs = {n: tf.TensorSpec((None, *schema.encoded_shape(n)), schema.encoded_dtype(n), name=n) for n in schema.feature_names}
    module.signature = tf.function(lambda **features: {label: tf.sigmoid(score(features))}).get_concrete_function(**specs)
    return module


def save(name, model, schema, path):
    """Writes the floor as a SavedModel with the signature `encoded`."""
    module = build(name, model, schema)
    tf.saved_model.save(module, str(path), signatures={"encoded": module.signature})
