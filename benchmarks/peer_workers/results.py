"""What is measured, as numbers and as JSON: medians, ratios, merging into a file, tables. Standard library and NumPy only."""

import json
import os
from pathlib import Path

import numpy as np

from benchmarks.peer_workers import architectures

KEY = ("model", "rows", "peer")
LARGEST_DIFFERENCE = 0.001  # share of the dense parameters by which two models may differ and still be called the same


def summary(peer_rounds, our_rounds):
    """Returns what a cell says about time.

    Args:
        peer_rounds, our_rounds: One list of seconds a round, at equal places: the rounds that ran next to each other.

    Returns:
        Dict with `median_ms` and `quartiles_ms` over all steps of the peer, `ours_median_ms` and `ours_quartiles_ms` likewise, and
        `ratio` and `ratio_quartiles` over the rounds: median step of the peer by median step of ours, over 1 where ours is faster.

    Raises:
        ValueError: If the two do not have equally many rounds, at least one.
    """
    if not peer_rounds or len(peer_rounds) != len(our_rounds):
        raise ValueError(f"rounds must come in pairs, got {len(peer_rounds)} and {len(our_rounds)}")
    ratios = [float(np.median(p) / np.median(o)) for p, o in zip(peer_rounds, our_rounds, strict=True)]
    out = {"ratio": round(float(np.median(ratios)), 3), "ratio_quartiles": _quartiles(ratios, 3)}
    for prefix, rounds in (("", peer_rounds), ("ours_", our_rounds)):
        steps = [1e3 * s for r in rounds for s in r]
        out[f"{prefix}median_ms"] = round(float(np.median(steps)), 2)
        out[f"{prefix}quartiles_ms"] = _quartiles(steps, 2)
    return out


def _quartiles(values, digits):
    return [round(float(q), digits) for q in np.percentile(values, (25, 75))]


def compare_parameters(peer, ours):
    """Returns `{"dense": peer's, "embedding": peer's, "dense_difference": peer less ours, "agree": bool}`."""
    difference = peer["dense"] - ours["dense"]
    return {**peer, "dense_difference": difference, "agree": abs(difference) <= LARGEST_DIFFERENCE * ours["dense"]}


def key_of(cell):
    """Returns what a cell is found by."""
    return tuple(cell[k] for k in KEY)


def merge(document, cells, **header):
    """Returns a document in which `cells` replace those of the same model, rows and peer, sorted; `header` replaces top-level entries.

    Dicts of the header are merged with what is there, so that environments of an earlier part stay. A cell with an error does not
    replace a cell with figures: the error stands beside them, as `later_error`.
    """
    out = {**document}
    for name, value in header.items():
        out[name] = {**out.get(name, {}), **value} if isinstance(value, dict) else value
    found = {key_of(cell): cell for cell in document.get("cells", ())}
    for cell in cells:
        old = found.get(key_of(cell))
        if "error" in cell and old is not None and "error" not in old:
            cell = {**old, "later_error": cell["error"]}
        found[key_of(cell)] = cell
    out["cells"] = [found[key] for key in sorted(found)]
    return out


def load(path):
    """Returns the document in a file, an empty one if there is no file."""
    path = Path(path)
    return json.loads(path.read_text()) if path.exists() else {}


def save(path, document):
    """Writes a document, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".incomplete")
    temporary.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(temporary, path)


def tables(document):
    """Returns markdown tables: one a model and table size, one line a peer, by ratio; then what failed and why."""
    cells = document.get("cells", [])
    if not cells:
        return "no cells: nothing has been measured yet\n"
    order = list(architectures.MODELS)
    cells = sorted(cells, key=lambda c: (order.index(c["model"]), c["rows"]))
    blocks = [_machine_line(document)]
    failures = []
    for model, rows in dict.fromkeys((c["model"], c["rows"]) for c in cells):
        group = [c for c in cells if (c["model"], c["rows"]) == (model, rows)]
        timed = [c for c in group if "error" not in c]
        failures += [f"- {c['peer']}, {c['model']}, {c['rows']:,} rows: {c['error'].splitlines()[-1][:200]}" for c in group if "error" in c]
        if not timed:
            continue
        lines = [f"**{model}, {rows:,} rows**", ""]
        lines += [
            "| package | step, ms | ours beside it, ms | ratio | dense parameters | peak MiB |",
            "| --- | --: | --: | --: | --: | --: |",
        ]
        for c in sorted(timed, key=lambda c: c["ratio"]):
            low, high = c["ratio_quartiles"]
            parameters = f"{c['parameters']['dense']:,}" + ("" if c["parameters"]["agree"] else " (differs)")
            lines.append(
                f"| {c['peer']} | {_span(c, '')} | {_span(c, 'ours_')} | {c['ratio']:.2f} ({low:.2f} to {high:.2f}) "
                f"| {parameters} | {c['peak_mb']:,} |"
            )
        blocks.append("\n".join(lines))
    if failures:
        blocks.append("Not measured:\n\n" + "\n".join(failures))
    return "\n\n".join(blocks) + "\n"


def _span(cell, prefix):
    low, high = cell[f"{prefix}quartiles_ms"]
    return f"{cell[f'{prefix}median_ms']:.1f} ({low:.1f} to {high:.1f})"


def _machine_line(document):
    machine = document.get("machine", {})
    flags = ", ".join(machine.get("flags", ())) or "no vector extensions of note"
    threads = sorted({c["threads"] for c in document["cells"] if "threads" in c})
    return (
        f"Training step by package: median and quartiles; ratio = the package's step by ours in the same round, over 1 where ours is "
        f"faster. {machine.get('cores', '?')} cores ({machine.get('cpu', 'unknown')}; {flags}), {machine.get('memory_gb', '?')} GB, "
        f"{'/'.join(map(str, threads)) or '?'} threads."
    )
