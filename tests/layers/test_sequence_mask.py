"""SequenceMaskNet against a loop of Eq. 6."""

import numpy as np
import pytest

from keras_ctr.layers.sequence_mask import SequenceMaskNet
from tests.layer_contract import check_layer, weight_count
from tests.layers.interformer_oracles import mask_net, masks, randomize, sigmoid, weights

B, T, K, D = 5, 7, 6, 3  # k = 2 sequences of width 3
X = np.random.default_rng(0).standard_normal((B, T, K)).astype("float32")
MASK = masks(B, T)


def built(**arguments):
    layer = SequenceMaskNet(D, name="mask_net", **arguments)
    layer.build((None, T, K))
    return randomize(layer)


@pytest.mark.parametrize("arguments", [{}, {"self_masking": False}, {"mask_units": (5,), "mask_activation": "sigmoid"}])
def test_contract(arguments):
    check_layer(SequenceMaskNet(D, **arguments), X, call_kwargs={"mask": MASK}, sequence=(0,), mask_output="sequence")


@pytest.mark.parametrize("self_masking", [True, False])
def test_equation(self_masking):
    layer = built(self_masking=self_masking)
    want = [mask_net(weights(layer), X[b].astype("float64"), MASK[b], self_masking) for b in range(B)]
    np.testing.assert_allclose(layer(X, mask=MASK), want, rtol=1e-4, atol=1e-5)


def test_mask_activation():
    layer = built(mask_activation="sigmoid", mask_units=())
    v = weights(layer)
    x = X.astype("float64")
    want = (x * sigmoid(x @ v["mask_mlp/output/kernel"] + v["mask_mlp/output/bias"])) @ v["compress/kernel"] + v["compress/bias"]
    np.testing.assert_allclose(layer(X), want, rtol=1e-4, atol=1e-5)


def test_parameter_counts():
    assert weight_count(built()) == 2 * K * (K + 1) + K * D + D
    assert weight_count(built(self_masking=False)) == K * D + D


def test_padded_steps_are_zero():
    assert np.all(np.asarray(built()(X, mask=MASK))[~MASK] == 0)


def test_errors():
    with pytest.raises(ValueError, match="output_dim"):
        SequenceMaskNet(0)
