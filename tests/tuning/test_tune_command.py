"""`keras-ctr tune` with real trainings: what it writes, what it does not read, failures, workers, kills."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("keras_tuner")

from keras_ctr.cli import main  # noqa: E402
from tests.tuning import search_sample  # noqa: E402
from tuning.spaces import get_space
from tuning.spaces.draw import Draw
from tuning.trials import SplitReader, read_records  # noqa: E402

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SMALL = [
    "--model",
    "DNN",
    "--space",
    "tests.tuning.search_sample:small_space",
    "--training-space",
    "tests.tuning.search_sample:small_training",
]
SHORT = ["--epochs", "3", "--patience", "1", "--batch-size", "64", "--label", "click", "--quiet", "--no-plots"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return search_sample.prepare_log(tmp_path_factory.mktemp("tune"))


def run(*arguments):
    return main([str(a) for a in arguments])


def output(capsys, *arguments):
    capsys.readouterr()
    assert run(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def failure(capsys, code, *arguments):
    capsys.readouterr()
    assert run(*arguments) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


def process(*arguments, **options):
    code = "import sys; from keras_ctr.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, **options)


def test_the_best_configuration_trains_to_the_trials_result(data, tmp_path, capsys, monkeypatch):
    from keras_ctr.data import pipeline

    read, assign = set(), pipeline._assign
    monkeypatch.setattr(pipeline, "_assign", lambda d, split, shard: (read.add(split), assign(d, split, shard))[1])
    out = tmp_path / "search"
    found = output(capsys, "tune", data, "--out", out, *SMALL, *SHORT, "--trials", "3")["models"]["DNN"]
    assert read == {"train", "validation"}  # and never the test split
    assert (found["completed"], found["failed"], found["ended"]) == (3, 0, "3 trials")
    records = {r["trial"]: r for r in read_records(out)}
    best = records[found["trial"]]
    assert best["objective"] == max(r["objective"] for r in records.values()) == max(best["history"]["val_auc"])
    assert len({r["seed"] for r in records.values()}) == 3 and not list(out.glob("trial_*/run"))
    trained = output(capsys, "train", data, "--out", tmp_path / "run", "--config", out / "best.json")
    assert trained["validation"]["click"]["auc"] == pytest.approx(best["objective"], abs=1e-6)
    rows = (out / "results.csv").read_text().splitlines()
    assert len(rows) == 4 and rows[0].startswith("rank,trial,status,objective") and rows[1].startswith(f"1,{found['trial']},completed")
    document = json.loads((out / "results.json").read_text())
    assert [t["trial"] for t in document["trials"]][0] == found["trial"] and document["settings"]["seed"] == 1
    assert sorted(p.name for p in (out / "tensorboard").iterdir()) == [f"trial_000{i}" for i in range(3)]
    # The folder is a search's: nothing else may be made of it, and only the budget may change.
    again = ["tune", data, "--out", out, *SMALL, *SHORT]
    assert "--resume to go on" in failure(capsys, 1, *again, "--trials", "3")
    assert "has seed 1, not 2" in failure(capsys, 1, *again, "--trials", "3", "--seed", "2", "--resume")
    assert output(capsys, *again, "--trials", "4", "--resume")["models"]["DNN"]["completed"] == 4
    kept = output(capsys, *again, "--trials", "1", "--keep-models", "--overwrite")["models"]["DNN"]
    assert kept["completed"] == 1
    result = output(capsys, "evaluate", out / "trial_0000" / "run", data, "--split", "validation")
    assert result["click"]["auc"] == pytest.approx(kept["objective"], abs=1e-6)


def test_failures(data, tmp_path, capsys):
    space = ["--model", "DNN", "--training-space", "tests.tuning.search_sample:no_training", "--space"]
    broken = [*space, "tests.tuning.search_sample:broken_space", *SHORT]
    error = failure(capsys, 1, "tune", data, "--out", tmp_path / "all", *broken, "--trials", "4")
    assert "trial 0003 failed" in error and "all 4 trials failed; the first error: trial 0000: ValueError: " in error
    some = [*space, "tests.tuning.search_sample:sometimes_broken_space", *SHORT, "--algorithm", "grid"]
    found = output(capsys, "tune", data, "--out", tmp_path / "some", *some)["models"]["DNN"]
    assert (found["completed"], found["failed"]) == (4, 2) and len(found["errors"]) == 2
    assert all("width" in message for message in found["errors"].values())


def test_mistakes_are_named(data, tmp_path, capsys):
    out = ["tune", data, "--out", tmp_path / "x"]
    assert "no metric 'val_acu'" in failure(capsys, 1, *out, *SMALL, *SHORT, "--objective", "val_acu")
    assert "no search algorithm 'annealing'" in failure(capsys, 1, *out, *SMALL, *SHORT, "--algorithm", "annealing")
    assert "algorithm 'random'" in failure(capsys, 1, *out, *SMALL, *SHORT, "--algorithm-set", "factor=3")
    assert "no label 'clck'" in failure(capsys, 1, *out, *SMALL, "--label", "clck")
    assert "names no function" in failure(capsys, 1, *out, "--model", "DNN", "--space", "tests.tuning.search_sample:tiny")
    assert "give --seeds" in failure(capsys, 2, *out, *SMALL, "--test")
    assert "give --seeds" in failure(capsys, 2, *out, *SMALL, "--defaults")
    assert "--space goes with one --model" in failure(capsys, 2, *out, *SMALL, "--model", "LR")
    assert not (tmp_path / "x").exists() or not list((tmp_path / "x").glob("trial_*"))


def test_two_workers_and_a_comparison_of_two_models(data, tmp_path, capsys):
    arguments = ["tune", data, "--out", tmp_path / "c", "--training-space", "tests.tuning.search_sample:small_training", "--no-plots"]
    arguments += [
        "--model",
        "LR",
        "--model",
        "FM",
        "--trials",
        "2",
        "--epochs",
        "2",
        "--batch-size",
        "128",
        "--seeds",
        "2",
        "--test",
        "--defaults",
    ]
    arguments += ["--objective", "0.5*val_click_auc + 0.5*val_like_auc"]
    done = process(*arguments, "--workers", "2", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, error = done.communicate(timeout=900)
    assert done.returncode == 0, error
    board = json.loads(out)["leaderboard"]  # workers and KerasTuner print nothing between
    assert {entry["model"] for entry in board} == {"LR", "FM"}
    means = [entry["objective"]["mean"] for entry in board]
    assert means == sorted(means, reverse=True)
    for entry in board:
        assert entry["search"]["trials"] == 2 and entry["search"]["failed"] == 0
        for split in ("validation", "test"):
            auc = entry[split]["like"]["auc"]
            assert len(auc["values"]) == 2 and auc["mean"] == pytest.approx(sum(auc["values"]) / 2)
            assert auc["deviation"] == pytest.approx(abs(auc["values"][0] - auc["values"][1]) / 2**0.5)
        both = [entry["validation"][label]["auc"]["mean"] for label in ("click", "like")]
        assert entry["objective"]["mean"] == pytest.approx(sum(both) / 2, abs=1e-6)
        plain = entry["defaults"]
        assert plain["configuration"]["learning_rate"] == 1e-3 and plain["configuration"]["batch_size"] == 128
        _, space = get_space(entry["model"])
        assert plain["configuration"]["arguments"] == space(Draw())  # every choice at its default
        assert plain["seeds"] == entry["seeds"] and len(plain["test"]["click"]["auc"]["values"]) == 2
    assert {r["worker"] for m in ("LR", "FM") for r in read_records(tmp_path / "c" / m)} <= {"local0", "local1"}
    assert json.loads((tmp_path / "c" / "leaderboard.json").read_text())["models"] == board
    seeds = sorted((tmp_path / "c").glob("*/seeds/*.json"))
    before = [p.stat().st_mtime_ns for p in seeds]
    again = output(capsys, *arguments, "--resume")
    for entry in [*again["leaderboard"], *board]:
        entry["search"].pop("seconds")  # those of the second command are counted too
    assert again["leaderboard"] == board and [p.stat().st_mtime_ns for p in seeds] == before  # the test split was read once


@pytest.mark.parametrize("workers", [1, 2])
def test_five_kills_lose_and_repeat_nothing(workers, data, tmp_path):
    out, trials, rng = tmp_path / "killed", 13, random.Random(workers)
    arguments = ["tune", data, "--out", out, *SMALL, *SHORT, "--trials", trials, "--workers", workers, "--resume"]

    def finished():
        return {p.parent.name: p.read_bytes() for p in out.glob("trial_*/record.json")}

    seen = {}
    for _ in range(5):
        before = len(finished())
        search = process(*arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while len(finished()) < before + rng.randint(1, 2) and time.monotonic() < deadline and search.poll() is None:
            time.sleep(0.02)
        time.sleep(rng.random())
        assert search.poll() is None, "it ended before it was killed"
        os.kill(search.pid, signal.SIGKILL)
        assert search.wait() == -signal.SIGKILL
        time.sleep(1)  # workers end with it, or their last record would come later
        now = finished()
        assert seen.items() <= now.items()
        seen = now
    last = process(*arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    _, error = last.communicate(timeout=900)
    assert last.returncode == 0, error
    assert seen.items() <= finished().items()  # none was run again: not a byte of a record changed
    records = read_records(out)
    assert [r["trial"] for r in records] == [f"{i:04d}" for i in range(trials)]
    assert all(r["status"] == "completed" for r in records)
    assert len({json.dumps(r["parameters"], sort_keys=True) for r in records}) == trials


def test_data_parsed_once_give_the_same_batches(data):
    import keras
    import numpy as np

    from keras_ctr.data import PreparedData, make_dataset

    prepared = PreparedData(data)
    options = {"batch_size": 32, "features": prepared.schema.feature_names, "labels": ("like",), "cache": True}
    read = SplitReader()
    for split, more in (("train", {"shuffle": True, "seed": 3}), ("validation", {}), ("train", {"shuffle": True, "seed": 5})):
        batches = []
        for make in (make_dataset, read):
            keras.utils.set_random_seed(7)
            dataset = make(prepared, split, **options, **more)
            batches.append([batch for _ in range(2) for batch in dataset.as_numpy_iterator()])
            assert int(dataset.cardinality()) == -(-prepared.num_rows(split) // 32)
        for ours, theirs in zip(*batches, strict=True):
            keras.tree.map_structure(np.testing.assert_array_equal, ours, theirs)
    assert len(read._columns) == 2
