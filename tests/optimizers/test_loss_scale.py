"""Loss scales, fixed and dynamic: gradients stay sparse, steps that are not finite are skipped."""

import subprocess
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_ctr import optimizers
from tests.optimizers import oracles
from tests.optimizers.oracles import ROWS, WIDTH
from tests.optimizers.tables import embedding_table, numpy, slices, small_dnn, table, unseen_rows
from tests.sample import fields_schema, random_rows

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="sparse gradients exist on the TensorFlow backend only")

ROOT = Path(__file__).parent.parent.parent
CLASSES = ["SGD", "Adagrad", "RowWiseAdagrad", "LazyAdam", "LazyAdamW", "FTRL", "GroupLassoFTRL"]


@pytest.mark.parametrize("name", CLASSES)
def test_loss_scale_factor(name):
    """Gradients of a loss times 8, divided by 8 before anything else: the same step, clipping included."""
    results = []
    for factor in (None, 8.0):
        one, other = table(), table((3, 7), "kernel")
        optimizer = getattr(optimizers, name)(0.5, loss_scale_factor=factor, global_clipnorm=0.5)
        for (indices, values), dense in zip(oracles.sparse_gradients(steps=3), oracles.dense_gradients((3, 7), 3), strict=True):
            scale = np.float32(factor or 1)
            assert float(optimizer.scale_loss(1.0)) == scale
            optimizer.apply([slices(indices, values * scale, one), tf.constant(dense * scale)], [one, other])
        assert optimizer.loss_scale_factor == factor
        results.append([numpy(one), numpy(other)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


ON_TWO_DEVICES = """
import keras
import numpy as np
import tensorflow as tf

from keras_ctr import optimizers

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    table = keras.Variable(np.zeros((5, 2)), name="table")
    optimizer = optimizers.SGD(1.0, loss_scale_factor=8.0)
    optimizer.build([table])


@tf.function
def step():
    def replica():
        row = tf.distribute.get_replica_context().replica_id_in_sync_group + 1
        optimizer.apply([tf.IndexedSlices(tf.fill((1, 2), 8.0), tf.reshape(row, (1,)), tf.constant([5, 2]))], [table])

    strategy.run(replica)


step()
print(*table.numpy()[:, 0])
"""


@pytest.mark.slow
def test_loss_scale_factor_on_two_devices():
    """Replica 0 has a gradient of 8 for row 1, replica 1 for row 2; both are divided by 8."""
    done = subprocess.run([sys.executable, "-c", ON_TWO_DEVICES], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-5:] == ["0.0", "-1.0", "-1.0", "0.0", "0.0"]


def test_loss_scale_optimizer_keeps_gradients_sparse():
    one, other = table(), table((3, 7), "kernel")
    plain_one, plain_other = table(), table((3, 7), "kernel")
    optimizer, plain = optimizers.LossScaleOptimizer(optimizers.LazyAdam(0.5), initial_scale=64.0), optimizers.LazyAdam(0.5)
    for (indices, values), dense in zip(oracles.sparse_gradients(steps=5), oracles.dense_gradients((3, 7), 5), strict=True):
        before = numpy(one)
        scaled = [slices(indices, values * np.float32(64), one), tf.constant(dense * np.float32(64))]
        optimizer.apply(scaled, [one, other])
        plain.apply([slices(indices, values, plain_one), tf.constant(dense)], [plain_one, plain_other])
        rest = np.setdiff1d(np.arange(ROWS), indices)
        np.testing.assert_array_equal(numpy(one)[rest], before[rest])
    np.testing.assert_array_equal(numpy(one), numpy(plain_one))
    np.testing.assert_array_equal(numpy(other), numpy(plain_other))
    assert int(numpy(optimizer.iterations)) == 5


def test_loss_scale_optimizer_checks_only_the_rows_of_the_batch():
    """Keras' own check makes a tensor of the table's shape."""
    shapes = []
    optimizer = optimizers.LossScaleOptimizer(optimizers.SGD(0.5))

    @tf.function
    def check():
        return optimizer.check_finite(
            [tf.IndexedSlices(tf.ones((3, 2)), tf.constant([1, 5, 1]), tf.constant([1009, 2])), None, tf.ones((5,))]
        )

    for op in check.get_concrete_function().graph.get_operations():
        shapes += [tuple(out.shape) for out in op.outputs if out.shape.rank]
    assert (3, 2) in shapes and max(shape[0] for shape in shapes) < 1009
    assert bool(check())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["sparse", "dense"])
def test_loss_scale_halves_and_grows(where, bad):
    """A step that is not finite changes nothing but the scale; two finite ones in a row double it."""
    one, other = table(), table((3, 7), "kernel")
    inner = optimizers.LazyAdam(0.5)
    optimizer = optimizers.LossScaleOptimizer(inner, initial_scale=64.0, dynamic_growth_steps=2)
    optimizer.build([one, other])
    scales = []
    for finite in (True, False, True, True, True, False, True):
        values, dense = np.ones((2, WIDTH)), np.ones((3, 7))
        if not finite:
            (values if where == "sparse" else dense)[0, 0] = bad
        state = [one, other, *inner.variables]
        before = [numpy(v) for v in state]
        optimizer.apply([slices([3, 5], values, one), tf.constant(dense, "float32")], [one, other])
        for v, old in zip(state[:2] if finite else state, before, strict=False):
            assert np.array_equal(numpy(v), old) != finite
        scales.append(float(numpy(optimizer.dynamic_scale)))
    assert scales == [64, 32, 32, 64, 64, 32, 32]
    assert int(numpy(optimizer.iterations)) == 5


@pytest.mark.slow
def test_loss_scale_optimizer_in_a_mixed_float16_fit():
    """The first scale overflows float16: those steps are skipped, then training goes on, on the rows of the batches alone."""
    keras.config.set_dtype_policy("mixed_float16")
    model = small_dnn()
    optimizer = optimizers.LossScaleOptimizer(optimizers.LazyAdam(0.05), initial_scale=2.0**40, dynamic_growth_steps=13)
    x, y = random_rows(fields_schema(), 64)
    model.compile(optimizer, "binary_crossentropy")
    assert model.optimizer is optimizer  # Keras wraps nothing around it
    start = [numpy(v) for v in model.trainable_variables]
    model.train_on_batch(x, y)
    assert float(numpy(optimizer.dynamic_scale)) == 2.0**39 and int(numpy(optimizer.iterations)) == 0
    for v, old in zip(model.trainable_variables, start, strict=True):
        np.testing.assert_array_equal(numpy(v), old)
    history = model.fit(x, y, batch_size=16, epochs=20, shuffle=False, verbose=0).history["loss"]
    assert np.isfinite(history).all() and history[-1] < 0.9 * history[0]
    steps = int(numpy(optimizer.iterations))
    assert 40 < steps < 80
    rest, variable = unseen_rows(model, x), embedding_table(model)
    assert len(rest)
    np.testing.assert_array_equal(numpy(variable)[rest], start[[v.path for v in model.trainable_variables].index("embedding/table")][rest])
    for slot in optimizer.inner_optimizer.slots_of(variable):
        assert (numpy(slot)[rest] == 0).all() and (numpy(slot) != 0).any()


def test_keras_own_loss_scale_optimizer_still_updates_rows():
    variable = table()
    variable.row_sparse = True
    optimizer = keras.optimizers.LossScaleOptimizer(optimizers.LazyAdam(0.5), initial_scale=64.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for indices in ([1, 1, 3], [5]):
            optimizer.apply([slices(indices, np.ones((len(indices), WIDTH)), variable)], [variable])
    rest = np.setdiff1d(np.arange(ROWS), [1, 3, 5])
    np.testing.assert_array_equal(numpy(variable)[rest], oracles.initial_weights()[rest])
