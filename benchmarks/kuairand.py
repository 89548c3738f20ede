"""The main job on KuaiRand: raw files -> prepared data -> trained models -> one table -> SavedModel -> scores through TensorFlow's C API.

    python -m benchmarks.kuairand --out demo_output --export                  the bundled extract
    python -m benchmarks.kuairand --raw DIR --seeds 3 --out runs/kuairand     the full files

Choices were made on the validation day; the test split is scored once per trained model. `results.json` in the output folder holds every
number of the table, `table.md` the table.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from benchmarks.recipes import MAX_LENGTH, RECIPES, recipe
from keras_ctr import metrics
from keras_ctr.cli import runs
from keras_ctr.cli.progress import progress_bars, row_progress
from keras_ctr.data import PreparedData, make_dataset, prepare
from keras_ctr.datasets import kuairand
from keras_ctr.schema import META_GROUP

LABEL = "is_click"
TREES = "GBDT"


def prepared_data(raw, out, progress, *, time_gaps=False):
    """Prepares the data set, on demand with the time gaps of events, unless the folder holds it already."""
    folder = out / "data"
    if not (folder / "manifest.json").exists():
        task = progress.add_task("reading the raw files", total=None, note="")
        tables = kuairand.load(raw, max_length=MAX_LENGTH, time_gaps=time_gaps)
        progress.update(task, total=1, completed=1)
        schema = kuairand.schema(max_length=MAX_LENGTH, time_gaps=time_gaps)
        prepare(tables, schema, folder, min_count=2, overwrite=True, progress=row_progress(progress))
    return PreparedData(folder)


def arrays(data, split):
    """Returns `(x, y, groups)` of a split as NumPy arrays."""
    columns, labels = {}, []
    for x, y in make_dataset(data, split, batch_size=8192):
        for name, values in x.items():
            columns.setdefault(name, []).append(np.asarray(values))
        labels.append(np.asarray(y[LABEL])[:, 0])
    columns = {name: np.concatenate(values) for name, values in columns.items()}
    return columns, np.concatenate(labels), columns[META_GROUP]


def tree_features(schema, columns, sequences):
    """Ids and numbers as they are; of each sequence its length and how often it holds the row's own target."""
    out = [columns[f.name].astype("float32") for f in (*schema.fields, *schema.numerics)]
    for seq in schema.sequences if sequences else ():
        events = columns[seq.name]
        out.append((events != 0).sum(axis=1).astype("float32"))
        if seq.target:
            out.append((events == columns[seq.target][:, None]).sum(axis=1).astype("float32"))
        elif schema.table_of(seq).vocabulary_size <= 16:
            out += [(events == value).sum(axis=1).astype("float32") for value in range(2, schema.table_of(seq).vocabulary_size)]
    return np.stack(out, axis=1)


def train_trees(data, sequences, seed):
    """The outside yardstick: scikit-learn's trees, with early stopping on the validation split."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    schema = data.schema
    sets = {split: arrays(data, split) for split in ("train", "validation", "test")}
    x = {split: tree_features(schema, s[0], sequences) for split, s in sets.items()}
    start = time.perf_counter()
    best, best_auc = None, -1.0
    for leaves in (15, 31):
        trees = HistGradientBoostingClassifier(
            learning_rate=0.05, max_iter=400, max_leaf_nodes=leaves, l2_regularization=1.0, early_stopping=True, random_state=seed
        )
        trees.fit(x["train"], sets["train"][1], X_val=x["validation"], y_val=sets["validation"][1])
        found = metrics.auc(sets["validation"][1], trees.predict_proba(x["validation"])[:, 1])
        if found > best_auc:
            best, best_auc = trees, found
    rate = data.label_rate("train")[LABEL]
    out = {"seconds": time.perf_counter() - start, "parameters": None}
    for split in ("validation", "test"):
        _, y, groups = sets[split]
        out[split] = metrics.evaluate(y, best.predict_proba(x[split])[:, 1], groups=groups, base_rate=rate)
    return out


def train_model(data, name, seed, progress, out):
    """Trains one row of the table; returns `(result, model, config)`."""
    config = runs.RunConfig.from_dict({**recipe(name), "labels": (LABEL,), "seed": seed})
    model, history, seconds = runs.train(data, config, progress=progress, description=f"{name:<12} seed {seed}")
    embedding, dense = runs.parameters(model)
    result = {"seconds": seconds, "epochs": len(history["loss"]), "parameters": {"embedding": embedding, "dense": dense}}
    for split in ("validation", "test"):
        result[split] = runs.evaluate(model, data, split)[LABEL]
    if out is not None:
        runs.save_run(out, model, data, config, history, result, overwrite=True)
    return result, model, config


def summarise(results):
    """Returns rows `(name, {metric: (mean, std)}, parameters, seconds)`, in the order of training."""
    rows = []
    for name in dict.fromkeys(r["name"] for r in results):
        mine = [r for r in results if r["name"] == name]
        values = {}
        for metric in ("auc", "gauc", "logloss", "ne"):
            numbers = [r["test"][metric] for r in mine]
            values[metric] = (float(np.mean(numbers)), float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None)
        rows.append((name, values, mine[0]["parameters"], float(np.mean([r["seconds"] for r in mine]))))
    return rows


def _number(value, spread):
    return f"{value:.4f}" if spread is None else f"{value:.4f} ± {spread:.4f}"


def cells(row):
    """Returns the texts of one row of the table."""
    name, values, parameters, seconds = row
    sizes = ("-", "-") if parameters is None else (f"{parameters['embedding']:,}", f"{parameters['dense']:,}")
    return [name, *(_number(*values[m]) for m in ("auc", "gauc", "logloss", "ne")), *sizes, f"{seconds:.0f}"]


HEADER = ["model", "AUC", "gAUC", "log loss", "NE", "embedding", "dense", "seconds"]


def markdown(rows):
    """Returns the table as Markdown."""
    lines = [" | ".join(HEADER), " | ".join(["---"] + ["--:"] * (len(HEADER) - 1))]
    return "\n".join(f"| {line} |" for line in lines + [" | ".join(cells(row)) for row in rows]) + "\n"


def raw_rows(raw, schema, count):
    """Raw features of test rows as columns of Python values, sequences padded to one length."""
    table = kuairand.load(raw, max_length=MAX_LENGTH)["test"].slice(0, count)
    columns = {}
    for name in schema.feature_names:
        values = table[name].to_pylist()
        kind = schema.raw_dtype(name)
        missing = {"string": "", "int64": -1, "float32": float("nan")}[kind]
        if schema.encoded_shape(name):
            values = [[missing if v is None else v for v in row or ()] for row in values]
            longest = max(1, max(map(len, values)))
            columns[name] = [row + [missing] * (longest - len(row)) for row in values]
        else:
            columns[name] = [missing if v is None else v for v in values]
    return columns


def export_and_score(raw, data, out, console, count=1000):
    """Exports the trained InterFormer and scores raw test rows in a process that imports neither Keras nor keras_ctr."""
    from keras_ctr.serving import export_model, runner

    model, schema, vocabularies, _ = runs.load_run(out / "InterFormer")
    export_model(model, schema, vocabularies, out / "served" / "1", overwrite=True)
    rows = raw_rows(raw, schema, count)
    (out / "rows.json").write_text(json.dumps(rows))
    command = [sys.executable, runner.__file__, str(out / "served" / "1"), "--signature", "serving_default"]
    subprocess.run([*command, "--input", str(out / "rows.json"), "--output", str(out / "scores.json")], check=True)
    scored = np.asarray(json.loads((out / "scores.json").read_text())[LABEL], dtype="float64").reshape(-1)
    test = make_dataset(data, "test", batch_size=count, features=schema.feature_names, labels=(LABEL,))
    predicted = model.predict(next(iter(test))[0], verbose=0)[LABEL][:, 0]
    difference = float(np.max(np.abs(scored - predicted[: len(scored)])))
    console.print(f"exported InterFormer to {out / 'served' / '1'}; {len(scored)} raw test rows through TensorFlow's C API:")
    console.print(f"largest difference from predict: {difference:.2e}")
    if not difference < 1e-6:
        raise SystemExit(f"the served model differs from predict by {difference:.2e}, more than 1e-6")
    return difference


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", help="folder with the KuaiRand-Pure files; the bundled extract if not given")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--models", nargs="*", default=[TREES, f"{TREES} + histories", *RECIPES])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--export", action="store_true", help="export InterFormer and score rows through the C API")
    parser.add_argument("--overwrite", action="store_true", help="train again what results.json in --out holds")
    arguments = parser.parse_args()
    out, console = arguments.out, Console(width=120)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "results.json"
    document = {"results": []} if arguments.overwrite or not path.exists() else json.loads(path.read_text())
    started = time.perf_counter()
    with progress_bars() as progress:
        data = prepared_data(arguments.raw, out, progress)
        done = {(r["name"], r["seed"]) for r in document["results"]}
        todo = [(n, s) for s in range(1, arguments.seeds + 1) for n in arguments.models if (n, s) not in done]
        overall = progress.add_task("all models", total=len(todo), note="runs")
        for name, seed in todo:
            if name.startswith(TREES):
                result = train_trees(data, "histories" in name, seed)
            else:
                result, _, _ = train_model(data, name, seed, progress, out / name if seed == 1 else None)
            document["results"].append({"name": name, "seed": seed, **result})
            document["data"] = {"rows": {s: data.num_rows(s) for s in data.splits}, "label_rate": data.label_rate("train")}
            document["recipes"] = {n: recipe(n) for n in RECIPES}
            document["versions"] = {"keras": keras.__version__, "tensorflow": tf.__version__, "python": platform.python_version()}
            path.write_text(json.dumps(document, indent=1) + "\n")
            progress.advance(overall)
    rows = summarise(document["results"])
    table = Table(*HEADER, title=f"KuaiRand {LABEL}, test split")
    for row in rows:
        table.add_row(*cells(row))
    console.print(table)
    (out / "table.md").write_text(markdown(rows))
    if arguments.export:
        document["largest_difference"] = export_and_score(arguments.raw, data, out, console)
        path.write_text(json.dumps(document, indent=1) + "\n")
    console.print(f"{time.perf_counter() - started:.0f} s of work")


if __name__ == "__main__":
    main()
