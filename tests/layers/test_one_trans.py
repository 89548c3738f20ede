"""OneTrans' layers against a plain causal transformer on each row's valid events and tokens, one query and one key at a time."""

import math

import keras
import numpy as np
import pytest

from keras_ctr.layers.one_trans import EventTokens, OneTransBlock, kept, pyramid_shares
from tests.layer_contract import check_layer, weight_count
from tests.layers.test_rank_mixer import gelu
from tests.layers.transformer_oracles import (
    CLOSE,
    B,
    T,
    built,
    check_padding,
    dense,
    mask,
    mlp_count,
    normal,
    padded,
    part,
    softmax,
    values,
)

N, D, H, K = 3, 10, 2, 2
KEEPS = (1.0, 0.5, 0.0)
U = 2 * K * D * D + (K + 1) * D


def block_of(**options):
    return OneTransBlock(H, expansion=K, epsilon=1e-3, **options)


def made(keep=1.0, events=True, **options):
    return built(block_of(keep=keep, **options), (None, N, D), *([(None, T, D)] if events else []))


def inputs():
    return normal(B, N, D, seed=1), normal(B, T, D, seed=2)


def rms_norm(scale, x, epsilon=1e-3):
    return x / math.sqrt(np.mean(x * x) + epsilon) * scale


def of_place(w, place, events):
    """W_Q, W_K, W_V and the network of a place in `[S ; NS]`; events of a last layer ask nothing and have no network."""
    if place >= events:
        i = place - events
        ffn = {key.split("/")[1]: value[i] for key, value in w.items() if key.startswith("tokens_ffn/")}
        network = [ffn[key] for key in ("hidden_kernel", "hidden_bias", "output_kernel", "output_bias")]
        return (*np.split(w["tokens_kernel"][i], 3, axis=1), network)
    key, value = np.split(w["events_kernel"], 2, axis=1)
    names = [f"events_ffn/{name}" for name in ("dense_0/kernel", "dense_0/bias", "output/kernel", "output/bias")]
    return w.get("query_kernel"), key, value, [w[name] for name in names if name in w]


def transformer(w, x, events, first):
    """Outputs of the places from `first` on of a causal transformer on `x (n + N, D)`, n = `events`, and their attention."""
    normed = [rms_norm(w["attention_norm/scale"], token) for token in x]
    weights, out, width = np.zeros((H, len(x) - first, len(x))), [], D // H
    for i in range(first, len(x)):
        gathered = np.zeros(D)
        for h in range(H):
            columns = slice(h * width, (h + 1) * width)
            query = (normed[i] @ of_place(w, i, events)[0])[columns]
            keys = [(normed[j] @ of_place(w, j, events)[1])[columns] for j in range(i + 1)]
            a = softmax(np.array([query @ key for key in keys]) / math.sqrt(width))
            weights[h, i - first, : i + 1] = a
            for j in range(i + 1):
                gathered[columns] += a[j] * (normed[j] @ of_place(w, j, events)[2])[columns]
        z = x[i] + gathered @ w["output_kernel"]
        w1, b1, w2, b2 = of_place(w, i, events)[3]
        out.append(z + gelu(rms_norm(w["ffn_norm/scale"], z) @ w1 + b1) @ w2 + b2)
    return np.array(out), weights


@pytest.mark.parametrize("keep", KEEPS)
def test_equation(keep):
    layer, (tokens, events) = made(keep), inputs()
    w = values(layer)
    out, attention = layer(tokens, events, mask=mask(), return_attention=True)
    out = {key: np.asarray(value) for key, value in out.items()}
    assert set(out) == ({"tokens", "events", "mask"} if keep else {"tokens"})
    for b in range(B):
        valid = events[b][mask()[b]].astype("float64")
        n, left = len(valid), math.ceil(keep * mask()[b].sum())
        expected, weights = transformer(w, np.concatenate([valid, tokens[b]]), n, n - left)
        np.testing.assert_allclose(out["tokens"][b], expected[left:], **CLOSE)
        shown = np.concatenate([mask()[b], np.ones(N, bool)])
        found = np.asarray(attention["tokens"][b])
        assert not found[..., ~shown].any()
        np.testing.assert_allclose(found[..., shown], weights[:, left:], **CLOSE)
        if keep:
            assert out["mask"][b].sum() == left
            np.testing.assert_allclose(out["events"][b][out["mask"][b]], expected[:left], **CLOSE)
            found = np.asarray(attention["events"][b])
            assert not found[..., ~mask()[b]].any()
            np.testing.assert_allclose(found[:, out["mask"][b]][..., mask()[b]], weights[:, :left, :n], **CLOSE)
    assert set(attention) == ({"events", "tokens"} if keep else {"tokens"})


def test_without_a_mask_all_events_are_valid():
    layer, (tokens, events) = made(0.5), inputs()
    full = layer(tokens, events, mask=np.ones((B, T), bool))
    for key, value in layer(tokens, events).items():
        np.testing.assert_array_equal(value, full[key])
    assert np.asarray(full["mask"]).all() and full["events"].shape == (B, 4, D)


# -- identities


def test_equal_weights_make_one_transformer():
    """With the events' weights for all, a token is one more event: it does not matter which side of the cut a step stands on."""
    tokens, events = inputs()
    whole = made()
    w = {weight.path.split(f"{whole.name}/", 1)[-1]: np.array(weight) for weight in whole.weights}
    for i in range(N):
        w["tokens_kernel"][i] = np.concatenate([w["query_kernel"], w["events_kernel"]], axis=1)
        for name in ("hidden", "output"):
            for kind in ("kernel", "bias"):
                w[f"tokens_ffn/{name}_{kind}"][i] = w[f"events_ffn/{'dense_0' if name == 'hidden' else name}/{kind}"]
    set_by_path(whole, w)
    longer = block_of()
    longer.build((None, 1, D), (None, T + N - 1, D))
    set_by_path(longer, {path: value[:1] if path.startswith("tokens_") else value for path, value in w.items()})
    out = whole(tokens, events, mask=mask())
    x = np.concatenate([events, tokens], axis=1)
    shown = np.concatenate([mask(), np.ones((B, N - 1), bool)], axis=1)
    other = longer(x[:, -1:], x[:, :-1], mask=shown)
    np.testing.assert_allclose(out["tokens"][:, -1], other["tokens"][:, 0], **CLOSE)
    np.testing.assert_allclose(out["tokens"][:, :-1], other["events"][:, T:], **CLOSE)
    np.testing.assert_allclose(np.asarray(out["events"])[mask()], np.asarray(other["events"][:, :T])[mask()], **CLOSE)


def set_by_path(layer, weights):
    for weight in layer.weights:
        weight.assign(weights[weight.path.split(f"{layer.name}/", 1)[-1]])


@pytest.mark.parametrize("keep", [0.01, 0.3, 0.5, 0.99, 0.0])
def test_a_pyramid_computes_the_newest_of_what_it_would_compute_without(keep):
    full, (tokens, events) = made(), inputs()
    short = made(keep)
    w = {weight.path.split(f"{full.name}/", 1)[-1]: np.array(weight) for weight in full.weights}
    set_by_path(short, w)
    expected, out = full(tokens, events, mask=mask()), short(tokens, events, mask=mask())
    np.testing.assert_allclose(out["tokens"], expected["tokens"], **CLOSE)
    for b in range(B if keep else 0):
        newest = np.asarray(expected["events"][b])[mask()[b]][::-1][: math.ceil(keep * mask()[b].sum())][::-1]
        np.testing.assert_allclose(np.asarray(out["events"][b])[np.asarray(out["mask"][b])], newest, **CLOSE)


@pytest.mark.parametrize("keep", [1.0, 0.0])
def test_an_unknown_number_of_events(keep):
    layer, (tokens, events) = made(keep), inputs()
    x = [keras.Input(shape) for shape in ((N, D), (None, D))] + [keras.Input((None,), dtype="bool")]
    model = keras.Model(x, layer(*x[:2], mask=x[2])["tokens"])
    expected = layer(tokens, events, mask=mask())["tokens"]
    np.testing.assert_allclose(model.predict([tokens, events, mask()], verbose=0), expected, **CLOSE)


def test_causality():
    layer, (tokens, events) = made(), inputs()
    full = np.ones((B, T), bool)
    out = {key: np.asarray(value) for key, value in layer(tokens, events, mask=full).items()}

    def moved(key, tokens, events):
        return np.abs(np.asarray(layer(tokens, events, mask=full)[key]) - out[key]).max(axis=(0, 2)) > 1e-5

    later = events.copy()
    later[:, 4] += 1
    assert moved("events", tokens, later).tolist() == [False] * 4 + [True] * 3
    assert moved("tokens", tokens, later).all()
    second = tokens.copy()
    second[:, 1] += 1
    assert not moved("events", second, events).any()
    assert moved("tokens", second, events).tolist() == [False, True, True]


@pytest.mark.parametrize("keep", [1.0, 0.0])
def test_an_empty_history_is_none(keep):
    layer, alone, (tokens, events) = made(keep), made(events=False), inputs()
    w = {weight.path.split(f"{layer.name}/", 1)[-1]: np.array(weight) for weight in layer.weights}
    set_by_path(alone, w)
    out = layer(tokens, events, mask=np.zeros((B, T), bool))
    np.testing.assert_allclose(out["tokens"], alone(tokens)["tokens"], **CLOSE)
    assert all(np.isfinite(np.asarray(value)).all() for value in out.values())


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("side", ["before", "after"])
def test_padding_on_either_side_changes_nothing(keep, side):
    layer, (tokens, events) = made(keep), inputs()
    out = layer(tokens, events, mask=mask())
    wide = layer(tokens, padded(events, side), mask=padded(mask(), side))
    np.testing.assert_allclose(wide["tokens"], out["tokens"], **CLOSE)
    if keep:
        shown, also = np.asarray(out["mask"]), np.asarray(wide["mask"])
        np.testing.assert_array_equal(shown.sum(axis=1), also.sum(axis=1))
        np.testing.assert_allclose(np.asarray(wide["events"])[also], np.asarray(out["events"])[shown], **CLOSE)


def test_the_last_step_of_what_remains_is_the_newest():
    out = made(0.5)(*inputs(), mask=mask())
    expected = [[0, 0, 1, 1], [0] * 4, [1] * 4, [0, 0, 0, 1], [0, 0, 1, 1]]  # of 4, 0, 7, 1 and 3 events
    np.testing.assert_array_equal(out["mask"], np.array(expected, bool))


# -- stacks


def test_pyramid_shares():
    assert pyramid_shares(1, "linear") == pyramid_shares(1, 0.5) == [0]
    assert pyramid_shares(3, 0.5) == [0.5, 0.5, 0]
    for layers, steps, expected in ((4, 12, [9, 6, 3, 0]), (3, 9, [6, 3, 0]), (6, 1188, [990, 792, 594, 396, 198, 0])):
        found = []
        for share in pyramid_shares(layers, "linear"):
            steps = kept(steps, share)
            found.append(steps)
        assert found == expected
    for wrong in ("linea", 0, 1.5, True, None):
        with pytest.raises(ValueError, match="pyramid must be 'linear' or a share"):
            pyramid_shares(3, wrong)


def test_kept():
    assert [kept(n, 0.5) for n in range(6)] == [0, 1, 1, 2, 2, 3]
    assert kept(1, 0.001) == 1 and kept(7, 0) == 0
    assert all(kept(3 * n, 1 / 3) == n and kept(n, n / (n + 1)) <= n for n in range(500))


# -- contracts


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.slow
def test_contract(keep):
    kinds = ["sequence", "sequence", "pool"] if keep == 1 else [None, None, "pool"] if keep else ["pool"]
    sizes = {"call_kwargs": {"mask": mask()}, "sequence": (1,), "mask_output": kinds}
    check_layer(block_of(keep=keep, dropout=0.1), (B, N, D), (B, T, D), **sizes)


def test_contract_without_events():
    check_layer(block_of(), (B, N, D))


@pytest.mark.parametrize("keep", KEEPS)
def test_parameter_count(keep):
    events = {1.0: 3 * D * D + U, 0.5: 3 * D * D + U, 0.0: 2 * D * D}[keep]
    assert weight_count(made(keep)) == N * (3 * D * D + U) + D * D + 2 * D + events
    assert weight_count(made(keep, events=False)) == N * (3 * D * D + U) + D * D + 2 * D


def test_matrices_start_as_those_of_dense_layers():
    layer = OneTransBlock(1)
    layer.build((None, 5, 64), (None, T, 64))
    limit = math.sqrt(6 / (64 + 64))
    for weight in (layer.tokens_kernel, layer.events_kernel, layer.query_kernel, layer.output_kernel):
        assert 0.95 * limit < np.abs(np.asarray(weight)).max() <= limit


def test_dropout_in_training_only():
    layer, (tokens, events) = made(dropout=0.5), inputs()
    plain = {key: np.asarray(value) for key, value in layer(tokens, events).items()}
    trained = layer(tokens, events, training=True)
    for key in ("events", "tokens"):
        np.testing.assert_array_equal(layer(tokens, events)[key], plain[key])
        assert np.abs(np.asarray(trained[key]) - plain[key]).max() > 1e-2


# -- events as tokens


def groups():
    second = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 0, 1]], bool)
    return [normal(B, T, 5, seed=4), normal(B, 3, 2, seed=5)], [mask(), second]


@pytest.mark.parametrize("positions", [None, 2, 11])
def test_events_as_tokens(positions):
    (sequences, masks), layer = groups(), EventTokens(D, num_positions=positions)
    layer = built(layer, [(None, T, 5), (None, 3, 2)])
    w, out = values(layer), layer(sequences, masks)
    expected = np.zeros((B, T + 4, D))
    for b in range(B):
        rows = []
        for g in range(2):
            if g:
                rows.append(w["separators"][0])
            for t, event in enumerate(sequences[g][b]):
                age = max(int(masks[g][b, t:].sum()), 1)
                rows.append(dense(part(w, f"group_{g}"), event) + (w["positions"][min(age, positions) - 1] if positions else 0))
        expected[b] = rows
    shown = np.concatenate([masks[0], np.ones((B, 1), bool), masks[1]], axis=1)
    np.testing.assert_array_equal(out["mask"], shown)
    np.testing.assert_allclose(np.asarray(out["tokens"])[shown], expected[shown], **CLOSE)
    assert weight_count(layer) == mlp_count(5, D) + mlp_count(2, D) + D + (positions or 0) * D


def test_one_group_needs_no_separator():
    layer = EventTokens(D)
    layer.build([(None, T, 5)])
    assert weight_count(layer) == mlp_count(5, D)
    assert layer([normal(B, T, 5)], [mask()])["tokens"].shape == (B, T, D)


def test_positions_do_not_see_padding():
    layer = built(EventTokens(D, num_positions=5), [(None, T, 5)])
    events = normal(B, T, 5)

    def valid(x, shown):
        return np.asarray(layer([x], [shown])["tokens"])[shown]

    for side in ("before", "after"):
        np.testing.assert_allclose(valid(padded(events, side), padded(mask(), side)), valid(events, mask()), **CLOSE)


@pytest.mark.slow
def test_contract_of_events_as_tokens():
    sequences, masks = groups()
    check_layer(EventTokens(D, num_positions=5), sequences, masks)


def test_a_stack_is_free_of_padding():
    """Events as tokens, then two blocks of a pyramid: what a factory makes."""
    merge, first, last = built(EventTokens(D, num_positions=5), [(None, T, D)]), made(0.5), made(0.0)

    class Stack:
        def __call__(self, tokens, events, mask):
            x = merge([events], [mask])
            x = first(tokens, x["tokens"], mask=x["mask"])
            return last(x["tokens"], x["events"], mask=x["mask"])["tokens"]

    check_padding(Stack(), *inputs(), steps=(1,), mask=mask())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: EventTokens(0), "hidden_dim"),
        (lambda: EventTokens(3, num_positions=0), "num_positions"),
        (lambda: EventTokens(3).build([]), "there is no sequence"),
        (lambda: OneTransBlock(0), "num_heads"),
        (lambda: OneTransBlock(expansion=0), "expansion"),
        (lambda: OneTransBlock(keep=1.1), "keep must be a share"),
        (lambda: OneTransBlock(keep=True), "keep must be a share"),
        (lambda: OneTransBlock(dropout=1.0), "dropout"),
        (lambda: OneTransBlock(epsilon=0), "epsilon"),
        (lambda: OneTransBlock(3).build((None, N, D)), "3 heads do not divide the width 10"),
        (lambda: OneTransBlock(H).build((None, N, D), (None, T, D + 1)), "the events are 11 wide, the tokens 10"),
        (lambda: OneTransBlock(H, keep=0.5).build((None, N, D), (None, None, D)), "with T known"),
        (lambda: made()(normal(B, N, D)), "was built with events: call it so"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
