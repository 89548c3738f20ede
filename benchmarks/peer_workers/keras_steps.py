"""What all workers on Keras share: the training step of `fit` on batches in memory, thread settings, and counts of parameters."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import numpy as np
import tensorflow as tf


def start(config):
    """Sets threads, seed and dtype policy of the process, before any operation runs."""
    tf.config.threading.set_intra_op_parallelism_threads(config["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(config["threads"])
    keras.utils.set_random_seed(config["seed"])
    keras.config.set_dtype_policy(config.get("dtype", "float32"))


def features(batch, *, column=False):
    """Returns the model inputs of a synthetic batch: `C1..C26` int32 `(B,)` (or `(B, 1)`), `numeric` `(B, 13)` or `history` `(B, T)`."""
    ids = {
        f"C{f + 1}": np.ascontiguousarray(batch["ids"][:, f : f + 1] if column else batch["ids"][:, f])
        for f in range(batch["ids"].shape[1])
    }
    return {**ids, **{key: batch[key] for key in ("numeric", "history") if key in batch}}


def training_step(model, pairs):
    """Returns a function that makes one step of `fit` and returns the loss.

    The step is the compiled function that `fit` itself calls, on an iterator over a pool of batches in memory; no metrics but the loss,
    no callbacks. Reading the loss waits for the step.

    Args:
        model: A compiled Keras model.
        pairs: List of `(features, labels)`, one a batch, in the structure that the model takes.
    """
    stacked = tf.nest.map_structure(lambda *arrays: np.stack(arrays), *pairs)
    iterator = iter(tf.data.Dataset.from_tensor_slices(stacked).repeat().prefetch(2))
    # `fit` builds the metrics and the optimizer's state before its first step; so does this.
    model._symbolic_build(data_batch=pairs[0])
    model.make_train_function()
    function = model.train_function

    def step():
        return float(function(iterator)["loss"])

    return step


def parameters(model, is_embedding):
    """Returns `{"dense": n, "embedding": n}` of the trained weights; `is_embedding(weight)` tells embedding tables from the rest."""
    out = {"dense": 0, "embedding": 0}
    for weight in model.trainable_weights:
        out["embedding" if is_embedding(weight) else "dense"] += int(np.prod(weight.shape))
    return out


def versions(*more):
    """Returns the versions of Keras, TensorFlow and NumPy, and of further modules."""
    out = {"keras": keras.__version__, "tensorflow": tf.__version__, "numpy": np.__version__}
    return {**out, **{module.__name__: module.__version__ for module in more}}
