"""BST's transformer against loops over rows, heads and steps."""

import numpy as np
import pytest

from keras_ctr.layers.behavior_transformer import BehaviorTransformer, TransformerBlock, sinusoids, steps_back
from tests.layer_contract import check_layer, weight_count
from tests.layers.transformer_oracles import CLOSE, B, T, block, built, check_padding, mask, mlp_count, normal, part, values

D, P, K = 11, 3, 3  # m = 14
HEADS, U, ROWS = 2, 13, 5
POOLINGS = BehaviorTransformer.POOLINGS


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def layer_of(**kwargs):
    options = {"num_heads": HEADS, "num_positions": ROWS, "position_dim": P, "num_recent": K, "ffn_units": U, **kwargs}
    return BehaviorTransformer(2, **options)


def inputs():
    return normal(B, D, seed=1), normal(B, T, D, seed=2)


def loop(layer, target, events, valid):
    w, out = values(layer), []
    for b in range(B):
        rows, shown = [], [*valid[b], True]
        for t in range(T + 1):
            age = int(sum(valid[b, t:])) if t < T and valid[b, t] else 0
            token = events[b, t] if t < T else target[b]
            position = w["positions"][min(age, ROWS - 1)] if layer.positions else np.zeros(0)
            rows.append(np.concatenate([token.astype("float64"), position]))
        x = np.array(rows)
        for index in range(2):
            x = block(part(w, f"block_{index}"), x, shown, HEADS, activation=leaky, residual=layer.block_options["residual"])
        steps = [t for t in range(T) if valid[b, t]]
        if layer.pooling == "target":
            out.append(x[T])
        elif layer.pooling == "flatten_newest":
            newest = [x[t] for t in steps[-K:]]
            out.append(np.concatenate([np.zeros(x.shape[1])] * (K - len(newest)) + newest + [x[T]]))
        else:
            total = sum([x[t] for t in steps], x[T])
            out.append(total / (len(steps) + 1) if layer.pooling == "mean" else total)
    return np.array(out)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_equation(pooling):
    layer, (target, events) = built(layer_of(pooling=pooling), (None, D), (None, T, D)), inputs()
    np.testing.assert_allclose(layer(target, events, mask=mask()), loop(layer, target, events, mask()), **CLOSE)
    full = np.ones((B, T), bool)
    np.testing.assert_allclose(layer(target, events), loop(layer, target, events, full), **CLOSE)


@pytest.mark.parametrize("options", [{"positions": None, "num_heads": 1}, {"layer_norm": False}, {"layer_norm": False, "residual": False}])
def test_options(options, monkeypatch):
    monkeypatch.setattr("tests.layers.test_behavior_transformer.HEADS", options.get("num_heads", HEADS))
    layer, (target, events) = built(layer_of(**options), (None, D), (None, T, D), scale=0.2), inputs()
    np.testing.assert_allclose(layer(target, events, mask=mask()), loop(layer, target, events, mask()), **CLOSE)


@pytest.mark.parametrize("pooling", [pytest.param(kind, marks=[pytest.mark.slow] * (kind != "flatten_newest")) for kind in POOLINGS])
def test_contract(pooling):
    # A softmax does not see what a key's bias adds to all scores of a query.
    check_layer(
        layer_of(pooling=pooling),
        (B, D),
        (B, T, D),
        call_kwargs={"mask": mask()},
        sequence=(1,),
        no_gradient=("key/bias", "attention/bias"),
    )


def test_contract_of_a_block():
    check_layer(
        TransformerBlock(HEADS, ffn_units=U),
        (B, T, 6),
        call_kwargs={"mask": mask()},
        sequence=(0,),
        mask_output="sequence",
        no_gradient=("key/bias",),
    )


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_on_either_side_changes_nothing(pooling):
    layer, (target, events) = built(layer_of(pooling=pooling), (None, D), (None, T, D)), inputs()
    check_padding(layer, target, events, steps=(1,), mask=mask())


def test_without_events_the_candidate_sees_itself_alone():
    layer, (target, events) = built(layer_of(pooling="target"), (None, D), (None, T, D)), inputs()
    none = np.zeros((B, T), bool)
    np.testing.assert_allclose(layer(target, events, mask=none), layer(target, events[:, :1], mask=none[:, :1]), **CLOSE)


def test_steps_back():
    expected = [[4, 3, 0, 2, 0, 1, 0], [0] * 7, [7, 6, 5, 4, 3, 2, 1], [0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 3, 2, 1]]
    np.testing.assert_array_equal(steps_back(mask()), expected)


def test_order_matters_through_positions_only():
    target, events = inputs()
    for positions, same in ((None, True), ("learned", False)):
        options = {"positions": positions, "num_positions": T + 1, "num_heads": 1}
        layer = built(layer_of(**options), (None, D), (None, T, D))
        moved = np.abs(np.asarray(layer(target, events[:, ::-1])) - np.asarray(layer(target, events))).max()
        assert (moved < 1e-5) == same


def test_sinusoids():
    table = sinusoids(3, 4)
    angle = 2 / 10000**0.5
    np.testing.assert_allclose(table[0], [0, 1, 0, 1])
    np.testing.assert_allclose(table[2], [np.sin(2), np.cos(2), np.sin(angle), np.cos(angle)], rtol=1e-6)
    layer = layer_of(positions="sinusoid")
    layer.build((None, D), (None, T, D))
    np.testing.assert_array_equal(layer.position_table, sinusoids(ROWS, P))
    assert layer.position_table.trainable


@pytest.mark.parametrize("norm", [True, False])
def test_parameter_count(norm):
    m = D + P
    per_block = 4 * (m * m + m) + mlp_count(m, U, m) + (4 * m if norm else 0)
    assert weight_count(built(layer_of(layer_norm=norm), (None, D), (None, T, D))) == ROWS * P + 2 * per_block
    same = built(layer_of(ffn_units=None, layer_norm=False), (None, D), (None, T, D))
    assert weight_count(same) == ROWS * P + 2 * 6 * (m * m + m)


def test_dropout_in_training_only():
    layer, (target, events) = built(layer_of(dropout=0.5), (None, D), (None, T, D)), inputs()
    plain = np.asarray(layer(target, events))
    np.testing.assert_array_equal(layer(target, events), plain)
    assert np.abs(np.asarray(layer(target, events, training=True)) - plain).max() > 1e-2


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: BehaviorTransformer(0), "num_layers"),
        (lambda: BehaviorTransformer(pooling="targets"), "did you mean 'target'"),
        (lambda: BehaviorTransformer(positions="learnt"), "positions"),
        (lambda: BehaviorTransformer(num_positions=0), "num_positions"),
        (lambda: BehaviorTransformer(num_recent=0), "num_recent"),
        (lambda: BehaviorTransformer(dropout=1.0), "dropout"),
        (lambda: BehaviorTransformer(num_heads=0), "num_heads"),
        (lambda: layer_of(num_heads=3).build((None, D), (None, T, D)), "3 heads do not divide the width 14"),
        (lambda: layer_of().build((None, D + 1), (None, T, D)), "the target is 12 wide"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
