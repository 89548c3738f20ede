"""Rows in fewer bits: bounds on their error, the sizes, and a model that predicts with them."""

import keras
import numpy as np
import pytest

from keras_ctr import Categorical, Schema, layers, metrics, models
from keras_ctr.models.ctr_model import CTRModel, build_inputs, predictions
from keras_ctr.serving import quantization_cost
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


def second_number():
    """A model of one field whose log-odds are the second number of the id's row; the first is large and changes nothing.

    int8 has a step of 1000 / 127 in every row, so all second numbers become 0 and all probabilities 1/2; float16 holds the rows exactly.
    """
    table = np.array([[1000, x] for x in (0, 0, 1, -1, 2, -2, 0.5)], "float32")
    schema = Schema(features=[Categorical("item", len(table))], labels=["click"])
    inputs = build_inputs(schema)
    tokens = layers.FeatureEmbedding(schema, 2, name="embedding")(inputs)["fields"]
    logit = keras.layers.Dense(1, use_bias=False)(keras.layers.Flatten()(tokens))
    model = CTRModel(inputs, predictions(logit, schema))
    model.set_weights([table, np.array([[0], [1]], "float32")])
    return model, table


def test_cost_by_hand():
    model, table = second_number()
    ids = np.array([2, 3, 4, 5, 6, 3], "int32")
    y = np.array([1, 0, 1, 0, 1, 1])
    users, known = np.array([0, 0, 1, 1, 1, 0]), np.array([1, 1, 1, 1, 1, 0])  # the last outcome, against the order, is unknown
    cost = quantization_cost(model, {"item": ids}, {"click": y}, groups=users, sample_weight={"click": known})
    assert list(cost) == ["int8", "float16"]
    loss = np.mean(np.log1p(np.exp(-np.array([1, 1, 2, 2, 0.5]))))
    int8 = cost["int8"]
    assert (int8["bytes_before"], int8["bytes_after"], int8["largest_error"]) == (7 * 8, 7 * (2 + 4), 2.0)
    assert int8["labels"]["click"]["auc"] == {"before": 1.0, "after": 0.5, "difference": -0.5}
    assert int8["labels"]["click"]["gauc"] == {"before": 1.0, "after": 0.5, "difference": -0.5}
    assert int8["labels"]["click"]["logloss"] == pytest.approx(
        {"before": loss, "after": np.log(2), "difference": np.log(2) - loss}, abs=1e-6
    )
    float16 = cost["float16"]
    assert (float16["bytes_before"], float16["bytes_after"], float16["largest_error"]) == (7 * 8, 7 * 4, 0.0)
    assert all(values["difference"] == 0.0 for values in float16["labels"]["click"].values())
    np.testing.assert_array_equal(model.get_layer("embedding").rows("item"), table)  # the model itself stays
    # Without groups no gAUC; with all rows the sixth counts, a click that ties with one of the two others and beats the second.
    found = quantization_cost(model, {"item": ids}, {"click": y[:, None]}, dtypes=["float16"])["float16"]["labels"]["click"]
    assert found.keys() == {"auc", "logloss"} and found["auc"]["before"] == (3 * 2 + 1 + 0.5) / 8


def test_cost_errors():
    model, _ = second_number()
    x, y = {"item": np.array([2, 3], "int32")}, {"click": np.array([1, 0])}
    for wrong in ({"dtypes": []}, {"y": {}}):
        with pytest.raises(ValueError, match="at least one dtype and one label"):
            quantization_cost(model, x, **{"y": y, **wrong})
    with pytest.raises(ValueError, match="dtype must be one of int8, float16, got 'int4'"):
        quantization_cost(model, x, y, dtypes=["int8", "int4"])
    with pytest.raises(KeyError, match="no label 'clik'; did you mean 'click'"):
        quantization_cost(model, x, {"clik": y["click"]})
    with pytest.raises(ValueError, match="label 'click' has 3 rows, the features have 2"):
        quantization_cost(model, x, {"click": np.zeros(3)})
    with pytest.raises(ValueError, match="groups has 3 rows, the features have 2"):
        quantization_cost(model, x, y, groups=np.zeros(3, int))
    with pytest.raises(ValueError, match="label 'click' is unknown in all 2 rows"):
        quantization_cost(model, x, y, sample_weight={"click": np.zeros((2, 1))})


@pytest.mark.slow
def test_cost_is_that_of_the_quantised_model_and_counts_every_table():
    schema = fields_schema(("click", "like"))
    model = models.DeepFM(schema, embedding_dim=8, hidden_units=(7,))
    for v in model.trainable_variables:
        v.assign(keras.ops.convert_to_numpy(v) + np.random.default_rng(0).normal(size=v.shape).astype("float32") * 0.3)
    x, y = random_rows(schema, 501)
    rows, labels = sum(table.vocabulary_size for table in schema.tables.values()), len(schema.labels)
    width = sum(v.shape[1] for v in model.variables if v.path.endswith("/table"))
    assert width == 8 + labels  # tokens, and a weight per id and label in the linear part
    costs = quantization_cost(model, x, {"like": y["like"]}, batch_size=64)
    # The linear part's rows of two numbers get smaller too: 2 + 4 bytes for 8.
    assert costs["int8"]["bytes_after"] == rows * (8 + 4 + labels + 4) and costs["float16"]["bytes_after"] == rows * width * 2
    for dtype, cost in costs.items():
        smaller, report = quantized(model, dtype)
        p, q = (m.predict(x, verbose=0)["like"] for m in (model, smaller))
        assert cost["bytes_before"] == rows * width * 4 and cost["labels"].keys() == {"like"}
        assert cost["largest_error"] == max(table.largest_error for table in report.values()) > 0
        for name, metric in (("auc", metrics.auc), ("logloss", metrics.log_loss)):
            found = cost["labels"]["like"][name]
            assert found["before"] == pytest.approx(metric(y["like"], p), abs=1e-7)
            assert found["after"] == pytest.approx(metric(y["like"], q), abs=1e-7)
            assert found["difference"] == found["after"] - found["before"] != 0


@pytest.mark.slow
def test_tables_that_stay_cost_nothing():
    schema = fields_schema()
    model = models.DNN(schema, embedding_dim=1, hidden_units=(3,))
    x, y = random_rows(schema, 31)
    (cost,) = quantization_cost(model, x, y, dtypes=["int8"]).values()
    assert cost["bytes_before"] == cost["bytes_after"] > 0 and cost["largest_error"] == 0.0
    assert cost["labels"]["click"]["auc"]["difference"] == 0.0
