"""Does each architecture learn what it is for? Trains the zoo on planted effects with a known best AUC.

    python -m benchmarks.planted --out benchmarks/results/planted.json      all tasks, about an hour on two cores
    python -m benchmarks.planted --out FILE --tasks gates --seeds 1

Tasks (`keras_ctr.data.synthetic.make_synthetic`, 100,000 rows: the oldest 70 % for training, the next 10 % for validation, the newest
20 % for test; ten fields of eight values; a new planted function for every seed):

- pairs: linear and pairwise effects; every model of order two or more.
- triples: linear and third-order effects.
- noise: pairs, with 30 more fields that mean nothing; Ad-Rec with and without its masks, and other models that weigh fields.
- gates: pairwise effects that a majority of three other fields switches on and off; xDeepInt and DynInt at equal depth.
- no_gates: the same pairwise effects without the gate.

All models have narrow layers (`SMALL`). Learning rates are chosen on validation by `benchmarks.selection`, but for triples,
which have one for all. `gap closed` is
(AUC - AUC of LR) / (AUC of the true probabilities - AUC of LR) on the test rows.
"""

import argparse
import inspect
import json
import sys

import numpy as np

ROWS = 100_000
TASKS = {
    "pairs": {"linear": 1.0, "pairwise": 1.5},
    "triples": {"linear": 0.5, "third_order": 2.0},
    "noise": {"linear": 1.0, "pairwise": 1.5, "irrelevant_fields": 30},
    "gates": {"linear": 0.5, "pairwise": 1.5, "instance_dependent": 1.5},
    "no_gates": {"linear": 0.5, "pairwise": 1.5},
}
SMALL = {
    "embedding_dim": 8,
    "hidden_units": (64, 32),
    "key_dim": 8,
    "fm_tokens": 8,
    "linear_tokens": 8,
    "fm_hidden_units": (64,),
    "cin_units": (16, 16),
    "interaction_units": (64,),
}
"""Arguments that every factory gets which has them."""
GRID = [{"learning_rate": rate} for rate in (3e-3, 1e-2)]
WIDER = [{"learning_rate": rate} for rate in (1e-3, 3e-3, 1e-2)]
GRIDS = {"gates": WIDER, "no_gates": WIDER, "triples": [{"learning_rate": 1e-2}]}
"""Triples have one rate: at 3e-3 some models had not left the level of LR when they were stopped in first trials (validation)."""
TRAINING = {"batch_size": 512, "epochs": 40, "patience": 5}
DEPTHS = (1, 2, 3)
POLYNOMIAL = {
    "xDeepInt": ("XDeepInt", {}),
    "DynInt-DA": ("DynInt", {"variant": "da"}),
    "DynInt-DGP": ("DynInt", {"variant": "dgp"}),
    "DynInt-DWP": ("DynInt", {"variant": "dwp"}),
}
AD_REC = {
    "AdRec": {},
    "AdRec, no mask": {"mask_thresholds": None},
    "AdRec, thresholds 0.01": {"mask_thresholds": 0.01},
}
NOISE_MODELS = ("LR", "FM", "DNN")


def case(task, name, model, arguments=None):
    """Returns one case of `benchmarks.selection`."""
    from keras_ctr import model_info

    known = inspect.signature(model_info(model).factory).parameters
    arguments = {**{k: v for k, v in SMALL.items() if k in known}, **(arguments or {})}
    out = {"name": f"{task}/{name}", "data": task, "model": model, "arguments": json.loads(json.dumps(arguments)), **TRAINING}
    return {**out, "grid": GRIDS[task]} if task in GRIDS else out


def cases(tasks):
    """Returns all cases of the tasks."""
    from keras_ctr import list_models

    zoo = [m for m in (*list_models(sequential=False, multi_task=False), "CAN") if m != "DynInt"]
    dyn_int = {name: value for name, value in POLYNOMIAL.items() if name != "xDeepInt"}
    out = []
    for task in tasks:
        if task in ("pairs", "triples"):
            out += [case(task, model, model) for model in zoo]
            out += [case(task, name, model, arguments) for name, (model, arguments) in dyn_int.items()]
        elif task == "noise":
            for data in ("pairs", "noise"):  # the first for what the noise costs
                out += [case(data, name, "AdRec", arguments) for name, arguments in AD_REC.items()]
                out += [case(data, model, model) for model in NOISE_MODELS]
        else:
            out += [case(task, "LR", "LR")]
            for depth in DEPTHS:
                for name, (model, arguments) in POLYNOMIAL.items():
                    out.append(case(task, f"{name}, L={depth}", model, {**arguments, "num_layers": depth}))
    return list({c["name"]: c for c in out}.values())


def load(task, seed):
    """Returns `(schema, label rates, splits)` of one draw of a task."""
    from keras_ctr.data.synthetic import make_synthetic

    parts = dict(zip(("train", "validation", "test"), make_synthetic(ROWS, seed=seed, **TASKS[task]).split((0.7, 0.1, 0.2)), strict=True))
    splits = {name: (part.features, part.labels) for name, part in parts.items()}
    return parts["train"].schema, {"click": float(parts["train"].labels["click"].mean())}, splits


def best_aucs(task, seeds):
    """Returns the AUC of the true probabilities on the test rows drawn, one a seed."""
    from keras_ctr import metrics
    from keras_ctr.data.synthetic import make_synthetic

    out = []
    for seed in range(1, seeds + 1):
        test = make_synthetic(ROWS, seed=seed, **TASKS[task]).split((0.7, 0.1, 0.2))[2]
        out.append(float(metrics.auc(test.labels["click"], test.probability["click"])))
    return out


def main():
    from benchmarks.selection import select

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--models", nargs="*", help="only cases whose names end in one of these")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    todo = cases(arguments.tasks)
    if arguments.models:
        todo = [c for c in todo if c["name"].split("/", 1)[1] in arguments.models]
    best = {task: best_aucs(task, arguments.seeds) for task in TASKS}
    document = select(
        todo, load, arguments.out, grid=GRID, seeds=arguments.seeds, jobs=arguments.jobs, note={"best_auc": best, "rows": ROWS}
    )
    for line in lines(document):
        sys.stdout.write(line + "\n")


def aucs(document, name):
    """Returns the test AUC of a case, in the order of its seeds."""
    rows = sorted((r for r in document["results"] if r["name"] == name), key=lambda r: r["seed"])
    return [r["test"]["click"]["auc"] for r in rows]


def gap_closed(document, name):
    """Returns the share of the gap between LR and the truth that a case closes, one a seed."""
    task = name.split("/", 1)[0]
    base, best = aucs(document, f"{task}/LR"), document["best_auc"][task]
    return [(a - b) / (t - b) for a, b, t in zip(aucs(document, name), base, best, strict=False)]


def lines(document):
    """Yields the cases in the order of what they close of the gap, one line each."""
    for task in dict.fromkeys(c["data"] for c in document["cases"]):
        yield f"{task}: AUC of the true probabilities {np.mean(document['best_auc'][task]):.4f}"
        for name in _ordered(document, task):
            yield f"  {name:<34} AUC {spread(aucs(document, name))}  gap closed {spread(gap_closed(document, name), percent=True)}"


def spread(values, *, percent=False):
    """Returns mean and standard deviation as a text, of a single value it alone."""
    scale, digits, unit = (100, 1, " %") if percent else (1, 4, "")
    deviation = f" ± {scale * np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * np.mean(values):.{digits}f}{deviation}{unit}"


def _ordered(document, task):
    names = [c["name"] for c in document["cases"] if c["data"] == task and aucs(document, c["name"])]
    return sorted(names, key=lambda name: -np.mean(gap_closed(document, name)))


def tables(document):
    """Returns `{"planted_pairs": markdown, ...}` for docs/zoo.md."""
    if not document:
        return {f"planted_{task}": "not measured\n" for task in ("pairs", "triples", "noise", "gates")}
    out = {}
    for task in ("pairs", "triples"):
        rows = ["| model | AUC | gap closed |", "| --- | --: | --: |"]
        for name in _ordered(document, task):
            rows.append(
                f"| {name.split('/', 1)[1]} | {spread(aucs(document, name))} | {spread(gap_closed(document, name), percent=True)} |"
            )
        rows.append(f"| *true probabilities* | {spread(document['best_auc'][task])} | |")
        out[f"planted_{task}"] = "\n".join(rows) + "\n"
    rows = ["| model | AUC | AUC with 30 irrelevant fields | what they cost |", "| --- | --: | --: | --: |"]
    for name in (*AD_REC, *NOISE_MODELS):
        clean, noisy = aucs(document, f"pairs/{name}"), aucs(document, f"noise/{name}")
        if clean and noisy:
            rows.append(f"| {name} | {spread(clean)} | {spread(noisy)} | {spread([a - b for a, b in zip(clean, noisy, strict=True)])} |")
    out["planted_noise"] = "\n".join(rows) + "\n"
    rows = ["| layers | model | gated pairs | static pairs |", "| --: | --- | --: | --: |"]
    for depth in DEPTHS:
        for model in POLYNOMIAL:
            found = [aucs(document, f"{task}/{model}, L={depth}") for task in ("gates", "no_gates")]
            if all(found):
                rows.append(f"| {depth} | {model} | {spread(found[0])} | {spread(found[1])} |")
    best = [document["best_auc"][task] for task in ("gates", "no_gates")]
    rows.append(f"| | *true probabilities* | {spread(best[0])} | {spread(best[1])} |")
    out["planted_gates"] = "\n".join(rows) + "\n"
    return out


def draw(document, path):
    """Draws what each model closes of the gap on pairs and triples."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name.split("/", 1)[1] for name in reversed(_ordered(document, "triples"))]
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 0.24 * len(names) + 1), layout="constrained", sharey=True)
    for axis, task, title in zip(axes, ("pairs", "triples"), ("second-order effects", "third-order effects"), strict=True):
        closed = [np.multiply(gap_closed(document, f"{task}/{name}"), 100) for name in names]
        axis.barh(
            names, [c.mean() for c in closed], xerr=[c.std(ddof=1) for c in closed], color="#4477aa", height=0.7, error_kw={"lw": 0.8}
        )
        axis.axvline(90, color="black", linewidth=0.8, linestyle=":")
        axis.set_xlim(-5, 102)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("% of the gap between LR and the truth")
        axis.tick_params(labelsize=8)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
