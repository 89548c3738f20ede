"""Times the layers against other formulations of the same mathematics.

    python -m benchmarks.layers --out benchmarks/results/layers.json
    python -m benchmarks.layers --out benchmarks/results/layers.json --only pin dwp_624 --rounds 3
    python -m benchmarks.layers --out benchmarks/results/layers.json --precision
    python -m benchmarks.layers --out benchmarks/results/layers.json --table

A step is forward and backward in one compiled TensorFlow function: output, and gradients of inputs and weights for a random upstream
gradient; where a case says so also under XLA. All forms of a case live in one process and run in turn, rounds of a few steps, each round
beginning with another form. A ratio is taken within a round, the form's median step by that of our layer without XLA, then the median over
the rounds: over 1 where ours is faster. Before anything is timed every form's output and gradients are compared with ours; a case whose
forms differ by more than float32 rounding is not recorded. For some cases each form's growth of resident memory is measured, in a process
of its own.

`memory_XDeepInt` is the largest resident size of a process that trains a whole xDeepInt. `--precision` times whole models' training steps
in `mixed_bfloat16` against `float32`. Results merge into `--out` by name, so a long study can be done in parts.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import tensorflow as tf

import keras_ctr
from benchmarks.layer_forms import attention, interactions, whole_models
from benchmarks.layer_forms.case import OURS
from benchmarks.layer_forms.measure import FormsDisagree, measure
from benchmarks.peer_workers import keras_steps, results
from benchmarks.peers import machine

CASES = {case.name: case for case in (*interactions.cases(), *attention.cases())}
MEMORY_CASES = {f"memory_{name}": name for name in whole_models.MEMORY}
PRECISION_CASES = {f"precision_{name}": name for name in whole_models.PRECISION}
SLOWER = 0.95  # a ratio under this: another form is faster than ours by more than 5 %


def plan(only, precision):
    """Returns the names to run, in order: the layers and memory, or the precisions; `only` are names or beginnings of names.

    Raises:
        ValueError: If an entry of `only` begins no name.
    """
    names = list(PRECISION_CASES) if precision else [*CASES, *MEMORY_CASES]
    if only is None:
        return names
    prefixes = [f"precision_{p}" if precision and not p.startswith("precision_") else p for p in only]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(f"--only {prefix}: no such case; there are {', '.join(names)}")
    # A whole name means this case alone, even where it begins another one.
    return [n for n in names if any(n == p or (p not in names and n.startswith(p)) for p in prefixes)]


def merge(document, cells, **header):
    """Returns a document in which `cells` replace those of the same name, sorted; `header` replaces top-level entries.

    A cell with an error does not replace one with figures: the error stands beside them, as `later_error`.
    """
    found = {cell["name"]: cell for cell in document.get("cells", ())}
    for cell in cells:
        old = found.get(cell["name"])
        if "error" in cell and old is not None and "error" not in old:
            cell = {**old, "later_error": cell["error"]}
        found[cell["name"]] = cell
    return {**document, **header, "cells": [found[name] for name in sorted(found)]}


def run(name, arguments):
    """Measures one case; returns its cell."""
    common = {"batch_size": arguments.batch_size, "threads": arguments.threads, "seed": arguments.seed}
    if name in MEMORY_CASES:
        return whole_models.memory(MEMORY_CASES[name], **common)
    times = {"rounds": arguments.rounds, "steps": arguments.steps, "block_seconds": arguments.block_seconds}
    if name in PRECISION_CASES:
        return whole_models.precision(PRECISION_CASES[name], **common, **times)
    return measure(CASES[name], **common, **times, memory=not arguments.no_memory)


def study(arguments):
    """Runs the plan, merging every cell into the file as soon as it is there; returns how many cases were refused."""
    names = plan(arguments.only, arguments.precision)
    header = {"machine": machine(), "versions": keras_steps.versions(keras_ctr), "seed": arguments.seed}
    refused, begin = 0, time.perf_counter()
    for index, name in enumerate(names):
        try:
            cell = run(name, arguments)
        except FormsDisagree as error:
            refused += 1
            text = f"NOT RECORDED: {error}"
        else:
            results.save(arguments.out, merge(results.load(arguments.out), [cell], **header))
            text = line(cell)
        left = (time.perf_counter() - begin) / (index + 1) * (len(names) - index - 1)
        print(f"[{index + 1}/{len(names)}] {name}: {text}; left about {left / 60:.1f} min", flush=True)
    return refused


def line(cell):
    """Returns a cell in a few words."""
    if "error" in cell:
        return f"FAILED ({cell['error']})"
    if cell["kind"] == "memory":
        return f"peak {cell['peak_gb']:.2f} GB, limit {cell['limit_gb']:.0f} GB"
    words = []
    for name, form in cell["forms"].items():
        text = f"{name} {form['median_ms']:.1f} ms ({form['ratio']:.2f})" if "median_ms" in form else f"{name} failed"
        words.append(f"{text} {_memory(form)}".strip())
    faster = slower_than(cell)
    return ", ".join(words) + (f"; OURS IS SLOWER than {', '.join(faster)}" if faster else "")


def slower_than(cell):
    """Returns the forms that are faster than ours by more than 5 %, options of ours left out; XLA is compared with XLA."""
    if cell["kind"] != "forms":
        return []
    forms = {name: form for name, form in cell["forms"].items() if "ratio" in form}
    out = []
    for name, form in forms.items():
        base = forms.get(f"{OURS}, XLA") if name.endswith(", XLA") else forms[OURS]
        if not name.startswith(OURS) and base is not None and form["ratio"] / base["ratio"] < SLOWER:
            out.append(name)
    return out


def table(document):
    """Returns markdown tables of a document: forms, what dynamic matrices take, whole models."""
    cells = document.get("cells", [])
    if not cells:
        return "no cells: nothing has been measured yet\n"
    groups = {kind: [c for c in cells if c["kind"] == kind and "error" not in c] for kind in ("forms", "memory", "precision")}
    blocks = [_head(document)]
    if groups["forms"]:
        rows = [
            "| case | batch | form | step, ms | by ours | largest difference | memory, MB |",
            "| --- | --: | --- | --: | --: | --: | --: |",
        ]
        for cell in groups["forms"]:
            rows += [_form_row(cell, name, form) for name, form in cell["forms"].items()]
        blocks.append("\n".join(rows))
    dynamic = [c for c in groups["forms"] if "dynamic_bytes_per_layer" in c]
    if dynamic:
        rows = [
            "| case | batch | rank | full, MB | paper's count, MB | ours, MB | saved (paper), % | saved (ours), % | measured, % |",
            "| --- | --: | --: | --: | --: | --: | --: | --: | --: |",
        ]
        rows += [_dynamic_row(cell) for cell in dynamic]
        blocks.append(
            "What the row-dependent matrices of one layer take, by count; full = one matrix a row. Measured is the growth of resident "
            "memory over a step of three layers, ours against materialised matrices.\n\n" + "\n".join(rows)
        )
    if groups["precision"]:
        rows = ["| model | batch | float32, ms | mixed_bfloat16, ms | by float32 |", "| --- | --: | --: | --: | --: |"]
        for cell in groups["precision"]:
            full, half = (cell["forms"][policy] for policy in whole_models.POLICIES)
            rows.append(f"| {cell['model']} | {cell['batch_size']} | {full['median_ms']:.1f} | {half['median_ms']:.1f} | {_ratio(half)} |")
        blocks.append("Training step of whole models.\n\n" + "\n".join(rows))
    if groups["memory"]:
        rows = ["| model | batch | peak, GB | limit, GB |", "| --- | --: | --: | --: |"]
        rows += [f"| {c['model']} | {c['batch_size']} | {c['peak_gb']:.2f} | {c['limit_gb']:.0f} |" for c in groups["memory"]]
        blocks.append("A process that trains.\n\n" + "\n".join(rows))
    failed = [f"- {c['name']}: {c['error']}" for c in cells if "error" in c]
    if failed:
        blocks.append("Not measured:\n\n" + "\n".join(failed))
    return "\n\n".join(blocks) + "\n"


def _head(document):
    known = document.get("machine", {})
    flags = ", ".join(known.get("flags", ())) or "no vector extensions of note"
    versions = ", ".join(f"{name} {version}" for name, version in document.get("versions", {}).items())
    return (
        "Forward and backward step by formulation; by ours = median over rounds of the form's step by our layer's, over 1 where ours is "
        f"faster. {known.get('cores', '?')} cores ({known.get('cpu', 'unknown')}; {flags}), {known.get('memory_gb', '?')} GB; {versions}."
    )


def _form_row(cell, name, form):
    memory = _memory(form).removesuffix(" MB")
    if "median_ms" not in form:
        return f"| {cell['name']} | {cell['batch_size']} | {name} | failed | | | {memory} |"
    return (
        f"| {cell['name']} | {cell['batch_size']} | {name} | {form['median_ms']:.1f} | {_ratio(form)} "
        f"| {form['largest_difference']:.1e} | {memory} |"
    )


def _memory(form):
    if "memory_error" in form:
        return f"no memory figure ({form['memory_error']})"
    return f"{form['memory_mb']:,.0f} MB" if "memory_mb" in form else ""


def _ratio(form):
    low, high = form["ratio_quartiles"]
    return f"{form['ratio']:.2f} ({low:.2f} to {high:.2f})"


def _dynamic_row(cell):
    size, saved = cell["dynamic_bytes_per_layer"], cell["dynamic_reduction_percent"]
    measured = cell.get("memory_reduction_percent", {}).get(OURS)
    numbers = " | ".join(f"{size[k] / 1e6:,.1f}" for k in ("materialised", "paper", OURS))
    measured = "" if measured is None else f"{measured:.1f}"
    rank = cell["sizes"]["rank"]
    return f"| {cell['name']} | {cell['batch_size']} | {rank} | {numbers} | {saved['paper']:.2f} | {saved[OURS]:.2f} | {measured} |"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="benchmarks/results/layers.json")
    parser.add_argument("--table", action="store_true", help="print markdown tables of --out and measure nothing")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"names, or their beginnings: {', '.join([*CASES, *MEMORY_CASES])}")
    parser.add_argument("--precision", action="store_true", help="time whole models in mixed_bfloat16 against float32, nothing else")
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory of single forms")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10, help="steps a round")
    parser.add_argument("--block-seconds", type=float, default=3.0, help="a round of a slow form is cut to about this, at least 1 step")
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    if arguments.table:
        print(table(results.load(arguments.out)))
        return 0
    for name in ("rounds", "steps", "batch_size", "threads"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    try:
        plan(arguments.only, arguments.precision)
    except ValueError as error:
        parser.error(str(error))
    tf.get_logger().setLevel("ERROR")  # one function a form is no accidental retracing
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
    return min(study(arguments), 1)


if __name__ == "__main__":
    raise SystemExit(main())
