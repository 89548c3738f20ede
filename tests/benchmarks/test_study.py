"""One training of a study with each way of treating labels."""

import numpy as np
import pytest

from benchmarks import study
from tests.sample import full_schema, random_rows

pytestmark = pytest.mark.slow
SCHEMA = full_schema(labels=("click", "like"))
RATES = {"click": 0.4, "like": 0.02}
BASE = {"name": "x", "model": "DNN", "arguments": {"hidden_units": [7]}, "batch_size": 53, "epochs": 1}


def splits():
    out = {}
    for seed, split in enumerate(("train", "validation", "test")):
        x, y = random_rows(SCHEMA, 211, seed)
        y["like"] = (np.arange(211) % 10 == 0).astype("float32")[:, None]
        out[split] = (x, y)
    return out


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"start_at_rates": True},
        {"task_weights": {"click": 1.0, "like": 5.0}},
        {"task_weights": "uncertainty"},
        {"head": {"layer": "MultiGateMixtureOfExperts", "arguments": {"expert_units": [5]}}},
        {"positive_weights": {"like": 9.0}},
        {"labels": ["like"]},
    ],
    ids=str,
)
def test_run(options):
    found = study.run({**BASE, **options}, 1, SCHEMA, RATES, splits())
    assert set(found["test"]) == set(options.get("labels", ["click", "like"])) and found["epochs"] == 1
    assert all(np.isfinite(v["logloss"]) for v in found["test"].values())


def test_scores_after_weighted_positives_are_corrected():
    """Where features say nothing a model learns the rate of the weighted rows; what the study scores is the true one."""
    same = {}
    for split, (x, y) in splits().items():
        same[split] = {k: v[:1].repeat(50 * len(v), axis=0) for k, v in x.items()}, {k: np.tile(v, (50, 1)) for k, v in y.items()}
    config = {**BASE, "model": "LR", "arguments": {}, "labels": ["like"], "learning_rate": 0.01, "positive_weights": {"like": 9.0}}
    found = study.run(config, 1, SCHEMA, RATES, same, ("train",))["train"]["like"]
    assert found["ctr"] == pytest.approx(22 / 211)
    assert found["calibration"] == pytest.approx(1.0, abs=0.3)  # about 5 without the correction


def test_other_odds_of_the_start():
    config = {**study.DEFAULTS, **BASE, "start_at_rates": True}
    model = study.build(config, SCHEMA, RATES)
    assert model.get_layer("like").offset == pytest.approx(np.log(0.02 / 0.98))
    assert study.build({**study.DEFAULTS, **BASE}, SCHEMA, RATES).get_layer("like").offset == 0.0
