"""How each model is trained on KuaiRand: settings chosen on the validation day, the same for every seed.

Field-only models see the schema without its sequences; `sequences=True` models see everything.
"""

RECIPES = {
    "LR": {"model": "LR", "sequences": False, "learning_rate": 1e-2, "batch_size": 512, "epochs": 20},
    "DNN": {"model": "DNN", "sequences": False, "arguments": {"dropout": 0.2}},
    "DCNv2": {"model": "DCNv2", "sequences": False, "arguments": {"dropout": 0.2}},
    "XDeepInt": {"model": "XDeepInt", "sequences": False},
    "DynInt-DA": {"model": "DynInt", "sequences": False, "arguments": {"variant": "da"}},
    "DynInt-DGP": {"model": "DynInt", "sequences": False, "arguments": {"variant": "dgp"}},
    "DynInt-DWP": {"model": "DynInt", "sequences": False, "arguments": {"variant": "dwp"}},
    "DIN": {"model": "DIN", "arguments": {"dropout": 0.2}},
    "InterFormer": {"model": "InterFormer", "arguments": {"dropout": 0.1}},
}
COMMON = {"batch_size": 512, "epochs": 10, "patience": 1, "learning_rate": 1e-3}


def recipe(name):
    """Returns the `RunConfig` keywords of one row of the table."""
    return {**COMMON, **RECIPES[name]}
