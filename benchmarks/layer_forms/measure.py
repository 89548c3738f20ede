"""How forms are compared and timed: one process, forms in turn, medians over rounds; and memory, one process a form."""

import gc
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks.layer_forms.case import OURS
from benchmarks.peer_workers import results

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-4  # of the largest element of a tensor: float32 sums of some thousand terms in another order
MEMORY_STEPS = 3


class FormsDisagree(AssertionError):
    """Two forms of a case are not the same function; their times must not be compared."""


def step_function(form, jit=False):
    """Returns a compiled `f(inputs, extras, upstream) -> (output, gradients of inputs and weights)`."""
    variables = [weight.value for weight in form.weights]

    def step(inputs, extras, upstream):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            out = form.call(*inputs, *extras)
        return out, tape.gradient(out, [*inputs, *variables], output_gradients=upstream)

    return tf.function(step, autograph=False, jit_compile=jit)


def arguments_of(built, seed=1, rows=None):
    """Returns the arguments of a step function: tensors of the case (of its first `rows` rows) and a random upstream gradient."""
    inputs = [tf.constant(x[:rows]) for x in built.inputs]
    extras = [tf.constant(x[:rows]) for x in built.extras]
    shape = built.forms[OURS].call(*(x[:2] for x in inputs), *(x[:2] for x in extras)).shape[1:]
    upstream = np.random.default_rng(seed + 1).standard_normal((inputs[0].shape[0], *shape), dtype=np.float32)
    return inputs, extras, tf.constant(upstream)


def differences(reference, other):
    """Returns the largest absolute difference and the largest one relative to the largest element of its tensor, outputs and gradients.

    Args:
        reference, other: What a step function returns.

    Raises:
        FormsDisagree: If a tensor is missing, has another shape or is not finite.
    """
    largest = relative = 0.0
    for index, (a, b) in enumerate(zip([reference[0], *reference[1]], [other[0], *other[1]], strict=True)):
        what = "the output" if index == 0 else f"gradient {index - 1}"
        if a is None or b is None or a.shape != b.shape:
            raise FormsDisagree(f"{what} is {getattr(a, 'shape', None)} in one form, {getattr(b, 'shape', None)} in the other")
        a, b = a.numpy(), b.numpy()
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise FormsDisagree(f"{what} is not finite")
        difference = float(np.abs(a - b).max(initial=0.0))
        largest = max(largest, difference)
        relative = max(relative, difference / (float(np.abs(a).max(initial=0.0)) or 1.0))
    return largest, relative


def label_of(name, jit):
    """Returns the name of a column: a form, under XLA or not."""
    return f"{name}, XLA" if jit else name


def compare(case, built, arguments):
    """Compiles and runs every form once.

    Returns:
        `(functions, differences, failures)`: `{column: function}` and `{column: {"largest_difference", "relative_difference"}}` of the
        forms that ran, ours without XLA first; `{column: error}` of the others.

    Raises:
        FormsDisagree: If a form is not the function that ours is.
    """
    functions, found, failures = {}, {}, {}
    reference = None
    for jit in (False, True) if case.jit else (False,):
        for name in (OURS, *(n for n in built.forms if n != OURS)):
            column = label_of(name, jit)
            function = step_function(built.forms[name], jit)
            try:
                values = function(*arguments)
            except (tf.errors.OpError, ValueError) as error:
                if reference is None:
                    raise
                failures[column] = str(error).strip().splitlines()[-1][:300]
                continue
            if reference is None:
                reference = values
            absolute, relative = differences(reference, values)
            if relative > TOLERANCE:
                raise FormsDisagree(f"{case.name}: '{column}' differs from ours by {relative:.1e} of the largest element")
            functions[column] = function
            found[column] = {"largest_difference": float(f"{absolute:.3g}"), "relative_difference": float(f"{relative:.3g}")}
    return functions, found, failures


def seconds_of(function):
    """Returns how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def interleave(functions, *, rounds, steps, block_seconds):
    """Times functions in turn; each round begins with another one, so that a drift of the machine falls on all.

    Args:
        functions: `{name: function without arguments}`, warm.
        rounds: Number of rounds.
        steps: Calls of each function a round; fewer where they would take over `block_seconds`, at least one.
        block_seconds: See `steps`.

    Returns:
        `{name: [[seconds of a call, ...] a round]}`.
    """
    counts = {name: max(1, min(steps, int(block_seconds / max(seconds_of(f), 1e-9)))) for name, f in functions.items()}
    out = {name: [] for name in functions}
    names = list(functions)
    for index in range(rounds):
        for name in names[index % len(names) :] + names[: index % len(names)]:
            out[name].append([seconds_of(functions[name]) for _ in range(counts[name])])
    return out


def summarise(rounds, ours):
    """Returns `{name: {"median_ms", "quartiles_ms", "ratio", "ratio_quartiles", "calls"}}`; a ratio is over 1 where `ours` is faster."""
    out = {}
    for name, seconds in rounds.items():
        values = results.summary(seconds, rounds[ours])
        out[name] = {k: v for k, v in values.items() if not k.startswith("ours_")}
        out[name]["calls"] = sum(map(len, seconds))
    return out


def measure(case, *, batch_size, rounds, steps, block_seconds, threads, seed=1, sizes=None, memory=True):
    """Checks and times all forms of a case; returns its cell.

    Args:
        case: A `Case`.
        batch_size: Before the case's own reduction.
        rounds, steps, block_seconds: See `interleave`.
        threads: For the record, and for the processes that measure memory.
        seed: Of weights and inputs.
        sizes: Replacements of the case's sizes.
        memory: Whether to measure memory where the case asks for it.

    Raises:
        FormsDisagree: If a form is not the function that ours is.
    """
    sizes, batch = sizes or {}, case.batch(batch_size)
    built = case.make(batch, seed, **sizes)
    forms = _timed(case, built, seed, rounds=rounds, steps=steps, block_seconds=block_seconds)
    cell = {"name": case.name, "kind": "forms", "batch_size": batch, "sizes": {**case.sizes, **sizes}, "rounds": rounds}
    cell.update(threads=threads, date=time.strftime("%Y-%m-%d"), forms=forms)
    if built.dynamic_bytes:
        cell["dynamic_bytes_per_layer"] = built.dynamic_bytes
        cell["dynamic_reduction_percent"] = reductions(built.dynamic_bytes)
    names = list(built.forms)
    del built  # its tensors, before other processes need the memory
    gc.collect()
    if case.memory and memory:
        for name in names:
            grown = in_a_process({"case": case.name, "form": name, "batch": batch, "seed": seed, "sizes": sizes}, threads)
            forms.setdefault(name, {}).update(grown)
        sizes_mb = {name: forms[name]["memory_mb"] for name in names if "memory_mb" in forms[name]}
        if "materialised" in sizes_mb:
            cell["memory_reduction_percent"] = reductions(sizes_mb)
    return cell


def _timed(case, built, seed, **times):
    """Checks and times the forms; returns `{column: figures, or an error}`."""
    arguments = arguments_of(built, seed)
    functions, found, failures = compare(case, built, arguments)

    def call(function):
        return lambda: function(*arguments)[0].numpy()  # reading the output waits for it

    seconds = interleave({name: call(function) for name, function in functions.items()}, **times)
    forms = {name: {**values, **found[name]} for name, values in summarise(seconds, OURS).items()}
    return {**forms, **{name: {"error": error} for name, error in failures.items()}}


def reductions(sizes):
    """Returns by how many percent each entry is smaller than `"materialised"`."""
    return {name: round(100 * (1 - size / sizes["materialised"]), 2) for name, size in sizes.items() if name != "materialised"}


def in_a_process(job, threads):
    """Runs a job of `benchmarks.layer_forms.__main__` in a process of its own; returns its answer, or `{"memory_error": text}`."""
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    variables = {**os.environ, **dict.fromkeys(names, str(threads)), "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "benchmarks.layer_forms", json.dumps(job)]
    done = subprocess.run(command, cwd=ROOT, env={**variables, "KERAS_BACKEND": "tensorflow"}, capture_output=True, text=True)
    if done.returncode:
        text = (done.stderr.strip().splitlines() or ["nothing on stderr"])[-1].replace(f"{ROOT}/", "")
        return {"memory_error": f"status {done.returncode}: {text[:300]}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def peak_bytes():
    """Returns the largest resident size of this process so far."""
    # Not `ru_maxrss` where there is better: across fork and exec it starts at the parent's, here a process full of tensors.
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_bytes():
    """Returns the resident size of this process now, the largest so far where that is not known."""
    return _status("VmRSS") or peak_bytes()


def _status(key):
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":")), None)


def forget_peak():
    """Makes the present resident size the largest so far, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def memory_of(case, form, batch, seed=1, sizes=None):
    """Returns `{"memory_mb": growth of the resident size over some steps of a form}`, MB = 10^6 bytes; to be run in a fresh process."""
    built = case.make(batch, seed, **(sizes or {}))
    function = step_function(built.forms[form])
    function(*arguments_of(built, seed, rows=2))  # what TensorFlow loads at its first step is not the form's
    arguments = arguments_of(built, seed)
    gc.collect()
    forget_peak()
    before = resident_bytes()
    for _ in range(MEMORY_STEPS):
        function(*arguments)[0].numpy()
    return {"memory_mb": round((peak_bytes() - before) / 1e6, 1)}
