"""Calibration: probabilities that can be believed, fitted on validation rows and shipped inside the model.

    p = model.predict(validation)["click"]
    calibrator = fit_platt(clicks, p)                          # or fit_isotonic, fit_offset
    model = calibrated(model, {"click": calibrator})           # saved in .keras and in the SavedModel
    calibration_report(test_clicks, test_p, calibrator(test_p), base_rate=0.02)

A calibrator is fitted on predictions for rows that training has not seen, so on the validation split; the test split stays for the report.
"""

import dataclasses
import math

import numpy as np

from keras_ctr import metrics
from keras_ctr.schema import nearest

__all__ = [
    "EPSILON",
    "Isotonic",
    "Offset",
    "Platt",
    "calibrated",
    "calibration_report",
    "calibrator_from_dict",
    "fit_isotonic",
    "fit_offset",
    "fit_platt",
    "negative_sampling",
]

EPSILON = 2.0**-23
"""Distance from 0 and 1 at which probabilities are clipped before their logit; `1 - EPSILON` is a float32 number."""
_ITERATIONS = 100


@dataclasses.dataclass(frozen=True)
class Platt:
    """`p' = sigmoid(a logit(p) + b)`.

    Attributes:
        slope: a > 0. Below 1 it draws probabilities together, which is what an overfitted model needs.
        intercept: b.
    """

    slope: float
    intercept: float
    kind = "platt"

    def __call__(self, p):
        """Returns calibrated probabilities of the shape of p, in float64."""
        return _sigmoid(self.slope * _logit(p) + self.intercept)

    def to_dict(self):
        """Returns a JSON-ready dict."""
        return {"kind": self.kind, "slope": self.slope, "intercept": self.intercept}


@dataclasses.dataclass(frozen=True)
class Offset:
    """`p' = sigmoid(logit(p) + c)`: one constant on the log-odds.

    Attributes:
        offset: c.
    """

    offset: float
    kind = "offset"

    def __call__(self, p):
        """Returns calibrated probabilities of the shape of p, in float64."""
        return _sigmoid(_logit(p) + self.offset)

    def to_dict(self):
        """Returns a JSON-ready dict."""
        return {"kind": self.kind, "offset": self.offset}


@dataclasses.dataclass(frozen=True)
class Isotonic:
    """A monotone table, linear between its knots and constant outside of them.

    Attributes:
        knots: Probabilities of the model, increasing.
        values: Calibrated probabilities at the knots, never decreasing.
    """

    knots: tuple
    values: tuple
    kind = "isotonic"

    def __call__(self, p):
        """Returns calibrated probabilities of the shape of p, in float64."""
        return np.interp(np.asarray(p, np.float64), self.knots, self.values)

    def to_dict(self):
        """Returns a JSON-ready dict."""
        return {"kind": self.kind, "knots": list(self.knots), "values": list(self.values)}


_KINDS = {"platt": Platt, "offset": Offset, "isotonic": Isotonic}


def calibrator_from_dict(values):
    """Returns the calibrator that `to_dict` wrote.

    Raises:
        ValueError: On an unknown kind or other keys than the kind has.
    """
    values = dict(values)
    kind = values.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"a calibrator has the kind {', '.join(_KINDS)}, got {kind!r}{nearest(str(kind), _KINDS)}")
    wanted = [field.name for field in dataclasses.fields(_KINDS[kind])]
    if sorted(values) != sorted(wanted):
        raise ValueError(f"a calibrator of kind '{kind}' has the keys {', '.join(wanted)}, got {', '.join(sorted(values))}")
    return _KINDS[kind](**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def fit_platt(y, p):
    """Fits Platt scaling by maximum likelihood (Newton's method).

    The targets are Platt's, `(P + 1) / (P + 2)` for the P clicks and `1 / (N + 2)` for the N others in place of 1 and 0: they keep the fit
    finite where the predictions separate the classes, and make no difference on many rows.

    Args:
        y: (n,) or (n, 1), labels 0 or 1 of validation rows.
        p: (n,) or (n, 1), the model's probabilities for them.

    Raises:
        ValueError: If labels or probabilities are not such, only one class is present, all predictions are equal, or the fitted slope is
            not above 0 (the model ranks clicks below the rest, which calibration would turn around).

    Source: Platt (1999); Lin, Lin and Weng, A Note on Platt's Probabilistic Outputs (2007), for targets and the damped Newton steps.
    """
    positive, p = _checked(y, p)
    clicks, others = int(positive.sum()), int((~positive).sum())
    x = _logit(p)
    if np.ptp(x) == 0.0:
        raise ValueError(f"all {len(x)} predictions are {p[0]:g}: a slope cannot be fitted; fit_offset fits a constant")
    target = np.where(positive, (clicks + 1) / (clicks + 2), 1 / (others + 2))
    center, scale = x.mean(), x.std()
    z = (x - center) / scale  # the two parameters are nearly independent on standardised log-odds
    a, b = 0.0, math.log((clicks + 1) / (others + 1))
    loss = _cross_entropy(target, a * z + b)
    for _ in range(_ITERATIONS):
        q = _sigmoid(a * z + b)
        gradient = np.array([np.dot(q - target, z), np.sum(q - target)])
        if np.abs(gradient).max() < 1e-10 * len(z):
            break
        w = q * (1.0 - q)
        hessian = np.array([[np.dot(w * z, z), np.dot(w, z)], [np.dot(w, z), w.sum()]]) + 1e-12 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 1e-10:
            trial = _cross_entropy(target, (a - size * step[0]) * z + b - size * step[1])
            if trial <= loss:
                break
            size /= 2
        a, b, loss = a - size * step[0], b - size * step[1], min(trial, loss)
    slope = a / scale
    if not slope > 0.0:
        raise ValueError(
            f"the fitted slope is {slope:g}: on these {len(x)} rows clicks have no higher predictions than the rest: there is no order "
            "to calibrate; check that labels and predictions belong to the same rows"
        )
    return Platt(float(slope), float(b - slope * center))


def fit_offset(y, p):
    """Fits the constant on the log-odds with which the predicted clicks are the observed ones: `sum sigmoid(logit(p) + c) = sum y`.

    Args:
        y, p: As for `fit_platt`.

    Raises:
        ValueError: As `fit_platt`, less the conditions on a slope.
    """
    positive, p = _checked(y, p)
    x, clicks = _logit(p), positive.sum()
    low, high = -40.0, 40.0  # the logits lie within 16 of 0, the rate within log(n) of it
    for _ in range(_ITERATIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _sigmoid(x + middle).sum() < clicks else (low, middle)
    return Offset((low + high) / 2)


def fit_isotonic(y, p, *, max_knots=256):
    """Fits the monotone function of least squared error (pool adjacent violators, by scikit-learn) as a piecewise-linear table.

    The values are kept `1 / (2 n)` away from 0 and 1: n rows without a click in a block do not make a click impossible, and its log loss
    infinite. Where the exact fit has more than `max_knots` knots those are kept that matter most: starting from both ends, the knot that is
    farthest from the line through its kept neighbours is added. It needs some thousands of clicks to be better than Platt scaling, and rows
    on one step become ties, which lowers AUC a little.

    Args:
        y, p: As for `fit_platt`.
        max_knots: Most knots, at least 2.

    Raises:
        ValueError: If labels or probabilities are not such, only one class is present, or `max_knots` is below 2.
        ImportError: If scikit-learn is not installed.

    Source: Zadrozny and Elkan, Transforming Classifier Scores into Accurate Multiclass Probability Estimates (KDD 2002).
    """
    if not isinstance(max_knots, int) or max_knots < 2:
        raise ValueError(f"max_knots must be an integer >= 2, got {max_knots!r}")
    positive, p = _checked(y, p)
    try:
        from sklearn.isotonic import IsotonicRegression
    except ImportError as error:
        raise ImportError("isotonic calibration is fitted by scikit-learn: pip install scikit-learn, or take fit_platt") from error
    # Knots must still differ as float32 numbers, which is what the model emits and the graph computes in.
    p = p.astype(np.float32).astype(np.float64)
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(p, positive.astype(np.float64))
    x, value = np.asarray(fitted.X_thresholds_, np.float64), np.asarray(fitted.y_thresholds_, np.float64)
    least = 0.5 / len(p)
    value = np.maximum.accumulate(np.clip(value, least, 1.0 - least))
    kept = _most_important(x, value, max_knots)
    return Isotonic(tuple(x[kept].tolist()), tuple(value[kept].tolist()))


def negative_sampling(kept):
    """Returns the correction for training on a part of the negatives: `c = log(kept)` on the log-odds; nothing is fitted.

    Args:
        kept: Probability with which a negative was kept, in (0, 1].

    Raises:
        ValueError: If it is not in (0, 1].

    Source: He et al., Practical Lessons from Predicting Clicks on Ads at Facebook (ADKDD 2014, section 6.3).
    """
    if not 0.0 < kept <= 1.0:
        raise ValueError(f"kept must be the probability of keeping a negative, in (0, 1], got {kept!r}")
    return Offset(math.log(kept))


def calibrated(model, calibrators):
    """Returns the model with calibrated probabilities as outputs, on the same weights.

    An `Offset` goes onto the logit itself (`models.with_offsets`); the others become the last layer of their label
    (`layers.PlattScaling`, `layers.PiecewiseLinear`) behind the old one, now named `<label>_uncalibrated`. Labels without a calibrator
    stay as they are. The result is not compiled.

    Args:
        model: A functional model of this package with probabilities as outputs.
        calibrators: `{label: calibrator}`.

    Raises:
        KeyError: If the model has no such label, with the nearest one.
        ValueError: If an output is no probability of a `LabelPrediction`: a logit (`activation=None`), or calibrated already.
    """
    from keras_ctr.layers import LabelPrediction, PiecewiseLinear, PlattScaling
    from keras_ctr.models import CTRModel, with_offsets

    for label, calibrator in calibrators.items():
        if label not in model.output:
            raise KeyError(f"model '{model.name}' has no label '{label}'{nearest(label, model.output)}")
        layer = model.get_layer(label)
        if isinstance(layer, (PlattScaling, PiecewiseLinear)):
            raise ValueError(f"model '{model.name}': the output '{label}' is calibrated already; calibrate the model before calibration")
        if not isinstance(layer, LabelPrediction) or layer.activation != "sigmoid":
            raise ValueError(f"model '{model.name}': the output '{label}' is no probability of a LabelPrediction: activation='sigmoid'")
        if not isinstance(calibrator, tuple(_KINDS.values())):
            raise ValueError(f"label '{label}': expected a calibrator (Platt, Isotonic, Offset), got {calibrator!r}")
    offsets = {label: c.offset for label, c in calibrators.items() if isinstance(c, Offset)}
    if offsets:
        model = with_offsets(model, offsets)
    outputs = dict(model.output)
    for label, calibrator in calibrators.items():
        if isinstance(calibrator, Offset):
            continue
        layer = model.get_layer(label)
        before = LabelPrediction.from_config({**layer.get_config(), "name": f"{label}_uncalibrated"})
        probability = before(layer.input)
        before.set_weights(layer.get_weights())
        if isinstance(calibrator, Platt):
            last = PlattScaling(calibrator.slope, calibrator.intercept, name=label)
        else:
            last = PiecewiseLinear(calibrator.knots, calibrator.values, name=label)
        outputs[label] = last(probability)
    return CTRModel(model.input, outputs, name=model.name)


def calibration_report(y, before, after, *, base_rate):
    """Returns what calibration changed: `{"before": {...}, "after": {...}}` with NE, ECE, predicted over observed clicks, and AUC.

    Args:
        y: (n,) or (n, 1), labels of rows that the calibrator was not fitted on, for an honest figure.
        before, after: (n,) or (n, 1), probabilities without and with calibration.
        base_rate: Mean label of the training set, for NE.

    Returns:
        Dict of dicts with `"ne"`, `"ece"` (15 uniform bins), `"ece_quantile"` (15 bins of equally many rows, the one to look at when clicks
        are rare), `"ratio"` and `"auc"`.

    Raises:
        ValueError: As `keras_ctr.metrics`.
    """
    return {
        name: {
            "ne": metrics.normalized_entropy(y, p, base_rate=base_rate),
            "ece": metrics.expected_calibration_error(y, p),
            "ece_quantile": metrics.expected_calibration_error(y, p, strategy="quantile"),
            "ratio": metrics.calibration_ratio(y, p),
            "auc": metrics.auc(y, p),
        }
        for name, p in (("before", before), ("after", after))
    }


def _logit(p):
    p = np.clip(np.asarray(p, np.float64), EPSILON, 1.0 - EPSILON)
    return np.log(p) - np.log1p(-p)


def _sigmoid(x):
    return np.where(x >= 0, 1.0, np.exp(-np.abs(x))) / (1.0 + np.exp(-np.abs(x)))


def _cross_entropy(target, x):
    return float(np.sum(np.logaddexp(0.0, x) - target * x))


def _most_important(x, y, most):
    """Returns the indices, in order, of at most `most` points of a line: the ends, then each time the one farthest from the line."""
    kept = [0, len(x) - 1] if len(x) > 1 else [0]
    if len(x) <= most:
        return np.arange(len(x))
    while len(kept) < most:
        distance = np.abs(np.interp(x, x[kept], y[kept]) - y)
        at = int(np.argmax(distance))
        if distance[at] == 0.0:
            break
        kept = sorted([*kept, at])
    return np.array(kept)


def _checked(y, p):
    """Returns labels (n,) bool and probabilities (n,) float64."""
    y, p = (np.asarray(v, np.float64) for v in (y, p))
    y, p = (v[:, 0] if v.ndim == 2 and v.shape[1] == 1 else v for v in (y, p))
    if y.ndim != 1 or y.shape != p.shape or not len(y):
        raise ValueError(f"labels and predictions must be (n,) or (n, 1) of equal n > 0, got {y.shape} and {p.shape}")
    for bad, rule in (
        (~np.isin(y, (0.0, 1.0)), "labels must be 0 or 1"),
        (~np.isfinite(p), "predictions must be finite"),
        ((p < 0.0) | (p > 1.0), "predictions must be probabilities in [0, 1] (logits go through a sigmoid first)"),
    ):
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"{rule}; row {row} has label {y[row]:g} and prediction {p[row]:g} ({int(bad.sum())} of {len(y)} rows are bad)"
            )
    positive = y == 1.0
    if positive.all() or not positive.any():
        raise ValueError(f"all {len(y)} labels are {int(y[0])}: calibration needs rows of both classes")
    return positive, p
