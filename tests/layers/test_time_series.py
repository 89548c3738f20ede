"""The tower over time and the layers that sum its outputs up, against loops over rows and steps."""

import numpy as np
import pytest

from keras_ctr.layers.dot_interaction import DotInteraction
from keras_ctr.layers.masked_attention import MaskedTransformerBlock
from keras_ctr.layers.time_series import EventTower, SequenceContext, TimeSeriesLayer
from tests.layer_contract import check_layer, weight_count
from tests.layers.transformer_oracles import (
    CLOSE,
    B,
    T,
    attention,
    block,
    built,
    check_padding,
    dense,
    mask,
    mlp,
    mlp_count,
    normal,
    part,
    values,
)

N, W, UNITS = 6, 3, (5, 11)
SHAPES = ((None, T, N), (None, N))
F, D, NUMBERS = 3, 2, 1


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def inputs():
    return normal(B, T, N, seed=1), normal(B, N, seed=2)


def tsl(**kwargs):
    return TimeSeriesLayer(**{"window": W, "hidden_units": UNITS, **kwargs})


def loop(layer, history, last, valid):
    w, out = values(layer), []
    for b in range(B):
        steps = [history[b, t].astype("float64") for t in range(T) if valid[b, t]]
        z = last[b].astype("float64")
        if layer.normalize:
            steps, z = [h / np.linalg.norm(h) for h in steps], z / np.linalg.norm(z)
        x = {"def": lambda z=z: w["kernel"].T @ w["kernel"] @ z, "ind": lambda z=z: w["kernel"] @ z, "dot": lambda z=z: z}[layer.inner]()
        if layer.mechanism == "mul":
            out.append(sum([h * (h @ x) for h in steps], np.zeros(N)))
            continue
        steps = steps[-W:]
        scores = [0.0] * (W - len(steps)) + [h @ x for h in steps]
        y = sigmoid(mlp(part(w, "mlp"), np.array(scores)))[W - len(steps) :]
        out.append(sum([h * y[n] for n, h in enumerate(steps)], np.zeros(N)))
    return np.array(out)


@pytest.mark.parametrize("mechanism", TimeSeriesLayer.MECHANISMS)
@pytest.mark.parametrize("inner", TimeSeriesLayer.INNER)
def test_tsl_equation(inner, mechanism):
    layer, (history, last) = built(tsl(inner=inner, mechanism=mechanism), *SHAPES), inputs()
    np.testing.assert_allclose(layer(history, last, mask=mask()), loop(layer, history, last, mask()), **CLOSE)
    np.testing.assert_allclose(layer(history, last), loop(layer, history, last, np.ones((B, T), bool)), **CLOSE)


def test_tsl_without_norms():
    layer, (history, last) = built(tsl(normalize=False, mechanism="mul"), *SHAPES), inputs()
    np.testing.assert_allclose(layer(history, last, mask=mask()), loop(layer, history, last, mask()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("inner, mechanism", [("def", "mlp"), ("ind", "mul"), ("dot", "mlp")])
def test_tsl_contract(inner, mechanism):
    check_layer(tsl(inner=inner, mechanism=mechanism), (B, T, N), (B, N), call_kwargs={"mask": mask()}, sequence=(0,))


def test_tsl_of_zeros_is_finite():
    """A tower that ends in a ReLU may give zero vectors, which have no direction."""
    layer = built(tsl(), *SHAPES)
    np.testing.assert_array_equal(layer(np.zeros((B, T, N), "float32"), np.zeros((B, N), "float32")), np.zeros((B, N)))


def test_tsl_by_hand():
    layer = TimeSeriesLayer(inner="dot", mechanism="mul")
    history = np.array([[[3.0, 4.0], [1.0, 0.0], [9.0, 9.0]]], "float32")
    out = layer(history, np.array([[0.0, 2.0]], "float32"), mask=np.array([[True, True, False]]))
    np.testing.assert_allclose(out, [[0.8 * 0.6, 0.8 * 0.8]], rtol=1e-6)  # <(0.6, 0.8), (0, 1)> = 0.8 and <(1, 0), (0, 1)> = 0


def context_loop(layer, history, last, valid):
    w, out = values(layer), []
    for b in range(B):
        h, z = history[b].astype("float64"), last[b].astype("float64")
        if layer.kind == "mha":
            out.append(attention(part(w, "attention"), z[None], h, valid[b], layer.num_heads)[0])
        elif layer.kind == "transformer":
            x = np.concatenate([z[None], h])
            for index in range(layer.num_layers):
                x = block(part(w, f"block_{index}"), x, [True, *valid[b]], layer.num_heads)
            out.append(x[0])
        else:
            steps = [h[t] for t in range(T) if valid[b, t]]
            for index in range(layer.num_layers):
                steps = lstm(part(w, f"lstm_{index}/lstm_cell"), steps)
            out.append(steps[-1] if steps else np.zeros(N))
    return np.array(out)


def lstm(w, steps):
    """Keras' order of gates: input, forget, candidate, output."""
    h, c, out = np.zeros(N), np.zeros(N), []
    for x in steps:
        i, f, g, o = np.split(x @ w["kernel"] + h @ w["recurrent_kernel"] + w["bias"], 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        out.append(h)
    return out


CONTEXTS = {
    "mha": {"num_heads": 5},
    "lstm": {"num_layers": 2},
    "transformer": {"num_heads": 2, "num_layers": 2, "ffn_units": 13},
}


def context(kind):
    return SequenceContext(kind, **CONTEXTS[kind])


@pytest.mark.parametrize("kind", CONTEXTS)
def test_context_equation(kind):
    layer, (history, last) = built(context(kind), *SHAPES), inputs()
    np.testing.assert_allclose(layer(history, last, mask=mask()), context_loop(layer, history, last, mask()), **CLOSE)
    np.testing.assert_allclose(layer(history, last), context_loop(layer, history, last, np.ones((B, T), bool)), **CLOSE)


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind != "mha")) for kind in CONTEXTS])
def test_context_contract(kind):
    # A softmax does not see what a key's bias adds to all scores; an LSTM does not look at the last event.
    check_layer(context(kind), (B, T, N), (B, N), call_kwargs={"mask": mask()}, sequence=(0,), no_gradient=("key/bias",))


@pytest.mark.parametrize("kind", ["tsl", *CONTEXTS])
def test_padding_on_either_side_changes_nothing(kind):
    layer = built(tsl() if kind == "tsl" else context(kind), *SHAPES)
    check_padding(layer, *inputs(), steps=(0,), mask=mask())


@pytest.mark.parametrize("kind", ["tsl", "mha", "lstm"])
def test_an_empty_history_gives_zeros(kind):
    layer = built(tsl() if kind == "tsl" else context(kind), *SHAPES)
    if kind == "mha":
        layer.attention.output_dense.bias.assign(np.ones(5 * N))
    out = np.asarray(layer(*inputs(), mask=mask()))
    assert not out[1].any() and np.abs(out[[0, 2, 3, 4]]).max(axis=1).min() > 1e-3


def test_default_sizes_are_the_papers():
    assert (SequenceContext("mha").num_heads, SequenceContext("lstm").num_layers) == (8, 5)
    transformer = SequenceContext("transformer")
    assert (transformer.num_heads, transformer.num_layers, transformer.ffn_units) == (2, 1, 512)


def test_parameter_counts():
    def count(layer):
        return weight_count(built(layer, *SHAPES))

    scores = mlp_count(W, *UNITS, W)
    assert [count(tsl(inner=inner)) for inner in TimeSeriesLayer.INNER] == [N * N + scores, N * N + scores, scores]
    assert count(tsl(mechanism="mul")) == N * N
    wide = 5 * N
    assert count(context("mha")) == 3 * (N * wide + wide) + wide * wide + wide
    assert count(context("lstm")) == 2 * 4 * (2 * N * N + N)
    assert count(context("transformer")) == 2 * (4 * (N * N + N) + mlp_count(N, 13, N) + 4 * N)


def tower(**kwargs):
    return EventTower([DotInteraction()], **{"hidden_units": UNITS, "replaced": [2, None], **kwargs})


def tower_inputs():
    return normal(B, F, D, seed=1), normal(B, NUMBERS, D, seed=2), normal(B, T, 2 * D, seed=3), normal(B, 2 * D, seed=4)


def tower_loop(layer, fields, numeric, events, target):
    """Fields 0 and 1, the attribute in the place of field 2, the attribute that no field stands for, the numbers."""
    w, out = values(layer), np.zeros((B, T + 1, UNITS[-1]))
    for b in range(B):
        for t in range(T + 1):
            attributes = (events[b, t] if t < T else target[b]).reshape(2, D)
            tokens = np.concatenate([fields[b, :2], attributes, numeric[b]]).astype("float64")
            pairs = [tokens[i] @ tokens[j] for i in range(len(tokens)) for j in range(i)]
            x = np.concatenate([numeric[b].reshape(-1), pairs])
            for index in range(len(UNITS)):
                x = np.maximum(dense(part(w, f"mlp/dense_{index}"), x), 0)
            out[b, t] = x
    return out


def test_tower_equation():
    shapes = [(None, *x.shape[1:]) for x in tower_inputs()]
    layer = built(tower(), *shapes)
    np.testing.assert_allclose(layer(*tower_inputs()), tower_loop(layer, *tower_inputs()), **CLOSE)
    assert weight_count(layer) == mlp_count(NUMBERS * D + 10, *UNITS)


def test_the_tower_of_an_event_is_that_of_a_row_with_its_attributes():
    """An event whose attributes are the target's gives the row's output, and with every attribute a field so does the plain tower."""
    fields, numeric, _, _ = tower_inputs()
    target = fields[:, [2, 0]].reshape(B, 2 * D)
    events = np.repeat(target[:, None], T, axis=1)
    layer = built(tower(replaced=[2, 0]), *((None, *x.shape[1:]) for x in (fields, numeric, events, target)))
    z = np.asarray(layer(fields, numeric, events, target))
    np.testing.assert_allclose(z[:, :-1], np.repeat(z[:, -1:], T, axis=1), rtol=1e-6)
    plain = EventTower([DotInteraction()], hidden_units=UNITS)
    order = fields[:, [1, 2, 0]]  # the fields that stay, then the attributes
    plain.build(order.shape, numeric.shape)
    plain.set_weights(layer.get_weights())
    np.testing.assert_allclose(plain(order, numeric), z[:, -1:], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_tower_contract():
    fields, numeric, events, target = ((B, *x.shape[1:]) for x in tower_inputs())
    check_layer(tower(), fields, numeric, events, target)
    check_layer(EventTower([DotInteraction()], hidden_units=UNITS), fields)
    block = MaskedTransformerBlock(2, ffn_units=5, mask_thresholds=None)
    check_layer(EventTower([block, block], hidden_units=UNITS, replaced=[None, 1]), fields, None, events, target, no_gradient=("key/bias",))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: TimeSeriesLayer(inner="define"), "did you mean 'def'"),
        (lambda: TimeSeriesLayer(mechanism="add"), "mechanism"),
        (lambda: TimeSeriesLayer(window=0), "window"),
        (lambda: TimeSeriesLayer(hidden_units=(0,)), "hidden_units"),
        (lambda: tsl().build((None, T, N), (None, N + 1)), "the history is 6 wide, the last event 7"),
        (lambda: SequenceContext("gru"), "kind"),
        (lambda: SequenceContext(num_heads=0), "num_heads"),
        (lambda: SequenceContext("lstm", num_layers=0), "num_layers"),
        (lambda: SequenceContext("transformer", num_heads=5).build(*SHAPES), "5 heads do not divide the width 6"),
        (lambda: EventTower([]), "interaction"),
        (lambda: tower(hidden_units=()), "hidden_units"),
        (lambda: tower(replaced=[2]).build((None, F, D), None, (None, T, 2 * D), (None, 2 * D)), r"replaced=\[2\] does not fit"),
        (lambda: tower(replaced=[3, 0]).build((None, F, D), None, (None, T, 2 * D), (None, 2 * D)), "3 fields"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
