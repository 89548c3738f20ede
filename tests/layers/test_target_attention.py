"""DIN's target attention against a loop over samples and steps."""

import keras
import numpy as np
import pytest

from keras_ctr.layers.target_attention import TargetAttention
from tests.layer_contract import check_layer, weight_count
from tests.layers.interaction_oracles import randomise

B, T, D = 3, 5, 7
UNITS = (11, 13)


def mask():
    return np.array([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)


def example():
    rng = np.random.default_rng(6)
    return rng.standard_normal((B, D)), rng.standard_normal((B, T, D))


def built(**kwargs):
    layer = TargetAttention(UNITS, **kwargs)
    layer.build((None, D), (None, T, D))
    randomise(layer, scale=0.3)
    if layer.activation == "dice":
        for activation in layer.activations:
            activation.norm.moving_variance.assign(np.linspace(0.5, 2, activation.norm.moving_variance.shape[0]))
    return layer


def activate(layer, index, x):
    if layer.activation != "dice":
        return {"sigmoid": lambda v: 1 / (1 + np.exp(-v)), "linear": lambda v: v}[layer.activation.__name__](x)
    part = layer.activations[index]
    mean, variance = part.norm.moving_mean.numpy(), part.norm.moving_variance.numpy()
    p = 1 / (1 + np.exp(-(x - mean) / np.sqrt(variance + 1e-9)))
    return p * x + (1 - p) * part.alpha.numpy() * x


def loop(layer, target, sequence, valid):
    """Scores by the MLP on the plain concatenation, then the weighted sum over the valid steps only."""
    pooled, weights = np.zeros((B, D)), np.zeros((B, T))
    for b in range(B):
        e, scores = target[b], {}
        for t in np.flatnonzero(valid[b]):
            s = sequence[b, t]
            x = np.concatenate([e, s, e - s, e * s]) @ layer.kernel.numpy().astype("float64") + layer.bias.numpy()
            x = activate(layer, 0, x)
            x = activate(layer, 1, x @ layer.dense[0].kernel.numpy() + layer.dense[0].bias.numpy())
            scores[t] = float((x @ layer.score.kernel.numpy() + layer.score.bias.numpy())[0])
        if layer.use_softmax and scores:
            total = sum(np.exp(v) for v in scores.values())
            scores = {t: np.exp(v) / total for t, v in scores.items()}
        for t, a in scores.items():
            weights[b, t] = a
            pooled[b] += a * sequence[b, t]
    return pooled, weights


@pytest.mark.parametrize("activation", ["dice", "sigmoid"])
@pytest.mark.parametrize("use_softmax", [False, True])
def test_contract(activation, use_softmax):
    # A softmax does not see a constant added to all scores, so the last bias has no gradient there.
    check_layer(
        TargetAttention(UNITS, activation=activation, use_softmax=use_softmax),
        (B, D),
        (B, T, D),
        call_kwargs={"mask": mask()},
        sequence=(1,),
        no_gradient=("score/bias",) if use_softmax else (),
    )


def test_contract_with_weights_and_without_mask():
    check_layer(TargetAttention(UNITS, return_attention=True), (B, D), (B, T, D))


@pytest.mark.parametrize("use_softmax", [False, True])
@pytest.mark.parametrize("activation", ["dice", "sigmoid"])
def test_equation(activation, use_softmax):
    layer = built(activation=activation, use_softmax=use_softmax, return_attention=True)
    target, sequence = example()
    for valid, given in ((mask(), mask()), (np.ones((B, T), bool), None)):
        pooled, weights = layer(target.astype("float32"), sequence.astype("float32"), mask=given)
        expected_pooled, expected_weights = loop(layer, target, sequence, valid)
        np.testing.assert_allclose(weights, expected_weights, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(pooled, expected_pooled, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("use_softmax", [False, True])
def test_empty_history_gives_zeros(use_softmax):
    layer = built(use_softmax=use_softmax, return_attention=True)
    target, sequence = (x.astype("float32") for x in example())
    pooled, weights = (np.asarray(part) for part in layer(target, sequence, mask=mask()))
    assert not np.any(pooled[1]) and not np.any(weights[1])
    assert np.all(np.any(pooled[[0, 2]], axis=1))


def test_order_of_the_events_does_not_matter():
    layer, (target, sequence) = built(), (x.astype("float32") for x in example())
    order = np.random.default_rng(0).permutation(T)
    np.testing.assert_allclose(
        layer(target, sequence[:, order], mask=mask()[:, order]), layer(target, sequence, mask=mask()), rtol=1e-4, atol=1e-5
    )


def test_parameter_count():
    first, second = UNITS
    mlp = (4 * D + 1) * first + (first + 1) * second + second + 1
    assert weight_count(built()) == mlp + first + second
    assert weight_count(built(activation="sigmoid")) == mlp


def test_unknown_number_of_steps():
    target, sequence, valid = keras.Input((D,)), keras.Input((None, D)), keras.Input((None,), dtype="bool")
    layer = built()
    model = keras.Model([target, sequence, valid], layer(target, sequence, mask=valid))
    e, s = (x.astype("float32") for x in example())
    np.testing.assert_allclose(model([e, s, mask()]), layer(e, s, mask=mask()), rtol=1e-6)
    np.testing.assert_allclose(model([e, s[:, :2], mask()[:, :2]]), layer(e, s[:, :2], mask=mask()[:, :2]), rtol=1e-6)


def test_dice_statistics_leave_padding_out():
    layer, (target, sequence) = built(), (x.astype("float32") for x in example())
    moved = built()
    layer(target, sequence, mask=mask(), training=True)
    moved(target, np.where(mask()[..., None], sequence, 50.0).astype("float32"), mask=mask(), training=True)
    np.testing.assert_allclose(layer.activations[0].norm.moving_mean, moved.activations[0].norm.moving_mean, rtol=1e-5)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: TargetAttention(()), "hidden_units"),
        (lambda: TargetAttention((3, 0)), "hidden_units"),
        (lambda: TargetAttention().build((None, 3), (None, 5, 4)), "equal width"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
