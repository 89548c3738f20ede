"""MultiHeadAttention and RotaryEmbedding against loops of their equations, and against Keras' own attention."""

import keras
import numpy as np
import pytest

from keras_ctr.layers.attention import MultiHeadAttention, RotaryEmbedding
from tests.layer_contract import check_layer, weight_count
from tests.layers.interformer_oracles import attention, masks, randomize, rotate, weights

B, T, S, H, E = 5, 7, 11, 3, 2
D = H * E
RNG = np.random.default_rng(0)
X = RNG.standard_normal((B, T, D)).astype("float32")
MASK = masks(B, T)


def built(rotary=False, **arguments):
    layer = MultiHeadAttention(H, rotary=rotary, name="attention", **arguments)
    layer.build((None, T, D))
    return randomize(layer)


@pytest.mark.parametrize("rotary", [False, True])
def test_contract(rotary):
    layer = MultiHeadAttention(H, rotary=rotary)
    # Without positions a key bias shifts all scores of a query alike: the softmax does not see it.
    no_gradient = () if rotary else (r"key/bias",)
    check_layer(
        layer, X, call_kwargs={"mask": MASK}, sequence=(0,), mask_output="sequence", no_gradient=no_gradient, low_precision_tolerance=0.1
    )


def test_contract_of_cross_attention():
    check_layer(
        MultiHeadAttention(H, key_dim=5, output_dim=13),
        (B, 2, D),
        (B, S, 4),
        call_kwargs={"mask": masks(B, S)},
        sequence=(1,),
        no_gradient=(r"key/bias",),
        low_precision_tolerance=0.1,
    )


@pytest.mark.parametrize("rotary", [False, True])
def test_equation(rotary):
    layer = built(rotary)
    positions = np.cumsum(MASK, axis=1) - 1
    out, maps = layer(X, mask=MASK, positions=positions if rotary else None, return_attention=True)
    for row in range(B):
        want, want_maps = attention(weights(layer), X[row].astype("float64"), X[row], MASK[row], H, positions[row] if rotary else None)
        np.testing.assert_allclose(out[row], want, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(maps[row], want_maps, atol=1e-5)


def test_equals_keras_attention_with_copied_weights():
    layer = built()
    reference = keras.layers.MultiHeadAttention(H, E)
    reference.build((None, T, D), (None, T, D))
    values = weights(layer)
    copied = []
    for name in ("query", "key", "value"):
        copied += [values[f"{name}/kernel"].reshape(D, H, E), values[f"{name}/bias"].reshape(H, E)]
    reference.set_weights([*copied, values["output/kernel"].reshape(H, E, D), values["output/bias"]])
    attend = np.broadcast_to(MASK[1:, None, :], (B - 1, T, T))
    # Keras' masked weights come from the same softmax, so only the order of sums differs.
    np.testing.assert_allclose(layer(X[1:], mask=MASK[1:]), reference(X[1:], X[1:], attention_mask=attend), rtol=1e-4, atol=1e-4)


def test_row_without_valid_key_is_zero():
    out, maps = (np.asarray(part) for part in built()(X, mask=MASK, return_attention=True))
    assert np.all(out[0] == 0) and np.all(maps[0] == 0)
    np.testing.assert_allclose(maps[1:].sum(-1), 1, rtol=1e-5)
    assert np.all(maps[~np.broadcast_to(MASK[:, None, None, :], maps.shape)] == 0)


def test_all_valid_mask_is_no_mask():
    layer = built(True)
    np.testing.assert_allclose(layer(X), layer(X, mask=np.ones((B, T), bool)), atol=1e-6)


def test_parameter_count():
    assert weight_count(built()) == 4 * (D * D + D)


def test_huge_scores_stay_finite():
    layer = built()
    assert np.all(np.isfinite(np.asarray(layer(X * 1e4, mask=MASK))))


def test_rotation_is_that_of_the_equation():
    width = 6
    x = RNG.standard_normal((B, T, width))
    positions = RNG.integers(0, 97, (B, T))
    out = RotaryEmbedding()(x.astype("float32"), positions=positions)
    want = [[rotate(x[b, t], positions[b, t]) for t in range(T)] for b in range(B)]
    np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-4)


def test_heads_are_rotated_alike():
    x = RNG.standard_normal((B, T, H, 4)).astype("float32")
    layer = RotaryEmbedding()
    out = layer(x)
    for h in range(H):
        np.testing.assert_allclose(out[:, :, h], layer(x[:, :, h]), atol=1e-6)


def test_scores_depend_on_position_differences_only():
    q, k = RNG.standard_normal((2, 1, 1, 8)).astype("float32")
    layer = RotaryEmbedding()

    def score(p, p_key):
        return float(np.vdot(layer(q, positions=np.array([[p]])), layer(k, positions=np.array([[p_key]]))))

    for shift in (1, 13, 101):
        assert score(17, 5) == pytest.approx(score(17 + shift, 5 + shift), abs=1e-4)
    assert abs(score(17, 5) - score(18, 5)) > 1e-3
    assert abs(score(17, 5) - score(5, 17)) > 1e-3  # the sign of the difference counts


def test_attention_with_rotary_ignores_a_common_shift():
    layer = built(True)
    positions = np.broadcast_to(np.arange(T), (B, T))
    out, shifted, spread = (np.asarray(layer(X, positions=p)) for p in (positions, positions + 29, 2 * positions))
    np.testing.assert_allclose(out, shifted, atol=1e-4)
    assert np.abs(out - spread).max() > 1e-3


def test_rotary_contract():
    check_layer(RotaryEmbedding(), (B, T, 6), call_kwargs={"positions": RNG.integers(0, 9, (B, T))}, has_weights=False)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MultiHeadAttention(0), "num_heads"),
        (lambda: MultiHeadAttention(4).build((None, T, D)), "4 heads do not divide the width 6"),
        (lambda: MultiHeadAttention(2, rotary=True).build((None, T, D)), "must be even, got 3"),
        (lambda: MultiHeadAttention(3, rotary=True).build((None, T, D), (None, S, D)), "self-attention"),
        (lambda: RotaryEmbedding(max_wavelength=0.5), "max_wavelength"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
