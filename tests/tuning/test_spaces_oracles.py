"""KerasTuner's oracles on the spaces: every one draws valid trials, the grid is the whole grid, a state read again knows the same space."""

import itertools
import json
import zlib

import pytest

from tuning.spaces import SPACES, get_space
from tuning.spaces.choices import depending, labelled
from tuning.spaces.draw import Draw
from tuning.training import RATES, training_space

keras_tuner = pytest.importorskip("keras_tuner")

OBJECTIVE = keras_tuner.Objective("val_auc", "max")
NESTED = ("DynInt", "DCNv2", "DMR", "DMIN", "TBSM", "INFNet", "InterFormer", "OneTrans")
"""Spaces with conditions of every kind."""
ORACLES = {
    "random": lambda **more: keras_tuner.oracles.RandomSearchOracle(max_trials=40, **more),
    # Eight random points, then the Gaussian process, whose every step takes seconds.
    "bayesian": lambda **more: keras_tuner.oracles.BayesianOptimizationOracle(max_trials=10, num_initial_points=8, **more),
    "hyperband": lambda **more: keras_tuner.oracles.HyperbandOracle(max_epochs=9, factor=3, **more),
    "grid": lambda **more: keras_tuner.oracles.GridSearchOracle(**more),
}
TRIALS = {"random": 24, "bayesian": 10, "hyperband": 23, "grid": 60}
"""Trials to run; Hyperband's three brackets of at most 9 epochs have 9 + 3 + 1, 5 + 2 and 3."""


def toy(hp):
    """Choices that depend on choices: see `points`."""
    width = hp.Choice("width", [2, 4], default=4)
    heads = depending(hp, "heads", "width", {2: [1, 2], 4: [1, 2, 4]}, default=2)
    form = labelled(hp, "form", {"none": None, "low": "low"}, "none")
    with hp.conditional_scope("form", ["low"]):
        rank = hp.Choice("rank", [1, 2], default=2)
        with hp.conditional_scope("rank", [2]):
            penalty = hp.Boolean("penalty", default=False)
    more = {} if rank is None else {"rank": rank} if penalty is None else {"rank": rank, "penalty": penalty}
    return {"width": width, "heads": heads, "form": form, **more}


def points():
    """All points of `toy`, by hand."""
    pairs = [(2, 1), (2, 2), (4, 1), (4, 2), (4, 4)]
    forms = [
        {"form": None},
        *({"form": "low", **more} for more in ({"rank": 1}, {"rank": 2, "penalty": False}, {"rank": 2, "penalty": True})),
    ]
    return [{"width": width, "heads": heads, **form} for (width, heads), form in itertools.product(pairs, forms)]


def declared(space, fixed=()):
    """Returns hyperparameters that know a whole space from one call."""
    hp = keras_tuner.HyperParameters()
    for name, value in dict(fixed).items():
        hp.Fixed(name, value)
    space(hp)
    return hp


def make(kind, space, folder, fixed=(), **more):
    oracle = ORACLES[kind](objective=OBJECTIVE, hyperparameters=declared(space, fixed), seed=7, **more)
    oracle._set_project_dir(str(folder), "search")
    oracle.verbose = 0
    return oracle


def run(oracle, space, most=10**6):
    """Runs trials without training; returns the arguments and the values of the space's hyperparameters of each."""
    out = []
    while len(out) < most:
        trial = oracle.create_trial("tuner0")
        if trial.status == "STOPPED":
            break
        before = dict(trial.hyperparameters.values)
        arguments = space(trial.hyperparameters)
        assert trial.hyperparameters.values == before, "the call found hyperparameters that the oracle did not know"
        values = {k: v for k, v in before.items() if not k.startswith("tuner/")}
        out.append((arguments, values))
        score = 0.5 + 0.001 * (zlib.crc32(json.dumps(arguments, sort_keys=True).encode()) % 97)
        oracle.update_trial(trial.trial_id, {"val_auc": score})
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
    return out


def same(a, b):
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)


def with_training(name):
    """A space of model and training together, as a search has it."""
    _, space = get_space(name)
    return lambda hp: {"arguments": space(hp), **training_space(hp, optimizers=("default", "dynint", "FTRL"))}


@pytest.mark.parametrize("name", SPACES)
def test_one_call_declares_the_whole_space(name):
    space = with_training(name)
    hp = declared(space)
    names = [p.name for p in hp.space]
    assert len(names) == len(set(names)), "one name, two meanings"
    for seed in range(1, 31):
        other = Draw(seed)
        arguments = space(other)
        assert set(other.values) <= set(names)
        again = hp.copy()
        again.values = dict(other.values)
        assert same(space(again), arguments), "KerasTuner and Draw read the same values differently"
        assert again.values == other.values and len(again.space) == len(names)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ORACLES)
@pytest.mark.parametrize("name", NESTED)
def test_oracles_draw_valid_trials(kind, name, tmp_path):
    _, space = get_space(name)
    trials = run(make(kind, space, tmp_path), space, most=TRIALS[kind])
    assert len(trials) == TRIALS[kind]
    for arguments, values in trials:
        hp = Draw(fixed=values)
        assert same(space(hp), arguments)
        assert hp.values == values, "inactive hyperparameters have values"
    if kind in ("random", "grid"):
        assert len({json.dumps(v, sort_keys=True) for _, v in trials}) == len(trials)


@pytest.mark.parametrize("kind", ["random", "hyperband", "grid"])
def test_training_is_drawn_beside_the_model(kind, tmp_path):
    space = with_training("DynInt-DGP")
    seen = run(make(kind, space, tmp_path), space, most=20)
    for arguments, values in seen:
        assert same(space(Draw(fixed=values)), arguments)
    assert {a["optimizer"] for a, _ in seen} >= ({"default"} if kind == "grid" else {"default", "dynint", "FTRL"})


def test_the_grid_is_the_whole_grid_and_starts_at_the_defaults(tmp_path):
    found = [arguments for arguments, _ in run(make("grid", toy, tmp_path), toy)]
    assert found[0] == toy(Draw()) == {"width": 4, "heads": 2, "form": None}
    assert len(found) == 20
    assert sorted(json.dumps(a, sort_keys=True) for a in found) == sorted(json.dumps(a, sort_keys=True) for a in points())


def test_the_papers_grid_of_x_deep_int(tmp_path):
    _, space = get_space("XDeepInt")
    fixed = {"embedding_dim": 16, "embedding_l2": 0.0}
    found = [a for a, _ in run(make("grid", space, tmp_path, fixed), space)]
    assert all(a["embedding_dim"] == 16 and a["embedding_l2"] == 0.0 for a in found)
    assert sorted((a["num_layers"], a["num_subspaces"]) for a in found) == list(itertools.product((1, 2, 3, 4), (1, 2, 4, 8, 16)))
    assert (found[0]["num_layers"], found[0]["num_subspaces"]) == (3, 4)


@pytest.mark.parametrize("kind", ORACLES)
def test_a_state_that_is_read_again_knows_the_same_space(kind, tmp_path):
    run(make(kind, toy, tmp_path), toy, most=5)
    oracle = make(kind, toy, tmp_path)
    oracle.reload()
    assert len(oracle.trials) == 5
    hp = oracle.get_space()
    before = hp.get_config()["space"]
    toy(hp)
    assert hp.get_config()["space"] == before == declared(toy).get_config()["space"]


def test_a_stopped_random_search_repeats_no_point(tmp_path):
    first = run(make("random", toy, tmp_path), toy, most=9)
    oracle = make("random", toy, tmp_path)
    oracle.reload()
    # KerasTuner's file still calls the last trial ongoing, so that it runs again.
    again, *rest = run(oracle, toy, most=4)
    assert again == first[-1]
    assert len({json.dumps(a, sort_keys=True) for a, _ in first + rest}) == 12


def test_a_tuner_s_discovery_finds_nothing_more(tmp_path):
    """A `Tuner` builds the model again and again until every scope was active."""
    calls = []

    def build(hp):
        calls.append(1)
        return toy(hp)

    class Tuner(keras_tuner.RandomSearch):
        def run_trial(self, trial, *args, **kwargs):
            return {"val_auc": 0.5}

    tuner = Tuner(build, objective=OBJECTIVE, max_trials=3, hyperparameters=declared(toy), directory=tmp_path, seed=1)
    assert {p.name for p in tuner.oracle.hyperparameters.space} == {p.name for p in declared(toy).space}
    assert len(calls) < 20


def test_training_spaces_are_declared_at_once():
    everything = declared(lambda hp: training_space(hp, optimizers=tuple(RATES)))
    names = [p.name for p in everything.space]
    assert len(names) == len(set(names))
    assert {"optimizer", "batch_size", "learning_rate_of_adam", "l1_of_FTRL", "dense_l2_of_dynint"} <= set(names)
