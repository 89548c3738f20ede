"""ResidualUnit against its equation."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ctr.layers.residual_unit import ResidualUnit
from tests.layer_contract import check_layer, weight_count

B, N, U = 5, 7, 3
X = np.random.default_rng(3).standard_normal((B, N))
EPSILON = 1e-3  # of Keras' batch normalisation


def built(**arguments):
    layer = ResidualUnit(U, **arguments)
    layer.build((None, N))
    rng = np.random.default_rng(4)
    for weight in layer.weights:
        weight.assign(np.abs(rng.standard_normal(weight.shape)) if "variance" in weight.path else rng.standard_normal(weight.shape))
    return layer


def values(layer):
    return {"/".join(w.path.split("/")[-2:]): ops.convert_to_numpy(w).astype("float64") for w in layer.weights}


def sums(w):
    """f(x W_1 + b_1) W_2 + b_2 + x, a scalar product at a time."""
    out = np.zeros((B, N))
    for b in range(B):
        inner = [max(0.0, X[b] @ w["inner/kernel"][:, u] + w["inner/bias"][u]) for u in range(U)]
        for n in range(N):
            out[b, n] = sum(inner[u] * w["outer/kernel"][u, n] for u in range(U)) + w["outer/bias"][n] + X[b, n]
    return out


@pytest.mark.parametrize("arguments", [{}, {"batch_norm": True, "activation": "tanh"}, {"dropout": 0.5}])
def test_contract(arguments):
    check_layer(ResidualUnit(U, **arguments), (B, N))


def test_equation():
    layer = built()
    want = np.maximum(sums(values(layer)), 0)
    got = ops.convert_to_numpy(layer(X.astype("float32")))
    assert np.abs(got - want).max() <= 1e-6 * want.max()


def test_normalisation_follows_the_sum():
    layer = built(batch_norm=True)
    w = values(layer)
    normed = (sums(w) - w["norm/moving_mean"]) / np.sqrt(w["norm/moving_variance"] + EPSILON) * w["norm/gamma"] + w["norm/beta"]
    np.testing.assert_allclose(layer(X.astype("float32")), np.maximum(normed, 0), rtol=1e-5, atol=1e-5)


def test_normalisation_uses_the_batch_in_training():
    layer = built(batch_norm=True)
    w = values(layer)
    total = sums(w)
    normed = (total - total.mean(axis=0)) / np.sqrt(total.var(axis=0) + EPSILON) * w["norm/gamma"] + w["norm/beta"]
    np.testing.assert_allclose(layer(X.astype("float32"), training=True), np.maximum(normed, 0), rtol=1e-4, atol=1e-4)


def test_without_a_second_map_it_is_the_activation_and_then_the_identity():
    layer = built()
    layer.outer.kernel.assign(np.zeros((U, N)))
    layer.outer.bias.assign(np.zeros(N))
    once = layer(X.astype("float32"))
    np.testing.assert_array_equal(once, np.maximum(X.astype("float32"), 0))
    np.testing.assert_array_equal(layer(once), once)


def test_dropout_acts_in_training_only():
    keras.utils.set_random_seed(3)
    layer, x = built(dropout=0.5), X.astype("float32")
    plain = ops.convert_to_numpy(layer(x))
    dropped = ops.convert_to_numpy(layer(x, training=True))
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], 2 * plain[kept], rtol=1e-6)
    assert (plain[~kept] != 0).any()


def test_parameter_count():
    assert weight_count(built()) == 2 * N * U + U + N
    assert weight_count(built(batch_norm=True)) == 2 * N * U + U + N + 2 * N


def test_the_two_maps_start_different():
    layer = ResidualUnit(N, kernel_initializer=keras.initializers.GlorotUniform(seed=1))
    layer.build((None, N))
    assert not np.array_equal(ops.convert_to_numpy(layer.inner.kernel), ops.convert_to_numpy(layer.outer.kernel))


@pytest.mark.parametrize("arguments, message", [({"units": 0}, "units"), ({"units": U, "dropout": 1.0}, "dropout")])
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResidualUnit(**arguments)
