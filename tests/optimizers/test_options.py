"""What Keras' own options mean for sparse gradients: learning rates, clipping, decay, refusals and bad arguments."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_ctr import optimizers
from tests.optimizers import oracles
from tests.optimizers.oracles import ROWS, RULES, WIDTH
from tests.optimizers.tables import embedding_table, numpy, slices, small_dnn, table, unseen_rows
from tests.sample import fields_schema, full_schema, random_rows

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="sparse gradients exist on the TensorFlow backend only")

SHAPE = (ROWS, WIDTH)
IDS = [rule[0] for rule in RULES]
CLASSES = ["SGD", "Adagrad", "RowWiseAdagrad", "LazyAdam", "LazyAdamW", "FTRL", "GroupLassoFTRL"]
QUICK = ["RowWiseAdagrad", "LazyAdam", "GroupLassoFTRL"]


def fit(model, optimizer, rows=64, epochs=2, **arguments):
    x, y = random_rows(fields_schema(), rows)
    model.compile(optimizer, "binary_crossentropy", **arguments)
    return x, y, model.fit(x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0)


# Learning rates


@pytest.mark.parametrize("id, name, arguments", RULES, ids=IDS)
def test_learning_rate_schedule(id, name, arguments):
    """The rate of step t, from 0; the anchor of FTRL is taken at the rate of a row's first gradient."""
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.5, 0.25, 0.125])
    variable, oracle = table(), oracles.oracle_of(name)(oracles.initial_weights(), **arguments)
    optimizer = getattr(optimizers, name)(schedule, **arguments)
    for rate, (indices, values) in zip([0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.125], oracles.sparse_gradients(steps=7), strict=True):
        optimizer.apply([slices(indices, values, variable)], [variable])
        oracle.sparse(indices, values, rate)
    np.testing.assert_allclose(numpy(variable), oracle.value, rtol=2e-5, atol=2e-6)


def test_learning_rate_may_be_a_callable():
    variable = keras.Variable(np.zeros((3, 2)), name="table")
    optimizer = optimizers.SGD(lambda: 0.5)
    optimizer.apply([slices([2], [[1.0, 2.0]], variable)], [variable])
    np.testing.assert_array_equal(numpy(variable), [[0, 0], [0, 0], [-0.5, -1.0]])


def test_learning_rate_is_read_inside_a_compiled_function():
    variable = keras.Variable(np.zeros((3, 2)), name="table")
    optimizer = optimizers.SGD(0.5)
    optimizer.build([variable])

    @tf.function
    def step():
        optimizer.apply([tf.IndexedSlices(tf.ones((2, 2)), tf.constant([1, 1]), tf.constant([3, 2]))], [variable])

    step()
    optimizer.learning_rate = 0.25
    step()
    np.testing.assert_array_equal(numpy(variable)[1], [-1.5, -1.5])


# Clipping


def clipped(option, limit, sparse, dense):
    """The summed gradients after clipping, in float64; the norm of one variable, or of all."""
    sparse, dense = np.array(sparse, "float64"), np.array(dense, "float64")
    if option == "clipvalue":
        return np.clip(sparse, -limit, limit), np.clip(dense, -limit, limit)
    norms = [np.sqrt((g**2).sum()) for g in (sparse, dense)]
    if option == "global_clipnorm":
        norms = [np.hypot(*norms)] * 2
    return tuple(g * min(1, limit / norm) for g, norm in zip((sparse, dense), norms, strict=True))


@pytest.mark.parametrize("limit", [0.7, 100.0], ids=["active", "inactive"])
@pytest.mark.parametrize("option", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_clipping_sees_the_summed_gradient(option, limit):
    """Row 3 comes three times, row 5 twice with gradients that cancel out."""
    one, other = keras.Variable(np.zeros(SHAPE), name="table"), keras.Variable(np.zeros((3, 7)), name="kernel")
    indices = [3, 5, 3, 11, 5, 3]
    values = np.random.default_rng(2).normal(size=(6, WIDTH)).astype("float32")
    values[4] = -values[1]
    dense = np.random.default_rng(3).normal(size=(3, 7)).astype("float32")
    optimizer = optimizers.SGD(0.5, **{option: limit})
    optimizer.apply([slices(indices, values, one), tf.constant(dense)], [one, other])
    for variable, expected in zip((one, other), clipped(option, limit, oracles.densified(indices, values, SHAPE), dense), strict=True):
        np.testing.assert_allclose(numpy(variable), -0.5 * expected, rtol=1e-5, atol=1e-7)


def test_clipping_by_hand():
    """Row 1 twice with (3, 0) and (0, 4): the sum has norm 5; the parts together too, but duplicates (3, 0), (3, 0) do not."""
    variable = keras.Variable(np.zeros((3, 2)), name="table")
    optimizer = optimizers.SGD(1.0, clipnorm=1.0)
    optimizer.apply([slices([1, 1], [[3.0, 0.0], [0.0, 4.0]], variable)], [variable])
    np.testing.assert_allclose(numpy(variable)[1], [-0.6, -0.8], rtol=1e-6)
    optimizer.apply([slices([2, 2], [[3.0, 0.0], [3.0, 0.0]], variable)], [variable])
    np.testing.assert_allclose(numpy(variable)[2], [-1.0, 0.0], rtol=1e-6)


@pytest.mark.parametrize("limit", [0.5, 0.0, -1.0])
@pytest.mark.parametrize("option", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_clipping_of_dense_gradients_is_that_of_keras(option, limit):
    """Keras leaves gradients as they are when the limit is not positive."""
    results = []
    for cls in (optimizers.SGD, keras.optimizers.SGD):
        variables = [table(), table((3, 7), "kernel")]
        optimizer = cls(0.5, **{option: limit})
        for step in range(3):
            optimizer.apply([tf.constant(oracles.dense_gradients(v.shape)[step + 3]) for v in variables], variables)
        results.append([numpy(v) for v in variables])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["sparse", "dense"])
def test_a_gradient_that_is_not_finite_is_not_clipped_into_silence(where, bad):
    """As in Keras every element becomes NaN, of the rows in the batch; other rows keep their values."""
    one, other = table(), table((3, 7), "kernel")
    values, dense = np.ones((2, WIDTH)), np.ones((3, 7))
    (values if where == "sparse" else dense)[1, 1] = bad
    optimizers.SGD(0.5, global_clipnorm=1.0).apply([slices([3, 5], values, one), tf.constant(dense, "float32")], [one, other])
    assert np.isnan(numpy(one)[[3, 5]]).all() and np.isnan(numpy(other)).all()
    rest = np.setdiff1d(np.arange(ROWS), [3, 5])
    np.testing.assert_array_equal(numpy(one)[rest], oracles.initial_weights()[rest])


def test_global_norm_in_a_composite_is_that_of_each_part():
    variables = [keras.Variable(np.zeros((3, 2)), name=name) for name in ("table", "kernel", "bias")]
    parts = [optimizers.SGD(1.0, global_clipnorm=1.0, name=name) for name in ("one", "other")]
    composite = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(parts[0], {"table": parts[1]}))
    gradients = [slices([1, 1], [[3.0, 0.0], [0.0, 4.0]], variables[0]), tf.constant([[6.0, 0.0]] + [[0.0, 0.0]] * 2)]
    composite.apply([*gradients, tf.constant([[0.0, 8.0]] + [[0.0, 0.0]] * 2)], variables)
    np.testing.assert_allclose(numpy(variables[0])[1], [-0.6, -0.8], rtol=1e-6)  # norm 5
    np.testing.assert_allclose(numpy(variables[1])[0], [-0.6, 0.0], rtol=1e-6)  # norm 10, with the bias
    np.testing.assert_allclose(numpy(variables[2])[0], [0.0, -0.8], rtol=1e-6)


@pytest.mark.parametrize("option", ["clipnorm", "clipvalue", "global_clipnorm", "loss_scale_factor"])
def test_a_variable_without_a_gradient_is_left_out(option):
    variables = [table(), table((3, 7), "kernel"), table((3, 7), "unused")]
    optimizer = optimizers.LazyAdam(0.5, **{option: 1.0})
    with pytest.warns(UserWarning, match=r"Gradients do not exist for variables \['unused'\]"):
        optimizer.apply([slices([1], np.ones((1, WIDTH)), variables[0]), tf.ones((3, 7)), None], variables)
    np.testing.assert_array_equal(numpy(variables[2]), oracles.initial_weights((3, 7)))
    assert (numpy(variables[0])[1] < oracles.initial_weights()[1]).all()


# Weight decay


@pytest.mark.parametrize("id, name, arguments", RULES, ids=IDS)
def test_weight_decay_of_the_rows_in_the_batch(id, name, arguments):
    start = oracles.initial_weights()
    arguments = {**arguments, "weight_decay": 0.25}
    variable, oracle = table(), oracles.oracle_of(name)(start, **arguments)
    optimizer = getattr(optimizers, name)(0.25, **arguments)
    for indices, values in oracles.sparse_gradients(steps=7):
        optimizer.apply([slices(indices, values, variable)], [variable])
        oracle.sparse(indices, values, 0.25)
    np.testing.assert_allclose(numpy(variable), oracle.value, rtol=2e-5, atol=2e-6)
    rest = list(oracles.NEVER)
    np.testing.assert_array_equal(numpy(variable)[rest], 0.0 if arguments.get("semantics") == "original" else start[rest])


def test_rows_decay_once_a_step_however_often_they_come():
    variable = keras.Variable(np.ones((5, 2)), name="table")
    optimizer = optimizers.SGD(0.5, weight_decay=0.5)
    optimizer.apply([slices([1, 1, 3], np.zeros((3, 2)), variable)], [variable])
    np.testing.assert_array_equal(numpy(variable)[:, 0], [1, 0.75, 1, 0.75, 1])


@pytest.mark.parametrize("by", ["name", "variable"])
def test_exclude_from_weight_decay(by):
    variables = [keras.Variable(np.ones((5, 2)), name=name) for name in ("table", "kernel", "bias")]
    optimizer = optimizers.LazyAdamW(0.5, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(**({"var_names": ["table", "bias"]} if by == "name" else {"var_list": variables[::2]}))
    optimizer.apply([slices([1], np.zeros((1, 2)), variables[0]), *(tf.zeros((5, 2)) for _ in range(2))], variables)
    np.testing.assert_array_equal(numpy(variables[0]), 1.0)
    np.testing.assert_array_equal(numpy(variables[1]), 0.75)
    np.testing.assert_array_equal(numpy(variables[2]), 1.0)


# Dense gradients of tables


def test_a_dense_gradient_of_a_table_warns():
    variable, other = table(), table((3, 7), "kernel")
    variable.row_sparse = True
    with pytest.warns(UserWarning, match="SGD: embedding table 'table' has a dense gradient"):
        optimizers.SGD(0.5).apply([tf.ones(SHAPE), tf.ones((3, 7))], [variable, other])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizers.SGD(0.5).apply([slices([1], np.ones((1, WIDTH)), variable), tf.ones((3, 7))], [variable, other])


def test_a_regularizer_on_the_whole_table_warns():
    layer = keras.layers.Embedding(11, 3, embeddings_regularizer="l2", name="embedding")
    model = keras.Sequential([keras.Input((5,), dtype="int32"), layer, keras.layers.Flatten(), keras.layers.Dense(1)])
    layer.embeddings.row_sparse = True
    model.compile(optimizers.LazyAdam(0.1), "mse", run_eagerly=True)
    with pytest.warns(UserWarning, match="dense gradient"):
        model.train_on_batch(np.ones((3, 5), "int32"), np.ones((3, 1)))


# Options that rewrite whole tables


@pytest.mark.parametrize("option, value", [("use_ema", True), ("gradient_accumulation_steps", 2)])
@pytest.mark.parametrize("name", CLASSES)
def test_refused_for_sparse_gradients(name, option, value):
    variable = table(name="my_table")
    optimizer = getattr(optimizers, name)(0.5, **{option: value})
    with pytest.raises(ValueError, match=f"{name}: {option} is not supported for variable 'my_table'"):
        optimizer.apply([slices([1], np.ones((1, WIDTH)), variable)], [variable])
    np.testing.assert_array_equal(numpy(variable), oracles.initial_weights())


def test_refused_in_fit_too():
    with pytest.raises(ValueError, match="use_ema is not supported for variable 'embedding/table'"):
        fit(small_dnn(), optimizers.LazyAdam(0.1, use_ema=True))


@pytest.mark.parametrize(
    "options",
    [
        {"use_ema": True, "ema_momentum": 0.7},
        {"use_ema": True, "ema_momentum": 0.7, "ema_overwrite_frequency": 3},
        {"gradient_accumulation_steps": 3},
        {"gradient_accumulation_steps": 3, "clipnorm": 0.5, "weight_decay": 0.1},
        {"gradient_accumulation_steps": 2, "use_ema": True, "global_clipnorm": 0.5},
    ],
)
@pytest.mark.parametrize("ours, theirs", [("LazyAdam", "Adam"), ("SGD", "SGD")])
def test_as_in_keras_for_dense_gradients(ours, theirs, options):
    results = []
    for cls in (getattr(optimizers, ours), getattr(keras.optimizers, theirs)):
        variables = [table(), table((3, 7), "kernel")]
        optimizer = cls(0.25, **options)
        for step in range(7):
            optimizer.apply([tf.constant(oracles.dense_gradients(v.shape)[step]) for v in variables], variables)
        trained = [numpy(v) for v in variables]
        optimizer.finalize_variable_values(variables)
        results.append([*trained, *(numpy(v) for v in variables)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_ema_and_accumulation_on_the_dense_part_of_a_model():
    composite = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(
            optimizers.LazyAdam(0.05, gradient_accumulation_steps=2), {optimizers.TABLES: optimizers.LazyAdam(0.05)}
        )
    )
    model = small_dnn()
    _, _, history = fit(model, composite, epochs=8)
    assert history.history["loss"][-1] < history.history["loss"][0]


# Bad arguments


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("SGD", {"momentum": 1.0}, "SGD: momentum"),
        ("SGD", {"momentum": -0.1}, "SGD: momentum"),
        ("SGD", {"momentum": None}, "SGD: momentum"),
        ("Adagrad", {"initial_accumulator_value": -0.1}, "Adagrad: initial_accumulator_value"),
        ("Adagrad", {"epsilon": -1e-7}, "Adagrad: epsilon"),
        ("RowWiseAdagrad", {"initial_accumulator_value": "a"}, "RowWiseAdagrad: initial_accumulator_value"),
        ("RowWiseAdagrad", {"epsilon": float("nan")}, "RowWiseAdagrad: epsilon"),
        ("LazyAdam", {"beta_1": 1.0}, "LazyAdam: beta_1"),
        ("LazyAdam", {"beta_2": -0.1}, "LazyAdam: beta_2"),
        ("LazyAdam", {"epsilon": 0.0}, "LazyAdam: epsilon"),
        ("LazyAdamW", {"beta_2": True}, "LazyAdamW: beta_2"),
        ("LazyAdamW", {"weight_decay": -0.1}, "LazyAdamW: weight_decay"),
        ("LazyAdamW", {"weight_decay": None}, "LazyAdamW: weight_decay"),
        ("FTRL", {"beta": -1.0}, "FTRL: beta"),
        ("FTRL", {"l1": -1.0}, "FTRL: l1"),
        ("FTRL", {"l2": -1.0}, "FTRL: l2"),
        ("FTRL", {"initial_accumulator_value": -1.0}, "FTRL: initial_accumulator_value"),
        ("FTRL", {"semantics": "keras"}, "FTRL: semantics must be one of .*anchored.*'keras'"),
        ("FTRL", {"beta": 0}, "FTRL: beta, l2 and initial_accumulator_value are all 0"),
        ("GroupLassoFTRL", {"l1": -1.0}, "GroupLassoFTRL: l1"),
        ("GroupLassoFTRL", {"semantics": None}, "GroupLassoFTRL: semantics"),
        ("GroupLassoFTRL", {"beta": 0, "l1": 1.0}, "GroupLassoFTRL: beta, l2 and initial_accumulator_value are all 0"),
    ],
)
def test_bad_arguments_are_named(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(optimizers, name)(**arguments)


@pytest.mark.parametrize("name", CLASSES)
def test_unknown_arguments_are_refused(name):
    with pytest.raises(ValueError, match="momentun"):
        getattr(optimizers, name)(momentun=0.5)
    with pytest.raises(ValueError, match="learning_rate"):
        getattr(optimizers, name)(1)


# In fit


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in CLASSES if name not in QUICK)])
def test_fit_visits_only_the_rows_of_the_data(name):
    """Slots of rows that no batch held still have their start, so the gradient came sparse."""
    model = small_dnn()
    start = numpy(embedding_table(model))
    optimizer = getattr(optimizers, name)(0.1, **({"momentum": 0.5} if name == "SGD" else {}))
    x, _, history = fit(model, optimizer, rows=32)
    variable, rest = embedding_table(model), unseen_rows(model, x)
    assert len(rest) > 20
    np.testing.assert_array_equal(numpy(variable)[rest], start[rest])
    initial = 0.1 if name == "Adagrad" else 0.0
    for slot in optimizer.slots_of(variable):
        np.testing.assert_array_equal(numpy(slot)[rest], np.float32(initial))
        assert (numpy(slot) != np.float32(initial)).any()
    losses = history.history["loss"]
    assert losses[-1] < losses[0]


def test_mixed_bfloat16_fit():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = small_dnn(full_schema())
    x, y = random_rows(full_schema(), 64)
    model.compile(optimizers.default(0.05), "binary_crossentropy")
    losses = model.fit(x, y, batch_size=16, epochs=8, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < 0.9 * losses[0]
    assert {str(v.dtype) for v in model.optimizer.variables} == {"float32", "int64"}
