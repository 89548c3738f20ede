"""One trial: a configuration is drawn, trained as `keras-ctr train` does it, and recorded, whole or not at all."""

import contextlib
import dataclasses
import gc
import hashlib
import platform
import time
import traceback
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from tuning.files import plain, read_json, write_json
from tuning.objective import parse_objective

RECORD = "record.json"
TRIAL_FOLDER = "trial_"
RUN = "run"
"""Run folder of a trial whose model is kept."""
COMPLETED, FAILED, DAMAGED = "completed", "failed", "damaged"
OWN_VALUES = "tuner/"
"""Beginning of the names of values that are the algorithm's and no hyperparameters."""
EPOCHS, PARENT = "tuner/epochs", "tuner/trial_id"


def trial_folder(folder, trial_id):
    """Returns the folder of a trial."""
    return Path(folder) / f"{TRIAL_FOLDER}{trial_id}"


def read_record(folder, trial_id):
    """Returns the record of a finished trial, or None."""
    record = read_json(trial_folder(folder, trial_id) / RECORD)
    return record if isinstance(record, dict) and record.get("status") in (COMPLETED, FAILED, DAMAGED) else None


def read_records(folder):
    """Returns the records of all finished trials of a search, in the order of their numbers."""
    ids = sorted(p.name.removeprefix(TRIAL_FOLDER) for p in Path(folder).glob(f"{TRIAL_FOLDER}*") if p.is_dir())
    return [record for trial_id in ids if (record := read_record(folder, trial_id))]


def trial_seed(seed, number):
    """Returns the seed of a trial: 31 bits of SHA-256 of the search's seed and the trial's number."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big") >> 1


def versions():
    """Returns the versions of what a result depends on."""
    import keras
    import keras_tuner
    import tensorflow

    import keras_ctr

    packages = {"keras_ctr": keras_ctr, "keras": keras, "tensorflow": tensorflow, "keras_tuner": keras_tuner}
    return {"python": platform.python_version(), **{name: package.__version__ for name, package in packages.items()}}


class SplitReader:
    """`make_dataset(cache=True)` that parses a split once for all trials of a process: their batches differ, their columns do not."""

    def __init__(self):
        self._columns = {}

    def __call__(self, data, split, *, batch_size, features, labels, shuffle=False, seed=None, negatives=(), cache=True):
        import tensorflow as tf

        from keras_ctr.data import make_dataset
        from keras_ctr.data.cached import Columns, cached_batches
        from keras_ctr.data.negatives import add_negatives

        key = (split, tuple(features), tuple(labels))
        if key not in self._columns:
            self._columns = {k: v for k, v in self._columns.items() if k[1:] == key[1:]}  # those of another choice are not needed again
            batches = make_dataset(data, split, batch_size=8192, features=features, labels=labels)
            self._columns[key] = Columns(batches, data.num_rows(split))
        options = {"shuffle": shuffle, "seed": seed, "drop_remainder": False, "num_parallel_calls": tf.data.AUTOTUNE}
        dataset = cached_batches(self._columns[key], batch_size, **options)
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(-(-data.num_rows(split) // batch_size)))
        if negatives:
            dataset = add_negatives(dataset, data.schema.select(features=features), negatives, seed=seed)
        return dataset.prefetch(tf.data.AUTOTUNE)


@contextlib.contextmanager
def own_bars(progress):
    """Takes away the bars that were added to a `rich.progress.Progress` within."""
    before = set(progress.task_ids) if progress is not None else ()
    try:
        yield
    finally:
        for task in set(progress.task_ids) - set(before) if progress is not None else ():
            progress.remove_task(task)


class TrialRunner:
    """Trains and records trials in one process; the data are opened and parsed once.

    Args:
        folder: Folder of the search.
        settings: `Settings`.
        draw: `Draw`.
        worker: Name of the process, for the records.
        progress: `rich.progress.Progress` for the bar of a training.
    """

    def __init__(self, folder, settings, draw, *, worker="tuner0", progress=None):
        from keras_ctr.cli import runs
        from keras_ctr.data import PreparedData

        self.folder, self.settings, self.draw = Path(folder), settings, draw
        self.worker, self.progress = worker, progress
        self.data = PreparedData(settings.data)
        self.objective = search_objective(self.data, settings)
        self.read = SplitReader()
        self._runs = runs

    def configuration(self, trial_id, hyperparameters):
        """Returns the `RunConfig` of a trial: its values, its seed, the epochs that the algorithm gives it."""
        values = self.draw(hyperparameters)
        number, parent = int(trial_id), hyperparameters.values.get(PARENT)
        # A trial that Hyperband promotes is the same training, longer.
        seed = read_record(self.folder, parent)["seed"] if parent else trial_seed(self.settings.seed, number)
        values = {"monitor": self.objective.monitor, **values, "seed": seed}
        config = self._runs.RunConfig.from_dict(values)
        limit = hyperparameters.values.get(EPOCHS)
        return config if limit is None else dataclasses.replace(config, epochs=min(config.epochs, int(limit)))

    def run(self, trial_id, hyperparameters):
        """Returns the record of a trial: the one on disk if it is finished there already, else that of a training.

        The epoch is the one that early stopping keeps, by `monitor` on the validation split; no other split but `train` is read.
        """
        values = {k: v for k, v in hyperparameters.values.items() if not k.startswith(OWN_VALUES)}
        known = read_record(self.folder, trial_id)
        if known and known["parameters"] == plain(values):
            return known
        start = time.perf_counter()
        record = {
            "trial": trial_id,
            "number": int(trial_id),
            "status": FAILED,
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "worker": self.worker,
            "algorithm": {k.removeprefix(OWN_VALUES): v for k, v in hyperparameters.values.items() if k.startswith(OWN_VALUES)},
            "parameters": values,
            "configuration": None,
            "seed": None,
            "objective": None,
            "epochs": 0,
            "error": None,
            "versions": versions(),
        }
        try:
            record |= self._train(trial_id, hyperparameters, record)
            record["status"] = COMPLETED
        except Exception as error:  # what a configuration does wrong is its result
            record["error"] = error_of(error)
        record["seconds"] = round(time.perf_counter() - start, 3)
        write_json(trial_folder(self.folder, trial_id) / RECORD, plain(record))
        return plain(record)

    def _train(self, trial_id, hyperparameters, record):
        config = self.configuration(trial_id, hyperparameters)
        record |= {"configuration": dataclasses.asdict(config), "seed": config.seed}
        model, found = train_once(self._runs, self.data, config, self.read, self.progress, f"trial {trial_id} {config.model}")
        record |= {"epochs": found["epochs"]}
        value = self.objective.value(found["metrics"])
        if self.settings.keep_models:
            folder = trial_folder(self.folder, trial_id) / RUN
            self._runs.save_run(folder, model, self.data, config, found["history"], {"validation": found["metrics"]}, overwrite=True)
        return {"objective": value, **found}


def train_once(runs, data, config, read, progress=None, description=None):
    """Trains a configuration; returns `(model with its best weights, figures)`, the metrics being those of the best epoch."""
    import keras

    keras.utils.clear_session()
    gc.collect()
    with own_bars(progress):
        model, history, seconds = runs.train(data, config, progress=progress, description=description, read=read)
    best = best_epoch(history, config.monitor)
    embedding, dense = runs.parameters(model)
    return model, {
        "metrics": {name: values[best] for name, values in history.items()},
        "best_epoch": best + 1,
        "epochs": len(history["loss"]),
        "fit_seconds": round(seconds, 3),
        "parameter_count": {"embedding": embedding, "dense": dense},
        "history": history,
    }


def best_epoch(history, monitor):
    """Returns the place of the epoch whose weights early stopping restores."""
    if monitor not in history:
        raise ValueError(f"validation gave no '{monitor}', which chooses the epoch; it gave {', '.join(sorted(history))}")
    values = np.array(history[monitor], np.float64)
    if not np.isfinite(values).any():
        raise ValueError(f"{monitor} is not finite in any of {len(values)} epochs: {values[0]}")
    worst = np.inf if monitor.endswith(("loss", "ne", "ece")) else -np.inf  # the rule of `runs.train`
    values = np.where(np.isfinite(values), values, worst)
    return int(values.argmin() if worst > 0 else values.argmax())


def search_objective(data, settings):
    """Returns the `Objective` of a search on a data set."""
    labels = settings.fixed.get("labels") or data.schema.label_names
    for label in labels:
        data.schema.select(labels=[label])  # an unknown one is an error that names the nearest
    return parse_objective(settings.objective, list(labels), grouped=data.schema.group is not None)


def error_of(error):
    """Returns an exception as JSON."""
    return {"type": type(error).__name__, "message": str(error), "traceback": "".join(traceback.format_exception(error))}
