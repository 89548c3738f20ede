"""Trains a list of configurations with several seeds on prepared arrays and writes validation and test metrics.

    python -m benchmarks.study --arrays data.npz --configs benchmarks/interformer_choices.json --seeds 3 --out results.json

`--arrays` is what `python -m benchmarks.arrays PREPARED_FOLDER data.npz` makes. A configuration is a dict with `name`, `model` and any
key of `DEFAULTS`. Any Keras backend will do; TensorFlow is not needed. Early stopping and every choice look at the validation split only;
the test split is scored once, with the weights that validation chose, and not at all with `--validation-only`. Results are written after
every run, and a run whose result is in the output already is not repeated.
"""

import argparse
import dataclasses
import json
import os
import platform
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_ctr
from benchmarks.arrays import load_arrays
from keras_ctr import metrics, optimizers
from keras_ctr.callbacks import RankingMetrics
from keras_ctr.pruning import prune_zero_rows
from keras_ctr.schema import META_GROUP

DEFAULTS = {
    "arguments": {},
    "sequences": True,
    "labels": None,
    "features": None,
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "optimizer": "adam",
    "optimizer_arguments": {},
    "prune": False,
    "batch_size": 1024,
    "epochs": 20,
    "patience": 2,
    "dtype": "float32",
    "momentum": None,  # of every batch normalisation, Dice's too; None = the model's
    "head": None,  # of `models.with_task_heads`: a layer of `keras_ctr.layers`, as {"layer": name, "arguments": {...}}
    "start_at_rates": False,  # whether each label starts at its rate in the training split
    "task_weights": None,  # "uncertainty", or {label: weight of its loss}
    "positive_weights": {},  # {label: weight of its ones}; what is scored has the logits corrected for it
}


EVALUATION_BATCH = 2048
"""Attention maps of long histories take gigabytes in larger ones."""


def optimizer_of(config):
    """Returns Keras' Adam, or the recipe or class of `keras_ctr.optimizers` that a configuration names."""
    if config["optimizer"] == "adam":
        return keras.optimizers.Adam(config["learning_rate"], weight_decay=config["weight_decay"] or None)
    rate = {"learning_rate": config["learning_rate"]} if config["learning_rate"] is not None else {}
    return getattr(optimizers, config["optimizer"])(**rate, **config["optimizer_arguments"])


def build(config, schema, rates):
    """Returns the compiled model of a configuration that has all keys."""
    if config["start_at_rates"]:
        schema = schema.replace(labels=tuple(dataclasses.replace(label, rate=rates[label.name]) for label in schema.labels))
    model = keras_ctr.get_model(config["model"], schema, **config["arguments"])
    if config["head"]:
        head = getattr(keras_ctr.layers, config["head"]["layer"])(len(schema.labels), **config["head"].get("arguments", {}))
        model = keras_ctr.models.with_task_heads(model, schema, head)
    for layer in model._flatten_layers() if config["momentum"] is not None else ():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = config["momentum"]
    loss, weights = "binary_crossentropy", config["task_weights"]
    if weights == "uncertainty":
        model = keras_ctr.models.with_uncertainty_weights(model)
        loss, weights = keras_ctr.losses.uncertainty_weighted(model), None
    elif weights:
        loss = dict.fromkeys(weights, loss)  # Keras takes one loss for all outputs, but not with a weight each
    model.compile(optimizer_of(config), loss, loss_weights=weights)
    return model


def zero_rows(model):
    """Returns the share of the tables' rows, padding and never-seen ids included, that are zero in every element."""
    tables = [keras.ops.convert_to_numpy(v) for v in model.variables if getattr(v, "row_sparse", False)]
    return float(sum((~t.any(axis=1)).sum() for t in tables) / sum(len(t) for t in tables))


class StepClock(keras.callbacks.Callback):
    """Times training steps, the first of each epoch and what callbacks do between epochs left out."""

    def __init__(self):
        super().__init__()
        self.spans, self.first, self.last = [], 0.0, 0.0

    def on_train_batch_end(self, batch, logs=None):
        self.last = time.perf_counter()
        if batch == 0:
            self.first = self.last

    def on_epoch_end(self, epoch, logs=None):
        self.spans.append((self.last - self.first, self.params["steps"] - 1))

    def seconds_per_step(self):
        """Returns the mean over all steps that were timed, infinity if there were none."""
        seconds, steps = map(sum, zip(*self.spans, strict=True))
        return seconds / steps if steps else float("inf")


def train(config, seed, schema, rates, splits):
    """Trains one configuration, which has all keys, with one seed.

    Returns:
        `(model, data, history, figures)`: the model with its best weights; `{split: (x, y)}` of what it reads; Keras' history; `{"seconds",
        "examples_per_second"}`.
    """
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(config["dtype"])
    schema = schema.select(features=config["features"], labels=config["labels"])
    schema = schema if config["sequences"] else schema.without_sequences()
    model = build(config, schema, rates)
    keys = (*schema.feature_names, *model.optional_inputs, META_GROUP)
    data = {s: ({k: x[k] for k in keys if k in x}, {label: y[label] for label in schema.label_names}) for s, (x, y) in splits.items()}
    base_rate = {label: rates[label] for label in schema.label_names}
    callbacks = [
        RankingMetrics(data["validation"], base_rate=base_rate, batch_size=EVALUATION_BATCH),
        keras.callbacks.EarlyStopping("val_auc", mode="max", patience=config["patience"], restore_best_weights=True),
    ]
    callbacks.append(clock := StepClock())
    start = time.perf_counter()
    features = {k: v for k, v in data["train"][0].items() if k != META_GROUP}
    options = {"batch_size": config["batch_size"], "epochs": config["epochs"], "callbacks": callbacks, "verbose": 0}
    positive = config["positive_weights"]
    if positive:
        options["sample_weight"] = {label: np.where(y == 1, positive.get(label, 1.0), 1.0) for label, y in data["train"][1].items()}
    history = model.fit(features, data["train"][1], **options).history
    if positive:
        model = keras_ctr.models.with_offsets(model, {label: -float(np.log(weight)) for label, weight in positive.items()})
    figures = {"seconds": round(time.perf_counter() - start, 2)}
    figures["examples_per_second"] = round(config["batch_size"] / clock.seconds_per_step(), 1)
    return model, data, history, figures


def run(config, seed, schema, rates, splits, evaluate=("validation", "test")):
    """Trains one configuration with one seed; returns a JSON-ready dict."""
    config = {**DEFAULTS, **config}
    model, data, history, figures = train(config, seed, schema, rates, splits)
    out = {"name": config["name"], "seed": seed, **figures, "epochs": len(history["loss"])}
    out["best_epoch"] = int(np.argmax(history["val_auc"])) + 1
    out["val_auc"] = [round(float(v), 5) for v in history["val_auc"]]
    out["parameters"] = int(model.count_params())
    out["zero_rows"] = round(zero_rows(model), 5)
    for split in evaluate:
        x, y = data[split]
        predicted = predict(model, x)
        out[split] = {
            label: metrics.evaluate(y[label], p, groups=x.get(META_GROUP), base_rate=rates[label]) for label, p in predicted.items()
        }
    if config["prune"]:  # what taking the zero rows out saves, and changes, on the last split
        pruned, tables = prune_zero_rows(model)
        again = predict(pruned, x)
        out["pruned"] = {path: dataclasses.asdict(table) for path, table in tables.items()}
        out["pruned"]["largest_difference"] = max(float(np.abs(again[label] - predicted[label]).max()) for label in predicted)
    return out


def predict(model, x, batch_size=EVALUATION_BATCH):
    """Returns `{label: (n, 1)}` for arrays of n rows."""
    parts = {}
    for begin in range(0, len(next(iter(x.values()))), batch_size):
        for label, p in model.predict_on_batch({k: v[begin : begin + batch_size] for k, v in x.items()}).items():
            parts.setdefault(label, []).append(np.asarray(p))
    return {label: np.concatenate(values) for label, values in parts.items()}


def summary(results, split, label):
    """Returns `{name: {metric: (mean, standard deviation)}}` over the seeds of each configuration."""
    table = {}
    for name in dict.fromkeys(r["name"] for r in results):
        rows = [r[split][label] for r in results if r["name"] == name and split in r]
        table[name] = {
            m: (float(np.mean([r[m] for r in rows])), float(np.std([r[m] for r in rows], ddof=1)) if len(rows) > 1 else float("nan"))
            for m in ("auc", "gauc", "logloss", "ne")
        }
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arrays", required=True)
    parser.add_argument("--configs", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", required=True)
    parser.add_argument("--minutes", type=float, default=1e9, help="start no further run after this time")
    parser.add_argument("--validation-only", action="store_true", help="leave the test split alone, as a choice must")
    parser.add_argument("--only", nargs="*", help="names of configurations to run")
    arguments = parser.parse_args()
    schema, rates, splits = load_arrays(arguments.arrays)
    configs = json.loads(Path(arguments.configs).read_text())
    if arguments.only:
        configs = [c for c in configs if c["name"] in arguments.only]
    out = Path(arguments.out)
    document = json.loads(out.read_text()) if out.exists() else {"results": []}
    document["configs"] = configs
    document["versions"] = {"keras": keras.__version__, "backend": keras.backend.backend(), "python": platform.python_version()}
    done = {(r["name"], r["seed"]) for r in document["results"]}
    todo = [(c, seed) for seed in range(1, arguments.seeds + 1) for c in configs if (c["name"], seed) not in done]
    start = time.perf_counter()
    for index, (config, seed) in enumerate(todo):
        elapsed = time.perf_counter() - start
        if elapsed > 60 * arguments.minutes:
            print(f"stopping: {len(todo) - index} runs left", flush=True)
            break
        splits_to_score = ("validation",) if arguments.validation_only else ("validation", "test")
        result = run(config, seed, schema, rates, splits, splits_to_score)
        document["results"].append(result)
        out.write_text(json.dumps(document, indent=1) + "\n")
        first = schema.label_names[0]
        left = (time.perf_counter() - start) / (index + 1) * (len(todo) - index - 1)
        shown = {s: {k: round(v["auc"], 4) for k, v in result[s].items()} for s in splits_to_score}
        gauc = round(result["validation"].get(first, next(iter(result["validation"].values())))["gauc"], 4)
        print(
            f"[{index + 1}/{len(todo)}] {config['name']} seed {seed}: {shown} gauc {gauc} best epoch {result['best_epoch']} "
            f"{result['val_auc']} zero rows {result['zero_rows']:.3f} {result['seconds']} s, left {left / 60:.1f} min",
            flush=True,
        )
    for label in schema.label_names:
        rows = [r for r in document["results"] if label in r["validation"]]
        for split in ("validation", "test"):
            if not any(split in r for r in rows):
                continue
            for name, values in sorted(summary(rows, split, label).items(), key=lambda item: -item[1]["auc"][0]):
                print(f"{split:<11}{label:<10}{name:<34}" + "  ".join(f"{m} {v[0]:.4f}±{v[1]:.4f}" for m, v in values.items()))


if __name__ == "__main__":
    main()
