"""The contract of every registered model, whatever its architecture: what it computes. (Two files, so that two processes share them.)"""

import inspect
import re

import keras
import numpy as np
import pytest

import keras_ctr
from keras_ctr.registry import model_info
from tests.models.contract import MODELS, ROWS, SCHEMAS, copy_weights, predict, spread, widened
from tests.sample import full_schema, random_rows


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
