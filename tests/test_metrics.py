"""Metrics against scikit-learn and against pairs counted one by one."""

import ast
import inspect
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sk_log_loss
from sklearn.metrics import roc_auc_score

from keras_ctr import metrics

RNG = np.random.default_rng(7)


def pair_auc(y, p, w=None):
    """AUC by going through every pair of a positive and a negative row."""
    w = [1.0] * len(y) if w is None else w
    won = total = 0.0
    for i in range(len(y)):
        for j in range(len(y)):
            if y[i] == 1 and y[j] == 0:
                total += w[i] * w[j]
                won += w[i] * w[j] * (1.0 if p[i] > p[j] else 0.5 if p[i] == p[j] else 0.0)
    return won / total if total else math.nan


def loop_gauc(y, p, g, weight):
    """(value, groups, skipped groups, skipped rows) by a loop over the groups."""
    num = den = 0.0
    counts = [0, 0, 0]
    for group in set(g):
        rows = [i for i in range(len(g)) if g[i] == group]
        labels = [y[i] for i in rows]
        if len(set(labels)) < 2:
            counts[1] += 1
            counts[2] += len(rows)
            continue
        counts[0] += 1
        w = {"impressions": len(rows), "clicks": sum(labels), "users": 1}[weight]
        num += w * pair_auc(labels, [p[i] for i in rows])
        den += w
    return (num / den if den else math.nan, *counts)


def scores(kind, n, rng=RNG):
    """Scores of the kinds that click models put out."""
    if kind == "spread":
        return rng.random(n)
    if kind == "ties":
        return rng.integers(0, 5, n) / 4.0  # exact 0 and 1 among them
    if kind == "clustered":
        return (0.02 + 1e-6 * rng.standard_normal(n)).astype(np.float32)
    if kind == "saturated":
        return (1.0 / (1.0 + np.exp(-40.0 * rng.standard_normal(n)))).astype(np.float32)
    return np.full(n, 0.3)


relaxed = settings(deadline=None, max_examples=60)  # no deadline: a busy machine is not a failure
KINDS = ["spread", "ties", "clustered", "saturated", "constant"]

rows_strategy = st.lists(
    st.tuples(st.integers(0, 1), st.one_of(st.integers(0, 4).map(lambda k: k / 4), st.floats(0, 1)), st.integers(-2, 3)),
    min_size=1,
    max_size=40,
)


@pytest.fixture(autouse=True)
def _fresh_state():
    """Nothing to clear: these functions know no Keras, and a cleared session costs more than most of the tests here."""


class TestAUC:
    @pytest.mark.parametrize("kind", KINDS)
    def test_equals_scikit_learn(self, kind):
        p = scores(kind, 2003)
        y = (RNG.random(2003) < 0.1 + 0.5 * p).astype(int)
        assert metrics.auc(y, p) == pytest.approx(roc_auc_score(y, p), abs=1e-14)

    @pytest.mark.parametrize("kind", KINDS)
    def test_weights_equal_scikit_learn(self, kind):
        p = scores(kind, 1009)
        y = RNG.integers(0, 2, 1009)
        w = RNG.exponential(size=1009) * RNG.integers(0, 2, 1009)
        assert metrics.auc(y, p, w) == pytest.approx(roc_auc_score(y, p, sample_weight=w), abs=1e-12)

    @relaxed
    @given(rows_strategy)
    def test_equals_pair_counting(self, rows):
        y, p, _ = zip(*rows, strict=True)
        assert metrics.auc(y, p) == pytest.approx(pair_auc(y, p), abs=1e-15, nan_ok=True)

    @relaxed
    @given(rows_strategy, st.data())
    def test_weighted_equals_pair_counting(self, rows, data):
        y, p, _ = zip(*rows, strict=True)
        w = data.draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=len(y), max_size=len(y)).filter(any))
        assert metrics.auc(y, p, w) == pytest.approx(pair_auc(y, p, w), abs=1e-12, nan_ok=True)

    def test_by_hand(self):
        # Positives 0.8, 0.4; negatives 0.4, 0.1: three pairs won, one tied.
        assert metrics.auc([1, 1, 0, 0], [0.8, 0.4, 0.4, 0.1]) == 3.5 / 4

    def test_integer_weights_are_repetitions(self):
        y, p, w = RNG.integers(0, 2, 53), scores("ties", 53), RNG.integers(0, 4, 53)
        assert metrics.auc(y, p, w) == pytest.approx(metrics.auc(np.repeat(y, w), np.repeat(p, w)), abs=1e-15)

    @pytest.mark.parametrize("scale", [1e-200, 1e200])
    def test_weights_of_any_scale(self, scale):
        y, p, w = RNG.integers(0, 2, 53), scores("ties", 53), RNG.random(53)
        assert metrics.auc(y, p, w * scale) == pytest.approx(metrics.auc(y, p, w), abs=1e-12)

    @relaxed
    @given(rows_strategy, st.randoms(use_true_random=False))
    def test_row_order_does_not_matter(self, rows, random):
        first, second = (
            metrics.auc([row[0] for row in order], [row[1] for row in order]) for order in (rows, random.sample(rows, len(rows)))
        )
        np.testing.assert_equal(first, second)

    def test_identities(self):
        y, p = RNG.integers(0, 2, 211), scores("ties", 211)
        value = metrics.auc(y, p)
        assert metrics.auc(1 - y, p) == pytest.approx(1 - value, abs=1e-15)
        assert metrics.auc(y, -p) == pytest.approx(1 - value, abs=1e-15)
        assert metrics.auc(y, 17.0 * p - 5.0) == value  # logits are welcome: only the order counts
        assert metrics.auc(y, y) == 1.0
        assert metrics.auc(y, np.full(211, 0.3)) == 0.5

    @pytest.mark.parametrize("label", [0, 1])
    def test_one_class_is_nan(self, label):
        assert math.isnan(metrics.auc([label] * 3, [0.1, 0.2, 0.3]))

    def test_class_of_no_weight_is_nan(self):
        assert math.isnan(metrics.auc([0, 1, 1], [0.1, 0.2, 0.3], [0, 1, 2]))


class TestGroupedAUC:
    @pytest.mark.parametrize("weight", metrics.GAUC_WEIGHTS)
    @pytest.mark.parametrize("kind", KINDS)
    def test_equals_loop(self, kind, weight):
        n = 307
        y, p, g = RNG.integers(0, 2, n) * RNG.integers(0, 2, n), scores(kind, n), RNG.zipf(1.5, n) % 61
        got = metrics.grouped_auc(y, p, g, weight)
        expected = loop_gauc(y.tolist(), p.tolist(), g.tolist(), weight)
        assert got.num_skipped > 0
        assert (got.num_groups, got.num_skipped, got.num_rows_skipped) == expected[1:]
        assert got.value == pytest.approx(expected[0], abs=1e-14)
        assert metrics.gauc(y, p, g, weight) == got.value

    @relaxed
    @given(rows_strategy, st.sampled_from(metrics.GAUC_WEIGHTS), st.randoms(use_true_random=False))
    def test_property_loop_and_row_order(self, rows, weight, random):
        y, p, g = zip(*rows, strict=True)
        got = metrics.grouped_auc(y, p, g, weight)
        value, *counts = loop_gauc(y, p, g, weight)
        assert got.value == pytest.approx(value, abs=1e-14, nan_ok=True)
        assert [got.num_groups, got.num_skipped, got.num_rows_skipped] == counts
        shuffled = metrics.grouped_auc(*zip(*random.sample(rows, len(rows)), strict=True), weight)
        np.testing.assert_equal(shuffled, got)

    def test_three_weightings_by_hand(self):
        # Group 3: 3 rows, 1 click, AUC 1. Group 8: 5 rows, 3 clicks, AUC (2 + 1 + 2)/6. Group 5: one class, 2 rows.
        y = [1, 0, 0, 1, 1, 1, 0, 0, 0, 0]
        p = [0.9, 0.2, 0.1, 0.6, 0.4, 0.7, 0.5, 0.3, 0.9, 0.8]
        g = [3, 3, 3, 8, 8, 8, 8, 8, 5, 5]
        second = 5 / 6
        assert metrics.gauc(y, p, g) == pytest.approx((3 * 1 + 5 * second) / 8)
        assert metrics.gauc(y, p, g, "clicks") == pytest.approx((1 * 1 + 3 * second) / 4)
        assert metrics.gauc(y, p, g, "users") == pytest.approx((1 + second) / 2)
        assert metrics.grouped_auc(y, p, g) == metrics.GroupedAUC(metrics.gauc(y, p, g), 2, 1, 2)

    def test_one_group_is_auc(self):
        y, p = RNG.integers(0, 2, 101), scores("ties", 101)
        for weight in metrics.GAUC_WEIGHTS:
            assert metrics.gauc(y, p, np.full(101, 13), weight) == pytest.approx(metrics.auc(y, p), abs=1e-15)

    def test_blind_to_a_shift_per_group(self):
        y, g = RNG.integers(0, 2, 211), RNG.integers(0, 11, 211)
        p = scores("spread", 211)
        assert metrics.gauc(y, p + 10.0 * g, g) == metrics.gauc(y, p, g)
        assert metrics.auc(y, p + 10.0 * g) != metrics.auc(y, p)

    def test_all_groups_of_one_class(self):
        got = metrics.grouped_auc([0, 1, 1], [0.1, 0.2, 0.3], [1, 2, 2])
        assert math.isnan(got.value)
        assert (got.num_groups, got.num_skipped, got.num_rows_skipped) == (0, 2, 3)

    @pytest.mark.parametrize(
        "cast",
        [
            lambda g: g.astype(np.int8),
            lambda g: g.astype(np.uint64) + np.uint64(2**63),
            lambda g: g - 2**62,
            lambda g: g[:, None],
            lambda g: np.char.add("user ", g.astype(str)),
            lambda g: np.char.add("user ", g.astype(str)).astype("S"),
            lambda g: np.char.add("user ", g.astype(str)).astype(object),
            lambda g: g.tolist(),
            lambda g: [2**70 + v for v in g.tolist()],
        ],
        ids=["int8", "uint64", "negative", "column", "str", "bytes", "object", "list", "huge"],
    )
    def test_kinds_of_ids(self, cast):
        y, p, g = RNG.integers(0, 2, 211), scores("ties", 211), RNG.integers(0, 23, 211)
        assert metrics.grouped_auc(y, p, cast(g)) == metrics.grouped_auc(y, p, g)

    @pytest.mark.parametrize(
        "groups", [[1.0, 2.0], [1, None], np.array(["a", math.nan], object), np.array(["2024-01-01", "2024-01-02"], "M8[D]")]
    )
    def test_bad_ids(self, groups):
        with pytest.raises(ValueError, match="`groups` must hold integers or strings"):
            metrics.gauc([0, 1], [0.1, 0.2], groups)

    def test_unknown_weight(self):
        with pytest.raises(ValueError, match="impressions, clicks, users.*'views'"):
            metrics.gauc([0, 1], [0.1, 0.2], [1, 1], "views")

    def test_frozen(self):
        with pytest.raises(AttributeError):
            metrics.grouped_auc([0, 1], [0.1, 0.2], [1, 1]).value = 1.0

    def test_hundred_thousand_users(self):
        # Each user has a click above a non-click, except every tenth (below) and every seventh (no click): figures by arithmetic.
        users = np.arange(100_003)
        y = np.stack([users % 7 > 0, np.zeros_like(users)], axis=1).ravel()
        p = np.stack([np.where(users % 10 == 0, 0.1, 0.9), np.full(len(users), 0.5)], axis=1).ravel()
        got = metrics.grouped_auc(y, p, np.repeat(users, 2))
        valid = users[users % 7 > 0]
        assert got.value == pytest.approx(np.mean(valid % 10 != 0), abs=1e-12)
        assert (got.num_groups, got.num_skipped, got.num_rows_skipped) == (len(valid), 100_003 - len(valid), 2 * (100_003 - len(valid)))


class TestLogLossAndEntropy:
    @pytest.mark.parametrize("kind", ["spread", "clustered", "constant"])
    def test_equals_scikit_learn(self, kind):
        p = np.clip(scores(kind, 1009), 1e-6, 1 - 1e-6).astype(np.float64)
        y, w = RNG.integers(0, 2, 1009), RNG.random(1009)
        assert metrics.log_loss(y, p) == pytest.approx(sk_log_loss(y, p), rel=1e-13)
        assert metrics.log_loss(y, p, w) == pytest.approx(sk_log_loss(y, p, sample_weight=w), rel=1e-13)

    def test_exact_0_and_1(self):
        assert metrics.log_loss([0, 1], [0.0, 1.0]) == pytest.approx(1e-7, rel=1e-6)
        assert metrics.log_loss([1], [0.0]) == pytest.approx(-math.log(1e-7), rel=1e-14)
        assert metrics.log_loss([0], [1.0]) == pytest.approx(-math.log(1e-7), rel=1e-8)
        assert metrics.log_loss([1], [0.0], epsilon=1e-3) == pytest.approx(-math.log(1e-3), rel=1e-14)
        # The float32 next below 1 is nearer to 1 than epsilon: it costs the same as 1 itself.
        assert metrics.log_loss([0], np.nextafter(np.float32(1), np.float32(0)).reshape(1)) == metrics.log_loss([0], [1.0])

    def test_float32_is_summed_in_float64(self):
        p = np.full(100_003, 0.1, np.float32)
        assert metrics.log_loss(np.zeros(len(p)), p) == pytest.approx(-math.log1p(-float(np.float32(0.1))), rel=1e-14)

    @pytest.mark.parametrize("epsilon", [0.0, 0.5, -1e-7, math.nan])
    def test_bad_epsilon(self, epsilon):
        with pytest.raises(ValueError, match="`epsilon`"):
            metrics.log_loss([0, 1], [0.1, 0.2], epsilon=epsilon)

    @pytest.mark.parametrize("rate", [0.03, 0.5, 0.8])
    def test_entropy_of_the_base_rate_itself_is_1(self, rate):
        y = np.arange(1000) < 1000 * rate
        assert metrics.normalized_entropy(y, np.full(1000, rate), base_rate=rate) == pytest.approx(1.0, rel=1e-12)

    def test_entropy_by_hand(self):
        # base rate 1/2: entropy ln 2. Losses ln 2 and ln 4.
        assert metrics.normalized_entropy([1, 0], [0.5, 0.75], base_rate=0.5) == pytest.approx(1.5)

    def test_entropy_of_exact_0_and_1(self):
        assert metrics.normalized_entropy([1], [0.0], base_rate=0.5) == pytest.approx(-math.log2(1e-7))
        assert metrics.normalized_entropy([1], [0.0], base_rate=0.5, epsilon=0.25) == pytest.approx(2.0)

    def test_entropy_takes_the_training_rate(self):
        y, p = [1, 0, 0, 0], [0.25] * 4
        h = -0.1 * math.log(0.1) - 0.9 * math.log(0.9)
        assert metrics.normalized_entropy(y, p, base_rate=0.1) == pytest.approx(metrics.log_loss(y, p) / h)

    @pytest.mark.parametrize("rate", [0, 1, 0.0, 1.0, -0.1, 1.1, math.nan, None, "0.1"])
    def test_bad_base_rate(self, rate):
        with pytest.raises(ValueError, match="`base_rate` must be the mean label of the training set"):
            metrics.normalized_entropy([0, 1], [0.1, 0.2], base_rate=rate)

    def test_base_rate_is_required(self):
        with pytest.raises(TypeError, match="base_rate"):
            metrics.normalized_entropy([0, 1], [0.1, 0.2])


class TestCalibration:
    def test_ratio(self):
        assert metrics.calibration_ratio([1, 0, 1, 0], [0.5, 0.25, 1.0, 0.75]) == 1.25
        assert math.isnan(metrics.calibration_ratio([0, 0], [0.5, 0.25]))

    def test_ece_by_hand(self):
        # Two bins: [0, 0.5) holds 0 and 0.25 (mean gap 0.125 - 1/2), [0.5, 1] holds 0.5, 1.0 (gap 0.75 - 1/2).
        assert metrics.expected_calibration_error([0, 1, 0, 1], [0.0, 0.25, 0.5, 1.0], num_bins=2) == pytest.approx(
            (2 * 0.375 + 2 * 0.25) / 4
        )

    @pytest.mark.parametrize("strategy", metrics.ECE_STRATEGIES)
    @pytest.mark.parametrize("num_bins", [1, 2, 13])
    @pytest.mark.parametrize("kind", KINDS)
    def test_ece_equals_loop(self, kind, num_bins, strategy):
        n = 503
        p, y = scores(kind, n).astype(np.float64), RNG.integers(0, 2, n)
        inner = [k / num_bins for k in range(1, num_bins)]
        if strategy == "quantile":
            inner = {float(np.quantile(p, level)) for level in inner}
        bins = {}
        for i in range(n):
            bins.setdefault(sum(edge <= p[i] for edge in inner), []).append(i)
        expected = sum(len(rows) / n * abs(np.mean(p[rows]) - np.mean(y[rows])) for rows in bins.values())
        assert metrics.expected_calibration_error(y, p, num_bins, strategy) == pytest.approx(expected, abs=1e-14)

    def test_ece_quantile_keeps_ties_together(self):
        # All predictions equal: one bin whatever the number asked for, so gaps of opposite sign cancel.
        y = np.array([0, 1] * 50)
        assert metrics.expected_calibration_error(y, np.full(100, 0.5), 10, "quantile") == 0.0
        # Half the rows at 0.2 (all negative), half at 0.8 (all positive): both gaps are 0.2.
        assert metrics.expected_calibration_error(y, np.where(y, 0.8, 0.2), 10, "quantile") == pytest.approx(0.2)

    def test_ece_quantile_sees_what_uniform_hides(self):
        # All predictions in the first uniform bin and right on the whole, but too high for one half and too low for the other.
        y = np.zeros(2000, int)
        y[:10], y[1000:1030] = 1, 1  # click rates 0.01 and 0.03
        p = np.where(np.arange(2000) < 1000, 0.03, 0.01)
        assert metrics.expected_calibration_error(y, p) == pytest.approx(0.0, abs=1e-12)
        assert metrics.expected_calibration_error(y, p, 2, "quantile") == pytest.approx(0.02)

    def test_perfect_is_0(self):
        y = RNG.integers(0, 2, 101)
        assert metrics.expected_calibration_error(y, y) == 0.0

    @pytest.mark.parametrize(
        ("kwargs", "match"), [({"num_bins": 0}, "num_bins"), ({"num_bins": 2.5}, "num_bins"), ({"strategy": "equal"}, "strategy")]
    )
    def test_bad_arguments(self, kwargs, match):
        with pytest.raises(ValueError, match=match):
            metrics.expected_calibration_error([0, 1], [0.1, 0.2], **kwargs)


class TestEvaluate:
    Y, P, G = np.array([1, 0, 0, 1, 0, 0]), np.array([0.9, 0.2, 0.4, 0.3, 0.3, 0.1]), np.array(["a", "a", "a", "b", "b", "c"])

    def test_all(self):
        y, p, g = self.Y, self.P, self.G
        assert metrics.evaluate(y[:, None], p[:, None], groups=g, base_rate=0.2, gauc_weight="users") == {
            "auc": metrics.auc(y, p),
            "gauc": metrics.gauc(y, p, g, "users"),
            "logloss": metrics.log_loss(y, p),
            "ne": metrics.normalized_entropy(y, p, base_rate=0.2),
            "calibration": metrics.calibration_ratio(y, p),
            "ece": metrics.expected_calibration_error(y, p),
            "ctr": pytest.approx(1 / 3),
            "num_rows": 6,
            "gauc_groups": 2,
            "gauc_groups_skipped": 1,
        }

    def test_only_what_can_be_computed(self):
        assert list(metrics.evaluate(self.Y, self.P)) == ["auc", "logloss", "calibration", "ece", "ctr", "num_rows"]
        one_class = metrics.evaluate([0, 0], [0.1, 0.2], groups=[1, 2])
        assert list(one_class) == ["logloss", "ece", "ctr", "num_rows", "gauc_groups", "gauc_groups_skipped"]
        assert (one_class["gauc_groups"], one_class["gauc_groups_skipped"]) == (0, 2)

    @relaxed
    @given(rows_strategy)
    def test_never_nan(self, rows):
        y, p, g = zip(*rows, strict=True)
        assert all(math.isfinite(value) for value in metrics.evaluate(y, p, groups=g, base_rate=0.1).values())


ALL = {
    "auc": metrics.auc,
    "gauc": lambda y, p: metrics.gauc(y, p, np.zeros(np.shape(y)[0], int)),
    "log_loss": metrics.log_loss,
    "normalized_entropy": lambda y, p: metrics.normalized_entropy(y, p, base_rate=0.1),
    "calibration_ratio": metrics.calibration_ratio,
    "ece": metrics.expected_calibration_error,
    "evaluate": metrics.evaluate,
}


@pytest.mark.parametrize("function", ALL.values(), ids=ALL)
class TestChecks:
    @pytest.mark.parametrize(
        ("y", "p", "match"),
        [
            ([0, 1, 1], [0.1, 0.2], "`y_pred` has 2 rows and `y_true` has 3"),
            ([0, 1], [0.1, math.nan], "`y_pred` must be finite; row 1 is nan"),
            ([0, 1], [math.inf, 0.1], "`y_pred` must be finite; row 0 is inf"),
            ([0, 2], [0.1, 0.2], "`y_true` must hold only the labels 0 and 1; row 1 is 2"),
            ([0, math.nan], [0.1, 0.2], "`y_true` must hold only the labels 0 and 1; row 1 is nan"),
            ([0, 0.5], [0.1, 0.2], "`y_true` must hold only the labels 0 and 1"),
            ([0, -1], [0.1, 0.2], "`y_true` must hold only the labels 0 and 1"),
            ([], [], "`y_true` holds no rows"),
            (["0", "1"], [0.1, 0.2], "`y_true` must hold numbers"),
            ([0, 1], ["a", "b"], "`y_pred` must hold numbers"),
            ([0, 1], [0.1, object()], "`y_pred` must hold numbers"),
            ([[0, 1]], [0.1, 0.2], r"`y_true` must have shape \(n,\) or \(n, 1\), got \(1, 2\)"),
            ([0, 1], [[0.1, 0.2], [0.3, 0.4]], r"`y_pred` must have shape \(n,\) or \(n, 1\), got \(2, 2\)"),
        ],
    )
    def test_bad_input_is_named(self, function, y, p, match):
        with pytest.raises(ValueError, match=match):
            function(y, p)

    def test_column_equals_vector(self, function):
        y, p = RNG.integers(0, 2, 53), scores("ties", 53)
        assert function(y[:, None].astype(bool), p[:, None].astype(np.float32)) == function(y.tolist(), p.tolist())

    def test_arguments_are_not_changed(self, function):
        y, p = RNG.integers(0, 2, 53).astype(np.float64), scores("ties", 53)
        before = y.copy(), p.copy()
        function(y, p)
        np.testing.assert_array_equal((y, p), before)


@pytest.mark.parametrize("name", ["log_loss", "normalized_entropy", "calibration_ratio", "ece", "evaluate"])
@pytest.mark.parametrize("p", [-0.5, 1.0000001, 3.0])
def test_logits_are_refused_with_a_hint(name, p):
    with pytest.raises(ValueError, match=r"`y_pred` must hold probabilities in \[0, 1\] \(logits go through a sigmoid first\); row 1"):
        ALL[name]([0, 1], [0.5, p])


@pytest.mark.parametrize("function", [metrics.auc, metrics.log_loss])
@pytest.mark.parametrize(
    ("weight", "match"),
    [([1.0], "has 1 rows"), ([1.0, -1.0], "not negative; row 1"), ([math.nan, 1.0], "finite"), ([0.0, 0.0], "0 in every row")],
)
def test_bad_weights_are_named(function, weight, match):
    with pytest.raises(ValueError, match="`sample_weight`.*" + match):
        function([0, 1], [0.1, 0.2], weight)


def test_needs_numpy_only():
    tree = ast.parse(inspect.getsource(metrics))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"dataclasses", "math", "numpy"}
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.For, ast.While))]
