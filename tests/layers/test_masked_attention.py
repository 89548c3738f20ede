"""Ad-Rec's masked attention and encoder layer against loops of their equations."""

import keras
import numpy as np
import pytest

from keras_ctr.layers.attention import MultiHeadAttention
from keras_ctr.layers.masked_attention import FieldPositionEmbedding, MaskedFeatureAttention, MaskedTransformerBlock
from tests.layer_contract import check_layer, weight_count
from tests.layers.interformer_oracles import layer_norm, mlp, randomize, softmax, under, weights

B, F, D, H, U = 5, 7, 6, 3, 11
X = np.random.default_rng(0).standard_normal((B, F, D)).astype("float32")
THETA = [0.15, 0.02, 0.3]
KEY_BIAS = (r"key/bias",)  # one number for all keys of a query: it cancels in both softmaxes


def built(layer, shape=(None, F, D)):
    layer.build(shape)
    return randomize(layer, scale=0.3)


def relu(x):
    return np.maximum(x, 0)


def loop(values, x, thetas, fallback="argmax", scale=True, heads=H):
    """Eq. 1 to 4, one row, head and feature at a time: the output and the weights `(B, H, F, F)`."""
    width = x.shape[2] // heads
    out, maps = np.zeros(x.shape), np.zeros((len(x), heads, x.shape[1], x.shape[1]))
    for b, row in enumerate(x):
        q, k, v = (row @ values[f"{n}/kernel"] + values[f"{n}/bias"] for n in ("query", "key", "value"))
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            for i in range(len(row)):
                scores = np.array([q[i, part] @ k[j, part] for j in range(len(row))]) / (np.sqrt(width) if scale else 1)
                first = softmax(scores)
                assert np.abs(first - thetas[h]).min() > 1e-5, "a weight too near to its threshold for a comparison across precisions"
                keep = [j for j in range(len(row)) if first[j] > thetas[h]]
                if not keep:
                    keep = [int(np.argmax(first))] if fallback == "argmax" else []
                if keep:
                    maps[b, h, i, keep] = softmax(scores[keep])
                else:
                    maps[b, h, i] = 1 / len(row)
                out[b, i, part] = sum(maps[b, h, i, j] * v[j, part] for j in range(len(row)))
    return out @ values["output/kernel"] + values["output/bias"], maps


@pytest.mark.parametrize(
    "arguments", [{"mask_thresholds": THETA}, {"mask_thresholds": 0.1, "fallback": "uniform"}, {"mask_thresholds": None}]
)
def test_contract(arguments):
    # In bfloat16 a weight near its threshold may fall on the other side of it.
    check_layer(MaskedFeatureAttention(H, **arguments), X, no_gradient=KEY_BIAS, low_precision_tolerance=0.3)


@pytest.mark.parametrize("fallback", MaskedFeatureAttention.FALLBACKS)
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("thetas", [THETA, [0.4, 0.45, 0.01]])
def test_equation_head_by_head_and_row_by_row(fallback, scale, thetas):
    layer = built(MaskedFeatureAttention(H, mask_thresholds=thetas, fallback=fallback, scale=scale, name="attention"))
    out, attention = layer(X, return_attention=True)
    want, maps = loop(weights(layer), X.astype("float64"), thetas, fallback, scale)
    np.testing.assert_allclose(attention, maps, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-6)
    assert keras.backend.standardize_dtype(attention.dtype) == "float32"
    # Thresholds, rows and heads differ, so a mask put at another head or row would show.
    kept = maps > 0
    assert len({kept[b, h].tobytes() for b in range(B) for h in range(H)}) > B


def test_default_thresholds_fall_geometrically():
    layer, listed = built(MaskedFeatureAttention(H)), built(MaskedFeatureAttention(H, mask_thresholds=[0.1, 0.01, 0.001]))
    assert layer.get_config()["mask_thresholds"] == "geometric"
    np.testing.assert_allclose(layer.thresholds, listed.thresholds, rtol=1e-12)
    np.testing.assert_array_equal(layer(X), listed(X))


@pytest.mark.parametrize("thetas", [None, 0, 0.0, [0.0] * H])
def test_no_threshold_is_ordinary_attention(thetas):
    layer = built(MaskedFeatureAttention(H, mask_thresholds=thetas))
    plain = MultiHeadAttention(H)
    plain.build((None, F, D))
    plain.set_weights(layer.get_weights())
    expected, maps = plain(X, return_attention=True)
    out, attention = layer(X, return_attention=True)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(attention, maps, rtol=1e-5, atol=1e-6)


def test_one_number_is_that_number_for_every_head():
    one, listed = (built(MaskedFeatureAttention(H, mask_thresholds=t)) for t in (0.12, [0.12] * H))
    np.testing.assert_array_equal(one(X), listed(X))


def test_raising_the_threshold_drops_weights_and_never_brings_one_back():
    layer = built(MaskedFeatureAttention(H, mask_thresholds=None))
    before, counts = np.ones((B, H, F, F), bool), []
    for theta in (0.0, 0.05, 0.1, 0.14, 0.2, 0.99):
        masked = MaskedFeatureAttention(H, mask_thresholds=theta)
        masked.build((None, F, D))
        masked.set_weights(layer.get_weights())
        attention = np.asarray(masked(X, return_attention=True)[1])
        assert not np.any((attention > 0) & ~before)
        before = attention > 0
        counts.append(before.sum())
    assert counts[0] == B * H * F * F and counts[-1] == B * H * F
    assert np.all(np.diff(counts) < 0)


@pytest.mark.parametrize("fallback", MaskedFeatureAttention.FALLBACKS)
@pytest.mark.parametrize("theta", ["geometric", 0.14, 0.99, None])
def test_rows_sum_to_one(fallback, theta):
    layer = built(MaskedFeatureAttention(H, mask_thresholds=theta, fallback=fallback))
    attention = np.asarray(layer(X, return_attention=True)[1])
    assert attention.min() >= 0
    np.testing.assert_allclose(attention.sum(axis=-1), 1, atol=1e-6)


def test_permuting_the_fields_permutes_the_output():
    layer = built(MaskedTransformerBlock(H, ffn_units=U, mask_thresholds=THETA))
    order = np.random.default_rng(1).permutation(F)
    out, attention = (np.asarray(x) for x in layer(X, return_attention=True))
    permuted, maps = layer(X[:, order], return_attention=True)
    np.testing.assert_allclose(permuted, out[:, order], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(maps, attention[:, :, order][..., order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "theta, fallback, expected",
    [
        (0.05, "argmax", [0.6, 0.3, 0.1]),
        (0.2, "argmax", [2 / 3, 1 / 3, 0]),
        (0.5, "uniform", [1, 0, 0]),
        (0.7, "argmax", [1, 0, 0]),
        (0.7, "uniform", [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_by_hand(theta, fallback, expected):
    """Queries of 1 and keys log 6, log 3, log 1: weights 0.6, 0.3, 0.1; values 1, 2, 4."""
    layer = scalar_attention(theta, fallback)
    x = np.array([[[6, 1], [3, 2], [1, 4]]], "float32")
    x[..., 0] = np.log(x[..., 0])
    out, attention = layer(x, return_attention=True)
    np.testing.assert_allclose(attention, np.broadcast_to(expected, (1, 1, 3, 3)), atol=1e-6)
    np.testing.assert_allclose(np.asarray(out)[0, :, 0], [np.dot(expected, [1, 2, 4])] * 3, rtol=1e-6)


def scalar_attention(theta, fallback):
    """One head on tokens (key, value): every query is (1, 0), keys are (key, 0), values (value, 0)."""
    layer = MaskedFeatureAttention(1, mask_thresholds=theta, fallback=fallback, scale=False)
    layer.build((None, None, 2))
    values = [np.zeros((2, 2)), [1, 0], [[1, 0], [0, 0]], [0, 0], [[0, 0], [1, 0]], [0, 0], np.eye(2), [0, 0]]
    layer.set_weights([np.array(value) for value in values])
    return layer


def test_a_weight_at_its_threshold_is_dropped():
    """Weights of exactly 0.5, 0.5, 0, 0 and theta = 0.5: nothing is above it."""
    layer = scalar_attention(0.5, "uniform")
    x = np.array([[[0, 0], [0, 0], [-200, 0], [-200, 0]]], "float32")
    np.testing.assert_array_equal(layer(x, return_attention=True)[1], np.full((1, 1, 4, 4), 0.25))
    np.testing.assert_array_equal(
        scalar_attention(0.4999, "uniform")(x, return_attention=True)[1], np.broadcast_to([0.5, 0.5, 0, 0], (1, 1, 4, 4))
    )


def test_largest_weights_that_tie_are_all_kept():
    x = np.zeros((1, 4, 2), "float32")
    np.testing.assert_array_equal(scalar_attention(0.9, "argmax")(x, return_attention=True)[1], np.full((1, 1, 4, 4), 0.25))


def block_loop(layer, x):
    """Eq. 6 and 7, or the post-norm form, on one batch."""
    values, thetas = weights(layer), layer.attention.thresholds

    def norm(name, z, here):
        return np.array([[layer_norm(under(values, name), token) for token in row] for row in z]) if here and layer.layer_norm else z

    attended, _ = loop(under(values, "attention"), norm("attention_norm", x, layer.norm_first), thetas)
    z = norm("attention_norm", x + attended, not layer.norm_first)
    hidden = norm("ffn_norm", z, layer.norm_first)
    hidden = np.array([[mlp(under(values, "ffn"), token, relu) for token in row] for row in hidden])
    return norm("ffn_norm", z + hidden, not layer.norm_first)


@pytest.mark.parametrize("norm_first, with_norm", [(True, True), (False, True), (True, False)])
def test_block_equation(norm_first, with_norm):
    layer = built(MaskedTransformerBlock(H, ffn_units=U, mask_thresholds=THETA, norm_first=norm_first, layer_norm=with_norm, name="block"))
    np.testing.assert_allclose(layer(X), block_loop(layer, X.astype("float64")), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("arguments", [{}, {"norm_first": False}, {"layer_norm": False}, {"dropout": 0.5, "mask_thresholds": None}])
def test_contract_of_the_block(arguments):
    check_layer(MaskedTransformerBlock(H, ffn_units=U, **arguments), X, no_gradient=KEY_BIAS, low_precision_tolerance=0.1)


def test_dropout_drops_the_two_parts_and_keeps_the_shortcut():
    layer = built(MaskedTransformerBlock(H, ffn_units=U, dropout=0.999, layer_norm=False))
    out = np.asarray(layer(X, training=True))
    same = np.isclose(out, X).mean()
    assert same > 0.9 and not np.allclose(layer(X, training=False), X, atol=1e-2)


@pytest.mark.parametrize("width, heads, hidden, total", [(16, 2, 128, 5_392), (64, 8, 512, 83_008), (D, H, U, None)])
def test_parameter_count(width, heads, hidden, total):
    """The published encoder layers; by the formula 4 (64^2 + 64) + 2 64 512 + 512 + 64 + 4 64 = 83 008 for RM2."""
    attention = 4 * (width**2 + width)
    assert weight_count(built(MaskedFeatureAttention(heads), (None, F, width))) == attention
    assert weight_count(built(MaskedFeatureAttention(heads, use_bias=False), (None, F, width))) == 4 * width**2
    ffn = 2 * width * hidden + hidden + width
    block = built(MaskedTransformerBlock(heads, ffn_units=hidden), (None, F, width))
    assert weight_count(block) == attention + ffn + 4 * width
    assert total is None or weight_count(block) == total
    plain = built(MaskedTransformerBlock(heads, ffn_units=hidden, layer_norm=False), (None, F, width))
    assert weight_count(plain) == attention + ffn


def test_small_embeddings_are_normalised_not_swamped():
    """Tokens as tables start them, N(0, 0.01^2), leave the first normalisation with a standard deviation near 1."""
    layer = MaskedTransformerBlock(2, ffn_units=U)
    layer.build((None, F, 16))
    spread = np.asarray(layer.norms[0](0.01 * np.random.default_rng(0).standard_normal((31, F, 16)))).std(axis=-1)
    assert spread.min() > 0.97


def test_positions():
    check_layer(FieldPositionEmbedding(), X)
    layer = built(FieldPositionEmbedding())
    assert weight_count(layer) == F * D
    np.testing.assert_array_equal(layer(X), X + layer.positions.numpy())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MaskedFeatureAttention(0), "num_heads"),
        (lambda: MaskedFeatureAttention(H, mask_thresholds=[0.1, 0.2]), "2 numbers for 3 heads"),
        (lambda: MaskedFeatureAttention(H, mask_thresholds=1.0), r"\[0, 1\)"),
        (lambda: MaskedFeatureAttention(H, mask_thresholds=[0.1, -0.1, 0.1]), r"\[0, 1\)"),
        (lambda: MaskedFeatureAttention(H, mask_thresholds=True), r"\[0, 1\)"),
        (lambda: MaskedFeatureAttention(H, mask_thresholds="geometrical"), "did you mean 'geometric'"),
        (lambda: MaskedFeatureAttention(H, fallback="zero"), "fallback"),
        (lambda: MaskedFeatureAttention(H).build((None, F, D + 1)), "do not divide"),
        (lambda: MaskedTransformerBlock(H, ffn_units=0), "ffn_units"),
        (lambda: MaskedTransformerBlock(H, dropout=1.0), "dropout"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
