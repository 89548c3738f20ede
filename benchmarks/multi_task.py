"""Multi-task models on KuaiRand-Pure, `is_click`, `is_like` and `long_view` trained together: the public benchmark of INFNet's paper.

    python -m benchmarks.multi_task --raw DIR --out benchmarks/results/multi_task.json            everything
    python -m benchmarks.multi_task --arrays data.npz --out FILE --models INFNet MMoE             arrays of `benchmarks.arrays`, some rows

Single-task architectures share all but their last layer among the labels (a shared bottom). Every row has the same budget: two trials on
the validation day with one seed, learning rates of Adam, chosen by the mean AUC of the three labels; then three seeds of the best, scored
on the test days. Widths are the same for all (`SHARED`), everything else is the factories' default. Only 1.6 % of the rows have a like:
every label starts at its rate in the training split (`Label.rate`), and the loss of likes weighs five times as much, as was chosen on the
validation day (`benchmarks/rare_label_choices.json`). Training is one epoch, as in `benchmarks.sequences`.
"""

import argparse
import functools
import json
import sys
import time

import numpy as np

from benchmarks import sequences, zoo

LABELS = ["is_click", "is_like", "long_view"]
METRICS = ("auc", "gauc", "ne", "calibration")
SHARED = {"embedding_dim": 16, "hidden_units": (128, 64), "expert_units": (128, 64), "tower_units": (64,)}
TASK_WEIGHTS = {"is_click": 1.0, "is_like": 5.0, "long_view": 1.0}
TRAINING = {"labels": LABELS, "batch_size": 512, "epochs": 1, "patience": 0, "start_at_rates": True, "task_weights": TASK_WEIGHTS}
GRID = [{"learning_rate": rate} for rate in (1e-3, 3e-3)]
SHARED_BOTTOM = ("FM", "DNN", "DCNv2", "DeepFM", "AutoInt", "Wukong", "GDCN", "DIN", "BST", "HSTU", "InterFormer")
"""Rows of single-task architectures: those that INFNet's paper compares with, the plain network, and InterFormer."""
PLE_HEAD = {"layer": "ProgressiveLayeredExtraction", "arguments": {"expert_units": (128, 64)}}
MMOE_HEAD = {"layer": "MultiGateMixtureOfExperts", "arguments": {"expert_units": (128, 64)}}
VARIANTS = {
    "INFNet v1": ("INFNet", {"version": "v1"}, None),
    "RankMixer + PLE": ("RankMixer", {}, PLE_HEAD),
    "OneTrans + PLE": ("OneTrans", {}, PLE_HEAD),
    "DCNv2 + MMoE": ("DCNv2", {}, MMOE_HEAD),
    "DIN + PLE": ("DIN", {}, PLE_HEAD),
}
"""Rows beside the models' own: `(model, arguments, head)`."""


def cases(names=None):
    """Returns the cases of `benchmarks.selection`."""
    from keras_ctr import list_models

    rows = {name: (name, {}, None) for name in [*SHARED_BOTTOM, *list_models(multi_task=True)]} | VARIANTS
    out = []
    for name, (model, more, head) in rows.items():
        arguments = {**sequences.shared_arguments(model, SHARED), **more}
        case = {"name": name, "data": "KuaiRand", "model": model, "arguments": arguments, **TRAINING}
        out.append(json.loads(json.dumps(case if head is None else {**case, "head": head})))
    return [c for c in out if names is None or c["name"] in names]


def tables(document):
    """Returns `{"multi_task": markdown, "multi_task_is_click": markdown, ...}`: AUC of all labels, then every metric of each."""
    names = ["multi_task", *(f"multi_task_{label}" for label in LABELS)]
    if not document:
        return dict.fromkeys(names, "not measured\n")
    found = sequences.rows(document, LABELS, METRICS)
    titles = [*(f"AUC {label}" for label in LABELS), "validation AUC, mean", "parameters", "examples/s", "learning rate"]
    lines = [f"| model | {' | '.join(titles)} |", "| --- |" + " --: |" * len(titles)]
    for name, values, validation, mine in found:
        cells = [_cell(values[label, "auc"]) for label in LABELS] + [_cell(validation), f"{mine[0]['parameters']:,}"]
        cells += [f"{np.median([r['examples_per_second'] for r in mine]):,.0f}", f"{document['chosen'][name]['learning_rate']:g}"]
        lines.append(f"| {_shown(name)} | {' | '.join(cells)} |")
    out = {"multi_task": "\n".join(lines) + "\n"}
    for label in LABELS:
        lines = ["| model | AUC | gAUC | NE | predicted / observed |", "| --- | --: | --: | --: | --: |"]
        for name, values, _, _ in sorted(found, key=lambda row: -row[1][label, "auc"][0]):
            lines.append(f"| {_shown(name)} | {' | '.join(_cell(values[label, m]) for m in METRICS)} |")
        out[f"multi_task_{label}"] = "\n".join(lines) + "\n"
    return out


def _cell(value):
    return f"{value[0]:.4f} ± {value[1]:.4f}"


def _shown(name):
    return f"*{name}*" if name in SHARED_BOTTOM else name


def main():
    from benchmarks.selection import select

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    zoo.add_source(parser)
    parser.add_argument("--models", nargs="*", help="names of rows")
    zoo.add_runs(parser)
    arguments = parser.parse_args()
    start = time.perf_counter()
    with zoo.arrays_of(arguments) as path:
        loader = functools.partial(zoo.load, path)
        document = select(cases(arguments.models), loader, arguments.out, grid=GRID, seeds=arguments.seeds, jobs=arguments.jobs)
    for markdown in tables(document).values():
        sys.stdout.write(markdown + "\n")
    sys.stdout.write(f"{(time.perf_counter() - start) / 60:.0f} minutes\n")


if __name__ == "__main__":
    main()
