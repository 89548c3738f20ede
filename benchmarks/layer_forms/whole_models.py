"""Training steps of whole models: the two precisions against each other, and how much memory one takes."""

import time

import keras
import numpy as np

import keras_ctr
from benchmarks.layer_forms.measure import in_a_process, interleave, peak_bytes, summarise
from benchmarks.peer_workers import architectures, keras_ctr_worker, keras_steps, synthetic
from keras_ctr.optimizers import default

ROWS = 100_000
POOL = 8
POLICIES = ("float32", "mixed_bfloat16")
SMALL_INTERFORMER = {"embedding_dim": 16, "num_layers": 2, "num_heads": 2, "num_summary": 4, "num_recent": 4, "hidden_units": (256, 128)}
MEMORY_LIMIT_GB = 8.0

# name -> (factory, arguments, whether there is a history in the place of the numbers, part of the batch size)
MODELS = {
    **{name: (*keras_ctr_worker.factory_arguments(name), False, 1.0) for name in ("DCNv2", "DeepFM", "xDeepFM", "AutoInt", "Wukong")},
    "DIN": (*keras_ctr_worker.factory_arguments("DIN"), True, 1.0),
    "DynInt-DGP": ("DynInt", {**keras_ctr_worker.TOKENS, "variant": "dgp", "num_subspaces": 4}, False, 1.0),
    "InterFormer": ("InterFormer", SMALL_INTERFORMER, True, 0.25),
    "XDeepInt": ("XDeepInt", {**keras_ctr_worker.TOKENS, "num_subspaces": 16}, False, 1.0),
}
PRECISION = tuple(name for name in MODELS if name != "XDeepInt")
MEMORY = ("XDeepInt",)


def training_step(name, policy, data, rows, seed):
    """Returns a function that makes one step of `fit` with `optimizers.default` and returns the loss."""
    factory, arguments, history, _ = MODELS[name]
    keras.utils.set_random_seed(seed)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        schema = keras_ctr_worker.make_schema(synthetic.table_sizes(rows), "DIN" if history else name)
        model = getattr(keras_ctr.models, factory)(schema, **arguments)
        model.compile(default(learning_rate=architectures.LEARNING_RATE), "binary_crossentropy")
        step = keras_steps.training_step(model, [(keras_ctr_worker.inputs_of(b), {"click": b["label"]}) for b in data])
        step()  # traced under the policy
    finally:
        keras.config.set_dtype_policy(before)
    return step


def batches_of(name, batch_size, rows, seed, pool=POOL):
    """Returns `(B, synthetic batches)` for a model."""
    _, _, history, share = MODELS[name]
    batch = max(2, int(batch_size * share))
    return batch, synthetic.batches(rows, batch_size=batch, pool=pool, seed=seed, history=history)


def precision(name, *, batch_size, rounds, steps, block_seconds, threads, rows=ROWS, seed=1, pool=POOL):
    """Times a model's training step under both policies in turn; returns its cell. A ratio under 1: bfloat16 is faster.

    Raises:
        FloatingPointError: If a loss is not finite.
    """
    batch, data = batches_of(name, batch_size, rows, seed, pool)
    functions = {policy: training_step(name, policy, data, rows, seed) for policy in POLICIES}
    times = interleave(functions, rounds=rounds, steps=steps, block_seconds=block_seconds)
    losses = {policy: function() for policy, function in functions.items()}
    if not np.isfinite(list(losses.values())).all():
        raise FloatingPointError(f"{name}: the losses are {losses}")
    cell = {"name": f"precision_{name}", "kind": "precision", "model": name, "batch_size": batch, "rows": rows, "rounds": rounds}
    cell.update(threads=threads, date=time.strftime("%Y-%m-%d"), forms=summarise(times, "float32"))
    cell["losses"] = {policy: round(loss, 4) for policy, loss in losses.items()}
    return cell


def memory(name, *, batch_size, threads, rows=ROWS, seed=1):
    """Measures the largest resident size of a process that trains a model; returns its cell."""
    cell = {"name": f"memory_{name}", "kind": "memory", "model": name, "batch_size": batch_size, "rows": rows, "threads": threads}
    answer = in_a_process({"model": name, "batch": batch_size, "rows": rows, "seed": seed}, threads)
    if "memory_error" in answer:
        return {**cell, "date": time.strftime("%Y-%m-%d"), "error": answer["memory_error"]}
    return {**cell, "date": time.strftime("%Y-%m-%d"), **answer, "limit_gb": MEMORY_LIMIT_GB}


def memory_of_training(name, *, batch_size, rows, seed, steps=3):
    """Returns `{"peak_gb", "before_gb", "loss"}` of this process, GB = 10^9 bytes, before the model is built and after some steps."""
    _, data = batches_of(name, batch_size, rows, seed, pool=2)
    before = peak_bytes()
    step = training_step(name, "float32", data, rows, seed)
    losses = [step() for _ in range(steps)]
    return {"peak_gb": round(peak_bytes() / 1e9, 3), "before_gb": round(before / 1e9, 3), "loss": round(losses[-1], 4)}
