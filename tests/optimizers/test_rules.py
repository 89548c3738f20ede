"""Every optimizer against float64 loops over rows and elements, with sparse and dense gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_ctr import optimizers
from tests.optimizers import oracles
from tests.optimizers.oracles import NEVER, PENALTIES, ROWS, RULES, WIDTH

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="sparse gradients exist on the TensorFlow backend only")

SHAPE = (ROWS, WIDTH)
IDS = [rule[0] for rule in RULES]
# One form for the variables, so that float32 and float64 both get what they can hold.
TOLERANCE = {"float32": {"rtol": 2e-5, "atol": 2e-6}, "float64": {"rtol": 1e-12, "atol": 1e-13}}
STATELESS_WITHOUT_GRADIENT = [rule for rule in RULES if not rule[0].startswith(("momentum", "nesterov", "lazy"))]


def optimizer_of(name, arguments, rate=0.3, **options):
    return getattr(optimizers, name)(rate, **arguments, **options)


def variable_of(weights, dtype="float32", name="table"):
    return keras.Variable(np.asarray(weights), dtype=dtype, name=name)


def slices(indices, values, variable, index_dtype="int32"):
    return tf.IndexedSlices(
        tf.constant(values, variable.dtype), tf.constant(indices, index_dtype), tf.constant(variable.shape, index_dtype)
    )


def numpy(variable):
    return np.array(variable.value.numpy())


def check(variable, optimizer, oracle, dtype="float32"):
    np.testing.assert_allclose(numpy(variable), oracle.value, **TOLERANCE[dtype])
    found = optimizer.slots_of(variable)
    assert len(found) == len(oracle.slots())
    for slot, expected in zip(found, oracle.slots(), strict=True):
        np.testing.assert_allclose(numpy(slot).reshape(expected.shape), expected, **TOLERANCE[dtype])


def run(optimizer, variable, gradients, rates=None):
    """Applies `(indices, values)` or dense gradients; returns the weights after each step."""
    out = []
    for t, g in enumerate(gradients):
        if rates is not None:
            optimizer.learning_rate = rates[t]
        gradient = slices(*g, variable) if isinstance(g, tuple) else tf.constant(g, variable.dtype)
        optimizer.apply([gradient], [variable])
        out.append(numpy(variable))
    return out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("id, name, arguments", RULES, ids=IDS)
def test_sparse_steps_follow_the_equations(id, name, arguments, dtype):
    start = oracles.initial_weights()
    variable, oracle = variable_of(start, dtype), oracles.oracle_of(name)(start, **arguments)
    optimizer = optimizer_of(name, arguments)
    for rate, (indices, values) in zip(oracles.rates(), oracles.sparse_gradients(), strict=True):
        optimizer.learning_rate = rate
        optimizer.apply([slices(indices, values, variable)], [variable])
        oracle.sparse(indices, values, rate)
        check(variable, optimizer, oracle, dtype)


@pytest.mark.parametrize("shape", [SHAPE, (ROWS,), (3, 7, 2)], ids=["matrix", "vector", "rank3"])
@pytest.mark.parametrize("id, name, arguments", RULES, ids=IDS)
def test_dense_steps_follow_the_equations(id, name, arguments, shape):
    start = oracles.initial_weights(shape)
    variable, oracle = variable_of(start, "float64"), oracles.oracle_of(name)(start, **arguments)
    optimizer = optimizer_of(name, arguments)
    for rate, gradient in zip(oracles.rates(), oracles.dense_gradients(shape), strict=True):
        optimizer.learning_rate = rate
        optimizer.apply([tf.constant(gradient, "float64")], [variable])
        oracle.dense(gradient, rate)
        check(variable, optimizer, oracle, "float64")


@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 3, 2), (ROWS, 1)], ids=["vector", "rank3", "one_wide"])
@pytest.mark.parametrize("id, name, arguments", RULES, ids=IDS)
def test_sparse_steps_of_other_ranks(id, name, arguments, shape):
    start = oracles.initial_weights(shape)
    variable, oracle = variable_of(start, "float64"), oracles.oracle_of(name)(start, **arguments)
    optimizer = optimizer_of(name, arguments)
    rate = oracles.rates()[0]
    optimizer.learning_rate = rate
    for indices, values in oracles.sparse_gradients(shape, steps=7):
        optimizer.apply([slices(indices, values, variable, "int64")], [variable])
        oracle.sparse(indices, values, rate)
    check(variable, optimizer, oracle, "float64")


@pytest.mark.parametrize("id, name, arguments", RULES, ids=IDS)
def test_other_rows_are_not_touched(id, name, arguments):
    """Bit for bit, step by step: a row outside the batch keeps its weights and slots."""
    start = oracles.initial_weights()
    variable, optimizer = variable_of(start), optimizer_of(name, arguments)
    optimizer.build([variable])
    tables = [variable, *optimizer.slots_of(variable)]
    for t, (indices, values) in enumerate(oracles.sparse_gradients()):
        before = [numpy(table) for table in tables]
        optimizer.apply([slices(indices, values, variable)], [variable])
        others = np.setdiff1d(np.arange(ROWS), indices)
        assert not np.array_equal(numpy(variable)[indices], before[0][indices])
        if t == 0 and arguments.get("semantics") == "original":
            before[0][others] = 0.0  # the weights of the authors' rule are a function of the slots, zero at the start
        for table, old in zip(tables, before, strict=True):
            np.testing.assert_array_equal(numpy(table)[others], old[others])
    rest = list(NEVER)
    np.testing.assert_array_equal(numpy(variable)[rest], 0.0 if arguments.get("semantics") == "original" else start[rest])


@pytest.mark.parametrize("id, name, arguments", RULES, ids=IDS)
def test_duplicates_are_summed_before_the_rule(id, name, arguments):
    """Powers of two: the sum is exact, so the two steps must agree in every bit."""
    start = oracles.initial_weights()
    halves = np.array([[0.5], [0.25], [-2.0], [0.25], [4.0]], "float32") * np.ones(WIDTH, "float32")
    results = []
    for indices, values in [
        ([3, 5, 11, 3, 3], halves),
        ([11, 3, 5], np.array([[-2.0], [4.75], [0.25]], "float32") * np.ones(WIDTH, "float32")),
    ]:
        variable, optimizer = variable_of(start), optimizer_of(name, arguments)
        for _ in range(3):
            optimizer.apply([slices(indices, values, variable)], [variable])
        results.append([numpy(variable), *(numpy(slot) for slot in optimizer.slots_of(variable))])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("id, name, arguments", STATELESS_WITHOUT_GRADIENT, ids=[rule[0] for rule in STATELESS_WITHOUT_GRADIENT])
def test_sparse_step_is_the_dense_step(id, name, arguments):
    """Where a row without a gradient stays put under the dense rule too, at a constant learning rate."""
    start = oracles.initial_weights()
    sparse = oracles.sparse_gradients()
    one, other = variable_of(start), variable_of(start)
    by_rows = run(optimizer_of(name, arguments), one, sparse)
    whole = run(optimizer_of(name, arguments), other, [oracles.densified(*g, SHAPE) for g in sparse])
    for a, b in zip(by_rows, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name, arguments", [("SGD", {"momentum": 0.7}), ("LazyAdam", {})])
def test_lazy_rules_differ_from_the_dense_ones(name, arguments):
    """A row that was seen once rests under the lazy rule and coasts on under the dense one."""
    start = oracles.initial_weights()
    first, later = ([2], np.ones((1, WIDTH), "float32")), ([5], np.ones((1, WIDTH), "float32"))
    steps = [first, later, later]
    lazy = run(optimizer_of(name, arguments), variable_of(start), steps)
    dense = run(optimizer_of(name, arguments), variable_of(start), [oracles.densified(*g, SHAPE) for g in steps])
    np.testing.assert_allclose(lazy[0][2], dense[0][2], rtol=1e-6)
    np.testing.assert_array_equal(lazy[2][2], lazy[0][2])
    assert (dense[2][2] < dense[1][2]).all() and (dense[1][2] < dense[0][2]).all()


@pytest.mark.parametrize("id, name, arguments", RULES, ids=IDS)
def test_a_batch_without_rows_changes_nothing(id, name, arguments):
    start = oracles.initial_weights()
    variable, optimizer = variable_of(start), optimizer_of(name, arguments, clipnorm=1.0)
    optimizer.apply([slices([], np.zeros((0, WIDTH)), variable)], [variable])
    np.testing.assert_array_equal(numpy(variable), 0.0 if arguments.get("semantics") == "original" else start)
    assert int(numpy(optimizer.iterations)) == 1


COMPILED = ("nesterov", "rowwise_adagrad", "lazy_adamw", "ftrl_anchored_penalties_accumulator", "group_original_penalties_zero")


@pytest.mark.parametrize("id, name, arguments", [rule for rule in RULES if rule[0] in COMPILED], ids=COMPILED)
def test_compiled_steps_are_the_eager_ones(id, name, arguments):
    """In a graph the rows must be read before anything is written."""
    gradients = oracles.sparse_gradients()
    eager = run(optimizer_of(name, arguments), variable_of(oracles.initial_weights()), gradients)
    variable, optimizer = variable_of(oracles.initial_weights()), optimizer_of(name, arguments)
    optimizer.build([variable])

    @tf.function
    def step(values, indices):
        optimizer.apply([tf.IndexedSlices(values, indices, tf.constant(SHAPE))], [variable])

    for (indices, values), expected in zip(gradients, eager, strict=True):
        step(tf.constant(values), tf.constant(indices))
        np.testing.assert_allclose(numpy(variable), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("id, name, arguments", RULES, ids=IDS)
def test_variables_of_tensorflow(id, name, arguments):
    """Custom loops may hand over `tf.Variable`s, as they may to Keras' optimizers."""
    start = oracles.initial_weights()
    variables, oracle = (
        [tf.Variable(start, name="table"), tf.Variable(start[:3], name="kernel")],
        oracles.oracle_of(name)(start, **arguments),
    )
    optimizer = optimizer_of(name, arguments, 0.25)
    for indices, values in oracles.sparse_gradients(steps=3):
        optimizer.apply([slices(indices, values, variables[0]), tf.ones((3, WIDTH))], variables)
        oracle.sparse(indices, values, 0.25)
    np.testing.assert_allclose(variables[0].numpy(), oracle.value, **TOLERANCE["float32"])
    assert not np.array_equal(variables[1].numpy(), start[:3])


def test_row_wise_state_is_one_value_a_row():
    variables = [variable_of(np.ones(shape)) for shape in [(ROWS, WIDTH), (ROWS,), (2, 3, 5)]]
    optimizer = optimizers.RowWiseAdagrad(0.1)
    optimizer.build(variables)
    assert [tuple(optimizer.slots_of(v)[0].shape) for v in variables] == [(ROWS, 1), (ROWS,), (2, 3, 1)]
    element = optimizers.Adagrad(0.1)
    element.build(variables)
    assert [tuple(element.slots_of(v)[0].shape) for v in variables] == [tuple(v.shape) for v in variables]


@pytest.mark.parametrize(
    "ours, theirs, arguments",
    [
        ("SGD", "SGD", {}),
        ("SGD", "SGD", {"learning_rate": 0.1, "momentum": 0.7}),
        ("SGD", "SGD", {"learning_rate": 0.1, "momentum": 0.7, "nesterov": True}),
        ("SGD", "SGD", {"learning_rate": 0.1, "weight_decay": 0.2}),
        ("Adagrad", "Adagrad", {}),
        ("Adagrad", "Adagrad", {"learning_rate": 0.1, "initial_accumulator_value": 0.3, "epsilon": 1e-3}),
        ("LazyAdam", "Adam", {}),
        ("LazyAdam", "Adam", {"learning_rate": 0.1, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3, "weight_decay": 0.2}),
        ("LazyAdamW", "AdamW", {}),
        ("LazyAdamW", "AdamW", {"learning_rate": 0.1, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-3, "weight_decay": 0.3}),
    ],
)
def test_dense_gradients_step_as_in_keras(ours, theirs, arguments):
    """Default arguments are Keras' own too."""
    start, gradients = oracles.initial_weights(), oracles.dense_gradients(SHAPE)
    one = run(getattr(optimizers, ours)(**arguments), variable_of(start), gradients)
    other = run(getattr(keras.optimizers, theirs)(**arguments), variable_of(start), gradients)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("penalties", PENALTIES.values(), ids=PENALTIES)
@pytest.mark.parametrize("weights", ["zero", "random"])
def test_original_ftrl_is_keras_ftrl_with_half_the_l2(penalties, weights):
    start = oracles.initial_weights() * (weights == "random")
    ours = optimizers.FTRL(0.3, beta=0.5, initial_accumulator_value=0.25, semantics="original", **penalties)
    theirs = keras.optimizers.Ftrl(
        0.3,
        beta=0.5,
        initial_accumulator_value=0.25,
        l1_regularization_strength=penalties["l1"],
        l2_regularization_strength=penalties["l2"] / 2,
    )
    gradients = oracles.dense_gradients(SHAPE)
    for a, b in zip(run(ours, variable_of(start), gradients), run(theirs, variable_of(start), gradients), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


FTRLS = [optimizers.FTRL, optimizers.GroupLassoFTRL]


@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
@pytest.mark.parametrize("penalties", PENALTIES.values(), ids=PENALTIES)
@pytest.mark.parametrize("cls", FTRLS)
def test_semantics_agree_for_weights_that_start_at_zero(cls, penalties, sparse):
    gradients = oracles.sparse_gradients() if sparse else oracles.dense_gradients(SHAPE)
    traces = []
    for semantics in ("anchored", "original"):
        optimizer = cls(0.3, beta=0.5, initial_accumulator_value=0.25, semantics=semantics, **penalties)
        traces.append(run(optimizer, variable_of(np.zeros(SHAPE)), gradients))
    for a, b in zip(*traces, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("initial", [0.0, 0.1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cls", FTRLS)
def test_anchored_weights_survive(cls, dtype, initial):
    """Zero gradients leave w, bit for bit; the first step is `w_0 - g / ((beta + sqrt(n_1)) / lr)`."""
    start = oracles.initial_weights().astype(dtype)
    variable = variable_of(start, dtype)
    optimizer = cls(0.25, beta=0.5, initial_accumulator_value=initial)
    for zero in (tf.zeros(SHAPE, dtype), slices([1, 1, 2], np.zeros((3, WIDTH)), variable)):
        optimizer.apply([zero], [variable])
        np.testing.assert_array_equal(numpy(variable), start)
    g = oracles.dense_gradients(SHAPE)[5].astype("float64")
    optimizer.apply([tf.constant(g, dtype)], [variable])
    expected = start - g * 0.25 / (0.5 + np.sqrt(initial + g**2))
    np.testing.assert_allclose(numpy(variable), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cls", FTRLS)
def test_original_semantics_forget_the_initial_weights(cls):
    """Rows outside the first batch become zero. In it g = 1, so sigma = 1 / lr = 4, z = 1 - 4 w_0, w_1 = -z / (4 (1 + beta))."""
    variable = variable_of(oracles.initial_weights())
    run(cls(0.25, beta=0.5, semantics="original"), variable, [([2, 3], np.ones((2, WIDTH), "float32"))])
    assert (numpy(variable)[[0, 1, *range(4, ROWS)]] == 0).all()
    w0 = oracles.initial_weights()[[2, 3]]
    np.testing.assert_allclose(numpy(variable)[[2, 3]], (4 * w0 - 1) / 6, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("semantics", ["anchored", "original"])
def test_rows_are_zero_as_a_whole_or_not_at_all(semantics):
    variable = variable_of(oracles.initial_weights() * 0.1)
    optimizer = optimizers.GroupLassoFTRL(0.3, beta=1.0, l1=0.9, l2=0.1, semantics=semantics)
    partial, zero = 0, 0
    rng = np.random.default_rng(13)
    for indices, _ in oracles.sparse_gradients():
        optimizer.apply([slices(indices, rng.normal(size=(7, WIDTH)) * 0.7, variable)], [variable])
        zeros = (numpy(variable)[indices] == 0).sum(axis=1)
        partial += ((zeros > 0) & (zeros < WIDTH)).sum()
        zero += (zeros == WIDTH).sum()
    assert partial == 0
    assert 0 < zero < 7 * oracles.STEPS  # both kinds of rows did occur


def test_element_wise_l1_zeroes_parts_of_rows():
    variable = variable_of(oracles.initial_weights() * 0.1)
    optimizer = optimizers.FTRL(0.3, beta=1.0, l1=0.9, l2=0.1)
    run(optimizer, variable, [(i, v * 0.7) for i, v in oracles.sparse_gradients()])
    zeros = (numpy(variable) == 0).sum(axis=1)
    assert ((zeros > 0) & (zeros < WIDTH)).any()


@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
@pytest.mark.parametrize("shape", [(ROWS, 1), (ROWS,)], ids=["column", "vector"])
@pytest.mark.parametrize("semantics", ["anchored", "original"])
def test_group_of_one_is_ftrl(semantics, shape, sparse):
    gradients = oracles.sparse_gradients(shape) if sparse else oracles.dense_gradients(shape)
    arguments = {"beta": 0.5, "l1": 0.9, "l2": 0.7, "semantics": semantics}
    one, other = (run(cls(0.3, **arguments), variable_of(oracles.initial_weights(shape)), gradients) for cls in FTRLS)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert (np.array(one) == 0).any() and (one[-1] != 0).any()


@pytest.mark.parametrize("semantics", ["anchored", "original"])
@pytest.mark.parametrize("cls", FTRLS)
@pytest.mark.parametrize("batch", [8, 7])
def test_sum_loss_and_mean_loss_give_one_trajectory(cls, semantics, batch):
    """g B with beta, l1, l2 against g with beta / B, l1 / B, l2 / B; exact in every bit for a power of two."""
    penalties = {"beta": 0.5, "l1": 0.6, "l2": 0.7}
    gradients = oracles.sparse_gradients()
    total = run(
        cls(0.3, semantics=semantics, **penalties),
        variable_of(oracles.initial_weights()),
        [(i, v * np.float32(batch)) for i, v in gradients],
    )
    mean = run(
        cls(0.3, semantics=semantics, **{k: v / batch for k, v in penalties.items()}), variable_of(oracles.initial_weights()), gradients
    )
    other = run(cls(0.3, semantics=semantics, **penalties), variable_of(oracles.initial_weights()), gradients)
    for a, b in zip(total, mean, strict=True):
        if batch == 8:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert not np.allclose(total[-1], other[-1], atol=1e-3)


def test_ftrl_by_hand():
    """lr 1, beta 1, l1 1, l2 1: w_0 = 2 is anchored at z = -2; g = 3: sigma 3, z = -2 + 3 - 6 = -5, w = (5 - 1) / (1 + 3 + 1) = 0.8."""
    variable = variable_of([[2.0]])
    optimizer = optimizers.FTRL(1.0, beta=1.0, l1=1.0, l2=1.0)
    optimizer.apply([slices([0], [[3.0]], variable)], [variable])
    np.testing.assert_allclose(numpy(variable), [[0.8]], rtol=1e-6)
    # g = 4: n 25, sigma 2, z = -5 + 4 - 1.6 = -2.6, w = 1.6 / (1 + 5 + 1).
    optimizer.apply([slices([0], [[4.0]], variable)], [variable])
    np.testing.assert_allclose(numpy(variable), [[1.6 / 7]], rtol=1e-6)


def test_group_lasso_by_hand():
    """D 4, l1 0.5 so the threshold is 1; lr 1, beta 1, from zero: z = g."""
    variable = variable_of(np.zeros((3, 4)))
    optimizer = optimizers.GroupLassoFTRL(1.0, beta=1.0, l1=0.5)
    optimizer.apply([slices([0, 2], [[3.0, 0.0, 4.0, 0.0], [0.5, -0.5, 0.5, -0.5]], variable)], [variable])
    # |z| 5: w = z (1/5 - 1) / (1 + |g|); the second row's |z| is 1, which the threshold takes.
    np.testing.assert_allclose(numpy(variable), [[-0.8 * 3 / 4, 0, -0.8 * 4 / 5, 0], [0] * 4, [0] * 4], rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    lookups=st.lists(st.lists(st.integers(0, 6), min_size=0, max_size=9), min_size=1, max_size=4),
    rule=st.sampled_from(RULES),
    seed=st.integers(0, 1000),
)
def test_any_batch_of_rows(lookups, rule, seed):
    """Any pattern of ids, gradients of a few round values so that zeros and cancellations are common."""
    _, name, arguments = rule
    rng = np.random.default_rng(seed)
    start = rng.normal(size=(7, 3))
    variable, oracle = variable_of(start, "float64"), oracles.oracle_of(name)(start, **arguments)
    optimizer = optimizer_of(name, arguments, 0.5)
    for indices in lookups:
        values = rng.integers(-2, 3, (len(indices), 3)) * 0.5
        optimizer.apply([slices(indices, values, variable)], [variable])
        oracle.sparse(indices, values, 0.5)
    check(variable, optimizer, oracle, "float64")
