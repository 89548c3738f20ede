"""Writes the tables of docs/{performance,deviations,zoo,sequences,multi_task,tuning,serving}.md and figures from benchmarks/results/*.json.

    python -m benchmarks.performance [--figure]

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`. `--figure` also draws docs/step_time.png,
docs/planted.png, docs/planted_sequences.png, docs/interformer_*.png, docs/infnet_*.png and docs/dynint_sweeps.png (needs matplotlib).
"""

import argparse
import re
from pathlib import Path

import numpy as np

from benchmarks import infnet, interformer, planted, planted_sequences, sequences, speed
from benchmarks.peer_workers import results
from benchmarks.peer_workers.results import load

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = tuple(ROOT / "docs" / f"{page}.md" for page in ("performance", "deviations", "zoo", "sequences", "multi_task", "tuning", "serving"))
FIGURE = ROOT / "docs" / "step_time.png"
GAPS = ROOT / "docs" / "planted.png"
METRICS = ("auc", "gauc", "logloss")
LABELS = {
    "keras_ctr": "keras_ctr",
    "keras": "Keras 3 Adam",
    "keras_rs": "keras-rs",
    "deepctr": "DeepCTR",
    "fuxictr_malloc": "FuxiCTR layers*",
    "torch_dense_malloc": "torch Adam*",
    "torch_sparse_malloc": "torch SparseAdam*",
}


def study_table(name, label="is_click", split="test"):
    """Returns the markdown table of a `benchmarks.study` result: metrics over seeds and the share of zero rows, a line a configuration."""
    document = load(RESULTS / f"{name}.json")
    if not document:
        return "not measured\n"
    lines = [
        f"| {split}, `{label}` | seeds | AUC | gAUC | log loss | validation AUC | zero rows |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    for config in document["configs"]:
        rows = [r for r in document["results"] if r["name"] == config["name"] and split in r]
        if not rows:
            continue
        cells = [_spread([r[split][label][m] for r in rows]) for m in METRICS]
        validation = _spread([r["validation"][label]["auc"] for r in rows])
        zero = float(np.mean([r["zero_rows"] for r in rows])) if "zero_rows" in rows[0] else None
        share = "-" if zero is None else f"{100 * zero:.1f} %"
        lines.append(f"| {config['name']} | {len(rows)} | {' | '.join(cells)} | {validation} | {share} |")
    return "\n".join(lines) + "\n"


def labels_table(name, rare="is_like", split="validation"):
    """Returns the markdown table of a `benchmarks.study` result with several labels: AUC of each, and more of the rare one."""
    document = load(RESULTS / f"{name}.json")
    if not document:
        return "not measured\n"
    labels = list(dict.fromkeys(label for r in document["results"] for label in r[split]))
    columns = [(label, "auc", f"AUC {label}") for label in labels]
    columns += [(rare, "gauc", f"gAUC {rare}"), (rare, "ne", f"NE {rare}"), (rare, "calibration", f"predicted / observed {rare}")]
    lines = [f"| {split}, {len({r['seed'] for r in document['results']})} seeds | {' | '.join(title for *_, title in columns)} |"]
    lines.append("| --- |" + " --: |" * len(columns))
    for config in document["configs"]:
        rows = [r[split] for r in document["results"] if r["name"] == config["name"]]
        cells = [_spread([row[label][metric] for row in rows]) if rows and label in rows[0] else "" for label, metric, _ in columns]
        lines.append(f"| {config['name']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _spread(values):
    deviation = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{deviation}"


def tables():
    """Returns `{name: markdown}` of all tables."""
    from benchmarks import (
        data_shares,
        dynint_gates,
        dynint_sweeps,
        infnet_cost,
        layers,
        multi_task,
        ranking_signature,
        sequence_speed,
        serving_latency,
        small_tables,
        tuning_comparison,
        zoo,
    )

    return {
        **planted.tables(load(RESULTS / "planted.json")),
        **planted_sequences.tables(load(RESULTS / "planted_sequences.json")),
        **sequences.tables(load(RESULTS / "sequences.json")),
        **interformer.tables(load(RESULTS / "interformer.json")),
        **multi_task.tables(load(RESULTS / "multi_task.json")),
        **infnet.tables(load(RESULTS / "infnet.json")),
        **dynint_sweeps.tables(load(RESULTS / "dynint_sweeps.json")),
        "data_shares": data_shares.table(load(RESULTS / "data_shares.json"), load(RESULTS / "sequences.json")),
        "dynint_gates": dynint_gates.table(load(RESULTS / "dynint_gates.json")),
        "ranking": ranking_signature.table(load(RESULTS / "ranking_signature.json")),
        "small_tables": small_tables.table(load(RESULTS / "small_tables.json")),
        **serving_latency.tables(load(RESULTS / "serving_latency.json")),
        **tuning_comparison.tables(load(RESULTS / "tuning_comparison.json")),
        "infnet_cost": infnet_cost.table(load(RESULTS / "infnet_cost.json")),
        "rare_labels": labels_table("rare_label_choices"),
        "sequence_speed": sequence_speed.table(load(RESULTS / "sequence_speed.json")),
        "zoo": zoo.table(load(RESULTS / "zoo.json")),
        "speed": speed.tables(load(RESULTS / "speed.json")),
        "peers": results.tables(load(RESULTS / "peers.json")),
        "layers": layers.table(load(RESULTS / "layers.json")),
        "optimizer_choices": study_table("optimizer_choices"),
        "group_lasso": study_table("group_lasso"),
        "precision": study_table("precision"),
    }


def filled(text, content):
    """Returns a page with the tables between the markers replaced.

    Raises:
        KeyError: If a marker names a table that does not exist.
    """

    def table(match):
        name = match.group(1)
        if name not in content:
            raise KeyError(f"no table '{name}'; tables: {', '.join(content)}")
        return f"<!-- table: {name} -->\n{content[name].rstrip()}\n<!-- end of table -->"

    return re.sub(r"<!-- table: (\w+) -->.*?<!-- end of table -->", table, text, flags=re.S)


def series(document):
    """Returns `{package: [(rows, ms)]}` of the DCN cells; ours is the median over its groups."""
    out = {}
    cells = [c for c in document.get("cells", ()) if c["model"] == "DCN" and "error" not in c]
    for peer in LABELS:
        if peer == "keras_ctr":
            points = {}
            for c in cells:
                points.setdefault(c["rows"], []).append(c["ours_median_ms"])
            out[peer] = sorted((rows, float(np.median(values))) for rows, values in points.items())
        else:
            out[peer] = sorted((c["rows"], c["median_ms"]) for c in cells if c["peer"] == peer)
    return {peer: points for peer, points in out.items() if points}


def draw(document, path=FIGURE):
    """Draws step time by vocabulary for every package."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for peer, points in series(document).items():
        ours = peer == "keras_ctr"
        style = {"linewidth": 3.0, "color": "black", "zorder": 5} if ours else {"linewidth": 1.4, "alpha": 0.85}
        axis.plot(*zip(*points, strict=True), marker="o", label=LABELS[peer], **style)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_yticks(ticks := [30, 50, 100, 200, 500, 1000], [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel("embedding rows (width 16)")
    axis.set_ylabel("training step, ms (batch 4096)")
    axis.set_title("DCN, 39 tokens, 2 cores; * with tuned malloc", fontsize=10)
    axis.grid(True, which="both", alpha=0.25)
    axis.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", action="store_true")
    arguments = parser.parse_args()
    content = tables()
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8"), content), encoding="utf-8")
    if arguments.figure:
        draw(load(RESULTS / "peers.json"))
        if document := load(RESULTS / "planted.json"):
            planted.draw(document, GAPS)
        if document := load(RESULTS / "planted_sequences.json"):
            planted_sequences.draw(document, ROOT / "docs" / "planted_sequences.png")
        if document := load(RESULTS / "interformer.json"):
            interformer.draw(document, ROOT / "docs")
        if document := load(RESULTS / "infnet.json"):
            infnet.draw(document, ROOT / "docs")
        if document := load(RESULTS / "dynint_sweeps.json"):
            from benchmarks import dynint_sweeps

            dynint_sweeps.draw(document, ROOT / "docs" / "dynint_sweeps.png")
        if document := load(RESULTS / "infnet_cost.json"):
            from benchmarks import infnet_cost

            infnet_cost.draw(document, ROOT / "docs" / "infnet_cost.png")


if __name__ == "__main__":
    main()
