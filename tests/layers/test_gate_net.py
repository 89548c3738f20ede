"""FeatureGate and HiddenGate against loops written from the GateNet equations."""

import keras
import numpy as np
import pytest

from keras_ctr.layers.gate_net import FeatureGate, HiddenGate
from tests.layer_contract import check_layer, weight_count

B, F, D = 5, 7, 3
SETUPS = [(kind, sharing) for kind in ("vector", "bit") for sharing in ("private", "shared")]


def built(layer, *shape):
    layer.build((None, *shape))
    rng = np.random.default_rng(3)
    for weight in layer.weights:
        weight.assign(rng.standard_normal(weight.shape))
    return layer


def inputs(*shape):
    return np.random.default_rng(4).standard_normal((B, *shape))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("kind, sharing", SETUPS)
def test_contract_of_the_feature_gate(kind, sharing):
    check_layer(FeatureGate(kind, sharing=sharing, activation="tanh"), (B, F, D))


@pytest.mark.parametrize("kind, sharing", SETUPS)
def test_feature_gate(kind, sharing):
    layer, x = built(FeatureGate(kind, sharing=sharing), F, D), inputs(F, D)
    kernel = layer.kernel.numpy().astype("float64")
    expected = np.empty_like(x)
    for b in range(B):
        for f in range(F):
            w = kernel[f] if sharing == "private" else kernel
            for d in range(D):
                column = 0 if kind == "vector" else d
                score = sum(x[b, f, j] * w[j, column] for j in range(D))
                expected[b, f, d] = x[b, f, d] * sigmoid(score)
    np.testing.assert_allclose(layer(x.astype("float32")), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "kind, sharing, count",
    [("vector", "private", F * D), ("bit", "private", F * D * D), ("vector", "shared", D), ("bit", "shared", D * D)],
)
def test_parameters_of_the_feature_gate(kind, sharing, count):
    assert weight_count(built(FeatureGate(kind, sharing=sharing), F, D)) == count


@pytest.mark.parametrize("kind", ["vector", "bit"])
def test_equal_private_weights_are_shared_weights(kind):
    private, shared, x = built(FeatureGate(kind), F, D), built(FeatureGate(kind, sharing="shared"), F, D), inputs(F, D).astype("float32")
    private.kernel.assign(np.stack([shared.kernel.numpy()] * F))
    np.testing.assert_allclose(private(x), shared(x), rtol=1e-5, atol=1e-6)


def test_equal_columns_of_a_bit_wise_gate_are_a_vector_wise_one():
    bit, vector, x = built(FeatureGate("bit"), F, D), built(FeatureGate("vector"), F, D), inputs(F, D).astype("float32")
    bit.kernel.assign(np.repeat(vector.kernel.numpy(), D, axis=2))
    np.testing.assert_allclose(bit(x), vector(x), rtol=1e-5, atol=1e-6)


def test_private_weights_are_drawn_one_by_one():
    """Glorot's bound is that of a (D, D) matrix, sqrt(3 / D), whatever the number of tokens; and tokens differ."""
    layer = FeatureGate("bit", kernel_initializer=keras.initializers.GlorotUniform(seed=5))
    layer.build((None, 97, D))
    kernel = np.abs(layer.kernel.numpy())
    assert 0.95 < kernel.max() / np.sqrt(3 / D) <= 1
    assert len(np.unique(kernel[:, 0, 0])) == 97


def test_hidden_gate():
    layer, a = built(HiddenGate(), F), inputs(F)
    kernel = layer.kernel.numpy().astype("float64")
    expected = np.array([[a[b, n] * sigmoid(sum(a[b, m] * kernel[m, n] for m in range(F))) for n in range(F)] for b in range(B)])
    np.testing.assert_allclose(layer(a.astype("float32")), expected, rtol=1e-5, atol=1e-6)
    assert weight_count(layer) == F * F
    check_layer(HiddenGate(activation="tanh"), (B, F))


@pytest.mark.parametrize(
    "layer, shape", [(FeatureGate("vector"), (F, D)), (FeatureGate("bit", sharing="shared"), (F, D)), (HiddenGate(), (F,))]
)
def test_zero_kernels_halve(layer, shape):
    layer, x = built(layer, *shape), inputs(*shape).astype("float32")
    layer.kernel.assign(np.zeros(layer.kernel.shape))
    np.testing.assert_array_equal(layer(x), x / 2)


def test_errors():
    with pytest.raises(ValueError, match="did you mean 'vector'"):
        FeatureGate("vectors")
    with pytest.raises(ValueError, match="sharing"):
        FeatureGate(sharing="none")
    with pytest.raises(ValueError, match=r"\(B, F, D\)"):
        FeatureGate().build((None, D))
