"""Do DynInt's gates differ from row to row, and does it matter?

    python -m benchmarks.dynint_gates --raw DIR --out benchmarks/results/dynint_gates.json

The three variants on KuaiRand-Pure, one epoch, with the paper's composite of optimizers and with Adam, gate networks as in the paper and
with normalised input (`gate_norm`). After training, on the validation days: the standard deviation over rows of a gate network's
outputs, the mean of all outputs and layers (they stand beside the constant 1, in DWP 0.7; DA takes 2 sigmoid of them); AUC; AUC with
every output held at its mean over the rows, which leaves the same static network for all; and the standard deviation of the embeddings
that the networks read. The test days are scored once, by the model as trained.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from benchmarks import zoo
from benchmarks.comparison import mean_and_deviation, signed, text

LABEL = zoo.LABEL
VARIANTS = ("da", "dgp", "dwp")
OPTIMIZERS = {"composite, 0.02": zoo.COMPOSITE[2], "Adam, 1e-3": {"learning_rate": 1e-3}}
TRAINING = {"model": "DynInt", "labels": [LABEL], "batch_size": 1024, "epochs": 1, "patience": 0}
BATCH_SIZE = 2048


def cases(seeds=3):
    """Returns `[(name, configuration of benchmarks.study, seed)]`."""
    out = []
    for seed in range(1, seeds + 1):
        for optimizer, training in OPTIMIZERS.items():
            for variant in VARIANTS:
                for normed in (False, True):
                    arguments = {"variant": variant, "embedding_dim": 16, "gate_norm": normed}
                    name = f"DynInt-{variant.upper()}, {optimizer}, {'normalised' if normed else 'paper'}"
                    out.append((name, {"name": name, **TRAINING, **training, "arguments": arguments}, seed))
    return out


def gate_outputs(model, x):
    """Returns what the gate networks read, `(n, F, D)`, and give, `[(n, M) of each layer]`."""
    from keras import Model, ops

    interaction = model.get_layer("interaction")
    tokens = Model(model.inputs, interaction.input)
    names = [value.name for value in model.inputs]
    pool = np.asarray(tokens.predict({name: x[name] for name in names}, batch_size=BATCH_SIZE, verbose=0))
    chunks = [pool[start : start + BATCH_SIZE] for start in range(0, len(pool), BATCH_SIZE)]
    return pool, [np.concatenate([ops.convert_to_numpy(gate(chunk)) for chunk in chunks]) for gate in interaction.gates]


def hold_at_mean(model, outputs):
    """Makes every gate network give the mean of its outputs whatever it reads."""
    for gate, values in zip(model.get_layer("interaction").gates, outputs, strict=True):
        gate.out.kernel.assign(np.zeros(gate.out.kernel.shape, "float32"))
        gate.out.bias.assign(values.mean(axis=0))


def measure(config, seed, schema, rates, splits):
    """Trains one case and looks at its gates; returns a JSON-ready dict."""
    from benchmarks import study
    from keras_ctr import metrics

    model, data, _, figures = study.train({**study.DEFAULTS, **config}, seed, schema, rates, splits)

    def score(split):
        x, y = data[split]
        return metrics.evaluate(y[LABEL], study.predict(model, x)[LABEL])["auc"]

    found = {"validation_auc": score("validation"), "test_auc": score("test"), "seconds": figures["seconds"]}
    pool, outputs = gate_outputs(model, data["validation"][0])
    found["embedding_deviation"] = float(pool.std())
    found["gate_deviation"] = [float(values.std(axis=0).mean()) for values in outputs]
    hold_at_mean(model, outputs)
    return {**found, "validation_auc_at_mean": score("validation")}


def table(document):
    """Returns the markdown table of a document."""
    if not document:
        return "not measured\n"
    lines = [
        "| variant, optimizer, gate input | embeddings | gates | validation AUC | gates held at their mean | test AUC |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for name in dict.fromkeys(result["name"] for result in document["results"]):
        mine = [result for result in document["results"] if result["name"] == name]
        embedding, gate = (float(np.mean([r[key] for r in mine])) for key in ("embedding_deviation", "gate_deviation"))
        change, spread = mean_and_deviation([r["validation_auc_at_mean"] - r["validation_auc"] for r in mine])
        held = f"{change:+.5f} ± {spread:.5f}" if len(mine) > 1 else f"{change:+.5f}"
        validation, test = (text([r[key] for r in mine]) for key in ("validation_auc", "test_auc"))
        lines.append(f"| {name} | {embedding:.3f} | {gate:.4f} | {validation} | {held} | {test} |")
    return "\n".join(lines) + "\n"


def verdicts(document):
    """Yields what normalised input changes, paired by seed."""
    for optimizer in OPTIMIZERS:
        for variant in VARIANTS:
            for key in ("validation_auc", "test_auc"):
                plain, normed = (
                    _by_seed(document, f"DynInt-{variant.upper()}, {optimizer}, {form}", key) for form in ("paper", "normalised")
                )
                found = [normed[seed] - plain[seed] for seed in normed if seed in plain]
                if found:
                    yield f"DynInt-{variant.upper()}, {optimizer}: normalised input changes {key} by {signed(found)}"


def _by_seed(document, name, key):
    return {result["seed"]: result[key] for result in document["results"] if result["name"] == name}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    zoo.add_source(parser)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    document = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"results": []}
    done = {(result["name"], result["seed"]): result["config"] for result in document["results"]}
    todo = [case for case in cases(arguments.seeds) if (case[0], case[2]) not in done]
    for name, config, seed in cases(arguments.seeds):
        if done.get((name, seed), config) != config:
            sys.exit(f"{arguments.out}: '{name}' was run with other settings; give another --out")
    with zoo.arrays_of(arguments) as path:
        loaded = zoo.load(path, None, 1)
        for number, (name, config, seed) in enumerate(todo, 1):
            found = measure(config, seed, *loaded)
            document["results"].append({"name": name, "seed": seed, "config": config, **found})
            part = arguments.out.with_suffix(".part")
            part.write_text(json.dumps(document, indent=1) + "\n")
            part.replace(arguments.out)
            sys.stdout.write(f"[{number}/{len(todo)}] {name} seed {seed}: {found}\n")
            sys.stdout.flush()
    sys.stdout.write(table(document) + "\n".join(verdicts(document)) + "\n")


if __name__ == "__main__":
    main()
