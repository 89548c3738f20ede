"""Dice against its equation, with statistics over valid steps."""

import numpy as np
import pytest

from keras_ctr.layers.dice import Dice
from tests.layer_contract import check_layer, weight_count

B, T, N = 3, 5, 7


def example():
    rng = np.random.default_rng(2)
    mask = rng.random((B, T)) < 0.6
    mask[0] = False
    return rng.standard_normal((B, T, N)), mask


def dice(x, mean, variance, alpha):
    out = np.empty_like(x)
    for index in np.ndindex(x.shape):
        unit = index[-1]
        p = 1 / (1 + np.exp(-(x[index] - mean[unit]) / np.sqrt(variance[unit] + 1e-9)))
        out[index] = p * x[index] + (1 - p) * alpha[unit] * x[index]
    return out


def built():
    layer = Dice(momentum=0.9)
    layer.build((None, T, N))
    layer.alpha.assign(np.linspace(-1, 1, N))
    return layer


def test_contract():
    check_layer(Dice(), (B, N))
    check_layer(Dice(), (B, T, N), call_kwargs={"mask": example()[1]}, sequence=(0,), mask_output="sequence")


@pytest.mark.parametrize("masked_stats", [True, False])
def test_training_equation_and_moving_statistics(masked_stats):
    x, mask = example()
    layer = Dice.from_config({**built().get_config(), "masked_stats": masked_stats})
    layer.build((None, T, N))
    layer.alpha.assign(np.linspace(-1, 1, N))
    counted = x[mask] if masked_stats else x.reshape(-1, N)
    mean, variance = counted.mean(axis=0), counted.var(axis=0)
    got = layer(x.astype("float32"), mask=mask, training=True)
    np.testing.assert_allclose(got, dice(x, mean, variance, np.linspace(-1, 1, N)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(layer.norm.moving_mean, 0.1 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(layer.norm.moving_variance, 0.9 + 0.1 * variance, rtol=1e-4)


def test_inference_equation_uses_moving_statistics():
    x, mask = example()
    layer = built()
    mean, variance = np.linspace(-0.5, 0.5, N), np.linspace(0.5, 2, N)
    layer.norm.moving_mean.assign(mean)
    layer.norm.moving_variance.assign(variance)
    expected = dice(x, mean, variance, np.linspace(-1, 1, N))
    np.testing.assert_allclose(layer(x.astype("float32"), mask=mask), expected, rtol=1e-4, atol=1e-5)


def test_a_batch_without_valid_steps_stays_finite():
    x, mask = example()
    layer = built()
    assert np.all(np.isfinite(np.asarray(layer(x.astype("float32"), mask=np.zeros_like(mask), training=True))))
    assert np.all(np.isfinite(layer.norm.moving_variance))


def test_parameter_count():
    assert weight_count(built()) == N
    assert sum(int(np.prod(w.shape)) for w in built().non_trainable_weights) == 2 * N


@pytest.mark.parametrize("arguments", [{"momentum": 1.5}, {"epsilon": -1}])
def test_errors(arguments):
    with pytest.raises(ValueError, match="must"):
        Dice(**arguments)


def test_bad_input():
    with pytest.raises(ValueError, match="two axes"):
        Dice().build((None,))
