"""Measures what smaller embedding tables save: size of the exported folder, memory of a server, latency of `encoded`.

    python -m benchmarks.small_tables [--rows 1000000] [--dim 16] [--batch 512] [--requests 300]

One DCNv2 on four fields whose tables have `--rows` rows in all, in float32, int8 and float16 (`serving.export_bundle(tables=...)`, without
warm-up requests). A process that has neither Keras nor TensorFlow's Python in it loads the three SavedModels with
`keras_ctr/serving/runner.py`, one thread within and across operations, and answers the same requests with each in turn, the order
rotated from one request to the next; ids are uniform, which is the worst case for caches. A request's time is that of
`SavedModelRunner.run`. Memory is the resident size of a process, TensorFlow's library with it, that has loaded one model and answered once.
"""

import argparse
import importlib.util
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.peer_workers import results
from benchmarks.peers import machine

ROOT = Path(__file__).resolve().parents[1]
TABLES = ("float32", "int8", "float16")
FIELDS, POOL, WARM_UP = 4, 16, 20
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def prepare(folder, rows, dim, batch):
    """Writes the three bundles and the requests into a folder; returns what the cards say of the tables."""
    import keras

    from keras_ctr import Categorical, Schema, models
    from keras_ctr.serving import export_bundle

    keras.utils.set_random_seed(1)
    schema = Schema([Categorical(f"field_{i}", rows // FIELDS, dtype="int64") for i in range(FIELDS)], ["click"])
    model = models.DCNv2(schema, embedding_dim=dim)
    for variable in model.variables:
        noise = np.random.default_rng(1).normal(size=variable.shape).astype("float32")
        variable.assign(keras.ops.convert_to_numpy(variable) + 0.05 * noise)
    said = {}
    for dtype in TABLES:
        path = export_bundle(model, schema, folder / dtype, tables=None if dtype == "float32" else dtype)
        said[dtype] = json.loads((path / "assets.extra" / "model_card.json").read_text())["tables"]
    rng = np.random.default_rng(2)
    requests = [{f.name: rng.integers(2, rows // FIELDS, batch).astype("int32") for f in schema.features} for _ in range(POOL)]
    (folder / "requests").write_bytes(pickle.dumps(requests))
    return said


def answer(folder, count, only=None):
    """Runs in the process without Keras: times all three, or tells the memory that `only` one takes."""
    spec = importlib.util.spec_from_file_location("runner", ROOT / "keras_ctr" / "serving" / "runner.py")
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    requests = pickle.loads((folder / "requests").read_bytes())
    saved = {}
    for dtype in [only] if only else TABLES:
        saved[dtype] = runner.SavedModelRunner(folder / dtype / "1", intra_op_threads=1, inter_op_threads=1)
        saved[dtype].run("encoded", requests[0])
    if only:
        return {"resident": _resident()}
    differences = dict.fromkeys(TABLES, 0.0)
    for request in requests:
        scores = {dtype: one.run("encoded", request)["click"] for dtype, one in saved.items()}
        for dtype in TABLES:
            differences[dtype] = max(differences[dtype], float(np.abs(scores[dtype] - scores["float32"]).max()))
    times = {dtype: [] for dtype in TABLES}
    for i in range(-WARM_UP, count):
        turn = i % len(TABLES)
        for dtype in (*TABLES[turn:], *TABLES[:turn]):
            start = time.perf_counter()
            saved[dtype].run("encoded", requests[i % POOL])
            if i >= 0:
                times[dtype].append(1e3 * (time.perf_counter() - start))
    return {"differences": differences, "times": times, "modules": sorted({"tensorflow", "keras", "keras_ctr"} & set(sys.modules))}


def _resident():
    """Returns the bytes that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _folder_bytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(rows, dim, batch, count):
    """Returns `{dtype: cell}`."""
    cells = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        said = prepare(folder, rows, dim, batch)
        environment = {**os.environ, **dict.fromkeys(THREADS, "1"), "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}

        def ask(only=None):
            command = [sys.executable, "-m", "benchmarks.small_tables", "--worker", name, "--requests", str(count)]
            command += ["--only", only] if only else []
            subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
            return json.loads((folder / "answer.json").read_text())

        found = ask()
        if found["modules"]:
            raise SystemExit(f"the process that measured holds {', '.join(found['modules'])}")
        for dtype in TABLES:
            times = found["times"][dtype]
            cells[dtype] = {
                "folder_bytes": _folder_bytes(folder / dtype / "1"),
                "table_bytes": said[dtype]["bytes_after"] if said[dtype] else rows * dim * 4,
                "largest_weight_change": said[dtype]["largest_error"] if said[dtype] else 0.0,
                "largest_score_change": found["differences"][dtype],
                "resident_bytes": ask(dtype)["resident"],
                "p50_ms": round(float(np.percentile(times, 50)), 3),
                "p99_ms": round(float(np.percentile(times, 99)), 3),
                "requests": len(times),
            }
    return cells


def table(document):
    """Returns the cells as a markdown table."""
    if not document:
        return "not measured\n"
    lines = ["| tables | folder, MB | resident, MB | p50, ms | p99, ms | largest change of a score |", "|---|--:|--:|--:|--:|--:|"]
    for dtype, cell in document["tables"].items():
        sizes = f"{cell['folder_bytes'] / 1e6:.1f} | {cell['resident_bytes'] / 1e6:.0f}"
        lines.append(f"| {dtype} | {sizes} | {cell['p50_ms']:.2f} | {cell['p99_ms']:.2f} | {cell['largest_score_change']:.1e} |")
    return "\n".join(lines) + "\n"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "small_tables.json")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of all tables")
    parser.add_argument("--dim", type=int, default=16, help="numbers in a row")
    parser.add_argument("--batch", type=int, default=512, help="rows of a request")
    parser.add_argument("--requests", type=int, default=300, help="timed requests")
    parser.add_argument("--table", action="store_true", help="print the markdown table of --out and measure nothing")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=TABLES, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.worker:
        (arguments.worker / "answer.json").write_text(json.dumps(answer(arguments.worker, arguments.requests, arguments.only)))
        return
    if not arguments.table:
        import keras
        import tensorflow as tf

        cells = measure(arguments.rows, arguments.dim, arguments.batch, arguments.requests)
        sizes = {"rows": arguments.rows, "dim": arguments.dim, "fields": FIELDS, "batch": arguments.batch}
        versions = {"keras": keras.__version__, "tensorflow": tf.__version__}
        document = {"sizes": sizes, "threads": 1, "machine": machine(), "versions": versions, "date": time.strftime("%Y-%m-%d")}
        # What else ran meanwhile: times are for comparison with each other.
        results.save(arguments.out, {**document, "load_average": round(os.getloadavg()[0], 1), "tables": cells})
    print(table(results.load(arguments.out)))


if __name__ == "__main__":
    main()
