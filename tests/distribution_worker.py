"""Trains models on one device and on two logical CPUs and tells, a line of JSON a case, by how much their weights differ.

Logical devices must be made before TensorFlow starts, so tests run this file as a process of its own: `compare` starts it.
"""

import contextlib
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

REPLICAS = 2
ROWS = 32  # of a batch: 16 a replica

VOCABULARIES = (1009, 2003)  # of the cost cases: primes that no other axis has

# Rates and constants are such that a step does not magnify the rounding of the sums over replicas, which differs from that of one sum:
# - SGD at the default rate of 0.01 makes InterFormer's mask network move by 27;
# - Adagrad and FTRL divide by sums of squares: where the gradient is zero but for rounding (the key bias of softmax attention) or
#   starts at 1e-6 (rows of InterFormer's table), a sum that starts near zero turns the relative rounding of g into one of the step.
OPTIMIZERS = {
    "SGD": lambda o: o.SGD(2e-3, momentum=0.9),
    "Adagrad": lambda o: o.Adagrad(0.05),
    "RowWiseAdagrad": lambda o: o.RowWiseAdagrad(0.02, initial_accumulator_value=1e-3),
    "LazyAdam": lambda o: o.LazyAdam(1e-3, epsilon=1e-5),
    "LazyAdamW": lambda o: o.LazyAdamW(1e-3, weight_decay=0.1, epsilon=1e-5),
    "FTRL": lambda o: o.FTRL(beta=0.01, l1=1e-3, l2=1e-3),
    "GroupLassoFTRL": lambda o: o.GroupLassoFTRL(beta=0.01, l1=5e-3, l2=1e-3),
    "dynint": lambda o: o.dynint(beta=0.01, l1=5e-3, l2=1e-3, dense_l1=1e-4),
    "wide_deep": lambda o: o.wide_deep(l1=1e-4),
    "default": lambda o: o.default(1e-3, table_learning_rate=2e-3, epsilon=1e-5),
    "clipped": lambda o: o.LazyAdam(1e-3, epsilon=1e-5, global_clipnorm=0.01),
    "original": lambda o: o.GroupLassoFTRL(beta=0.01, l1=1e-4, semantics="original"),
    "scaled": lambda o: o.LossScaleOptimizer(o.LazyAdam(1e-3, epsilon=1e-5)),
    "keras": lambda o: keras_adam(),
}


def keras_adam():
    """Returns the optimizer that is not row-sparse."""
    import keras

    return keras.optimizers.Adam()


def compare(cases, timeout):
    """Returns `{case name: result}` of cases run in one new process, one after another; `"error"` is in those that failed."""
    command = [sys.executable, "-m", "tests.distribution_worker", json.dumps(cases)]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent.parent, env=environment(), capture_output=True, timeout=timeout)
        out, end = done.stdout, f"exit code {done.returncode}: {done.stderr.decode()[-2000:]}"
    except subprocess.TimeoutExpired as error:
        out, end = error.stdout or b"", f"still running after {timeout} s"
    results = {case["name"]: {"error": f"not reached; {end}"} for case in cases}
    for line in out.decode().splitlines():
        if line.startswith("{"):
            result = json.loads(line)
            results[result.pop("name")] = result
    return results


def environment():
    """Returns the environment of a process that sees no GPU."""
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}


def run(case):
    """Returns what a case asks for.

    Args:
        case: `model`, `optimizer` (a name above), maybe `arguments` of the model, and one of
            `steps`: differences between one device and two, see `differences`; with `equal_halves` both replicas get the same rows, in
            another order; with `rows` so many rows are left out at the end of the last batch;
            `fits`: so many trainings of a new model on two devices, nothing else;
            `cost`: what a step does with the tables, see `cost`.
    """
    import numpy as np

    from keras_ctr import distribution
    from tests.sample import full_schema, random_rows

    strategy = distribution.mirrored(REPLICAS)
    if "cost" in case:
        return cost(case, strategy)
    schema, steps = full_schema(), case.get("steps", 3)
    x, y = random_rows(schema, ROWS * steps, seed=3)
    if case.get("equal_halves"):
        order = np.arange(ROWS * steps).reshape(steps, ROWS)
        order[:, ROWS // REPLICAS :] = order[:, : ROWS // REPLICAS][:, ::-1]
        x, y = ({name: values[order.ravel()] for name, values in part.items()} for part in (x, y))
    for step in x["brand"].reshape(steps, REPLICAS, -1).tolist():  # table rows twice in a part, and in both parts
        assert set(step[0]) & set(step[1]) and all(len(set(part)) < len(part) for part in step)
    if "fits" in case:
        for _ in range(case["fits"]):
            train(case, schema, x, y, strategy)
        return {"fits": case["fits"]}
    result = {}
    if "rows" in case:
        x, y = ({name: values[: case["rows"]] for name, values in part.items()} for part in (x, y))
        result = {"parts": parts(x, y, strategy, True), "parts_uncut": parts(x, y, strategy, False)}
    two = train(case, schema, x, y, strategy)
    if "rows" in case:
        keep = sum(map(sum, result["parts"]))
        x, y = ({name: values[:keep] for name, values in part.items()} for part in (x, y))
    one = train(case, schema, x, y, None)
    return {**result, **differences(one, two, strategy)}


def differences(one, two, strategy):
    """Returns `{path: largest difference}`, `{path: by how much the weight moved}` and the paths whose copies are not the same."""
    import numpy as np

    result = {"differences": {}, "moved": {}, "apart": []}
    for a, b, start, start_2 in zip(one[0].variables, two[0].variables, one[1], two[1], strict=True):
        if not np.issubdtype(start.dtype, np.floating):
            continue
        assert b.path == a.path and (start == start_2).all()
        end, copies = np.array(a.value.numpy()), [np.array(c.numpy()) for c in strategy.experimental_local_results(b.value)]
        assert len(copies) == REPLICAS
        result["differences"][a.path] = max(float(np.abs(end - copy).max()) for copy in copies)
        result["moved"][a.path] = float(np.abs(end - start).max())
        if (copies[0] != copies[1]).any():
            result["apart"].append(a.path)
    return result


def batches(x, y, strategy, cut=True):
    """Returns a dataset of batches of `ROWS` rows."""
    import tensorflow as tf

    from keras_ctr import distribution

    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(ROWS)
    return distribution.equal_batches(dataset, strategy) if strategy and cut else dataset


def parts(x, y, strategy, cut):
    """Returns the number of rows of every replica, for every batch."""
    distributed = strategy.experimental_distribute_dataset(batches(x, y, strategy, cut))
    return [[len(part) for part in strategy.experimental_local_results(labels["click"])] for _, labels in distributed]


def cost(case, strategy):
    """Returns the ops on whole tables and slots and on rows of them, by the copy of the variable, and what makes a tensor as long."""
    import keras
    import numpy as np

    import keras_ctr
    from keras_ctr import Categorical, Schema, Sequence
    from tests.cost_model import outputs_with, touched, train_graph

    a, b = VOCABULARIES
    schema = Schema([Categorical("a", a), Categorical("b", b, embedding_dim=3), Sequence("s", 5, table="a", target="a")], ["click"])
    rng = np.random.default_rng(0)
    x = {name: rng.integers(1, 50, shape).astype("int32") for name, shape in (("a", 14), ("b", 14), ("s", (14, 5)))}
    keras.backend.clear_session()
    with strategy.scope():
        model = keras_ctr.get_model(case["model"], schema, **case.get("arguments", {}))
        model.compile(OPTIMIZERS[case["optimizer"]](keras_ctr.optimizers), "binary_crossentropy")
    graph = train_graph(model, x, {"click": np.ones((14, 1), "float32")})
    tables = [v for v in model.trainable_variables if getattr(v, "row_sparse", False)]
    slots = [v for v in model.optimizer.variables if len(v.shape) and v.shape[0] in VOCABULARIES]
    found = touched(graph, [*tables, *slots])
    kinds = {kind: {path: sorted(ops[kind]) for path, ops in found.items()} for kind in ("whole", "rows")}
    return {"tables": len(tables), **kinds, "long": sorted(outputs_with(graph, VOCABULARIES))}


def train(case, schema, x, y, strategy):
    """Returns a trained model and its weights before the training."""
    import keras
    import numpy as np

    import keras_ctr

    keras.backend.clear_session()
    keras.utils.set_random_seed(1)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = keras_ctr.get_model(case["model"], schema, **case.get("arguments", {}))
        model.compile(OPTIMIZERS[case["optimizer"]](keras_ctr.optimizers), "binary_crossentropy")
    before = [np.array(v.value.numpy()) for v in model.variables]
    model.fit(batches(x, y, strategy), verbose=0, shuffle=False)
    return model, before


def main():
    import keras_ctr

    keras_ctr.distribution.logical_cpus(REPLICAS)
    for case in json.loads(sys.argv[1]):
        try:
            result = run(case)
        except Exception:
            result = {"error": traceback.format_exc()[-3000:]}
        print(json.dumps({"name": case["name"], **result}), flush=True)


if __name__ == "__main__":
    main()
