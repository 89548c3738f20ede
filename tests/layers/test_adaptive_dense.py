"""AdaptiveDense against a loop written from the APG equations; folding; no matrix a row."""

import keras
import numpy as np
import pytest

from keras_ctr.layers.adaptive_dense import AdaptiveDense
from tests.layer_contract import check_layer, weight_count

B, N, M, C, K, P, H = 5, 7, 11, 3, 2, 13, 4
SETUPS = {
    "plain": {},
    "over": {"over_rank": P},
    "adaptive_bias": {"bias": "adaptive"},
    "letter": {"identity": False, "bias": "none", "hidden_units": (H,)},
    "activation": {"activation": "tanh", "hidden_units": (H,)},
}
each_setup = pytest.mark.parametrize("setup", SETUPS)


def built(arguments, self_wise=False):
    layer = AdaptiveDense(M, rank=K, **arguments)
    layer.build((None, N), None if self_wise else (None, C))
    rng = np.random.default_rng(3)
    for weight in layer.weights:
        weight.assign(0.6 * rng.standard_normal(weight.shape))
    return layer


def arrays():
    rng = np.random.default_rng(4)
    return rng.standard_normal((B, N)), rng.standard_normal((B, C))


def loop(layer, x, z):
    """The matrix of each row, built in full."""
    w = {w.path.split(layer.name + "/")[-1]: w.numpy().astype("float64") for w in layer.weights}
    u, v = (w.get(f"kernel_{n}") for n in "uv")
    if layer.over_rank is not None:
        u, v = (w[f"kernel_{n}_left"] @ w[f"kernel_{n}_right"] for n in "uv")
    rows = []
    for row, made in zip(x, z, strict=True):
        if layer.hidden_units:
            made = np.maximum(made @ w["generator/dense_0/kernel"] + w["generator/dense_0/bias"], 0)
        made = made @ w["generator/output/kernel"] + w["generator/output/bias"]
        core = made[: K * K].reshape(K, K) + (np.eye(K) if layer.identity else 0)
        matrix = np.zeros((N, M))
        for i in range(N):
            for j in range(M):
                matrix[i, j] = sum(u[i, a] * core[a, c] * v[c, j] for a in range(K) for c in range(K))
        y = row @ matrix
        y = y + (w["bias"] if layer.bias == "static" else made[K * K :] if layer.bias == "adaptive" else 0)
        rows.append(np.tanh(y) if "tanh" in str(layer.activation) else y)
    return np.array(rows)


@each_setup
@pytest.mark.parametrize("self_wise", [False, True])
def test_equation(setup, self_wise):
    layer, (x, z) = built(SETUPS[setup], self_wise), arrays()
    args = (x,) if self_wise else (x, z)
    expected = loop(layer, x, x if self_wise else z)
    np.testing.assert_allclose(layer(*(a.astype("float32") for a in args)), expected, rtol=2e-5, atol=2e-6)


@each_setup
def test_contract(setup):
    check_layer(AdaptiveDense(M, rank=K, **SETUPS[setup]), (B, N), (B, C))
    check_layer(AdaptiveDense(M, rank=K, **SETUPS[setup]), (B, N))


@pytest.mark.parametrize(
    "arguments, count",
    [
        ({}, N * K + K * M + M + (C * K * K + K * K)),
        ({"over_rank": P}, N * P + P * K + K * P + P * M + M + (C * K * K + K * K)),
        ({"bias": "adaptive"}, N * K + K * M + (C + 1) * (K * K + M)),
        ({"bias": "none", "hidden_units": (H,)}, N * K + K * M + (C * H + H) + (H + 1) * K * K),
    ],
)
def test_parameter_count(arguments, count):
    assert weight_count(built(arguments)) == count


@pytest.mark.parametrize("identity", [True, False])
def test_a_constant_core_is_a_static_dense_layer_of_low_rank(identity):
    layer, (x, z) = built({"identity": identity}), arrays()
    core = np.random.default_rng(9).standard_normal((K, K)).astype("float32")
    kernel, bias = layer.generator.weights
    kernel.assign(np.zeros(kernel.shape))
    bias.assign((core - np.eye(K) * identity).reshape(-1))
    u, v = (np.asarray(w, "float64") for w in layer.kernels())
    matrix = u @ core @ v
    assert np.linalg.matrix_rank(matrix) == K
    np.testing.assert_allclose(
        layer(x.astype("float32"), z.astype("float32")), x @ matrix + layer.bias_weight.numpy(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("bias", AdaptiveDense.BIASES)
def test_folding_keeps_the_outputs(bias):
    layer, (x, z) = built({"over_rank": P, "bias": bias}), (a.astype("float32") for a in arrays())
    plain = built({"bias": bias})
    plain.set_weights(layer.folded_weights())
    assert weight_count(plain) < weight_count(layer)
    np.testing.assert_allclose(plain(x, z), layer(x, z), rtol=1e-5, atol=1e-6)


def test_factors_start_apart_and_the_layer_near_the_static_one():
    layer = AdaptiveDense(M, rank=K)
    x, z = (a.astype("float32") for a in arrays())
    y = np.asarray(layer(x, 1e-4 * z))
    u, v = layer.kernels()
    np.testing.assert_allclose(y, x @ np.asarray(u) @ np.asarray(v), atol=1e-2)
    assert np.abs(y).max() > 0.1


def test_no_row_has_its_matrix():
    """No tensor of forward and backward pass has B N M elements, nor B times one of the factors."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the tensors of a step are listed from TensorFlow's traced graph")
    import tensorflow as tf

    batch, width, units = 61, 41, 43
    layer = AdaptiveDense(units, rank=K)
    layer.build((None, width), (None, C))
    variables = [weight.value for weight in layer.trainable_weights]

    @tf.function
    def step(x, z):
        with tf.GradientTape() as tape:
            tape.watch([x, z])
            loss = tf.reduce_sum(layer(x, z))
        return tape.gradient(loss, [x, z, *variables])

    @tf.function
    def materialised(x, z):
        return tf.einsum("bn,nk,km->bnm", x, *layer.factors)

    x, z = tf.ones((batch, width)), tf.ones((batch, C))
    assert largest(materialised, x, z) == batch * width * units
    assert largest(step, x, z) <= batch * max(width, units)


def largest(function, *args):
    """Number of elements of the largest floating tensor in a traced function."""
    graphs, sizes = [function.get_concrete_function(*args).graph], []
    for graph in graphs:
        graphs += [f.graph for f in graph._functions.values() if hasattr(f, "graph")]
        for operation in graph.get_operations():
            sizes += [t.shape.num_elements() or 0 for t in operation.outputs if t.dtype.is_floating and t.shape.is_fully_defined()]
    return max(sizes)


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"units": 0}, "units"),
        ({"rank": 0}, "rank"),
        ({"over_rank": K - 1}, "over_rank"),
        ({"bias": "statics"}, "did you mean 'static'"),
        ({"hidden_units": (0,)}, "hidden_units"),
    ],
)
def test_errors(arguments, name):
    with pytest.raises(ValueError, match=name):
        AdaptiveDense(**{"units": M, "rank": K, **arguments})
