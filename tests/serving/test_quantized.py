"""Rows in fewer bits: bounds on their error, the sizes, and a model that predicts with them."""

import keras
import numpy as np
import pytest

from keras_ctr import models
from keras_ctr.serving.quantized import quantize_rows, quantized
from tests.sample import fields_schema, full_schema, random_rows


def test_int8_rows():
    rng = np.random.default_rng(0)
    table = (rng.normal(size=(211, 5)) * 10.0 ** rng.integers(-6, 3, (211, 1))).astype("float32")
    table[3] = 0.0
    values, scales = quantize_rows(table)
    assert values.dtype == np.int8 and values.shape == table.shape and scales.shape == (211,)
    np.testing.assert_allclose(scales, np.abs(table).max(axis=1) / 127, rtol=1e-6)
    assert np.all(np.abs(values * scales[:, None] - table) <= scales[:, None] * 0.5001)  # half a step, in every row its own
    assert np.all(np.abs(values).max(axis=1) == np.where(scales > 0, 127, 0)) and not values[3].any()


def test_int8_by_hand():
    values, scales = quantize_rows([[127.0, -63.5, 1.3], [0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(values, [[127, -64, 1], [0, 0, 0]])  # -63.5 goes to the even neighbour
    np.testing.assert_array_equal(scales, [1.0, 0.0])


def test_float16_rows():
    table = np.array([[1.0, 1.0 + 2.0**-11, 1.0 + 2.0**-10]], "float32")
    values, scales = quantize_rows(table, "float16")
    np.testing.assert_array_equal(values.astype("float32"), [[1.0, 1.0, 1.0 + 2.0**-10]])
    np.testing.assert_array_equal(scales, [1.0])


def test_errors():
    with pytest.raises(ValueError, match="dtype must be one of int8, float16"):
        quantize_rows(np.zeros((2, 2)), "int4")
    with pytest.raises(ValueError, match="finite"):
        quantize_rows([[np.nan]])
    with pytest.raises(ValueError, match="past float16"):
        quantize_rows([[1e6]], "float16")


@pytest.mark.slow
@pytest.mark.parametrize("dtype, bytes_a_row", [("int8", 8 + 4), ("float16", 16)])
def test_models(dtype, bytes_a_row):
    schema = full_schema()
    model = models.DIN(schema, embedding_dim=8, hidden_units=(7,))
    for v in model.trainable_variables:
        v.assign(keras.ops.convert_to_numpy(v) + np.random.default_rng(0).normal(size=v.shape).astype("float32") * 0.1)
    x, _ = random_rows(schema, 31)
    before = model.predict(x, verbose=0)["click"]
    smaller, report = quantized(model, dtype)
    (found,) = report.values()
    rows = sum(table.vocabulary_size for table in schema.tables.values())
    assert (found.rows, found.width, found.bytes_before, found.bytes_after) == (rows, 8, rows * 32, rows * bytes_a_row)
    values, scales = quantize_rows(model.get_layer("embedding").rows("item"), dtype)
    np.testing.assert_array_equal(smaller.get_layer("embedding").rows("item"), values.astype("float32") * scales[:, None])
    after = smaller.predict(x, verbose=0)["click"]
    assert 0 < np.abs(after - before).max() < 0.05 and found.largest_error > 0
    np.testing.assert_array_equal(model.predict(x, verbose=0)["click"], before)  # the model itself stays


@pytest.mark.slow
def test_rows_of_one_number_stay():
    model = models.DNN(fields_schema(), embedding_dim=1, hidden_units=(3,))
    assert quantized(model)[1] == {}
    inputs = keras.Input((3,), name="x")
    with pytest.raises(ValueError, match="no FeatureEmbedding"):
        quantized(models.CTRModel({"x": inputs}, {"click": keras.layers.Dense(1)(inputs)}))
