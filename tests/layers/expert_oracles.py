"""Mixtures of experts by their equations, one row at a time, in float64."""

import keras
import numpy as np


def built(layer, shape):
    """The layer with random weights."""
    layer.build(shape)
    rng = np.random.default_rng(3)
    for weight in layer.trainable_weights:
        weight.assign(0.7 * rng.standard_normal(weight.shape))
    return layer


def numbers(tensor):
    return keras.ops.convert_to_numpy(tensor)


def weights_of(layer):
    """Weights in float64 by their paths below the layer."""
    return {w.path.split(f"{layer.name}/", 1)[1]: numbers(w).astype("float64") for w in layer.weights}


def mlp_of(w, name, row):
    """Dense layers with ReLU, as many as there are."""
    index = 0
    while f"{name}/dense_{index}/kernel" in w:
        row = np.maximum(row @ w[f"{name}/dense_{index}/kernel"] + w[f"{name}/dense_{index}/bias"], 0)
        index += 1
    assert index or name.endswith("hidden")  # a gate may be linear, an expert never
    return row


def gate_of(w, name, row):
    scores = mlp_of(w, f"{name}/hidden", row) @ w[f"{name}/scores/kernel"]
    e = np.exp(scores - scores.max())
    return e / e.sum()


def mixed(weights, vectors):
    total = np.zeros_like(vectors[0])
    for weight, vector in zip(weights, vectors, strict=True):
        total += weight * vector
    return total


def cgc(w, rows, num_tasks, specific, shared, shared_output, prefix=""):
    """Task vectors and, with `shared_output`, the shared one of a single row, and the gates; `rows` lists x_1, .., x_L, x_sh."""
    own = [[mlp_of(w, f"{prefix}task_{i}_expert_{k}", rows[i]) for k in range(specific)] for i in range(num_tasks)]
    common = [mlp_of(w, f"{prefix}shared_expert_{k}", rows[-1]) for k in range(shared)]
    out, gates = [], []
    for i in range(num_tasks):
        experts = own[i] + common
        gates.append(gate_of(w, f"{prefix}gate_{i}", rows[i]) if len(experts) > 1 else np.ones(1))
        out.append(mixed(gates[-1], experts))
    if shared_output:
        experts = [e for experts in own for e in experts] + common
        gates.append(gate_of(w, f"{prefix}shared_gate", rows[-1]) if len(experts) > 1 else np.ones(1))
        out.append(mixed(gates[-1], experts))
    return out, gates


def mlp_count(inputs, *units):
    total = 0
    for width in units:
        total += inputs * width + width
        inputs = width
    return total


def gate_count(inputs, experts, *units):
    return mlp_count(inputs, *units) + (units or (inputs,))[-1] * experts
