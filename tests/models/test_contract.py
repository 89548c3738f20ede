"""The contract that every registered model passes, whatever its architecture."""

import inspect
import re

import keras
import numpy as np
import pytest

import keras_ctr
from keras_ctr.registry import model_info
from tests.sample import fields_schema, full_schema, random_rows

QUICK = ("DNN", "LR")
MODELS = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in keras_ctr.list_models()]
WITH_DROPOUT = [name for name in keras_ctr.list_models() if "dropout" in inspect.signature(model_info(name).factory).parameters]
SCHEMAS = {"fields": fields_schema(), "sequences": full_schema(), "two_labels": full_schema(("click", "like"))}
ROWS = 23


def predict(model, x):
    return {label: np.asarray(keras.ops.convert_to_numpy(p)) for label, p in model(x).items()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", SCHEMAS)
def test_builds_from_a_schema_alone(name, kind):
    schema = SCHEMAS[kind]
    x, _ = random_rows(schema, ROWS)
    out = predict(keras_ctr.get_model(name, schema), x)
    assert list(out) == list(schema.label_names)
    for p in out.values():
        assert p.shape == (ROWS, 1)
        assert p.dtype == np.float32
        assert np.isfinite(p).all() and (p > 0).all() and (p < 1).all()


@pytest.mark.parametrize("name", MODELS)
def test_numerics_enter_in_each_of_the_four_ways(name):
    schema = SCHEMAS["sequences"]
    x, _ = random_rows(schema, ROWS)
    other = {**x, "price": x["price"] + 3}
    for kind in keras_ctr.layers.NumericTokens.KINDS:
        model = keras_ctr.get_model(name, schema, numeric=kind)
        spread(model)
        before, after = predict(model, x)["click"], predict(model, other)["click"]
        assert np.isfinite(before).all() and np.abs(before - after).max() > 1e-6, f"{kind}: the price does not count"
    with pytest.raises(ValueError, match="did you mean 'bucketize'"):
        keras_ctr.get_model(name, schema, numeric="bucketise")


@pytest.mark.parametrize("name", MODELS)
def test_mixed_precision_keeps_a_float32_output(name):
    schema = SCHEMAS["sequences"]
    x, y = random_rows(schema, ROWS)
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = keras_ctr.get_model(name, schema)
    assert {str(v.dtype) for v in model.trainable_variables} == {"float32"}
    p = model(x)["click"]
    assert keras.backend.standardize_dtype(p.dtype) == "float32"
    model.compile("adam", "binary_crossentropy")
    assert np.isfinite(model.train_on_batch(x, y))


@pytest.mark.parametrize("name", MODELS)
def test_a_row_alone_scores_as_in_its_batch(name):
    schema = SCHEMAS["sequences"]
    x, _ = random_rows(schema, ROWS)
    model = keras_ctr.get_model(name, schema)
    spread(model)
    whole = predict(model, x)["click"]
    assert whole.std() > 1e-3
    for i in (0, ROWS - 1):
        alone = predict(model, {k: v[i : i + 1] for k, v in x.items()})["click"]
        np.testing.assert_allclose(alone, whole[i : i + 1], atol=2e-6)


@pytest.mark.parametrize("name", MODELS)
def test_extra_keys_are_harmless_and_missing_keys_named(name):
    schema = SCHEMAS["sequences"]
    x, _ = random_rows(schema, ROWS)
    model = keras_ctr.get_model(name, schema)
    expected = predict(model, {k: x[k] for k in schema.feature_names})["click"]
    extra = {"aaa": x["user"], **x, "zzz": x["price"]}
    np.testing.assert_array_equal(predict(model, extra)["click"], expected)
    np.testing.assert_allclose(model.predict(extra, verbose=0)["click"], expected, atol=1e-6)
    with pytest.raises(KeyError, match="'brand'"):
        model({k: v for k, v in x.items() if k != "brand"})


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_moves_in_fit(name):
    schema = SCHEMAS["two_labels"]
    x, y = random_rows(schema, 61)
    model = keras_ctr.get_model(name, schema)
    spread(model)
    model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")
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
        model.compile(keras.optimizers.SGD(0.0), "binary_crossentropy")
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
def test_padding_changes_nothing(name):
    short, long = full_schema(), widened(full_schema())
    x, _ = random_rows(short, ROWS)
    model, wide = keras_ctr.get_model(name, short), keras_ctr.get_model(name, long)
    spread(model)
    copy_weights(model, wide)
    expected = predict(model, x)["click"]
    for side in ("after", "before"):
        padded = dict(x)
        for seq in short.sequences:
            zeros = np.zeros((ROWS, 4), x[seq.name].dtype)
            padded[seq.name] = np.concatenate([x[seq.name], zeros] if side == "after" else [zeros, x[seq.name]], axis=1)
        np.testing.assert_allclose(predict(wide, padded)["click"], expected, atol=2e-6, err_msg=side)


@pytest.mark.parametrize("name", MODELS)
def test_saving_is_exact_without_custom_objects(name, tmp_path):
    schema = SCHEMAS["two_labels"]
    x, y = random_rows(schema, ROWS)
    model = keras_ctr.get_model(name, schema)
    model.compile("adam", "binary_crossentropy")
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


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_activation_none_returns_the_logits(name, activation):
    schema = SCHEMAS["fields"]
    x, _ = random_rows(schema, ROWS)
    model = keras_ctr.get_model(name, schema, activation=activation)
    out = predict(model, x)["click"]
    logits = keras.Model(model.inputs, model.get_layer("logits").output)([x[t.name] for t in model.inputs])
    logits = np.asarray(keras.ops.convert_to_numpy(logits))[:, :1]
    np.testing.assert_allclose(out, 1 / (1 + np.exp(-logits)) if activation else logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_docstring_arguments_are_the_signature(name):
    factory = model_info(name).factory
    parameters = list(inspect.signature(factory).parameters)
    section = re.search(r"\nArgs:\n(.*?)(\n\n\S|\Z)", inspect.getdoc(factory), re.S)
    assert section, "docstring has no Args section"
    documented = []
    for match in re.finditer(r"^    (\w[\w, ]*?)(?: \([^)]*\))?:", section.group(1), re.M):
        documented += [part.strip() for part in match.group(1).split(",")]
    assert documented == parameters


def spread(model):
    """Moves every weight away from its start, so that zero-initialised parts count too."""
    rng = np.random.default_rng(7)
    for v in model.trainable_variables:
        v.assign(keras.ops.convert_to_numpy(v) + rng.normal(size=v.shape).astype("float32") * 0.1)


def widened(schema):
    import dataclasses

    features = [dataclasses.replace(f, max_length=f.max_length + 4) if isinstance(f, keras_ctr.Sequence) else f for f in schema.features]
    return schema.replace(features=features)


def copy_weights(source, target):
    assert [v.shape for v in source.variables] == [v.shape for v in target.variables], "a weight's shape depends on the history's length"
    for a, b in zip(source.variables, target.variables, strict=True):
        b.assign(a)
