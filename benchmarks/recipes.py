"""How each model is trained on KuaiRand: settings chosen on the validation day, the same for every seed and for extract and full files.

Field-only models see the schema without its sequences; the others see everything. On this data every neural model is best after its
first epoch or two and overfits the ids from then on, so training stops at the first epoch that does not improve; the sequence models, for
which that was the second in every trial, train for one. xDeepInt and DynInt train with the papers' composite optimizer, the others with
Adam.
"""

FIELDS = {"optimizer": "adam", "sequences": False, "batch_size": 512, "epochs": 6, "patience": 0}
POLYNOMIAL = {**FIELDS, "optimizer": "dynint", "learning_rate": 0.02, "optimizer_arguments": {"dense_learning_rate": 0.02}}
HISTORIES = {"optimizer": "adam", "sequences": True, "batch_size": 512, "epochs": 1, "patience": 0}

RECIPES = {
    "LR": {"model": "LR", **FIELDS, "learning_rate": 5e-3, "epochs": 15},
    "DNN": {"model": "DNN", **FIELDS, "learning_rate": 2e-3, "batch_size": 256, "arguments": {"embedding_l2": 1e-2}},
    "DCNv2": {"model": "DCNv2", **FIELDS, "learning_rate": 2e-3, "arguments": {"dropout": 0.2}},
    "XDeepInt": {"model": "XDeepInt", **POLYNOMIAL},
    "DynInt-DA": {"model": "DynInt", **POLYNOMIAL, "arguments": {"variant": "da"}},
    "DynInt-DGP": {"model": "DynInt", **POLYNOMIAL, "arguments": {"variant": "dgp"}},
    "DynInt-DWP": {"model": "DynInt", **POLYNOMIAL, "arguments": {"variant": "dwp"}},
    "DIN": {"model": "DIN", **HISTORIES},
    "InterFormer": {"model": "InterFormer", **HISTORIES, "learning_rate": 2e-3, "arguments": {"num_layers": 1}},
}

MAX_LENGTH = {"watched": 50, "long_watched": 20, "liked": 10}
"""Events of each history: seven in ten rows have no like, and a third of the watched events were viewed long."""


def recipe(name):
    """Returns the `RunConfig` keywords of one row of the table."""
    return dict(RECIPES[name])
