"""Times our own training step: by optimizer and table size, by model, and by how tables are stored.

    python -m benchmarks.speed --out benchmarks/results/speed.json [--part optimizers storage models]
    python -m benchmarks.speed --out benchmarks/results/speed.json --table

Data, step and workers are those of `benchmarks.peers` (39 tokens of width 16, batch 4096; `peer_workers.synthetic` says how ids are drawn).

`optimizers`: DCN with every optimizer at 100,000 and at 10,000,000 rows, both alive, rounds in turn, the ratio of the medians taken
within a round; Keras' own Adam for comparison. A batch has 20,400 distinct ids at 100,000 rows and 26,900 at 10,000,000 (the same law
over larger tables), so part of the ratio is more rows to update. `peak_mb` is the largest resident size of the worker, TensorFlow
included; `state_mb` the bytes of weights and slots. `storage`: one fused variable against one variable a field, at three sizes. `models`:
every model that `benchmarks.peers` sizes, and the optimizer `default`: step, examples a second, peak memory.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np

from benchmarks.peer_workers import architectures, group, results, synthetic
from benchmarks.peers import machine

ROOT = Path(__file__).resolve().parents[1]
OPTIMIZERS = (
    *("SGD", "Adagrad", "RowWiseAdagrad", "LazyAdam", "LazyAdamW", "FTRL", "GroupLassoFTRL"),
    *("default", "dynint", "wide_deep", "keras_adam"),
)
SIZES = (100_000, 10_000_000)
SLOTS = {"RowWiseAdagrad": 1 / architectures.EMBEDDING_DIM, "SGD": 1, "Adagrad": 1, "wide_deep": 1}  # others have two a weight
PARTS = ("optimizers", "storage", "models")


def pairs(part):
    """Returns `[(name, {side: worker configuration})]` of a part; the sides of a name run in turn."""
    base = {"model": "DCN", "rows": SIZES[0], "optimizer": "default"}
    if part == "optimizers":
        return [(name, {f"{rows}": {**base, "optimizer": name, "rows": rows} for rows in SIZES}) for name in OPTIMIZERS]
    if part == "storage":
        sizes = (100_000, 1_000_000, 10_000_000)
        return [(f"{n}", {storage: {**base, "rows": n, "storage": storage} for storage in ("fused", "separate")}) for n in sizes]
    return [(name, {"default": {**base, "model": name}}) for name in architectures.MODELS]


def measure(configs, *, rounds, steps, warmup, common, start=None):
    """Returns the cell of one name: medians of every side, and the ratio of the second to the first, round by round.

    Args:
        configs: `{side: worker configuration}`, one or two.
        rounds, steps, warmup: Steps a round, rounds, and steps that are not counted.
        common: What all configurations share.
        start: `start(configuration)` returns a worker; None starts ours.
    """
    start = start or (lambda config: group.start_worker(architectures.OURS, config, ""))
    workers, seconds, last = {}, {side: [] for side in configs}, {}
    try:
        for side, config in configs.items():
            workers[side] = start({**common, **config})
            workers[side].run(warmup)
        for index in range(rounds):
            for side in list(configs)[:: 1 if index % 2 == 0 else -1]:
                last[side] = workers[side].run(steps)
                seconds[side].append(last[side]["seconds"])
        cell = {"rounds": rounds, "steps": steps, "date": time.strftime("%Y-%m-%d"), "threads": common["threads"], "sides": {}}
        for side, config in configs.items():
            times = [1e3 * s for r in seconds[side] for s in r]
            low, median, high = (round(float(q), 2) for q in np.percentile(times, (25, 50, 75)))
            cell["sides"][side] = {
                "median_ms": median,
                "quartiles_ms": [low, high],
                "examples_per_second": round(1e3 * common["batch_size"] / median),
                "peak_mb": last[side]["peak_mb"],
                "parameters": workers[side].ready["parameters"],
                "state_mb": state_megabytes(workers[side].ready["parameters"], config["optimizer"]),
            }
        sides = list(configs)
        if len(sides) == 2:
            ratios = [float(np.median(b) / np.median(a)) for a, b in zip(seconds[sides[0]], seconds[sides[1]], strict=True)]
            cell["ratio"] = round(float(np.median(ratios)), 3)
            cell["ratio_quartiles"] = [round(float(q), 3) for q in np.percentile(ratios, (25, 75))]
        return cell
    finally:
        for worker in workers.values():
            worker.close()


def state_megabytes(parameters, optimizer):
    """Returns the MiB of all weights and their slots in float32."""
    return round((parameters["dense"] + parameters["embedding"]) * 4 * (1 + SLOTS.get(optimizer, 2)) / 2**20, 1)


def study(arguments):
    """Measures the parts and merges every cell into the file as soon as it is there."""
    todo = [(part, name, configs) for part in arguments.part for name, configs in pairs(part)]
    common = {"batch_size": arguments.batch_size, "pool": synthetic.POOL, "seed": 1, "threads": arguments.threads}
    if arguments.only:
        todo = [item for item in todo if item[1] in arguments.only]
    begin = time.perf_counter()
    for index, (part, name, configs) in enumerate(todo):
        cell = measure(configs, rounds=arguments.rounds, steps=arguments.steps, warmup=arguments.warmup, common=common)
        document = results.load(arguments.out)
        document["machine"] = machine()
        if arguments.batch_size != architectures.BATCH_SIZE:
            name += f", batch {arguments.batch_size}"
        document.setdefault(part, {})[name] = cell
        results.save(arguments.out, document)
        sides = ", ".join(f"{side} {values['median_ms']:.1f} ms {values['peak_mb']:,} MiB" for side, values in cell["sides"].items())
        left = (time.perf_counter() - begin) / (index + 1) * (len(todo) - index - 1)
        print(f"[{index + 1}/{len(todo)}] {part} {name}: {sides}; ratio {cell.get('ratio')}; left {left / 60:.1f} min", flush=True)


def tables(document):
    """Returns markdown tables of a document."""
    blocks = []
    for part, titles in (("optimizers", ("optimizer", "100,000 rows", "10,000,000 rows")), ("storage", ("rows", "fused", "a field each"))):
        if part not in document:
            continue
        lines = [f"| {titles[0]} | {titles[1]}, ms | {titles[2]}, ms | ratio | peak MiB | weights and slots, MiB |"]
        lines.append("| --- | --: | --: | --: | --: | --: |")
        for name, cell in document[part].items():
            first, second = cell["sides"].values()
            low, high = cell["ratio_quartiles"]
            lines.append(
                f"| {name} | {first['median_ms']:.1f} | {second['median_ms']:.1f} | {cell['ratio']:.2f} ({low:.2f} to {high:.2f}) "
                f"| {second['peak_mb']:,} | {second['state_mb']:,.0f} |"
            )
        blocks.append("\n".join(lines))
    if "models" in document:
        lines = ["| model | step, ms | examples/s | peak MiB | dense parameters |", "| --- | --: | --: | --: | --: |"]
        for name, cell in document["models"].items():
            side = cell["sides"]["default"]
            dense = side["parameters"]["dense"]
            lines.append(f"| {name} | {side['median_ms']:.1f} | {side['examples_per_second']:,} | {side['peak_mb']:,} | {dense:,} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="benchmarks/results/speed.json")
    parser.add_argument("--table", action="store_true", help="print markdown tables of --out and measure nothing")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--only", nargs="+", help="names within the parts")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=architectures.BATCH_SIZE)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args(argv)
    if arguments.table:
        print(tables(results.load(arguments.out)))
    else:
        study(arguments)


if __name__ == "__main__":
    main()
