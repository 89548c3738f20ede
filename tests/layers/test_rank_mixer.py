"""RankMixer's layers against loops over rows and tokens."""

import math

import keras
import numpy as np
import pytest

from keras_ctr.layers.mlp import MLP
from keras_ctr.layers.rank_mixer import PerTokenFFN, RankMixerBlock, SemanticTokens, TokenMixing
from tests.layer_contract import check_layer, weight_count
from tests.layers.transformer_oracles import CLOSE, built, layer_norm, normal, part, values

B, T, D, K = 5, 3, 6, 2
BLOCK = T * (2 * K * D * D + (K + 1) * D) + 4 * D


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def mixed(x):
    """`(T, D)`: token h gets head h of every token, in the order of the tokens."""
    heads = len(x)
    width = x.shape[1] // heads
    out = np.zeros_like(x)
    for h in range(heads):
        for t in range(heads):
            for i in range(width):
                out[h, t * width + i] = x[t, h * width + i]
    return out


def fed(w, x):
    out = []
    for t, token in enumerate(x):
        hidden = gelu(token @ w["hidden_kernel"][t] + w["hidden_bias"][t])
        out.append(hidden @ w["output_kernel"][t] + w["output_bias"][t])
    return np.array(out)


# -- tokens


@pytest.mark.parametrize("width, tokens", [(15, 5), (17, 5), (13, 13)])
def test_tokens_are_projected_pieces(width, tokens):
    layer, x = built(SemanticTokens(tokens, 7), (None, width)), normal(B, width)
    w, expected = values(layer), np.zeros((B, tokens, 7))
    kernels = [*w.get("wide_kernel", []), *w["kernel"]]
    for b in range(B):
        for t, piece in enumerate(np.array_split(x[b].astype("float64"), tokens)):
            expected[b, t] = piece @ kernels[t] + w["bias"][t]
    np.testing.assert_allclose(layer(x), expected, **CLOSE)
    assert weight_count(layer) == (width + tokens) * 7


def test_a_piece_starts_as_a_dense_layer_of_its_size():
    keras.utils.set_random_seed(3)
    layer = SemanticTokens(11, 64)
    layer.build((None, 31 * 11 + 5))
    limit = math.sqrt(6 / (31 + 64))
    assert 0.95 * limit < np.abs(np.asarray(layer.kernel)).max() <= limit
    limit = math.sqrt(6 / (32 + 64))
    assert 0.95 * limit < np.abs(np.asarray(layer.wide_kernel)).max() <= limit


@pytest.mark.parametrize("width", [15, 17])
def test_contract_of_tokens(width):
    check_layer(SemanticTokens(5, 7), (B, width))


# -- mixing


def test_mixing_is_a_transpose_of_heads():
    x = np.arange(1, 9, dtype="float32").reshape(1, 2, 4)
    np.testing.assert_array_equal(TokenMixing()(x), [[[1, 2, 5, 6], [3, 4, 7, 8]]])
    x = normal(B, T, D)
    np.testing.assert_array_equal(TokenMixing()(x), [mixed(row) for row in x])


def test_mixing_twice_is_the_identity():
    x, mixing = normal(B, T, D), TokenMixing()
    np.testing.assert_array_equal(mixing(mixing(x)), x)


def test_equal_tokens_are_mixed_to_their_heads():
    token = np.arange(6, dtype="float32")
    out = TokenMixing()(np.tile(token, (1, 3, 1)))
    np.testing.assert_array_equal(out, [[[0, 1] * 3, [2, 3] * 3, [4, 5] * 3]])


def test_contract_of_mixing():
    check_layer(TokenMixing(), (B, T, D), has_weights=False)


# -- feed-forward


def test_every_token_has_its_network():
    layer, x = built(PerTokenFFN(K), (None, T, D)), normal(B, T, D)
    w = values(layer)
    np.testing.assert_allclose(layer(x), [fed(w, row.astype("float64")) for row in x], **CLOSE)
    assert weight_count(layer) == BLOCK - 4 * D


def test_a_token_reads_no_other():
    layer, x = built(PerTokenFFN(K), (None, T, D)), normal(B, T, D)
    other = x.copy()
    other[:, 1] += 1
    moved = np.abs(np.asarray(layer(other)) - np.asarray(layer(x))).max(axis=(0, 2))
    assert moved[1] > 1e-2 and not moved[0] and not moved[2]


def test_equal_networks_are_one_mlp():
    shared = built(MLP((K * D,), activation="gelu", output_units=D), (None, T, D))
    layer = PerTokenFFN(K)
    layer.build((None, T, D))
    weights = [np.asarray(w) for w in shared.weights]
    layer.set_weights([np.stack([w] * T) for w in weights])
    x = normal(B, T, D)
    np.testing.assert_allclose(layer(x), shared(x), **CLOSE)


def test_contract_of_the_feed_forward_networks():
    check_layer(PerTokenFFN(K), (B, T, D))


# -- block


def test_block():
    layer, x = built(RankMixerBlock(K, epsilon=1e-3), (None, T, D)), normal(B, T, D)
    w, expected = values(layer), []
    for row in x.astype("float64"):
        s = layer_norm(part(w, "mixing_norm"), mixed(row) + row, 1e-3)
        expected.append(layer_norm(part(w, "ffn_norm"), fed(part(w, "ffn"), s) + s, 1e-3))
    np.testing.assert_allclose(layer(x), expected, **CLOSE)
    assert weight_count(layer) == BLOCK


def test_contract_of_the_block():
    check_layer(RankMixerBlock(K, dropout=0.1), (B, T, D))


@pytest.mark.parametrize("make", [lambda rate: PerTokenFFN(K, dropout=rate), lambda rate: RankMixerBlock(K, dropout=rate)])
def test_dropout_in_training_only(make):
    layer, x = built(make(0.5), (None, T, D)), normal(B, T, D)
    plain = np.asarray(layer(x))
    np.testing.assert_array_equal(layer(x), plain)
    assert np.abs(np.asarray(layer(x, training=True)) - plain).max() > 1e-2


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SemanticTokens(0), "num_tokens"),
        (lambda: SemanticTokens(3, 0), "hidden_dim"),
        (lambda: SemanticTokens(5, 7).build((None, 4)), "4 numbers cannot make 5 tokens; lower num_tokens"),
        (lambda: SemanticTokens(5, 7).build((None, 4, 5)), r"needs an input \(B, N\)"),
        (lambda: TokenMixing().build((None, 5, 6)), "5 tokens do not divide their width 6"),
        (lambda: PerTokenFFN(0), "expansion"),
        (lambda: PerTokenFFN(dropout=1.0), "dropout"),
        (lambda: PerTokenFFN().build((None, None, 6)), "T and D known"),
        (lambda: RankMixerBlock(epsilon=0), "epsilon"),
        (lambda: RankMixerBlock().build((None, 5, 6)), "5 tokens do not divide"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
