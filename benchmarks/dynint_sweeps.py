"""The sweeps of DynInt's paper (arXiv:2301.08139, Tables 3 and 4, Figures 6 and 7) on KuaiRand-Pure, `is_click`, as tables and one plot.

    python -m benchmarks.dynint_sweeps --raw DIR --out benchmarks/results/dynint_sweeps.json --figures docs
    python -m benchmarks.dynint_sweeps --arrays data.npz --out FILE --sweeps kernel-size rank

What is swept is `tuning.sweeps.SWEEPS`; a model that stands in two of them is trained once. All train alike, with DynInt's composite of
optimizers at the rates that `benchmarks.zoo` chose for every variant, one epoch (the best one of every run there), three seeds. Nothing is
chosen here, so the test split is scored for every point.
"""

import argparse
import functools
import json
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks import zoo
from benchmarks.comparison import mean_and_deviation, text, verdict
from tuning.sweeps import SWEEPS, points

LABEL = zoo.LABEL
TRAINING = {"labels": [LABEL], "batch_size": 1024, "epochs": 1, "patience": 0, **zoo.COMPOSITE[2]}
REDUCTIONS = ("reduction-DA", "reduction-DGP", "reduction-DWP")
FAMILIES = {
    "depth": ("num_layers", "layers, one subspace (Table 3)", ("depth-DA", "depth-DGP", "depth-DWP")),
    "subspaces": ("num_subspaces", "subspaces, three layers (Table 4)", ("subspaces-DA", "subspaces-DGP", "subspaces-DWP")),
    "kernel_size": ("rank", "kernel size of DGP (Figure 6a)", ("kernel-size",)),
    "rank": ("rank", "rank of DWP (Figure 6b)", ("rank", "rank-normed")),
    "reduction": ("reduction_ratio", "reduction ratio (Figure 7a)", (*REDUCTIONS, *(f"{sweep}-normed" for sweep in REDUCTIONS))),
    "orthogonality": (
        "orthogonality",
        "orthogonality rate (Figure 7b)",
        ("orthogonality-DGP", "orthogonality-DWP", "orthogonality-DWP-normed"),
    ),
}
"""A panel of the plot and a table each: `(argument, title, sweeps)`."""
COLORS = {"DynInt-DA": "#228833", "DynInt-DGP": "#4477aa", "DynInt-DWP": "#ee6677"}
NORMED = ", gates normalised"
"""End of the name of a line with `gate_norm`."""
MEAN_OF = ("depth", "subspaces", "reduction", "orthogonality")
"""Families of which the paper shows the mean over its variants, as the paper has them."""


def name_of(model, arguments):
    """Returns the name of a case: its arguments."""
    return f"{model} {json.dumps(arguments, sort_keys=True)}"


def cases(sweeps=tuple(SWEEPS)):
    """Returns the cases of `benchmarks.selection`, each model once."""
    out = {}
    for sweep in sweeps:
        for model, arguments in points(sweep):
            name = name_of(model, arguments)
            out[name] = {"name": name, "data": "KuaiRand", "model": model, "arguments": arguments, **TRAINING}
    return list(out.values())


def curve(document, sweep, argument, metric="auc", split="test"):
    """Returns `{value of the argument: {seed: metric}}` of the points of a sweep that were run."""
    out = {}
    for model, arguments in points(sweep):
        name = name_of(model, arguments)
        found = {r["seed"]: r[split][LABEL][metric] for r in document["results"] if r["name"] == name}
        if found:
            out[arguments[argument]] = dict(sorted(found.items()))
    return out


def mean_curve(curves):
    """Returns the mean over variants, seed by seed, of the values and seeds that all of them have."""
    out = {}
    for value in curves[0]:
        if all(value in c for c in curves):
            seeds = sorted(set.intersection(*(set(c[value]) for c in curves)))
            out[value] = {seed: float(np.mean([c[value][seed] for c in curves])) for seed in seeds}
    return {value: found for value, found in out.items() if found}


def curves(document, family, metric="auc"):
    """Returns `{line: {value: {seed: metric}}}` of a family: its variants, and their mean where the paper shows that."""
    argument, _, sweeps = FAMILIES[family]
    out = {}
    for sweep in sweeps:
        found = curve(document, sweep, argument, metric)
        if found:
            out[SWEEPS[sweep][0] + NORMED * ("gate_norm" in SWEEPS[sweep][1])] = found
    plain = [found for name, found in out.items() if not name.endswith(NORMED)]
    if family in MEAN_OF and len(plain) == sum(not sweep.endswith("-normed") for sweep in sweeps):
        out["mean"] = mean_curve(plain)
    return out


def tables(document):
    """Returns `{"dynint_<family>": markdown}`: test AUC by value; of the mean, or the first line, log loss too."""
    out = {}
    for family, (_, title, _) in FAMILIES.items():
        lines = curves(document, family) if document else {}
        if not lines:
            out[f"dynint_{family}"] = "not measured\n"
            continue
        name = "mean" if "mean" in lines else next(iter(lines))
        shown = {f"AUC, {line}": found for line, found in lines.items()} | {f"log loss, {name}": curves(document, family, "logloss")[name]}
        values = list(dict.fromkeys(value for line in lines.values() for value in line))
        rows = [f"| {title} | {' | '.join(f'{v:g}' for v in values)} |", "| --- |" + " --: |" * len(values)]
        for name, line in shown.items():
            rows.append(f"| {name} | {' | '.join(text(list(line[v].values())) if v in line else '' for v in values)} |")
        out[f"dynint_{family}"] = "\n".join(rows) + "\n"
    return out


def verdicts(document):
    """Yields for every family which value is best and by how much more than the spread of paired differences from the first."""
    for family in FAMILIES:
        for name, line in curves(document, family).items():
            means = {value: mean_and_deviation(list(found.values()))[0] for value, found in line.items()}
            best = max(means, key=means.get)
            differences = {v: [line[best][s] - found[s] for s in line[best] if s in found] for v, found in line.items() if v != best}
            alike = [f"{v:g}" for v, found in differences.items() if verdict(found) != "holds"]
            also = f"; within the spread of it: {', '.join(alike)}" if alike else ""
            yield f"{family}, {name}: best {best:g} ({means[best]:.4f}){also}"


def draw(document, path):
    """Draws a panel for each family: test AUC by value, a line a variant, their mean black, bars the standard deviation over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(10, 5.6), layout="constrained")
    for axis, (family, (_, title, _)) in zip(axes.ravel(), FAMILIES.items(), strict=True):
        for name, line in curves(document, family).items():
            means, deviations = zip(*(mean_and_deviation(list(found.values())) for found in line.values()), strict=True)
            style = {"color": "black", "lw": 2} if name == "mean" else {"color": COLORS[name.removesuffix(NORMED)], "lw": 1}
            style |= {"ls": "--"} if name.endswith(NORMED) else {}
            axis.errorbar(range(len(line)), means, np.nan_to_num(deviations), marker="o", ms=3, capsize=2, label=name, **style)
            axis.set_xticks(range(len(line)), [f"{value:g}" for value in line])
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(True, alpha=0.25)
        axis.legend(fontsize=7, frameon=False)
    for axis in axes[:, 0]:
        axis.set_ylabel(f"test AUC of {LABEL}", fontsize=8)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main():
    from benchmarks.selection import select

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    zoo.add_source(parser)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--figures", type=Path, help="folder of dynint_sweeps.png; that of --out if not given")
    parser.add_argument("--sweeps", nargs="*", choices=list(SWEEPS), default=list(SWEEPS), metavar="SWEEP", help=", ".join(SWEEPS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    start = time.perf_counter()
    with zoo.arrays_of(arguments) as path:
        loader = functools.partial(zoo.load, path)
        document = select(cases(arguments.sweeps), loader, arguments.out, grid=[{}], seeds=arguments.seeds, jobs=arguments.jobs)
    for markdown in tables(document).values():
        sys.stdout.write(markdown + "\n")
    sys.stdout.writelines(line + "\n" for line in verdicts(document))
    figure = (arguments.figures or arguments.out.parent) / "dynint_sweeps.png"
    figure.parent.mkdir(parents=True, exist_ok=True)
    draw(document, figure)
    sys.stdout.write(f"{figure}; {(time.perf_counter() - start) / 60:.0f} minutes\n")


if __name__ == "__main__":
    main()
