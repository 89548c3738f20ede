"""Times a few packages against ours: workers alive side by side, computing one at a time, in interleaved rounds."""

import json
import time
from pathlib import Path

from benchmarks.peer_workers import architectures, environments, results
from benchmarks.peer_workers.protocol import Worker, WorkerError

ROOT = Path(__file__).resolve().parents[2]
MOST_ALIVE = 3  # at 10,000,000 rows a worker with dense Adam takes 4 to 5 GB


def groups_of(peers):
    """Splits peers into groups that, with our worker, keep at most `MOST_ALIVE` processes alive."""
    size = MOST_ALIVE - 1
    return [peers[i : i + size] for i in range(0, len(peers), size)]


def worker_command(peer, config, folder):
    """Returns `(command, environment variables)` of a peer's worker.

    Raises:
        EnvironmentFailed: If the peer's environment is not there.
    """
    spec = architectures.PEERS[peer]
    python = environments.python_of(folder, spec["environment"])
    full = {**config, **spec.get("config", {})}
    threads = str(config["threads"])
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    variables = {**dict.fromkeys(names, threads), "CUDA_VISIBLE_DEVICES": "", "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if spec.get("malloc"):
        variables.update(architectures.MALLOC)
    return [python, "-m", "benchmarks.peer_workers", spec["module"], json.dumps(full)], variables


def start_worker(peer, config, folder):
    """Starts a peer's worker and checks that malloc settings, where the peer has them, took effect."""
    command, variables = worker_command(peer, config, folder)
    worker = Worker(command, environment=variables, cwd=ROOT)
    if architectures.PEERS[peer].get("malloc") and worker.ready.get("malloc_kept") is not True:
        worker.close()
        raise WorkerError("the MALLOC_ settings have no effect here: large blocks are still mapped and unmapped each time")
    return worker


def steps_for(seconds, steps, block_seconds):
    """Returns how many steps a round takes: `steps`, fewer where a round would last over `block_seconds`, at least 2."""
    return max(2, min(steps, int(block_seconds / max(seconds, 1e-9))))


def measure(peers, config, folder, *, rounds, steps, warmup, block_seconds, start=start_worker):
    """Times a group and returns one cell a peer, with figures or with `"error"`.

    In every round each peer runs next to ours, in turn before and after it, so that a drift of the machine falls on both.

    Args:
        peers: Names of at most `MOST_ALIVE - 1` peers.
        config: The workers' common configuration.
        folder: The environments.
        rounds, steps: How often, and how many steps at a time.
        warmup: Steps of each worker that are not counted.
        block_seconds: Longest round of one worker.
        start: `start(peer, config, folder)` returns a worker with `ready`, `run(steps)` and `close()`.
    """
    stamp = {"model": config["model"], "rows": config["rows"], "date": time.strftime("%Y-%m-%d"), "threads": config["threads"]}
    stamp.update({key: config[key] for key in ("batch_size", "optimizer")})
    cells, workers, counts = {}, {}, {}

    def fail(peer, error):
        text = str(error).replace(f"{folder}/", "").replace(f"{ROOT}/", "")  # where this machine keeps its files is nobody's business
        cells[peer] = {**stamp, "peer": peer, "error": text}
        if peer in workers:
            workers.pop(peer).close()

    try:
        for peer in (architectures.OURS, *peers):
            try:
                workers[peer] = start(peer, config, folder)
                answer = workers[peer].run(warmup)
                counts[peer] = steps_for(min(answer["seconds"]), steps, block_seconds)
            except (WorkerError, environments.EnvironmentFailed, OSError) as error:
                fail(peer, error)
                if peer == architectures.OURS:
                    return [{**stamp, "peer": p, "error": f"our own worker failed: {cells[peer]['error']}"} for p in peers]
        seconds = {peer: ([], []) for peer in workers if peer != architectures.OURS}  # peer -> its rounds, ours beside them
        last = {}
        for index in range(rounds):
            for peer in list(seconds):
                if peer not in workers:
                    continue
                pair = (architectures.OURS, peer) if index % 2 == 0 else (peer, architectures.OURS)
                try:
                    answers = {}
                    for name in pair:
                        answers[name] = workers[name].run(counts[name])
                except (WorkerError, OSError) as error:
                    fail(name, error)
                    if name == architectures.OURS:
                        return [{**stamp, "peer": p, "error": f"our own worker failed: {cells[name]['error']}"} for p in peers]
                    continue
                seconds[peer][0].append(answers[peer]["seconds"])
                seconds[peer][1].append(answers[architectures.OURS]["seconds"])
                last.update(answers)
        for peer in seconds:
            if peer in workers:
                cells[peer] = {**stamp, "peer": peer, **_cell(peer, workers, seconds[peer], last, counts, rounds)}
    finally:
        for worker in workers.values():
            worker.close()
    return [cells[peer] for peer in peers]


def _cell(peer, workers, seconds, last, counts, rounds):
    ready, ours = workers[peer].ready, workers[architectures.OURS].ready
    return {
        **results.summary(*seconds),
        "rounds": rounds,
        "steps": counts[peer],
        "ours_steps": counts[architectures.OURS],
        "parameters": results.compare_parameters(ready["parameters"], ours["parameters"]),
        "ours_parameters": ours["parameters"],
        "peak_mb": last[peer]["peak_mb"],
        "ours_peak_mb": last[architectures.OURS]["peak_mb"],
        "minor_faults_per_step": round(last[peer]["minor_faults"] / counts[peer]),
        "loss": round(last[peer]["loss"], 4),
        "malloc_kept": ready.get("malloc_kept"),
        "versions": ready["versions"],
        "ours_versions": ours["versions"],
        "notes": ready["notes"],
        "ours_notes": ours["notes"],
    }
