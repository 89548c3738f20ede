"""The zoo on KuaiRand-Pure, `is_click`: every non-sequential model on all fields and mean-pooled histories, one table.

    python -m benchmarks.zoo --raw DIR --out benchmarks/results/zoo.json            everything; under two hours on two cores
    python -m benchmarks.zoo --arrays data.npz --out FILE --models LR FM DNN        arrays of `benchmarks.arrays`, some models

CAN, which pairs the candidate with single events of the histories, and INFNet with its one label are in the table too.

Every model gets the same budget: three trials on the validation day with one seed (learning rates of Adam; xDeepInt and DynInt one of
these and two of their papers' composite optimizer), then three seeds of the best, scored on the test days. Widths are the same for all
(`SHARED`), everything else is the factories' default. Training stops at the first epoch that does not raise the validation AUC.
"""

import argparse
import contextlib
import functools
import inspect
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

LABEL = "is_click"
SHARED = {"embedding_dim": 16, "hidden_units": (128, 64)}
TRAINING = {"labels": [LABEL], "batch_size": 1024, "epochs": 4, "patience": 0}
GRID = [{"learning_rate": rate} for rate in (5e-4, 2e-3, 5e-3)]
LINEAR = [{"learning_rate": rate} for rate in (2e-3, 1e-2, 3e-2)]
COMPOSITE = [
    GRID[1],
    *({"learning_rate": r, "optimizer": "dynint", "optimizer_arguments": {"dense_learning_rate": r}} for r in (0.01, 0.02)),
]
VARIANTS = {
    **{f"DynInt-{v.upper()}": ("DynInt", {"variant": v}) for v in ("da", "dgp", "dwp")},
    "AutoInt+": ("AutoInt", {"hidden_units": SHARED["hidden_units"]}),
}
"""Rows of the table beside the registered models; a name takes the place of its model's own row where that is DynInt's."""


def cases(names=None):
    """Returns the cases of `benchmarks.selection`."""
    from keras_ctr import list_models, model_info

    rows = {name: (name, {}) for name in [*list_models(sequential=False, multi_task=False), "CAN", "INFNet"] if name != "DynInt"} | VARIANTS
    out = []
    for name, (model, more) in rows.items():
        known = inspect.signature(model_info(model).factory).parameters
        shared = {k: v for k, v in SHARED.items() if k in known and not (model == "AutoInt" and k == "hidden_units")}
        grid = COMPOSITE if model in ("XDeepInt", "DynInt") else LINEAR if model == "LR" else None
        case = {"name": name, "data": "KuaiRand", "model": model, "arguments": json.loads(json.dumps({**shared, **more})), **TRAINING}
        out.append(case if grid is None else {**case, "grid": grid})
    return [c for c in out if names is None or c["name"] in names]


def load(path, data, seed):
    """Returns the arrays of a file: `(schema, label rates, splits)`."""
    from benchmarks.arrays import load_arrays

    return load_arrays(path)


def rows(document):
    """Returns `[(name, {metric: (mean, deviation)}, {split: AUC}, parameters, seconds, configuration)]`, best test AUC first."""
    out = []
    for case in document["cases"]:
        mine = [r for r in document["results"] if r["name"] == case["name"]]
        if not mine:
            continue
        values = {m: spread([r["test"][LABEL][m] for r in mine]) for m in ("auc", "gauc", "logloss", "ne")}
        validation = spread([r["validation"][LABEL]["auc"] for r in mine])
        seconds = float(np.mean([r["seconds"] for r in mine]))
        out.append((case["name"], values, validation, mine[0]["parameters"], seconds, document["chosen"][case["name"]]))
    return sorted(out, key=lambda row: -row[1]["auc"][0])


def spread(values):
    """Returns mean and standard deviation."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def table(document):
    """Returns the markdown table of a document of results."""
    if not document:
        return "not measured\n"
    lines = [
        "| model | AUC | gAUC | log loss | NE | validation AUC | parameters | learning rate |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for name, values, validation, parameters, _, chosen in rows(document):
        cells = [f"{values[m][0]:.4f} ± {values[m][1]:.4f}" for m in ("auc", "gauc", "logloss", "ne")]
        cells += [f"{validation[0]:.4f} ± {validation[1]:.4f}", f"{parameters:,}"]
        rate = f"{chosen['learning_rate']:g}" + (", composite" if chosen.get("optimizer") == "dynint" else "")
        lines.append(f"| {name} | {' | '.join(cells)} | {rate} |")
    return "\n".join(lines) + "\n"


def main():
    from benchmarks.selection import select

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_source(parser)
    parser.add_argument("--models", nargs="*", help="names of rows")
    add_runs(parser)
    arguments = parser.parse_args()
    start = time.perf_counter()
    with arrays_of(arguments) as path:
        loader = functools.partial(load, path)
        document = select(cases(arguments.models), loader, arguments.out, grid=GRID, seeds=arguments.seeds, jobs=arguments.jobs)
    sys.stdout.write(table(document) + f"{(time.perf_counter() - start) / 60:.0f} minutes\n")
    worst = rows(document)[-1][0]
    if any(name == "LR" for name, *_ in rows(document)) and worst != "LR":
        sys.stdout.write(f"{worst} is below LR: look for the reason before you report it\n")


def add_source(parser, of=""):
    """Adds the two ways to name the data, of which one must be given; `of` says more of the arrays."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--raw", help="folder with the KuaiRand-Pure files")
    source.add_argument("--arrays", help=f"file of `python -m benchmarks.arrays`{of}")


def add_runs(parser):
    """Adds what every study of `benchmarks.selection` takes."""
    parser.add_argument("--out", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)


@contextlib.contextmanager
def arrays_of(arguments, *, time_gaps=False):
    """Gives the path of the arrays that the arguments name; those of raw files are gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield str(arguments.arrays or prepared(arguments.raw, Path(folder), time_gaps=time_gaps))


def prepared(raw, folder, *, time_gaps=False):
    """Prepares the raw files; returns the path of the arrays."""
    from benchmarks.arrays import save_arrays
    from benchmarks.kuairand import prepared_data
    from keras_ctr.cli.progress import progress_bars

    with progress_bars() as progress:
        save_arrays(prepared_data(raw, folder, progress, time_gaps=time_gaps), folder / "arrays.npz")
    return folder / "arrays.npz"


if __name__ == "__main__":
    main()
