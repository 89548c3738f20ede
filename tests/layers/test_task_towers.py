"""Task towers against a loop over their equation."""

import keras
import numpy as np
import pytest

from keras_ctr.layers.dice import Dice
from keras_ctr.layers.task_towers import TaskTowers
from tests.layer_contract import check_layer, weight_count

B, L, N, UNITS = 7, 3, 5, (11, 2)
SHAPES = [(B, N), (B, L, N)]


def built(layer, shape):
    layer.build((None, *shape[1:]))
    rng = np.random.default_rng(3)
    for weight in layer.trainable_weights:
        weight.assign(0.5 * rng.standard_normal(weight.shape))
    return layer


def towers(layer, x):
    """Logits in float64, one task and one row at a time."""
    w = {"/".join(v.path.split("/")[-3:]): keras.ops.convert_to_numpy(v).astype("float64") for v in layer.weights}
    out = np.zeros((len(x), L))
    for i in range(L):
        for b in range(len(x)):
            z = x[b] if x.ndim == 2 else x[b, i]
            for index in range(len(layer.hidden_units)):
                z = np.maximum(z @ w[f"tower_{i}/dense_{index}/kernel"] + w[f"tower_{i}/dense_{index}/bias"], 0)
            out[b, i] = (z @ w[f"{layer.name}/logit_{i}/kernel"] + w[f"{layer.name}/logit_{i}/bias"])[0]
    return out


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("units", [UNITS, ()])
def test_against_the_equation(shape, units):
    layer = built(TaskTowers(L, units, name="towers"), shape)
    x = np.random.default_rng(4).standard_normal(shape)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(x.astype("float32"))), towers(layer, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_contract(shape):
    check_layer(TaskTowers(L, UNITS), shape, output_dtype="float32")


def test_contract_of_linear_towers_and_of_an_activation_layer():
    check_layer(TaskTowers(L, ()), (B, N), output_dtype="float32")
    check_layer(TaskTowers(L, UNITS, activation=Dice()), (B, L, N), output_dtype="float32")


def test_parameter_count():
    tower = (N + 1) * 11 + (11 + 1) * 2 + 2 + 1
    assert weight_count(built(TaskTowers(L, UNITS), (B, N))) == L * tower
    assert weight_count(built(TaskTowers(L, UNITS, batch_norm=True), (B, L, N))) == L * (tower + 2 * (11 + 2))
    assert weight_count(built(TaskTowers(L, ()), (B, N))) == L * (N + 1)


def test_a_map_of_equal_rows_is_the_vector_for_all():
    layer = built(TaskTowers(L, UNITS), (B, L, N))
    x = np.random.default_rng(5).standard_normal((B, N)).astype("float32")
    same = keras.ops.convert_to_numpy(layer(np.repeat(x[:, None], L, axis=1)))
    np.testing.assert_array_equal(same, keras.ops.convert_to_numpy(layer(x)))


def test_a_tower_sees_its_own_vector_only():
    layer = built(TaskTowers(L, UNITS), (B, L, N))
    x = np.random.default_rng(6).standard_normal((B, L, N)).astype("float32")
    changed = x.copy()
    changed[:, 1] += 1
    moved = keras.ops.convert_to_numpy(layer(changed)) != keras.ops.convert_to_numpy(layer(x))
    assert moved[:, 1].any() and not moved[:, [0, 2]].any()


def test_dropout_acts_in_training_only():
    layer = built(TaskTowers(L, UNITS, dropout=0.5), (B, N))
    x = np.random.default_rng(7).standard_normal((B, N)).astype("float32")
    at_rest = keras.ops.convert_to_numpy(layer(x))
    np.testing.assert_allclose(at_rest, towers(layer, x), rtol=1e-5, atol=1e-5)
    assert np.abs(keras.ops.convert_to_numpy(layer(x, training=True)) - at_rest).max() > 1e-3


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_tasks": 0}, "num_tasks"),
        ({"num_tasks": 2, "hidden_units": (3, 0)}, "hidden_units"),
        ({"num_tasks": 2, "dropout": 1.0}, "dropout"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        TaskTowers(**arguments)


@pytest.mark.parametrize("shape, message", [((None, 2, N), "2 vectors a row for 3 tasks"), ((None, 3, 2, N), "must be")])
def test_bad_inputs(shape, message):
    with pytest.raises(ValueError, match=message):
        TaskTowers(L).build(shape)
