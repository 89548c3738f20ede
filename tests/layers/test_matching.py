"""DMR's matching networks and second table against loops over samples and steps."""

import numpy as np
import pytest
from keras.ops import convert_to_numpy as numpy

from keras_ctr import Categorical, Schema, Sequence
from keras_ctr.layers.matching import Item2ItemNetwork, OutputEmbedding, SelectAttributes, User2ItemNetwork
from tests.layer_contract import check_layer, weight_count
from tests.layers.interaction_oracles import randomise
from tests.layers.interest_oracles import (
    EMPTY,
    MASK,
    B,
    T,
    activate,
    close,
    f32,
    f64,
    move,
    normal,
    query,
    rearranged,
    score,
    sigmoid,
    softmax,
    valid_steps,
)
from tests.sample import full_schema, random_rows

D, V, C = 3, 2, 11
SMALL = {"hidden_units": (5, 13), "position_dim": 4, "max_positions": 17}


def built_user(context=True, **kwargs):
    layer = User2ItemNetwork(**{**SMALL, **kwargs})
    layer.build((None, T, D), (None, V), (None, T, C) if context else None)
    randomise(layer)
    return layer


def built_item(context=True, **kwargs):
    layer = Item2ItemNetwork(**{**SMALL, **kwargs})
    layer.build((None, T, D), (None, D), (None, T, C) if context else None)
    randomise(layer)
    return layer


def example():
    """s, v', c and e in float64."""
    return normal(B, T, D), normal(B, V, seed=2), normal(B, T, C, seed=3), normal(B, D, seed=4)


def user(layer, s, c, mask, b, seen):
    """The user vector of row b from the steps `seen`; positions are those in the whole history."""
    steps = valid_steps(mask, b)
    scores = [score(layer.score, query(layer.query, steps, t, context=None if c is None else c[b, t]), s[b, t]) for t in seen]
    pooled = sum(w * s[b, t] for w, t in zip(softmax(scores), seen, strict=True))
    return activate(layer.matching_activation, layer.user_unit, pooled @ f64(layer.user.kernel) + f64(layer.user.bias))


def relevance(layer, s, v, c, mask):
    out = np.zeros((B, 1))
    for b in range(B):
        if valid_steps(mask, b):
            out[b] = user(layer, s, c, mask, b, valid_steps(mask, b)) @ v[b]
    return out


@pytest.mark.parametrize("arguments, context", [({}, True), ({"activation": "dice", "matching_activation": "relu"}, False)])
def test_contract_of_the_user_network(arguments, context):
    inputs = [(B, T, D), (B, V), *([(B, T, C)] if context else [])]
    sequence = (0, 2) if context else (0,)
    check_layer(User2ItemNetwork(**SMALL, **arguments), *inputs, call_kwargs={"mask": MASK}, sequence=sequence)


@pytest.mark.parametrize("context, activation", [(True, "prelu"), (False, "relu")])
def test_equation_of_the_user_network(context, activation):
    layer, (s, v, c, _) = built_user(context, matching_activation=activation), example()
    c = c if context else None
    given = f32(s, v, c) if context else f32(s, v)
    found = layer(*given, mask=MASK)
    close(found, relevance(layer, s, v, c, MASK), atol=1e-5)
    close(layer(*given), relevance(layer, s, v, c, np.ones((B, T), bool)), atol=1e-5)
    assert not np.any(numpy(found[EMPTY])) and np.all(np.abs(numpy(found))[[0, 2, 3, 4]] > 1e-6)


def match_loss(layer, s, c, events, negatives, mask, negative_mask):
    losses = []
    for b in range(B):
        steps = valid_steps(mask, b)
        wanted = range(1, len(steps)) if layer.transitions == "all" else range(max(1, len(steps) - 1), len(steps))
        for k in wanted:
            t = steps[k]
            if negative_mask[b, t]:
                u = user(layer, s, c, mask, b, steps[:k])
                losses.append(-np.log(sigmoid(u @ events[b, t])) - np.log(1 - sigmoid(u @ negatives[b, t])))
    return np.mean(losses), len(losses)


@pytest.mark.parametrize("transitions, count", [("last", 2), ("all", 3 + 5 + 3)])
def test_match_loss(transitions, count):
    layer, (s, v, c, _) = built_user(transitions=transitions, auxiliary_weight=0.3), example()
    events, negatives = normal(B, T, V, seed=5), normal(B, T, V, seed=6)
    negative_mask = MASK.copy()
    negative_mask[3, 2] = negative_mask[4, 6] = False  # the second is a newest event
    layer(*f32(s, v, c, events, negatives), mask=MASK, negative_mask=negative_mask, training=True)
    expected, found = match_loss(layer, s, c, events, negatives, MASK, negative_mask)
    assert found == count
    (loss,) = layer.losses
    np.testing.assert_allclose(float(loss), 0.3 * expected, rtol=1e-5)


def test_match_loss_of_histories_with_nothing_to_predict():
    layer, (s, v, c, _) = built_user(), example()
    rows = f32(s, v, c, normal(B, T, V, seed=5), normal(B, T, V, seed=6))
    layer(*(x[1:3] for x in rows), mask=MASK[1:3], training=True)  # no event, and one
    layer(*rows, mask=MASK, negative_mask=np.zeros((B, T), bool), training=True)
    assert [float(loss) for loss in layer.losses] == [0.0] or [float(loss) for loss in layer.losses] == [0.0, 0.0]
    for weight, inputs, training in ((0.1, rows, False), (0.1, rows[:3], True), (0.0, rows, True)):
        quiet = built_user(auxiliary_weight=weight)
        quiet(*inputs, mask=MASK, training=training)
        assert not quiet.losses


@pytest.mark.parametrize("arguments, context", [({}, True), ({"relevance": False, "activation": "dice"}, False)])
def test_contract_of_the_item_network(arguments, context):
    inputs = [(B, T, D), (B, D), *([(B, T, C)] if context else [])]
    sequence = (0, 2) if context else (0,)
    check_layer(Item2ItemNetwork(**SMALL, **arguments), *inputs, call_kwargs={"mask": MASK}, sequence=sequence)


@pytest.mark.parametrize("context", [True, False])
def test_equation_of_the_item_network(context):
    layer, (s, _, c, e) = built_item(context), example()
    c = c if context else None
    pooled, total = np.zeros((B, D)), np.zeros((B, 1))
    for b in range(B):
        steps = valid_steps(MASK, b)
        scores = [score(layer.score, query(layer.query, steps, t, e[b], c[b, t] if context else None), s[b, t]) for t in steps]
        if steps:
            pooled[b] = sum(w * s[b, t] for w, t in zip(softmax(scores), steps, strict=True))
            total[b] = sum(scores)
    given = f32(s, e, c) if context else f32(s, e)
    found = layer(*given, mask=MASK)
    close(found[0], pooled)
    close(found[1], total, atol=1e-5)
    assert not np.any(numpy(found[0][EMPTY])) and not np.any(numpy(found[1][EMPTY]))
    alone = built_item(context, relevance=False, score_bias=True)
    alone.set_weights(layer.get_weights())
    np.testing.assert_array_equal(alone(*given, mask=MASK), found[0])


@pytest.mark.parametrize("side", ["after", "before", "inside"])
def test_padding_moves_nothing(side):
    s, v, c, e = f32(*example())
    mask, places = rearranged(MASK, side)
    events, negatives = f32(normal(B, T, V, seed=5), normal(B, T, V, seed=6))
    moved = {k: move(x, MASK, mask, places) for k, x in (("s", s), ("c", c), ("events", events), ("negatives", negatives))}
    for transitions in ("last", "all"):
        near, far = built_user(transitions=transitions), built_user(transitions=transitions)
        expected = near(s, v, c, events, negatives, mask=MASK, training=True)
        close(far(moved["s"], v, moved["c"], moved["events"], moved["negatives"], mask=mask, training=True), expected)
        np.testing.assert_allclose(float(far.losses[0]), float(near.losses[0]), rtol=1e-5)
    for got, want in zip(built_item()(moved["s"], e, moved["c"], mask=mask), built_item()(s, e, c, mask=MASK), strict=True):
        close(got, want, atol=1e-5)


def test_parameters():
    scores = (4 * D + 1) * 5 + 6 * 13 + 13
    for activation, slopes in (("prelu", 1), ("relu", 0)):
        of_query = 17 * 4 + (4 + C) * D + D + slopes * D
        assert weight_count(built_user(matching_activation=activation)) == of_query + scores + D * V + V + slopes * V
        assert weight_count(built_item(matching_activation=activation)) == of_query + D * D + scores + 1
    assert weight_count(built_user(score_bias=True)) == weight_count(built_user()) + 1
    assert weight_count(built_item(relevance=False)) == weight_count(built_item()) - 1
    assert weight_count(built_item(relevance=False, score_bias=True)) == weight_count(built_item())
    assert weight_count(built_user(activation="dice")) == weight_count(built_user()) + 5 + 13


NAMES = ("clicked_item", "clicked_brand", "liked_item")


def with_negatives(x, names=NAMES):
    return {**x, **{f"{name}_negatives": np.roll(x[name], 1, axis=0) for name in names}}


def output_embedding(**kwargs):
    layer = OutputEmbedding(full_schema(), D, **kwargs)
    layer.build()
    randomise(layer)
    return layer


def rows_of(layer, table, ids):
    rows = layer.embedding.rows(table)
    return rows[ids] * (ids != 0)[..., None]


def test_contract_of_the_second_table():
    x, _ = random_rows(full_schema(), 17)
    schema = full_schema()
    check_layer(OutputEmbedding(schema, D), {name: x[name] for name in ("item", "brand")}, low_precision_tolerance=0.05)
    check_layer(OutputEmbedding(schema, D, negatives=True), with_negatives({name: x[name] for name in ("item", "brand", *NAMES)}))


def test_rows_of_the_second_table():
    layer = output_embedding(negatives=True)
    assert set(layer.input_names) == {"item", "brand", *NAMES, *(f"{name}_negatives" for name in NAMES)}
    x = with_negatives(random_rows(full_schema(), 17)[0])
    out = layer(x, training=True)
    close(out["targets"]["clicks"], np.concatenate([rows_of(layer, "item", x["item"]), rows_of(layer, "brand", x["brand"])], axis=-1))
    close(out["targets"]["likes"], rows_of(layer, "item", x["item"]))
    for kind, suffix in (("events", ""), ("negatives", "_negatives")):
        pair = [rows_of(layer, t, x[f"clicked_{t}{suffix}"]) for t in ("item", "brand")]
        close(out[kind]["clicks"], np.concatenate(pair, axis=-1))
        close(out[kind]["likes"], rows_of(layer, "item", x[f"liked_item{suffix}"]))
    np.testing.assert_array_equal(out["negative_masks"]["likes"], x["liked_item_negatives"] != 0)
    assert layer.count_params() == (53 + 11) * D


@pytest.mark.parametrize("missing", ["all", "likes", "training"])
def test_events_are_looked_up_in_training_with_negatives_only(missing):
    layer, (x, _) = output_embedding(negatives=True), random_rows(full_schema(), 17)
    names = {"all": (), "likes": NAMES[:2], "training": NAMES}[missing]
    given = {f"{name}_negatives": None for name in NAMES} | with_negatives(x, names)
    out = layer(given, training=missing != "training")
    for kind in ("events", "negatives", "negative_masks"):
        assert not np.any(numpy(out[kind]["likes"]))
        assert np.any(numpy(out[kind]["clicks"])) == (missing == "likes")
    assert np.any(numpy(out["targets"]["likes"]))


def test_penalty_of_the_second_table():
    layer, (x, _) = output_embedding(embedding_l2=0.3), random_rows(full_schema(), 17)
    layer(x)
    squares = sum(np.square(rows_of(layer, t, x[t]).astype("float64")).sum() for t in ("item", "brand"))
    np.testing.assert_allclose(sum(float(loss) for loss in layer.losses), 0.3 * squares / 17, rtol=1e-5)


def test_two_sequences_of_one_target():
    names = ("seen", "bought")
    schema = Schema([Categorical("item", 13), *(Sequence(n, 3, table="item", target="item", group="g") for n in names)], ["click"])
    layer = OutputEmbedding(schema, D, negatives=True)
    layer.build()
    randomise(layer)
    ids = {"item": np.array([2, 0]), "seen": np.array([[3, 4, 0], [5, 0, 0]]), "bought": np.array([[6, 0, 0], [7, 8, 9]])}
    x = with_negatives({name: values.astype("int32") for name, values in ids.items()}, names)
    out = layer(x, training=True)
    close(out["targets"]["g"], np.concatenate([rows_of(layer, "item", ids["item"])] * 2, axis=-1))
    close(out["events"]["g"], np.concatenate([rows_of(layer, "item", ids[n]) for n in names], axis=-1))
    assert not np.any(numpy(out["targets"]["g"][1]))


def test_attributes():
    x = normal(B, T, 6)
    check_layer(SelectAttributes((0, 2), 3), (B, T, 6), has_weights=False)
    close(SelectAttributes((2,), 3)(*f32(x)), x[..., 4:])
    close(SelectAttributes((0, 2), 3)(*f32(x[:, 0])), x[:, 0][:, [0, 1, 4, 5]])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: User2ItemNetwork(()).build((None, T, D), (None, V)), "hidden_units is empty"),
        (lambda: User2ItemNetwork(transitions="next"), "transitions must be one of"),
        (lambda: User2ItemNetwork(auxiliary_weight=-1), "must not be negative"),
        (lambda: User2ItemNetwork(matching_activation="unknown"), "unknown"),
        (lambda: Item2ItemNetwork(position_dim=0), "position_dim"),
        (
            lambda: OutputEmbedding(Schema([Categorical("a", 5), Sequence("s", 3, table="a")], ["y"]), 2),
            "no sequence of the schema has a target",
        ),
        (lambda: SelectAttributes((), 3), "positions must be"),
        (lambda: SelectAttributes((3,), 3), "positions must be"),
        (lambda: SelectAttributes((0,), 3).build((None, 7)), "no multiple of 3"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
