"""Optimizers put together for a model: one for the embedding tables, one for the rest."""

import keras

from keras_ctr.optimizers.adagrad import Adagrad
from keras_ctr.optimizers.adam import LazyAdam
from keras_ctr.optimizers.ftrl import FTRL, GroupLassoFTRL

TABLES = r"(?:.*/)?(?:embedding(?:_\w+)?/table(?:_\d+)?(?:_part\d+)?|wide/table)"
"""Pattern of the variable paths of `FeatureEmbedding` tables."""
WIDE = r"(?:.*/)?(?:linear|wide|logits/embedding)/.*"
"""Pattern of the variable paths of linear parts: the layers that factories name `linear` or `wide`, and the table of `LR`."""


def _composite(rest, pattern, special, name):
    return keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(rest, {pattern: special}), name=name)


def default(learning_rate=1e-3, *, table_learning_rate=None, weight_decay=None, tables=TABLES, **kwargs):
    """Adam, lazily on embedding tables: the optimizer of the benchmarks and of `keras-ctr train`.

    Args:
        learning_rate: A float, schedule or callable.
        table_learning_rate: Learning rate of the tables where it differs; then the result is a `keras.optimizers.MultiOptimizer`,
            otherwise one `LazyAdam`, whose dense rule is Adam.
        weight_decay: Decoupled weight decay of the variables that are no tables; an L2 penalty on the rows of a batch is the
            `embedding_l2` of the factories.
        tables: Pattern of the tables' variable paths.
        **kwargs: Options of both optimizers, such as `global_clipnorm`.

    Returns:
        A `keras.optimizers.Optimizer`.
    """
    if table_learning_rate is None and weight_decay is None:
        return LazyAdam(learning_rate, **kwargs)
    special = LazyAdam(learning_rate if table_learning_rate is None else table_learning_rate, name="LazyAdam_tables", **kwargs)
    return _composite(LazyAdam(learning_rate, weight_decay=weight_decay, **kwargs), tables, special, "default")


def dynint(
    learning_rate=0.02,
    *,
    beta=1 / 4096,
    l1=0.0,
    l2=0.0,
    dense_learning_rate=0.02,
    dense_l1=0.0,
    dense_l2=0.0,
    sum_over=None,
    semantics="anchored",
    tables=TABLES,
    **kwargs,
):
    """The composite of xDeepInt and DynInt: `GroupLassoFTRL` on embedding tables, `FTRL` on the rest.

    Args:
        learning_rate, l1, l2: Of the tables.
        dense_learning_rate, dense_l1, dense_l2: Of the rest.
        beta: Of both.
        sum_over: B if `beta`, `l1`, `l2`, `dense_l1`, `dense_l2` are meant for a loss summed over batches of B rows, as in the authors'
            code: they are divided by B, because Keras takes the mean. None if they are meant for the mean.
        semantics: `"anchored"` or `"original"`, see `FTRL`.
        tables: Pattern of the tables' variable paths.
        **kwargs: Options of both optimizers, such as `clipnorm`.

    Returns:
        A `keras.optimizers.MultiOptimizer`.

    Raises:
        ValueError: On an argument out of range.

    Source: xDeepInt's published code: learning rates 0.02; tables beta 1, l1 10, l2 10; rest l1 0.1, l2 0.1; the loss summed over 4,096
    rows: `dynint(beta=1.0, l1=10.0, l2=10.0, dense_l1=0.1, dense_l2=0.1, sum_over=4096)`. DynInt searched learning rates from 1e-2 to 1e-1.
    """
    if sum_over is not None:
        if not isinstance(sum_over, int) or sum_over < 1:
            raise ValueError(f"dynint: sum_over must be a positive number of rows or None, got {sum_over!r}")
        beta, l1, l2, dense_l1, dense_l2 = (value / sum_over for value in (beta, l1, l2, dense_l1, dense_l2))
    special = GroupLassoFTRL(learning_rate, beta=beta, l1=l1, l2=l2, semantics=semantics, **kwargs)
    rest = FTRL(dense_learning_rate, beta=beta, l1=dense_l1, l2=dense_l2, semantics=semantics, **kwargs)
    return _composite(rest, tables, special, "dynint")


def wide_deep(wide_learning_rate=0.02, deep_learning_rate=0.01, *, l1=0.0, l2=0.0, wide=WIDE, **kwargs):
    """The composite of Wide & Deep: `FTRL` on the wide (linear) part, `Adagrad` on the deep part, tables included.

    Args:
        wide_learning_rate, l1, l2: Of the wide part; l1 makes its weights sparse.
        deep_learning_rate: Of the deep part.
        wide: Pattern of the wide part's variable paths.
        **kwargs: Options of both optimizers, such as `clipnorm`.

    Returns:
        A `keras.optimizers.MultiOptimizer`.

    Source: Cheng et al., arXiv:1606.07792, section 3.2: FTRL with L1 for wide, AdaGrad for deep. The rates are ours.
    """
    return _composite(Adagrad(deep_learning_rate, **kwargs), wide, FTRL(wide_learning_rate, l1=l1, l2=l2, **kwargs), "wide_deep")
