"""PoolingByMultiheadAttention against attention in the textbook order."""

import numpy as np
import pytest

from keras_ctr.layers.attention import MultiHeadAttention
from keras_ctr.layers.pooling_attention import PoolingByMultiheadAttention
from tests.layer_contract import check_layer, weight_count
from tests.layers.interformer_oracles import masks, pma, randomize, weights

B, T, K, H, E = 5, 11, 2, 3, 7
D = H * E
X = np.random.default_rng(0).standard_normal((B, T, D)).astype("float32")
MASK = masks(B, T)


def built():
    layer = PoolingByMultiheadAttention(K, num_heads=H, name="pma")
    layer.build((None, T, D))
    return randomize(layer, 0.3)


def test_contract():
    check_layer(PoolingByMultiheadAttention(K, num_heads=H), X, call_kwargs={"mask": MASK}, sequence=(0,))


def test_equation():
    layer = built()
    out, maps = layer(X, mask=MASK, return_attention=True)
    for row in range(B):
        want, want_maps = pma(weights(layer), X[row].astype("float64"), MASK[row], H)
        np.testing.assert_allclose(out[row], want, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(maps[row], want_maps, atol=1e-5)
    assert np.all(np.asarray(out)[0] == 0)


def test_equals_attention_from_the_seeds_whatever_the_key_bias():
    layer, reference = built(), MultiHeadAttention(H)
    reference.build((None, K, D), (None, T, D))
    values = weights(layer)
    key_bias = np.random.default_rng(9).standard_normal(D)
    reference.set_weights(
        [values["query_kernel"], values["query_bias"], values["key_kernel"], key_bias, values["value_kernel"], values["value_bias"]]
        + [values["output_kernel"], values["output_bias"]]
    )
    seeds = np.broadcast_to(values["seeds"], (B, K, D)).astype("float32")
    np.testing.assert_allclose(layer(X, mask=MASK), reference(seeds, X, mask=MASK), rtol=1e-4, atol=1e-4)


def test_parameter_count():
    assert weight_count(built()) == K * D + 4 * D * D + 3 * D


def test_width_of_a_head_can_be_chosen():
    layer = PoolingByMultiheadAttention(K, num_heads=2, key_dim=5)
    assert layer(X).shape == (B, K, D)


@pytest.mark.parametrize("arguments, message", [({"num_seeds": 0}, "num_seeds"), ({"num_heads": 2}, "2 heads do not divide the width 21")])
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        PoolingByMultiheadAttention(**arguments).build((None, T, D))
