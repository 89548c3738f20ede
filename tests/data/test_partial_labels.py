"""Labels whose outcome is unknown in some rows: from the raw column to the loss of a model and its metrics."""

import json

import keras
import numpy as np
import pyarrow as pa
import pytest

from keras_ctr import Label, Schema, SchemaError, models
from keras_ctr.callbacks import RankingMetrics
from keras_ctr.cli.runs import evaluate, score
from keras_ctr.data.encode import EncodedBatch, Encoder, EncodingError
from keras_ctr.data.manifest import PreparedData, write_manifest
from keras_ctr.data.pipeline import make_dataset, parse_examples
from keras_ctr.data.tfrecord import write_split
from keras_ctr.schema import Categorical
from tests.sample import fields_schema, random_rows

CLICK, BUY, RATING = Label("click"), Label("buy", given="click"), Label("rated_well", optional=True)


def log_schema(*labels):
    return Schema([Categorical("item", dtype="int64", vocabulary_size=7)], labels)


def outcomes(*labels, **columns):
    """Encodes rows with the given label columns; returns `{label: list}`."""
    rows = len(next(iter(columns.values())))
    table = pa.table({"item": [0] * rows, **columns})
    return {name: values[:, 0] for name, values in Encoder(log_schema(*labels)).encode(table).labels.items()}


def test_null_of_an_optional_label_is_unknown():
    found = outcomes(RATING, rated_well=[1, None, 0, None])["rated_well"]
    np.testing.assert_array_equal(found, [1, np.nan, 0, np.nan])
    np.testing.assert_array_equal(outcomes(RATING, rated_well=[None, None])["rated_well"], [np.nan, np.nan])  # Arrow type null


def test_null_of_another_label_is_an_error_that_says_how_to_declare_it():
    with pytest.raises(EncodingError, match=r"label 'click': None at row 1 .* is neither 0 nor 1.*optional=True"):
        outcomes(CLICK, click=[1, None])


def test_label_given_another_is_unknown_where_that_is_not_one():
    found = outcomes(CLICK, BUY, click=[1, 1, 0, 0, 0], buy=[1, 0, 0, None, 1])
    np.testing.assert_array_equal(found["click"], [1, 1, 0, 0, 0])
    np.testing.assert_array_equal(found["buy"], [1, 0, np.nan, np.nan, np.nan])


def test_chain_of_conditions():
    returned = Label("returned", given="buy")
    found = outcomes(CLICK, BUY, returned, click=[1, 1, 0, 1], buy=[1, 0, 1, 1], returned=[1, 1, 1, 0])
    np.testing.assert_array_equal(found["returned"], [1, np.nan, np.nan, 0])


def test_null_where_the_condition_holds_is_an_error_unless_optional():
    with pytest.raises(EncodingError, match="label 'buy' has no value at row 1 .*, where 'click' is 1"):
        outcomes(CLICK, BUY, click=[0, 1], buy=[None, None])
    both = outcomes(CLICK, Label("buy", given="click", optional=True), click=[0, 1], buy=[None, None])
    assert np.isnan(both["buy"]).all()


def test_schema_checks_and_round_trip():
    schema = log_schema(CLICK, BUY, Label("like", rate=0.017))
    assert Schema.from_json(schema.to_json()) == schema
    assert json.loads(log_schema(CLICK).to_json())["labels"] == [{"name": "click"}]
    assert not CLICK.partial and BUY.partial and RATING.partial
    with pytest.raises(SchemaError, match="label 'buy' is given 'clik', which is no label"):
        log_schema(CLICK, Label("buy", given="clik"))
    with pytest.raises(SchemaError, match="circle"):
        log_schema(Label("a", given="b"), Label("b", given="a"))
    with pytest.raises(SchemaError, match="given itself"):
        Label("a", given="a")
    for rate in (0, 1, 1.5, True, "x"):
        with pytest.raises(SchemaError, match="label 'a': rate must be the share of ones"):
            Label("a", rate=rate)


def test_selecting_without_the_condition_keeps_the_label_partial():
    kept = log_schema(CLICK, BUY).select(labels=["buy"])
    assert kept.labels == (Label("buy", optional=True),)


def partial_schema():
    return fields_schema(labels=(CLICK, BUY))


def rows_with_unknown(count, seed=0):
    """Random encoded rows; `buy` is unknown where `click` is 0."""
    x, y = random_rows(partial_schema(), count, seed)
    y["buy"] = np.where(y["click"] == 1, y["buy"], np.float32(np.nan))
    return x, y


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("partial")
    partial_schema().save(folder / "schema.json")
    entries = {}
    for seed, split in enumerate(("train", "validation")):
        batch = EncodedBatch(*rows_with_unknown(211, seed))
        entries[split] = write_split(folder, split, [batch], partial_schema(), num_shards=2, total_rows=211)
    write_manifest(folder, entries)
    return PreparedData(folder)


def test_manifest_counts_known_rows_only(data):
    _, y = rows_with_unknown(211)
    known = ~np.isnan(y["buy"])
    entry = data.entry("train")
    assert entry["label_rate"]["buy"] == pytest.approx(y["buy"][known].mean(), rel=1e-6)
    assert entry["label_rate"]["click"] == pytest.approx(y["click"].mean(), rel=1e-6)
    assert entry["label_known"] == {"buy": pytest.approx(known.mean())}


def test_split_without_any_outcome_warns(tmp_path):
    x, y = rows_with_unknown(7)
    y["buy"] = np.full_like(y["buy"], np.nan)
    with pytest.warns(UserWarning, match="label 'buy' is unknown in all 7 rows"):
        entry = write_split(tmp_path, "test", [EncodedBatch(x, y)], partial_schema())
    assert entry["label_rate"]["buy"] is None and "buy" in entry["one_class"]


@pytest.mark.parametrize("cache", [False, True])
def test_batches_have_weights(data, cache):
    _, expected = rows_with_unknown(211)
    batches = list(make_dataset(data, "train", batch_size=53, cache=cache))
    weights = {name: np.concatenate([np.asarray(w[name]) for _, _, w in batches]) for name in ("click", "buy")}
    labels = {name: np.concatenate([np.asarray(y[name]) for _, y, _ in batches]) for name in ("click", "buy")}
    np.testing.assert_array_equal(weights["click"], np.ones((211, 1)))
    np.testing.assert_array_equal(weights["buy"], ~np.isnan(expected["buy"]))
    np.testing.assert_array_equal(labels["buy"], np.nan_to_num(expected["buy"]))
    assert labels["buy"].shape == (211, 1)


def test_batches_have_weights_only_where_they_are_needed(data):
    assert len(next(iter(make_dataset(data, "train", batch_size=5, labels=["click"])))) == 2
    assert len(next(iter(make_dataset(data, "train", batch_size=5, labels=["buy"])))) == 3
    assert isinstance(next(iter(make_dataset(data, "train", batch_size=5, with_labels=False))), dict)


def test_parsed_examples_have_weights(data):
    from keras_ctr.data.example import serialize_examples

    x, y = rows_with_unknown(5)
    _, labels, weights = parse_examples(serialize_examples(EncodedBatch(x, y), partial_schema()), partial_schema())
    np.testing.assert_array_equal(weights["buy"], ~np.isnan(y["buy"]))
    np.testing.assert_array_equal(labels["buy"], np.nan_to_num(y["buy"]))


@pytest.mark.slow
def test_unknown_outcomes_move_no_weight_and_enter_no_metric(data):
    """Labels of unknown rows may be anything: training, Keras' loss and both roads to the metrics give the same numbers."""
    whole = list(make_dataset(data, "train", batch_size=211))
    (x, y, w) = whole[0]
    trained = []
    for filler in (0.0, 1.0):
        keras.utils.set_random_seed(3)
        model = models.DNN(partial_schema(), hidden_units=(11,))
        model.compile("sgd", "binary_crossentropy")
        filled = {name: np.where(np.asarray(w[name]) > 0, values, filler) for name, values in y.items()}
        ranking = RankingMetrics([(x, filled, w)])
        history = model.fit(x, filled, sample_weight=w, batch_size=211, epochs=2, verbose=0, callbacks=[ranking]).history
        trained.append((model.get_weights(), {name: values[-1] for name, values in history.items()}))
    for one, other in zip(trained[0][0], trained[1][0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert trained[0][1] == trained[1][1]
    found = evaluate(model, data, "train", batch_size=53)
    known = np.asarray(w["buy"])[:, 0] > 0
    assert found["buy"]["num_rows"] == known.sum() and found["click"]["num_rows"] == 211
    assert found["buy"]["auc"] == pytest.approx(trained[1][1]["val_buy_auc"], abs=1e-12)
    labels, _, _ = score(model, make_dataset(data, "train", batch_size=53))["buy"]
    np.testing.assert_array_equal(labels, np.asarray(y["buy"])[known, 0])


@pytest.mark.slow
def test_weighted_loss_is_the_sum_over_known_rows_divided_by_all(data):
    x, y, w = next(iter(make_dataset(data, "train", batch_size=211)))
    model = models.DNN(partial_schema(), hidden_units=(11,))
    model.compile("sgd", "binary_crossentropy")
    found = model.evaluate(x, y, sample_weight=w, batch_size=211, return_dict=True, verbose=0)
    p = np.asarray(model.predict_on_batch(x)["buy"], "float64")
    truth, known = np.asarray(y["buy"], "float64"), np.asarray(w["buy"])
    expected = -(known * (truth * np.log(p) + (1 - truth) * np.log(1 - p))).sum() / 211
    assert found["buy_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_model_starts_at_the_rate_of_a_label():
    schema = fields_schema(labels=(Label("click"), Label("like", rate=0.017)))
    model = models.DNN(schema, hidden_units=(11,))
    x, _ = random_rows(schema, 101)
    zeroed = [w * 0 if "logits" in v.path else w for v, w in zip(model.weights, model.get_weights(), strict=True)]
    model.set_weights(zeroed)
    p = model.predict(x, verbose=0)
    np.testing.assert_allclose(p["like"], 0.017, rtol=1e-5)
    np.testing.assert_allclose(p["click"], 0.5, rtol=1e-6)
    logit = models.DNN(schema, hidden_units=(11,), activation=None)
    logit.set_weights(zeroed)
    np.testing.assert_allclose(logit.predict(x, verbose=0)["like"], np.log(0.017 / 0.983), rtol=1e-5)
