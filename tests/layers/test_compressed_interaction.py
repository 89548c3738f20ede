"""CompressedInteraction against loops over the CIN equation."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ctr.layers.compressed_interaction import CompressedInteraction, interact
from tests.gradients import gradients
from tests.layer_contract import check_layer, weight_count

B, F, D = 5, 7, 3
UNITS = (4, 2, 11)
SETUPS = [
    {},
    {"activation": "relu", "use_bias": True},
    {"split_half": True},
    {"split_half": True, "use_bias": True, "activation": "tanh", "field_chunk": 3},
    {"field_chunk": 2},
    {"field_chunk": 1},
]


def built(**arguments):
    layer = CompressedInteraction(UNITS, **arguments)
    layer.build((None, F, D))
    rng = np.random.default_rng(3)
    for weight in layer.weights:
        weight.assign(0.5 * rng.standard_normal(weight.shape))
    return layer


def inputs():
    return np.random.default_rng(4).standard_normal((B, F, D))


def loop(layer, x0):
    """Eq. 6 and the sum over the width, one feature map and one pair at a time."""
    values = {w.name: w.numpy().astype("float64") for w in layer.weights}
    f = {"linear": lambda z: z, "relu": lambda z: np.maximum(z, 0), "tanh": np.tanh}[layer.activation.__name__]
    x, pooled = x0, []
    for depth, units in enumerate(layer.units):
        maps = np.zeros((B, units, D))
        for m in range(units):
            for i in range(x.shape[1]):
                for j in range(F):
                    maps[:, m] += values[f"kernel_{depth}"][i * F + j, m] * x[:, i] * x0[:, j]
            if layer.use_bias:
                maps[:, m] += values[f"bias_{depth}"][m]
        maps = f(maps)
        last = depth == len(layer.units) - 1
        half = units // 2 if layer.split_half and not last else 0
        pooled.append(maps[:, half:].sum(axis=2))
        x = maps[:, :half] if half else maps
    return np.concatenate(pooled, axis=1)


@pytest.mark.parametrize("arguments", SETUPS)
def test_contract(arguments):
    check_layer(CompressedInteraction(UNITS, **arguments), (B, F, D))


@pytest.mark.parametrize("arguments", SETUPS)
def test_equation(arguments):
    layer, x = built(**arguments), inputs()
    np.testing.assert_allclose(layer(x.astype("float32")), loop(layer, x), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({}, F * F * 4 + 4 * F * 2 + 2 * F * 11),
        ({"use_bias": True}, F * F * 4 + 4 * F * 2 + 2 * F * 11 + 4 + 2 + 11),
        ({"split_half": True}, F * F * 4 + 2 * F * 2 + 1 * F * 11),
    ],
)
def test_parameter_count(arguments, expected):
    assert weight_count(built(**arguments)) == expected


@pytest.mark.parametrize("split_half, width", [(False, 4 + 2 + 11), (True, 2 + 1 + 11)])
def test_output_width(split_half, width):
    assert built(split_half=split_half).compute_output_shape((None, F, D)) == (None, width)


def test_identity_weights_give_all_pairwise_products():
    layer = CompressedInteraction((F * F,))
    layer.build((None, F, D))
    layer.kernels[0].assign(np.eye(F * F))
    x = inputs()
    expected = np.stack([(x[:, i] * x[:, j]).sum(axis=1) for i in range(F) for j in range(F)], axis=1)  # <x_i, x_j>
    np.testing.assert_allclose(layer(x.astype("float32")), expected, rtol=1e-5, atol=1e-5)


def test_layer_k_is_homogeneous_of_degree_k_plus_1():
    layer, x = built(), inputs().astype("float32")
    once, twice = np.split(np.asarray(layer(x)), [4, 6], axis=1), np.split(np.asarray(layer(2 * x)), [4, 6], axis=1)
    for degree, small, large in zip((2, 3, 4), once, twice, strict=True):
        np.testing.assert_allclose(large, 2**degree * small, rtol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_chunks_have_the_gradient_of_the_whole(size):
    rng = np.random.default_rng(5)
    shapes = ((B, 3), (B, F), (3, F, 2))
    variables = [keras.Variable(rng.standard_normal(shape), dtype="float64") for shape in shapes]
    x, x0, kernel = (np.array(variable) for variable in variables)
    weights = rng.standard_normal((B, 2)).astype(x.dtype)
    tolerance = 1e-12 if keras.backend.backend() == "tensorflow" else 1e-5  # elsewhere Keras multiplies matrices in float32

    def of(chunk):
        def out():
            return interact(*(1 * variable for variable in variables), chunk)  # of tensors: a custom gradient may not read variables

        return np.array(out()), *gradients(lambda: ops.sum(ops.multiply(out(), weights)), variables)

    for got, want in zip(of(size), of(None), strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    # d/dkernel_hfu = sum_n x_nh x0_nf w_nu, written out
    expected = np.einsum("nh,nf,nu->hfu", x, x0, weights)
    np.testing.assert_allclose(of(size)[3], expected, rtol=100 * tolerance, atol=tolerance)


def test_chunks_in_a_compiled_function():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("tf.function is of the TensorFlow backend only")
    import tensorflow as tf

    layer, whole, x = built(field_chunk=2), built(), tf.constant(inputs().astype("float32"))

    def gradient(layer):
        @tf.function(input_signature=[tf.TensorSpec((None, F, D))])
        def run(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = tf.reduce_sum(layer(x) ** 2)
            return tape.gradient(loss, [x, *(w.value for w in layer.weights)])

        return run(x)

    for got, want in zip(gradient(layer), gradient(whole), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def test_layers_start_different():
    layer = CompressedInteraction((F, F), kernel_initializer=keras.initializers.GlorotUniform(seed=1))
    layer.build((None, F, D))
    first, second = (kernel.numpy() for kernel in layer.kernels)
    assert not np.array_equal(first, second)
    limit = np.sqrt(6 / (F * F + F))  # F^2 pairs in, F maps out
    assert 0.9 * limit < np.abs(first).max() <= limit


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"units": ()}, "units is empty"),
        ({"units": (4, 0)}, "units"),
        ({"units": (3, 4), "split_half": True}, "even"),
        ({"field_chunk": 0}, "field_chunk"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        CompressedInteraction(**arguments)


def test_odd_last_layer_may_be_whole():
    assert CompressedInteraction((4, 3), split_half=True).compute_output_shape((None, F, D)) == (None, 2 + 3)


def test_bad_input():
    with pytest.raises(ValueError, match=r"tokens \(B, F, D\)"):
        CompressedInteraction().build((None, F * D))
