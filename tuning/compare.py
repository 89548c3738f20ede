"""A fair comparison: every model searches with the same budget; the winners are trained with several seeds and put side by side."""

import concurrent.futures
import hashlib
import multiprocessing
import os
from pathlib import Path

import numpy as np

from tuning.files import plain, read_json, write_json
from tuning.search import search
from tuning.trials import SplitReader, error_of, train_once, trial_seed, versions
from tuning.workers import THREADS, environment

LEADERBOARD, SEEDS = "leaderboard.json", "seeds"
METRICS = ("auc", "gauc", "logloss", "ne", "ece")


def compare(
    data, folder, models, *, seeds=3, test=False, defaults=False, workers=1, seed=1, resume=False, progress=None, tell=None, **options
):
    """Searches each model with the same budget, trains each winner with several seeds, and ranks them.

    Args:
        data: Path of a prepared data set.
        folder: Folder of the comparison; each model's search is `folder/<model>`.
        models: Names of models.
        seeds: Trainings of each winner. Their seeds differ from those of the trials.
        test: Whether the winners, and they alone, are scored on the test split, each training once.
        defaults: Whether the configuration of all defaults is trained beside each winner, with the same seeds: what the search was worth.
        workers: Processes of one thread each.
        seed: Seed of the searches; those of the trainings follow from it.
        resume: Go on where an earlier run was stopped; trainings that are done are not repeated.
        progress, tell: As in `search`.
        **options: Further arguments of `search`, the same for all.

    Returns:
        The document of `leaderboard.json`.

    Raises:
        ValueError: If a model is named twice or there is no test split; else as `search`.
    """
    if len(set(models)) < len(models):
        raise ValueError(f"a model is named twice: {', '.join(models)}")
    if environment()[0] is not None:
        raise ValueError("a comparison runs on one machine (workers=N); over several, search each model by itself")
    folder = Path(folder)
    if test:
        from keras_ctr.data import PreparedData

        PreparedData(data).entry("test")
    results = {}
    for model in models:
        own = folder / model
        results[model] = search(data, own, model, workers=workers, seed=seed, resume=resume, progress=progress, tell=tell, **options)
    given = {k: options.get(k) for k in ("space", "training")}
    plain_ones = {model: default_configuration(folder / model, **given) for model in models} if defaults else None
    entries = finals(results, data, seeds=seeds, test=test, defaults=plain_ones, workers=workers, seed=seed, progress=progress, tell=tell)
    document = {
        "data": os.path.abspath(data),
        "objective": next(iter(results.values())).objective.text,
        "direction": next(iter(results.values())).objective.direction,
        "seeds": seeds,
        "models": sorted(entries, key=_place(results)),
        "versions": versions(),
    }
    write_json(folder / LEADERBOARD, plain(document))
    return plain(document)


def _place(results):
    """Ranks by the mean objective on validation, that of the search where no seeds were trained."""

    def place(entry):
        value = (entry["objective"] or {}).get("mean", entry["search"]["objective"])
        return -value if results[entry["model"]].objective.direction == "max" else value

    return place


def finals(results, data, *, seeds, test, defaults=None, workers=1, seed=1, progress=None, tell=None):
    """Trains the winner of every search with several seeds; returns an entry a model, with means and standard deviations.

    Args:
        results: `{model: SearchResult}`.
        data: Path of the prepared data.
        defaults: `{model: configuration}` to train beside the winners (`default_configuration`), or None.
        seeds, test, workers, seed, progress, tell: As in `compare`.
    """
    configs = {(model, "winner"): result.best["configuration"] for model, result in results.items()}
    configs |= {(model, "defaults"): configuration for model, configuration in (defaults or {}).items()}
    trainings = {  # {(model, which): {path: configuration}}
        key: dict(_training(results[key[0]].folder, config, trial_seed(f"{seed}/final", number), number) for number in range(seeds))
        for key, config in configs.items()
    }
    todo = {os.fspath(path): config for paths in trainings.values() for path, config in paths.items() if not _done(path, config, test)}
    task = progress.add_task("trainings with several seeds", total=len(todo), note="trainings") if progress is not None else None
    for path, error in _run([(os.fspath(data), config, test, path) for path, config in todo.items()], workers):
        if progress is not None:
            progress.advance(task)
        if error and tell:
            tell(f"{path}: {error['type']}: {error['message']}")
    scores = {key: _scores([read_json(path) for path in paths], results[key[0]].objective, test) for key, paths in trainings.items()}
    entries = [{**_entry(model, result), **scores[model, "winner"]} for model, result in results.items()]
    for entry in entries if defaults else ():
        key = (entry["model"], "defaults")
        entry["defaults"] = {"configuration": plain(configs[key]), **scores[key]}
    return entries


def default_configuration(folder, space=None, training=None):
    """Returns the configuration of a search in which every choice that is drawn has its default.

    Args:
        folder: Folder of the search.
        space, training: The functions themselves, if the search was given any that cannot be named; see `tuning.search.search`.
    """
    from keras_tuner import HyperParameters

    from tuning.settings import Draw, load_settings

    settings, _ = load_settings(folder)
    own = [None if isinstance(function, str) else function for function in (space, training)]
    return Draw(settings, *own)(HyperParameters())


def _training(folder, configuration, seed, number):
    """Returns `(path of the record, configuration with its seed)`."""
    configuration = {**configuration, "seed": seed}
    return Path(folder) / SEEDS / f"{_digest(configuration)}_{number}.json", configuration


def _done(path, config, test):
    known = read_json(path)
    return bool(known) and known["configuration"] == config and known["error"] is None and ("test" in known or not test)


def _digest(config):
    return hashlib.sha256(repr(sorted((k, v) for k, v in config.items() if k != "seed")).encode()).hexdigest()[:8]


def _run(jobs, workers):
    """Yields `(path, error or None)` of each training."""
    if workers == 1:
        for job in jobs:
            yield job[-1], train_final(*job)
        return
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))  # read by the processes started below
    try:
        with concurrent.futures.ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            futures = {pool.submit(train_final, *job): job[-1] for job in jobs}
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


_OPEN = {}


def train_final(data, config, test, path):
    """Trains a winner with one seed and writes its metrics on validation, and on test if asked; returns the error, or None."""
    from keras_ctr.cli import runs
    from keras_ctr.data import PreparedData

    prepared, read = _OPEN.setdefault(data, (PreparedData(data), SplitReader()))
    record = {"configuration": config, "error": None, "versions": versions()}
    try:
        model, found = train_once(runs, prepared, runs.RunConfig.from_dict(config), read)
        record |= {"metrics": found["metrics"], **{k: found[k] for k in ("epochs", "best_epoch", "fit_seconds", "parameter_count")}}
        record["validation"] = runs.evaluate(model, prepared, "validation")
        if test:
            record["test"] = runs.evaluate(model, prepared, "test")
    except Exception as error:
        record["error"] = error_of(error)
    write_json(path, plain(record))
    return record["error"]


def _entry(model, result):
    best = result.best
    return {
        "model": model,
        "search": {
            "objective": best["objective"],
            "trial": best["trial"],
            "trials": len(result.trials),
            "failed": len(result.failed),
            "epochs": sum(r["epochs"] for r in [*result.trials, *result.failed]),
            "seconds": result.seconds,
            "reason": result.reason,
        },
        "configuration": best["configuration"],
        "parameter_count": best["parameter_count"],
    }


def _scores(records, objective, test):
    """Returns the objective and the metrics of a configuration's trainings, means and standard deviations over those that ended well."""
    good = [r for r in records if r and r["error"] is None]
    out = {"objective": None}
    if records:
        out |= {"seeds": [r["configuration"]["seed"] for r in good], "failed_seeds": len(records) - len(good)}
    if not good:
        return out
    out |= {"objective": spread([objective.value(r["metrics"]) for r in good]), "parameter_count": good[0]["parameter_count"]}
    for split in ("validation", *(("test",) if test else ())):
        shared = {label: [m for m in METRICS if all(m in r[split][label] for r in good)] for label in good[0][split]}
        out[split] = {label: {m: spread([r[split][label][m] for r in good]) for m in names} for label, names in shared.items()}
    return out


def spread(values):
    """Returns mean and standard deviation (of the sample: n - 1; None for one value)."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "deviation": deviation, "values": [float(v) for v in values]}


def leaderboard_table(document):
    """Returns a `rich.table.Table` of a leaderboard."""
    from rich.table import Table

    table = Table(title=f"by {document['objective']} on validation", title_justify="left")
    metrics = ("auc", "gauc", "logloss", "ne")
    table.add_column("model", no_wrap=True)
    for name in ("best trial", "seeds", "split", "label", *metrics):
        table.add_column(name, justify="right" if name not in ("split", "label") else "left")
    for entry in document["models"]:
        rows = [(entry["model"], f"{entry['search']['objective']:.5f}", entry)]
        rows += [("  its defaults", "", entry["defaults"])] if "defaults" in entry else []
        for name, best, found in rows:
            start = [name, best, text(found["objective"])]
            lines = [(split, label, values) for split in ("validation", "test") for label, values in found.get(split, {}).items()]
            for split, label, values in lines or [("", "", {})]:
                table.add_row(*start, split, label, *(text(values.get(m)) for m in metrics))
                start = ["", "", ""]
    return table


def text(value):
    """Returns mean ± standard deviation for people."""
    if not value:
        return "-"
    return f"{value['mean']:.4f}" + (f" ± {value['deviation']:.4f}" if value["deviation"] is not None else "")
