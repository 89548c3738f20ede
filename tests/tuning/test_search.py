"""Searches without training: objectives, budgets, failures, and a kill at every single write of a file."""

import json
import os

import numpy as np
import pytest

pytest.importorskip("keras_tuner")

from tests.tuning.search_sample import grid_space, no_training, small_space, small_training  # noqa: E402
from tuning import files, trials  # noqa: E402
from tuning.files import read_json, write_json  # noqa: E402
from tuning.importance import importance  # noqa: E402
from tuning.objective import Objective, parse_objective  # noqa: E402
from tuning.oracles import ORACLE, TRIAL  # noqa: E402
from tuning.settings import Budget, Draw, Settings, algorithm_name, explore, reference_of  # noqa: E402
from tuning.trials import EPOCHS, PARENT, RECORD, TrialRunner, best_epoch, read_record, read_records, trial_folder, trial_seed  # noqa: E402
from tuning.workers import TrialTuner, oracle_of  # noqa: E402

GOAL = Objective("val_auc", ((1.0, "val_auc"),), "max")
SPACES = {"grid": (grid_space, no_training)}


class Untrained(TrialRunner):
    """Scores a trial by its values; `trained` names what it was asked to train."""

    def __init__(self, folder, settings, draw, fails=()):
        self.folder, self.settings, self.draw, self.worker, self.progress = folder, settings, draw, "tuner0", None
        self.trained, self.fails = [], fails

    def _train(self, trial_id, hyperparameters, record):
        self.trained.append(trial_id)
        if trial_id in self.fails:
            raise MemoryError("too large")
        drawn = self.draw(hyperparameters)
        parent = hyperparameters.values.get(PARENT)
        seed = read_record(self.folder, parent)["seed"] if parent else trial_seed(self.settings.seed, int(trial_id))
        epochs = hyperparameters.values.get(EPOCHS, 4)
        value = drawn["arguments"]["embedding_dim"] + 0.01 * epochs + 0.001 * int(trial_id)
        return {"configuration": drawn, "seed": seed, "objective": value, "epochs": epochs, "best_epoch": 1, "metrics": {}, "history": {}}


@pytest.fixture(autouse=True)
def _without_versions(monkeypatch):
    monkeypatch.setattr(trials, "versions", dict)


def make(folder, algorithm, budget, *, options=None, fails=(), max_failures=5, seed=7):
    """An oracle with its state, and a tuner of trials that are not trained."""
    space, training = SPACES.get(algorithm, (small_space, small_training))
    settings = Settings("data", "DNN", algorithm=algorithm, seed=seed, fixed={"epochs": 4}, options=options or {})
    draw = Draw(settings, space, training)
    folder.mkdir(exist_ok=True)
    oracle = oracle_of(folder, settings, budget, draw, GOAL, max_failures=max_failures)
    if (folder / ORACLE).exists() or any(folder.glob(f"trial_*/{TRIAL}")):
        oracle.reload()
    oracle.save()
    return oracle, TrialTuner(oracle, folder, Untrained(folder, settings, draw, fails))


FIVE = Budget(trials=5)


def run(folder, algorithm="random", budget=FIVE, **options):
    """A search to its end; returns the oracle and the trials that were trained."""
    oracle, tuner = make(folder, algorithm, budget, **options)
    tuner.search()
    return oracle, tuner.runner.trained


def shown(folder):
    return [(r["trial"], r["parameters"], r["algorithm"], r["objective"], r["seed"]) for r in read_records(folder)]


class Kill(BaseException):
    """As SIGKILL: no `except Exception` stops it."""


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("hyperband", "bayesian")]


@pytest.mark.parametrize("algorithm", ["random", "grid", *SLOW])
def test_a_kill_at_any_write_loses_and_repeats_nothing(algorithm, tmp_path, monkeypatch):
    budget = {"hyperband": Budget(trials=7)}.get(algorithm, Budget(trials=4))
    options = {"options": {"num_initial_points": 3}} if algorithm == "bayesian" else {}
    replace, calls = os.replace, []
    monkeypatch.setattr(files.os, "fsync", lambda _: None)  # a killed process leaves its writes to the system, which this does not end

    def count(*arguments):
        calls.append(arguments)
        replace(*arguments)

    monkeypatch.setattr(files.os, "replace", count)
    run(tmp_path / "whole", algorithm, budget, **options)
    expected, writes = shown(tmp_path / "whole"), len(calls)
    assert len(expected) == budget.trials and writes > 4 * budget.trials
    for number in range(1, writes + 1, 5 if algorithm == "bayesian" else 1):
        for after in (False, True):
            folder, calls[:] = tmp_path / f"{number}{after}", []

            def killed(source, target, number=number, after=after):
                calls.append(target)
                if len(calls) != number or after:
                    replace(source, target)
                if len(calls) == number:
                    raise Kill

            monkeypatch.setattr(files.os, "replace", killed)
            with pytest.raises(Kill):
                run(folder, algorithm, budget, **options)
            finished = {r["trial"]: (trial_folder(folder, r["trial"]) / RECORD).read_bytes() for r in read_records(folder)}
            monkeypatch.setattr(files.os, "replace", replace)
            oracle, trained = run(folder, algorithm, budget, **options)
            assert not set(trained) & set(finished)
            for trial_id, content in finished.items():
                assert (trial_folder(folder, trial_id) / RECORD).read_bytes() == content
            assert shown(folder) == expected, (number, after)
            assert sorted(oracle.end_order) == [e[0] for e in expected] and not oracle.warnings
            assert not list(folder.rglob("*.incomplete"))


def test_a_finished_search_is_not_run_again(tmp_path):
    run(tmp_path / "s")
    oracle, trained = run(tmp_path / "s")
    assert trained == [] and oracle.reason == "5 trials"
    oracle, trained = run(tmp_path / "s", budget=Budget(trials=7))
    assert trained == ["0005", "0006"]
    run(tmp_path / "one", budget=Budget(trials=7))
    assert shown(tmp_path / "s") == shown(tmp_path / "one")


def test_damaged_files_are_repaired_or_left_out(tmp_path):
    run(tmp_path / "s")
    finished = trial_folder(tmp_path / "s", "0001") / TRIAL
    finished.write_text(finished.read_text()[:40])
    lost = trial_folder(tmp_path / "s", "0003")
    (lost / RECORD).unlink()
    (lost / TRIAL).write_text("")
    oracle, trained = run(tmp_path / "s")
    assert trained == ["0005"]  # in the place of 0003
    assert [t.status for t in oracle.trials.values()] == ["COMPLETED"] * 3 + ["FAILED"] + ["COMPLETED"] * 2
    assert "0001" in oracle.warnings[0] and "made anew" in oracle.warnings[0] and "0003" in oracle.warnings[1]
    assert oracle.trials["0001"].score == read_record(tmp_path / "s", "0001")["objective"]
    oracle, trained = run(tmp_path / "s")
    assert trained == []


def test_a_damaged_state_is_made_anew_from_the_trials(tmp_path):
    for algorithm in ("random", "grid"):
        folder = tmp_path / algorithm
        run(folder, algorithm, Budget(trials=3))
        (folder / ORACLE).write_text("{")
        oracle, trained = run(folder, algorithm, Budget(trials=5))
        assert trained == ["0003", "0004"] and "made anew" in oracle.warnings[0]
        assert len({json.dumps(r["parameters"], sort_keys=True) for r in read_records(folder)}) == 5
    run(tmp_path / "hyperband", "hyperband", Budget(trials=3))
    (tmp_path / "hyperband" / ORACLE).write_text("{")
    with pytest.raises(ValueError, match="oracle.json is damaged.*start anew"):
        run(tmp_path / "hyperband", "hyperband", Budget(trials=3))


def test_the_grid_is_whole_and_in_order(tmp_path):
    oracle, _ = make(tmp_path / "g", "grid", Budget())
    assert oracle.trials_to_come() == 6
    oracle, trained = run(tmp_path / "g", "grid", Budget())
    values = [(r["parameters"]["embedding_dim"], r["parameters"]["units"]) for r in read_records(tmp_path / "g")]
    assert values == [(2, 3), (2, 7), (3, 3), (3, 7), (5, 3), (5, 7)]
    assert oracle.reason == "every configuration of the space was tried"


def test_budget_of_epochs_cuts_the_last_trial(tmp_path):
    oracle, trained = run(tmp_path / "s", budget=Budget(epochs=10))
    assert [r["epochs"] for r in read_records(tmp_path / "s")] == [4, 4, 2] and oracle.reason == "10 epochs"
    assert read_records(tmp_path / "s")[-1]["algorithm"] == {"epochs": 2}
    assert run(tmp_path / "s", budget=Budget(epochs=10))[1] == []


def test_budget_of_minutes_counts_earlier_runs(tmp_path):
    oracle, tuner = make(tmp_path / "s", "random", Budget(minutes=1))
    oracle._before = 59.0
    trial = oracle.create_trial("tuner0")
    assert trial.status == "RUNNING"
    oracle._before = 61.0
    oracle.save()
    oracle, trained = run(tmp_path / "s", budget=Budget(minutes=1))
    assert trained == [] and oracle.reason == "1 minutes"  # not even the one that was cut off
    oracle, trained = run(tmp_path / "s", budget=Budget(trials=1, minutes=3))
    assert trained == ["0000"]
    with pytest.raises(ValueError, match="minutes must be above 0"):
        Budget(minutes=0)


def test_hyperband_gives_epochs_and_promotes_with_the_same_seed(tmp_path):
    oracle, _ = run(tmp_path / "h", "hyperband", Budget())
    records = {r["trial"]: r for r in read_records(tmp_path / "h")}
    promoted = [r for r in records.values() if "trial_id" in r["algorithm"]]
    assert {r["epochs"] for r in records.values()} == {2, 4} and promoted and oracle.reason == "all brackets are done"
    for record in promoted:
        parent = records[record["algorithm"]["trial_id"]]
        assert record["seed"] == parent["seed"] and record["parameters"] == parent["parameters"]
        assert (parent["epochs"], record["epochs"]) == (2, 4)


def test_failed_trials_are_no_results_and_end_a_search_of_them_alone(tmp_path):
    oracle, trained = run(tmp_path / "some", fails=("0000", "0002"))
    records = read_records(tmp_path / "some")
    assert [r["status"] for r in records] == ["failed", "completed", "failed", "completed", "completed"]
    assert records[0]["error"]["type"] == "MemoryError" and "too large" in records[0]["error"]["traceback"]
    assert [t.trial_id for t in oracle.get_best_trials(3)] == sorted(("0001", "0003", "0004"), key=lambda t: -oracle.trials[t].score)
    assert "too large" in oracle.trials["0002"].message
    oracle, trained = run(tmp_path / "all", fails=[f"{i:04d}" for i in range(9)], budget=Budget(trials=9), max_failures=3)
    assert len(trained) == 3 and oracle.reason == "3 trials in a row failed"


def test_the_trial_of_a_dead_worker_goes_to_another_once(tmp_path):
    oracle, tuner = make(tmp_path / "s", "random", Budget(trials=1))
    assert oracle.create_trial("a").trial_id == "0000"
    oracle.worker_died("a")
    trial = oracle.create_trial("b")
    assert trial.trial_id == "0000" and trial.status == "RUNNING"
    oracle.worker_died("b")
    tuner.search()  # by now its record says that it failed
    assert tuner.runner.trained == [] and "died 2 times" in read_record(tmp_path / "s", "0000")["error"]["message"]
    assert oracle.trials["0000"].status == "FAILED"


def test_seeds_follow_from_search_and_number():
    seeds = [trial_seed(search, number) for search in (1, 2) for number in range(100)]
    assert len(set(seeds)) == 200 and seeds == [trial_seed(search, number) for search in (1, 2) for number in range(100)]
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_objectives():
    one, two = ["click"], ["click", "like"]
    assert parse_objective("val_auc", one) == Objective("val_auc", ((1.0, "val_auc"),), "max")
    assert parse_objective("val_click_logloss", one).terms == ((1.0, "val_logloss"),)  # one label has no names of its own in the logs
    assert parse_objective("val_like_gauc", two).monitor == "val_like_gauc" and parse_objective("val_ne", two).direction == "min"
    both = parse_objective("0.25*val_click_auc + .75 * val_like_auc", two)
    assert both.direction == "max" and both.monitor == "val_auc"
    assert both.value({"val_click_auc": 0.5, "val_like_auc": 0.9}) == pytest.approx(0.8)
    mixed = parse_objective("val_auc - 1e-1*val_logloss", one)
    assert mixed.direction == "max" and mixed.value({"val_auc": 0.7, "val_logloss": 0.5}) == pytest.approx(0.65)
    assert parse_objective("val_click_ne+0.5*val_like_ne", two).terms == ((1.0, "val_click_ne"), (0.5, "val_like_ne"))
    for text, problem in {
        "val_acu": "no metric 'val_acu'.*did you mean 'val_auc'",
        "val_calibration": "no metric 'val_calibration'",
        "val_auc + val_logloss": "point different ways",
        "0*val_auc": "a number other than 0",
        "2 val_auc": "not of the form",
    }.items():
        with pytest.raises(ValueError, match=problem):
            parse_objective(text, one)
    with pytest.raises(ValueError, match="no metric 'val_gauc'"):
        parse_objective("val_gauc", one, grouped=False)
    with pytest.raises(ValueError, match="is nan"):
        parse_objective("val_auc", one).value({"val_auc": float("nan")})
    with pytest.raises(ValueError, match="needs 'val_auc'.*val_logloss"):
        parse_objective("val_auc", one).value({"val_logloss": 0.5})


def test_best_epoch_is_the_one_that_early_stopping_keeps():
    history = {"val_auc": [0.5, 0.7, 0.7, 0.6], "val_logloss": [0.9, 0.4, 0.3, 0.5], "val_ne": [float("nan"), 0.9, 0.8, 0.8]}
    assert [best_epoch(history, name) for name in history] == [1, 2, 2]
    with pytest.raises(ValueError, match="not finite in any of 2 epochs"):
        best_epoch({"val_auc": [float("nan")] * 2}, "val_auc")
    with pytest.raises(ValueError, match="no 'val_gauc'"):
        best_epoch(history, "val_gauc")


def test_a_space_is_explored_with_its_conditions_and_fixed_values():
    settings = Settings("data", "DNN", fixed={"learning_rate": 0.5, "arguments": {"embedding_dim": 9, "hidden_units": [1]}})
    draw = Draw(settings, small_space, small_training)
    space = explore(draw)
    assert {hp.name: type(hp).__name__ for hp in space.space} == {
        "layers": "Int",
        "second": "Choice",
        "embedding_dim": "Fixed",
        "learning_rate": "Fixed",
    }
    drawn = draw(space)
    assert drawn == {
        "optimizer": "adam",
        "learning_rate": 0.5,
        "model": "DNN",
        "arguments": {"embedding_dim": 9, "hidden_units": [1]},
    }


def test_names_of_algorithms_and_functions():
    assert [algorithm_name(n) for n in ("random", "Hyperband", "BayesianOptimization", "gridsearch")] == [
        "random",
        "hyperband",
        "bayesian",
        "grid",
    ]
    with pytest.raises(ValueError, match="no search algorithm 'bayes'.*bayesian"):
        algorithm_name("bayes")
    assert reference_of(small_space) == "tests.tuning.search_sample:small_space"
    assert reference_of(lambda hp: {}) is None


def test_files_are_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    monkeypatch.setattr(files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1} and [p.name for p in path.parent.iterdir()] == ["file.json"]
    assert files.plain({"a": (np.float32(0.5), float("nan"))}) == {"a": [0.5, None]}


def planted(count, noise=0.02):
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        rate, width, kind = 10 ** rng.uniform(-4, -1), int(rng.integers(1, 9)), str(rng.choice(["a", "b"]))
        value = -((np.log10(rate) + 2.5) ** 2) + 0.3 * (kind == "b") + noise * rng.normal()
        found.append({"objective": value, "parameters": {"rate": float(rate), "width": width, "kind": kind, "same": 3}})
    return found


@pytest.mark.slow
def test_importance_finds_what_was_planted():
    result = importance(planted(60))
    means = {name: value["mean"] for name, value in result["importance"].items()}
    assert list(means)[:2] == ["rate", "kind"] and set(means) == {"rate", "kind", "width"}
    assert means["rate"] > 0.8 and abs(means["width"]) < 0.1 and result["r2"] > 0.7 and result["caveat"] is None
    rng = np.random.default_rng(1)
    noise = importance([{**record, "objective": rng.normal()} for record in planted(40)])
    assert noise["r2"] < 0.3 and "do not trust" in noise["caveat"]
    assert importance(planted(9))["importance"] == {} and "at least 10" in importance(planted(9))["caveat"]
    assert "few" in importance(planted(20))["caveat"]
