"""HashedCrosses: the sum of the weights of the buckets, and how good the hash is."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ctr.layers.hashed_crosses import HashedCrosses
from tests.layer_contract import check_layer, weight_count

B, BUCKETS, UNITS = 5, 31, 2
CROSSES = [("user", "item"), ("item", "brand", "user"), ("brand", "item")]


def rows(count=B, seed=0):
    rng = np.random.default_rng(seed)
    sizes = {"user": 101, "item": 53, "brand": 11, "unused": 7}
    return {name: rng.integers(0, size, count).astype("int64" if name == "brand" else "int32") for name, size in sizes.items()}


def oracle(ids):
    """The hash of ids in the order of the fields' names, in Python's integers of any size."""
    state = 0x1B873593
    for value in ids:
        state ^= int(value) % 2**30
        for factor in (0x2C1B3C6D, 0x297A2D39):
            state = (state ^ (state >> 15)) * factor % 2**30
        state ^= state >> 15
    return state


def numpy(x):
    return ops.convert_to_numpy(x)


def grid(*sizes):
    return [axis.reshape(-1).astype("int32") for axis in np.meshgrid(*(np.arange(size) for size in sizes), indexing="ij")]


def test_contract():
    check_layer(HashedCrosses(CROSSES, BUCKETS, UNITS), {k: v for k, v in rows().items() if k != "unused"})


@pytest.mark.parametrize("buckets", [BUCKETS, 64, 1 << 20])
def test_buckets(buckets):
    x = rows(97)
    x["user"][:3] = [0, 2**30 - 1, 2**31 - 1]
    want = [[oracle([x[name][b] for name in sorted(cross)]) % buckets for cross in CROSSES] for b in range(97)]
    np.testing.assert_array_equal(numpy(HashedCrosses(CROSSES, buckets).buckets(x)), want)


def test_sum_of_the_weights_of_the_buckets():
    layer, x = HashedCrosses(CROSSES, BUCKETS, UNITS), rows()
    layer.build()
    table = np.random.default_rng(1).standard_normal((len(CROSSES) * BUCKETS, UNITS))
    layer.table.assign(table)
    want = np.zeros((B, UNITS))
    for b in range(B):
        for c, cross in enumerate(CROSSES):
            want[b] += table[c * BUCKETS + oracle([x[name][b] for name in sorted(cross)]) % BUCKETS]
    np.testing.assert_allclose(numpy(layer(x)), want, rtol=1e-6, atol=1e-6)


def test_order_of_fields_and_of_crosses_does_not_matter():
    x = rows(97)
    buckets = numpy(HashedCrosses(CROSSES, BUCKETS).buckets(x))
    turned = HashedCrosses([tuple(reversed(cross)) for cross in reversed(CROSSES)], BUCKETS)
    np.testing.assert_array_equal(numpy(turned.buckets(dict(reversed(x.items()))))[:, ::-1], buckets)


def test_fields_are_told_apart():
    """(user 3, item 5) is another value than (user 5, item 3)."""
    first, second = grid(40, 40)
    layer = HashedCrosses([("a", "b")], 1 << 30)
    one, other = numpy(layer.buckets({"a": first, "b": second})), numpy(layer.buckets({"a": second, "b": first}))
    assert ((one == other)[:, 0] == (first == second)).all()


@pytest.mark.parametrize("buckets", [64, 1000, 4096, 10007])
@pytest.mark.parametrize("sizes, strides", [((300, 300), (1, 1)), ((3, 30000), (1, 1)), ((300, 300), (4096, 1)), ((45, 45, 45), (1, 1, 1))])
def test_values_spread_evenly(buckets, sizes, strides):
    """Chi-square of the counts of about 90,000 distinct values: within 4 standard deviations of what an even spread gives."""
    names = "abc"[: len(sizes)]
    x = {name: ids * stride for name, ids, stride in zip(names, grid(*sizes), strides, strict=True)}
    found = numpy(HashedCrosses([tuple(names)], buckets).buckets(x))[:, 0]
    assert found.min() >= 0 and found.max() < buckets
    expected = len(found) / buckets
    chi_square = ((np.bincount(found, minlength=buckets) - expected) ** 2 / expected).sum()
    assert abs(chi_square - (buckets - 1)) < 4 * np.sqrt(2 * (buckets - 1))


def test_one_id_more_moves_half_of_the_bits():
    first, second = grid(200, 200)
    layer = HashedCrosses([("a", "b")], 1 << 30)
    state = numpy(layer.buckets({"a": first, "b": second}))[:, 0]
    for name in "ab":
        x = {"a": first, "b": second}
        x[name] = x[name] + 1
        moved = state ^ numpy(layer.buckets(x))[:, 0]
        shares = [((moved >> bit) & 1).mean() for bit in range(30)]
        assert 0.45 < min(shares) and max(shares) < 0.55


def test_distinct_values_rarely_meet():
    """About n^2 / 2^31 of n values share one of 2^30 buckets: 0.75 of 40,000."""
    first, second = grid(200, 200)
    found = numpy(HashedCrosses([("a", "b")], 1 << 30).buckets({"a": first, "b": second}))
    assert len(found) - len(np.unique(found)) <= 6


def test_parameter_count():
    layer = HashedCrosses(CROSSES, BUCKETS, UNITS)
    layer.build()
    assert weight_count(layer) == len(CROSSES) * BUCKETS * UNITS


def test_starts_at_zero_and_is_marked_for_row_sparse_optimizers():
    layer, x = HashedCrosses(CROSSES, BUCKETS), rows()
    np.testing.assert_array_equal(numpy(layer(x)), np.zeros((B, 1)))
    assert layer.table.row_sparse


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="other backends have dense gradients")
def test_gradient_is_sparse_on_tensorflow():
    import tensorflow as tf

    layer, x = HashedCrosses(CROSSES, BUCKETS), rows()
    layer.build()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x))
    gradient = tape.gradient(loss, layer.table.value)
    assert isinstance(gradient, tf.IndexedSlices) and gradient.values.shape[0] == B * len(CROSSES)


def test_a_symbolic_batch_has_the_same_buckets():
    layer, x = HashedCrosses(CROSSES, BUCKETS, UNITS, initializer="random_normal"), rows()
    inputs = {name: keras.Input(shape=(), dtype=x[name].dtype.name, name=name) for name in ("user", "item", "brand")}
    model = keras.Model(inputs, layer(inputs))
    np.testing.assert_allclose(numpy(model({name: x[name] for name in inputs})), numpy(layer(x)), rtol=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"crosses": []}, "crosses is empty"),
        ({"crosses": [("user",)]}, "at least two fields"),
        ({"crosses": ("user", "item")}, "list of tuples"),
        ({"crosses": [("user", "item", "user")]}, "names a field twice"),
        ({"crosses": [("user", "item"), ("item", "user")]}, "is there twice"),
        ({"crosses": CROSSES, "num_buckets": 0}, "num_buckets"),
        ({"crosses": CROSSES, "num_buckets": 1 << 30}, "lower num_buckets"),
        ({"crosses": CROSSES, "units": 0}, "units"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        HashedCrosses(**arguments)
