"""Exact ranking and calibration metrics for click probabilities, in NumPy.

`keras.metrics.AUC` counts over a grid of thresholds (200 by default). On scores that cluster in a narrow band or saturate at 0 and 1, as
click models' scores do, the grid is off by far more than the differences between architectures. The functions here sort instead: they are
exact, give half a point to a tie, and still take well under a second for a million rows. `keras_ctr.callbacks.RankingMetrics` brings them
into `fit`.

All take NumPy arrays or anything `numpy.asarray` understands, of shape (n,) or (n, 1), one label at a time. Arithmetic is float64 (counts
of pairs are integers), and the order of the rows does not matter.
"""

import dataclasses
import math

import numpy as np

GAUC_WEIGHTS = ("impressions", "clicks", "users")
ECE_STRATEGIES = ("uniform", "quantile")


@dataclasses.dataclass(frozen=True)
class GroupedAUC:
    """Grouped AUC with the counts that say how much of the data it speaks for.

    Attributes:
        value: float, weighted mean of the AUCs of the groups; NaN when no group holds both classes.
        num_groups: int, groups that hold both classes and so entered the mean.
        num_skipped: int, groups left out because all their labels are equal.
        num_rows_skipped: int, rows in the groups left out.
    """

    value: float
    num_groups: int
    num_skipped: int
    num_rows_skipped: int


def auc(y_true, y_pred, sample_weight=None):
    """Area under the ROC curve, exact.

    `AUC = (#{p_i > p_j} + 1/2 #{p_i = p_j}) / (P N)` over the P*N pairs of a positive row i and a negative row j: the chance that a click
    scores above a non-click. With weights each pair counts `w_i w_j`.

    Args:
        y_true: (n,) or (n, 1), labels 0 or 1.
        y_pred: (n,) or (n, 1), finite scores; only their order matters, so logits serve as well as probabilities.
        sample_weight: optional (n,) or (n, 1), finite weights >= 0.

    Returns:
        float in [0, 1]; NaN when only one class is present (or only one has weight above 0), where AUC is not defined.

    Raises:
        ValueError: lengths or shapes differ, no rows, a label other than 0 and 1, a NaN or infinite score, a bad weight.
    """
    positive, scores = _labels_and_scores(y_true, y_pred)
    order = np.argsort(scores)
    starts = _run_starts(_changes(scores[order]))
    if sample_weight is None:
        weight = np.ones(len(scores), np.int64)
    else:
        weight = _weights(sample_weight, len(scores))
        weight = weight / weight.max()  # only ratios matter; keeps the product of the totals away from overflow and underflow
    above = np.add.reduceat(np.where(positive, weight, 0)[order], starts)  # weight of positives at each distinct score
    below = np.add.reduceat(np.where(positive, 0, weight)[order], starts)  # the same of negatives
    pairs = above.sum() * below.sum()
    if pairs == 0:
        return math.nan
    won = (above * (2 * (np.cumsum(below) - below) + below)).sum() / (2 * pairs)
    return min(float(won), 1.0)  # weighted sums may round to just above 1


def grouped_auc(y_true, y_pred, groups, weight="impressions"):
    """Grouped AUC (gAUC): the AUC within each group (user), averaged over the groups.

    `gAUC = sum_g w_g AUC_g / sum_g w_g` over the groups that hold both classes; groups with one class have no AUC and are skipped and
    counted. It measures the order of the items shown to the same user, blind to who clicks much and who little. Three weightings are in
    use and give different figures, so they have names:

    - "impressions": `w_g` = rows of the group (the BARS benchmark and FuxiCTR; the default);
    - "clicks": `w_g` = positive rows of the group (the text of the InterFormer paper);
    - "users": `w_g` = 1.

    Args:
        y_true: (n,) or (n, 1), labels 0 or 1.
        y_pred: (n,) or (n, 1), finite scores.
        groups: (n,) or (n, 1), group of each row: integers or strings (text or bytes), in any order.
        weight: "impressions", "clicks" or "users".

    Returns:
        GroupedAUC.

    Raises:
        ValueError: as `auc`; an unknown weight; groups that are neither integers nor strings (a missing id among them).
    """
    if weight not in GAUC_WEIGHTS:
        raise ValueError(f"`weight` must be one of {', '.join(GAUC_WEIGHTS)}, got {weight!r}.")
    positive, scores = _labels_and_scores(y_true, y_pred)
    codes = _group_codes(groups, len(scores))
    order = np.lexsort((scores, codes))
    codes, scores, positive = codes[order], scores[order], positive[order]
    new_group = _changes(codes)
    ties = _run_starts(new_group | _changes(scores))  # (R,) first row of each run of equal score within a group
    starts = _run_starts(new_group)  # (G,) first row of each group
    first_tie = np.searchsorted(ties, starts)  # (G,) first run of each group

    above = np.add.reduceat(positive, ties, dtype=np.int64)  # (R,) positives of the run
    below = np.diff(ties, append=len(scores)) - above  # (R,) negatives of the run
    below_before = np.cumsum(below) - below  # (R,) negatives ahead of the run, earlier groups included
    rows = np.diff(starts, append=len(scores))  # (G,)
    clicks = np.add.reduceat(above, first_tie)  # (G,)
    # Twice the pairs won; what the earlier groups put into `below_before` is the same for a whole group and is taken off again.
    doubled = np.add.reduceat(above * (2 * below_before + below), first_tie) - 2 * below_before[first_tie] * clicks  # (G,)

    pairs = clicks * (rows - clicks)  # (G,)
    valid = pairs > 0
    by_weight = {"impressions": rows, "clicks": clicks, "users": np.ones_like(rows)}[weight][valid]
    # fsum rounds once, so that the value does not depend on the order in which the groups are met.
    total = math.fsum(doubled[valid] / (2 * pairs[valid]) * by_weight)
    return GroupedAUC(
        value=total / int(by_weight.sum()) if valid.any() else math.nan,
        num_groups=int(valid.sum()),
        num_skipped=int((~valid).sum()),
        num_rows_skipped=int(rows[~valid].sum()),
    )


def gauc(y_true, y_pred, groups, weight="impressions"):
    """`grouped_auc(...).value`: the grouped AUC as one float, NaN when no group holds both classes."""
    return grouped_auc(y_true, y_pred, groups, weight).value


def log_loss(y_true, y_pred, sample_weight=None, *, epsilon=1e-7):
    """Mean binary cross-entropy (natural logarithm), in float64.

    `L = -mean(y ln p + (1 - y) ln(1 - p))`, with p first clipped to `[epsilon, 1 - epsilon]`. Models put out float32, whose last number
    below 1 is 1 - 6e-8: an output of exactly 0 or 1 means "within about 1e-7 of it", so a smaller epsilon would charge an error the output
    cannot express. The default is also what Keras clips at, so a certain and wrong row costs 16.1.

    Args:
        y_true: (n,) or (n, 1), labels 0 or 1.
        y_pred: (n,) or (n, 1), probabilities in [0, 1].
        sample_weight: optional (n,) or (n, 1), finite weights >= 0; the mean is then the weighted one.
        epsilon: float in (0, 0.5), distance from 0 and 1 at which probabilities are clipped.

    Returns:
        float >= 0, in nats.

    Raises:
        ValueError: as `auc`; a probability outside [0, 1] (a logit); a bad epsilon.
    """
    if not 0.0 < epsilon < 0.5:
        raise ValueError(f"`epsilon` must lie between 0 and 0.5, got {epsilon!r}.")
    positive, p = _labels_and_scores(y_true, y_pred, probabilities=True)
    p = np.clip(p, epsilon, 1.0 - epsilon)
    losses = -np.where(positive, np.log(p), np.log1p(-p))
    if sample_weight is None:
        return float(losses.mean())
    return float(np.average(losses, weights=_weights(sample_weight, len(losses))))


def normalized_entropy(y_true, y_pred, *, base_rate, epsilon=1e-7):
    """Normalized entropy (NE): log loss relative to that of a constant prediction, the click rate known before.

    `NE = L / H(r)`, `H(r) = -r ln r - (1 - r) ln(1 - r)`. Below 1 the model beats the constant; unlike log loss it can be compared between
    data sets of different click rates. `r` is the mean label of the TRAINING set, as in the InterFormer paper: taken from the evaluated
    rows it would leak their labels and hide a drift of the click rate.

    Args:
        y_true, y_pred, epsilon: as for `log_loss`.
        base_rate: float in (0, 1), mean label of the training set.

    Returns:
        float >= 0.

    Raises:
        ValueError: as `log_loss`; a base rate outside (0, 1), where the entropy is 0.
    """
    check_base_rate(base_rate)
    entropy = -base_rate * math.log(base_rate) - (1.0 - base_rate) * math.log1p(-base_rate)
    return log_loss(y_true, y_pred, epsilon=epsilon) / entropy


def calibration_ratio(y_true, y_pred):
    """Predicted clicks over observed clicks: `sum(p) / sum(y)`. 1 is calibrated on the whole, 1.2 promises 20 % too many.

    Args:
        y_true: (n,) or (n, 1), labels 0 or 1.
        y_pred: (n,) or (n, 1), probabilities in [0, 1].

    Returns:
        float >= 0; NaN when no label is positive.

    Raises:
        ValueError: as `log_loss`.
    """
    positive, p = _labels_and_scores(y_true, y_pred, probabilities=True)
    clicks = int(np.count_nonzero(positive))
    return float(p.sum() / clicks) if clicks else math.nan


def expected_calibration_error(y_true, y_pred, num_bins=15, strategy="uniform"):
    """Expected calibration error (ECE): gap between mean prediction and click rate, averaged over bins of similar predictions.

    `ECE = sum_k (n_k / n) |mean(p)_k - mean(y)_k|`. Bin k holds `e_k <= p < e_(k+1)`, the last one its upper edge too.

    - "uniform": edges at multiples of `1 / num_bins`, the form of the literature (Guo et al. 2017, https://arxiv.org/abs/1706.04599,
      whose bins are closed above instead of below).
    - "quantile": edges at the quantiles of p, so that bins hold about equally many rows; equal predictions share a bin, so there may be
      fewer bins. The one to look at when clicks are rare and nearly all predictions fall into the first uniform bins.

    Args:
        y_true: (n,) or (n, 1), labels 0 or 1.
        y_pred: (n,) or (n, 1), probabilities in [0, 1].
        num_bins: int >= 1.
        strategy: "uniform" or "quantile".

    Returns:
        float in [0, 1].

    Raises:
        ValueError: as `log_loss`; a bad number of bins; an unknown strategy.
    """
    if not isinstance(num_bins, (int, np.integer)) or isinstance(num_bins, bool) or num_bins < 1:
        raise ValueError(f"`num_bins` must be an integer >= 1, got {num_bins!r}.")
    if strategy not in ECE_STRATEGIES:
        raise ValueError(f"`strategy` must be one of {', '.join(ECE_STRATEGIES)}, got {strategy!r}.")
    positive, p = _labels_and_scores(y_true, y_pred, probabilities=True)
    inner = np.linspace(0.0, 1.0, int(num_bins) + 1)[1:-1]
    if strategy == "quantile":
        inner = np.quantile(p, inner)
    bins = np.searchsorted(inner, p, side="right")
    gaps = np.bincount(bins, weights=p) - np.bincount(bins, weights=positive)
    return float(np.abs(gaps).sum() / len(p))


def evaluate(y_true, y_pred, *, groups=None, base_rate=None, gauc_weight="impressions"):
    """Every metric of this module that the arguments allow, for one label.

    Args:
        y_true: (n,) or (n, 1), labels 0 or 1.
        y_pred: (n,) or (n, 1), probabilities in [0, 1].
        groups: optional (n,) or (n, 1), integers or strings; needed for the gAUC.
        base_rate: optional float in (0, 1), mean label of the training set; needed for the normalized entropy.
        gauc_weight: "impressions", "clicks" or "users", see `grouped_auc`.

    Returns:
        dict of floats and integer counts, with those of these keys that are defined (never NaN): "auc" (both classes present), "gauc" (some
        group has both), "logloss", "ne" (with `base_rate`), "calibration" (a positive present), "ece" (15 uniform bins), "ctr" (mean
        label), "num_rows", and with `groups` "gauc_groups" (groups in the mean) and "gauc_groups_skipped".

    Raises:
        ValueError: as the single functions.
    """
    positive, _ = _labels_and_scores(y_true, y_pred, probabilities=True)
    result = {"auc": auc(y_true, y_pred)}
    grouped = None if groups is None else grouped_auc(y_true, y_pred, groups, gauc_weight)
    if grouped is not None:
        result["gauc"] = grouped.value
    result["logloss"] = log_loss(y_true, y_pred)
    if base_rate is not None:
        result["ne"] = normalized_entropy(y_true, y_pred, base_rate=base_rate)
    result["calibration"] = calibration_ratio(y_true, y_pred)
    result["ece"] = expected_calibration_error(y_true, y_pred)
    result["ctr"] = float(positive.mean())
    result["num_rows"] = len(positive)
    if grouped is not None:
        result["gauc_groups"] = grouped.num_groups
        result["gauc_groups_skipped"] = grouped.num_skipped
    return {key: value for key, value in result.items() if not math.isnan(value)}


def check_base_rate(base_rate, name="base_rate"):
    """Raises ValueError, naming the argument, unless `base_rate` is a number strictly between 0 and 1."""
    if not isinstance(base_rate, (int, float, np.number)) or not 0.0 < base_rate < 1.0:
        raise ValueError(
            f"`{name}` must be the mean label of the training set, strictly between 0 and 1, got {base_rate!r}. "
            "At 0 or 1 its entropy is 0: the training set held one class only."
        )


def _labels_and_scores(y_true, y_pred, probabilities=False):
    """Checked `(positive (n,) bool, scores (n,) float64)`."""
    labels, scores = _floats("y_true", y_true), _floats("y_pred", y_pred)
    _same_length("y_pred", scores, len(labels))
    positive = labels == 1.0
    _reject(~(positive | (labels == 0.0)), labels, "`y_true` must hold only the labels 0 and 1")
    _reject(~np.isfinite(scores), scores, "`y_pred` must be finite")
    if probabilities:
        outside = (scores < 0.0) | (scores > 1.0)
        _reject(outside, scores, "`y_pred` must hold probabilities in [0, 1] (logits go through a sigmoid first)")
    return positive, scores


def _weights(sample_weight, rows):
    weight = _floats("sample_weight", sample_weight)
    _same_length("sample_weight", weight, rows)
    _reject(~(np.isfinite(weight) & (weight >= 0.0)), weight, "`sample_weight` must be finite and not negative")
    if not weight.any():
        raise ValueError("`sample_weight` is 0 in every row: nothing is left to measure.")
    return weight


def _group_codes(groups, rows):
    """Integers (n,) that are equal exactly where the groups are."""
    array = _column("groups", groups)
    _same_length("groups", array, rows)
    if array.dtype.kind in "iub":
        return array
    if array.dtype.kind not in "OUST":
        raise ValueError(f"`groups` must hold integers or strings, got {array.dtype}. Ids read as floats often hide missing ones.")
    # A dictionary finds equal strings in a fraction of the time that sorting them takes; both passes run in C.
    values = array.tolist()
    codes = {value: code for code, value in enumerate(dict.fromkeys(values))}
    odd = [value for value in codes if not isinstance(value, (str, bytes, int, np.integer))]
    if odd:
        raise ValueError(f"`groups` must hold integers or strings; row {values.index(odd[0])} is {odd[0]!r}.")
    return np.fromiter(map(codes.__getitem__, values), dtype=np.int64, count=rows)


def _floats(name, values):
    array = _column(name, values)
    if array.dtype.kind in "USTMmc":
        raise ValueError(f"`{name}` must hold numbers, got {array.dtype}.")
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must hold numbers, got {array.dtype}: {error}") from error


def _column(name, values):
    array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"`{name}` must have shape (n,) or (n, 1), got {array.shape}. Score several labels one column at a time.")
    if not len(array):
        raise ValueError(f"`{name}` holds no rows.")
    return array


def _same_length(name, array, rows):
    if len(array) != rows:
        raise ValueError(f"`{name}` has {len(array)} rows and `y_true` has {rows}.")


def _reject(bad, values, rule):
    """Raises when any row is bad, with the rule, the first such row and their number."""
    count = int(np.count_nonzero(bad))
    if count:
        row = int(np.argmax(bad))
        raise ValueError(f"{rule}; row {row} is {values[row]} ({count} of {len(values)} rows are bad).")


def _changes(ordered):
    """(n,) bool, True where a value differs from the one before it, and at the first."""
    changes = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=changes[1:])
    return changes


def _run_starts(changes):
    return np.flatnonzero(changes)
