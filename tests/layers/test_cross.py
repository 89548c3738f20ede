"""CrossNetwork against loops written from the DCN and DCN V2 equations."""

import keras
import numpy as np
import pytest

from keras_ctr.layers.cross import CrossNetwork
from tests.layer_contract import check_layer, weight_count

B, N, K, E, L = 5, 7, 3, 2, 3
SETUPS = [("vector", None), ("matrix", None), ("low_rank", K), ("mixture", K)]


def built(parameterization, rank, num_layers=L):
    layer = CrossNetwork(num_layers, parameterization=parameterization, rank=rank, num_experts=E)
    layer.build((None, N))
    rng = np.random.default_rng(3)
    for weight in layer.weights:
        weight.assign(0.5 * rng.standard_normal(weight.shape))
    return layer


def inputs():
    return np.random.default_rng(4).standard_normal((B, N))


def loop(layer, x0):
    """The equations, one scalar product at a time."""
    values = {w.name: w.numpy().astype("float64") for w in layer.weights}
    rows = []
    for row in x0:
        x = row.copy()
        for depth in range(layer.num_layers):
            b = values[f"bias_{depth}"]
            if layer.parameterization == "vector":
                new = row * float(np.dot(x, values[f"kernel_{depth}"][:, 0])) + b + x
            elif layer.parameterization == "matrix":
                new = np.array([row[i] * (sum(values[f"kernel_{depth}"][j, i] * x[j] for j in range(N)) + b[i]) + x[i] for i in range(N)])
            elif layer.parameterization == "low_rank":
                w = values[f"kernel_v_{depth}"] @ values[f"kernel_u_{depth}"]
                new = row * (w.T @ x + b) + x
            else:
                score = values[f"kernel_gate_{depth}"].T @ x
                gate = np.exp(score) / np.exp(score).sum()
                new = x.copy()
                for e in range(E):
                    v, c, u = (values[f"kernel_{n}_{depth}"][e] for n in "vcu")
                    new = new + gate[e] * row * (u.T @ np.tanh(c.T @ np.tanh(v.T @ x)) + b)
            x = new
        rows.append(x)
    return np.array(rows)


@pytest.mark.parametrize("parameterization, rank", SETUPS)
def test_contract(parameterization, rank):
    check_layer(CrossNetwork(2, parameterization=parameterization, rank=rank, num_experts=E), (B, N))


@pytest.mark.parametrize("parameterization, rank", SETUPS)
def test_equation(parameterization, rank):
    layer, x = built(parameterization, rank), inputs()
    np.testing.assert_allclose(layer(x.astype("float32")), loop(layer, x), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    "parameterization, rank, per_layer",
    [("vector", None, 2 * N), ("matrix", None, N * N + N), ("low_rank", K, 2 * N * K + N), ("mixture", K, E * (2 * N * K + K * K + N) + N)],
)
def test_parameter_count(parameterization, rank, per_layer):
    assert weight_count(built(parameterization, rank)) == L * per_layer


def test_full_rank_low_rank_equals_matrix():
    low, full, x = built("low_rank", N), built("matrix", None), inputs().astype("float32")
    for depth in range(L):
        weights = low.cross_weights[depth]
        full.cross_weights[depth]["kernel"].assign(weights["kernel_v"].numpy() @ weights["kernel_u"].numpy())
        full.cross_weights[depth]["bias"].assign(weights["bias"])
    np.testing.assert_allclose(low(x), full(x), rtol=1e-3, atol=1e-4)


def test_vector_equals_matrix_with_equal_columns():
    """w 1^T as the matrix gives W x = (w . x) 1; without bias DCN is this DCN V2."""
    vector, matrix, x = built("vector", None), built("matrix", None), inputs().astype("float32")
    for depth in range(L):
        matrix.cross_weights[depth]["kernel"].assign(np.tile(vector.cross_weights[depth]["kernel"].numpy(), (1, N)))
        for layer in (vector, matrix):
            layer.cross_weights[depth]["bias"].assign(np.zeros(N))
    np.testing.assert_allclose(vector(x), matrix(x), rtol=1e-3, atol=1e-4)


def test_no_layers_is_identity():
    x = inputs().astype("float32")
    np.testing.assert_array_equal(CrossNetwork(0)(x), x)


def test_experts_and_layers_start_different():
    layer = CrossNetwork(2, parameterization="mixture", rank=K, num_experts=E, kernel_initializer=keras.initializers.GlorotUniform(seed=1))
    layer.build((None, N))
    draws = [w for weights in layer.cross_weights for w in weights["kernel_v"].numpy()]
    assert len({draw.tobytes() for draw in draws}) == 2 * E
    assert np.abs(draws).max() <= np.sqrt(6 / (N + K))  # Glorot limit of one expert
    assert np.abs(draws).max() > 0.8 * np.sqrt(6 / (N + K))


def test_parity_with_keras_rs():
    keras_rs = pytest.importorskip("keras_rs", reason="keras-rs is the oracle of this test")
    ours, x = built("matrix", None), inputs().astype("float32")
    expected = x
    for weights in ours.cross_weights:
        theirs = keras_rs.layers.FeatureCross()
        theirs(x, expected)
        theirs.set_weights([weights["kernel"].numpy(), weights["bias"].numpy()])
        expected = theirs(x, expected)
    np.testing.assert_allclose(ours(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_layers": -1}, "num_layers"),
        ({"parameterization": "full"}, "parameterization"),
        ({"parameterization": "low_rank"}, "rank"),
        ({"parameterization": "vector", "rank": 2}, "rank"),
        ({"parameterization": "mixture", "rank": 2, "num_experts": 0}, "num_experts"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        CrossNetwork(**arguments)


def test_bad_input():
    with pytest.raises(ValueError, match="flatten"):
        CrossNetwork().build((None, 3, 4))
