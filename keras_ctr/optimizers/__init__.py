"""Optimizers whose step costs O(rows in the batch) for embedding tables, and recipes that put them together.

>>> model.compile(keras_ctr.optimizers.default(1e-3), "binary_crossentropy")

Every class is a `keras.optimizers.Optimizer` and reloads without `custom_objects`; what they share is in `RowSparseOptimizer`.
"""

from keras_ctr.optimizers.adagrad import Adagrad, RowWiseAdagrad
from keras_ctr.optimizers.adam import LazyAdam, LazyAdamW
from keras_ctr.optimizers.ftrl import FTRL, GroupLassoFTRL
from keras_ctr.optimizers.loss_scale import LossScaleOptimizer
from keras_ctr.optimizers.recipes import TABLES, WIDE, default, dynint, wide_deep
from keras_ctr.optimizers.row_sparse import RowSparseOptimizer
from keras_ctr.optimizers.sgd import SGD

__all__ = [
    "FTRL",
    "SGD",
    "TABLES",
    "WIDE",
    "Adagrad",
    "GroupLassoFTRL",
    "LazyAdam",
    "LazyAdamW",
    "LossScaleOptimizer",
    "RowSparseOptimizer",
    "RowWiseAdagrad",
    "default",
    "dynint",
    "wide_deep",
]
