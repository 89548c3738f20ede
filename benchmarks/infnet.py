"""INFNet's ablations and hub budgets on KuaiRand-Pure, three labels trained together, and what its task hubs read.

    python -m benchmarks.infnet ablations --raw DIR --out benchmarks/results/infnet.json     what each part does
    python -m benchmarks.infnet budgets --raw DIR --out benchmarks/results/infnet.json       1 to 32 hubs of each kind
    python -m benchmarks.infnet attention --raw DIR --out benchmarks/results/infnet.json     the heat map of the paper's Figure 5
    python -m benchmarks.infnet all --arrays data.npz --out FILE --figures docs              all, arrays of `benchmarks.arrays`

All studies share one document and one training setting (that of the model's row in `benchmarks.multi_task`); a run that stands in two
studies is made once, and what the document holds is not run again, so one process at a time writes to it. Every comparison is paired: a
seed of one case against the same seed of the full model.
"""

import argparse
import functools
import json
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks import comparison, multi_task, zoo
from benchmarks.comparison import mean_and_deviation, signed

LABELS = multi_task.LABELS
LEARNING_RATE = 1e-3
SHARED = {"embedding_dim": 16, "tower_units": [64]}
FULL = {
    "version": "v2",
    "num_layers": 4,
    "num_categorical_hubs": 16,
    "num_sequence_hubs": 1,
    "num_shared_task_hubs": 4,
    "hub_initialization": "mlp",
    "use_hubs": True,
    "use_task_tokens": True,
    "use_aggregation": True,
    "use_broadcast": True,
}
"""The full model, in what the studies vary: the factory's defaults, written out so that the results say them."""
V1 = {"version": "v1", "num_categorical_hubs": 4, "num_sequence_hubs": 4, "num_shared_task_hubs": 2}
BUDGETS = (1, 2, 4, 8, 16, 32)
BUDGET_OF = {"num_categorical_hubs": "fields", "num_sequence_hubs": "each behaviour type", "num_shared_task_hubs": "shared by the tasks"}
STUDIES = {
    "ablations": {
        "full": {},
        **{f"- {part.replace('_', ' ')}": {f"use_{part}": False} for part in ("hubs", "task_tokens", "aggregation", "broadcast")},
        "hubs start as means": {"hub_initialization": "mean"},
        "hubs start as learned vectors": {"hub_initialization": "random"},
        **{f"{number} layers": {"num_layers": number} for number in (1, 2, 3)},
        "version 1": V1,
    },
    "budgets": {f"{kind}, {number}": {argument: number} for argument, kind in BUDGET_OF.items() for number in BUDGETS},
}
"""Rows of each study: `{row: settings}`."""
ATTENTION_ROWS = 4096
"""Rows of the test split over which the heat map is a mean."""


def name_of(settings):
    """Returns the name of a case: what it changes of the full model."""
    changed = [f"{key}={settings[key]}" for key in FULL if key in settings and settings[key] != FULL[key]]
    return ", ".join(changed) or "full"


def cases(studies=tuple(STUDIES)):
    """Returns the cases of `benchmarks.selection`, each once."""
    training = {**multi_task.TRAINING, "learning_rate": LEARNING_RATE}
    out = {}
    for study in studies:
        for settings in STUDIES[study].values():
            name = name_of(settings)
            out[name] = {"name": name, "data": "KuaiRand", "model": "INFNet", "arguments": {**SHARED, **FULL, **settings}, **training}
    return list(out.values())


def run(studies, loader, out, *, seeds=3, jobs=2):
    """Runs what `out` does not hold yet of the studies; returns the document, in which those of earlier runs stay."""
    from benchmarks.selection import select

    todo = cases(studies)
    names = comparison.earlier(out, cases()) | {case["name"] for case in todo}
    note = {"cases": [case for case in cases() if case["name"] in names]}  # `select` would leave those of the studies at hand
    return select(todo, loader, out, grid=[{}], seeds=seeds, jobs=jobs, note=note)


def tables(document):
    """Returns `{"infnet_ablations": markdown, "infnet_budgets": markdown}`: AUC of each label and their difference from the full model."""
    out = {}
    for study, rows in STUDIES.items():
        titles = [*(f"AUC {label}" for label in LABELS), "validation AUC, mean", "parameters", "examples/s", "mean AUC against full"]
        lines = [f"| {study} | {' | '.join(titles)} |", "| --- |" + " --: |" * len(titles)]
        for row, settings in rows.items():
            name = name_of(settings)
            mine = [r for r in (document or {"results": []})["results"] if r["name"] == name]
            if not mine:
                continue
            found = [[r["test"][label]["auc"] for r in mine] for label in LABELS]
            found.append([np.mean([r["validation"][label]["auc"] for label in LABELS]) for r in mine])
            cells = [comparison.text(v) for v in found] + [f"{mine[0]['parameters']:,}"]
            cells.append(f"{np.median([r['examples_per_second'] for r in mine]):,.0f}")
            against = _against_full(document, name)
            cells.append(signed(against) if against else "")
            lines.append(f"| {row} | {' | '.join(cells)} |")
        out[f"infnet_{study}"] = "\n".join(lines) + "\n" if len(lines) > 2 else "not measured\n"
    return out


def _against_full(document, name):
    """Returns differences of the mean AUC of the labels from the full model, a seed each; none for the full model itself."""
    if name == "full":
        return []
    return list(np.mean([comparison.differences(document, name, "full", label=label) for label in LABELS], axis=0))


def verdicts(document):
    """Yields lines that say which parts help: the full model against each ablation, label by label."""
    for row, settings in STUDIES["ablations"].items():
        name = name_of(settings)
        if name == "full" or not comparison.values(document, name, label=LABELS[0]):
            continue
        parts = []
        for label in LABELS:
            found = comparison.differences(document, "full", name, label=label)
            parts.append(f"{label} {comparison.verdict(found)} ({signed(found)})")
        yield f"full better than '{row}': {', '.join(parts)}"


def attention(path, seed=1):
    """Trains the full model and returns what its task hubs read in the last block: `(rows, columns, weights)`.

    Args:
        path: File of `benchmarks.arrays`.
        seed: Of the training.

    Returns:
        Names of the task hubs; names of the tokens, the events of a group added up; weights (hubs, tokens), means over rows of the test
        split. The weights of each source (fields, events, tasks) sum to 1.
    """
    import keras_ctr
    from benchmarks import study

    case = {**study.DEFAULTS, **next(c for c in cases() if c["name"] == "full")}
    schema, rates, splits = zoo.load(path, case["data"], seed)
    model, *_ = study.train(case, seed, schema, rates, splits)
    x = {name: values[:ATTENTION_ROWS] for name, values in splits["test"][0].items()}
    found = keras_ctr.models.attention_weights(model, x)
    hubs = [*LABELS, *(f"shared {i + 1}" for i in range(FULL["num_shared_task_hubs"]))]
    columns, blocks = [], []
    fields = [f.name for f in schema.features if not isinstance(f, keras_ctr.Sequence)]
    groups = {group: members[0].max_length for group, members in schema.sequence_groups.items()}
    names = {"categorical": fields, "sequence": list(groups), "task": LABELS}
    for source, tokens in names.items():
        weights = found[f"block_{FULL['num_layers']}/task/{source}"].mean(axis=(0, 1))  # (hubs, tokens)
        if source == "sequence":
            edges = np.cumsum([0, *groups.values()])
            weights = np.stack([weights[:, a:b].sum(axis=1) for a, b in zip(edges[:-1], edges[1:], strict=True)], axis=1)
        columns += [f"{name} events" if source == "sequence" else f"task {name}" if source == "task" else name for name in tokens]
        blocks.append(weights)
    return hubs, columns, np.concatenate(blocks, axis=1)


def draw(document, folder):
    """Draws `infnet_ablations.png`, `infnet_budgets.png` and `infnet_attention.png` of what is measured; returns the paths."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder, paths = Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)

    def save(figure, study):
        paths.append(folder / f"infnet_{study}.png")
        figure.savefig(paths[-1], dpi=130)
        pyplot.close(figure)

    rows = {row: found for row, s in STUDIES["ablations"].items() if len(found := _found_against_full(document, name_of(s)))}
    if rows:
        figure, axis = pyplot.subplots(figsize=(6.5, 0.36 * len(rows) + 1), layout="constrained")
        means, deviations = zip(*(mean_and_deviation(found) for found in reversed(rows.values())), strict=True)
        axis.barh(list(reversed(rows)), means, xerr=np.nan_to_num(deviations), color="#4477aa", height=0.7, error_kw={"capsize": 2})
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_xlabel("mean test AUC of the three labels less that of the full model, same seed", fontsize=9)
        axis.tick_params(labelsize=8)
        save(figure, "ablations")
    measured = {argument: _curve(document, argument) for argument in BUDGET_OF}
    if any(len(curve) > 1 for curve in measured.values()):
        figure, axes = pyplot.subplots(1, len(LABELS), figsize=(10, 3.2), layout="constrained")
        for axis, label in zip(axes, LABELS, strict=True):
            for argument, curve in measured.items():
                points = [mean_and_deviation(list(comparison.values(document, name, label=label).values())) for name in curve.values()]
                means, deviations = zip(*points, strict=True)
                axis.errorbar(list(curve), means, np.nan_to_num(deviations), marker="o", capsize=3, label=BUDGET_OF[argument])
            axis.set_xscale("log", base=2)
            axis.set_xticks(BUDGETS, [str(b) for b in BUDGETS])
            axis.set_xlabel("hubs", fontsize=9)
            axis.set_ylabel(f"test AUC of {label}", fontsize=9)
            axis.tick_params(labelsize=8)
            axis.grid(True, alpha=0.25)
        axes[0].legend(fontsize=8, frameon=False)
        save(figure, "budgets")
    if "attention" in document:
        found = document["attention"]
        weights = np.array(found["weights"])
        figure, axis = pyplot.subplots(figsize=(10, 3.4), layout="constrained")
        image = axis.imshow(weights, aspect="auto", cmap="viridis")
        axis.set_yticks(range(len(weights)), found["hubs"], fontsize=8)
        axis.set_xticks(range(weights.shape[1]), found["tokens"], fontsize=7, rotation=90)
        figure.colorbar(image, label="attention, mean over test rows")
        save(figure, "attention")
    return paths


def _found_against_full(document, name):
    return _against_full(document, name) if comparison.values(document, name, label=LABELS[0]) else []


def _curve(document, argument):
    """Returns `{budget: case}` of what is measured of one kind of hubs."""
    names = {number: name_of({argument: number}) for number in BUDGETS}
    return {number: name for number, name in names.items() if comparison.values(document, name, label=LABELS[0])}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", choices=[*STUDIES, "attention", "all"])
    zoo.add_source(parser)
    parser.add_argument("--figures", help="folder of the figures; that of --out if not given")
    zoo.add_runs(parser)
    arguments = parser.parse_args()
    chosen = [*STUDIES, "attention"] if "all" in arguments.studies else list(dict.fromkeys(arguments.studies))
    studies, out = [study for study in chosen if study in STUDIES], Path(arguments.out)
    comparison.earlier(out, cases())  # its errors before the minutes of preparation
    start = time.perf_counter()
    with zoo.arrays_of(arguments) as path:
        loader = functools.partial(zoo.load, path)
        document = json.loads(out.read_text()) if out.exists() else {"results": []}
        if studies:
            document = run(studies, loader, out, seeds=arguments.seeds, jobs=arguments.jobs)
        if "attention" in chosen:
            hubs, tokens, weights = attention(path)
            document["attention"] = {"hubs": hubs, "tokens": tokens, "weights": np.round(weights, 4).tolist()}
            out.write_text(json.dumps(document, indent=1) + "\n")
    markdown = tables(document)
    for study in studies:
        sys.stdout.write(markdown[f"infnet_{study}"] + "\n")
    sys.stdout.writelines(line + "\n" for line in verdicts(document))
    paths = draw(document, arguments.figures or out.parent)
    sys.stdout.write(f"{', '.join(map(str, paths)) or 'no figures'}; {(time.perf_counter() - start) / 60:.0f} minutes\n")


if __name__ == "__main__":
    main()
