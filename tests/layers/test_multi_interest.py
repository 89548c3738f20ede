"""DMIN's refiner and extractor against loops over samples, heads and steps."""

import numpy as np
import pytest

from keras_ctr.layers.dhen import LAYER_NORM_EPSILON
from keras_ctr.layers.multi_interest import BehaviorRefiner, MultiInterestExtractor
from tests.layer_contract import check_layer, weight_count
from tests.layers.interaction_oracles import randomise
from tests.layers.interest_oracles import (
    EMPTY,
    MASK,
    B,
    T,
    close,
    f32,
    f64,
    move,
    next_event_loss,
    normal,
    query,
    rearranged,
    score,
    softmax,
    valid_steps,
)

D, H, E, F = 6, 3, 2, 11  # E: the width of the candidate and, as it happens, of a head
ALL = np.ones((B, T), bool)


def built_refiner(**kwargs):
    layer = BehaviorRefiner(H, ffn_dim=F, **kwargs)
    layer.build((None, T, D))
    randomise(layer)
    return layer


def built_extractor(**kwargs):
    layer = MultiInterestExtractor(H, ffn_dim=F, attention_units=(5, 13), position_dim=4, **{"max_positions": 17, **kwargs})
    layer.build((None, T, D), (None, E))
    randomise(layer)
    return layer


def dense(layer, x):
    return x @ f64(layer.kernel) + (f64(layer.bias) if layer.use_bias else 0.0)


def attend(layer, x, mask, b, t, h, causal):
    """Head h at step t of row b: the softmax over the valid steps, up to t if `causal`."""
    width = D // H
    part = slice(h * width, (h + 1) * width)
    seen = [s for s in valid_steps(mask, b) if s <= t or not causal]
    q = dense(layer.query, x[b, t])[part]
    weights = softmax([q @ dense(layer.key, x[b, s])[part] / np.sqrt(width) for s in seen])
    return sum(w * dense(layer.value, x[b, s])[part] for w, s in zip(weights, seen, strict=True))


def branch(layer, attended, x):
    y = x + attended
    y = (y - y.mean()) / np.sqrt(y.var() + LAYER_NORM_EPSILON) * f64(layer.norm.gamma) + f64(layer.norm.beta)
    return y + dense(layer.ffn_out, np.maximum(dense(layer.ffn_in, y), 0))


def refine(layer, x, mask):
    out = np.zeros_like(x)
    for b in range(len(x)):
        for t in valid_steps(mask, b):
            heads = np.concatenate([attend(layer, x, mask, b, t, h, True) for h in range(H)])
            out[b, t] = branch(layer, dense(layer.output_dense, heads), x[b, t])
    return out


def extract(layer, x, e, mask):
    interests, weights = np.zeros((B, H, D)), np.zeros((B, H, T))
    for b in range(len(x)):
        steps = valid_steps(mask, b)
        for h, head in enumerate(layer.heads) if steps else ():
            events = {}
            for t in steps:
                events[t] = branch(head, dense(head.output_dense, attend(layer, x, mask, b, t, h, layer.causal)), x[b, t])
            weights[b, h, steps] = softmax([score(head.score, query(head.query, steps, t, e[b]), events[t]) for t in steps])
            interests[b, h] = sum(weights[b, h, t] * events[t] for t in steps)
    return interests, weights


def test_contract_of_the_refiner():
    # The softmax does not see what a key's bias adds to all scores of a query.
    check_layer(
        BehaviorRefiner(H, use_bias=True, dropout=0.2),
        (B, T, D),
        call_kwargs={"mask": MASK},
        sequence=(0,),
        mask_output="sequence",
        no_gradient=("key/bias",),
    )


@pytest.mark.parametrize("use_bias", [False, True])
def test_equation_of_the_refiner(use_bias):
    layer, x = built_refiner(use_bias=use_bias), normal(B, T, D)
    found = np.asarray(layer(*f32(x), mask=MASK))
    close(found, refine(layer, x, MASK), atol=1e-5)
    assert not np.any(found[~MASK]) and np.all(np.any(found[MASK] != 0, axis=-1))
    close(layer(*f32(x)), refine(layer, x, ALL), atol=1e-5)


def test_refined_events_do_not_know_later_ones():
    layer, (x,) = built_refiner(), f32(normal(B, T, D))
    later = x.copy()
    later[:, 4:] += 1
    before, after = np.asarray(layer(x, mask=MASK)), np.asarray(layer(later, mask=MASK))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert np.all(np.any(before[:, 4:] != after[:, 4:], axis=-1) == MASK[:, 4:])


def test_auxiliary_loss_of_the_refiner():
    layer = built_refiner(auxiliary_weight=0.3)
    x, n = normal(B, T, D), normal(B, T, D, seed=8)
    negative_mask = MASK.copy()
    negative_mask[3, 2] = negative_mask[4, 6] = False
    layer(*f32(x, n), mask=MASK, negative_mask=negative_mask, training=True)
    expected = 0.3 * next_event_loss(lambda h, s: h @ s, refine(layer, x, MASK), x, n, MASK, negative_mask)
    (loss,) = layer.losses
    np.testing.assert_allclose(float(loss), expected, rtol=1e-5)
    for weight, arguments, training in ((0.3, (x, n), False), (0.3, (x,), True), (0.0, (x, n), True)):
        quiet = built_refiner(auxiliary_weight=weight)
        quiet(*f32(*arguments), mask=MASK, training=training)
        assert not quiet.losses


@pytest.mark.parametrize("activation, causal", [("dice", True), ("sigmoid", False)])
@pytest.mark.slow
def test_contract_of_the_extractor(activation, causal):
    layer = MultiInterestExtractor(
        H, causal=causal, attention_units=(5, 13), attention_activation=activation, max_positions=17, dropout=0.2
    )
    check_layer(layer, (B, T, D), (B, E), call_kwargs={"mask": MASK}, sequence=(0,))


@pytest.mark.parametrize("causal, score_bias", [(True, False), (False, True)])
def test_equation_of_the_extractor(causal, score_bias):
    layer = built_extractor(causal=causal, score_bias=score_bias)
    x, e = normal(B, T, D), normal(B, E, seed=3)
    for mask, given in ((MASK, MASK), (ALL, None)):
        interests, weights = extract(layer, x, e, mask)
        found = layer(*f32(x, e), mask=given, return_attention=True)
        close(found[0], interests, atol=1e-5)
        close(found[1], weights, atol=5e-6)
        close(layer(*f32(x, e), mask=given), found[0])
    assert np.any(np.abs(np.asarray(found[0])) > 0.1)
    assert not np.any(np.asarray(layer(*f32(x, e), mask=MASK))[EMPTY])


@pytest.mark.parametrize("side", ["after", "before", "inside"])
def test_padding_moves_nothing(side):
    refiner, extractor = built_refiner(), built_extractor(max_positions=3)
    x, e = f32(normal(B, T, D), normal(B, E, seed=3))
    mask, places = rearranged(MASK, side)
    refined, moved = refiner(x, mask=MASK), refiner(move(x, MASK, mask, places), mask=mask)
    for b in range(B):
        close(np.asarray(moved)[b, places[b]], np.asarray(refined)[b, MASK[b]])
    close(extractor(moved, e, mask=mask), extractor(refined, e, mask=MASK))


def test_one_event_is_every_heads_interest_whatever_the_candidate():
    layer, (x, e) = built_extractor(), f32(normal(B, T, D), normal(B, E, seed=3))
    close(layer(x, e, mask=MASK)[2], layer(x, 5 * e, mask=MASK)[2], atol=1e-6)
    assert np.abs(np.asarray(layer(x, e, mask=MASK))[3] - np.asarray(layer(x, 5 * e, mask=MASK))[3]).max() > 1e-3


def test_dropout_acts_in_training_only():
    x, e = f32(normal(B, T, D), normal(B, E, seed=3))
    for layer, inputs in ((built_refiner(dropout=0.5), (x,)), (built_extractor(dropout=0.5), (x, e))):
        np.testing.assert_array_equal(layer(*inputs, mask=MASK), layer(*inputs, mask=MASK, training=False))
        assert np.abs(np.asarray(layer(*inputs, mask=MASK)) - np.asarray(layer(*inputs, mask=MASK, training=True))).max() > 1e-3


def test_parameters():
    ffn = 2 * D * F + F + D
    assert weight_count(built_refiner()) == 4 * D * D + 2 * D + ffn
    assert weight_count(built_refiner(use_bias=True)) == 4 * (D * D + D) + 2 * D + ffn
    positions = 17 * 4 + (E + 4) * D + D
    scores = (4 * D + 1) * 5 + 6 * 13 + 13
    head = D * D // H + 2 * D + ffn + positions + scores
    assert weight_count(built_extractor()) == 3 * D * D + H * head
    assert weight_count(built_extractor(score_bias=True, attention_activation="dice")) == 3 * D * D + H * (head + 1 + 5 + 13)
    default = MultiInterestExtractor(H)
    default.build((None, T, D), (None, E))
    assert default.heads[0].ffn_in.units == 2 * D


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: BehaviorRefiner(0), "num_heads"),
        (lambda: BehaviorRefiner(4).build((None, T, 6)), "4 heads do not divide the width 6"),
        (lambda: BehaviorRefiner(ffn_dim=0), "ffn_dim"),
        (lambda: BehaviorRefiner(auxiliary="dot"), "auxiliary"),
        (lambda: BehaviorRefiner(auxiliary_weight=-0.1), "must not be negative"),
        (lambda: MultiInterestExtractor(4).build((None, T, 6), (None, E)), "4 heads do not divide the width 6"),
        (lambda: MultiInterestExtractor(attention_activation="unknown"), "unknown"),
        (lambda: MultiInterestExtractor(position_dim=0), "position_dim"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
