"""Run folders: one training with its configuration, model, schema, vocabularies and metrics, whole or not there."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_ctr
import keras_ctr.models  # registers the layers that a saved model holds
from keras_ctr import distribution, metrics, optimizers, tables
from keras_ctr.callbacks import RankingMetrics
from keras_ctr.cli.progress import TrainingProgress
from keras_ctr.data import load_vocabularies, make_dataset, save_vocabularies
from keras_ctr.schema import META_GROUP, Schema, nearest, negatives_of

CONFIG, MODEL, METRICS, HISTORY, SCHEMA = "config.json", "model.keras", "metrics.json", "history.json", "schema.json"


@dataclass(frozen=True)
class RunConfig:
    """What a training needs to be repeated.

    Attributes:
        model: Name of a registered factory.
        arguments: Its keyword arguments.
        labels: Labels to train on; empty for all of the data set's.
        sequences: Whether the model sees the behaviour sequences.
        optimizer: A recipe (`"default"`, `"dynint"`, `"wide_deep"`) or class of `keras_ctr.optimizers`, or a Keras optimizer, by name.
        learning_rate: Its learning rate, None for its own default.
        optimizer_arguments: Its other arguments.
        dtype: Keras dtype policy: `"float32"`, or `"mixed_bfloat16"` on processors and GPUs that have it.
        strategy: `"none"`, or `"mirrored"` for all GPUs of the machine (`keras_ctr.distribution`).
        devices: Devices of the strategy, 0 for all; without GPUs the processor is split into so many.
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
    optimizer: str = "default"
    learning_rate: float | None = 1e-3
    optimizer_arguments: dict = field(default_factory=dict)
    dtype: str = "float32"
    strategy: str = "none"
    devices: int = 0
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


def optimizer_of(config):
    """Returns the optimizer of a configuration.

    Raises:
        ValueError: On an unknown name, with the nearest known one, or on arguments that it does not take.
    """
    known = {name.lower(): name for name in optimizers.__all__ if callable(getattr(optimizers, name)) and name != "RowSparseOptimizer"}
    kera = {name.lower(): name for name in dir(keras.optimizers) if isinstance(getattr(keras.optimizers, name), type)}
    name = config.optimizer.lower()
    arguments = {"learning_rate": config.learning_rate} if config.learning_rate is not None else {}
    if name == "wide_deep" and arguments:  # the one recipe with two rates and no common one
        arguments = {"deep_learning_rate": config.learning_rate}
    # A name that both have ("adagrad") is Keras' in lower case, as everywhere in Keras, and ours as it is written here.
    if config.optimizer in known.values() or (name in known and name not in kera):
        make = getattr(optimizers, known[name])
    elif name in kera:
        make = getattr(keras.optimizers, kera[name])
    else:
        choices = sorted({*known.values(), *kera.values()})
        raise ValueError(f"no optimizer '{config.optimizer}'{nearest(config.optimizer, choices)}; optimizers: {', '.join(choices)}")
    try:
        return make(**{**arguments, **config.optimizer_arguments})
    except (TypeError, ValueError) as error:
        raise ValueError(f"optimizer '{config.optimizer}': {error}") from error


def strategy_of(config):
    """Returns the `tf.distribute.Strategy` of a configuration, or None.

    Raises:
        ValueError: On an unknown strategy, or fewer devices than asked for.
    """
    if config.strategy == "none":
        return None
    if config.strategy != "mirrored":
        raise ValueError(f"strategy must be 'none' or 'mirrored', got '{config.strategy}'")
    if config.devices and not tf.config.list_physical_devices("GPU"):
        distribution.logical_cpus(config.devices)
    return distribution.mirrored(config.devices or None)


def build(config, schema):
    """Returns the compiled model of a configuration."""
    keras.config.set_dtype_policy(config.dtype)
    model = keras_ctr.get_model(config.model, schema, **config.arguments)
    model.compile(optimizer_of(config), "binary_crossentropy")
    return model


def run_schema(data, config):
    """Returns the part of a data set's schema that a configuration trains on."""
    schema = data.schema.select(labels=config.labels or None)
    return schema if config.sequences else schema.without_sequences()


def train(data, config, *, model=None, progress=None, description=None, read=None):
    """Trains a model with early stopping on the validation split.

    Args:
        data: `PreparedData` with the splits `train` and `validation`.
        config: `RunConfig`.
        model: A compiled model that goes on, with its optimizer's state (`load_to_go_on`); None builds one.
        progress, description: Progress bars, and the text before the bar.
        read: What reads the splits in the place of `make_dataset`, such as a reader that keeps parsed columns for further trainings.

    Returns:
        `(model, history, seconds)`: the model with its best weights, `{name: [value per epoch]}`, and the seconds of `fit`.

    Raises:
        ValueError: If the data set has no `train` or `validation` split, or on a bad configuration.
    """
    for split in ("train", "validation"):
        if split not in data.splits:
            raise ValueError(f"{data.path}: training needs a '{split}' split; there are: {', '.join(data.splits)}")
    read = make_dataset if read is None else read
    keras.utils.set_random_seed(config.seed)
    schema = run_schema(data, config)
    strategy = strategy_of(config)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = build(config, schema) if model is None else model
    options = {"batch_size": config.batch_size, "features": schema.feature_names, "labels": schema.label_names}
    # Only training draws negatives: the model's inputs for them are optional, and evaluation and prediction leave them out.
    optional = getattr(model, "optional_inputs", ())
    negatives = [s.name for s in schema.sequences if negatives_of(s.name) in optional]
    training = read(data, "train", shuffle=True, seed=config.seed, cache=True, negatives=negatives, **options)
    if strategy:
        replicas = strategy.num_replicas_in_sync
        if config.batch_size % replicas:
            raise ValueError(f"batch size {config.batch_size} does not divide among {replicas} devices; choose a multiple")
        training = distribution.equal_batches(training, strategy)
    validation = read(data, "validation", cache=True, **{**options, "batch_size": 4 * config.batch_size})
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
    """Returns `{label: (labels, probabilities, groups or None)}`, each `(n,)`, of a dataset's rows whose outcome is known, in order."""
    truth, scores, known, groups = {}, {}, {}, []
    task = progress.add_task(description, total=total, note="rows") if progress is not None else None
    done = 0
    for x, y, *weights in dataset:
        for label, values in model.predict_on_batch(x).items():
            truth.setdefault(label, []).append(np.asarray(y[label])[:, 0])
            known.setdefault(label, []).append(np.asarray(weights[0][label])[:, 0] > 0 if weights else np.ones(len(y[label]), bool))
            # Under a strategy each replica scores the whole batch, and Keras joins the equal outcomes.
            scores.setdefault(label, []).append(np.asarray(values)[: len(truth[label][-1]), 0])
        if META_GROUP in x:
            groups.append(np.asarray(x[META_GROUP]))
        done += len(next(iter(truth.values()))[-1])
        if task is not None:
            progress.update(task, completed=done)
    groups = np.concatenate(groups) if groups else None
    kept = {label: np.concatenate(masks) for label, masks in known.items()}
    return {
        label: (np.concatenate(truth[label])[keep], np.concatenate(scores[label])[keep], None if groups is None else groups[keep])
        for label, keep in kept.items()
    }


def evaluate(model, data, split, *, batch_size=4096, progress=None):
    """Returns `{label: keras_ctr.metrics.evaluate(...)}` of a model on a split; NE is against the training split's rate."""
    names = {t.name for t in model.inputs}
    features = [n for n in data.schema.feature_names if n in names]
    dataset = make_dataset(data, split, batch_size=batch_size, features=features)
    by_label = score(model, dataset, progress=progress, total=data.num_rows(split), description=f"evaluating on {split}")
    rates = data.label_rate("train") if "train" in data.splits else {}
    found = {}
    for label, (y, p, groups) in by_label.items():
        if not len(y):
            raise ValueError(f"{data.path}: label '{label}' is unknown in all rows of split '{split}': nothing to compare with")
        found[label] = metrics.evaluate(y, p, groups=groups, base_rate=rates.get(label))
    return found


def parameters(model):
    """Returns `(embedding, dense)`: trainable parameters in embedding tables and outside of them."""
    sizes = {v.path: int(np.prod(v.shape)) for v in model.trainable_variables}
    embedding = sum(
        size for path, size in sizes.items() if re.search(r"embedding(_\w+)?/", path) and path.rsplit("/", 1)[-1].startswith("table")
    )
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


def config_of(document):
    """Returns the `RunConfig` in a run's config.json, which also says where the run came from."""
    known = {f.name for f in dataclasses.fields(RunConfig)}
    return RunConfig.from_dict({key: value for key, value in document.items() if key in known})


def load_to_go_on(path, data, **changes):
    """Returns `(model with its optimizer's state, RunConfig)` of a run whose training goes on with a data set.

    Args:
        path: The run folder.
        data: `PreparedData` of the run's schema and vocabularies.
        **changes: Fields of the configuration that are to be others; `learning_rate` is set in the optimizer.

    Raises:
        ValueError: If schema or vocabularies are not the run's, naming the table; if the learning rate cannot be set.
    """
    document = _documents(path)
    config = dataclasses.replace(config_of(document), **changes)
    strategy = strategy_of(config)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model, schema, vocabularies, _ = load_run(path)
    if model.optimizer is None:
        raise ValueError(f"{path} holds a model that was not compiled: its training cannot go on")
    tables.check_schemas(schema, run_schema(data, config))
    for name, table in schema.tables.items():
        same = data.schema.tables[name].vocabulary_size == table.vocabulary_size
        if not same or vocabularies.get(name) != data.vocabularies.get(name):
            advice = f"carry the run over with 'keras-ctr adapt {path} {data.path} --out ...' and go on from there"
            raise ValueError(f"table '{name}' of {data.path} has another vocabulary than {path}: {advice}")
    if "learning_rate" in changes:
        if isinstance(model.optimizer, keras.optimizers.MultiOptimizer):
            raise ValueError("--learning-rate does not go with --from: the run has an optimizer of several parts")
        model.optimizer.learning_rate = config.learning_rate
    return model, config


def _documents(path):
    """Returns the configuration document of a run folder.

    Raises:
        FileNotFoundError: If the folder is no run, naming what is missing.
    """
    path = Path(path)
    for name in (CONFIG, MODEL, SCHEMA):
        if not (path / name).exists():
            raise FileNotFoundError(f"{path} is no run folder: {name} is missing; a run is made by 'keras-ctr train'")
    return json.loads((path / CONFIG).read_text(encoding="utf-8"))


def load_run(path):
    """Returns `(model, schema, vocabularies, configuration dict)` of a run folder.

    Raises:
        FileNotFoundError: If the folder is no run, naming what is missing.
    """
    path, document = Path(path), _documents(path)
    model = keras.saving.load_model(path / MODEL)
    return model, Schema.load(path / SCHEMA), load_vocabularies(path), document
