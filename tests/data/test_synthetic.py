"""Synthetic click data: what is planted is there, what is not planted is not, and the best AUC and log loss are right."""

import dataclasses
import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import OneHotEncoder

from keras_ctr.data.synthetic import expected_auc, expected_log_loss, make_synthetic
from keras_ctr.data.synthetic_effects import EFFECTS, HISTORY_EFFECTS, recency
from keras_ctr.features import META_GROUP, META_TIME, Numeric, Sequence
from keras_ctr.schema import Schema

ALL = dict.fromkeys(EFFECTS, 0.5)


def field_names(data):
    return [name for name in data.schema.feature_names if name.startswith("field_")]


def cells(data, groups):
    """One id per combination of the fields of each group: (n, len(groups))."""
    columns = []
    for group in groups:
        column = np.zeros(data.num_rows, np.int64)
        for name in group:
            column = column * 1009 + data.features[name]
        columns.append(column)
    return np.stack(columns, axis=1)


def auc_of_logistic_regression(data, groups, label="click"):
    """Test AUC of a logistic regression on the one-hot combinations of the fields of each group, trained on the older three quarters."""
    train, test = data.split((0.75, 0.25))
    encoder = OneHotEncoder(handle_unknown="ignore").fit(cells(train, groups))
    model = LogisticRegression(C=1.0, max_iter=200).fit(encoder.transform(cells(train, groups)), train.labels[label][:, 0])
    return roc_auc_score(test.labels[label][:, 0], model.decision_function(encoder.transform(cells(test, groups)))), test


def auc_of_oracle(data, effect):
    """Test AUC of a logistic regression whose one feature is the planted contribution of an effect, and the best AUC there."""
    train, test = data.split((0.75, 0.25))
    model = LogisticRegression().fit(train.contributions["click"][effect][:, None], train.labels["click"][:, 0])
    score = model.decision_function(test.contributions["click"][effect][:, None])
    return roc_auc_score(test.labels["click"][:, 0], score), test.best_auc()


def changed(data, **features):
    return {**data.features, **features}


def over_all_values(data, effect, name, row):
    """Contributions of an effect to one row, for every value that one feature can take."""
    size = data.schema.table_of(name).vocabulary_size
    rows = {key: np.repeat(value[row : row + 1], size - 2, axis=0) for key, value in data.features.items()}
    rows[name] = np.arange(2, size, dtype=np.int32)
    return data.planted.contributions(rows)["click"][effect]


def shuffled_history(data, rng):
    """Histories whose events are permuted and whose padding stays after the end."""
    history = data.features["history"]
    keys = np.where(history == 0, 2.0, rng.random(history.shape))
    return np.take_along_axis(history, np.argsort(keys, axis=1), axis=1)


# ------------------------------------------------------------------------------------------------------------------- form of the data


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


# ------------------------------------------------------------------------------------------------------------- probabilities and bounds


@pytest.mark.parametrize("drift", [0.0, 1.3])
@pytest.mark.parametrize("num_labels", [1, 3])
def test_strength_is_the_standard_deviation_of_the_contribution(drift, num_labels):
    strengths = {name: 0.3 + 0.2 * index for index, name in enumerate(EFFECTS)}
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


# ------------------------------------------------------------------------------------------------------------------ fields and their order


def test_linear_effects_are_all_that_logistic_regression_needs():
    data = make_synthetic(20_011, seed=6, linear=1.0, num_fields=7, vocabulary_size=18)
    auc, test = auc_of_logistic_regression(data, [(name,) for name in field_names(data)])
    assert test.best_auc() > 0.7
    assert auc == pytest.approx(test.best_auc(), abs=0.015)


def test_numeric_features_are_linear():
    data = make_synthetic(10_007, seed=6, linear=1.0, num_fields=1, vocabulary_size=6, num_numerics=5, base_rate=0.5)
    before = data.planted.contributions(data.features)["click"]["linear"]
    steps = []
    for step in (1.0, 2.0):
        after = data.planted.contributions(changed(data, numeric_2=data.features["numeric_2"] + np.float32(step)))["click"]["linear"]
        assert np.ptp(after - before) < 1e-5
        steps.append((after - before).mean())
    assert steps[1] == pytest.approx(2 * steps[0], rel=1e-4) and abs(steps[0]) > 1e-3


@pytest.mark.parametrize("base_rate", [0.5, 0.1])
def test_pairwise_interactions_are_invisible_to_logistic_regression(base_rate):
    data = make_synthetic(40_009, seed=6, pairwise=1.5, num_fields=7, vocabulary_size=10, base_rate=base_rate)
    single = [(name,) for name in field_names(data)]
    auc, test = auc_of_logistic_regression(data, single)
    assert abs(auc - 0.5) < 0.03
    oracle, best = auc_of_oracle(data, "pairwise")
    assert best > 0.75 and oracle == pytest.approx(best, abs=0.015)
    crossed, _ = auc_of_logistic_regression(data, [("field_0", "field_1"), ("field_2", "field_3")])
    assert crossed == pytest.approx(best, abs=0.015)


def test_third_order_interactions_are_invisible_to_pairwise_models():
    data = make_synthetic(
        30_011, seed=8, third_order=1.5, pairwise=0.0, num_fields=5, vocabulary_size=6, base_rate=0.3, triples=[(0, 2, 3)]
    )
    names = field_names(data)
    pairs = [(a, b) for index, a in enumerate(names) for b in names[index + 1 :]]
    auc, test = auc_of_logistic_regression(data, pairs)
    assert abs(auc - 0.5) < 0.03
    triple, _ = auc_of_logistic_regression(data, [("field_0", "field_2", "field_3")])
    assert test.best_auc() > 0.75 and triple == pytest.approx(test.best_auc(), abs=0.015)


@pytest.mark.parametrize(("effect", "fields"), [("pairwise", (0, 1, 2, 3)), ("third_order", (0, 1, 2))])
def test_interactions_average_to_zero_over_each_field(effect, fields):
    data = make_synthetic(
        211, seed=9, **{effect: 1.0}, num_fields=7, vocabulary_size=14, pairs=[(0, 1), (2, 3)], triples=[(0, 1, 2)], rank=2
    )
    for row in range(5):
        for field in fields:
            values = over_all_values(data, effect, f"field_{field}", row)
            assert np.ptp(values) > 0.1
            if effect == "third_order":
                assert abs(values.mean()) < 1e-9
            else:  # of the two pairs, only the one without the field is left
                pair = (0, 1) if field in (2, 3) else (2, 3)
                rest = changed(data, **{f"field_{f}": np.zeros(211, np.int32) for f in range(4) if f not in pair})
                assert values.mean() == pytest.approx(data.planted.contributions(rest)["click"][effect][row], abs=1e-9)
    for field in set(range(7)) - set(fields):
        assert np.ptp(over_all_values(data, effect, f"field_{field}", 0)) == 0.0


def test_gate_flips_the_pairwise_interactions():
    data = make_synthetic(5003, seed=10, pairwise=1.0, instance_dependent=1.0, num_fields=7, vocabulary_size=10)
    static, gated = (data.contributions["click"][name] for name in ("pairwise", "instance_dependent"))
    assert data.planted.layout.gate_fields == (4, 5, 6)
    np.testing.assert_allclose(np.abs(gated), np.abs(static), rtol=0.01, atol=1e-12)  # rtol: the two are scaled by their own deviations
    planted = data.planted.contributions
    pairs_only = planted(changed(data, **{f"field_{f}": np.roll(data.features[f"field_{f}"], 1) for f in range(4)}))["click"]
    both = (np.abs(static) > 0.1) & (np.abs(pairs_only["pairwise"]) > 0.1)  # where a sign can be seen before and after
    gates = np.sign(pairs_only["instance_dependent"] * pairs_only["pairwise"])
    assert both.sum() > 1000
    np.testing.assert_array_equal(gates[both], np.sign(gated * static)[both])  # the gate is no function of the fields of the pairs
    gates_only = changed(data, **{f"field_{f}": np.roll(data.features[f"field_{f}"], 1) for f in (4, 5, 6)})
    rolled = planted(gates_only)["click"]
    np.testing.assert_array_equal(rolled["pairwise"], static)
    flipped = np.sign(rolled["instance_dependent"]) != np.sign(gated)
    assert 0.4 < flipped[static != 0].mean() < 0.6


def test_static_interactions_do_not_see_the_gated_ones():
    data = make_synthetic(20_011, seed=10, instance_dependent=1.5, num_fields=7, vocabulary_size=6, base_rate=0.5)
    names = field_names(data)
    pairs = [(a, b) for index, a in enumerate(names) for b in names[index + 1 :]]
    auc, _ = auc_of_logistic_regression(data, pairs)
    assert abs(auc - 0.5) < 0.03
    oracle, best = auc_of_oracle(data, "instance_dependent")
    assert best > 0.75 and oracle == pytest.approx(best, abs=0.015)


def test_irrelevant_fields_are_independent_of_the_probability():
    data = make_synthetic(20_011, seed=11, linear=1.0, pairwise=1.0, irrelevant_fields=30, vocabulary_size=10)
    rng = np.random.default_rng(0)
    shuffled = changed(data, **{f"noise_{f}": rng.permutation(data.features[f"noise_{f}"]) for f in range(30)})
    np.testing.assert_array_equal(data.planted.probability(shuffled)["click"], data.probability["click"])
    auc, _ = auc_of_logistic_regression(data, [(f"noise_{f}",) for f in range(30)])
    assert abs(auc - 0.5) < 0.03
    for f in range(30):  # and none repeats a field
        for name in field_names(data):
            assert (data.features[f"noise_{f}"] == data.features[name]).mean() < 0.2


def test_user_effect_is_constant_within_a_user():
    data = make_synthetic(2003, seed=12, user=1.0, num_users=29)
    order = np.argsort(data.features[META_GROUP], kind="stable")
    groups, values = data.features[META_GROUP][order], data.contributions["click"]["user"][order]
    same = np.diff(groups) == 0
    assert np.all(np.diff(values)[same] == 0) and np.all(np.diff(values)[~same] != 0)


# --------------------------------------------------------------------------------------------------------------------------- histories


def test_recency_against_a_loop():
    history = np.array([[3, 5, 2, 0, 0], [0, 0, 0, 0, 0], [7, 7, 7, 7, 7], [2, 0, 0, 0, 0]])
    expected = np.zeros((4, 5))
    for row, length in enumerate((3, 0, 5, 1)):
        for t in range(length):
            expected[row, t] = 2.0 ** (-(length - 1 - t) / 1.7)
        if length:
            expected[row] /= math.sqrt((expected[row] ** 2).sum())
    np.testing.assert_allclose(recency(history, 1.7), expected, rtol=1e-12)
    # On whichever side the padding stands.
    np.testing.assert_allclose(recency(np.array([[0, 0, 3, 5, 2]]), 1.7), np.roll(expected[:1], 2, axis=1), rtol=1e-12)


def test_history_effects_against_loops():
    data = make_synthetic(
        211, seed=13, sequence=1.0, order_matters=1.0, transitions=1.0, num_items=38, max_length=7, num_interests=5, half_life=2.0
    )
    match = data.planted._worlds["sequence"][0][0]
    order, turn = (data.planted._worlds[name][0][0] for name in ("order_matters", "transitions"))
    share = [np.mean(match.kinds[2:] == kind) for kind in range(1, 6)]
    assert min(share) > 0 and sum(share) == pytest.approx(1)
    expected = {name: np.zeros(211) for name in ("sequence", "order_matters", "transitions")}
    for row in range(211):
        events = [event for event in data.features["history"][row] if event]
        kind = match.kinds[data.features["item_id"][row]] - 1
        weights = [0.5 ** ((len(events) - 1 - t) / 2.0) for t in range(len(events))]
        for event, weight in zip(events, weights, strict=True):
            other = match.kinds[event] - 1
            value = (kind == other) - share[kind] - share[other] + sum(s * s for s in share)
            expected["sequence"][row] += weight * value / math.sqrt(sum(w * w for w in weights))
        for before, after in zip(events, events[1:], strict=False):
            step = (turn.kinds[after] - turn.kinds[before]) % 4
            expected["transitions"][row] += {0: 0.0, 1: 1.0, 2: 0.0, 3: -1.0}[step] / math.sqrt(len(events) - 1)
        if len(events) > 1:
            norm = math.sqrt(sum((2 * t + 1 - len(events)) ** 2 for t in range(len(events))))
            for late in range(len(events)):
                for early in range(late):
                    expected["order_matters"][row] += (order.kind[events[late]] - order.kind[events[early]]) / norm
    for name, values in expected.items():
        np.testing.assert_allclose(data.contributions["click"][name], values / values.std(), atol=1e-9)


def test_candidate_alone_and_history_alone_tell_nothing():
    data = make_synthetic(503, seed=14, sequence=1.0, num_items=37, max_length=7)
    for row in range(11):
        values = over_all_values(data, "sequence", "item_id", row)
        assert abs(values.mean()) < 1e-9
        assert (np.ptp(values) > 0.1) == (data.features["history"][row, 0] != 0)
    single = data.features["history"].copy()
    single[:, 1:] = 0
    for event in (2, 3):  # and over all events, for a fixed candidate
        rows = {key: np.repeat(value[event : event + 1], 37, axis=0) for key, value in data.features.items()}
        rows["history"] = np.zeros((37, 7), np.int32)
        rows["history"][:, 0] = np.arange(2, 39)
        assert abs(data.planted.contributions(rows)["click"]["sequence"].mean()) < 1e-9


def test_recent_events_matter_most():
    data = make_synthetic(5003, seed=15, sequence=1.0, max_length=7, half_life=1.5, empty_history=0.0)
    history = data.features["history"]
    full = history[:, -1] != 0
    influence = []
    for t in range(7):
        other = history.copy()
        other[:, t] = np.where(history[:, t] != 0, np.roll(history[:, t] - 2, 1) % 64 + 2, 0)
        change = data.planted.contributions(changed(data, history=other))["click"]["sequence"] - data.contributions["click"]["sequence"]
        influence.append(change[full].std())
    assert influence[-1] / influence[-4] == pytest.approx(2.0**2, rel=0.25)  # three events back, two half lives
    assert np.all(np.diff(influence) > 0)


def test_permuting_events_changes_probabilities_only_where_order_matters():
    def change(**effects):
        data = make_synthetic(503, seed=16, max_length=11, **effects)
        shuffled = changed(data, history=shuffled_history(data, np.random.default_rng(0)))
        return np.abs(data.planted.probability(shuffled)["click"] - data.probability["click"]), data.features["history"]

    alike, _ = change(sequence=1.0, bidirectional=1.0, half_life=math.inf)
    assert alike.max() < 1e-12
    for effects in ({"order_matters": 1.0}, {"transitions": 1.0}, {"sequence": 1.0, "half_life": 2.0}):
        differs, history = change(**effects)
        assert differs[history[:, 2] != 0].mean() > 0.01
        assert differs[history[:, 1] == 0].max() < 1e-12  # one event or none: nothing to permute


@pytest.mark.parametrize("effect", ["order_matters", "transitions"])
def test_reversing_a_history_flips_the_order_effects(effect):
    data = make_synthetic(503, seed=17, **{effect: 1.0}, max_length=11)
    reversed_history = data.features["history"][:, ::-1]  # padding now stands in front
    flipped = data.planted.contributions(changed(data, history=reversed_history))["click"][effect]
    np.testing.assert_allclose(flipped, -data.contributions["click"][effect], atol=1e-12)


def test_empty_histories_contribute_nothing():
    effects = dict.fromkeys(HISTORY_EFFECTS, 1.0)
    data = make_synthetic(2003, seed=18, **effects, num_labels=2, drift=0.7, empty_history=0.2)
    empty = data.features["history"][:, 0] == 0
    assert abs(empty.mean() - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 2003)
    for label in data.schema.label_names:
        for name, values in data.contributions[label].items():
            assert np.all(values[empty] == 0), name
            assert np.mean(values[~empty] != 0) > 0.5, name
        np.testing.assert_allclose(np.ptp(data.probability[label][empty]), 0.0, atol=1e-12)


def test_bidirectional_needs_both_flows():
    data = make_synthetic(1009, seed=19, bidirectional=1.0, pairwise=1.0, sequence=1.0, num_fields=5, vocabulary_size=10, num_items=64)
    planted = data.planted.contributions
    total = data.contributions["click"]["bidirectional"]
    # Averaged over all candidates, the flow from fields to sequence is gone; what is left is the flow from sequence to fields.
    size = 64
    to_fields = np.zeros(1009)
    for item in range(2, size + 2):
        to_fields += planted(changed(data, item_id=np.full(1009, item, np.int32)))["click"]["bidirectional"] / size
    to_sequence = total - to_fields
    assert to_fields.var() == pytest.approx(0.5, abs=0.12) and to_sequence.var() == pytest.approx(0.5, abs=0.12)
    # The context field flips the one, the history scales the other: zero on average over the context field or over mirrored histories.
    assert data.planted.layout.gate_fields == (2, 3, 4)
    mean = sum(planted(changed(data, field_4=np.full(1009, value, np.int32)))["click"]["bidirectional"] for value in range(2, 10)) / 8
    np.testing.assert_allclose(mean, to_fields, atol=1e-9)
    # Neither the static interactions nor the static match explain it.
    for other in ("pairwise", "sequence"):
        assert abs(np.corrcoef(total, data.contributions["click"][other])[0, 1]) < 4 / math.sqrt(1009)
    # The flow to the fields is the pairwise effect times a number that only the history decides.
    other_pair = changed(data, field_0=np.roll(data.features["field_0"], 1))
    static, rolled = data.contributions["click"]["pairwise"], planted(other_pair)["click"]["pairwise"]
    flow = planted(other_pair)["click"]["bidirectional"] - to_sequence
    both = (np.abs(static) > 0.1) & (np.abs(rolled) > 0.1)
    np.testing.assert_allclose((flow / np.where(both, rolled, 1))[both], (to_fields / np.where(both, static, 1))[both], atol=1e-9)


# --------------------------------------------------------------------------------------------------------------- drift, labels, splits


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
