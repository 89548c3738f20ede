"""Growing vocabularies on the command line: prepare --extend, adapt, and what stands after an interruption."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from keras_ctr.cli import runs
from keras_ctr.cli.main import main
from keras_ctr.data import PreparedData

TRAINING = ["--model", "DNN", "--set", "hidden_units=[16]", "--epochs", "2", "--batch-size", "256", "--learning-rate", "0.01"]


def write_log(path, first, items, rows=900, extra=""):
    """A log over some items; even ones are clicked more often."""
    rng = np.random.default_rng(first)
    item, user = rng.choice(items, rows), rng.integers(0, 23, rows)
    click = (rng.random(rows) < np.where(item % 2 == 0, 0.8, 0.2)).astype(int)
    with open(path, "w") as file:
        file.write(f"ts,uid,iid,price{extra},click\n")
        for i in range(rows):
            more = f",{i % 3}" * bool(extra)
            file.write(f"{first + i},{user[i]},{item[i]},{rng.lognormal():.3f}{more},{click[i]}\n")
    return path


def run(*arguments):
    return main([str(a) for a in arguments])


def output(capsys, *arguments):
    capsys.readouterr()
    assert run(*arguments, "--json") == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def failure(capsys, code, *arguments):
    capsys.readouterr()
    assert run(*arguments) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two weeks of a log, both prepared, the second from the first, and a run on the first."""
    folder = tmp_path_factory.mktemp("growth")
    write_log(folder / "one.csv", 1000, np.arange(29))
    write_log(folder / "two.csv", 5000, np.arange(11, 47))
    columns = ["--label", "click", "--user", "uid", "--item", "iid", "--time", "ts"]
    assert run("prepare", "--csv", folder / "one.csv", *columns, "--out", folder / "data", "--quiet") == 0
    assert run("prepare", "--csv", folder / "two.csv", "--extend", folder / "data", "--out", folder / "data2", "--quiet") == 0
    assert run("train", folder / "data", "--out", folder / "run", "--no-sequences", "--quiet", *TRAINING) == 0
    return folder


@pytest.fixture(scope="module")
def adapted(place):
    assert run("adapt", place / "run", place / "data2", "--out", place / "run2") == 0
    return place / "run2"


def test_prepare_extends_and_says_what_grew(place, capsys):
    assert run("prepare", "--csv", place / "two.csv", "--extend", place / "data", "--out", place / "data3", "--evict-after", 1) == 0
    text = capsys.readouterr().out
    assert "iid                     kept 18  new 18  evicted 11" in text
    old, new = (PreparedData(place / name) for name in ("data", "data2"))
    before, after = (data.vocabularies["iid"].to_list() for data in (old, new))
    assert after[: len(before)] == before and len(before) == 29 and set(after) == {*map(type(before[0]), range(47))}
    assert new.schema["price"] == old.schema["price"]


def test_adapt_keeps_predictions_and_state(place, adapted, capsys):
    """With new rows as copies of the unknown row, raw rows of the new log are scored exactly as by the old run."""
    scores = []
    for name in ("run", "run2"):
        out = place / f"{name}.parquet"
        assert output(capsys, "predict", place / name, place / "two.csv", "--out", out, "--overwrite")["rows"] == 900
        scores.append(pq.read_table(out)["click"].to_numpy())
    np.testing.assert_array_equal(*scores)
    assert np.ptp(scores[0]) > 0.1
    (old, _, _, config), (new, schema, vocabularies, config2) = (runs.load_run(place / name) for name in ("run", "run2"))
    assert {**config, "data": ""} == {**config2, "data": ""} and config2["data"] == str(place / "data2")
    data = PreparedData(place / "data2")
    assert schema == data.schema.without_sequences() and vocabularies["iid"] == data.vocabularies["iid"]
    steps = int(old.optimizer.iterations.numpy())
    assert steps > 4 and int(new.optimizer.iterations.numpy()) == steps
    x, y = next(iter(runs.make_dataset(data, "train", batch_size=64, features=schema.feature_names)))
    new.train_on_batch(x, y)
    assert int(new.optimizer.iterations.numpy()) == steps + 1


def test_an_adapted_run_is_a_whole_run(place, adapted, capsys):
    assert sorted(p.name for p in adapted.iterdir()) == sorted(p.name for p in (place / "run").iterdir())
    for name in ("history.json", "metrics.json"):
        old, new = (json.loads((folder / name).read_text()) for folder in (place / "run", adapted))
        assert new["before adaptation"] == old
    adaptation = json.loads((adapted / "metrics.json").read_text())["adaptation"]
    assert adaptation["tables"]["iid"] == {"kept": 29, "new": 18, "evicted": 0} and adaptation["new_rows"] == "unknown"
    assert output(capsys, "evaluate", adapted, place / "data2", "--split", "test")["click"]["auc"] > 0.5
    again = output(capsys, "adapt", adapted, place / "data2", "--out", place / "went_on")  # onto its own vocabularies
    assert again["tables"]["iid"] == {"kept": 47, "new": 0, "evicted": 0}
    metrics = json.loads((place / "went_on" / "metrics.json").read_text())
    assert metrics["before adaptation"] == json.loads((place / "run" / "metrics.json").read_text())


def test_new_rows_may_be_fresh(place, capsys):
    result = output(capsys, "adapt", place / "run", place / "data2", "--out", place / "fresh", "--new-rows", "initializer")
    assert result["new rows"] == "initializer"
    model = runs.load_run(place / "fresh")[0]
    rows = model.get_layer("embedding").rows("iid")
    fresh = rows[2 + 29 :]
    assert len(np.unique(fresh, axis=0)) == 18 and 0.005 < fresh.std() < 0.02  # the initializer's 0.01


def test_mistakes_are_named(place, adapted, capsys, tmp_path):
    out = tmp_path / "x"
    assert "exists" in failure(capsys, 1, "adapt", place / "run", place / "data2", "--out", adapted)
    assert "is no run folder" in failure(capsys, 1, "adapt", place / "data", place / "data2", "--out", out)
    assert "--evict-after goes with --extend" in failure(
        capsys, 2, "prepare", "--csv", place / "two.csv", "--label", "click", "--evict-after", 2, "--out", out
    )
    extend = ["prepare", "--csv", place / "two.csv", "--extend", place / "data", "--out", out]
    for option in (["--label", "click"], ["--item", "iid"], ["--history-length", 9], ["--exclude", "ts"], ["--schema-only"]):
        assert f"{option[0]} does not go with --extend" in failure(capsys, 2, *extend, *option)
    assert "evict-after" in failure(capsys, 2, *extend, "--evict-after", 0)
    known = ["prepare", "--dataset", "kuairand", "--extend", place / "data", "--out", out]
    assert "--dataset does not go with --extend" in failure(capsys, 2, *known)
    assert not out.exists()


def test_other_data_is_refused_by_feature(place, capsys, tmp_path):
    schema = json.loads((place / "data" / "schema.json").read_text())

    def refused(change):
        text = json.loads(json.dumps(schema))
        features = {f["name"]: f for f in text["features"]}
        log = change(text, features) or place / "two.csv"
        (tmp_path / "schema.json").write_text(json.dumps(text))
        data = tmp_path / "data"
        prepare = ["prepare", "--csv", log, "--schema", tmp_path / "schema.json", "--out", data, "--overwrite", "--quiet"]
        assert run(*prepare) == 0
        error = failure(capsys, 1, "adapt", place / "run", data, "--out", tmp_path / "x")
        assert not (tmp_path / "x").exists()
        return error

    for feature in schema["features"]:
        feature.pop("vocabulary_size", None)

    def without_price(text, features):
        text["features"].remove(features["price"])

    def narrow(text, features):
        features["iid"]["embedding_dim"] = 4

    def categorical_price(text, features):
        text["features"][text["features"].index(features["price"])] = {"kind": "categorical", "name": "price"}

    def one_more(text, features):
        text["features"].append({"kind": "categorical", "name": "tab"})
        return write_log(tmp_path / "more.csv", 3000, np.arange(5), extra=",tab")

    def other_mean(text, features):
        features["price"]["mean"] += 1.0

    assert "lacks the feature 'price'" in refused(without_price)
    assert "feature 'iid': embedding_dim is 4 in the new schema, the model was trained with None" in refused(narrow)
    assert "feature 'price': kind is 'categorical'" in refused(categorical_price)
    assert "does not know the feature 'tab'" in refused(one_more)
    assert "feature 'price': mean is" in refused(other_mean)


@pytest.mark.parametrize("where", ["save_vocabularies", "build"])
def test_a_failure_leaves_no_folder(place, tmp_path, monkeypatch, where, capsys):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs, where, fail)
    assert "No space left" in failure(capsys, 1, "adapt", place / "run", place / "data2", "--out", tmp_path / "run2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_killed_adapt_leaves_no_run_and_can_be_repeated(place, tmp_path):
    code = (
        "import sys, time; sys.path[:0] = sys.argv[4:]\n"
        "from keras_ctr.cli import runs\nfrom keras_ctr.cli.main import main\n"
        "def stuck(*_):\n    print('writing', flush=True); time.sleep(60)\n"
        "runs.save_vocabularies = stuck\n"
        "main(['adapt', sys.argv[1], sys.argv[2], '--out', sys.argv[3]])\n"
    )
    out = tmp_path / "run2"
    arguments = [sys.executable, "-c", code, str(place / "run"), str(place / "data2"), str(out), *sys.path]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".run2.incomplete-")] == []
    assert run("adapt", place / "run", place / "data2", "--out", out) == 0
    assert runs.load_run(out)[0].optimizer.built


def test_training_goes_on_from_a_run(place, adapted, capsys):
    before = runs.load_run(adapted)[0].optimizer.iterations.numpy()
    out = place / "trained_from_run2"
    assert (
        run(
            "train",
            place / "data2",
            "--from",
            adapted,
            "--epochs",
            1,
            "--batch-size",
            256,
            "--learning-rate",
            0.003,
            "--out",
            out,
            "--quiet",
        )
        == 0
    )
    model, _, _, document = runs.load_run(out)
    steps = -(-PreparedData(place / "data2").num_rows("train") // 256)
    assert model.optimizer.iterations.numpy() == before + steps
    assert float(model.optimizer.learning_rate) == pytest.approx(0.003)
    assert document["model"] == "DNN" and document["learning_rate"] == 0.003


def test_a_run_of_other_vocabularies_or_another_model_is_refused(place, adapted, capsys):
    error = failure(capsys, 1, "train", place / "data2", "--from", place / "run", "--out", place / "no")
    assert "table 'iid'" in error and "keras-ctr adapt" in error
    error = failure(capsys, 2, "train", place / "data2", "--from", adapted, "--model", "LR", "--out", place / "no")
    assert "--model does not go with --from" in error
    assert not (place / "no").exists()
