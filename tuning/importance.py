"""Which hyperparameters mattered: permutation importance through a random forest, on trials that the forest has not seen."""

import math

import numpy as np

FEWEST = 10
"""Trials below which nothing is estimated."""
FEW, WEAK = 30, 0.3
_INACTIVE = -1.0


def encode(records):
    """Returns `(names, X (trials, names))` of the hyperparameters that vary.

    Numbers are as they are, on a log scale where they span a factor of 20; words and booleans are their place in the sorted list of values;
    a conditional one that is inactive is below all others.
    """
    names = list(dict.fromkeys(name for r in records for name in r["parameters"]))
    columns = {}
    for name in names:
        values = [r["parameters"].get(name) for r in records]
        known = [v for v in values if v is not None]
        if len({repr(v) for v in values}) < 2:
            continue
        if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in known):
            low, high = min(known), max(known)
            scale = math.log if low > 0 and high / low >= 20 else float
            places = [scale(v) if v is not None else None for v in values]
            below = min(p for p in places if p is not None) - 1
            columns[name] = [below if p is None else p for p in places]
        else:
            order = sorted({str(v) for v in known})
            columns[name] = [_INACTIVE if v is None else float(order.index(str(v))) for v in values]
    return list(columns), np.array(list(columns.values()), np.float64).T.reshape(len(records), len(columns))


def importance(records, *, seed=1, repeats=20, folds=5, trees=200):
    """Returns the importance of each hyperparameter, or why there is none.

    A random forest learns the objective from the hyperparameters of all trials but a fold. In the fold one hyperparameter at a time is
    shuffled among the trials: its importance is the rise of the squared error over the variance of the objective in all trials (the fall
    of R²), the mean over shuffles and folds. What the forest cannot predict (R² on unseen trials near 0 or below) has no importance that
    could be told, whatever its real one: `r2` says how far to trust the list. Hyperparameters that a search tied to each other (a
    Bayesian one, or Hyperband's promotions) share their importance.

    Args:
        records: Completed trials.
        seed: Seed of forest, folds and shuffles.
        repeats, folds, trees: Shuffles, folds and trees.

    Returns:
        `{"method", "trials", "r2", "importance": {name: {"mean", "deviation"}}, "caveat"}`, by falling importance; `importance` is empty
        if there are fewer than `FEWEST` trials or nothing varies, and `caveat` says so.
    """
    method = "permutation importance on held-out trials, random forest surrogate"
    document = {"method": method, "trials": len(records), "r2": None, "importance": {}, "caveat": None}
    if len(records) < FEWEST:
        return document | {"caveat": f"{len(records)} completed trials; at least {FEWEST} are needed"}
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import KFold

    names, x = encode(records)
    y = np.array([r["objective"] for r in records], np.float64)
    variance = y.var()
    if not names or variance == 0:
        return document | {"caveat": "no hyperparameter varies" if not names else "all trials have the same objective"}
    rng = np.random.default_rng(seed)
    rises = np.zeros((folds, repeats, len(names)))
    errors = np.zeros(len(y))
    for fold, (seen, unseen) in enumerate(KFold(folds, shuffle=True, random_state=seed).split(x)):
        forest = RandomForestRegressor(trees, min_samples_leaf=2, random_state=seed).fit(x[seen], y[seen])
        errors[unseen] = (forest.predict(x[unseen]) - y[unseen]) ** 2
        shuffled = np.repeat(x[None, unseen], repeats * len(names), axis=0).reshape(repeats, len(names), len(unseen), len(names))
        for i in range(repeats):
            for j in range(len(names)):
                shuffled[i, j, :, j] = rng.permutation(x[unseen, j])
        predicted = forest.predict(shuffled.reshape(-1, len(names))).reshape(repeats, len(names), len(unseen))
        rises[fold] = ((predicted - y[unseen]) ** 2).mean(axis=-1) - errors[unseen].mean()
    rises /= variance
    r2 = 1 - errors.mean() / variance
    means, deviations = rises.mean(axis=(0, 1)), rises.mean(axis=1).std(axis=0, ddof=1)
    found = {names[i]: {"mean": float(means[i]), "deviation": float(deviations[i])} for i in np.argsort(-means)}
    notes = []
    if r2 < WEAK:
        notes.append(f"the forest explains little of unseen trials (R² {r2:.2f}): do not trust the order")
    if len(records) < FEW:
        notes.append(f"{len(records)} trials are few: only large differences mean something")
    return document | {"r2": float(r2), "importance": found, "caveat": "; ".join(notes) or None}
