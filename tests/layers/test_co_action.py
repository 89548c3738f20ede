"""CoAction against a loop over events, orders and layers; the tables of their own."""

import re

import keras
import numpy as np
import pytest

from keras_ctr import Categorical, Numeric, Schema, Sequence
from keras_ctr.layers.co_action import CoAction, OwnEmbedding
from keras_ctr.optimizers.recipes import TABLES
from tests.layer_contract import check_layer
from tests.sample import full_schema, random_rows

B, T, C = 5, 7, 3
UNITS = (11, 2)
ORDERS = 3
MASK = np.arange(T)[None, :] < np.array([[3], [T], [0], [1], [5]])


def rows(use_bias=False, units=UNITS, steps=T):
    rng = np.random.default_rng(4)
    width = CoAction(units, use_bias=use_bias).induction_width(C)
    return rng.standard_normal((B, width)), rng.standard_normal((B, steps, C))


def loop(induction, feed, mask, units, orders, use_bias):
    """One event, one order, one layer at a time."""
    out = []
    for row, events, valid in zip(induction, feed, mask, strict=True):
        values = list(row)
        matrices, biases, width = [], [], feed.shape[-1]
        for u in units:
            matrices.append([[values.pop(0) for _ in range(u)] for _ in range(width)])
            biases.append([values.pop(0) for _ in range(u)] if use_bias else [0.0] * u)
            width = u
        assert not values
        sums = np.zeros((orders, sum(units)))
        for event in events[valid]:
            for o in range(orders):
                h, outputs = [e ** (o + 1) for e in event], []
                for j, (w, b) in enumerate(zip(matrices, biases, strict=True)):
                    h = [sum(h[i] * w[i][n] for i in range(len(h))) + b[n] for n in range(len(b))]
                    h = list(np.tanh(h)) if j < len(units) - 1 else h
                    outputs += h
                sums[o] += outputs
        out.append(sums.reshape(-1))
    return np.array(out)


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("orders, units", [(ORDERS, UNITS), (1, UNITS), (2, (5,)), (2, (5, 3, 2))])
def test_histories(use_bias, orders, units):
    induction, feed = rows(use_bias, units)
    layer = CoAction(units, orders=orders, use_bias=use_bias)
    expected = loop(induction, feed, MASK, units, orders, use_bias)
    got = layer(induction.astype("float32"), feed.astype("float32"), mask=MASK)
    assert got.shape == (B, orders * sum(units))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=3e-6)
    np.testing.assert_array_equal(got[2], np.zeros(orders * sum(units)))  # no event


@pytest.mark.parametrize("use_bias", [False, True])
def test_a_single_feature_is_a_history_of_one_event(use_bias):
    induction, feed = rows(use_bias, steps=1)
    layer = CoAction(UNITS, orders=ORDERS, use_bias=use_bias)
    expected = loop(induction, feed, np.ones((B, 1), bool), UNITS, ORDERS, use_bias)
    np.testing.assert_allclose(layer(induction.astype("float32"), feed[:, 0].astype("float32")), expected, rtol=1e-5, atol=1e-6)


def test_contract():
    induction, feed = rows()
    check_layer(CoAction(UNITS), induction.shape, feed.shape, call_kwargs={"mask": MASK}, sequence=(1,), has_weights=False)
    induction, feed = rows(True)
    check_layer(
        CoAction(UNITS, use_bias=True, orders=2, activation="relu"),
        induction.shape,
        feed.shape,
        call_kwargs={"mask": MASK},
        sequence=(1,),
        has_weights=False,
    )
    check_layer(CoAction(UNITS), induction[:, : C * 11 + 22].shape, (B, C), has_weights=False)


def test_the_sides_of_padding_are_alike():
    induction, feed = (a.astype("float32") for a in rows(True))
    layer, length = CoAction(UNITS, use_bias=True), 4
    after, before = np.zeros((2, B, T, C), "float32")
    after[:, :length], before[:, T - length :] = feed[:, :length], feed[:, :length]
    left, right = np.arange(T) < length, np.arange(T) >= T - length
    first = layer(induction, after, mask=np.tile(left, (B, 1)))
    np.testing.assert_allclose(first, layer(induction, before, mask=np.tile(right, (B, 1))), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(first, layer(induction, feed[:, :length]), rtol=1e-5, atol=1e-5)


def test_widths_of_induction_rows():
    assert CoAction((8, 4)).induction_width(16) == 160
    assert CoAction((8, 4), use_bias=True).induction_width(16) == 172
    with pytest.raises(ValueError, match="make its table 160 wide"):
        CoAction((8, 4)).build((None, 159), (None, 16))


@pytest.mark.parametrize("arguments, name", [({"units": ()}, "units"), ({"units": (0,)}, "units"), ({"orders": 0}, "orders")])
def test_errors(arguments, name):
    with pytest.raises(ValueError, match=name):
        CoAction(**arguments)


def test_own_tables_read_the_rows_of_the_ids():
    schema = full_schema()
    x, _ = random_rows(schema, B)
    layer = OwnEmbedding(schema, ["clicked_item", "age", "item", "liked_item"], 3)
    out = layer(x)
    assert set(out["rows"]) == {"age", "item", "clicked_item", "liked_item"}
    items = layer.embedding.rows("item")  # one table for the item and both histories
    assert [w.shape for w in layer.weights] == [(53 + 9, 3)]
    np.testing.assert_array_equal(out["rows"]["item"], items[x["item"]])
    np.testing.assert_array_equal(out["rows"]["age"], layer.embedding.rows("age")[x["age"]])
    for name in ("clicked_item", "liked_item"):
        valid = x[name] != 0
        np.testing.assert_array_equal(out["masks"][name], valid)
        np.testing.assert_array_equal(out["rows"][name], items[x[name]] * valid[..., None])


def test_own_tables_are_tables_to_the_recipes():
    layer = OwnEmbedding(full_schema(), ["item"], 3, name="induction")
    layer.build()
    (table,) = layer.weights
    assert re.fullmatch(TABLES, table.path) and table.row_sparse


def test_own_tables_know_what_a_feature_left_out_says_of_the_table():
    schema = Schema(
        features=[
            Categorical("item", hash_buckets=17, embedding_dim=2, embedding_initializer="ones", dtype="int64"),
            Categorical("last", table="item", dtype="int64"),
            Categorical("shop", 23, quotient_remainder=5),
            Sequence("items", max_length=3, table="item", target="item"),
            Sequence("shops", max_length=3, table="shop"),
            Numeric("age", transform="log_square", num_bins=7),
            Sequence("ages", max_length=3, table="age"),
        ],
        labels=["click"],
    )
    for features, rows in ((["items"], 19), (["last", "items"], 19), (["item"], 19), (["shops"], 5 + 5), (["shop"], 5 + 5), (["ages"], 9)):
        layer = OwnEmbedding(schema, features, 3)
        layer.build()
        assert [w.shape for w in layer.weights] == [(rows, 3)], features
        again = OwnEmbedding.from_config(layer.get_config())
        again.build()
        assert [w.shape for w in again.weights] == [(rows, 3)], features


def test_contract_of_own_tables():
    schema = full_schema()
    x, _ = random_rows(schema, B)
    wanted = ["age", "item", "liked_item"]
    check_layer(OwnEmbedding(schema, wanted, 3), {name: x[name] for name in wanted})
    check_layer(OwnEmbedding(schema, ["item"], 3, embedding_l2=0.1), {"item": x["item"]})


def test_own_tables_refuse_numbers():
    with pytest.raises(ValueError, match="'price' is a number"):
        OwnEmbedding(full_schema(), ["price"], 3)
    with pytest.raises(KeyError, match="did you mean 'item'"):
        OwnEmbedding(full_schema(), ["itm"], 3)


def test_gradients_reach_both_tables():
    schema = full_schema()
    x, y = random_rows(schema, 13)
    inputs = {name: keras.Input(schema.encoded_shape(name), dtype="int32", name=name) for name in ("item", "clicked_item")}
    induction = OwnEmbedding(schema, ["item"], CoAction(UNITS).induction_width(C), name="induction")({"item": inputs["item"]})
    feed = OwnEmbedding(schema, ["clicked_item"], C, name="feed")({"clicked_item": inputs["clicked_item"]})
    acted = CoAction(UNITS)(induction["rows"]["item"], feed["rows"]["clicked_item"], mask=feed["masks"]["clicked_item"])
    model = keras.Model(inputs, keras.layers.Dense(1)(acted))
    before = [w.numpy() for w in model.trainable_weights]
    model.compile("adam", "mse")
    model.train_on_batch({k: x[k] for k in inputs}, y["click"])
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert np.any(weight.numpy() != old), weight.path
