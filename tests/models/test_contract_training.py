"""The contract that every registered model passes, whatever its architecture: how it trains and is saved."""

import keras
import numpy as np
import pytest

import keras_ctr
from tests.models.contract import MODELS, ROWS, SCHEMAS, WITH_DROPOUT, predict, spread
from tests.sample import random_rows

ONE_STEP = {"run_eagerly": keras.backend.backend() == "tensorflow"}
"""Tracing a graph takes seconds and a step without one a fraction of that: tests of one step or three do without."""


@pytest.mark.parametrize("name", MODELS)
def test_mixed_precision_keeps_a_float32_output(name):
    schema = SCHEMAS["sequences"]
    x, y = random_rows(schema, ROWS)
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = keras_ctr.get_model(name, schema)
    assert {str(v.dtype) for v in model.trainable_variables} == {"float32"}
    p = model(x)["click"]
    assert keras.backend.standardize_dtype(p.dtype) == "float32"
    model.compile("adam", "binary_crossentropy", **ONE_STEP)
    assert np.isfinite(model.train_on_batch(x, y))


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_moves_in_fit(name):
    schema = SCHEMAS["two_labels"]
    x, y = random_rows(schema, 61)
    model = keras_ctr.get_model(name, schema)
    spread(model)
    model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy", **ONE_STEP)
    before = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    model.fit(x, y, epochs=3, batch_size=61, verbose=0)
    still = [v.path for v, old in zip(model.trainable_variables, before, strict=True) if np.array_equal(keras.ops.convert_to_numpy(v), old)]
    assert not still, f"weights that never move: {still}"


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the other backends compile or interpret the whole model as it is")
@pytest.mark.parametrize("name", keras_ctr.list_models())
def test_the_whole_step_compiles(name):
    """XLA on forward, backward and update of every layer. FeatureEmbedding refuses it for its cost: updates of tables get dense."""
    schema = SCHEMAS["two_labels"]
    x, y = random_rows(schema, ROWS)
    weights = {}
    for compiled in (False, True):
        keras.utils.set_random_seed(1)
        model = keras_ctr.get_model(name, schema)
        spread(model)
        for layer in model._flatten_layers() if compiled else ():
            layer.supports_jit = True
        model.compile(keras.optimizers.SGD(0.1), "binary_crossentropy", jit_compile=compiled)
        model.train_on_batch(x, y)
        assert model.jit_compile == compiled
        weights[compiled] = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    for plain, xla in zip(weights[False], weights[True], strict=True):
        np.testing.assert_allclose(xla, plain, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_dropout_acts_in_training_only(name):
    schema = SCHEMAS["sequences"]
    x, y = random_rows(schema, ROWS)
    model = keras_ctr.get_model(name, schema, dropout=0.5)
    spread(model)
    np.testing.assert_array_equal(predict(model, x)["click"], predict(model, x)["click"])
    first, second = (keras.ops.convert_to_numpy(model(x, training=True)["click"]) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3
    losses = []
    for rate in (0.0, 0.5):
        keras.utils.set_random_seed(1)
        model = keras_ctr.get_model(name, schema, dropout=rate)
        model.compile(keras.optimizers.SGD(0.0), "binary_crossentropy", **ONE_STEP)
        spread(model)
        losses.append(model.fit(x, y, epochs=1, batch_size=ROWS, verbose=0).history["loss"][0])
    assert abs(losses[0] - losses[1]) > 1e-5, "fit does not pass training=True on"


@pytest.mark.parametrize("name", MODELS)
def test_learns_planted_data(name):
    schema = SCHEMAS["sequences"]
    x, _ = random_rows(schema, 512, seed=3)
    rng = np.random.default_rng(0)
    effect = rng.normal(size=53)
    logit = 2 * effect[x["item"]] + (x["brand"] % 2) - 0.5
    y = {"click": (rng.random(512) < 1 / (1 + np.exp(-logit))).astype("float32")[:, None]}
    # Where Keras clips probabilities at 1e-7, the gradient of a saturated one is 0 and a model may stop there: these learn from logits.
    exact = keras.backend.backend() == "tensorflow"
    model = keras_ctr.get_model(name, schema, activation="sigmoid" if exact else None)
    model.compile(keras.optimizers.Adam(1e-2), keras.losses.BinaryCrossentropy(from_logits=not exact))
    losses = model.fit(x, y, epochs=12, batch_size=128, verbose=0, shuffle=True).history["loss"]
    assert losses[-1] < losses[0] - 0.05, losses


@pytest.mark.parametrize("name", MODELS)
def test_saving_is_exact_without_custom_objects(name, tmp_path):
    schema = SCHEMAS["two_labels"]
    x, y = random_rows(schema, ROWS)
    model = keras_ctr.get_model(name, schema)
    model.compile("adam", "binary_crossentropy", **ONE_STEP)
    model.fit(x, y, epochs=1, batch_size=ROWS, verbose=0)
    expected = predict(model, x)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, keras_ctr.models.CTRModel)
    model.save_weights(tmp_path / "model.weights.h5")
    fresh = keras_ctr.get_model(name, schema)
    fresh.load_weights(tmp_path / "model.weights.h5")
    for other in (loaded, fresh):
        for label, p in predict(other, x).items():
            np.testing.assert_array_equal(p, expected[label])
    extra = {"aaa": x["user"], **x}
    np.testing.assert_array_equal(predict(loaded, extra)["like"], expected["like"])
