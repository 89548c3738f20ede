"""DIEN's GRUs, attention and auxiliary loss against loops over samples and steps."""

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy as numpy

from keras_ctr.layers.interest_evolution import AUGRU, InterestEvolution, InterestExtractor, NextEventLoss
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
    gru,
    move,
    next_event_loss,
    normal,
    rearranged,
    sigmoid,
    softmax,
    valid_steps,
)

D, U = 3, 2
KINDS = AUGRU.KINDS


def built_gru(kind="augru", **kwargs):
    layer = AUGRU(U, kind=kind, **kwargs)
    layer.build((None, T, D))
    return randomised(layer)


def randomised(layer):
    randomise(layer, scale=0.8)
    return layer


def example():
    return normal(B, T, D), np.random.default_rng(1).random((B, T))


def attention_of(kind, a):
    return None if kind == "gru" else a


@pytest.mark.parametrize("kind, return_sequences", [("augru", False), ("agru", True), ("aigru", False), ("gru", True)])
def test_contract_of_the_gru(kind, return_sequences):
    inputs = [(B, T, D)] + [(B, T)] * (kind != "gru")
    output = "sequence" if return_sequences else "pool"
    layer = AUGRU(U, kind=kind, return_sequences=return_sequences)
    check_layer(layer, *inputs, call_kwargs={"mask": MASK}, sequence=range(len(inputs)), mask_output=output)


@pytest.mark.parametrize("kind", KINDS)
def test_equation_of_the_gru(kind):
    x, a = f32(*example())
    for mask, given in ((MASK, MASK), (np.ones((B, T), bool), None)):
        expected = gru(built_gru(kind), x, attention_of(kind, a), mask)
        close(built_gru(kind, return_sequences=True)(x, attention_of(kind, a), mask=given), expected)
        final = built_gru(kind)(x, attention_of(kind, a), mask=given)
        close(final, expected[:, -1])
        assert np.any(expected[0, -1]) and np.any(expected[0, -1] != expected[0, 0])
    assert not np.any(numpy(built_gru(kind)(x, attention_of(kind, a), mask=MASK)[EMPTY]))


def test_plain_gru_is_that_of_keras():
    layer, (x, _) = built_gru("gru", return_sequences=True), f32(*example())
    other = keras.layers.GRU(U, return_sequences=True, reset_after=True)
    other.build((None, T, D))

    def swapped(weight):
        """Keras has the gates keep, reset, candidate; what is kept is what is not updated."""
        reset, candidate, update = np.split(f64(weight), 3, axis=-1)
        return np.concatenate([-update, reset, candidate], axis=-1)

    cell = layer.rnn.cell
    biases = np.stack([swapped(layer.bias), swapped(cell.recurrent_bias)])
    other.set_weights([swapped(layer.kernel), swapped(cell.recurrent_kernel), biases])
    close(layer(x), other(x))
    full = MASK[3:4]
    close(layer(x[3:4], mask=full), other(x[3:4]))


@pytest.mark.parametrize("kind", ["augru", "agru"])
def test_attention_zero_leaves_the_state_as_it_is(kind):
    x, a = f32(*example())
    a[:, 3:] = 0
    layer = built_gru(kind, return_sequences=True)
    states = keras.ops.convert_to_numpy(layer(x, a))
    np.testing.assert_array_equal(states[:, 3:], np.repeat(states[:, 2:3], T - 3, axis=1))
    assert np.all(np.any(states[:, 2] != states[:, 1], axis=-1))
    assert not np.any(numpy(layer(x, np.zeros((B, T), "float32"))))


@pytest.mark.parametrize("kind, weight", [("augru", 1), ("aigru", 1), ("augru_authors", 0)])
def test_gru_variants_that_are_the_plain_gru(kind, weight):
    x, _ = f32(*example())
    plain, layer = built_gru("gru"), built_gru(kind)
    layer.set_weights(plain.get_weights())
    close(layer(x, np.full((B, T), weight, "float32"), mask=MASK), plain(x, mask=MASK), atol=1e-6)


def test_attention_one_overwrites_the_state_in_the_authors_form():
    """Then both forms without the update gate hold nothing but the last candidate, whatever the update gate's weights."""
    x, _ = f32(*example())
    authors, agru = built_gru("augru_authors"), built_gru("agru")
    cell = authors.rnn.cell
    for mine, other in ((agru.kernel, authors.kernel), (agru.bias, authors.bias)):
        mine.assign(f64(other)[..., : 2 * U])
    for name in ("recurrent_kernel", "recurrent_bias"):
        getattr(agru.rnn.cell, name).assign(f64(getattr(cell, name))[..., : 2 * U])
    ones = np.ones((B, T), "float32")
    close(authors(x, ones, mask=MASK), agru(x, ones, mask=MASK), atol=1e-6)


@pytest.mark.parametrize("side", ["after", "before", "inside"])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_of_the_gru_moves_nothing(kind, side):
    layer, (x, a) = built_gru(kind), f32(*example())
    mask, places = rearranged(MASK, side)
    moved = layer(move(x, MASK, mask, places), attention_of(kind, move(a, MASK, mask, places)), mask=mask)
    close(moved, layer(x, attention_of(kind, a), mask=MASK), atol=1e-6)


def test_small_updates_survive_low_precision():
    """An AGRU with a = 0.002 and a constant candidate c reaches c (1 - 0.998^200); with a bfloat16 state it would stop near c / 4."""
    layer = AUGRU(1, kind="agru", kernel_initializer="zeros", recurrent_initializer="zeros", dtype="mixed_bfloat16")
    layer.build((None, 200, 1))
    layer.bias.assign([0.0, 1.0])
    state = layer(np.zeros((1, 200, 1), "float32"), np.full((1, 200), 0.002, "float32"))
    assert keras.backend.standardize_dtype(state.dtype) == "bfloat16"
    np.testing.assert_allclose(float(keras.ops.cast(state[0, 0], "float32")), np.tanh(1) * (1 - 0.998**200), rtol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_of_the_gru(kind):
    gates = 2 if kind == "agru" else 3
    assert weight_count(built_gru(kind)) == gates * (D * U + U * U + 2 * U)


def built_extractor(**kwargs):
    layer = InterestExtractor(**kwargs)
    layer.build((None, T, D))
    return randomised(layer)


def negatives():
    mask = MASK.copy()
    mask[3, 2] = mask[4, 6] = False
    return normal(B, T, D, seed=8), mask


def test_contract_of_the_extractor():
    layer = InterestExtractor(auxiliary="mlp", auxiliary_units=(5,))
    # The loss alone trains its network, and a call outside of training has none.
    check_layer(layer, (B, T, D), call_kwargs={"mask": MASK}, sequence=(0,), mask_output="sequence", no_gradient=("auxiliary",))


def test_states_are_those_of_the_gru():
    layer, (x, _) = built_extractor(), f32(*example())
    close(layer(x, mask=MASK), gru(layer.gru, x, None, MASK))


def comparison(layer):
    if layer.kind == "inner":
        return lambda h, s: h @ s
    (first, last) = [(f64(d.kernel), f64(d.bias)) for d in layer.network.steps if isinstance(d, keras.layers.Dense)]
    return lambda h, s: (sigmoid(np.concatenate([h, s]) @ first[0] + first[1]) @ last[0] + last[1])[0]


@pytest.mark.parametrize("auxiliary", ["inner", "mlp"])
def test_auxiliary_loss(auxiliary):
    layer = built_extractor(auxiliary=auxiliary, auxiliary_units=(5,), auxiliary_weight=0.7)
    (x, _), (n, negative_mask) = example(), negatives()
    x32, n32 = f32(x, n)
    states = gru(layer.gru, x, None, MASK)
    expected = 0.7 * next_event_loss(comparison(layer.next_event), states, x, n, MASK, negative_mask)
    layer(x32, n32, mask=MASK, negative_mask=negative_mask, training=True)
    (loss,) = layer.losses
    np.testing.assert_allclose(float(loss), expected, rtol=2e-6)
    assert expected > 0.1
    full = np.ones((B, T), bool)
    layer(x32, n32, training=True)
    expected = 0.7 * next_event_loss(comparison(layer.next_event), gru(layer.gru, x, None, full), x, n, full, full)
    np.testing.assert_allclose(float(layer.losses[-1]), expected, rtol=2e-6)


def test_auxiliary_loss_of_states_that_tell_nothing():
    """Zero logits: -log(1/2) twice, however many transitions there are."""
    loss = NextEventLoss()
    zeros, (n, _) = np.zeros((B, T, D), "float32"), negatives()
    np.testing.assert_allclose(loss(zeros, f32(n)[0], f32(n)[0], mask=MASK), 2 * np.log(2), rtol=1e-6)
    few, none = zeros[1:3], np.zeros((B, T), bool)
    assert float(loss(few, few, few, mask=MASK[1:3])) == 0  # an empty history and a history of one
    assert float(loss(zeros, zeros, zeros, mask=MASK, negative_mask=none)) == 0


@pytest.mark.parametrize("side", ["after", "before", "inside"])
def test_padding_of_the_auxiliary_loss_moves_nothing(side):
    loss, (x, _), (n, negative_mask) = NextEventLoss(), example(), negatives()
    h = normal(B, T, D, seed=9)
    mask, places = rearranged(MASK, side)
    moved = [move(v, MASK, mask, places) for v in (h, x, n)]
    flags = move(negative_mask.astype("float64"), MASK, mask, places) == 1
    expected = loss(*f32(h, x, n), mask=MASK, negative_mask=negative_mask)
    np.testing.assert_allclose(loss(*moved, mask=mask, negative_mask=flags), expected, rtol=1e-6)


def test_no_auxiliary_loss_without_training_negatives_or_weight():
    (x, _), (n, _) = example(), negatives()
    x, n = f32(x, n)
    for weight, arguments, training in ((1.0, (n,), False), (1.0, (), True), (0.0, (n,), True)):
        layer = built_extractor(auxiliary="mlp", auxiliary_weight=weight)
        layer(x, *arguments, mask=MASK, training=training)
        assert not layer.losses
        assert any("auxiliary" in w.path for w in layer.weights) == (weight > 0)


def test_parameters_of_the_extractor():
    plain = 6 * (D * D + D)
    assert weight_count(built_extractor()) == plain
    assert weight_count(built_extractor(auxiliary="mlp", auxiliary_units=(5,))) == plain + (2 * D + 1) * 5 + 5 + 1


def built_evolution(target=5, **kwargs):
    layer = InterestEvolution(**kwargs)
    layer.build((None, T, D), (None, target))
    return randomised(layer)


@pytest.mark.parametrize("kind, attention, width", [("augru", "bilinear", 5), ("agru", "din", D)])
def test_contract_of_the_evolution(kind, attention, width):
    layer = InterestEvolution(kind=kind, attention=attention, attention_units=(11,))
    # A softmax does not see a constant added to all scores.
    check_layer(layer, (B, T, D), (B, width), call_kwargs={"mask": MASK}, sequence=(0,), no_gradient=("score/bias",))


@pytest.mark.parametrize("attention", ["bilinear", "din"])
@pytest.mark.parametrize("kind", ["augru", "aigru"])
def test_equation_of_the_evolution(kind, attention):
    width = 5 if attention == "bilinear" else D
    layer = built_evolution(width, kind=kind, attention=attention, attention_units=(11,), attention_activation="sigmoid")
    h, e = normal(B, T, D), normal(B, width, seed=3)
    weights = np.zeros((B, T))
    for b in range(B):
        scores = []
        for t in valid_steps(MASK, b):
            if attention == "bilinear":
                scores.append(h[b, t] @ f64(layer.kernel) @ e[b])
            else:
                x = np.concatenate([e[b], h[b, t], e[b] - h[b, t], e[b] * h[b, t]])
                x = sigmoid(x @ f64(layer.network.kernel) + f64(layer.network.bias))
                scores.append((x @ f64(layer.network.score.kernel))[0])
        if scores:
            weights[b, MASK[b]] = softmax(scores)
    final, found = layer(*f32(h, e), mask=MASK, return_attention=True)
    close(found, weights)
    close(final, gru(layer.gru, h, weights, MASK)[:, -1])
    close(layer(*f32(h, e), mask=MASK), final)
    assert not np.any(numpy(final[EMPTY])) and not np.any(numpy(found[EMPTY]))
    full = np.ones((B, T), bool)
    np.testing.assert_allclose(layer(*f32(h, e)), layer(*f32(h, e), mask=full), atol=1e-6)


@pytest.mark.parametrize("side", ["after", "before", "inside"])
def test_padding_of_the_evolution_moves_nothing(side):
    layer, (h, e) = built_evolution(), f32(normal(B, T, D), normal(B, 5, seed=3))
    mask, places = rearranged(MASK, side)
    close(layer(move(h, MASK, mask, places), e, mask=mask), layer(h, e, mask=MASK), atol=1e-6)


def test_evolution_without_attention_ignores_the_candidate():
    layer, (h, e) = built_evolution(kind="gru"), f32(normal(B, T, D), normal(B, 5, seed=3))
    np.testing.assert_array_equal(layer(h, e, mask=MASK), layer(h, -e, mask=MASK))
    close(layer(h, e, mask=MASK), gru(layer.gru, h, None, MASK)[:, -1])


def test_parameters_of_the_evolution():
    second = 6 * (D * D + D)
    assert weight_count(built_evolution()) == D * 5 + second
    assert weight_count(built_evolution(kind="gru")) == second
    din = built_evolution(D, attention="din", attention_units=(11,))
    assert weight_count(din) == second + (4 * D + 1) * 11 + 11 + 12  # and Dice


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: AUGRU(0), "units"),
        (lambda: AUGRU(2, kind="augr"), "did you mean 'augru'"),
        (lambda: built_gru("aigru")(np.zeros((B, T, D), "float32")), "needs attention weights"),
        (lambda: InterestExtractor(auxiliary="inner_product"), "auxiliary must be one of"),
        (lambda: InterestExtractor(auxiliary_weight=-1), "must not be negative"),
        (lambda: InterestEvolution(attention="dot"), "attention must be one of"),
        (lambda: built_evolution(5, attention="din"), "equal width"),
        (lambda: NextEventLoss("mlp", hidden_units=(3, 0)), "hidden_units"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
