"""Gradient surgery against the loop of the paper's algorithm."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ctr import layers
from tests.gradients import gradients
from tests.layer_contract import check_layer


def algorithm(task_gradients):
    """Sum of the projected gradients, as the paper's algorithm 1 with the tasks in order; (L, n) float64."""
    total = np.zeros(task_gradients.shape[1])
    for i, own in enumerate(task_gradients):
        projected = own.copy()
        for j, other in enumerate(task_gradients):
            if j != i and projected @ other < 0:
                projected -= (projected @ other) / (other @ other) * other
        total += projected
    return total


def backward(task_gradients, batch=3):
    """What reaches the shared vector when task l's gradient is row l, `(L, B N)`."""
    num_tasks, size = task_gradients.shape
    upstream = ops.convert_to_tensor(task_gradients.reshape(num_tasks, batch, size // batch).transpose(1, 0, 2).astype("float32"))
    x = keras.Variable(np.ones((batch, size // batch), "float32"))
    layer = layers.GradientSurgery(num_tasks)
    (found,) = gradients(lambda: ops.sum(layer(1.0 * ops.convert_to_tensor(x)) * upstream), [x])
    return found.reshape(-1)


@pytest.mark.parametrize("num_tasks", [1, 2, 3, 5])
def test_gradient_is_that_of_the_algorithm(num_tasks):
    drawn = np.random.default_rng(num_tasks).normal(size=(num_tasks, 3 * 7))
    drawn[1:] -= 0.7 * drawn[:1]  # conflicts with the first task
    if num_tasks > 1:
        assert (drawn @ drawn.T).min() < 0
        assert not np.allclose(algorithm(drawn), drawn.sum(0), atol=1e-3)
    np.testing.assert_allclose(backward(drawn), algorithm(drawn), rtol=1e-5, atol=1e-5)


def test_without_a_conflict_it_is_the_plain_sum():
    drawn = np.abs(np.random.default_rng(0).normal(size=(3, 3 * 5)))
    np.testing.assert_allclose(backward(drawn), drawn.sum(0), rtol=1e-6)


def test_opposite_gradients_cancel():
    drawn = np.random.default_rng(0).normal(size=(1, 3 * 5))
    np.testing.assert_allclose(backward(np.concatenate([drawn, -2 * drawn])), 0.0, atol=1e-6)


def test_task_without_gradient_changes_nothing():
    drawn = np.random.default_rng(0).normal(size=(2, 3 * 5))
    drawn[1] = 0.0
    np.testing.assert_allclose(backward(drawn), drawn[0], rtol=1e-6)


def test_two_conflicting_tasks_by_hand():
    # g1 = (1, 0), g2 = (-1, 1): g1' = (1/2, 1/2), g2' = (0, 1)
    np.testing.assert_allclose(backward(np.array([[1.0, 0.0], [-1.0, 1.0]]), batch=1), [0.5, 1.5], rtol=1e-6)


def test_forward_hands_every_task_the_shared_vector():
    x = np.random.default_rng(0).normal(size=(3, 5)).astype("float32")
    out = ops.convert_to_numpy(layers.GradientSurgery(2)(x))
    np.testing.assert_array_equal(out, np.stack([x, x], axis=1))


def test_contract():
    check_layer(layers.GradientSurgery(3), (5, 7), has_weights=False)
    with pytest.raises(ValueError, match="num_tasks"):
        layers.GradientSurgery(0)
