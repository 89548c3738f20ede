"""Tables that are stored in int8 or float16: the layer by hand, the copy of a model, what is exported of it."""

import json
import shutil

import keras
import numpy as np
import pytest

import keras_ctr
from keras_ctr import Categorical, Schema, Sequence, layers, models
from keras_ctr.layers import FeatureEmbedding
from keras_ctr.models.ctr_model import CTRModel, build_inputs, predictions
from keras_ctr.pruning import prune_zero_rows
from keras_ctr.serving import with_small_tables
from keras_ctr.serving.quantized import quantize_rows, quantized, sizes
from tests.sample import fields_schema, full_schema, random_rows

DIM = 3


def filled(layer, seed=0):
    """Builds a layer and puts random numbers of each variable's type into it; returns them by name."""
    layer.build(None)
    rng, values = np.random.default_rng(seed), {}
    for v in layer.variables:
        kind = str(v.dtype)
        values[v.name] = rng.integers(-127, 128, v.shape).astype("int8") if kind == "int8" else rng.normal(size=v.shape).astype(kind)
        v.assign(values[v.name])
    return values


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_rows_by_hand(dtype):
    """Two widths, one table compressed, a history with padding: all rows are values times scales."""
    schema = Schema(
        [
            Categorical("a", 7),
            Categorical("b", 5, embedding_dim=2),
            Categorical("c", 11, quotient_remainder=4),
            Sequence("seen", 4, table="a", target="a"),
        ],
        ["y"],
    )
    layer = FeatureEmbedding(schema, DIM, table_dtype=dtype)
    values = filled(layer)
    names = {"table": (7 + 4 + 3, DIM), "table_2": (5, 2), "projection_b": (2, DIM)}
    if dtype == "int8":
        names |= {"table_scales": (14,), "table_2_scales": (5,)}
    assert {name: array.shape for name, array in values.items()} == names
    assert {str(v.dtype) for v in layer.variables if v.name in ("table", "table_2")} == {dtype}
    assert [v.name for v in layer.trainable_variables] == ["projection_b"]

    scales = {name: values.get(f"{name}_scales", np.ones(len(values[name]))) for name in ("table", "table_2")}
    wide, narrow = (values[name].astype("float64") * scales[name][:, None] for name in ("table", "table_2"))
    compressed = wide[7 + np.arange(11) % 4] * wide[11 + np.arange(11) // 4]
    x = {"a": np.array([2, 6]), "b": np.array([4, 1]), "c": np.array([10, 3]), "seen": np.array([[0, 0, 3, 5], [6, 1, 2, 0]])}
    found = layer(x)
    expected = np.stack([wide[x["a"]], narrow[x["b"]] @ values["projection_b"].astype("float64"), compressed[x["c"]]], axis=1)
    tolerance = 1e-6 * np.abs(expected).max()
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found["fields"]), expected, atol=tolerance)
    events = wide[x["seen"]] * (x["seen"] > 0)[..., None]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(next(iter(found["sequences"].values()))), events, rtol=1e-6)
    np.testing.assert_allclose(layer.rows("b"), narrow, rtol=1e-6)
    np.testing.assert_allclose(layer.rows("c"), compressed, rtol=1e-6)
    assert layer.rows("a").dtype == np.float32 and keras.backend.standardize_dtype(found["fields"].dtype) == layer.compute_dtype


def test_pruned_rows_have_scales_of_their_own():
    schema = Schema([Categorical("a", 7)], ["y"])
    layer = FeatureEmbedding(schema, DIM, kept_rows={str(DIM): 3}, table_dtype="int8")
    layer.build(None)
    index, values, scales = [0, 0, 2, 0, 1, 0, 0], np.arange(9).reshape(3, 3).astype("int8"), np.array([1, 0.5, 2], "float32")
    for v in layer.variables:
        v.assign({f"row_index_{DIM}": index, "table": values, "table_scales": scales}[v.name])
    expected = np.array([[12, 14, 16], [1.5, 2, 2.5], [0, 1, 2]], "float32")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer({"a": np.array([2, 4, 6])})["fields"])[:, 0], expected)
    np.testing.assert_array_equal(layer.rows("a"), (values * scales[:, None])[index])


@pytest.mark.parametrize("width, int8", [(1, "float32"), (2, "int8")])
def test_rows_that_would_not_get_smaller_stay(width, int8):
    schema = Schema([Categorical("a", 7)], ["y"])
    for dtype, stored in (("int8", int8), ("float16", "float16")):
        layer = FeatureEmbedding(schema, width, table_dtype=dtype)
        layer.build(None)
        assert str(layer.variables[0].dtype) == stored and len(layer.variables) == 1 + (stored == "int8")


@pytest.mark.parametrize("factory", [FeatureEmbedding, layers.LinearLogit])
def test_configuration_and_errors(factory):
    schema = Schema([Categorical("a", 7)], ["y"])
    layer = factory(schema, DIM, table_dtype="int8", name="rows")
    clone = factory.from_config(json.loads(json.dumps(layer.get_config())))
    clone.build({"a": (None,)})
    assert {str(v.dtype) for v in clone.variables} == {"int8", "float32"}
    assert factory(schema, DIM).get_config()["table_dtype"] is None
    x = {"a": np.array([2, 3])}
    clone(x, training=False)
    with pytest.raises(ValueError, match="has int8 tables, which are for serving: train the model that this one was made from"):
        if factory is FeatureEmbedding:
            clone(x, training=True)
        else:
            keras.Sequential([clone])(x, training=True)  # a layer around it hands the flag down
    with pytest.raises(ValueError, match="table_dtype must be one of .* got 'int4'"):
        factory(schema, DIM, table_dtype="int4")


def randomised(model, spread=0.1):
    rng = np.random.default_rng(0)
    for v in model.weights:
        noise = rng.normal(size=v.shape).astype("float32")
        v.assign(np.exp(noise * spread) if "variance" in v.path else keras.ops.convert_to_numpy(v) + noise * spread)
    return model


def table_bytes(model):
    """Bytes of all tables with their scales."""
    kinds = ("/table", "_scales")
    found = [v for v in model.variables if any(kind in v.path for kind in kinds)]
    return sum(int(np.prod(v.shape)) * np.dtype(str(v.dtype)).itemsize for v in found)


MODELS = {
    "DeepFM": {"embedding_dim": 4, "hidden_units": (7,)},  # a linear part with tables of its own
    "XDeepInt": {"embedding_dim": 4},  # moving statistics
    "CAN": {"embedding_dim": 4},  # own tables of the micro-networks
    "DMR": {"embedding_dim": 4},  # an output embedding, optional inputs
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_a_copy_predicts_what_the_quantised_model_does(name, dtype, tmp_path):
    schema = full_schema(("click", "like"))
    model = randomised(keras_ctr.get_model(name, schema, **MODELS[name]))
    x, y = random_rows(schema, 31)
    before = model.predict(x, verbose=0)
    small, report = with_small_tables(model, dtype)
    rounded, expected_report = quantized(model, dtype)
    expected, found = rounded.predict(x, verbose=0), small.predict(x, verbose=0)
    assert report == expected_report and table_bytes(small) == sizes(model, report)["bytes_after"] < table_bytes(model)
    small.save(tmp_path / "small.keras")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    again = loaded.predict(x, verbose=0)
    assert table_bytes(loaded) == table_bytes(small)
    for label, values in expected.items():
        np.testing.assert_allclose(found[label], values, atol=1e-6)
        np.testing.assert_array_equal(again[label], found[label])
        assert np.abs(values - before[label]).max() > 1e-6 and np.ptp(values) > 1e-3
        np.testing.assert_array_equal(model.predict(x, verbose=0)[label], before[label])  # the model itself stays
    assert model.trainable_variables and not small.trainable_variables and not loaded.trainable_variables
    for one in (small, loaded):
        one.compile("adam", "binary_crossentropy")
        assert np.isfinite(one.evaluate(x, y, verbose=0)).all()
        with pytest.raises(ValueError, match=f"has {dtype} tables, which are for serving"):
            one.fit(x, y, verbose=0)


@pytest.mark.slow
def test_pruned_calibrated_and_nested_models():
    from keras_ctr.serving.calibration import Platt, calibrated

    schema = fields_schema()
    x, _ = random_rows(schema, 31)
    model = randomised(models.DNN(schema, embedding_dim=4, hidden_units=(7,)))
    table = next(v for v in model.variables if v.path == "embedding/table")
    values = keras.ops.convert_to_numpy(table).copy()
    values[np.random.default_rng(1).random(len(values)) < 0.6] = 0
    table.assign(values)
    pruned, _ = prune_zero_rows(model)
    small, report = with_small_tables(pruned, "int8")
    (found,) = report.values()
    assert found.rows == 1 + int(values.any(axis=1).sum()) < len(values)
    stored = {v.name: str(v.dtype) for v in small.get_layer("embedding").variables}
    assert stored == {"table": "int8", "table_scales": "float32", "row_index_4": "int32"}
    # The zero row that stands for all others changes no scale: pruned or not, the rounded rows are the same.
    expected = quantized(model)[0].predict(x, verbose=0)["click"]
    np.testing.assert_allclose(small.predict(x, verbose=0)["click"], expected, atol=1e-6)
    assert np.ptp(expected) > 1e-3

    platt = calibrated(model, {"click": Platt(1.5, -0.25)})
    expected = quantized(platt)[0].predict(x, verbose=0)["click"]
    np.testing.assert_allclose(with_small_tables(platt)[0].predict(x, verbose=0)["click"], expected, atol=1e-6)

    inputs = build_inputs(schema)
    outer = CTRModel(inputs, {"click": keras.layers.Rescaling(0.5, name="click")(model(inputs)["click"])})
    small, report = with_small_tables(outer)
    assert len(report) == 1 and table_bytes(small) == len(values) * (4 + 4)
    expected = quantized(outer)[0].predict(x, verbose=0)["click"]
    np.testing.assert_allclose(small.predict(x, verbose=0)["click"], expected, atol=1e-6)


@pytest.mark.slow
def test_half_precision_and_rows_of_one_number():
    schema = fields_schema()
    x, _ = random_rows(schema, 31)
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        model = randomised(models.DNN(schema, embedding_dim=4, hidden_units=(7,)))
    finally:
        keras.config.set_dtype_policy("float32")
    small = with_small_tables(model)[0]
    assert small.get_layer("embedding").compute_dtype == "bfloat16"
    np.testing.assert_allclose(small.predict(x, verbose=0)["click"], quantized(model)[0].predict(x, verbose=0)["click"], atol=1e-6)
    linear = randomised(models.LR(schema))
    small, report = with_small_tables(linear)
    assert report == {} and table_bytes(small) == table_bytes(linear)
    np.testing.assert_array_equal(small.predict(x, verbose=0)["click"], linear.predict(x, verbose=0)["click"])


def city_model():
    schema = Schema(features=[Categorical("city", vocabulary=["a", "b"])], labels=["click"])
    inputs = build_inputs(schema)
    tokens = layers.FeatureEmbedding(schema, DIM, name="embedding")(inputs)["fields"]
    logit = keras.layers.Dense(1, use_bias=False)(keras.layers.Flatten()(tokens))
    return CTRModel(inputs, predictions(logit, schema)), schema, {"city": ["a", "b", None, "?"]}


@keras.saving.register_keras_serializable(package="tests")
class Holder(keras.layers.Layer):
    """Looks rows up, and knows nothing of smaller tables."""

    def __init__(self, schema, **kwargs):
        super().__init__(**kwargs)
        self.embedding = FeatureEmbedding(schema, DIM)

    def call(self, inputs):
        return self.embedding(inputs)["fields"][:, 0]

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((None, DIM))

    def get_config(self):
        return {**super().get_config(), "schema": self.embedding.get_config()["schema"]}


def test_what_is_refused(tmp_path):
    model, schema, rows = city_model()
    with pytest.raises(ValueError, match="dtype must be one of int8, float16, got 'int4'"):
        with_small_tables(model, "int4")
    small, _ = with_small_tables(model)
    for call in (with_small_tables, quantized):
        with pytest.raises(ValueError, match="layer 'embedding' .* has int8 tables already: take the model from before that"):
            call(small)
    inputs = build_inputs(schema)
    held = CTRModel(inputs, predictions(keras.layers.Dense(1)(Holder(schema, name="held")(inputs)), schema))
    with pytest.raises(ValueError, match="layer 'held' looks rows up but has no table_dtype: give it an argument"):
        with_small_tables(held)
    plain = keras.Input((3,), name="x")
    with pytest.raises(ValueError, match="no FeatureEmbedding"):
        with_small_tables(CTRModel({"x": plain}, {"click": keras.layers.Dense(1)(plain)}))
    variable = model.get_layer("embedding").variables[0]
    variable.assign(np.full(variable.shape, 1e5))
    with pytest.raises(ValueError, match="past float16"):
        keras_ctr.serving.export_bundle(model, schema, tmp_path / "ctr", rows=rows, tables="float16")
    with pytest.raises(ValueError, match="dtype must be one of"):
        keras_ctr.serving.export_bundle(model, schema, tmp_path / "ctr", rows=rows, tables="int4")
    variable.assign(np.ones(variable.shape))
    with pytest.raises(ValueError, match="has float16 tables, in which LiteRT has no look-up: take int8"):
        keras_ctr.serving.export_bundle(model, schema, tmp_path / "ctr", rows=rows, tables="float16", runtimes="litert")
    assert not (tmp_path / "ctr").exists()


@pytest.mark.slow
@pytest.mark.parametrize("dtype, number, beside", [("int8", 1, 4), ("float16", 2, 0)])
def test_a_bundle_with_small_tables(dtype, number, beside, tmp_path):
    """All signatures score as the rounded model does, each variable is stored once in its type, the card tells of it."""
    import tensorflow as tf

    from keras_ctr.data import Encoder, fit_schema
    from keras_ctr.serving import RuntimeRunner, SavedModelRunner, export_bundle, replay_warmup
    from tests.serving.test_export import CANDIDATE, example, one_user, raw_schema, raw_table, served
    from tests.serving.test_runtimes import SPEC

    table = raw_table(300)
    schema, vocabularies = fit_schema([table], raw_schema(), min_count=2)
    width = 16
    model = randomised(models.DIN(schema, embedding_dim=width, hidden_units=(5,)), 0.3)
    kinds = ["litert"] * (dtype == "int8") + ["onnx"] * all(SPEC(name) for name in ("tf2onnx", "onnx", "onnxruntime"))
    options = {"vocabularies": vocabularies, "rows": table, "candidate_features": CANDIDATE}
    path = export_bundle(model, schema, tmp_path / "ctr", tables=dtype, runtimes=kinds, **options)

    part = table.slice(0, 64)
    encoded = Encoder(schema, vocabularies).encode(part.combine_chunks().to_batches()[0]).features
    encoded = {name: encoded[name] for name in schema.feature_names}
    expected = quantized(model, dtype)[0].predict(encoded, verbose=0)["click"]
    assert np.abs(expected - model.predict(encoded, verbose=0)["click"]).max() > 1e-5 and np.ptp(expected) > 1e-2
    with SavedModelRunner(path) as saved:
        found = {
            "serving_default": saved.run("serving_default", served(part, schema)),
            "encoded": saved.run("encoded", encoded),
            "serve_examples": saved.run("serve_examples", {"examples": [example(row, schema) for row in part.to_pylist()]}),
        }
        rows, once = one_user(served(part, schema), schema, user=3)
        np.testing.assert_allclose(saved.run("rank", once)["click"], saved.run("serving_default", rows)["click"], atol=1e-6)
    for kind in kinds:
        found[kind] = RuntimeRunner(next(path.glob(f"assets.extra/model{'.onnx' if kind == 'onnx' else '.tflite'}"))).run(encoded)
    for name, scores in found.items():
        np.testing.assert_allclose(scores["click"], expected, atol=1e-6, err_msg=name)
    assert replay_warmup(path, tolerance=1e-6)[0] == 7

    small, report = with_small_tables(model, dtype)
    size = sum(t.vocabulary_size for t in schema.tables.values())
    stored = tf.train.load_checkpoint(str(path / "variables" / "variables"))
    kinds_of = stored.get_variable_to_dtype_map()
    shapes = {name: shape for name, shape in stored.get_variable_to_shape_map().items() if "VARIABLE_VALUE" in name}
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == small.count_params() == model.count_params() + size * (beside > 0)
    assert [kinds_of[name] for name, shape in shapes.items() if shape == [size, width]] == [tf.as_dtype(dtype)]

    card = json.loads((path / "assets.extra" / "model_card.json").read_text())
    (change,) = report.values()
    after = size * (width * number + beside)
    assert card["tables"] == {
        "dtype": dtype,
        "bytes_before": size * width * 4,
        "bytes_after": after,
        "largest_error": change.largest_error,
    }
    assert card["parameters"]["all"] == model.count_params() and card["parameters"]["trainable"] > 0
    text = (path / "assets.extra" / "model_card.md").read_text()
    assert f"stored in {dtype}" in text and f"{size * width * 4:,} bytes before, {after:,} after" in text
    assert ("one float32 scale a row" in text) == (dtype == "int8")

    plain = export_bundle(model, schema, tmp_path / "ctr", runtimes=kinds, **options)
    document = json.loads((plain / "assets.extra" / "model_card.json").read_text())
    assert document["tables"] is None and "are stored in" not in (plain / "assets.extra" / "model_card.md").read_text()
    saved_bytes = size * width * 4 - after
    for kind in kinds:
        difference = document["runtimes"][kind]["bytes"] - card["runtimes"][kind]["bytes"]
        assert difference > 0.9 * saved_bytes, kind
    data = [sum(p.stat().st_size for p in folder.glob("variables/*.data*")) for folder in (plain, path)]
    assert abs(data[0] - data[1] - saved_bytes) < 4096
    shutil.rmtree(tmp_path / "ctr")


def test_names_of_the_command():
    from keras_ctr.cli import export_command
    from keras_ctr.serving import quantized as module

    (option,) = (p for p in export_command.command.params if p.name == "tables")
    assert tuple(option.type.choices) == module.DTYPES


@pytest.mark.slow
def test_the_command(tmp_path, capsys):
    import pyarrow as pa

    from keras_ctr.cli import main, runs
    from keras_ctr.data import prepare
    from keras_ctr.serving import SavedModelRunner

    city = [["a", "b", "c", "a"][i % 4] for i in range(40)]
    table = pa.table({"city": city, "click": [i % 2 for i in range(40)]})
    schema = Schema(features=[Categorical("city")], labels=["click"])
    data = prepare({"train": table.slice(0, 30), "validation": table.slice(30)}, schema, tmp_path / "data", num_shards=1)
    config = runs.RunConfig(model="DNN", arguments={"embedding_dim": 8, "hidden_units": (3,)})
    model = randomised(runs.build(config, data.schema), 0.5)
    runs.save_run(tmp_path / "run", model, data, config, {}, {})
    command = ["export", str(tmp_path / "run"), str(tmp_path / "served"), "--tables", "int8", "--runtime", "litert"]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (result["tables"]["dtype"], result["tables"]["bytes_before"], result["tables"]["bytes_after"]) == ("int8", 5 * 32, 5 * 12)
    assert 0 < result["tables"]["largest_error"] < 0.1 and result["runtimes"]["litert"]["largest_difference"] < 1e-6
    assert main(command) == 0
    assert "int8; 160 bytes before, 60 after; largest weight change 0.0" in capsys.readouterr().out
    ids = np.array([2, 3, 4, 1], "int32")
    with SavedModelRunner(tmp_path / "served" / "2") as saved:
        found = saved.run("encoded", {"city": ids})["click"]
    np.testing.assert_allclose(found, quantized(model)[0].predict({"city": ids}, verbose=0)["click"], atol=1e-6)
    values, scales = quantize_rows(model.get_layer("embedding").rows("city"))
    assert np.abs(values * scales[:, None] - model.get_layer("embedding").rows("city")).max() == pytest.approx(
        result["tables"]["largest_error"]
    )
