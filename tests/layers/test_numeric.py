"""The four ways of making tokens of numbers, against loops in float64."""

import math

import keras
import numpy as np
import pytest

from keras_ctr.layers import NumericTokens
from tests.layer_contract import check_layer

ROWS, N, D = 5, 3, 7
TRANSFORMS = [("none", None, None), ("log1p_standardize", 1.5, 0.25), ("standardize", -3.0, 11.0)]


def numbers(seed=0):
    return np.random.default_rng(seed).normal(size=(ROWS, N)).astype("float32")


def bin_of(x, num_bins=64):
    return min(math.floor(math.log(x * x + 1)), num_bins - 1)


@pytest.mark.parametrize("kind, expected", [("scale_embedding", N), ("dense_projection", 1)])
def test_linear_kinds(kind, expected):
    x = numbers()
    layer = NumericTokens(D, kind=kind)
    out = keras.ops.convert_to_numpy(layer(x))
    w = keras.ops.convert_to_numpy(layer.kernel).astype("float64")
    tokens = np.array([[x[b, n] * w[n] for n in range(N)] for b in range(ROWS)])
    tokens = tokens if kind == "scale_embedding" else tokens.sum(axis=1, keepdims=True)
    assert out.shape == (ROWS, expected, D)
    np.testing.assert_allclose(out, tokens, rtol=1e-5, atol=1e-6)
    assert layer.count_params() == N * D


@pytest.mark.parametrize("output_activation", [None, "linear"])
def test_bottom_mlp(output_activation):
    x = numbers()
    layer = NumericTokens(D, kind="bottom_mlp", hidden_units=(11, 13), output_activation=output_activation)
    out = keras.ops.convert_to_numpy(layer(x))
    weights = [keras.ops.convert_to_numpy(w).astype("float64") for w in layer.weights]
    h = x.astype("float64")
    for step, (kernel, bias) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
        h = h @ kernel + bias
        h = h if step == 2 and output_activation else np.maximum(h, 0)
    np.testing.assert_allclose(out, h[:, None], rtol=1e-5, atol=1e-6)
    assert out.min() < 0 if output_activation else out.min() >= 0
    assert layer.count_params() == (N + 1) * 11 + 12 * 13 + 14 * D


def test_bins_are_those_of_the_raw_numbers():
    raw = np.array([[0.0, 1.0, -100.0], [1.3, 5.0, 40.0], [-1.4, -300.0, 0.0], [1e9, 1e6, -1e4], [3e38, 2.0, 7.0]], "float64")
    given = np.stack(
        [
            raw[:, 0],
            (np.sign(raw[:, 1]) * np.log1p(np.abs(raw[:, 1])) - 1.5) / 0.25,
            (raw[:, 2] + 3.0) / 11.0,
        ],
        axis=1,
    )
    layer = NumericTokens(D, kind="bucketize", transforms=TRANSFORMS)
    out = keras.ops.convert_to_numpy(layer(given.astype("float32")))
    table = keras.ops.convert_to_numpy(layer.table).reshape(N, 64, D)
    bins = [[min(63, math.floor(math.log1p(x * x))) if x < 1e150 else 63 for x in row] for row in raw.tolist()]
    assert bins[0][0] == 0 and bins[1][0] == 0 and bins[2][0] == 1 and bins[4][0] == 63  # |x| = 1.31 is the first end
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer.bins(given.astype("float32"))), bins)
    np.testing.assert_array_equal(out, [[table[n, bins[b][n]] for n in range(N)] for b in range(ROWS)])
    assert layer.count_params() == N * 64 * D


def test_the_last_bin_is_open():
    layer = NumericTokens(D, kind="bucketize", num_bins=3)
    bins = keras.ops.convert_to_numpy(layer.bins(np.array([[0.0, 1.5, 1e6]], "float32")))
    assert bins.tolist() == [[0, 1, 2]]
    one = keras.ops.convert_to_numpy(NumericTokens(D, kind="bucketize", num_bins=1).bins(np.array([[0.0, 9.0]], "float32")))
    assert one.tolist() == [[0, 0]]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="did you mean 'bucketize'"):
        NumericTokens(D, kind="bucketise")
    with pytest.raises(ValueError, match="embedding_dim"):
        NumericTokens(0)
    with pytest.raises(ValueError, match="2 transforms for 3 numbers"):
        NumericTokens(D, kind="bucketize", transforms=TRANSFORMS[:2]).build((None, N))


@pytest.mark.parametrize("kind", NumericTokens.KINDS)
def test_contract(kind):
    transforms = TRANSFORMS if kind == "bucketize" else None
    rows = numbers() * 10
    if kind == "bucketize":  # low precision moves numbers over the ends of bins, so the dtype clause has numbers far from any
        rows = np.array([[0.25, -4.0, 1.0], [3.0, -3.5, 2.0], [6.0, -2.5, 0.5], [0.25, -4.0, 4.0], [20.0, -3.0, 1.0]], "float32")
    check_layer(NumericTokens(D, kind=kind, hidden_units=(11,), transforms=transforms, name="numbers"), rows)
