"""ONNX Runtime and LiteRT give the model's probabilities from encoded features."""

import importlib.util
import json

import keras
import numpy as np
import pytest

from keras_ctr import Categorical, Schema, models
from keras_ctr.serving import RuntimeRunner, SavedModelRunner, check_runtime, export_bundle, export_runtime, runtimes
from tests.sample import full_schema, random_rows

pytestmark = pytest.mark.slow

SPEC = importlib.util.find_spec


def model_and_rows(factory, labels=("click",), **arguments):
    schema = full_schema(labels)
    model = factory(schema, embedding_dim=4, **arguments)
    for v in model.trainable_variables:
        v.assign(np.asarray(v) + np.random.default_rng(0).normal(size=v.shape).astype("float32") * 0.1)
    x, _ = random_rows(schema, 11)
    x = {name: x[name] for name in schema.feature_names}
    expected = model.predict(x, verbose=0)
    assert all(np.ptp(values) > 1e-3 for values in expected.values())
    return model, x, expected


def need_onnx():
    pytest.importorskip("tf2onnx", reason="tf2onnx is not installed (extra `onnx`)")
    return pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra `onnx`)")


@pytest.mark.parametrize("factory", [models.DCNv2, models.DIN, models.DIEN], ids=lambda f: f.__name__)
def test_onnx_runtime(factory, tmp_path):
    onnxruntime = need_onnx()
    model, x, expected = model_and_rows(factory)  # DIEN has inputs that only training uses
    path = export_runtime(model, tmp_path / "model.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(str(path))
    assert {i.name for i in session.get_inputs()} == set(x)
    (found,) = session.run(["click"], x)
    np.testing.assert_allclose(found, expected["click"], atol=1e-6)
    (one,) = session.run(["click"], {name: value[:1] for name, value in x.items()})
    np.testing.assert_allclose(one, expected["click"][:1], atol=1e-6)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        export_runtime(model, path)


def test_litert(tmp_path):
    model, x, expected = model_and_rows(models.DCNv2, hidden_units=(7,))
    path = export_runtime(model, tmp_path / "model.tflite")
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        Interpreter = pytest.importorskip("tensorflow").lite.Interpreter
    run = Interpreter(str(path)).get_signature_runner()
    np.testing.assert_allclose(run(**x)["click"], expected["click"], atol=1e-6)


@pytest.mark.parametrize("ending", [".onnx", ".tflite"])
def test_the_runner_takes_what_predict_takes(ending, tmp_path):
    if ending == ".onnx":
        need_onnx()
    model, x, expected = model_and_rows(models.DIN, labels=("click", "like"), hidden_units=(7,))
    path = export_runtime(model, tmp_path / f"model{ending}")
    runner = RuntimeRunner(path)
    assert set(runner.inputs) == set(x) and runner.runtime == runtimes.installed_runtime({".onnx": "onnx", ".tflite": "litert"}[ending])
    for rows in (11, 1, 5):  # any number of rows, in any order
        found = runner.run({"more": np.zeros(3), **{name: value[:rows] for name, value in x.items()}})
        assert found.keys() == {"click", "like"}
        for label, values in found.items():
            np.testing.assert_allclose(values, expected[label][:rows], atol=1e-6)
    assert np.max(np.abs(expected["click"] - expected["like"])) > 1e-3
    with pytest.raises(KeyError, match="takes the feature 'price', which is missing; did you mean 'prices'"):
        runner.run({("prices" if name == "price" else name): value for name, value in x.items()})

    assert check_runtime(path, x, expected) < 1e-6
    wrong = {**expected, "like": expected["like"] + np.eye(11, 1, dtype="float32") * 2e-3}
    assert check_runtime(path, x, wrong, tolerance=1e-2) == pytest.approx(2e-3, abs=1e-5)
    with pytest.raises(ValueError, match="output 'like' differs by 0.002, more than 1e-05"):
        check_runtime(path, x, wrong)
    with pytest.raises(ValueError, match="differs by nan"):
        check_runtime(path, x, {**expected, "like": expected["like"] * np.nan})
    with pytest.raises(ValueError, match=r"has the outputs \['click', 'like'\], the model gives \['click'\]"):
        check_runtime(path, x, {"click": expected["click"]})
    with pytest.raises(ValueError, match=r"output 'click' has shape \(11, 1\), not \(11,\)"):
        check_runtime(path, x, {**expected, "click": expected["click"][:, 0]})


def city_model():
    schema = Schema(features=[Categorical("city", vocabulary=["a", "b"])], labels=["click"])
    model = models.LR(schema)
    for v in model.trainable_variables:
        v.assign(np.random.default_rng(0).normal(size=v.shape).astype("float32"))
    return model, schema, {"city": ["a", "b", None, "?"]}


def test_a_bundle_has_the_files_and_loads_as_without(tmp_path):
    kinds = ["litert"] + ["onnx"] * all(SPEC(name) for name in ("tf2onnx", "onnx", "onnxruntime"))
    model, schema, rows = city_model()
    path = export_bundle(model, schema, tmp_path / "ctr", rows=rows, runtimes=[*kinds, "litert"])
    card = json.loads((path / "assets.extra" / "model_card.json").read_text())
    assert list(card["runtimes"]) == kinds
    expected = model.predict({"city": np.array([2, 3, 1, 1])}, verbose=0)["click"]
    for kind, values in card["runtimes"].items():
        assert (
            values["file"] == f"assets.extra/model{runtimes.RUNTIMES[kind]}" and values["bytes"] == (path / values["file"]).stat().st_size
        )
        assert values["rows"] == 4 and 0 <= values["largest_difference"] < 1e-6 and values["runtime"] == runtimes.installed_runtime(kind)
        np.testing.assert_allclose(
            RuntimeRunner(path / values["file"]).run({"city": np.array([2, 3, 1, 1], "int32")})["click"], expected, atol=1e-6
        )
    with SavedModelRunner(path) as saved:
        np.testing.assert_allclose(saved.run("serving_default", {"city": ["a", "b", "", "?"]})["click"], expected, atol=1e-6)
    without = export_bundle(model, schema, tmp_path / "ctr", rows=rows)
    assert json.loads((without / "assets.extra" / "model_card.json").read_text())["runtimes"] == {}
    assert not list(without.glob("assets.extra/model.*"))


def test_a_file_that_scores_otherwise_is_not_published(tmp_path, monkeypatch):
    model, schema, rows = city_model()
    run = RuntimeRunner.run
    monkeypatch.setattr(RuntimeRunner, "run", lambda self, x: {label: values + 1e-3 for label, values in run(self, x).items()})
    with pytest.raises(ValueError, match="model.tflite in LiteRT.*: output 'click' differs by 0.001"):
        export_bundle(model, schema, tmp_path / "ctr", rows=rows, runtimes="litert")
    assert [p.name for p in (tmp_path / "ctr").iterdir()] == []


def test_a_file_is_written_unchecked_where_nothing_runs_it(tmp_path, monkeypatch):
    model, schema, rows = city_model()
    monkeypatch.setattr(runtimes, "installed_runtime", lambda kind: None)
    path = export_bundle(model, schema, tmp_path / "ctr", rows=rows, runtimes=["litert"])
    found = json.loads((path / "assets.extra" / "model_card.json").read_text())["runtimes"]["litert"]
    assert (found["runtime"], found["rows"], found["largest_difference"]) == (None, 0, None) and found["bytes"] > 0
    with pytest.raises(ImportError, match="needs onnxruntime: pip install"):
        (tmp_path / "model.onnx").touch()
        RuntimeRunner(tmp_path / "model.onnx")


def test_errors(tmp_path, monkeypatch):
    model, schema, rows = city_model()
    with pytest.raises(ValueError, match=r"must end in \.onnx or \.tflite"):
        export_runtime(model, tmp_path / "model.pb")
    with pytest.raises(ValueError, match=r"must end in \.onnx or \.tflite"):
        RuntimeRunner(tmp_path / "model.pb")
    with pytest.raises(FileNotFoundError, match="no such file; 'keras-ctr export --runtime litert'"):
        RuntimeRunner(tmp_path / "model.tflite")
    with pytest.raises(ValueError, match="no runtime 'onx'; did you mean 'onnx'"):
        export_bundle(model, schema, tmp_path / "ctr", rows=rows, runtimes=["onx"])
    with monkeypatch.context() as patched:
        patched.setattr(importlib.util, "find_spec", lambda name: None if "onnx" in name else SPEC(name))
        for export in (
            lambda: export_runtime(model, tmp_path / "model.onnx"),
            lambda: export_bundle(model, schema, tmp_path / "ctr", rows=rows, runtimes=["onnx"]),
        ):
            with pytest.raises(ImportError, match=r"needs tf2onnx, onnx: pip install 'keras_ctr\[onnx\]'"):
                export()
    with monkeypatch.context() as patched:
        size = 4 * model.count_params()
        patched.setattr(runtimes, "_LARGEST", size)
        runtimes.check_model(model)
        patched.setattr(runtimes, "_LARGEST", size - 1)
        with pytest.raises(ValueError, match=f"has {size} bytes of weights, and a file of this format holds {size - 1}"):
            export_runtime(model, tmp_path / "model.tflite")
    with monkeypatch.context() as patched:
        patched.setattr(type(model), "export", lambda *_, **__: 1 / 0)
        with pytest.raises(RuntimeError, match="model 'lr' does not convert to .tflite: division by zero"):
            export_runtime(model, tmp_path / "model.tflite")
    keras.config.set_dtype_policy("mixed_bfloat16")
    low = models.DNN(schema, hidden_units=(3,))
    keras.config.set_dtype_policy("float32")
    with pytest.raises(ValueError, match="computes in bfloat16"):
        export_runtime(low, tmp_path / "model.tflite")
    with pytest.raises(ValueError, match="computes in bfloat16"):
        export_bundle(low, schema, tmp_path / "ctr", rows=rows, runtimes=["litert"])
    assert not list(tmp_path.iterdir())
