"""Builds the model of every draw from every search space and records what failed.

    python -m tuning.check_spaces --out benchmarks/results/spaces.json                          200 draws a space
    python -m tuning.check_spaces --out FILE --samples 5 --spaces DNN DynInt-DGP

Models are built on a small schema with fields, numerics, two groups of sequences and two labels, and asked for one batch. Draws that are
alike are built once. Results are written after every space, and a space whose same draws are in the file is not repeated.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_ctr
from keras_ctr import Categorical, Numeric, Schema, Sequence
from tuning.spaces import SPACES, get_space
from tuning.spaces.draw import Draw

SCHEMA = Schema(
    features=[
        Categorical("user", 101),
        Categorical("item", 53),
        Categorical("brand", 11),
        Numeric("price", transform="none"),
        Numeric("age", transform="log_square", num_bins=7),
        Sequence("clicked_item", max_length=7, table="item", target="item", group="clicks"),
        Sequence("clicked_brand", max_length=7, table="brand", target="brand", group="clicks"),
        Sequence("liked_item", max_length=5, table="item", target="item", group="likes"),
    ],
    labels=("click", "like"),
    group="user",
)
BUILDS_A_SESSION = 20


def draws(name, samples):
    """Returns the arguments of the default and of `samples - 1` random draws."""
    _, space = get_space(name)
    return [space(Draw(seed or None)) for seed in range(samples)]


def digest(drawn):
    """Returns what tells lists of drawn arguments apart."""
    return hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()[:16]


def check(name, samples):
    """Builds the models of a space's draws; returns `{"samples", "digest", "distinct", "built", "failed", "seconds"}`."""
    model, _ = get_space(name)
    drawn = draws(name, samples)
    distinct = {json.dumps(arguments, sort_keys=True): arguments for arguments in drawn}
    start, failed = time.perf_counter(), []
    for number, arguments in enumerate(distinct.values()):
        if number % BUILDS_A_SESSION == 0:
            keras.utils.clear_session()
        try:
            _score(keras_ctr.get_model(model, SCHEMA, **arguments))
        except Exception as error:  # whatever a factory raises is a finding
            failed.append({"arguments": arguments, "error": f"{type(error).__name__}: {error}"})
    built = len(distinct) - len(failed)
    seconds = round(time.perf_counter() - start, 1)
    return {"samples": samples, "digest": digest(drawn), "distinct": len(distinct), "built": built, "failed": failed, "seconds": seconds}


def _score(model):
    """Raises ValueError unless a model has a probability for every label of a batch."""
    rng = np.random.default_rng(0)
    x = {}
    for feature in SCHEMA.features:
        shape, dtype = (3, *SCHEMA.encoded_shape(feature.name)), SCHEMA.encoded_dtype(feature.name)
        x[feature.name] = rng.normal(size=shape).astype(dtype) if dtype == "float32" else rng.integers(0, 7, shape).astype(dtype)
    out = {label: keras.ops.convert_to_numpy(p) for label, p in model(x).items()}
    if list(out) != list(SCHEMA.label_names) or not all(p.shape == (3, 1) and np.all((p >= 0) & (p <= 1)) for p in out.values()):
        raise ValueError(f"outputs are no probabilities of {', '.join(SCHEMA.label_names)}: {out}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--spaces", nargs="*", default=list(SPACES), help="names of spaces, all by default")
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name in arguments.spaces:
        if results.get(name, {}).get("digest") == digest(draws(name, arguments.samples)):
            continue
        results[name] = check(name, arguments.samples)
        found = results[name]
        print(f"{name}: {found['built']} of {found['distinct']} built, {found['seconds']} s", flush=True)
        part = arguments.out.with_suffix(".part")
        part.write_text(json.dumps(results, indent=1) + "\n")
        part.replace(arguments.out)
    wrong = [name for name in arguments.spaces if results[name]["failed"]]
    if wrong:
        sys.exit(f"models that could not be built: {', '.join(wrong)}; see {arguments.out}")


if __name__ == "__main__":
    main()
