"""Does InterFormer want more data than others? Sequence and field-only models on shares of KuaiRand-Pure's training rows.

    python -m benchmarks.data_shares --raw DIR --out benchmarks/results/data_shares.json

Models, budget, labels and training are those of `benchmarks.sequences`, two learning rates tried and three seeds of the better one for
every share; a share is a random sample of the training rows, another for every seed. Histories keep all their events, and the validation
and test days all their rows. The results on all rows are those of `benchmarks.sequences`.
"""

import argparse
import functools
import sys
import time

import numpy as np

from benchmarks import sequences, zoo
from benchmarks.comparison import signed, text, verdict

MODELS = ("InterFormer", "DIN", "DCNv2", "DNN")
SHARES = (0.125, 0.25, 0.5)
LABELS = sequences.LABELS


def cases():
    """Returns the cases of `benchmarks.selection`."""
    return [{**case, "name": name_of(case["name"], share), "data": share} for share in SHARES for case in sequences.cases(MODELS)]


def name_of(model, share):
    """Returns the name of a case."""
    return f"{model}, {share:.1%}"


def load(path, share, seed):
    """Returns what `benchmarks.sequences.load` does, with a share of the training rows, in their order."""
    schema, rates, splits = sequences.load(path, "plain", seed)
    x, y = splits["train"]
    count = len(y[LABELS[0]])
    kept = np.sort(np.random.default_rng(seed).choice(count, round(share * count), replace=False))
    x, y = ({name: values[kept] for name, values in part.items()} for part in (x, y))
    return schema, rates, {**splits, "train": (x, y)}


def aucs(document, name, split="validation"):
    """Returns `{seed: AUC}`, the mean of the labels."""
    found = sorted((r for r in document["results"] if r["name"] == name), key=lambda r: r["seed"])
    return {r["seed"]: float(np.mean([r[split][label]["auc"] for label in LABELS])) for r in found}


def table(document, whole, split="validation"):
    """Returns the markdown table: mean AUC of the labels by share, and what InterFormer has over the others, paired by seed.

    Args:
        document: Results of this study.
        whole: Results of `benchmarks.sequences`, the last column.
        split: Split that is shown.
    """
    if not document:
        return "not measured\n"
    found = {model: [aucs(document, name_of(model, share), split) for share in SHARES] for model in MODELS}
    for model in MODELS:
        found[model].append(aucs(whole, model, split) if whole else {})
    lines = [f"| {split} AUC, mean of the labels | {' | '.join(f'{share:.1%}' for share in SHARES)} | all rows |", "| --- |" + " --: |" * 4]
    for model, line in found.items():
        lines.append(f"| {model} | {' | '.join(text(list(values.values())) if values else '' for values in line)} |")
    for other in MODELS[1:]:
        pairs = [[a[s] - b[s] for s in a if s in b] for a, b in zip(found["InterFormer"], found[other], strict=True)]
        lines.append(f"| InterFormer over {other} | {' | '.join(signed(pair) if pair else '' for pair in pairs)} |")
    return "\n".join(lines) + "\n"


def verdicts(document):
    """Yields for every share whether InterFormer is ahead of each other model on validation."""
    for share in SHARES:
        mine = aucs(document, name_of("InterFormer", share))
        for other in MODELS[1:]:
            theirs = aucs(document, name_of(other, share))
            found = [mine[seed] - theirs[seed] for seed in mine if seed in theirs]
            yield f"{share:.1%}, InterFormer ahead of {other}: {verdict(found)} ({signed(found) if found else 'no seeds'})"


def main():
    from benchmarks.selection import select

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    zoo.add_source(parser, ", of data prepared with time gaps")
    zoo.add_runs(parser)
    arguments = parser.parse_args()
    start = time.perf_counter()
    with zoo.arrays_of(arguments, time_gaps=True) as path:
        loader = functools.partial(load, path)
        document = select(cases(), loader, arguments.out, grid=sequences.GRID, seeds=arguments.seeds, jobs=arguments.jobs)
    sys.stdout.write(table(document, None) + "\n".join(verdicts(document)) + "\n")
    sys.stdout.write(f"{(time.perf_counter() - start) / 60:.0f} minutes\n")


if __name__ == "__main__":
    main()
