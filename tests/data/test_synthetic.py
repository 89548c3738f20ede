"""Synthetic click data: its form, its best AUC and log loss, strengths, drift, labels and splits."""

import dataclasses
import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import OneHotEncoder

from keras_ctr.data.synthetic import expected_auc, expected_log_loss, make_synthetic
from keras_ctr.data.synthetic_effects import EFFECTS
from keras_ctr.features import META_GROUP, META_TIME, Numeric, Sequence
from keras_ctr.schema import Schema
from tests.data.synthetic_probes import cells, field_names

ALL = dict.fromkeys(EFFECTS, 0.5)


def test_features_follow_the_schema():
    data = make_synthetic(
        503,
        seed=3,
        **ALL,
        num_fields=7,
        vocabulary_size=(13, 17, 19, 23, 29, 31, 37),
        irrelevant_fields=2,
        num_numerics=3,
        num_items=41,
        max_length=11,
        num_users=43,
        num_labels=2,
        empty_history=0.3,
    )
    schema = data.schema
    schema.check_fitted()
    assert Schema.from_json(schema.to_json()) == schema
    assert set(data.features) == {*schema.feature_names, META_GROUP, META_TIME}
    assert schema.feature_names[:2] == ("user_id", "item_id")
    assert [f.name for f in schema.features if f.name.startswith("noise")] == ["noise_0", "noise_1"]
    for feature in schema.features:
        values = data.features[feature.name]
        assert values.shape == (503, *schema.encoded_shape(feature.name))
        assert values.dtype == schema.encoded_dtype(feature.name)
        if not isinstance(feature, Numeric):
            size = schema.table_of(feature).vocabulary_size
            least = 0 if isinstance(feature, Sequence) else 2
            assert values.min() == least and values.max() < size
            assert 1 not in values
    assert schema["field_3"].vocabulary_size == 23 and schema["item_id"].vocabulary_size == 43
    assert schema["history"].target == "item_id" and schema.table_of("history").name == "item_id"
    for key in (META_GROUP, META_TIME):
        assert data.features[key].dtype == np.int64 and data.features[key].shape == (503,)
    np.testing.assert_array_equal(data.features["user_id"], data.features[META_GROUP] + 2)
    assert np.all(np.diff(data.features[META_TIME]) > 0)
    assert schema.label_names == ("click", "label_2")
    for label in schema.label_names:
        assert data.labels[label].shape == (503, 1) and data.labels[label].dtype == np.float32
        assert set(np.unique(data.labels[label])) == {0.0, 1.0}
        assert data.probability[label].shape == (503,)
    history = data.features["history"]
    lengths = (history != 0).sum(axis=1)
    np.testing.assert_array_equal(history != 0, np.arange(11) < lengths[:, None])  # padded after the end
    assert abs((lengths == 0).mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 503)
    assert set(lengths) == set(range(12))


def test_items_and_histories_are_there_only_when_wanted():
    assert not make_synthetic(31, seed=0, linear=1.0).schema.sequences
    assert make_synthetic(31, seed=0, sequence=1.0).schema["history"].max_length == 20
    schema = make_synthetic(31, seed=0, linear=1.0, max_length=5).schema
    assert schema["history"].max_length == 5 and "item_id" in schema and "user_id" not in schema


def test_same_seed_same_data_other_seed_other_data():
    first, again, other = (make_synthetic(211, seed=seed, **ALL, num_labels=2, drift=0.5) for seed in (7, 7, 8))
    for part in ("features", "labels", "probability"):
        for name, values in getattr(first, part).items():
            np.testing.assert_array_equal(values, getattr(again, part)[name])
            assert not np.array_equal(values, getattr(other, part)[name]), name


def test_groups_are_users_of_uneven_activity():
    counts = np.bincount(make_synthetic(5003, seed=0, num_users=53).features[META_GROUP], minlength=53)
    expected = 5003 / (5 + np.arange(53)) / (1 / (5 + np.arange(53))).sum()
    assert counts.min() > 0 and np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))


def test_what_is_off_has_no_influence():
    nothing = make_synthetic(101, seed=1, base_rate=0.3)
    np.testing.assert_allclose(nothing.probability["click"], 0.3, rtol=1e-12)
    assert nothing.contributions == {"click": {}}
    one = make_synthetic(211, seed=1, pairwise=1.0, max_length=5)
    more = make_synthetic(211, seed=1, pairwise=1.0, max_length=5, irrelevant_fields=7, linear=0.7, sequence=1.3, num_numerics=2)
    for name in one.features:
        np.testing.assert_array_equal(one.features[name], more.features[name])
    np.testing.assert_array_equal(one.contributions["click"]["pairwise"], more.contributions["click"]["pairwise"])


@pytest.mark.parametrize("drift", [0.0, 1.3])
@pytest.mark.parametrize("num_labels", [1, 3])
def test_strength_is_the_standard_deviation_of_the_contribution(drift, num_labels):
    strengths = {name: 0.3 + 0.15 * index for index, name in enumerate(EFFECTS)}
    rates = (0.2, 0.5, 0.03)[:num_labels]
    data = make_synthetic(1009, seed=5, **strengths, num_labels=num_labels, drift=drift, base_rate=rates, num_numerics=2)
    for label, rate in zip(data.schema.label_names, rates, strict=True):
        contributions = data.contributions[label]
        assert {name: round(values.std(), 9) for name, values in contributions.items()} == pytest.approx(strengths)
        logit = np.log(data.probability[label] / (1 - data.probability[label]))
        np.testing.assert_allclose(logit, sum(contributions.values()) + data.planted.intercept[label], rtol=1e-9)
        assert data.probability[label].mean() == pytest.approx(rate, rel=1e-9)


def test_click_rate_is_the_mean_probability():
    data = make_synthetic(20_011, seed=2, linear=0.5, pairwise=1.0, sequence=1.0)
    p, y = data.probability["click"], data.labels["click"][:, 0]
    for rows in (slice(None), *np.array_split(np.argsort(p), 10)):
        error = math.sqrt((p[rows] * (1 - p[rows])).sum())
        assert abs(y[rows].sum() - p[rows].sum()) < 4 * error


def test_best_auc_and_log_loss_are_what_the_true_probabilities_get():
    data = make_synthetic(20_011, seed=4, linear=1.0, pairwise=1.0, num_labels=2)
    for label in data.schema.label_names:
        p, y = data.probability[label], data.labels[label][:, 0]
        assert roc_auc_score(y, p) == pytest.approx(data.best_auc(label), abs=0.015)
        assert log_loss(y, p) == pytest.approx(data.best_log_loss(label), abs=0.015)
    assert data.best_auc() == data.best_auc("click") != data.best_auc("label_2")
    with pytest.raises(KeyError, match="label_2"):
        data.best_auc("labl_2")


@pytest.mark.parametrize("kind", ["plain", "ties", "certain"])
def test_expected_auc_against_all_pairs(kind):
    rng = np.random.default_rng(0)
    p = rng.random(67)
    if kind == "ties":
        p = rng.integers(1, 6, size=67) / 7
    if kind == "certain":
        p[:13], p[13:20] = 0.0, 1.0
    correct = pairs = 0.0
    for i in range(67):
        for j in range(67):
            if i != j:
                weight = p[i] * (1 - p[j])
                pairs += weight
                correct += weight * (1.0 if p[i] > p[j] else 0.5 if p[i] == p[j] else 0.0)
    assert expected_auc(p) == pytest.approx(correct / pairs, rel=1e-12)


def test_expected_auc_is_the_mean_over_draws():
    rng = np.random.default_rng(1)
    p = rng.random(211)
    draws = [roc_auc_score(rng.random(211) < p, p) for _ in range(300)]
    assert expected_auc(p) == pytest.approx(np.mean(draws), abs=4 * np.std(draws) / math.sqrt(300))


def test_bounds_of_certain_and_uninformed_rows():
    assert expected_auc([0.0, 0.0, 1.0]) == 1.0
    assert expected_auc([0.3, 0.3]) == 0.5
    assert expected_log_loss([0.0, 1.0]) == 0.0
    assert expected_log_loss([0.5, 0.0]) == pytest.approx(math.log(2) / 2)
    assert expected_log_loss([0.2]) == pytest.approx(-0.2 * math.log(0.2) - 0.8 * math.log(0.8))
    for hopeless in ([0.0, 0.0], [1.0], [0.4]):
        with pytest.raises(ValueError, match="expected_auc"):
            expected_auc(hopeless)


@pytest.mark.parametrize(("drift", "low", "high"), [(0.0, 0.85, 1.0), (1.0, -0.45, 0.45), (2.0, -1.0, -0.8)])
def test_drift_turns_the_coefficients(drift, low, high):
    data = make_synthetic(60_013, seed=20, linear=1.5, drift=drift, num_fields=5, vocabulary_size=10, base_rate=0.5)
    encoder = OneHotEncoder().fit(cells(data, [(name,) for name in field_names(data)]))
    first, _, last = data.split((0.1, 0.8, 0.1))
    coefficients = [
        LogisticRegression(C=1.0, max_iter=200)
        .fit(encoder.transform(cells(part, [(name,) for name in field_names(part)])), part.labels["click"][:, 0])
        .coef_[0]
        for part in (first, last)
    ]
    assert low < np.corrcoef(coefficients)[0, 1] < high


@pytest.mark.parametrize("effect", EFFECTS)
def test_every_effect_drifts(effect):
    def contributions_at(data, time):
        return data.planted.contributions({**data.features, META_TIME: np.full(data.num_rows, time)})["click"][effect]

    for drift, expected in ((0.0, 1.0), (1.0, 0.0), (2.0, -1.0)):
        data = make_synthetic(503, seed=21, **{effect: 1.0}, drift=drift)
        time = data.features[META_TIME]
        correlation = np.corrcoef(contributions_at(data, time[0]), contributions_at(data, time[-1]))[0, 1]
        assert correlation == pytest.approx(expected, abs=0.6 if drift == 1.0 else 1e-9)


@pytest.mark.parametrize("correlation", [0.0, 0.4, 1.0])
def test_task_correlation(correlation):
    data = make_synthetic(20_011, seed=22, linear=1.5, pairwise=1.5, num_labels=3, task_correlation=correlation, base_rate=0.5)
    for effect in ("linear", "pairwise"):
        shares = np.stack([data.contributions[label][effect] for label in data.schema.label_names])
        np.testing.assert_allclose(np.corrcoef(shares), np.full((3, 3), correlation) + (1 - correlation) * np.eye(3), atol=1e-9)
    y = np.concatenate([data.labels[label] for label in data.schema.label_names], axis=1)
    p = np.stack([data.probability[label] for label in data.schema.label_names], axis=1)
    drawn, expected = np.cov(y, rowvar=False), np.cov(p, rowvar=False)
    for a, b in ((0, 1), (0, 2), (1, 2)):  # labels are related through the probabilities and in no other way
        assert drawn[a, b] == pytest.approx(expected[a, b], abs=4 * 0.25 / math.sqrt(20_011))
        assert expected[a, b] == pytest.approx(correlation * expected[a, a], abs=0.01)


def test_split_is_by_time_and_complete():
    data = make_synthetic(1009, seed=23, linear=1.0, sequence=1.0, num_labels=2)
    parts = data.split((0.7, 0.2, 0.1))
    assert [part.num_rows for part in parts] == [706, 202, 101]
    assert all(a.features[META_TIME][-1] < b.features[META_TIME][0] for a, b in zip(parts, parts[1:], strict=False))
    for kind in ("features", "labels", "probability"):
        for name, values in getattr(data, kind).items():
            np.testing.assert_array_equal(np.concatenate([getattr(part, kind)[name] for part in parts]), values)
    for part in parts:
        assert part.best_auc("label_2") == expected_auc(part.probability["label_2"])
        rescored = part.planted.probability(part.features)
        np.testing.assert_allclose(rescored["click"], part.probability["click"], rtol=1e-12)
        assert {key: len(v) for key, v in part.contributions["click"].items()} == {"linear": part.num_rows, "sequence": part.num_rows}
    for fractions in ((0.5, 0.4), (1.2, -0.2), (), (0.9999, 0.0001)):
        with pytest.raises(ValueError, match="fractions"):
            data.split(fractions)


def test_data_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_synthetic(11, seed=0).schema = None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pairwise": -1.0}, "pairwise must be"),
        ({"linear": math.nan}, "linear must be"),
        ({"drift": math.inf}, "drift must be"),
        ({"num_rows": 0}, "num_rows must be"),
        ({"seed": -1}, "seed must be"),
        ({"num_labels": 1.5}, "num_labels must be"),
        ({"base_rate": 0.0}, "base_rate must be"),
        ({"base_rate": (0.1, 0.2)}, "base_rate has 2 values for num_labels=1"),
        ({"task_correlation": 1.1}, "task_correlation must be"),
        ({"empty_history": 1.0}, "empty_history must be"),
        ({"half_life": 0}, "half_life must be"),
        ({"num_interests": 300}, "num_interests=300 is more than num_items=64"),
        ({"vocabulary_size": 5}, "vocabulary_size .* must be an int >= 6"),
        ({"vocabulary_size": (10, 10)}, "vocabulary_size has 2 values for num_fields=10"),
        ({"sequence": 1.0, "max_length": 0}, "max_length=0, but sequence read"),
        ({"order_matters": 1.0, "max_length": 1}, "max_length must be an int >= 2"),
        ({"transitions": 1.0, "max_length": 1}, "max_length must be an int >= 2"),
        ({"third_order": 1.0, "num_fields": 2}, "third_order has no fields"),
        ({"pairwise": 1.0, "num_fields": 1}, "pairwise has no fields"),
        ({"instance_dependent": 1.0, "num_fields": 2}, "instance_dependent has no fields"),
        (
            {"instance_dependent": 1.0, "gate_fields": (0, 8, 9), "pairs": [(0, 1)]},
            r"gate_fields \(0, 8, 9\) must be outside the pairs .* \[0\]",
        ),
        ({"instance_dependent": 1.0, "gate_fields": (8, 9)}, "odd number"),
        ({"pairs": [(0, 0)]}, r"pairs: \(0, 0\)"),
        ({"pairs": [(0, 10)]}, r"pairs: \(0, 10\) must be 2 different field indices below num_fields=10"),
        ({"pairs": [(0, 1), (1, 0)]}, "pairs has repeated"),
        ({"linear": 1.0, "num_rows": 1}, "effect 'linear' is the same on all 1 rows"),
        ({"pairwise": 1.0, "num_labels": 3, "vocabulary_size": 4, "rank": 1, "num_fields": 2}, "effect 'pairwise' has too few values"),
    ],
)
def test_errors_name_the_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_synthetic(**{"num_rows": 101, "seed": 0, **arguments})
