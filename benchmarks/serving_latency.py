"""Times requests through TensorFlow's C API: ten exported models against graphs built by hand of the same matrix products.

    python -m benchmarks.serving_latency --out benchmarks/results/serving_latency.json [--models DCNv2 DIN ...] [--again]
    python -m benchmarks.serving_latency --out benchmarks/results/serving_latency.json --table

The schema is an ordinary one: 16 fields, two of them the strings of an item and its author, 4 numerics, and a history of `--steps` events
with both strings, of which each row has 1 to `--steps`. Models have their default arguments and random weights.

`encoded` takes ids and is compared with the model's floor (`benchmarks.serving_floors`): a plain TensorFlow graph without Keras that has
the same weights and does what the model's equation says, no check and no mask that these requests do not need. Both answer the same
requests in turn, the order swapped from one request to the next; before anything is timed their answers must agree to 1e-5, so the floor
is the same function. `serving_default` takes raw values, as a server does: their look-up is on top, and there is no floor.

A process that has neither Keras nor TensorFlow's Python in it loads the SavedModels with `keras_ctr/serving/runner.py`, one thread within
and across operations. A request's time is that of `SavedModelRunner.run`: copying the features in, TensorFlow's session, copying the
scores out. The session's part is measured by itself too, since a server that is not written in Python has little else.
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
MODELS = ("LR", "FM", "DNN", "DeepFM", "DCNv2", "DynInt", "XDeepInt", "DIN", "BST", "InterFormer")
"""Two without a network, the usual deep ones, the package's own interactions, and three ways of reading a history."""
BATCHES, REQUESTS = (1, 32, 512), (400, 400, 150)
STEPS, POOL, WARM_UP = 50, 8, 10
VALUES = {"item": 20_000, "author": 5_000}
TOLERANCE = 1e-5
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def make_schema(steps=STEPS):
    """Returns the fitted schema and its vocabularies."""
    from keras_ctr import Categorical, Numeric, Schema, Sequence
    from keras_ctr.data import Vocabulary

    users = [Categorical(f"user_{i}", vocabulary_size=1000, dtype="int64") for i in range(8)]
    sides = [Categorical(name, vocabulary_size=count + 2) for name, count in VALUES.items()]
    context = [Categorical(f"context_{i}", vocabulary_size=50, dtype="int64") for i in range(6)]
    numbers = [Numeric(f"number_{i}", mean=0.0, std=1.0) for i in range(4)]
    events = [Sequence(f"seen_{name}", steps, table=name, target=name, group="seen") for name in VALUES]
    schema = Schema(features=[*users, *sides, *context, *numbers, *events], labels=["click"], group="user_0")
    return schema, {name: Vocabulary([f"{name}_{i:08d}" for i in range(count)]) for name, count in VALUES.items()}


def make_request(schema, rows, seed):
    """Returns one request as ids and as raw values: `({feature: array}, {feature: array or list})`."""
    from keras_ctr import Categorical, Numeric

    rng, encoded, raw = np.random.default_rng(seed), {}, {}
    lengths = rng.integers(1, schema.sequences[0].max_length + 1, rows)
    for feature in schema.features:
        name = feature.name
        if isinstance(feature, Numeric):
            encoded[name] = raw[name] = rng.normal(size=rows).astype("float32")
            continue
        size = schema.table_of(feature).vocabulary_size
        if isinstance(feature, Categorical):
            encoded[name] = rng.integers(2, size, rows).astype("int32")
            raw[name] = _text(name, encoded[name]) if name in VALUES else encoded[name].astype("int64")
        else:
            ids = rng.integers(2, size, (rows, feature.max_length)).astype("int32")
            encoded[name] = np.where(np.arange(feature.max_length) < lengths[:, None], ids, 0).astype("int32")
            raw[name] = [_text(feature.target, row) for row in encoded[name]]
    return encoded, raw


def _text(name, ids):
    """Returns the strings of ids, that of padding for 0."""
    return [f"{name}_{i - 2:08d}".encode() if i else b"" for i in ids.tolist()]


def make_model(name, schema, seed=1):
    """Returns the model with random weights, moving statistics and rows of padding among them."""
    import keras

    import keras_ctr

    keras.utils.set_random_seed(seed)
    model = keras_ctr.get_model(name, schema)
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        noise = rng.normal(size=variable.shape).astype("float32")
        if "moving_variance" in variable.path:
            variable.assign(np.exp(0.3 * noise))
        elif variable.dtype == "float32":
            variable.assign(keras.ops.convert_to_numpy(variable) + 0.05 * noise)
    return model


def prepare(name, folder, *, steps, batches, pool):
    """Writes the bundle `model`, the SavedModel `floor` and the `requests` of a model into a folder."""
    from benchmarks import serving_floors
    from keras_ctr.serving import export_model

    schema, vocabularies = make_schema(steps)
    model = make_model(name, schema)
    export_model(model, schema, vocabularies, folder / "model")
    serving_floors.save(name, model, schema, folder / "floor")
    requests = {rows: [make_request(schema, rows, (rows, i)) for i in range(pool)] for rows in batches}
    (folder / "requests").write_bytes(pickle.dumps(requests))


class _Clock:
    """TensorFlow's library with a watch on the session's runs."""

    def __init__(self, library):
        self._library, self.seconds = library, 0.0

    def __getattr__(self, name):
        return getattr(self._library, name)

    def TF_SessionRun(self, *arguments):  # noqa: N802, the name in the library
        start = time.perf_counter()
        self._library.TF_SessionRun(*arguments)
        self.seconds = time.perf_counter() - start


def answer(folder, counts):
    """Runs in the process that has no Keras: checks that all three answer alike, then times them.

    Args:
        folder: What `prepare` wrote.
        counts: `{rows: requests to be timed}`.

    Returns:
        `{"difference", "raw_difference", "cpu_share", "times": {rows: {what: [[ms of a request, ms of its session], ...]}}}`.
    """
    spec = importlib.util.spec_from_file_location("runner", ROOT / "keras_ctr" / "serving" / "runner.py")
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    requests = pickle.loads((folder / "requests").read_bytes())
    saved = {name: runner.SavedModelRunner(folder / name, intra_op_threads=1, inter_op_threads=1) for name in ("model", "floor")}
    clock = _Clock(saved["model"]._library)
    for one in saved.values():
        one._library = clock

    asked = {"floor": ("floor", "encoded", 0), "encoded": ("model", "encoded", 0), "serving_default": ("model", "serving_default", 1)}

    def run(what, request):
        which, signature, form = asked[what]
        start = time.perf_counter()
        scores = saved[which].run(signature, request[form])
        return next(iter(scores.values())), (1e3 * (time.perf_counter() - start), 1e3 * clock.seconds)

    worst = {"floor": 0.0, "serving_default": 0.0}
    for pool in requests.values():
        for request in pool:
            scores = {what: run(what, request)[0] for what in asked}
            for what in worst:
                worst[what] = max(worst[what], float(np.max(np.abs(scores[what] - scores["encoded"]))))
    times, used, passed = {}, 0.0, 0.0
    for rows, count in counts.items():
        times[rows] = {what: [] for what in asked}
        for group in (("floor", "encoded"), ("serving_default",)):
            wall, processor = time.perf_counter(), time.process_time()
            for i in range(-WARM_UP, count):
                for what in group if i % 2 else group[::-1]:
                    taken = run(what, requests[rows][i % len(requests[rows])])[1]
                    if i >= 0:
                        times[rows][what].append(taken)
            used, passed = used + time.process_time() - processor, passed + time.perf_counter() - wall
    for one in saved.values():
        one.close()
    foreign = sorted({"tensorflow", "keras", "keras_ctr"} & set(sys.modules))
    return {
        "difference": worst["floor"],
        "raw_difference": worst["serving_default"],
        "cpu_share": used / passed,
        "modules": foreign,
        "times": times,
    }


def measure(name, *, steps, batches, requests, pool=POOL):
    """Returns the cell of one model.

    Raises:
        SystemExit: If floor and model are not the same function, or the process that measured was not what the page says.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepare(name, Path(folder), steps=steps, batches=batches, pool=pool)
        environment = {**os.environ, **dict.fromkeys(THREADS, "1"), "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-m", "benchmarks.serving_latency", "--worker", folder, "--batches", *map(str, batches)]
        command += ["--requests", *map(str, requests)]
        subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        found = json.loads((Path(folder) / "times.json").read_text())
    return cell_of(name, found)


def cell_of(name, found):
    """Returns what is kept of a worker's answer: percentiles in ms and ratios of medians, per batch size."""
    if not found["difference"] <= TOLERANCE:
        raise SystemExit(f"{name}: the floor's scores differ from the model's by {found['difference']:.1e}, more than {TOLERANCE:.0e}")
    if not found["raw_difference"] <= TOLERANCE:
        raise SystemExit(f"{name}: scores of raw features differ from those of ids by {found['raw_difference']:.1e}")
    if found["modules"]:
        raise SystemExit(f"{name}: the process that measured holds {', '.join(found['modules'])}")
    cell = {"difference": found["difference"], "cpu_share": round(found["cpu_share"], 2), "date": time.strftime("%Y-%m-%d"), "batches": {}}
    for rows, times in found["times"].items():
        row = {}
        for what, pairs in times.items():
            whole, session = np.array(pairs).T
            row[what] = {
                "p50": round(float(np.percentile(whole, 50)), 3),
                "p99": round(float(np.percentile(whole, 99)), 3),
                "session_p50": round(float(np.percentile(session, 50)), 3),
                "session_p99": round(float(np.percentile(session, 99)), 3),
                "requests": len(pairs),
            }
        for ratio, key in (("ratio", "p50"), ("session_ratio", "session_p50")):
            row[ratio] = round(row["encoded"][key] / row["floor"][key], 3)
        cell["batches"][str(rows)] = row
    return cell


def study(arguments):
    """Measures the models that the file does not hold and writes it after each."""
    document = results.load(arguments.out)
    sizes = {"steps": arguments.steps, "batches": list(arguments.batches), "requests": list(arguments.requests)}
    if document.get("models") and document["sizes"] != sizes:
        raise SystemExit(f"{arguments.out} holds runs of {document['sizes']}; choose another file")
    todo = [name for name in arguments.models if arguments.again or name not in document.get("models", {})]
    begin = time.perf_counter()
    for index, name in enumerate(todo):
        cell = measure(name, **sizes)
        document = results.load(arguments.out)
        document.update(sizes=sizes, threads=1, machine=machine(), versions=_versions())
        document.setdefault("models", {})[name] = cell
        results.save(arguments.out, document)
        left = (time.perf_counter() - begin) / (index + 1) * (len(todo) - index - 1)
        print(f"[{index + 1}/{len(todo)}] {name}: {line(cell)}; left {left / 60:.1f} min", flush=True)


def _versions():
    import keras
    import tensorflow as tf

    import keras_ctr

    return {"keras": keras.__version__, "tensorflow": tf.__version__, "keras_ctr": keras_ctr.__version__}


def line(cell):
    """Returns a cell in a few words."""
    return ", ".join(
        f"{rows}: {row['floor']['p50']:.2f} -> {row['encoded']['p50']:.2f} ms ({row['ratio']:.2f}, session {row['session_ratio']:.2f})"
        for rows, row in cell["batches"].items()
    )


def tables(document):
    """Returns `{name: markdown}` of a document: `serving_floor`, ids against the floor; `serving_raw`, raw features."""
    models = document.get("models", {})
    if not models:
        return dict.fromkeys(("serving_floor", "serving_raw"), "not measured\n")
    batches = [str(rows) for rows in document["sizes"]["batches"]]
    names = [name for name in MODELS if name in models] + [name for name in models if name not in MODELS]

    def made(title, columns, entries):
        lines = [f"| {title} | {' | '.join(columns)} |", "| --- |" + " --: |" * len(columns)]
        return "\n".join([*lines, *(f"| {name} | {' | '.join(entries(models[name]['batches']))} |" for name in names)]) + "\n"

    def floors(rows):
        return [text for b in batches for text in (_pair(rows[b]["floor"]), _pair(rows[b]["encoded"]), _ratio(rows[b]))]

    columns = [f"{b}: {what}" for b in batches for what in ("floor", "model", "ratio")]
    return {
        "serving_floor": made("ids", columns, floors),
        "serving_raw": made(
            "raw features", [f"{b} rows" for b in batches], lambda rows: [_pair(rows[b]["serving_default"]) for b in batches]
        ),
    }


def _ratio(row):
    return f"{row['ratio']:.2f} ({row['session_ratio']:.2f})"


def _pair(times):
    digits = 2 if times["p50"] < 10 else 1
    return f"{times['p50']:.{digits}f} / {times['p99']:.{digits}f}"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "serving_latency.json")
    parser.add_argument("--table", action="store_true", help="print markdown tables of --out and measure nothing")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES, help="rows of a request")
    parser.add_argument("--requests", nargs="+", type=int, default=REQUESTS, help="timed requests, one number a batch size")
    parser.add_argument("--steps", type=int, default=STEPS, help="T of the history")
    parser.add_argument("--again", action="store_true", help="measure models that the file holds, too")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if len(arguments.batches) != len(arguments.requests):
        parser.error("--requests needs one number for each of --batches")
    if arguments.worker:
        found = answer(arguments.worker, dict(zip(arguments.batches, arguments.requests, strict=True)))
        (arguments.worker / "times.json").write_text(json.dumps(found))
    elif arguments.table:
        print("\n".join(tables(results.load(arguments.out)).values()))
    else:
        study(arguments)


if __name__ == "__main__":
    main()
