"""What INFNet's block costs as tokens become more, beside full self-attention of the same width: time and memory of a training step.

    python -m benchmarks.infnet_cost --out benchmarks/results/infnet_cost.json [--figure docs/infnet_cost.png]
    python -m benchmarks.infnet_cost --out benchmarks/results/infnet_cost.json --table

N tokens of width 64, batch 64: for the block half of them fields and half events, with three tasks and the default hubs (16, 1 and 3 + 4);
for self-attention one layer of `layers.MultiHeadAttention` with one head. Both end in a mean over the tokens and a linear layer. The step
is the one that `fit` compiles. Each configuration has a process of its own, so that `peak_mb` is its own; `--figure` and the exponents take
off it what the same model needs with `BASE` tokens (TensorFlow itself). An exponent is the slope of a line through log(value) against
log(N), N from 100 to 1600: 1 is linear, 2 is quadratic.
"""

import argparse
import json
import os
import sys
import time

import numpy as np

from benchmarks import sequence_speed
from benchmarks.peer_workers import results
from benchmarks.peer_workers.protocol import Worker, serve
from benchmarks.peers import machine

KINDS = ("INFNet block", "self-attention")
TOKENS = (100, 200, 400, 800, 1600)
BASE = 4
BATCH_SIZE, DIM, TASKS, POOL = 64, 64, 3, 2
HUBS = {"categorical": 16, "sequence": 1, "task": TASKS + 4}


def build(config):
    """Builds the model and its step within a worker, see `protocol.serve`."""
    import keras

    import keras_ctr
    from benchmarks.peer_workers import keras_steps

    keras_steps.start(config)
    count, dim = config["length"], config["dim"]
    rng = np.random.default_rng(config["seed"])
    if config["model"] == "INFNet block":
        sizes = {"categorical": count // 2, "sequence": count - count // 2, "task": TASKS}
        tokens = {name: keras.Input((size, dim), name=name) for name, size in sizes.items()}
        hubs = {name: keras.Input((size, dim), name=f"{name}_hubs") for name, size in HUBS.items()}
        out = keras_ctr.layers.INFNetBlock(name="block")(hubs, tokens)["tokens"]
        mixed = [keras.layers.GlobalAveragePooling1D()(values) for values in out.values()]
        inputs = {**tokens, **{tensor.name: tensor for tensor in hubs.values()}}
        last = keras.layers.Concatenate()(mixed)
    else:
        inputs = {"tokens": keras.Input((count, dim), name="tokens")}
        mixed = keras_ctr.layers.MultiHeadAttention(1, name="attention")(inputs["tokens"])
        last = keras.layers.GlobalAveragePooling1D()(mixed)
    model = keras.Model(inputs, {"click": keras.layers.Dense(1, activation="sigmoid", name="click")(last)})
    model.compile("sgd", "binary_crossentropy")
    rows = config["batch_size"]
    pairs = [
        (
            {name: rng.normal(size=(rows, *tensor.shape[1:])).astype(np.float32) for name, tensor in inputs.items()},
            {"click": (rng.random((rows, 1)) < 0.25).astype(np.float32)},
        )
        for _ in range(config["pool"])
    ]
    return {
        "step": keras_steps.training_step(model, pairs),
        "parameters": keras_steps.parameters(model, lambda weight: False),
        "versions": keras_steps.versions(keras_ctr),
        "notes": [],
    }


def start_worker(config):
    """Starts a process of its own for a configuration."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    variables = {**dict.fromkeys(names, str(config["threads"])), "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "benchmarks.infnet_cost", "--worker", json.dumps(config)]
    return Worker(command, environment={**variables, "KERAS_BACKEND": "tensorflow"}, cwd=sequence_speed.ROOT)


def study(arguments):
    """Measures every configuration and merges it into the file as soon as it is there."""
    todo = [(kind, count) for count in (BASE, *TOKENS) for kind in KINDS]
    common = {"batch_size": BATCH_SIZE, "dim": DIM, "pool": POOL, "seed": 1, "threads": arguments.threads}
    begin = time.perf_counter()
    for index, (kind, count) in enumerate(todo):
        config = {**common, "model": kind, "length": count}
        cell = sequence_speed.measure(config, steps=arguments.steps, warmup=3, block_seconds=10.0, start=start_worker)
        document = results.load(arguments.out)
        document["machine"] = machine()
        sequence_speed.record(document, kind, str(count), cell)
        results.save(arguments.out, document)
        left = (time.perf_counter() - begin) / (index + 1) * (len(todo) - index - 1)
        print(f"[{index + 1}/{len(todo)}] {kind}, {count} tokens: {sequence_speed.line(cell)}; left {left / 60:.1f} min", flush=True)


def curves(document):
    """Returns `{kind: {"ms": {N: value}, "mb": {N: MiB over those of `BASE` tokens}}}` of what is measured."""
    out = {}
    for kind in KINDS:
        cells = {int(n): cell for n, cell in document.get(kind, {}).items() if "error" not in cell}
        found = sorted(n for n in cells if n != BASE)
        base = cells.get(BASE, {}).get("peak_mb")
        out[kind] = {"ms": {n: cells[n]["median_ms"] for n in found}}
        out[kind]["mb"] = {} if base is None else {n: cells[n]["peak_mb"] - base for n in found}
    return out


def exponent(curve):
    """Returns the slope of log(value) against log(N), NaN of fewer than two points above 0."""
    points = [(n, value) for n, value in curve.items() if value > 0]
    if len(points) < 2:
        return float("nan")
    n, value = np.log(np.array(points, float)).T
    return float(np.polyfit(n, value, 1)[0])


def table(document):
    """Returns the markdown table of a document."""
    found = curves(document)
    counts = sorted({n for kind in KINDS for n in found[kind]["ms"]})
    if not counts:
        return "not measured\n"
    lines = [f"| tokens | {' | '.join(f'{kind}, ms | MiB' for kind in KINDS)} |", "| --: |" + " --: | --: |" * len(KINDS)]

    def shown(values, n, form):
        return format(values[n], form) if n in values else "-"

    for n in counts:
        cells = [f"{shown(found[kind]['ms'], n, '.1f')} | {shown(found[kind]['mb'], n, ',')}" for kind in KINDS]
        lines.append(f"| {n} | {' | '.join(cells)} |")
    slopes = [f"{exponent(found[kind]['ms']):.2f} | {exponent(found[kind]['mb']):.2f}" for kind in KINDS]
    lines.append(f"| *exponent* | {' | '.join(slopes)} |")
    return "\n".join(lines) + "\n"


def draw(document, path):
    """Draws time and memory against the number of tokens, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    for kind, found in curves(document).items():
        for axis, (what, text) in zip(axes, {"ms": "ms a step", "mb": "MiB at most"}.items(), strict=True):
            if found[what]:
                axis.plot(list(found[what]), list(found[what].values()), marker="o", label=f"{kind}, N^{exponent(found[what]):.2f}")
                axis.set(xscale="log", yscale="log", xlabel="tokens N", ylabel=text)
    for axis in axes:
        axis.set_xticks(TOKENS, [str(n) for n in TOKENS])
        axis.minorticks_off()
        axis.grid(True, alpha=0.25)
        axis.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="benchmarks/results/infnet_cost.json")
    parser.add_argument("--table", action="store_true", help="print the table of --out and measure nothing")
    parser.add_argument("--figure", help="PNG file of the plot")
    parser.add_argument("--steps", type=int, default=15, help="timed steps")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.worker:
        serve(lambda: build(json.loads(arguments.worker)))
        return
    if not arguments.table:
        study(arguments)
    print(table(results.load(arguments.out)))
    if arguments.figure:
        draw(results.load(arguments.out), arguments.figure)


if __name__ == "__main__":
    main()
