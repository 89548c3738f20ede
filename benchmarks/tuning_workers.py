"""How much faster two workers search than one: the same 12 trials of DCNv2 on the KuaiRand extract, every process with one thread.

    python -m benchmarks.tuning_workers --out benchmarks/results/tuning_workers.json

Wall time of the whole command, the start of Python and TensorFlow included, by turns for 1, 2, 1, 2, ... workers. It says something only on
a machine with two free cores. A trial should take 5 to 8 s of one core: `--epochs` makes it longer.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.selection import THREADS

LIMIT = 0.65
"""What two workers may take of one worker's time."""


def space(hp):
    """Arguments that change the result and not the work."""
    return {"dropout": hp.Float("dropout", 0.0, 0.5)}


def training(hp):
    """A learning rate."""
    return {"learning_rate": hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")}


def prepare(folder):
    """Prepares the extract without histories."""
    from keras_ctr.data import prepare
    from keras_ctr.datasets import kuairand

    options = {"labels": ("is_click",), "histories": ()}
    return prepare(kuairand.load(**options), kuairand.schema(**options), folder)


def once(data, out, workers, trials, epochs):
    """Runs a search in a process of its own; returns its seconds and those of its trials."""
    command = [sys.executable, "-c", "import sys; from keras_ctr.cli import main; sys.exit(main(sys.argv[1:]))", "tune", data, "--out", out]
    command += ["--model", "DCNv2", "--space", "benchmarks.tuning_workers:space", "--training-space", "benchmarks.tuning_workers:training"]
    command += [
        "--trials",
        str(trials),
        "--epochs",
        str(epochs),
        "--patience",
        str(epochs),
        "--workers",
        str(workers),
        "--json",
        "--no-plots",
    ]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **dict.fromkeys(THREADS, "1")})
    seconds = time.perf_counter() - start
    document = json.loads((Path(out) / "results.json").read_text(encoding="utf-8"))
    assert len(document["trials"]) == trials and all(t["status"] == "completed" for t in document["trials"])
    return {"seconds": round(seconds, 2), "trials": [t["seconds"] for t in sorted(document["trials"], key=lambda t: t["trial"])]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    runs = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/data"
        prepare(data)
        for number in range(arguments.rounds):
            for workers, found in runs.items():
                found.append(once(data, f"{folder}/{workers}_{number}", workers, arguments.trials, arguments.epochs))
                print(f"round {number + 1}, {workers} workers: {found[-1]['seconds']} s, trials {found[-1]['trials']}", flush=True)
    ratios = [two["seconds"] / one["seconds"] for one, two in zip(runs[1], runs[2], strict=True)]
    ratio = statistics.median(ratios)
    document = {
        "command": f"python -m benchmarks.tuning_workers --trials {arguments.trials} --epochs {arguments.epochs}",
        "runs": runs,
        "ratios": [round(r, 3) for r in ratios],
        "ratio": round(ratio, 3),
        "limit": LIMIT,
        "within": ratio <= LIMIT,
        "machine": {"cores": os.cpu_count(), "load": os.getloadavg(), "python": platform.python_version()},
        "date": time.strftime("%Y-%m-%d"),
    }
    Path(arguments.out).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"two workers take {ratio:.2f} of one worker's time (at most {LIMIT} is asked)")
    return 0 if document["within"] else 1


if __name__ == "__main__":
    sys.exit(main())
