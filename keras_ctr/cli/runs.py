"""Run folders: one training with its configuration, model, schema, vocabularies and metrics, whole or not there."""

import dataclasses
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np

import keras_ctr
import keras_ctr.models  # registers the layers that a saved model holds
from keras_ctr import metrics
from keras_ctr.callbacks import RankingMetrics
from keras_ctr.cli.progress import TrainingProgress
from keras_ctr.data import load_vocabularies, make_dataset, save_vocabularies
from keras_ctr.schema import META_GROUP, Schema, nearest

CONFIG, MODEL, METRICS, HISTORY, SCHEMA = "config.json", "model.keras", "metrics.json", "history.json", "schema.json"


@dataclass(frozen=True)
class RunConfig:
    """What a training needs to be repeated.

    Attributes:
        model: Name of a registered factory.
        arguments: Its keyword arguments.
        labels: Labels to train on; empty for all of the data set's.
        sequences: Whether the model sees the behaviour sequences.
        optimizer, learning_rate: A Keras optimizer by name and its learning rate.
        batch_size: Rows a step.
        epochs: Most epochs.
        patience: Epochs without a better `monitor` before training stops; the best weights are restored.
        monitor: Validation metric that decides, such as `val_auc`, `val_gauc` (higher is better) or `val_logloss` (lower is better).
        seed: Seed of initialisation, shuffling and dropout.
    """

    model: str = "InterFormer"
    arguments: dict = field(default_factory=dict)
    labels: tuple = ()
    sequences: bool = True
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    batch_size: int = 1024
    epochs: int = 20
    patience: int = 2
    monitor: str = "val_auc"
    seed: int = 1

    @classmethod
    def from_dict(cls, values):
        """Builds a configuration from a JSON object.

        Raises:
            ValueError: On an unknown key, with the nearest known one.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise ValueError(f"configuration: unknown key '{key}'{nearest(key, known)}; known keys: {', '.join(known)}")
        return cls(**{k: tuple(v) if k == "labels" else v for k, v in values.items()})


def build(config, schema):
    """Returns the compiled model of a configuration."""
    model = keras_ctr.get_model(config.model, schema, **config.arguments)
    optimizer = keras.optimizers.get({"class_name": config.optimizer, "config": {"learning_rate": config.learning_rate}})
    model.compile(optimizer, "binary_crossentropy")
    return model


def run_schema(data, config):
    """Returns the part of a data set's schema that a configuration trains on."""
    schema = data.schema.select(labels=config.labels or None)
    return schema if config.sequences else schema.without_sequences()


def train(data, config, *, progress=None, description=None):
    """Trains a model with early stopping on the validation split.

    Returns:
        `(model, history, seconds)`: the model with its best weights, `{name: [value per epoch]}`, and the seconds of `fit`.

    Raises:
        ValueError: If the data set has no `train` or `validation` split, or on a bad configuration.
    """
    for split in ("train", "validation"):
        if split not in data.splits:
            raise ValueError(f"{data.path}: training needs a '{split}' split; there are: {', '.join(data.splits)}")
    keras.utils.set_random_seed(config.seed)
    schema = run_schema(data, config)
    model = build(config, schema)
    options = {"batch_size": config.batch_size, "features": schema.feature_names, "labels": schema.label_names}
    training = make_dataset(data, "train", shuffle=True, seed=config.seed, cache=True, **options)
    validation = make_dataset(data, "validation", cache=True, **{**options, "batch_size": 4 * config.batch_size})
    steps = -(-data.num_rows("train") // config.batch_size)
    base_rate = {label: data.label_rate("train")[label] for label in schema.label_names}
    mode = "min" if config.monitor.endswith(("loss", "ne", "ece")) else "max"
    callbacks = [
        RankingMetrics(validation, base_rate=base_rate),
        keras.callbacks.EarlyStopping(config.monitor, mode=mode, patience=config.patience, restore_best_weights=True),
    ]
    if progress is not None:
        text = description or config.model
        callbacks.append(TrainingProgress(progress, text, steps_per_epoch=steps, epochs=config.epochs, monitor=config.monitor))
    start = time.perf_counter()
    history = model.fit(training, epochs=config.epochs, callbacks=callbacks, shuffle=False, verbose=0)
    return model, {k: [float(v) for v in values] for k, values in history.history.items()}, time.perf_counter() - start


def score(model, dataset, *, progress=None, total=None, description="scoring"):
    """Returns `({label: (labels, probabilities)}, groups or None)` of a dataset in its order, each `(n,)`."""
    truth, scores, groups = {}, {}, []
    task = progress.add_task(description, total=total, note="rows") if progress is not None else None
    done = 0
    for x, y in dataset:
        for label, values in model.predict_on_batch(x).items():
            scores.setdefault(label, []).append(np.asarray(values)[:, 0])
            truth.setdefault(label, []).append(np.asarray(y[label])[:, 0])
        if META_GROUP in x:
            groups.append(np.asarray(x[META_GROUP]))
        done += len(next(iter(truth.values()))[-1])
        if task is not None:
            progress.update(task, completed=done)
    by_label = {label: (np.concatenate(truth[label]), np.concatenate(scores[label])) for label in scores}
    return by_label, np.concatenate(groups) if groups else None


def evaluate(model, data, split, *, batch_size=4096, progress=None):
    """Returns `{label: keras_ctr.metrics.evaluate(...)}` of a model on a split; NE is against the training split's rate."""
    names = {t.name for t in model.inputs}
    features = [n for n in data.schema.feature_names if n in names]
    dataset = make_dataset(data, split, batch_size=batch_size, features=features)
    by_label, groups = score(model, dataset, progress=progress, total=data.num_rows(split), description=f"evaluating on {split}")
    rates = data.label_rate("train") if "train" in data.splits else {}
    return {label: metrics.evaluate(y, p, groups=groups, base_rate=rates.get(label)) for label, (y, p) in by_label.items()}


def parameters(model):
    """Returns `(embedding, dense)`: trainable parameters in embedding tables and outside of them."""
    sizes = {v.path: int(np.prod(v.shape)) for v in model.trainable_variables}
    embedding = sum(size for path, size in sizes.items() if "embedding/" in path and path.rsplit("/", 1)[-1].startswith("table"))
    return embedding, sum(sizes.values()) - embedding


def save_run(path, model, data, config, history, results, *, overwrite=False):
    """Writes a run folder, whole or not at all.

    Raises:
        FileExistsError: If it is there and `overwrite` is False.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another folder or pass --overwrite")
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.incomplete-", dir=path.parent))
    try:
        run = staging / "run"
        run.mkdir()
        model.save(run / MODEL)
        schema = run_schema(data, config)
        schema.save(run / SCHEMA)
        save_vocabularies(run, {name: v for name, v in data.vocabularies.items() if name in schema.tables})
        documents = {
            CONFIG: {**dataclasses.asdict(config), "data": os.fspath(data.path), "keras_ctr": keras_ctr.__version__},
            HISTORY: history,
            METRICS: results,
        }
        for name, content in documents.items():
            (run / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        if path.exists():
            os.replace(path, staging / "replaced")  # deleted with the staging folder, after the new one is in place
        os.replace(run, path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return path


def load_run(path):
    """Returns `(model, schema, vocabularies, configuration dict)` of a run folder.

    Raises:
        FileNotFoundError: If the folder is no run, naming what is missing.
    """
    path = Path(path)
    for name in (CONFIG, MODEL, SCHEMA):
        if not (path / name).exists():
            raise FileNotFoundError(f"{path} is no run folder: {name} is missing; a run is made by 'keras-ctr train'")
    model = keras.saving.load_model(path / MODEL)
    return model, Schema.load(path / SCHEMA), load_vocabularies(path), json.loads((path / CONFIG).read_text(encoding="utf-8"))
