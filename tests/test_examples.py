"""The examples run, stay short, and show what they say."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


def load(name):
    path = next(p for p in EXAMPLES if p.stem == name)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.slow
def test_quickstart_comes_near_the_best_possible():
    found, best = load("quickstart").main()
    assert 0.5 + 0.6 * (best - 0.5) < found <= best + 0.01


@pytest.mark.slow
def test_own_data_csv_ranks_the_liked_kind_first(tmp_path):
    scores = load("own_data_csv").main(tmp_path)
    assert scores[0] > scores[1]
    assert (tmp_path / "served" / "1" / "saved_model.pb").exists()


@pytest.mark.slow
def test_interformer_kuairand(tmp_path):
    logs = load("interformer_kuairand").main(None, tmp_path / "data", epochs=1, max_length=5, num_layers=1)
    assert 0.6 < logs["val_auc"] < 0.9


@pytest.mark.slow
def test_tune_kuairand(tmp_path):
    pytest.importorskip("keras_tuner", reason="the example needs the extra tuning")
    board, best = load("tune_kuairand").main(tmp_path, trials=2, epochs=1)
    assert len(board["models"]) == 2 and best.best_config.exists()


@pytest.mark.slow
def test_distributed_mirrored():
    # In a process of its own: logical devices must be made before TensorFlow starts.
    path = next(p for p in EXAMPLES if p.stem == "distributed_mirrored")
    code = f"import runpy; print(runpy.run_path({str(path)!r})['main']())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = ast.literal_eval(done.stdout.splitlines()[-1])
    assert result["replicas"] == 2 and result["apart"] == 0
    assert 0.5 + 0.6 * (result["best"] - 0.5) < result["auc"] <= result["best"] + 0.02


@pytest.mark.slow
def test_retrieve_then_rank(tmp_path):
    # In a process of its own: the legacy Keras that tensorflow-recommenders needs is chosen when TensorFlow is first imported.
    pytest.importorskip("tf_keras", reason="tf-keras is not installed (extra `retrieval`)")
    path = next(p for p in EXAMPLES if p.stem == "retrieve_then_rank")
    code = (
        f"import runpy; found, python, price = runpy.run_path({str(path)!r})['main']({str(tmp_path)!r})\n"
        "import numpy as np; users, p = np.arange(2, 102)[:, None], found['click']\n"
        "print([float(np.mean(found['item'] % 7 == users % 7)), float(np.abs(p - python['click'].numpy()).max()), "
        "bool((np.diff(p) <= 0).all()), float(price[found['item'][:, :5]].mean() - price[found['item'][:, -5:]].mean())])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    kind, difference, ordered, dearer = ast.literal_eval(done.stdout.splitlines()[-1])
    assert kind > 3 / 7 and ordered and dearer < 0 and difference < 1e-6  # three times as many as among all items
    assert (tmp_path / "1" / "saved_model.pb").exists()


@pytest.mark.slow
def test_distill_interformer():
    found = load("distill_interformer").main(num_rows=5_000, epochs=2, seeds=(1,))
    assert set(found) == {"teacher", "student alone", "distilled"} and all(0.5 < auc < 1.0 for (auc,) in found.values())
    assert found["distilled"] != found["student alone"]  # the teacher has been heard
