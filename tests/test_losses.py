"""Losses with learned task weights against the equation, in the loss and in training."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ctr import losses, models
from tests.gradients import gradients
from tests.sample import fields_schema, random_rows


def cross_entropy(y, p):
    return -(y * np.log(p) + (1 - y) * np.log(1 - p))


def test_value_and_gradient_are_the_equation():
    rng = np.random.default_rng(0)
    y, p = (rng.random((7, 1)) < 0.5).astype("float32"), rng.uniform(0.1, 0.9, (7, 1)).astype("float32")
    s = keras.Variable(0.7)
    loss = losses.UncertaintyWeighted(s)
    expected = np.exp(-0.7) * cross_entropy(y.astype("float64"), p.astype("float64")).mean() + 0.35
    np.testing.assert_allclose(ops.convert_to_numpy(loss(y, p)), expected, rtol=1e-5)
    (gradient,) = gradients(lambda: loss(y, p), [s])
    np.testing.assert_allclose(gradient, 0.5 - (expected - 0.35), rtol=1e-4)


def test_unknown_outcomes_count_neither_in_the_loss_nor_in_the_weight():
    y, p = np.ones((4, 1), "float32"), np.full((4, 1), 0.25, "float32")
    loss = losses.UncertaintyWeighted(keras.Variable(0.7))
    half = ops.convert_to_numpy(loss(y, p, sample_weight=np.array([[1.0], [0.0], [1.0], [0.0]], "float32")))
    np.testing.assert_allclose(half, 0.5 * ops.convert_to_numpy(loss(y, p)), rtol=1e-6)


def test_loss_object_and_name_are_the_same_loss():
    y, p = np.ones((4, 1), "float32"), np.full((4, 1), 0.25, "float32")
    s = keras.Variable(0.3)
    named = losses.UncertaintyWeighted(s, "binary_crossentropy")(y, p)
    given = losses.UncertaintyWeighted(s, keras.losses.BinaryCrossentropy())(y, p)
    np.testing.assert_allclose(ops.convert_to_numpy(named), ops.convert_to_numpy(given), rtol=1e-6)


def test_weight_finds_its_optimum():
    """With a loss that stays at L, exp(-s) goes to 1 / (2 L)."""
    s = keras.Variable(0.0)
    y, p = np.ones((4, 1), "float32"), np.full((4, 1), 0.05, "float32")  # L = 2.9957
    loss = losses.UncertaintyWeighted(s)
    for _ in range(300):
        (gradient,) = gradients(lambda: loss(y, p), [s])
        s.assign_sub(0.2 * gradient)
    np.testing.assert_allclose(np.exp(-ops.convert_to_numpy(s.value)), 1 / (2 * -np.log(0.05)), rtol=1e-3)


def test_errors():
    with pytest.raises(ValueError, match="compile the model again"):
        losses.UncertaintyWeighted()(np.ones((2, 1)), np.ones((2, 1)))
    model = models.LR(fields_schema())
    with pytest.raises(ValueError, match="the output 'click' has no log-variance.*with_uncertainty_weights"):
        losses.uncertainty_weighted(model)
    weighted = models.with_uncertainty_weights(models.LR(fields_schema(labels=("click", "like"))))
    with pytest.raises(ValueError, match="`loss` has no entry for the label 'like'"):
        losses.uncertainty_weighted(weighted, {"click": "binary_crossentropy"})
    plain = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(1, name="click")])
    with pytest.raises(ValueError, match="'click' is a Dense, expected a LabelPrediction"):
        models.with_uncertainty_weights(keras.Model({"x": plain.inputs[0]}, {"click": plain.outputs[0]}))


@pytest.mark.slow
def test_model_trains_saves_and_goes_on(tmp_path):
    schema = fields_schema(labels=("click", "like"))
    x, y = random_rows(schema, 211)
    base = models.DNN(schema, hidden_units=(11,))
    model = models.with_uncertainty_weights(base)
    for label in ("click", "like"):
        np.testing.assert_array_equal(model.predict(x, verbose=0)[label], base.predict(x, verbose=0)[label])
    assert model.count_params() == base.count_params() + 2
    model.compile(keras.optimizers.SGD(0.1), losses.uncertainty_weighted(model))
    model.fit(x, y, batch_size=53, epochs=3, verbose=0, shuffle=False)
    moved = {label: float(ops.convert_to_numpy(model.get_layer(label).log_variance.value)) for label in ("click", "like")}
    assert all(abs(value) > 1e-3 for value in moved.values())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert {label: float(ops.convert_to_numpy(loaded.get_layer(label).log_variance.value)) for label in moved} == moved
    np.testing.assert_array_equal(loaded.predict(x, verbose=0)["like"], model.predict(x, verbose=0)["like"])
    loaded.compile(keras.optimizers.SGD(0.1), losses.uncertainty_weighted(loaded))
    loaded.fit(x, y, batch_size=53, epochs=1, verbose=0, shuffle=False)
    assert float(ops.convert_to_numpy(loaded.get_layer("like").log_variance.value)) != moved["like"]
