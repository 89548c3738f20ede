"""Queries by position and the scores of events against loops over samples and steps."""

import numpy as np
import pytest

from keras_ctr.layers.positional_attention import EventScore, PositionQuery, event_ages
from tests.layer_contract import check_layer, weight_count
from tests.layers.interaction_oracles import randomise
from tests.layers.interest_oracles import MASK, B, T, close, f32, f64, move, normal, query, rearranged, score, valid_steps

D, E, C, P = 3, 2, 11, 4


def built_query(target=True, context=True, **kwargs):
    layer = PositionQuery(D, position_dim=P, **{"max_positions": 13, **kwargs})
    layer.build((None, T), (None, E) if target else None, (None, T, C) if context else None)
    randomise(layer)
    return layer


def built_score(units=(11, 13), **kwargs):
    layer = EventScore(units, **kwargs)
    layer.build((None, T, D), (None, T, D))
    randomise(layer)
    return layer


def test_ages_count_the_events_after():
    np.testing.assert_array_equal(event_ages(MASK)[0], [3, 2, 2, 1, 1, 0, 0])
    np.testing.assert_array_equal(event_ages(MASK)[3], [6, 5, 4, 3, 2, 1, 0])
    np.testing.assert_array_equal(event_ages(MASK)[4, 2:], [4, 3, 2, 1, 0])


@pytest.mark.parametrize("activation, arguments", [("prelu", [(B, E), (B, T, C)]), (None, [(B, E)]), ("relu", [])])
def test_contract_of_the_query(activation, arguments):
    check_layer(PositionQuery(D, activation=activation, position_dim=P, max_positions=13), MASK, *arguments)


@pytest.mark.parametrize("activation", [None, "prelu", "relu"])
@pytest.mark.parametrize("max_positions", [13, 2])
@pytest.mark.parametrize("target, context", [(True, True), (True, False), (False, True), (False, False)])
def test_equation_of_the_query(activation, max_positions, target, context):
    layer = built_query(target, context, activation=activation, max_positions=max_positions)
    e, c = normal(B, E) if target else None, normal(B, T, C) if context else None
    found = np.asarray(layer(MASK, *(None if x is None else f32(x)[0] for x in (e, c))))
    for b in range(B):
        steps = valid_steps(MASK, b)
        for t in steps:
            close(found[b, t], query(layer, steps, t, e[b] if target else None, c[b, t] if context else None))


@pytest.mark.parametrize("side", ["after", "before", "inside"])
def test_padding_does_not_move_positions(side):
    layer, (e, c) = built_query(), f32(normal(B, E), normal(B, T, C))
    mask, places = rearranged(MASK, side)
    found, expected = np.asarray(layer(mask, e, move(c, MASK, mask, places))), np.asarray(layer(MASK, e, c))
    for b in range(B):
        close(found[b, places[b]], expected[b, MASK[b]], atol=1e-6)


@pytest.mark.parametrize("activation", ["dice", "prelu"])
def test_contract_of_the_score(activation):
    check_layer(EventScore((11, 13), activation=activation), (B, T, D), (B, T, D), call_kwargs={"mask": MASK})


@pytest.mark.parametrize("units", [(11,), (11, 13)])
@pytest.mark.parametrize("activation, score_bias", [("sigmoid", True), ("prelu", False), ("relu", True)])
def test_equation_of_the_score(units, activation, score_bias):
    layer = built_score(units, activation=activation, score_bias=score_bias)
    q, s = normal(B, T, D), normal(B, T, D, seed=2)
    expected = [[score(layer, q[b, t], s[b, t]) for t in range(T)] for b in range(B)]
    close(layer(*f32(q, s)), expected, atol=1e-5)


def test_dice_of_the_score_with_its_statistics():
    """At mean 0 and variance 1, Dice is p x + (1 - p) alpha x with p = sigmoid(x)."""
    layer = built_score((11,), activation="dice")
    layer.units[0].norm.moving_mean.assign(np.zeros(11))
    layer.units[0].norm.moving_variance.assign(np.ones(11))
    q, s = normal(B, T, D), normal(B, T, D, seed=2)
    x = np.concatenate([q, s, q - s, q * s], axis=-1) @ f64(layer.kernel) + f64(layer.bias)
    p = 1 / (1 + np.exp(-x))
    x = x * (p + (1 - p) * f64(layer.units[0].alpha))
    close(layer(*f32(q, s)), (x @ f64(layer.score.kernel) + f64(layer.score.bias))[..., 0], atol=1e-5)


def test_parameters():
    assert weight_count(built_query()) == 13 * P + (E + P + C) * D + D
    assert weight_count(built_query(context=False, activation="prelu")) == 13 * P + (E + P) * D + 2 * D
    mlp = (4 * D + 1) * 11 + 12 * 13 + 13
    assert weight_count(built_score()) == mlp + 1
    assert weight_count(built_score(score_bias=False)) == mlp
    assert weight_count(built_score(activation="dice")) == mlp + 1 + 11 + 13
    assert weight_count(built_score(activation="prelu")) == mlp + 1 + 11 + 13


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: PositionQuery(0), "units"),
        (lambda: PositionQuery(3, position_dim=0), "position_dim"),
        (lambda: PositionQuery(3, max_positions=0), "max_positions"),
        (lambda: PositionQuery(3, activation="unknown"), "unknown"),
        (lambda: EventScore(()), "hidden_units"),
        (lambda: EventScore((3, 0)), "hidden_units"),
        (lambda: EventScore().build((None, T, 3), (None, T, 4)), "equal width"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
