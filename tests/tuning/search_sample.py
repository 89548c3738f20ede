"""A small prepared data set and small spaces for the tests of searches; in a module, so that worker processes find them."""

import numpy as np


def write_log(path, rows=900):
    """A CSV log of two labels whose clicks follow from the item."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 23, rows), rng.integers(0, 17, rows)
    rate = np.where(item % 2 == 0, 0.7, 0.2)
    click, like = (rng.random(rows) < rate).astype(int), (rng.random(rows) < 0.9 - rate).astype(int)
    with open(path, "w", encoding="utf-8") as file:
        file.write("ts,uid,iid,price,click,like\n")
        for i in range(rows):
            file.write(f"{1000 + i},{user[i]},{item[i]},{rng.lognormal():.3f},{click[i]},{like[i]}\n")
    return path


def prepare_log(folder):
    """Prepares it, without histories, and returns the folder of the data."""
    from keras_ctr.cli import main

    log = write_log(folder / "log.csv")
    columns = ["--csv", log, "--label", "click", "--label", "like", "--user", "uid", "--time", "ts", "--exclude", "ts"]
    assert main([str(a) for a in ["prepare", *columns, "--out", folder / "data", "--quiet"]]) == 0
    return folder / "data"


def small_space(hp):
    """Two layers at most, and a conditional width."""
    layers = hp.Int("layers", 1, 2)
    with hp.conditional_scope("layers", [2]):
        second = hp.Choice("second", [3, 5])
    return {"embedding_dim": hp.Choice("embedding_dim", [2, 3, 5]), "hidden_units": (7, second) if layers == 2 else (7,)}


def small_training(hp):
    """A learning rate."""
    return {"optimizer": "adam", "learning_rate": hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")}


def grid_space(hp):
    """Six configurations."""
    return {"embedding_dim": hp.Choice("embedding_dim", [2, 3, 5]), "hidden_units": (hp.Choice("units", [3, 7]),)}


def no_training(hp):
    """Nothing is drawn."""
    return {"learning_rate": 0.01}


def broken_space(hp):
    """No configuration of it can be built: the first layer would have a negative number of units."""
    return {"embedding_dim": hp.Choice("embedding_dim", [2, 3, 5]), "hidden_units": (-hp.Int("units", 1, 99),)}


def sometimes_broken_space(hp):
    """Widths below 1 fail."""
    return {"embedding_dim": 2, "hidden_units": (hp.Choice("units", [-7, -5, 3, 5, 7, 11], default=3),)}
