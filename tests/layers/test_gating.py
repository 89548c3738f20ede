"""SelfGating and LinearCompressedEmbedding against loops of Eq. 10 and section A.2.1."""

import numpy as np
import pytest

from keras_ctr.layers.gating import LinearCompressedEmbedding, SelfGating
from tests.layer_contract import check_layer, weight_count
from tests.layers.interformer_oracles import gate, randomize, sigmoid, weights

B, F, D, N = 5, 7, 3, 2
X = np.random.default_rng(0).standard_normal((B, F, D)).astype("float32")


def built(layer):
    layer.build((None, F, D))
    return randomize(layer)


@pytest.mark.parametrize("layer", [SelfGating(), SelfGating(form="outer", hidden_units=(5,)), LinearCompressedEmbedding(N)])
def test_contract(layer):
    check_layer(layer, X)


@pytest.mark.parametrize("form", SelfGating.FORMS)
@pytest.mark.parametrize("hidden_units", [(), (5,)])
def test_gating_equation(form, hidden_units):
    layer = built(SelfGating(form=form, hidden_units=hidden_units, name="gate"))
    want = [gate(weights(layer), row.astype("float64"), form) for row in X]
    np.testing.assert_allclose(layer(X), want, rtol=1e-4, atol=1e-5)


def test_zero_kernel_gates_by_the_bias_alone():
    layer = built(SelfGating(name="gate"))
    kernel, bias = layer.weights
    kernel.assign(np.zeros((D, D)))
    np.testing.assert_allclose(layer(X), X * sigmoid(bias.numpy()), rtol=1e-5)


def test_outer_activation_can_be_the_identity():
    layer = built(SelfGating(form="outer", activation="linear", name="gate"))
    kernel, bias = layer.weights
    np.testing.assert_allclose(layer(X), X * (X @ kernel.numpy() + bias.numpy()), rtol=1e-4, atol=1e-5)


def test_compression_equation():
    layer = built(LinearCompressedEmbedding(N, name="compress"))
    w = weights(layer)["kernel"]
    want = np.zeros((B, N, D))
    for b in range(B):
        for j in range(N):
            for i in range(F):
                want[b, j] += w[i, j] * X[b, i]
    np.testing.assert_allclose(layer(X), want, rtol=1e-4, atol=1e-5)


def test_parameter_counts():
    assert weight_count(built(SelfGating())) == D * D + D
    assert weight_count(built(SelfGating(hidden_units=(5,)))) == D * 5 + 5 + 5 * D + D
    assert weight_count(built(LinearCompressedEmbedding(N))) == F * N


def test_errors():
    with pytest.raises(ValueError, match="form must be one of .* did you mean 'gated'"):
        SelfGating(form="gate")
    with pytest.raises(ValueError, match="num_tokens must be an int of at least 1, got 0"):
        LinearCompressedEmbedding(0)
