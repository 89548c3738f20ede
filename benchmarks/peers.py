"""Times the training step of this package against FuxiCTR, DeepCTR, keras-rs, torch and plain Keras.

    python -m benchmarks.peers --out benchmarks/results/peers.json
    python -m benchmarks.peers --out benchmarks/results/peers.json --models DCN --rows 10000000 --peers torch_sparse torch_dense
    python -m benchmarks.peers --out benchmarks/results/peers.json --table

Every package has an environment of its own (made by pip in `--environments`) and builds the same architecture on the same synthetic
batches (`peer_workers.architectures`, `peer_workers.synthetic`); the counts of dense parameters are compared and written down. A step is
the whole training step as the package itself makes it: for everything on Keras, ours included, the compiled function that `fit` calls, on
an iterator over batches in memory, with no metric but the loss; FuxiCTR's own `train_step`; for torch a plain loop of forward, loss,
backward, `optimizer.step()`. The loss is read after every step. XLA is off on every Keras side. Our side uses
`keras_ctr.optimizers.default` (Adam, lazily on the tables), every other side the Adam named in its notes.

Packages run in groups of ours and one or two others: all alive, one computing at a time, rounds of a few steps in turn, the first steps
thrown away. A ratio is taken within a round, the peer's median step by ours, then the median over the rounds. torch and FuxiCTR stand
twice: as they come, and (`_malloc`) with glibc told to keep freed memory, without which torch on a CPU spends much of a step in page
faults. `keras_ctr_bfloat16` is our own side in `mixed_bfloat16`.

Results merge into `--out` by model, rows and peer, so a long study can be done in parts. A package that cannot be installed or run is
written down with its error.
"""

import argparse
import os
import platform
import time
from pathlib import Path

from benchmarks.peer_workers import architectures, environments, group, results, synthetic

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_tile")


def machine():
    """Returns what is known of this machine: cores, CPU, its vector extensions, memory."""
    out = {"cores": os.cpu_count(), "system": platform.platform(), "cpu": platform.processor() or platform.machine()}
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
        known = {key.strip(): value.strip() for key, value in lines.items()}
        out["cpu"] = known.get("model name", out["cpu"])
        out["flags"] = [flag for flag in FLAGS if flag in known.get("flags", "").split()]
        out["memory_gb"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    except (OSError, ValueError):
        pass
    return out


def plan(models, rows, peers):
    """Returns `[(model, rows, group of peers)]` in the order in which they are run."""
    out = []
    for model in models:
        wanted = tuple(p for p in architectures.peers_of(model) if peers is None or p in peers)
        for size in architectures.rows_of(model, rows):
            out += [(model, size, members) for members in group.groups_of(wanted)]
    return out


def prepare(todo, folder):
    """Makes the environments that a plan needs; returns `({name: versions}, {name: error})`."""
    needed = dict.fromkeys(architectures.PEERS[p]["environment"] for _, _, members in todo for p in (architectures.OURS, *members))
    versions, errors = {}, {}
    for name in needed:
        try:
            versions[name] = environments.make(folder, name)
        except environments.EnvironmentFailed as error:
            errors[name] = str(error)
            print(f"environment {name}: {error}", flush=True)
    return versions, errors


def study(arguments):
    """Runs the plan and merges every group's cells into the file as soon as they are there."""
    todo = plan(arguments.models, arguments.rows, arguments.peers)
    versions, errors = prepare(todo, arguments.environments)
    header = {"machine": machine(), "environments": {**versions, **{name: {"error": e} for name, e in errors.items()}}}
    header["data"] = {
        "fields": architectures.NUM_FIELDS,
        "numeric": architectures.NUM_NUMERIC,
        "embedding_dim": architectures.EMBEDDING_DIM,
        "history_length": architectures.HISTORY_LENGTH,
        "exponent": synthetic.EXPONENT,
        "pool": arguments.pool,
        "seed": arguments.seed,
    }
    data = header["data"]
    data["table_sizes"] = {}
    begin = time.perf_counter()
    for index, (model, rows, members) in enumerate(todo):
        config = {
            "model": model,
            "rows": rows,
            "batch_size": arguments.batch_size,
            "pool": arguments.pool,
            "seed": arguments.seed,
            "threads": arguments.threads,
            "optimizer": arguments.optimizer,
        }
        cells = group.measure(
            members,
            config,
            arguments.environments,
            rounds=arguments.rounds,
            steps=arguments.steps,
            warmup=arguments.warmup,
            block_seconds=arguments.block_seconds,
        )
        document = results.load(arguments.out)
        data["table_sizes"] = {**document.get("data", {}).get("table_sizes", {}), str(rows): synthetic.table_sizes(rows)}
        results.save(arguments.out, results.merge(document, cells, **header))
        left = (time.perf_counter() - begin) / (index + 1) * (len(todo) - index - 1)
        print(f"[{index + 1}/{len(todo)}] {model}, {rows:,} rows: {'; '.join(map(line, cells))}; left {left / 60:.1f} min", flush=True)


def line(cell):
    """Returns a cell in a few words."""
    if "error" in cell:
        return f"{cell['peer']} FAILED ({cell['error'].splitlines()[-1][:120]})"
    parameters = "" if cell["parameters"]["agree"] else f", dense parameters differ by {cell['parameters']['dense_difference']:+,}"
    return f"{cell['peer']} {cell['median_ms']:.1f} ms, ours {cell['ours_median_ms']:.1f} ms, ratio {cell['ratio']:.2f}{parameters}"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="benchmarks/results/peers.json")
    parser.add_argument("--table", action="store_true", help="print markdown tables of --out and measure nothing")
    parser.add_argument("--rows", type=int, nargs="+", help="rows of all tables together; models other than DCN take the smallest")
    parser.add_argument("--models", nargs="+", choices=tuple(architectures.MODELS), default=tuple(architectures.MODELS))
    parser.add_argument("--peers", nargs="+", choices=tuple(p for p in architectures.PEERS if p != architectures.OURS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10, help="steps a round")
    parser.add_argument("--warmup", type=int, default=3, help="steps that are not counted")
    parser.add_argument("--block-seconds", type=float, default=12.0, help="a round of a slow model is cut to about this, at least 2 steps")
    parser.add_argument("--batch-size", type=int, default=architectures.BATCH_SIZE)
    parser.add_argument("--pool", type=int, default=synthetic.POOL, help="different batches in memory")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--optimizer", choices=("default", "keras_adam"), default="default", help="of our side")
    parser.add_argument("--environments", default=str(ROOT / ".benchmark-environments"), help="folder of the peers' virtual environments")
    arguments = parser.parse_args(argv)
    if arguments.table:
        print(results.tables(results.load(arguments.out)))
        return
    for name in ("rounds", "steps", "warmup", "pool", "threads", "batch_size"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    study(arguments)


if __name__ == "__main__":
    main()
