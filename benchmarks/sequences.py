"""The zoo of behaviour sequences on KuaiRand-Pure: every sequence model, field-only models beside them, one table.

    python -m benchmarks.sequences --raw DIR --out benchmarks/results/sequences.json            everything
    python -m benchmarks.sequences --arrays data.npz --out FILE --models DIN InterFormer        arrays of `benchmarks.arrays`, some models

Two labels, `is_click` and `long_view`, are trained together, one output each. Field-only models see a history as the mean of its events.
Every model has the same budget: two trials on the validation day with one seed, learning rates of Adam, chosen by the mean AUC of the
labels; then three seeds of the best, scored on the test days. Widths are the same for all (`SHARED`), everything else is the factories'
default. Training is one epoch: each of 31 models of `benchmarks.zoo` but LR and FM was best after the first and overfitted the ids
from there on; LR and FM go on until the validation AUC falls.

DIEN, DMIN and DMR train with their auxiliary losses, one sampled negative an event, unless a row says otherwise. Rows with time gaps (only
run where `--models` names them) see how long before the row each event was. TBSM and AdRecSequential have few of the fields
(`TOWER_FIELDS`).
"""

import argparse
import functools
import inspect
import json
import sys
import time

import numpy as np

from benchmarks import zoo

LABELS = ["is_click", "long_view"]
SHARED = {"embedding_dim": 16, "hidden_units": (128, 64)}
TRAINING = {"labels": LABELS, "batch_size": 512, "epochs": 1, "patience": 0}
GRID = [{"learning_rate": rate} for rate in (1e-3, 3e-3)]
TOWERS = ("TBSM", "AdRecSequential")
TOWER_FIELDS = ("user_id", "video_id", "author_id", "tag", "duration", "tab")
"""Fields of the models that repeat their tower at every event: with all 37 an epoch takes them ten times as long as any other."""
SLOW_LEARNERS = {"LR": (2e-3, 1e-2), "FM": (5e-4, 2e-3)}
"""Learning rates of the models that train for several epochs."""
SEQUENCES = tuple(f"{group}_{part}" for group in ("watched", "long_watched", "liked") for part in ("video_id", "author_id", "tag"))
"""Sequences of the towers' rows."""
POOLED = ("LR", "FM", "FmFM", "XDeepFM", "AutoInt", "DCNv2", "DOT", "DHEN", "Wukong", "DNN", "GDCN")
"""Field-only rows: those of InterFormer's Table 3, the plain network, and the best of `benchmarks.zoo`."""
GAP = "time_gap"
"""End of the names of the sequences that hold time gaps."""


def variants():
    """Returns `{row: (model, arguments, with time gaps)}` beside the models' own rows."""
    gaps = {"time_gap": f"watched_{GAP}"}
    return {
        "DIEN, no auxiliary loss": ("DIEN", {"auxiliary_weight": 0.0}, False),
        "DIN, time gaps": ("DIN", {}, True),
        "BST, time gaps": ("BST", {"positions": None}, True),
        "HSTU, time gaps": ("HSTU", gaps, True),
        "InterFormer, time gaps": ("InterFormer", {}, True),
    }


def shared_arguments(model, shared):
    """Returns those of the arguments `shared` that a factory takes; AutoInt without hidden units is the model of that name."""
    from keras_ctr import model_info

    known = inspect.signature(model_info(model).factory).parameters
    out = {k: v for k, v in shared.items() if k in known and not (model == "AutoInt" and k == "hidden_units")}
    if model == "HSTU":
        out["max_length"] = 51  # the longest history and the candidate
    return out


def cases(names=None):
    """Returns the cases of `benchmarks.selection`."""
    from keras_ctr import list_models

    rows = {name: (name, {}, False) for name in [*POOLED, *list_models(sequential=True)]} | variants()
    if names is None:
        names = [name for name, (*_, timed) in rows.items() if not timed]
    out = []
    for name, (model, more, timed) in rows.items():
        case = {"name": name, "data": "gaps" if timed else "plain", "model": model}
        case |= {"arguments": json.loads(json.dumps({**shared_arguments(model, SHARED), **more})), **TRAINING}
        if model in TOWERS:
            case |= {"features": [*TOWER_FIELDS, *SEQUENCES]}
        if name in SLOW_LEARNERS:
            case |= {"epochs": 8, "grid": [{"learning_rate": rate} for rate in SLOW_LEARNERS[name]]}
        out.append(case)
    return [c for c in out if c["name"] in names]


def load(path, data, seed):
    """Returns the arrays of a file, `(schema, label rates, splits)`, with sampled negatives in the training rows.

    Args:
        path: File of `benchmarks.arrays`.
        data: `"gaps"` for all features, `"plain"` for all but the time gaps.
        seed: Of the negatives.
    """
    from benchmarks.arrays import load_arrays
    from keras_ctr.data import negative_events

    schema, rates, splits = load_arrays(path)
    if data == "plain":
        schema = schema.select(features=[name for name in schema.feature_names if not name.endswith(GAP)])
    x, y = splits["train"]
    return schema, rates, {**splits, "train": ({**x, **negative_events(x, schema, None, seed=seed)}, y)}


def rows(document, labels=LABELS, metrics=("auc", "gauc", "logloss", "ne")):
    """Returns `[(name, {(label, metric): (mean, deviation)}, validation AUC, result)]`, best mean validation AUC first."""
    out = []
    for case in document.get("cases", ()):
        mine = [r for r in document["results"] if r["name"] == case["name"]]
        if mine:
            values = {(label, m): zoo.spread([r["test"][label][m] for r in mine]) for label in labels for m in metrics}
            validation = zoo.spread([np.mean([r["validation"][label]["auc"] for label in labels]) for r in mine])
            out.append((case["name"], values, validation, mine))
    return sorted(out, key=lambda row: -row[2][0])


def tables(document):
    """Returns `{"sequences_is_click": markdown, "sequences_long_view": markdown}`."""
    if not document:
        return {f"sequences_{label}": "not measured\n" for label in LABELS}
    out = {}
    for label in LABELS:
        lines = [
            "| model | AUC | gAUC | log loss | NE | validation AUC, both | parameters | examples/s | learning rate |",
            "| --- | --: | --: | --: | --: | --: | --: | --: | --: |",
        ]
        for name, values, validation, mine in rows(document):
            cells = [f"{values[label, m][0]:.4f} ± {values[label, m][1]:.4f}" for m in ("auc", "gauc", "logloss", "ne")]
            cells += [f"{validation[0]:.4f} ± {validation[1]:.4f}", f"{mine[0]['parameters']:,}"]
            cells += [f"{np.median([r['examples_per_second'] for r in mine]):,.0f}", f"{document['chosen'][name]['learning_rate']:g}"]
            shown = f"*{name}*" if name in POOLED else f"{name}, {len(TOWER_FIELDS)} fields" if name in TOWERS else name
            lines.append(f"| {shown} | {' | '.join(cells)} |")
        out[f"sequences_{label}"] = "\n".join(lines) + "\n"
    return out


def main():
    from benchmarks.selection import select

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    zoo.add_source(parser, ", of data prepared with time gaps")
    parser.add_argument("--models", nargs="*", help="names of rows")
    zoo.add_runs(parser)
    arguments = parser.parse_args()
    start = time.perf_counter()
    with zoo.arrays_of(arguments, time_gaps=True) as path:
        loader = functools.partial(load, path)
        document = select(cases(arguments.models), loader, arguments.out, grid=GRID, seeds=arguments.seeds, jobs=arguments.jobs)
    for table in tables(document).values():
        sys.stdout.write(table + "\n")
    sys.stdout.write(f"{(time.perf_counter() - start) / 60:.0f} minutes\n")


if __name__ == "__main__":
    main()
