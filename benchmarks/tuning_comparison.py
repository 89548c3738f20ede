"""Tuned models against their defaults on KuaiRand-Pure, `is_click`: 15 trials each, the winners and the defaults trained with three seeds.

    python -m benchmarks.tuning_comparison --raw DIR --work FOLDER --out benchmarks/results/tuning_comparison.json

`--work` keeps the prepared data and the searches; a run that was cut off goes on there. Every model draws its own space of `tuning.spaces`
and the rate of Adam, or the rates and penalties of DynInt's composite; embeddings are 16 wide, batches have 512 rows and a training is one
epoch, as in `benchmarks.sequences`. The search and the order of the table see the validation day alone.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from tuning.compare import compare, text
from tuning.files import write_json
from tuning.trials import read_records

LABEL = "is_click"
MODELS = ("DynInt-DGP", "DynInt-DWP", "InterFormer", "INFNet", "DCNv2", "DIN")
TRIALS = 15
FIXED = {"labels": [LABEL], "epochs": 1, "patience": 0, "batch_size": 512, "arguments": {"embedding_dim": 16}}
OPTIMIZERS = ("adam", "dynint")


def summary(board, folder):
    """Returns the document of results: the leaderboard, and of each search the values and the objective of every trial."""
    out = {key: value for key, value in board.items() if key != "data"}
    out["fixed"], out["optimizers"] = FIXED, list(OPTIMIZERS)
    for entry in out["models"]:
        entry["trials"] = [
            {k: r.get(k) for k in ("trial", "status", "parameters", "objective", "parameter_count", "fit_seconds")}
            for r in read_records(folder / entry["model"])
        ]
    return out


def tables(document):
    """Returns `{"tuning_comparison": markdown, "tuning_winners": markdown}`."""
    if not document:
        return dict.fromkeys(("tuning_comparison", "tuning_winners"), "not measured\n")
    titles = [f"{who}{metric}" for who in ("", "defaults: ") for metric in ("validation AUC", "test AUC", "test NE")]
    titles = ["best trial, validation", *titles, "winner - defaults, test AUC"]
    lines = [f"| model | {' | '.join(titles)} |", "| --- |" + " --: |" * len(titles)]
    winners = ["| model | parameters, winner | defaults | what was drawn |", "| --- | --: | --: | --- |"]
    for entry in document["models"]:
        cells = [f"{entry['search']['objective']:.4f}"]
        for found in (entry, entry["defaults"]):
            cells += [text(found[split][LABEL][metric]) for split, metric in (("validation", "auc"), ("test", "auc"), ("test", "ne"))]
        own, plain = (found["test"][LABEL]["auc"] for found in (entry, entry["defaults"]))
        cells.append(f"{own['mean'] - plain['mean']:+.4f}")
        lines.append(f"| {entry['model']} | {' | '.join(cells)} |")
        best = next(t for t in entry["trials"] if t["trial"] == entry["search"]["trial"])
        drawn = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in best["parameters"].items())
        counts = [sum(found["parameter_count"].values()) for found in (entry, entry["defaults"])]
        winners.append(f"| {entry['model']} | {counts[0]:,} | {counts[1]:,} | {drawn} |")
    return {"tuning_comparison": "\n".join(lines) + "\n", "tuning_winners": "\n".join(winners) + "\n"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", required=True, help="folder with the KuaiRand-Pure files")
    parser.add_argument("--work", required=True, type=Path, help="folder of the prepared data and the searches")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from benchmarks.kuairand import prepared_data
    from keras_ctr.cli.progress import progress_bars

    def tell(line):
        print(line, flush=True)

    start = time.perf_counter()
    with progress_bars() as progress:
        arguments.work.mkdir(parents=True, exist_ok=True)
        prepared_data(arguments.raw, arguments.work, progress)
        board = compare(
            arguments.work / "data",
            arguments.work / "searches",
            arguments.models,
            seeds=arguments.seeds,
            test=True,
            defaults=True,
            trials=arguments.trials,
            optimizers=OPTIMIZERS,
            fixed=json.loads(json.dumps(FIXED)),
            workers=arguments.jobs,
            resume=(arguments.work / "searches").exists(),
            board=False,
            progress=progress,
            tell=tell,
        )
    document = summary(board, arguments.work / "searches")
    write_json(arguments.out, document)
    for markdown in tables(document).values():
        sys.stdout.write(markdown + "\n")
    sys.stdout.write(f"{(time.perf_counter() - start) / 60:.0f} minutes\n")


if __name__ == "__main__":
    main()
