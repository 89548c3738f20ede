"""Times the training step of the models on behaviour sequences, and what DIEN's recurrence costs.

    python -m benchmarks.sequence_speed --out benchmarks/results/sequence_speed.json [--part models recurrence lengths]
    python -m benchmarks.sequence_speed --out benchmarks/results/sequence_speed.json --table

One history of T = 100 items, every event valid, whose target is the item of the row; three more fields; 64 numbers an embedding, batch
1024. Ids are drawn as in `peer_workers.synthetic`. The step is the one that `fit` compiles, with `keras_ctr.optimizers.default`, every
architecture with its own defaults. Each configuration has a process of its own, so that `peak_mb`, the largest resident size, is its own,
TensorFlow included. Negatives are given only where a name says so: without them auxiliary losses are 0 and cost nothing.

`models`: all sequential models, and DNN, which takes the mean of the history, as the yardstick. `recurrence`: DIEN with and without its
two recurrences, the rest alike (attention and head of DIN), without attention, and with the auxiliary loss. `lengths`: DIEN at other
lengths of the history; a recurrence takes T steps one after the other, so that its time grows as T.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.peer_workers import group, results, synthetic
from benchmarks.peer_workers.protocol import Worker, WorkerError, serve
from benchmarks.peers import machine

ROOT = Path(__file__).resolve().parents[1]
YARDSTICK = "DNN"
MODELS = (
    *(YARDSTICK, "InterFormer", "DIN", "BST", "DIEN", "DMIN", "DMR", "TransAct", "HSTU"),
    *("SIM", "ETA", "CAN", "TBSM", "AdRecSequential", "INFNet", "RankMixer", "OneTrans"),
)
BATCH_SIZE, LENGTH, DIM = 1024, 100, 64
LENGTHS = (25, 50, 100, 200)
FIELDS = {"user": 100_000, "item": 100_000, "category": 1_000, "context": 50}  # rows of the tables
POOL = 8
PARTS = ("models", "recurrence", "lengths")

_HEAD = {"hidden_units": (200, 80), "hidden_activation": "dice"}
_SAME = {**_HEAD, "attention": "din", "attention_units": (80, 40), "history_sum": False, "auxiliary_weight": 0.0}
RECURRENCE = {
    "no recurrence (DIN, softmax)": {"model": "DIN", "arguments": {**_HEAD, "attention_units": (80, 40), "use_softmax": True}},
    "GRU and AUGRU": {"model": "DIEN", "arguments": {**_SAME, "evolution": "augru"}},
    "GRU and GRU, no attention": {"model": "DIEN", "arguments": {**_SAME, "evolution": "gru"}},
    "GRU and AUGRU, auxiliary loss": {"model": "DIEN", "arguments": {**_SAME, "auxiliary_weight": 1.0}, "negatives": True},
}


def plan(parts, length=LENGTH):
    """Returns `[(part, name, worker configuration)]` in the order in which they are run."""
    todo = {
        "models": [(name, {"model": name, "length": length}) for name in MODELS],
        "recurrence": [(name, {**config, "length": length}) for name, config in RECURRENCE.items()],
        "lengths": [(str(steps), {"model": "DIEN", "length": steps}) for steps in LENGTHS],
    }
    return [(part, name, config) for part in parts for name, config in todo[part]]


def batches(config):
    """Returns a pool of `(features, labels)`, with `item_history_negatives` if the configuration asks for negatives."""
    rng = np.random.default_rng(config["seed"])
    rows, steps = config["batch_size"], config["length"]
    out = []
    for _ in range(config["pool"]):
        x = {name: synthetic.draw_ids(rng, (rows,), size) for name, size in FIELDS.items()}
        x["item_history"] = synthetic.draw_ids(rng, (rows, steps), FIELDS["item"])
        if config.get("negatives"):
            x["item_history_negatives"] = synthetic.draw_ids(rng, (rows, steps), FIELDS["item"])
        out.append((x, {"click": (rng.random((rows, 1)) < 0.25).astype(np.float32)}))
    return out


def build(config):
    """Builds the model and its step within a worker, see `protocol.serve`."""
    import keras_ctr
    from benchmarks.peer_workers import keras_ctr_worker, keras_steps

    keras_steps.start(config)
    features = [keras_ctr.Categorical(name, vocabulary_size=size) for name, size in FIELDS.items()]
    features.append(keras_ctr.Sequence("item_history", max_length=config["length"], table="item", target="item", group="history"))
    schema = keras_ctr.Schema(features=features, labels=[keras_ctr.Label("click")])
    model = keras_ctr.get_model(config["model"], schema, embedding_dim=config["dim"], **config.get("arguments", {}))
    model.compile(keras_ctr_worker.make_optimizer("default"), "binary_crossentropy")
    return {
        "step": keras_steps.training_step(model, batches(config)),
        "parameters": keras_steps.parameters(model, keras_ctr_worker.is_table),
        "versions": keras_steps.versions(keras_ctr),
        "notes": [f"XLA {model.jit_compile}"],
    }


def start_worker(config):
    """Starts a process of its own for a configuration."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    variables = {**dict.fromkeys(names, str(config["threads"])), "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "benchmarks.sequence_speed", "--worker", json.dumps(config)]
    return Worker(command, environment={**variables, "KERAS_BACKEND": "tensorflow"}, cwd=ROOT)


def measure(config, *, steps, warmup, block_seconds, start=start_worker):
    """Returns the cell of one configuration: figures, or `"error"`.

    Args:
        config: The worker's configuration.
        steps: Timed steps; fewer where they would take over `block_seconds`, at least 2.
        warmup: Steps that are not counted, the first of which compiles.
        block_seconds: See `steps`.
        start: `start(config)` returns a worker.
    """
    cell = {key: config[key] for key in ("model", "length", "dim", "batch_size", "threads")}
    cell["date"] = time.strftime("%Y-%m-%d")
    worker = None
    try:
        worker = start(config)
        # A worker is ready after its first step. One more step at least tells how long they take.
        seconds = min(worker.run(max(1, warmup - 1))["seconds"])
        answer = worker.run(group.steps_for(seconds, steps, block_seconds))
        low, median, high = (float(q) for q in np.percentile(answer["seconds"], (25, 50, 75)))
        cell.update(
            median_ms=round(1e3 * median, 2),
            quartiles_ms=[round(1e3 * low, 2), round(1e3 * high, 2)],
            examples_per_second=round(config["batch_size"] / median),
            peak_mb=answer["peak_mb"],
            steps=len(answer["seconds"]),
            parameters=worker.ready["parameters"],
            versions=worker.ready["versions"],
        )
    except (WorkerError, OSError) as error:
        cell["error"] = str(error).replace(f"{ROOT}/", "")
    finally:
        if worker is not None:
            worker.close()
    return cell


def record(document, part, name, cell):
    """Puts a cell into a document; one with an error does not replace one with figures, but stands beside it as `later_error`."""
    cells = document.setdefault(part, {})
    if "error" in cell and "error" not in cells.get(name, cell):
        cell = {**cells[name], "later_error": cell["error"]}
    cells[name] = cell


def label(part, name, config):
    """Returns the name of a cell: with its sizes where they are not those of the study."""
    sizes = [("batch", config["batch_size"], BATCH_SIZE), ("dim", config["dim"], DIM)]
    if part != "lengths":
        sizes.append(("T", config["length"], LENGTH))
    return ", ".join([name, *(f"{what} {value}" for what, value, usual in sizes if value != usual)])


def study(arguments):
    """Measures the parts and merges every cell into the file as soon as it is there."""
    todo = plan(arguments.part, arguments.length)
    if arguments.only:
        unknown = set(arguments.only) - {name for _, name, _ in todo}
        if unknown:
            raise SystemExit(f"--only: no {', '.join(sorted(unknown))} among {', '.join(name for _, name, _ in todo)}")
        todo = [item for item in todo if item[1] in arguments.only]
    common = {"batch_size": arguments.batch_size, "dim": arguments.dim, "pool": POOL, "seed": 1, "threads": arguments.threads}
    begin = time.perf_counter()
    for index, (part, name, config) in enumerate(todo):
        config = {**common, **config}
        cell = measure(config, steps=arguments.steps, warmup=arguments.warmup, block_seconds=arguments.block_seconds)
        document = results.load(arguments.out)
        document["machine"] = machine()
        document["data"] = {"fields": FIELDS, "exponent": synthetic.EXPONENT, "pool": POOL}
        record(document, part, label(part, name, config), cell)
        results.save(arguments.out, document)
        left = (time.perf_counter() - begin) / (index + 1) * (len(todo) - index - 1)
        print(f"[{index + 1}/{len(todo)}] {part} {name}: {line(cell)}; left {left / 60:.1f} min", flush=True)


def line(cell):
    """Returns a cell in a few words."""
    if "error" in cell:
        return f"FAILED ({cell['error'].splitlines()[-1][:160]})"
    return f"{cell['median_ms']:.1f} ms, {cell['examples_per_second']:,} examples/s, peak {cell['peak_mb']:,} MiB"


def table(document):
    """Returns markdown tables of a document: models, recurrence, lengths."""
    blocks, failures = [], []
    for part, title in (("models", "model"), ("recurrence", "DIEN, T = 100"), ("lengths", "DIEN, T")):
        cells = document.get(part, {})
        failures += [f"- {part}, {name}: {cell['error'].splitlines()[-1][:200]}" for name, cell in cells.items() if "error" in cell]
        cells = {name: cell for name, cell in cells.items() if "error" not in cell}
        if not cells:
            continue
        last = {"models": f"step by {YARDSTICK}'s", "recurrence": "step by the first's", "lengths": "ms an event of the history"}[part]
        lines = [f"| {title} | examples/s | step, ms | {last} | peak MiB | dense parameters |", "| --- | --: | --: | --: | --: | --: |"]
        if part == "models":
            cells = dict(sorted(cells.items(), key=lambda item: -item[1]["examples_per_second"]))
        base = cells.get(YARDSTICK) if part == "models" else next(iter(cells.values()))
        for name, cell in cells.items():
            low, high = cell["quartiles_ms"]
            if part == "lengths":
                relative = f"{cell['median_ms'] / cell['length']:.2f}"
            else:
                relative = "-" if base is None else f"{cell['median_ms'] / base['median_ms']:.2f}"
            lines.append(
                f"| {name} | {cell['examples_per_second']:,} | {cell['median_ms']:.1f} ({low:.1f} to {high:.1f}) | {relative} "
                f"| {cell['peak_mb']:,} | {cell['parameters']['dense']:,} |"
            )
        blocks.append("\n".join(lines))
    if failures:
        blocks.append("Not measured:\n\n" + "\n".join(failures))
    return "\n\n".join(blocks or ["not measured"]) + "\n"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="benchmarks/results/sequence_speed.json")
    parser.add_argument("--table", action="store_true", help="print markdown tables of --out and measure nothing")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--only", nargs="+", help="names within the parts")
    parser.add_argument("--steps", type=int, default=8, help="timed steps")
    parser.add_argument("--warmup", type=int, default=3, help="steps that are not counted, the one that compiles included")
    parser.add_argument("--block-seconds", type=float, default=6.0, help="timed steps of a slow model are cut to about this, at least 2")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--length", type=int, default=LENGTH, help="T of the parts models and recurrence")
    parser.add_argument("--dim", type=int, default=DIM, help="width of an embedding")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.worker:
        serve(lambda: build(json.loads(arguments.worker)))
    elif arguments.table:
        print(table(results.load(arguments.out)))
    else:
        study(arguments)


if __name__ == "__main__":
    main()
