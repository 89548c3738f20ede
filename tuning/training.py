"""Search space of the training: optimizer, learning rates, penalties of the optimizer, batch size."""

from keras_ctr.schema import nearest

RATES = {
    **dict.fromkeys(("adam", "adamw", "default", "LazyAdam", "LazyAdamW"), (1e-4, 1e-2, 1e-3)),
    **dict.fromkeys(("FTRL", "GroupLassoFTRL", "dynint"), (1e-2, 1e-1, 0.02)),
    **dict.fromkeys(("adagrad", "Adagrad"), (1e-3, 1e-1, 1e-3)),
    **dict.fromkeys(("RowWiseAdagrad", "wide_deep"), (1e-3, 1e-1, 1e-2)),
    **dict.fromkeys(("sgd", "SGD"), (1e-3, 1e-1, 1e-2)),
}
"""Optimizer -> lowest, highest and default learning rate; names as in `RunConfig`, defaults those of the optimizers."""

PENALTIES = (0.0, *(penalty / 4096 for penalty in (0.1, 1.0, 10.0)))
"""l1 and l2 for the mean over a batch. The code of xDeepInt's authors has 0.1 (dense) and 10 (tables) for the sum over 4,096 rows."""

MORE = {
    "FTRL": {"l1": PENALTIES, "l2": PENALTIES},
    "GroupLassoFTRL": {"l1": PENALTIES, "l2": PENALTIES},
    "dynint": {"l1": PENALTIES, "l2": PENALTIES, "dense_l1": PENALTIES, "dense_l2": PENALTIES},
    "wide_deep": {"l1": PENALTIES, "l2": PENALTIES},
}
SECOND_RATES = {"dynint": "dense_learning_rate", "wide_deep": "wide_learning_rate"}
"""The other rate of recipes of two optimizers: of FTRL, 1e-2 to 1e-1."""

BATCH_SIZES = (256, 512, 1024, 2048, 4096, 8192)
"""Ad-Rec 1024 (RM2), InterFormer 2048, DynInt and INFNet 4096, the BARS runs 1024 to 8192."""


def training_space(hp, *, optimizers=("adam",)):
    """Draws how a model is trained: keys of `keras_ctr.cli.runs.RunConfig`.

    Learning rates are log-uniform. Adam: 1e-4 to 1e-2 (DynInt, section 4.1.4: to 1e-3; BARS 5e-4 and 1e-3; INFNet 1e-4 to 1e-3;
    InterFormer 1e-3 to 1e-1, whose upper end is left out). FTRL and DynInt's composite: 1e-2 to 1e-1 (DynInt, section 4.1.4). SGD and
    Adagrad: 1e-3 to 1e-1 (Ad-Rec 0.01 to 0.2 and 0.05). A recipe of two optimizers has two rates.

    `"adam"` is Keras' own, whose step costs O(rows of the tables); `"default"` is Adam on the rows of a batch. `embedding_l2`, `dropout`
    and `batch_norm` are arguments of factories: the spaces of the models draw them.

    Args:
        hp: A `keras_tuner.HyperParameters`, or an object with its interface.
        optimizers: Names of `RunConfig.optimizer` to choose from, keys of `RATES`; the first is the default. With several, hyperparameters
            of one end in its name (`learning_rate_of_FTRL`) and are active with it only.

    Returns:
        A dict with `optimizer`, `learning_rate`, `optimizer_arguments` and `batch_size`.

    Raises:
        ValueError: If there is no optimizer or one without ranges, with the nearest name.
    """
    optimizers = list(dict.fromkeys(optimizers))
    if not optimizers:
        raise ValueError("training_space: name at least one optimizer")
    for name in optimizers:
        if name not in RATES:
            raise ValueError(f"training_space: no ranges for optimizer '{name}'{nearest(name, RATES)}; optimizers: {', '.join(RATES)}")
    if len(optimizers) == 1:
        chosen = {"optimizer": optimizers[0], **_rates_and_penalties(hp, optimizers[0], "")}
    else:
        chosen = {"optimizer": hp.Choice("optimizer", optimizers, default=optimizers[0])}
        for name in optimizers:
            with hp.conditional_scope("optimizer", [name]):
                drawn = _rates_and_penalties(hp, name, f"_of_{name}")
            if name == chosen["optimizer"]:
                chosen |= drawn
    return {**chosen, "batch_size": hp.Choice("batch_size", list(BATCH_SIZES), default=1024)}


def _rates_and_penalties(hp, optimizer, ending):
    low, high, default = RATES[optimizer]
    rate = hp.Float(f"learning_rate{ending}", low, high, sampling="log", default=default)
    arguments = {}
    if optimizer in SECOND_RATES:
        second = SECOND_RATES[optimizer]
        arguments[second] = hp.Float(f"{second}{ending}", 1e-2, 1e-1, sampling="log", default=0.02)
    for argument, values in MORE.get(optimizer, {}).items():
        arguments[argument] = hp.Choice(f"{argument}{ending}", list(values), default=0.0)
    return {"learning_rate": rate, "optimizer_arguments": arguments}
