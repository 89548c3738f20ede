"""Sizes, inputs and random weights of the parity tests."""

import keras
import numpy as np

from keras_ctr.layers import CrossNetwork

B, F, D, N, K, E, L = 5, 7, 6, 11, 3, 2, 3  # rows, fields, width, flat width, rank, experts, layers


def tokens():
    return np.random.default_rng(4).standard_normal((B, F, D)).astype("float32")


def vectors():
    return np.random.default_rng(5).standard_normal((B, N)).astype("float32")


def built(layer, *shapes, scale=0.5):
    """The layer, built, with every weight drawn from a normal distribution, biases and statistics included."""
    layer.build(*shapes)
    rng = np.random.default_rng(3)
    for weight in layer.weights:
        values = scale * rng.standard_normal(weight.shape)
        weight.assign(np.abs(values) + 0.5 if "variance" in weight.name else values)
    return layer


def values(layer):
    """NumPy weights by name."""
    return {weight.name: keras.ops.convert_to_numpy(weight) for weight in layer.weights}


def shared_gate_mixture():
    """A mixture of low-rank crosses with one gate in all layers, and its weights as torch implementations have them."""
    layer = built(CrossNetwork(L, parameterization="mixture", rank=K, num_experts=E), (None, N))
    for weights in layer.cross_weights:
        weights["kernel_gate"].assign(layer.cross_weights[0]["kernel_gate"])
    stacked = {name: np.stack([keras.ops.convert_to_numpy(ours[name]) for ours in layer.cross_weights]) for name in layer.cross_weights[0]}
    return layer, {
        "u": stacked["kernel_u"].transpose(0, 1, 3, 2),  # (L, E, N, K)
        "v": stacked["kernel_v"],
        "c": stacked["kernel_c"].transpose(0, 1, 3, 2),  # theirs C v, ours v C
        "gate": stacked["kernel_gate"][0].T,  # (E, N)
        "bias": stacked["bias"][:, :, None],
    }


def assert_same(ours, theirs, tolerance=2e-5):
    theirs = np.asarray(theirs)
    assert np.abs(theirs).max() > 1e-2
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=tolerance, atol=tolerance)
