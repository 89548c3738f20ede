"""What a search optimises: a validation metric by name, or a weighted sum of them."""

import math
import re
from dataclasses import dataclass

from keras_ctr.schema import nearest

DIRECTIONS = {"auc": "max", "gauc": "max", "logloss": "min", "ne": "min", "ece": "min"}
"""Metric of `RankingMetrics` -> the better side. (`calibration` is best at 1 and cannot be an objective.)"""
_OF_ALL_LABELS = ("auc", "gauc", "logloss", "ne")  # averaged over the labels where there are several
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"


@dataclass(frozen=True)
class Objective:
    """A weighted sum of validation metrics.

    Attributes:
        text: The sum as it was asked for.
        terms: `((weight, name in the logs of an epoch), ...)`.
        direction: `"max"` or `"min"`.
    """

    text: str
    terms: tuple
    direction: str

    @property
    def monitor(self):
        """The metric that chooses the epoch: the objective itself, or `val_auc` (the mean of the labels) for a sum of several."""
        return self.terms[0][1] if len(self.terms) == 1 else "val_auc"

    def value(self, logs):
        """Returns the objective in the logs of an epoch.

        Raises:
            ValueError: If a metric is missing there, or the sum is not finite.
        """
        missing = [name for _, name in self.terms if name not in logs]
        if missing:
            raise ValueError(f"the objective needs '{missing[0]}', and validation gave {', '.join(sorted(logs))}")
        total = float(sum(weight * logs[name] for weight, name in self.terms))
        if not math.isfinite(total):
            raise ValueError(f"the objective {self.text} is {total}: { ({name: logs[name] for _, name in self.terms}) }")
        return total

    def better(self, a, b):
        """Whether the value a is better than b."""
        return a > b if self.direction == "max" else a < b


def metric_names(labels, *, grouped=True):
    """Returns the metrics that `RankingMetrics` logs for labels: `val_auc`, ..., and with several labels `val_<label>_auc`, ... too."""
    metrics = [m for m in DIRECTIONS if grouped or m != "gauc"]
    if len(labels) == 1:
        return [f"val_{m}" for m in metrics]
    return [f"val_{m}" for m in metrics if m in _OF_ALL_LABELS] + [f"val_{label}_{m}" for label in labels for m in metrics]


def parse_objective(text, labels, *, grouped=True):
    """Returns the `Objective` of a text such as `"val_auc"`, `"val_click_logloss"` or `"0.5*val_click_auc + 0.5*val_like_auc"`.

    Args:
        text: A metric, or `weight*metric` with `+` and `-` between them. Of a model with one label, `val_<label>_auc` is `val_auc`.
        labels: Names of the labels trained on.
        grouped: Whether there are groups, and so a gAUC.

    Raises:
        ValueError: On an unknown metric, with the nearest one; if the terms do not point the same way.
    """
    known = metric_names(labels, grouped=grouped)
    same = {f"val_{labels[0]}_{m}": f"val_{m}" for m in DIRECTIONS} if len(labels) == 1 else {}
    pieces = re.split(r"(?<!\d[eE])\s*\+\s*|\s+(?=-)", text.strip())
    terms, directions = [], {}
    for piece in pieces:
        match = re.fullmatch(rf"(-?)\s*(?:({_NUMBER})\s*\*\s*)?(\S+)", piece)
        if not match:
            raise ValueError(f"objective '{text}': '{piece}' is not of the form METRIC or WEIGHT*METRIC")
        sign, weight, name = match.groups()
        weight = (-1.0 if sign else 1.0) * float(weight or 1.0)
        name = same.get(name, name)
        if name not in known:
            raise ValueError(f"objective '{text}': no metric '{name}'{nearest(name, known)}; metrics: {', '.join(known)}")
        if weight == 0 or not math.isfinite(weight):
            raise ValueError(f"objective '{text}': the weight of '{name}' must be a number other than 0")
        best = DIRECTIONS[name.rsplit("_", 1)[1]]
        directions[name] = best if weight > 0 else {"max": "min", "min": "max"}[best]
        terms.append((weight, name))
    if len(set(directions.values())) > 1:
        ways = ", ".join(f"{name} is to {'rise' if way == 'max' else 'fall'}" for name, way in directions.items())
        raise ValueError(f"objective '{text}': the terms point different ways ({ways}); give what is to fall a weight below 0")
    return Objective(text, tuple(terms), next(iter(directions.values())))
