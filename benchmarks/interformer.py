"""InterFormer's ablations on KuaiRand-Pure (Figures 2, 3, 5 and 6b of the paper), `is_click` and `long_view` trained together.

    python -m benchmarks.interformer modes --raw DIR --out benchmarks/results/interformer.json        Figure 2
    python -m benchmarks.interformer aggregation --raw DIR --out benchmarks/results/interformer.json  Figure 3
    python -m benchmarks.interformer components --raw DIR --out benchmarks/results/interformer.json   Figure 5, and choices of ours
    python -m benchmarks.interformer layers --raw DIR --out benchmarks/results/interformer.json       Figure 6b
    python -m benchmarks.interformer all --arrays data.npz --out FILE --figures docs                  all, arrays of `benchmarks.arrays`

All studies share one document, one training setting and the histories cut to their newest events (`EVENTS`); a run that stands in two
studies is made once. What the document holds is not run again, so one process at a time writes to it.

Every comparison is paired: a seed of one case against the same seed of another. `orderings` calls a difference "within the spread" if its
mean is not greater than its standard deviation over the seeds. With three seeds a mean of one deviation is a t of 1.7 at two degrees of
freedom, which chance exceeds in one of nine comparisons: "holds" says that the seeds agree, not that the difference is significant.
"""

import argparse
import dataclasses
import functools
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks import comparison
from benchmarks.comparison import HIGHER_IS_BETTER, mean_and_deviation, signed, verdict
from benchmarks.planted import spread

LEARNING_RATE = 2e-3
LABELS = ("is_click", "long_view")
EVENTS = {"watched": 20, "long_watched": 10, "liked": 5}
"""Newest events that are kept of each group of sequences."""
TRAINING = {"labels": list(LABELS), "batch_size": 512, "epochs": 1, "patience": 0, "learning_rate": LEARNING_RATE}
SHARED = {"embedding_dim": 16, "hidden_units": [128, 64]}
FULL = {
    "mode": "int",
    "backbone": "dhen",
    "early_aggregation": None,
    "num_layers": 2,
    "use_pma": True,
    "use_recent": True,
    "use_gating": True,
    "use_pffn": True,
    "use_mha": True,
    "block_style": "transformer",
    "final_summary": True,
    "sequence_merge": "features",
}
"""The full model, in what the studies vary: the factory's defaults, written out so that the results say them."""
BACKBONES = ("dot", "dcnv2", "dhen")
MODES = ("sole", "sep", "n2s", "s2n", "int")
AGGREGATIONS = {
    "avg": {"mode": "sole"},  # what "sole" does when it is not told
    "mlp": {"mode": "sole", "early_aggregation": "mlp"},
    "mha": {"mode": "sole", "early_aggregation": "mha"},
    "int": {},
}
COMPONENTS = {f"- {part}": {f"use_{part}": False} for part in ("pma", "recent", "gating", "pffn", "mha")}
CHOICES = {
    "block_style=paper": {"block_style": "paper"},
    "final_summary=False": {"num_layers": 1},  # the same graph: without the final summary the second layer's two arches reach nothing
    "sequence_merge=tokens": {"sequence_merge": "tokens"},
}
LAYERS = (1, 2, 3, 4)

STUDIES = {
    "modes": {f"{b}, {m}": ({"backbone": b, "mode": m}, {"backbone": b}) for b in BACKBONES for m in MODES},
    "aggregation": {name: (settings, {}) for name, settings in AGGREGATIONS.items()},
    "components": {name: (settings, {}) for name, settings in {"full": {}, **COMPONENTS, **CHOICES}.items()},
    "layers": {str(number): ({"num_layers": number}, {}) for number in LAYERS},
}
"""Rows of each study: `{row: (settings, settings of the full model it is compared with)}`."""

PAPER_ORDER = (
    ("sole", "<", "sep"),
    ("sep", "<", "n2s"),
    ("sep", "<", "s2n"),
    ("n2s", "~", "s2n"),
    ("n2s", "<", "int"),
    ("s2n", "<", "int"),
)
CLAIMS = [
    *(
        ("modes", f"{b}: {title}", "auc", [(f"{b}, {low}", relation, f"{b}, {high}") for low, relation, high in links])
        for b in BACKBONES
        for title, links in (
            ("sole < sep < n2s ~ s2n < int", PAPER_ORDER),
            ("int is the best mode", [(mode, "<", "int") for mode in MODES[:-1]]),
        )
    ),
    ("aggregation", "avg < mlp < mha < int", "auc", [("avg", "<", "mlp"), ("mlp", "<", "mha"), ("mha", "<", "int")]),
    ("aggregation", "int is above all early aggregations", "auc", [(name, "<", "int") for name in ("avg", "mlp", "mha")]),
    ("components", "each component helps", "auc", [(name, "<", "full") for name in COMPONENTS]),
    ("components", "our choices, where the paper is silent, help", "auc", [(name, "<", "full") for name in CHOICES]),
    *(
        ("layers", "layers 1 -> 2 -> 3 -> 4 improve", metric, [(str(n), "<", str(n + 1)) for n in LAYERS[:-1]])
        for metric in ("auc", "ne")  # the paper's is NE
    ),
]
"""`(study, text, metric, [(row, "<" or "~", row)])`: the right side is better, or both are equal."""
TEXTS = {"auc": "AUC", "gauc": "gAUC", "logloss": "log loss", "ne": "NE"}


def name_of(settings):
    """Returns the name of a case: what it changes of the full model."""
    changed = [f"{key}={settings[key]}" for key in FULL if key in settings and settings[key] != FULL[key]]
    return ", ".join(changed) or "full"


def cases(studies=tuple(STUDIES)):
    """Returns the cases of `benchmarks.selection`, each once."""
    out = {}
    for study in studies:
        for settings, _ in STUDIES[study].values():
            name = name_of(settings)
            arguments = {**SHARED, **FULL, **settings}
            out[name] = {"name": name, "data": {"events": EVENTS}, "model": "InterFormer", "arguments": arguments, **TRAINING}
    return list(out.values())


def load(path, data, seed):
    """Returns the arrays of a file, with the newest `data["events"]` of each history: `(schema, label rates, splits)`."""
    from benchmarks.arrays import load_arrays

    schema, rates, splits = load_arrays(path)
    schema, splits = newest_events(schema, splits, data["events"])
    return schema, rates, splits


def newest_events(schema, splits, events):
    """Keeps the newest events of the histories, oldest of them first and padded after the end.

    Args:
        schema: The fitted `Schema` of the arrays.
        splits: `{split: (x, y)}`; a sequence is (n, max_length), oldest to newest, padding anywhere.
        events: `{group: most events}`; other groups stay as they are, and so does one that is no longer than that.

    Returns:
        `(schema, splits)` with shorter sequences; the arguments are left alone.

    Raises:
        ValueError: If a group is not in the schema or keeps no event.
    """
    groups = schema.sequence_groups
    for group, count in events.items():
        if group not in groups:
            raise ValueError(f"no group '{group}' of sequences in the schema; it has {', '.join(groups) or 'none'}")
        if count < 1:
            raise ValueError(f"group '{group}' must keep at least 1 event, got {count}")
    length = {group: min(count, groups[group][0].max_length) for group, count in events.items()}
    members = {f.name: length[group] for group in events for f in groups[group]}
    features = tuple(dataclasses.replace(f, max_length=members[f.name]) if f.name in members else f for f in schema.features)
    out = {}
    for split, (x, y) in splits.items():
        x = dict(x)
        for group, count in length.items():
            names = [f.name for f in groups[group]]
            valid = np.any([x[name] != 0 for name in names], axis=0)  # an event may lack some of its attributes
            order = np.argsort(~valid, axis=1, kind="stable")  # the events first, in their order
            number = valid.sum(axis=1, keepdims=True)
            steps = np.maximum(number - count, 0) + np.arange(count)
            kept = np.arange(count) < number
            steps = np.take_along_axis(order, steps, axis=1)
            for name in names:
                x[name] = np.where(kept, np.take_along_axis(x[name], steps, axis=1), 0).astype(x[name].dtype)
        out[split] = (x, y)
    return schema.replace(features=features), out


def run(studies, loader, out, *, seeds=3, jobs=2):
    """Runs what `out` does not hold yet of the studies; returns the document, in which those of earlier runs stay."""
    from benchmarks.selection import select

    todo = cases(studies)
    names = comparison.earlier(out, cases()) | {case["name"] for case in todo}
    note = {
        "cases": [case for case in cases() if case["name"] in names],  # `select` would leave those of the studies at hand
        "studies": {study: {row: name_of(settings) for row, (settings, _) in rows.items()} for study, rows in STUDIES.items()},
    }
    return select(todo, loader, out, grid=[{}], seeds=seeds, jobs=jobs, note=note)


def values(document, name, metric="auc", *, label=LABELS[0], split="test"):
    """`comparison.values`, of the first label."""
    return comparison.values(document, name, metric, label=label, split=split)


def differences(document, name, other, metric="auc"):
    """`comparison.differences` of the first label."""
    return comparison.differences(document, name, other, metric, label=LABELS[0])


def tables(document):
    """Returns `{"interformer_modes": markdown, ...}`."""
    out = {}
    for study, rows in STUDIES.items():
        lines = [
            f"| {study} | validation AUC | AUC | gAUC | log loss | AUC of {LABELS[1]} | parameters | AUC against full |",
            "| --- | --: | --: | --: | --: | --: | --: | --: |",
        ]
        for row, (settings, full) in rows.items():
            name, full = name_of(settings), name_of(full)
            mine = [r for r in (document or {"results": []})["results"] if r["name"] == name]
            if not mine:
                continue
            found = [values(document, name, split="validation")]
            found += [values(document, name, metric) for metric in ("auc", "gauc", "logloss")]
            found.append(values(document, name, label=LABELS[1]))
            cells = [*(spread(list(v.values())) for v in found), f"{mine[0]['parameters']:,}"]
            against = differences(document, name, full) if name != full else []
            cells.append(signed(against) if against else "")
            lines.append(f"| {row} | {' | '.join(cells)} |")
        out[f"interformer_{study}"] = "\n".join(lines) + "\n" if len(lines) > 2 else "not measured\n"
    return out


def orderings(document, studies=tuple(STUDIES)):
    """Yields lines that say which orderings hold on the test split.

    A claim holds if all its comparisons do, does not if one does not, and is otherwise within the spread (or not decided).
    """
    for study, text, metric, links in (claim for claim in CLAIMS if claim[0] in studies):
        lines, verdicts = [], []
        for low, relation, high in links:
            names = [name_of(STUDIES[study][row][0]) for row in (high, low)]
            found = np.multiply(differences(document, *names, metric), 1 if metric in HIGHER_IS_BETTER else -1)
            verdicts.append(verdict(found, relation))
            words = "as good as" if relation == "~" else "better than"
            gain = f"{signed(found)}, {len(found)} seeds" if len(found) else "not measured"
            lines.append(f"  {high} {words} {low}: {verdicts[-1]} ({gain})")
        whole = next((v for v in ("does not hold", "not decided", "within the spread") if v in verdicts), "holds")
        counts = ", ".join(f"{v}: {verdicts.count(v)}" for v in dict.fromkeys(verdicts)) if len(set(verdicts)) > 1 else ""
        yield f"{study}, {text} ({TEXTS[metric]} of {LABELS[0]}): {whole}" + (f" ({counts})" if counts else "")
        yield from lines


def draw(document, folder):
    """Draws what is measured, bars or points with deviations over the seeds: `interformer_<study>.png`; returns the paths."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder, paths = Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    drawings = {"modes": _draw_modes, "aggregation": _draw_aggregation, "components": _draw_components, "layers": _draw_layers}
    for study, drawing in drawings.items():
        measured = {row: name for row, (s, _) in STUDIES[study].items() if values(document, name := name_of(s))}
        if len(measured) < 2 or (study == "components" and "full" not in measured):
            continue
        size = {"modes": (7, 3.6), "aggregation": (4.5, 3.2), "components": (6.5, 3.2), "layers": (7, 3.2)}[study]
        figure, axes = pyplot.subplots(1, 2 if study == "layers" else 1, figsize=size, layout="constrained")
        drawing(axes, document, measured)
        paths.append(folder / f"interformer_{study}.png")
        figure.savefig(paths[-1], dpi=130)
        pyplot.close(figure)
    return paths


COLOURS = {"sole": "#bbbbbb", "sep": "#ccbb44", "n2s": "#66ccee", "s2n": "#4477aa", "int": "#222255"}
ERROR = {"lw": 0.8, "capsize": 2}


def _bars(axis, document, measured, places, colours, width, metric="auc"):
    """Draws one bar a row on an axis that is cut around the values."""
    points = np.array([mean_and_deviation(list(values(document, name, metric).values())) for name in measured.values()])
    means, deviations = points[:, 0], np.nan_to_num(points[:, 1])
    axis.bar(places, means, width, yerr=deviations, color=colours, error_kw=ERROR)
    low, high = (means - deviations).min(), (means + deviations).max()
    room = max(high - low, 1e-4)
    axis.set_ylim(low - 0.4 * room, high + 0.1 * room)
    axis.set_ylabel(f"test {TEXTS[metric]} of {LABELS[0]} (axis cut)", fontsize=9)
    axis.tick_params(labelsize=8)


def _draw_modes(axis, document, measured):
    places, colours = [], []
    for row in measured:
        backbone, mode = row.split(", ")
        places.append(BACKBONES.index(backbone) + 0.16 * (MODES.index(mode) - 2))
        colours.append(COLOURS[mode])
    _bars(axis, document, measured, places, colours, 0.15)
    axis.set_xticks(range(len(BACKBONES)), ["DOT", "DCNv2", "DHEN"])
    axis.legend(
        handles=[_patch(COLOURS[mode], mode) for mode in MODES],
        fontsize=8,
        frameon=False,
        ncols=5,
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
    )


def _patch(colour, label):
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


def _draw_aggregation(axis, document, measured):
    texts = {"avg": "average", "mlp": "MLP", "mha": "MHA", "int": "InterFormer"}
    _bars(axis, document, measured, range(len(measured)), [COLOURS["int" if row == "int" else "s2n"] for row in measured], 0.6)
    axis.set_xticks(range(len(measured)), [texts[row] for row in measured])


def _draw_components(axis, document, measured):
    rows = [row for row in reversed(measured) if row != "full"]
    points = [mean_and_deviation(differences(document, measured[row], "full")) for row in rows]
    colours = [COLOURS["s2n" if row in COMPONENTS else "sole"] for row in rows]
    means, deviations = zip(*points, strict=True)
    axis.barh(rows, means, xerr=np.nan_to_num(deviations), color=colours, height=0.7, error_kw=ERROR)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_xlabel(f"test AUC of {LABELS[0]} less that of the full model, same seed", fontsize=9)
    axis.tick_params(labelsize=8)
    handles = [_patch(COLOURS["s2n"], "component left out"), _patch(COLOURS["sole"], "the paper is silent")]
    axis.legend(handles=handles, fontsize=8, frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))


def _draw_layers(axes, document, measured):
    for axis, metric in zip(axes, ("auc", "ne"), strict=True):
        points = [mean_and_deviation(list(values(document, name, metric).values())) for name in measured.values()]
        means, deviations = zip(*points, strict=True)
        axis.errorbar([int(row) for row in measured], means, np.nan_to_num(deviations), color=COLOURS["s2n"], marker="o", capsize=3)
        axis.set_xticks([int(row) for row in measured])
        axis.set_xlabel("layers", fontsize=9)
        axis.set_ylabel(f"test {TEXTS[metric]} of {LABELS[0]}", fontsize=9)
        axis.grid(True, alpha=0.25)
        axis.tick_params(labelsize=8)


def main():
    from benchmarks import zoo

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", choices=[*STUDIES, "all"])
    zoo.add_source(parser)
    parser.add_argument("--figures", help="folder of the figures; that of --out if not given")
    zoo.add_runs(parser)
    arguments = parser.parse_args()
    studies = list(STUDIES) if "all" in arguments.studies else list(dict.fromkeys(arguments.studies))
    comparison.earlier(arguments.out, cases())  # its errors before the minutes of preparation
    start = time.perf_counter()
    with zoo.arrays_of(arguments) as path:
        document = run(studies, functools.partial(load, path), arguments.out, seeds=arguments.seeds, jobs=arguments.jobs)
    markdown = tables(document)
    for study in studies:
        sys.stdout.write(markdown[f"interformer_{study}"] + "\n")
    sys.stdout.writelines(line + "\n" for line in orderings(document, studies))
    paths = draw(document, arguments.figures or Path(arguments.out).parent)
    sys.stdout.write(f"{', '.join(map(str, paths)) or 'no figures'}; {(time.perf_counter() - start) / 60:.0f} minutes\n")


if __name__ == "__main__":
    main()
