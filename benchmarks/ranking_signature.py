"""Times one user against 512 candidates: the signature `rank` against 512 whole rows of `serving_default`.

    python -m benchmarks.ranking_signature --out benchmarks/results/ranking_signature.json [--models DIN DIEN ...] [--candidates 512]

The schema is that of a feed: ten fields of the user, eight of the candidate (item, author and category strings, five integers), two
numerics of the candidate, and a history of `--steps` events with three attributes that are looked up as strings. Models have their
default arguments and random weights. Requests go through TensorFlow's C API with one thread, and a request's strings are built from
Python's each time, as a server parses them each time; both signatures answer the same question in turn, and medians are compared. The
answers must agree to 1e-6, or the run fails.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

import keras_ctr
from keras_ctr import Categorical, Numeric, Schema, Sequence
from keras_ctr.data import Vocabulary
from keras_ctr.serving import SavedModelRunner, export_model

MODELS = ("DNN", "DIN", "DIEN", "DMIN", "DMR", "SIM", "BST", "TransAct", "HSTU", "OneTrans", "InterFormer")
SIDES = ("item", "author", "category")
VALUES = {"item": 20_000, "author": 5_000, "category": 200}
CANDIDATE = (*SIDES, "tab", "kind", "music", "hour_shown", "quality", "duration", "age")


def make_schema(steps):
    """Returns the fitted schema and its vocabularies."""
    sides = [Categorical(name, vocabulary_size=count + 2) for name, count in VALUES.items()]
    own = [Categorical(name, vocabulary_size=50, dtype="int64") for name in ("tab", "kind", "music", "hour_shown", "quality")]
    users = [Categorical(f"user_{i}", vocabulary_size=1000, dtype="int64") for i in range(10)]
    numbers = [Numeric(name, mean=0.0, std=1.0) for name in ("duration", "age")]
    events = [Sequence(f"seen_{name}", steps, table=name, target=name, group="seen") for name in SIDES]
    schema = Schema(features=[*users, *sides, *own, *numbers, *events], labels=["click"], group="user_0")
    return schema, {name: Vocabulary([f"{name}_{i:08d}" for i in range(count)]) for name, count in VALUES.items()}


def make_requests(schema, candidates, steps, seed=0):
    """Returns `(whole rows, ranking request)` of one user and its candidates."""
    rng, rows, once = np.random.default_rng(seed), {}, {}
    for feature in schema.features:
        name = feature.name
        values = 1 if name not in CANDIDATE else candidates
        if isinstance(feature, Sequence):
            ids = rng.integers(0, VALUES[feature.target], steps)
            column = [[f"{feature.target}_{i:08d}".encode() for i in ids]]
        elif isinstance(feature, Numeric):
            column = rng.normal(size=values).astype("float32")
        elif feature.dtype == "string":
            column = [f"{name}_{i:08d}".encode() for i in rng.integers(0, VALUES[name], values)]
        else:
            column = rng.integers(2, 50, values)
        once[name] = column
        whole = name in CANDIDATE
        rows[name] = column if whole else column * candidates if isinstance(column, list) else np.repeat(column, candidates)
    return rows, once


def measure(name, candidates, steps, rounds):
    """Returns the cell of one model: medians and quartiles in ms of both signatures, their ratio, the largest difference of a score."""
    schema, vocabularies = make_schema(steps)
    keras.utils.set_random_seed(1)
    model = keras_ctr.get_model(name, schema)
    rng = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign(keras.ops.convert_to_numpy(weight) + rng.normal(size=weight.shape).astype("float32") * 0.02)
    requests = dict(zip(("serving_default", "rank"), make_requests(schema, candidates, steps), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        path = export_model(model, schema, vocabularies, Path(folder) / "1", candidate_features=CANDIDATE)
        with SavedModelRunner(path, intra_op_threads=1, inter_op_threads=1) as saved:
            scores = {signature: saved.run(signature, request)["click"] for signature, request in requests.items()}
            for signature, request in requests.items():
                saved.run(signature, request)
            times = {signature: [] for signature in requests}
            for _ in range(rounds):
                for signature, request in requests.items():
                    start = time.perf_counter()
                    saved.run(signature, request)
                    times[signature].append(1e3 * (time.perf_counter() - start))
    difference = float(np.max(np.abs(scores["rank"] - scores["serving_default"])))
    if not difference < 1e-6:
        raise SystemExit(f"{name}: the two signatures differ by {difference:.2e}, more than 1e-6")
    cell = {
        signature: dict(zip(("low", "median", "high"), np.percentile(t, (25, 50, 75)).round(2).tolist(), strict=True))
        for signature, t in times.items()
    }
    ratio = float(np.median(np.array(times["serving_default"]) / np.array(times["rank"])))
    return {**cell, "ratio": round(ratio, 2), "difference": difference}


def table(document):
    """Returns the markdown table of a document, the largest ratio first."""
    if not document:
        return "not measured\n"
    lines = [f"| model | {document['sizes']['candidates']} rows, ms | `rank`, ms | ratio |", "| --- | --: | --: | --: |"]
    for name, cell in sorted(document["models"].items(), key=lambda item: -item[1]["ratio"]):
        lines.append(f"| {name} | {cell['serving_default']['median']:.0f} | {cell['rank']['median']:.0f} | {cell['ratio']:.1f} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--candidates", type=int, default=512)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=21)
    arguments = parser.parse_args()
    sizes = {"candidates": arguments.candidates, "steps": arguments.steps, "rounds": arguments.rounds}
    document = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"models": {}}
    if document["models"] and document["sizes"] != sizes:
        raise SystemExit(f"{arguments.out} holds runs of {document['sizes']}; choose another file")
    document.update(sizes=sizes, threads=1, machine=platform.machine(), date=time.strftime("%Y-%m-%d"))
    for name in arguments.models:
        document["models"][name] = cell = measure(name, **sizes)
        print(
            f"{name:<12} rows {cell['serving_default']['median']:8.1f} ms   rank {cell['rank']['median']:8.1f} ms   {cell['ratio']:.1f} x"
        )
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        temporary = arguments.out.with_name(f"{arguments.out.name}.incomplete")
        temporary.write_text(json.dumps(document, indent=1) + "\n")
        os.replace(temporary, arguments.out)


if __name__ == "__main__":
    main()
