"""Configs, whole models and weights alone: training goes on as if it had never been interrupted."""

import keras
import numpy as np
import pytest

from keras_ctr import models, optimizers
from tests.sample import fields_schema, random_rows

CONFIGS = [
    (optimizers.SGD, {"learning_rate": 0.25, "momentum": 0.5, "nesterov": True}),
    (optimizers.Adagrad, {"learning_rate": 0.25, "initial_accumulator_value": 0.5, "epsilon": 0.125}),
    (optimizers.RowWiseAdagrad, {"learning_rate": 0.25, "initial_accumulator_value": 0.5, "epsilon": 0.125}),
    (optimizers.LazyAdam, {"learning_rate": 0.25, "beta_1": 0.5, "beta_2": 0.75, "epsilon": 0.125}),
    (optimizers.LazyAdamW, {"learning_rate": 0.25, "weight_decay": 0.375, "beta_1": 0.5, "beta_2": 0.75, "epsilon": 0.125}),
    *(
        (cls, {"learning_rate": 0.25, "beta": 0.5, "l1": 0.75, "l2": 0.125, "initial_accumulator_value": 0.375, "semantics": "original"})
        for cls in (optimizers.FTRL, optimizers.GroupLassoFTRL)
    ),
]
SHARED = {"clipnorm": 0.5, "loss_scale_factor": 4.0, "weight_decay": 0.375, "name": "mine"}

MAKERS = {
    "sgd": lambda: optimizers.SGD(0.1, momentum=0.5),
    "rowwise_adagrad": lambda: optimizers.RowWiseAdagrad(0.1, initial_accumulator_value=0.25),
    "adamw": lambda: optimizers.LazyAdamW(0.1),
    "group": lambda: optimizers.GroupLassoFTRL(0.1, l1=1e-3),
    "original": lambda: optimizers.FTRL(0.1, l1=1e-3, semantics="original"),
    "schedule": lambda: optimizers.LazyAdam(keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.5)),
    "loss_scale": lambda: optimizers.LossScaleOptimizer(optimizers.LazyAdam(0.1), initial_scale=8.0, dynamic_growth_steps=3),
    "default": lambda: optimizers.default(0.1),
    "default_two_rates": lambda: optimizers.default(0.1, table_learning_rate=0.05, weight_decay=0.01),
    "dynint": lambda: optimizers.dynint(0.1, l1=1e-3, dense_l1=1e-4),
    "wide_deep": lambda: optimizers.wide_deep(0.1, 0.05, l1=1e-3),
}
COMPILED = ("default", "dynint", "loss_scale")  # others run eagerly, which takes a tenth of the time


def small_model(optimizer=None):
    model = models.DNN(fields_schema(), embedding_dim=3, hidden_units=(5,))
    if optimizer is not None:
        model.compile(optimizer, "binary_crossentropy", run_eagerly=True)
    return model


def numpy(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


def train(model, batches):
    x, y = random_rows(fields_schema(), 80)
    for i in batches:
        rows = slice(16 * i, 16 * (i + 1))
        model.train_on_batch({k: v[rows] for k, v in x.items()}, {k: v[rows] for k, v in y.items()})


def state(model):
    return [*(numpy(v) for v in model.trainable_variables), *(numpy(v) for v in model.optimizer.variables)]


def check_equal(one, other):
    assert [v.path for v in one.trainable_variables] == [v.path for v in other.trainable_variables]
    for a, b in zip(state(one), state(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("cls, arguments", CONFIGS, ids=[cls.__name__ for cls, _ in CONFIGS])
def test_config_round_trip(cls, arguments):
    """Every argument differs from its default, and comes back."""
    arguments = {**arguments, **SHARED}
    config = cls(**arguments).get_config()
    defaults = cls().get_config()
    for name, value in arguments.items():
        assert config[name] == value and defaults[name] != value
    assert cls.from_config(config).get_config() == config
    by_name = keras.optimizers.deserialize(keras.optimizers.serialize(cls(**arguments)))
    assert type(by_name) is cls and by_name.get_config() == config


def test_config_of_a_loss_scale_optimizer():
    optimizer = optimizers.LossScaleOptimizer(optimizers.FTRL(0.25, l1=0.5), initial_scale=8.0, dynamic_growth_steps=3)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is optimizers.LossScaleOptimizer and type(again.inner_optimizer) is optimizers.FTRL
    assert again.get_config() == optimizer.get_config()


@pytest.mark.parametrize("recipe", ["default_two_rates", "dynint", "wide_deep"])
def test_config_of_a_recipe(recipe):
    optimizer = MAKERS[recipe]()
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is keras.optimizers.MultiOptimizer and again.name == optimizer.name
    assert [type(o) for o in again.optimizers] == [type(o) for o in optimizer.optimizers]
    for a, b in zip(again.optimizers, optimizer.optimizers, strict=True):
        assert a.get_config() == b.get_config()
    assert again.get_config() == optimizer.get_config()


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "loss_scale")) for name in MAKERS])
def test_a_reloaded_model_trains_on_bit_for_bit(name, tmp_path):
    """Three batches, save, load without `custom_objects`, two more: weights, slots, steps and scales of five batches in one go."""
    whole = small_model()
    whole.compile(MAKERS[name](), "binary_crossentropy", run_eagerly=name not in COMPILED)
    train(whole, range(3))
    whole.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again.optimizer) is type(whole.optimizer)
    check_equal(whole, again)
    for model in (whole, again):
        train(model, (3, 4))
    check_equal(whole, again)
    assert int(numpy(again.optimizer.iterations)) == 5
    again.save(tmp_path / "later.keras")
    check_equal(whole, keras.models.load_model(tmp_path / "later.keras"))


def test_a_recipe_goes_on_with_the_same_owners(tmp_path):
    model = small_model(MAKERS["dynint"]())
    train(model, range(1))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    table = next(v for v in again.trainable_variables if v.path == "embedding/table")
    group, rest = (next(o for o in again.optimizer.optimizers if type(o) is cls) for cls in (optimizers.GroupLassoFTRL, optimizers.FTRL))
    assert (numpy(group.slots_of(table)[1]) > 0).any()
    with pytest.raises(KeyError):
        rest.slots_of(table)


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")  # it has no state yet
@pytest.mark.parametrize("name", ["default", "dynint"])
def test_weights_alone(name, tmp_path):
    """A model that was compiled but never trained gets weights, and trains."""
    model, other = small_model(MAKERS[name]()), small_model(MAKERS[name]())
    train(model, range(3))
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    for a, b in zip(model.trainable_variables, other.trainable_variables, strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b))
    before = [numpy(v) for v in other.trainable_variables]
    train(other, (3,))
    assert any(not np.array_equal(numpy(v), old) for v, old in zip(other.trainable_variables, before, strict=True))
    uncompiled = small_model()
    uncompiled.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(numpy(uncompiled.trainable_variables[0]), before[0])


def test_a_schedule_survives(tmp_path):
    model = small_model(MAKERS["schedule"]())
    train(model, range(3))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    # 0.1 / 2^(t / 3) at step t, 3 at this point
    assert float(numpy(again.optimizer.learning_rate)) == pytest.approx(0.05)
    assert isinstance(again.optimizer._learning_rate, keras.optimizers.schedules.ExponentialDecay)


def test_an_assigned_learning_rate_survives(tmp_path):
    model = small_model(MAKERS["dynint"]())
    train(model, range(1))
    for i, optimizer in enumerate(model.optimizer.optimizers):
        optimizer.learning_rate = 0.25 / (i + 1)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert [float(numpy(o.learning_rate)) for o in again.optimizer.optimizers] == [0.25, 0.125]
