"""CAN: its pairs, tables and co-actions, beyond the contract of all models."""

import re

import numpy as np
import pytest

from keras_ctr import Categorical, Numeric, Schema, Sequence, optimizers
from keras_ctr.models.can import CAN
from keras_ctr.models.dnn import DNN
from keras_ctr.optimizers.recipes import TABLES
from tests.models.small_models import N0, ROWS, SMALL, UNITS, D, check_runs, dense_weights, inner, mlp, scores, spread
from tests.sample import fields_schema, full_schema, random_rows

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "arguments, acted, induction, feed",
    [
        ({}, 3 * 3 * 12, 160 * (53 + 11), 16 * (53 + 11)),  # three sequences with targets
        ({"co_action_pairs": [("item", "user")], "orders": 2}, 2 * 12, 160 * 53, 16 * 101),
        (
            {
                "co_action_pairs": [("item", "user"), ("user", "liked_item"), ("item", "age")],
                "feed_dim": 3,
                "co_action_units": (5,),
                "co_action_bias": True,
            },
            3 * 3 * 5,
            (3 * 5 + 5) * (53 + 101),
            3 * (101 + 53 + 9),
        ),
    ],
)
def test_can(arguments, acted, induction, feed):
    schema = full_schema()
    model = CAN(schema, **SMALL, **arguments)
    assert dense_weights(model) == mlp(N0 + acted, *UNITS, 1)
    assert sum(w.shape[0] * w.shape[1] for w in model.get_layer("induction").weights) == induction
    assert sum(w.shape[0] * w.shape[1] for w in model.get_layer("feed").weights) == feed
    check_runs(model, schema)


def test_can_runs_events_through_the_target():
    """The first pair's part of the head by hand: events that are not padding, powers 1 to 3, 16 -> 8 -> 4."""
    schema = full_schema()
    model = CAN(schema, **SMALL)
    spread(model)
    x, _ = random_rows(schema, ROWS)
    induction, feed = (model.get_layer(n).embedding.rows("item").astype("float64") for n in ("induction", "feed"))
    expected = np.zeros((ROWS, 36))
    for b in range(ROWS):
        w = induction[x["item"][b]]
        for id in x["clicked_item"][b]:
            if id:
                first = [np.tanh(feed[id] ** o @ w[:128].reshape(16, 8)) for o in (1, 2, 3)]
                expected[b] += np.concatenate([np.concatenate([h, h @ w[128:].reshape(8, 4)]) for h in first])
    got = inner(model, x, "co_action_0")
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    empty = ~x["clicked_item"].any(axis=1)
    assert empty.any() and not got[empty].any()
    np.testing.assert_array_equal(inner(model, x, "head")[:, N0 : N0 + 36], got)


def test_can_whose_co_actions_do_not_count_is_the_plain_deep_model():
    schema = full_schema()
    model = CAN(schema, **SMALL, activation=None)
    spread(model)
    kernel = model.get_layer("mlp").weights[0]
    cut = kernel.numpy()
    cut[N0:] = 0
    kernel.assign(cut)
    plain = DNN(schema, **SMALL, activation=None)
    for name in ("embedding", "logits"):
        plain.get_layer(name).set_weights(model.get_layer(name).get_weights())
    plain.get_layer("mlp").set_weights([cut[:N0], *model.get_layer("mlp").get_weights()[1:]])
    np.testing.assert_allclose(scores(model, schema), scores(plain, schema), rtol=1e-4, atol=1e-5)


def test_can_tables_belong_to_the_optimizer_of_tables():
    model = CAN(full_schema(), **SMALL)
    tables = [v.path for v in model.trainable_variables if re.fullmatch(TABLES, v.path)]
    assert tables == ["embedding/table", "induction/embedding/table", "feed/embedding/table"]
    assert all(v.row_sparse for v in model.trainable_variables if v.path in tables)
    x, y = random_rows(full_schema(), ROWS)
    model.compile(optimizers.default(1e-3, table_learning_rate=1e-2), "binary_crossentropy")
    before = {name: model.get_layer(name).embedding.rows("item") for name in ("induction", "feed")}
    model.fit(x, y, batch_size=ROWS, verbose=0)
    seen = {"induction": {*x["item"]}, "feed": {*x["clicked_item"].ravel(), *x["liked_item"].ravel()}}
    for name, old in before.items():
        moved = np.flatnonzero(np.any(model.get_layer(name).embedding.rows("item") != old, axis=1))
        assert len(moved) and set(moved) <= seen[name]


def test_default_pairs_of_can():
    def pairs(schema):
        model = CAN(schema, **SMALL)
        names = [layer.name for layer in model.layers if layer.name.startswith("co_action_")]
        return len(names), model.get_layer("induction").features, model.get_layer("feed").features

    assert pairs(full_schema()) == (3, ("item", "brand"), ("clicked_item", "clicked_brand", "liked_item"))
    assert pairs(fields_schema()) == (1, ("item",), ("user",))  # no sequence: the item for the group
    schema = fields_schema()
    assert pairs(schema.replace(group=None)) == (1, ("user",), ("item",))
    untargeted = Sequence("words", max_length=3, vocabulary_size=13)
    assert pairs(schema.replace(features=[*schema.features, untargeted])) == (1, ("item",), ("user",))


@pytest.mark.parametrize(
    "pairs, message",
    [
        ([], "empty"),
        (["item"], "pairs"),
        ([("item", "user", "age")], "pairs"),
        ([("itm", "user")], "did you mean 'item'"),
        ([("item", "liked_items")], "did you mean 'liked_item'"),
        ([("liked_item", "item")], "induction feature 'liked_item'"),
        ([("item", "price")], "feed feature 'price'"),
        ([("item", "user"), ("item", "user")], "twice"),
    ],
)
def test_bad_pairs(pairs, message):
    with pytest.raises(ValueError, match=message):
        CAN(full_schema(), co_action_pairs=pairs)


def test_can_without_two_features_asks_for_pairs():
    with pytest.raises(ValueError, match="give co_action_pairs"):
        CAN(Schema([Categorical("item", 11), Numeric("price", transform="none")], labels=["click"]))


def test_bad_arguments():
    with pytest.raises(ValueError, match="units"):
        CAN(full_schema(), co_action_units=())
    with pytest.raises(ValueError, match="orders"):
        CAN(full_schema(), orders=0)


def test_numerics_may_be_one_token():
    model = CAN(full_schema(), **SMALL, numeric="dense_projection")
    assert model.get_layer("numeric_tokens").output.shape == (None, 1, D)
