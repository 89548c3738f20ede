"""Planted effects: what is planted is there, and what should be invisible to a kind of model is invisible to it."""

import math

import numpy as np
import pytest

from keras_ctr.data.synthetic import make_synthetic
from keras_ctr.data.synthetic_effects import HISTORY_EFFECTS, recency
from keras_ctr.features import META_GROUP
from tests.data.synthetic_probes import (
    auc_of_logistic_regression,
    auc_of_oracle,
    auc_of_truth,
    changed,
    field_names,
    over_all_values,
    shuffled_history,
)


def test_linear_effects_are_all_that_logistic_regression_needs():
    data = make_synthetic(20_011, seed=6, linear=1.0, num_fields=7, vocabulary_size=18)
    auc, test = auc_of_logistic_regression(data, [(name,) for name in field_names(data)])
    assert test.best_auc() > 0.7
    assert auc == pytest.approx(auc_of_truth(test), abs=0.015)


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
    data = make_synthetic(30_011, seed=8, third_order=1.5, num_fields=5, vocabulary_size=6, base_rate=0.3, triples=[(0, 2, 3)])
    names = field_names(data)
    pairs = [(a, b) for index, a in enumerate(names) for b in names[index + 1 :]]
    auc, test = auc_of_logistic_regression(data, pairs)
    assert abs(auc - 0.5) < 0.03
    triple, _ = auc_of_logistic_regression(data, [("field_0", "field_2", "field_3")])
    assert test.best_auc() > 0.75 and triple == pytest.approx(auc_of_truth(test), abs=0.015)


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
    effect = data.planted._worlds["instance_dependent"][0][0]
    votes = sum(sign[data.features[f"field_{f}"]] for f, sign in effect.gates)
    assert set(votes) == {-3.0, -1.0, 1.0, 3.0}
    np.testing.assert_array_equal(gate := np.where(votes > 0, 1.0, -1.0), effect.gate(data.features))
    np.testing.assert_array_equal(gate[both], gates[both])
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

    alike, _ = change(sequence=1.0, history_gated=1.0, bidirectional=1.0, half_life=math.inf)
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
    data = make_synthetic(1009, seed=19, bidirectional=1.0, pairwise=1.0, num_fields=5, num_items=48, num_interests=4, half_life=2.0)
    planted = data.planted.contributions
    total, static = (data.contributions["click"][name] for name in ("bidirectional", "pairwise"))
    effect = data.planted._worlds["bidirectional"][0][0]
    scale = 1 / data.planted._worlds["pairwise"][0][0](data.features).std()
    to_sequence, to_fields = np.zeros(1009), np.zeros(1009)
    for row in range(1009):
        events = [event for event in data.features["history"][row] if event]
        weights = [0.5 ** ((len(events) - 1 - t) / 2.0) for t in range(len(events))]
        context = data.features["field_4"][row]
        picked = [(w, effect.polarity[h]) for w, h in zip(weights, events, strict=True) if effect.kinds[h] == effect.picked[context]]
        if picked:
            to_sequence[row] = effect.sign[context] * sum(w * v for w, v in picked) / math.sqrt(sum(w * w for w, _ in picked))
        if events:
            taste = sum(w * effect.to_fields.taste[h] for w, h in zip(weights, events, strict=True)) / math.sqrt(
                sum(w * w for w in weights)
            )
            to_fields[row] = taste * static[row] / scale / math.sqrt(2)  # one pair of rank 2: variance 2 before scaling
    np.testing.assert_allclose(total, (to_sequence + to_fields) / (to_sequence + to_fields).std(), atol=1e-9)
    assert 0.5 < to_sequence.var() < 1.1 and 0.5 < to_fields.var() < 1.1
    # Each kind is picked by, and consists of, as many values of either sign.
    for kinds, signs in ((effect.kinds, effect.polarity), (effect.picked, effect.sign)):
        balance = [signs[kinds == kind].sum() for kind in range(1, 5)]
        assert balance == [0.0] * 4 and {kind for kind in kinds if kind} == {1, 2, 3, 4}
    # One flow is gone on average over the field that picks, the other if the fields of the pair are unknown; the candidate is in neither.
    without_pair = changed(data, field_0=np.ones(1009, np.int32))
    np.testing.assert_allclose(planted(without_pair)["click"]["bidirectional"], to_sequence / (to_sequence + to_fields).std(), atol=1e-9)
    other_item = changed(data, item_id=np.roll(data.features["item_id"], 1))
    np.testing.assert_array_equal(planted(other_item)["click"]["bidirectional"], total)
    assert abs(np.corrcoef(total, static)[0, 1]) < 4 / math.sqrt(1009)


def test_history_gated_is_the_pairwise_effect_times_the_taste_of_the_events():
    data = make_synthetic(1009, seed=19, history_gated=1.0, pairwise=1.0, num_fields=5, num_items=48, half_life=2.0)
    gated, static = (data.contributions["click"][name] for name in ("history_gated", "pairwise"))
    effect, expected = data.planted._worlds["history_gated"][0][0], np.zeros(1009)
    for row, history in enumerate(data.features["history"]):
        weights = [0.5 ** (age / 2.0) for age in range(np.count_nonzero(history))][::-1]
        taste = sum(w * effect.taste[h] for w, h in zip(weights, history, strict=False))
        expected[row] = static[row] * taste / max(math.sqrt(sum(w * w for w in weights)), 1e-9)
    np.testing.assert_allclose(gated, expected / expected.std(), atol=1e-9)
    assert effect.taste[2:].sum() == 0
    other_item = changed(data, item_id=np.roll(data.features["item_id"], 1), field_4=np.roll(data.features["field_4"], 1))
    np.testing.assert_array_equal(data.planted.contributions(other_item)["click"]["history_gated"], gated)


@pytest.mark.parametrize("effect, best", [("history_gated", 0.7), ("bidirectional", 0.75)])
def test_fields_alone_see_nothing_of_what_histories_flip(effect, best):
    data = make_synthetic(20_011, seed=19, **{effect: 1.5}, num_fields=5, base_rate=0.5)
    auc, test = auc_of_logistic_regression(data, [("field_0", "field_1"), ("field_4",)])
    assert abs(auc - 0.5) < 0.03 and test.best_auc() > best
