"""The training's search space: every draw is a configuration of a run; sweeps of the papers build."""

import inspect
import json
import math

import keras
import pytest

import keras_ctr
from tests.sample import full_schema
from tuning.spaces import VARIANTS
from tuning.spaces.draw import Draw
from tuning.sweeps import SWEEPS, points
from tuning.training import RATES, SECOND_RATES, training_space

KERAS = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW, "adagrad": keras.optimizers.Adagrad, "sgd": keras.optimizers.SGD}


def maker(name):
    return KERAS[name] if name in KERAS else getattr(keras_ctr.optimizers, name)


@pytest.mark.parametrize("name", RATES)
def test_draws_are_configurations_of_runs(name):
    pytest.importorskip("tensorflow")
    from keras_ctr.cli.runs import RunConfig, optimizer_of

    low, high, _ = RATES[name]
    assert 1e-4 <= low < high <= 1e-1
    logs = []
    for seed in range(1, 51):
        chosen = training_space(Draw(seed), optimizers=(name,))
        assert json.loads(json.dumps(chosen)) == chosen
        config = RunConfig.from_dict({"model": "DNN", **chosen})
        assert config.optimizer == name and low <= config.learning_rate <= high and config.batch_size in range(256, 8193)
        optimizer_of(config)
        logs.append(math.log(config.learning_rate / low) / math.log(high / low))
    assert 0.35 < sum(logs) / 50 < 0.65 and min(logs) < 0.1 and max(logs) > 0.9  # log-uniform: 0.5 +- 0.04


@pytest.mark.parametrize("name", RATES)
def test_defaults_are_the_optimizer_s(name):
    chosen = training_space(Draw(), optimizers=(name,))
    known = inspect.signature(maker(name)).parameters
    rate = "deep_learning_rate" if name == "wide_deep" else "learning_rate"
    assert chosen["learning_rate"] == known[rate].default
    assert {k: known[k].default for k in chosen["optimizer_arguments"]} == chosen["optimizer_arguments"]
    # Every penalty that an optimizer has by these names is drawn, and the second rate of those that have one.
    assert set(chosen["optimizer_arguments"]) == {k for k in known if k in ("l1", "l2", "dense_l1", "dense_l2", SECOND_RATES.get(name))}


def test_the_first_trial_is_the_default_run():
    pytest.importorskip("tensorflow")
    from keras_ctr.cli.runs import RunConfig

    chosen = training_space(Draw(), optimizers=("default",))
    assert RunConfig.from_dict({**chosen, "optimizer_arguments": {}}) == RunConfig()


def test_several_optimizers():
    found = {}
    for seed in range(1, 101):
        hp = Draw(seed)
        chosen = training_space(hp, optimizers=("FTRL", "adam", "FTRL"))
        found.setdefault(chosen["optimizer"], set()).update(hp.values)
        assert set(chosen["optimizer_arguments"]) == ({"l1", "l2"} if chosen["optimizer"] == "FTRL" else set())
    assert found == {
        "FTRL": {"optimizer", "batch_size", "learning_rate_of_FTRL", "l1_of_FTRL", "l2_of_FTRL"},
        "adam": {"optimizer", "batch_size", "learning_rate_of_adam"},
    }
    assert training_space(Draw(), optimizers=("FTRL", "adam"))["optimizer"] == "FTRL"


def test_unknown_optimizers_are_named():
    with pytest.raises(ValueError, match="did you mean 'dynint'"):
        training_space(Draw(), optimizers=("adam", "dyn_int"))
    with pytest.raises(ValueError, match="at least one"):
        training_space(Draw(), optimizers=())


def test_sweeps_are_the_papers():
    assert [a["num_layers"] for _, a in points("depth-DA")] == [0, 1, 2, 3, 4, 5]  # Table 3
    assert all(a["num_subspaces"] == 1 and a["variant"] == "dwp" for _, a in points("depth-DWP"))
    assert [(a["num_subspaces"], a["num_layers"]) for _, a in points("subspaces-DGP")] == [(h, 3) for h in (1, 2, 4, 8, 16)]  # Table 4
    assert {variant for variant, _ in SWEEPS.values()} == {"DynInt-DA", "DynInt-DGP", "DynInt-DWP"} <= set(VARIANTS)
    for name, (_, values) in SWEEPS.items():
        count = math.prod(map(len, values.values()))
        assert len(points(name)) == count > 3 and all(a["embedding_dim"] == 16 for _, a in points(name))
        assert sum(len(v) > 1 for v in values.values()) == 1, "a sweep moves one argument"


@pytest.mark.slow
def test_points_of_sweeps_build():
    schema = full_schema(labels=("click",))
    built = {}
    for name in SWEEPS:
        for model, arguments in points(name):
            key = json.dumps(arguments, sort_keys=True)
            if key not in built:
                built[key] = keras_ctr.get_model(model, schema, **arguments).count_params()
    sizes = [built[json.dumps(a, sort_keys=True)] for _, a in points("depth-DGP")]
    assert sizes == sorted(set(sizes)), "every layer adds parameters"
