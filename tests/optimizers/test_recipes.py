"""The recipes: which variable goes to which optimizer, what their arguments mean, and that one line in `compile` trains."""

import re

import keras
import numpy as np
import pytest

import keras_ctr
from keras_ctr import Categorical, Schema, models, optimizers
from tests.sample import fields_schema, full_schema, random_rows


def mixed_schema():
    """Tables of two widths, so that one is `table_<width>` and has a projection."""
    return Schema([Categorical("user", 19), Categorical("brand", 11, embedding_dim=2), Categorical("item", 13)], labels=["click"])


SMALL = {"DNN": {"embedding_dim": 3, "hidden_units": (5,)}, "LR": {}, "DynInt": {"embedding_dim": 4, "num_layers": 1}, "InterFormer": {}}
RECIPES = {"default": optimizers.default, "dynint": optimizers.dynint, "wide_deep": optimizers.wide_deep}


def numpy(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


def owners(model, optimizer):
    """`{variable path: optimizer}` after building."""
    optimizer.build(model.trainable_variables)
    out = {}
    for variable in model.trainable_variables:
        for one in optimizer.optimizers:
            try:
                one.slots_of(variable)
            except (KeyError, AttributeError):
                continue
            assert variable.path not in out
            out[variable.path] = one
    assert len(out) == len(model.trainable_variables)
    return out


def paths_of(found, cls):
    return {path for path, optimizer in found.items() if type(optimizer) is cls}


@pytest.mark.parametrize(
    "name, schema, tables",
    [
        ("LR", "fields", {"logits/embedding/table"}),
        ("LR", "mixed", {"logits/embedding/table"}),
        ("DNN", "fields", {"embedding/table"}),
        ("DNN", "mixed", {"embedding/table", "embedding/table_2"}),
        ("DynInt", "mixed", {"embedding/table", "embedding/table_2"}),
        ("InterFormer", "full", {"embedding/table"}),
    ],
)
def test_dynint_routes_tables_to_the_group_lasso(name, schema, tables):
    schema = {"fields": fields_schema, "full": full_schema, "mixed": mixed_schema}[schema]()
    model = keras_ctr.get_model(name, schema, **SMALL[name])
    found = owners(model, optimizers.dynint())
    assert paths_of(found, optimizers.GroupLassoFTRL) == tables
    rest = paths_of(found, optimizers.FTRL)
    assert rest == {v.path for v in model.trainable_variables} - tables
    assert any("bias" in path for path in rest)
    if "embedding/table_2" in tables:
        assert "embedding/projection_brand" in rest
    assert len({id(o) for o in found.values()}) == 2


@pytest.mark.parametrize("name, wide", [("LR", {"logits/embedding/table"}), ("DNN", set()), ("DynInt", set())])
def test_wide_deep_routes_linear_weights_to_ftrl(name, wide):
    schema = mixed_schema()
    model = keras_ctr.get_model(name, schema, **SMALL[name])
    found = owners(model, optimizers.wide_deep())
    assert paths_of(found, optimizers.FTRL) == wide
    assert paths_of(found, optimizers.Adagrad) == {v.path for v in model.trainable_variables} - wide


def wide_and_deep_model(wide_name):
    """A linear part beside a deep one, as factories name them."""
    schema = fields_schema()
    inputs = models.ctr_model.build_inputs(schema)
    wide = keras_ctr.layers.LinearLogit(schema, 1, name=wide_name)(inputs)
    fields = keras_ctr.layers.FeatureEmbedding(schema, 3, name="embedding")(inputs)["fields"]
    deep = keras.layers.Dense(1, name="logits")(keras.layers.Flatten()(fields))
    return models.ctr_model.CTRModel(inputs, models.ctr_model.predictions(wide + deep, schema, "sigmoid"))


@pytest.mark.parametrize("wide_name", ["linear", "wide"])
def test_wide_deep_of_a_model_with_both_parts(wide_name):
    model = wide_and_deep_model(wide_name)
    found = owners(model, optimizers.wide_deep())
    wide = {v.path for v in model.trainable_variables if v.path.startswith(f"{wide_name}/")}
    assert wide == {f"{wide_name}/bias", f"{wide_name}/numeric/kernel", f"{wide_name}/embedding/table"}
    assert paths_of(found, optimizers.FTRL) == wide
    assert paths_of(found, optimizers.Adagrad) == {"embedding/table", "logits/kernel", "logits/bias"}


@pytest.mark.parametrize(
    "path, table",
    [
        ("embedding/table", True),
        ("embedding/table_16", True),
        ("tower/embedding/table", True),
        ("tower/embedding/table_4", True),
        ("embedding/projection_table", False),
        ("embedding/table_4/extra", False),
        ("my_embedding/table", False),
        ("embedding/tables", False),
        ("embedding/table_x", False),
        ("numeric_embedding/kernel", False),
    ],
)
def test_pattern_of_tables(path, table):
    assert bool(re.fullmatch(optimizers.TABLES, path)) == table


@pytest.mark.parametrize(
    "path, wide",
    [
        ("linear/bias", True),
        ("wide/embedding/table", True),
        ("tower/linear/kernel", True),
        ("logits/embedding/table", True),
        ("logits/kernel", False),
        ("linear_1/kernel", False),
        ("nonlinear/kernel", False),
        ("embedding/table", False),
    ],
)
def test_pattern_of_wide_parts(path, wide):
    assert bool(re.fullmatch(optimizers.WIDE, path)) == wide


def test_patterns_may_be_given():
    model = keras_ctr.get_model("DNN", mixed_schema(), **SMALL["DNN"])
    found = owners(model, optimizers.dynint(tables="embedding/table_2"))
    assert paths_of(found, optimizers.GroupLassoFTRL) == {"embedding/table_2"}
    found = owners(model, optimizers.wide_deep(wide="mlp/.*"))
    assert paths_of(found, optimizers.FTRL) == {"mlp/dense_0/kernel", "mlp/dense_0/bias"}
    found = owners(model, optimizers.default(table_learning_rate=0.5, tables=".*/table"))
    assert {path for path, o in found.items() if float(numpy(o.learning_rate)) == 0.5} == {"embedding/table"}


def test_default_is_lazy_adam():
    optimizer = optimizers.default(0.25, global_clipnorm=2.0)
    assert type(optimizer) is optimizers.LazyAdam
    assert float(numpy(optimizer.learning_rate)) == 0.25 and optimizer.global_clipnorm == 2.0
    assert optimizers.default().get_config() == optimizers.LazyAdam().get_config()


def test_default_with_a_rate_for_tables_and_decay_for_the_rest():
    model = keras_ctr.get_model("DNN", mixed_schema(), **SMALL["DNN"])
    found = owners(model, optimizers.default(0.25, table_learning_rate=0.125, weight_decay=0.5, clipnorm=2.0))
    assert paths_of(found, optimizers.LazyAdam) == set(found)
    for path, optimizer in found.items():
        is_table = path in ("embedding/table", "embedding/table_2")
        assert float(numpy(optimizer.learning_rate)) == (0.125 if is_table else 0.25)
        assert optimizer.weight_decay == (None if is_table else 0.5)
        assert optimizer.clipnorm == 2.0
    decay_alone = owners(model, optimizers.default(0.25, weight_decay=0.5))
    assert {float(numpy(o.learning_rate)) for o in decay_alone.values()} == {0.25}
    rate_alone = owners(model, optimizers.default(0.25, table_learning_rate=0.125))
    assert {o.weight_decay for o in rate_alone.values()} == {None}


def parts(optimizer):
    return {type(o).__name__: o.get_config() for o in optimizer.optimizers}


def test_dynint_divides_what_was_meant_for_a_sum():
    """The values of the published code; the learning rates stay as they are."""
    total = parts(optimizers.dynint(0.5, beta=1.0, l1=10.0, l2=20.0, dense_learning_rate=0.25, dense_l1=0.5, dense_l2=0.75, sum_over=8))
    mean = parts(
        optimizers.dynint(0.5, beta=0.125, l1=1.25, l2=2.5, dense_learning_rate=0.25, dense_l1=0.0625, dense_l2=0.09375, clipnorm=None)
    )
    assert total == mean
    group, rest = total["GroupLassoFTRL"], total["FTRL"]
    assert (group["learning_rate"], group["beta"], group["l1"], group["l2"]) == (0.5, 0.125, 1.25, 2.5)
    assert (rest["learning_rate"], rest["beta"], rest["l1"], rest["l2"]) == (0.25, 0.125, 0.0625, 0.09375)


def test_recipe_arguments_reach_their_part():
    dynint = parts(optimizers.dynint(semantics="original", global_clipnorm=2.0))
    assert {(c["semantics"], c["global_clipnorm"]) for c in dynint.values()} == {("original", 2.0)}
    # Without penalties and for batches of 4096 rows dynint() is the authors' setting.
    assert {(c["beta"], c["learning_rate"]) for c in dynint.values()} == {(1 / 4096, np.float32(0.02))}
    wide_deep = parts(optimizers.wide_deep(0.5, 0.25, l1=0.75, l2=0.125, clipvalue=2.0))
    assert (wide_deep["FTRL"]["learning_rate"], wide_deep["FTRL"]["l1"], wide_deep["FTRL"]["l2"]) == (0.5, 0.75, 0.125)
    assert wide_deep["Adagrad"]["learning_rate"] == 0.25
    assert {c["clipvalue"] for c in wide_deep.values()} == {2.0}


@pytest.mark.parametrize("bad", [0, -1, 2.5, "4096"])
def test_sum_over_must_be_a_number_of_rows(bad):
    with pytest.raises(ValueError, match="dynint: sum_over"):
        optimizers.dynint(sum_over=bad)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: optimizers.dynint(l1=-1.0), "GroupLassoFTRL: l1"),
        (lambda: optimizers.dynint(dense_l2=-1.0), "FTRL: l2"),
        (lambda: optimizers.dynint(semantics="x"), "semantics"),
        (lambda: optimizers.wide_deep(l1=-1.0), "FTRL: l1"),
        (lambda: optimizers.default(clipnrom=1.0), "clipnrom"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "recipe, name",
    [
        ("default", "DNN"),
        ("dynint", "DNN"),
        ("wide_deep", "LR"),
        pytest.param("wide_deep", "DNN", marks=pytest.mark.slow),
        pytest.param("dynint", "DynInt", marks=pytest.mark.slow),
        pytest.param("dynint", "LR", marks=pytest.mark.slow),
    ],
)
def test_one_line_trains(recipe, name):
    schema = fields_schema()
    x, y = random_rows(schema, 128)
    model = keras_ctr.get_model(name, schema, **SMALL[name])
    model.compile(RECIPES[recipe](), "binary_crossentropy")
    losses = model.fit(x, y, batch_size=32, epochs=10, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]


@pytest.mark.parametrize("wrapped", [False, True], ids=["by_keras", "by_hand"])
def test_a_recipe_trains_in_mixed_float16(wrapped):
    """Keras wraps the composite in its own LossScaleOptimizer; ours takes one too."""
    keras.config.set_dtype_policy("mixed_float16")
    x, y = random_rows(fields_schema(), 64)
    model = keras_ctr.get_model("DNN", fields_schema(), **SMALL["DNN"])
    recipe = optimizers.dynint()
    model.compile(optimizers.LossScaleOptimizer(recipe) if wrapped else recipe, "binary_crossentropy", run_eagerly=wrapped)
    assert type(model.optimizer) is (optimizers.LossScaleOptimizer if wrapped else keras.optimizers.LossScaleOptimizer)
    losses = model.fit(x, y, batch_size=16, epochs=4, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    assert int(numpy(model.optimizer.iterations)) == 16


def test_learning_rates_are_reduced_in_every_part():
    schema = fields_schema()
    x, y = random_rows(schema, 32)
    model = keras_ctr.get_model("LR", schema)
    model.compile(optimizers.dynint(0.5, dense_learning_rate=0.25), "binary_crossentropy", run_eagerly=True)
    never_better = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=100.0)
    history = model.fit(x, y, epochs=3, verbose=0, callbacks=[never_better]).history
    found = {type(o).__name__: float(numpy(o.learning_rate)) for o in model.optimizer.optimizers}
    assert found == {"GroupLassoFTRL": 0.125, "FTRL": 0.0625}
    assert history["learning_rate_GroupLassoFTRL"] == [0.5, 0.5, 0.25]


def test_the_docstrings_setting_of_the_authors():
    """`dynint(beta=1.0, l1=10.0, ..., sum_over=4096)` zeroes rows of rare values as wholes and leaves frequent ones."""
    schema = fields_schema()
    x, y = random_rows(schema, 256)
    x["brand"][:200] = 1
    model = keras_ctr.get_model("DNN", schema, **SMALL["DNN"])
    recipe = optimizers.dynint(beta=1.0, l1=10.0, l2=10.0, dense_l1=0.1, dense_l2=0.1, sum_over=4096)
    model.compile(recipe, "binary_crossentropy", run_eagerly=True)
    model.fit(x, y, batch_size=64, epochs=3, verbose=0)
    rows = model.get_layer("embedding").rows("user")
    seen = np.unique(x["user"])
    zeros = (rows[seen] == 0).sum(axis=1)
    assert set(zeros) <= {0, rows.shape[1]} and (zeros > 0).any()
    unseen = np.setdiff1d(np.arange(1, len(rows)), seen)
    assert len(unseen) and (rows[unseen] != 0).all()
