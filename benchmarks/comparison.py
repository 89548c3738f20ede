"""Paired comparisons of cases that `benchmarks.selection` trained with the same seeds."""

import json
from pathlib import Path

import numpy as np

HIGHER_IS_BETTER = ("auc", "gauc")


def values(document, name, metric="auc", *, label, split="test"):
    """Returns `{seed: value}` of a case."""
    return {r["seed"]: r[split][label][metric] for r in sorted(document["results"], key=lambda r: r["seed"]) if r["name"] == name}


def differences(document, name, other, metric="auc", *, label):
    """Returns the differences of a case from another one, a seed each that both have."""
    mine, theirs = values(document, name, metric, label=label), values(document, other, metric, label=label)
    return [mine[seed] - theirs[seed] for seed in mine if seed in theirs]


def mean_and_deviation(found):
    """Returns mean and standard deviation, NaN of a single value."""
    return float(np.mean(found)), float(np.std(found, ddof=1)) if len(found) > 1 else float("nan")


def signed(found):
    """Returns differences as text, `+0.0012 ± 0.0004`."""
    mean, deviation = mean_and_deviation(found)
    return f"{mean:+.4f}" + ("" if np.isnan(deviation) else f" ± {deviation:.4f}")


def text(found):
    """Returns values as text, `0.7467 ± 0.0003`; a single one without a deviation."""
    mean, deviation = mean_and_deviation(found)
    return f"{mean:.4f}" + ("" if np.isnan(deviation) else f" ± {deviation:.4f}")


def verdict(found, relation="<"):
    """Returns whether differences (one a seed, positive = better) bear out "<" (better) or "~" (equal)."""
    if len(found) < 2:
        return "not decided"
    mean, deviation = mean_and_deviation(found)
    if relation == "~":
        return "holds" if abs(mean) <= deviation else "does not hold"
    return "within the spread" if abs(mean) <= deviation else "holds" if mean > 0 else "does not hold"


def earlier(out, cases):
    """Returns the names of the cases that a file has results of.

    Args:
        out: JSON file of results, or none.
        cases: All cases as they are now.

    Raises:
        ValueError: If a result was made with other settings than its case has now.
    """
    document = json.loads(Path(out).read_text()) if Path(out).exists() else {"results": []}
    now = {case["name"]: case for case in cases}
    for result in document["results"]:
        was, case = {**result["config"], "data": result["data"]}, now.get(result["name"], {})
        if was != case:
            different = sorted(key for key in {*was, *case} if was.get(key) != case.get(key))
            raise ValueError(f"{out}: '{result['name']}' was run with other settings ({', '.join(different)}); give another --out")
    return {result["name"] for result in document["results"]}
