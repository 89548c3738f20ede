"""Ranking requests: which features are the candidate's, and that the user's side runs on one row."""

import functools
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_ctr
from keras_ctr import Categorical, Numeric, Schema, SchemaError, Sequence
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.serving import ranking
from tests.sample import full_schema, random_rows

N = 13


def encoded_request(schema, candidates, seed=0):
    """Encoded rows that share the user of row 0, and the same as a request: user features with one row."""
    x, _ = random_rows(schema, N, seed)
    x = {name: x[name] for name in schema.feature_names}
    rows = {name: value if name in candidates else np.repeat(value[:1], N, axis=0) for name, value in x.items()}
    return rows, {name: tf.constant(value if name in candidates else value[:1]) for name, value in x.items()}


def randomised(name, schema, **options):
    model = keras_ctr.get_model(name, schema, **options)
    rng = np.random.default_rng(0)
    for v in model.trainable_variables:
        v.assign(keras.ops.convert_to_numpy(v) + rng.normal(size=v.shape).astype("float32") * 0.1)
    return model


def test_default_candidates_are_all_but_histories_and_group():
    assert ranking.candidate_names(full_schema()) == ("item", "brand", "price", "age")
    assert ranking.candidate_names(full_schema().replace(group=None)) == ("user", "item", "brand", "price", "age")
    only = Schema(features=[Categorical("user", 7)], labels=["click"], group="user")
    assert ranking.candidate_names(only) == ("user",)


def test_candidates_are_checked_and_ordered():
    schema = full_schema()
    assert ranking.candidate_names(schema, ["price", "item"]) == ("item", "price")
    assert ranking.candidate_names(schema, "item") == ("item",)
    with pytest.raises(SchemaError, match="'itme', which is no feature .* did you mean 'item'"):
        ranking.candidate_names(schema, ["itme"])
    with pytest.raises(SchemaError, match="is empty"):
        ranking.candidate_names(schema, [])
    with pytest.raises(SchemaError, match="'clicked_brand' but not 'clicked_item' of the same group 'clicks'"):
        ranking.candidate_names(schema, ["clicked_brand", "item"])


@pytest.mark.parametrize(
    "candidates",
    [
        ("item",),
        ("brand", "price"),
        ("user", "item", "brand", "price", "age"),
        ("item", "liked_item"),
        ("liked_item",),
        ("price",),
        ("age",),
    ],
    ids="-".join,
)
@pytest.mark.parametrize("name", ["DNN", pytest.param("DIN", marks=pytest.mark.slow), pytest.param("STEM", marks=pytest.mark.slow)])
def test_rank_is_the_model_on_whole_rows(name, candidates):
    """Whatever is the candidate's: fields or numerics alone, a whole group of sequences, one of two targets of a group."""
    schema = full_schema(labels=("click", "like"))
    model = randomised(name, schema)
    rows, request = encoded_request(schema, candidates)
    expected, found = model(rows, training=False), ranking.rank(model, request, candidates)
    assert set(found) == {"click", "like"}
    for label in found:
        assert found[label].shape == (N, 1) and np.ptp(expected[label]) > 1e-5
        np.testing.assert_allclose(found[label], expected[label], atol=1e-6)


def odd_tables():
    """Tables of three widths, a quotient-remainder one, a shared one, and a group with a sequence that has no target."""
    return Schema(
        features=[
            Categorical("user", 101, embedding_dim=3),
            Categorical("item", 53, quotient_remainder=7),
            Categorical("brand", 11, embedding_dim=5),
            Numeric("price", transform="none"),
            Numeric("score", transform="none"),
            Sequence("items", 7, table="item", target="item", group="clicks"),
            Sequence("brands", 7, table="brand", target="brand", group="clicks"),
            Sequence("words", 7, vocabulary_size=17, group="clicks"),
        ],
        labels=["click"],
    )


@pytest.mark.parametrize("candidates", [("item", "price"), ("brand",), ("items", "brands", "words"), ("user", "score")], ids="-".join)
def test_every_kind_of_table(candidates):
    schema = odd_tables()
    model = randomised("DIN", schema, embedding_dim=4, attention_units=(3,), hidden_units=(5,))
    rows, request = encoded_request(schema, candidates)
    expected = model(rows, training=False)["click"]
    assert np.ptp(expected) > 1e-5
    np.testing.assert_allclose(ranking.rank(model, request, candidates)["click"], expected, atol=1e-6)


def with_negatives(schema):
    from keras_ctr import layers

    names = [sequence.name for sequence in schema.sequences]
    inputs = build_inputs(schema, negatives=names)
    features = layers.FeatureEmbedding(schema, 4, negatives=names, name="embedding")(inputs)
    events = [*features["sequences"].values(), *features["negatives"].values()]
    pooled = [keras.layers.GlobalMaxPooling1D()(x) for x in events]
    flat = keras.layers.Concatenate()([*pooled, keras.layers.Flatten()(features["fields"])])
    return CTRModel(inputs, predictions(logits(flat, schema), schema), name="with_negatives")


def test_optional_inputs():
    schema = full_schema()
    model = with_negatives(schema)
    rows, request = encoded_request(schema, ("item",))
    np.testing.assert_allclose(ranking.rank(model, request, ("item",))["click"], model(rows)["click"], atol=1e-6)


def test_a_model_within_a_model_is_walked_too(monkeypatch):
    schema = full_schema()
    inner = randomised("DNN", schema)
    inputs = build_inputs(schema)
    outer = CTRModel(inputs, {"click": inner(inputs)["click"] * 0.5}, name="outer")
    rows, request = encoded_request(schema, ("item",))
    expected = inner(rows)["click"]
    monkeypatch.setattr(type(inner), "__call__", lambda *_, **__: pytest.fail("the model was called as a whole"))
    np.testing.assert_allclose(ranking.rank(outer, request, ("item",))["click"], 0.5 * expected, atol=1e-6)


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    schema = odd_tables()
    model = randomised("DNN", schema, embedding_dim=4, hidden_units=(5,))
    rows, request = encoded_request(schema, ("item", "price"))
    np.testing.assert_allclose(ranking.rank(model, request, ("item", "price"))["click"], model(rows)["click"], atol=1e-2)


def test_the_user_is_embedded_and_pooled_once(monkeypatch):
    """Work, counted: ids looked up and rows that the pooling of histories sees."""
    from keras_ctr import backend, layers

    schema, looked_up, pooled = full_schema(), [], []
    model = randomised("DNN", schema)
    gather, pool = backend.lookup, layers.SequencePooling.call
    monkeypatch.setattr(backend, "lookup", lambda table, ids: looked_up.append(int(np.prod(ids.shape))) or gather(table, ids))

    def call(self, inputs, *args, **kwargs):
        pooled.append(int(inputs.shape[0]))
        return pool(self, inputs, *args, **kwargs)

    monkeypatch.setattr(layers.SequencePooling, "call", call)
    rows, request = encoded_request(schema, ("item", "price"))
    steps, fields = 7 + 7 + 5, 4
    ranking.rank(model, request, ("item", "price"))
    assert sum(looked_up) == (fields - 1 + steps) + N  # the user's fields and events once, and N items
    assert pooled == [1, 1]
    looked_up.clear(), pooled.clear()
    model(rows)
    assert sum(looked_up) == N * (fields + steps) and pooled == [N, N]


def test_no_candidates():
    schema = full_schema()
    model = randomised("DNN", schema)
    _, request = encoded_request(schema, ("item",))
    request["item"] = request["item"][:0]
    assert ranking.rank(model, request, ("item",))["click"].shape == (0, 1)


# -- layers that take the user's tensors with one row


class Reader(keras.layers.Layer):
    """Events, doubled, and what a candidate finds in them; notes the rows of its arguments."""

    one_row_arguments = ("events", "shown")
    one_row_outputs = ("events",)

    def call(self, target, events, shown=None, other=None):
        given = {"target": target, "events": events, "shown": shown, "other": other}
        self.rows = {name: x.shape[0] for name, x in given.items() if x is not None}
        weights = keras.ops.ones_like(events[..., 0]) if shown is None else keras.ops.cast(shown, events.dtype)
        found = keras.ops.sum(events * keras.ops.expand_dims(weights, -1) * keras.ops.expand_dims(target, 1), axis=1)
        return {"events": 2 * events, "found": found if other is None else found + keras.ops.sum(other, axis=1)}


def reading(schema, arguments):
    """A model with two readers, the second on the events of the first; `arguments(inputs, features)` of the first: target, events, more."""
    from keras_ctr import layers

    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, 4, initializer="random_normal", name="embedding")(inputs)
    target, events, more = arguments(inputs, features)
    first = Reader(name="first")(target, events, **more)
    second = Reader(name="second")(target, events=first["events"])
    flat = keras.layers.Concatenate()([first["found"], second["found"]])
    return CTRModel(inputs, predictions(logits(flat, schema), schema), name="reading")


def likes(inputs, features):
    return features["targets"]["likes"], features["sequences"]["likes"], {"shown": features["masks"]["likes"]}


def with_others(inputs, features):
    """The same events under two names: as such with one row, as the other argument with N."""
    target, events, more = likes(inputs, features)
    return target, events, {**more, "other": events}


def other_mask(inputs, features):
    """Events of one side and a mask of the other."""
    mask = keras.ops.logical_and(features["masks"]["likes"], keras.ops.expand_dims(inputs["brand"], 1) > 3)
    return *likes(inputs, features)[:2], {"shown": mask}


@pytest.mark.parametrize(
    "arguments, candidates, first, second",
    [
        (likes, ("item",), {"target": N, "events": 1, "shown": 1}, {"target": N, "events": 1}),
        (with_others, ("item",), {"target": N, "events": 1, "shown": 1, "other": N}, {"target": N, "events": 1}),
        (likes, ("liked_item",), {"target": N, "events": N, "shown": N}, {"target": N, "events": N}),
        (other_mask, ("item", "brand"), {"target": N, "events": N, "shown": N}, {"target": N, "events": N}),
        (likes, ("user",), {"target": 1, "events": 1, "shown": 1}, {"target": 1, "events": 1}),
    ],
    ids=["user", "twice", "candidate", "both", "neither"],
)
def test_one_row_arguments(arguments, candidates, first, second):
    schema = full_schema()
    model = reading(schema, arguments)
    rows, request = encoded_request(schema, candidates)
    expected, found = model(rows)["click"], ranking.rank(model, request, candidates)["click"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.ptp(expected) > 1e-7 or candidates == ("user",)
    assert model.get_layer("first").rows == first and model.get_layer("second").rows == second


def with_times():
    """`full_schema` and the time gaps of its clicks."""
    gaps = Sequence("click_gap", 7, vocabulary_size=34, dtype="int64", group="clicks")
    return full_schema().replace(features=[*full_schema().features, gaps])


@pytest.mark.slow
@pytest.mark.parametrize("candidates", [("item", "price"), ("item", "liked_item"), ("brand",)], ids="-".join)
@pytest.mark.parametrize(
    "name, layer, argument, options",
    [
        ("HSTU", "HSTUEncoder", "events", {"time_gap": "click_gap"}),
        ("OneTrans", "OneTransBlock", "events", {}),
        ("DMIN", "MultiInterestExtractor", "sequence", {}),
        ("DMR", "Item2ItemNetwork", "sequence", {}),
        ("DMR", "User2ItemNetwork", "sequence", {}),
    ],
)
def test_histories_are_encoded_once(monkeypatch, name, layer, argument, options, candidates):
    from keras_ctr import layers

    schema, seen = with_times(), []
    model = randomised(name, schema, **options)
    rows, request = encoded_request(schema, candidates)
    expected = model(rows, training=False)["click"]
    call = getattr(layers, layer).call
    signature = inspect.signature(call)

    @functools.wraps(call)
    def noting(*args, **kwargs):
        seen.append(int(signature.bind(*args, **kwargs).arguments[argument].shape[0]))
        return call(*args, **kwargs)

    monkeypatch.setattr(getattr(layers, layer), "call", noting)
    found = ranking.rank(model, request, candidates)["click"]
    assert np.ptp(expected) > 1e-5
    np.testing.assert_allclose(found, expected, atol=1e-6)
    if name == "OneTrans":  # all groups in one sequence
        assert set(seen) == ({N} if "liked_item" in candidates else {1}) and len(seen) == 3
    else:  # a layer for each group
        assert sorted(seen) == sorted([1, N if "liked_item" in candidates else 1])
