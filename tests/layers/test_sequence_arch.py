"""SequenceArch against loops of Eq. 9, literal and as a pre-norm residual block."""

import numpy as np
import pytest

from keras_ctr.layers.sequence_arch import SequenceArch
from tests.layer_contract import check_layer, weight_count
from tests.layers.interformer_oracles import attention, layer_norm, masks, pffn, randomize, under, weights

B, S, N, D, H, U = 5, 7, 3, 6, 3, 5
RNG = np.random.default_rng(0)
TOKENS = RNG.standard_normal((B, S, D)).astype("float32")
SUMMARY = RNG.standard_normal((B, N, D)).astype("float32")
MASK = masks(B, S)
STYLES = [(style, kind) for style in SequenceArch.BLOCK_STYLES for kind in SequenceArch.PFFN]


def built(style, kind, **arguments):
    layer = SequenceArch(H, block_style=style, pffn=kind, pffn_units=(U,), name="sequence", **arguments)
    layer.build((None, S, D), None if kind == "static" else (None, N, D))
    return randomize(layer, 0.3)


def oracle(layer, tokens, summary, mask):
    values = weights(layer)

    def ffn(x):
        if layer.pffn == "static":
            return np.array([values["ffn/kernel"].T @ t + values["ffn/bias"] for t in x])
        return pffn(under(values, "pffn"), x, summary, layer.pffn)

    def attend(x):
        if not layer.use_attention:
            return x
        positions = np.cumsum(mask) - 1 if layer.rotary else None
        return attention(under(values, "attention"), x, x, mask, H, positions)[0]

    def norm(x, name):
        return np.array([layer_norm(under(values, name), t) for t in x])

    if layer.block_style == "paper":
        out = attend(ffn(tokens))
    else:
        y = tokens + ffn(norm(tokens, "ffn_norm"))
        out = y + attend(norm(y, "attention_norm")) if layer.use_attention else y
    return out * mask[:, None]


@pytest.mark.parametrize("style, kind", STYLES)
@pytest.mark.parametrize("arguments", [{}, {"use_attention": False}, {"rotary": False}])
def test_equation(style, kind, arguments):
    layer = built(style, kind, **arguments)
    want = [oracle(layer, TOKENS[b].astype("float64"), SUMMARY[b].astype("float64"), MASK[b]) for b in range(B)]
    out = layer(TOKENS, None if kind == "static" else SUMMARY, mask=MASK)
    np.testing.assert_allclose(out, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("style, kind", [("transformer", "mlp"), ("paper", "linear"), ("transformer", "static")])
def test_contract(style, kind):
    kwargs = {"mask": MASK} if kind == "static" else {"mask": MASK, "summary": SUMMARY}
    layer = SequenceArch(H, block_style=style, pffn=kind)
    check_layer(layer, TOKENS, call_kwargs=kwargs, sequence=(0,), mask_output="sequence", low_precision_tolerance=0.15)


@pytest.mark.parametrize("style", SequenceArch.BLOCK_STYLES)
def test_padding_side_and_amount_change_nothing(style):
    layer = built(style, "mlp")
    events = TOKENS[:, :4]
    after = np.concatenate([events, np.zeros((B, 3, D), "float32")], axis=1)
    valid = np.zeros((B, S), bool)
    valid[:, :4] = True
    alone = layer(events, SUMMARY)
    for shift in range(4):
        out = np.asarray(layer(np.roll(after, shift, axis=1), SUMMARY, mask=np.roll(valid, shift, axis=1)))
        np.testing.assert_allclose(out[:, shift : shift + 4], alone, atol=1e-5)
        assert np.all(out[~np.roll(valid, shift, axis=1)] == 0)


def test_order_of_events_counts_with_rotary_positions_only():
    for rotary in (True, False):
        layer = built("transformer", "mlp", rotary=rotary)
        out, back = np.asarray(layer(TOKENS, SUMMARY)), np.asarray(layer(TOKENS[:, ::-1], SUMMARY))[:, ::-1]
        assert (np.abs(out - back).max() < 1e-5) != rotary


def test_attention_is_returned():
    out, maps = built("transformer", "mlp")(TOKENS, SUMMARY, mask=MASK, return_attention=True)
    assert maps.shape == (B, H, S, S)
    np.testing.assert_allclose(np.asarray(maps)[1:].sum(-1), 1, rtol=1e-5)


def test_dropout_acts_in_training_only():
    layer = built("transformer", "mlp", dropout=0.5)
    out, tested, trained = (np.asarray(layer(TOKENS, SUMMARY, training=training)) for training in (None, False, True))
    np.testing.assert_array_equal(out, tested)
    assert np.abs(out - trained).max() > 0.01


def test_parameter_counts():
    mha = 4 * (D * D + D)
    mlp = N * D * U + U + U * D * D + D * D
    assert weight_count(built("paper", "linear")) == N * D + mha
    assert weight_count(built("paper", "mlp")) == mlp + mha
    assert weight_count(built("paper", "static")) == D * D + D + mha
    assert weight_count(built("transformer", "mlp")) == mlp + mha + 4 * D
    assert weight_count(built("transformer", "mlp", use_attention=False)) == mlp + 2 * D


def test_errors():
    with pytest.raises(ValueError, match="block_style"):
        SequenceArch(block_style="post")
    with pytest.raises(ValueError, match="needs a summary"):
        SequenceArch()(TOKENS)
