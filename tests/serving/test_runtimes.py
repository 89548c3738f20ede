"""ONNX Runtime and LiteRT give the model's probabilities from encoded features."""

import numpy as np
import pytest

from keras_ctr import models
from keras_ctr.serving import runtimes
from keras_ctr.serving.runtimes import export_runtime
from tests.sample import full_schema, random_rows

pytestmark = pytest.mark.slow


def model_and_rows(factory, **arguments):
    schema = full_schema()
    model = factory(schema, embedding_dim=4, **arguments)
    for v in model.trainable_variables:
        v.assign(np.asarray(v) + np.random.default_rng(0).normal(size=v.shape).astype("float32") * 0.1)
    x, _ = random_rows(schema, 11)
    x = {name: x[name] for name in schema.feature_names}
    expected = model.predict(x, verbose=0)["click"]
    assert np.ptp(expected) > 1e-3
    return model, x, expected


@pytest.mark.parametrize("factory", [models.DCNv2, models.DIN, models.DIEN], ids=lambda f: f.__name__)
def test_onnx_runtime(factory, tmp_path):
    pytest.importorskip("tf2onnx", reason="tf2onnx is not installed (extra `onnx`)")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra `onnx`)")
    model, x, expected = model_and_rows(factory)  # DIEN has inputs that only training uses
    path = export_runtime(model, tmp_path / "model.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(str(path))
    assert {i.name for i in session.get_inputs()} == set(x)
    (found,) = session.run(["click"], x)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    (one,) = session.run(["click"], {name: value[:1] for name, value in x.items()})
    np.testing.assert_allclose(one, expected[:1], atol=1e-6)
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
    np.testing.assert_allclose(run(**x)["click"], expected, atol=1e-6)


def test_errors(tmp_path, monkeypatch):
    schema = full_schema()
    model = models.LR(schema)
    with pytest.raises(ValueError, match=r"must end in \.onnx or \.tflite"):
        export_runtime(model, tmp_path / "model.pb")
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs tf2onnx, onnx: pip install 'keras_ctr\[onnx\]'"):
        export_runtime(model, tmp_path / "model.onnx")
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16")
    low = models.DNN(schema, hidden_units=(3,))
    keras.config.set_dtype_policy("float32")
    with pytest.raises(ValueError, match="computes in bfloat16"):
        export_runtime(low, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())
