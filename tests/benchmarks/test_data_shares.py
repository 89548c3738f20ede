"""The study of shares of the data: its samples and its table."""

import numpy as np
import pytest

from benchmarks import data_shares, sequences


def test_a_share_is_a_sample_of_whole_rows_and_leaves_the_other_days(monkeypatch):
    x, y = {"item": np.arange(200), "clicks": np.arange(400).reshape(200, 2)}, {label: np.arange(200) for label in data_shares.LABELS}
    held = ({"item": np.arange(5)}, {"is_click": np.arange(5)})
    monkeypatch.setattr(sequences, "load", lambda path, data, seed: ("schema", {}, {"train": (x, y), "validation": held}))
    _, _, one = data_shares.load("path", 0.25, 1)
    (features, labels), again, other = one["train"], data_shares.load("path", 0.25, 1)[2], data_shares.load("path", 0.25, 2)[2]
    assert len(features["item"]) == 50 and np.all(np.diff(features["item"]) > 0)
    np.testing.assert_array_equal(features["clicks"][:, 0], 2 * features["item"])
    np.testing.assert_array_equal(labels["long_view"], features["item"])
    np.testing.assert_array_equal(again["train"][0]["item"], features["item"])
    assert np.any(other["train"][0]["item"] != features["item"]) and one["validation"] is held


def test_table_and_verdicts_are_paired_by_seed():
    cases = data_shares.cases()
    assert len({c["name"] for c in cases}) == len(data_shares.MODELS) * len(data_shares.SHARES) == len(cases)
    assert "InterFormer, 12.5%" in {c["name"] for c in cases}

    def result(name, seed, auc):
        return {"name": name, "seed": seed, "validation": {label: {"auc": auc} for label in data_shares.LABELS}}

    ahead = {"InterFormer": 0.01, "DIN": 0.0, "DCNv2": 0.02, "DNN": 0.01}
    names = [(c["name"], c["name"].split(",")[0]) for c in cases]
    results = [result(name, seed, 0.7 + ahead[model] + seed / 1000) for seed in (1, 2) for name, model in names]
    whole = {"results": [result(model, 1, 0.8) for model in data_shares.MODELS]}
    lines = data_shares.table({"results": results}, whole).splitlines()
    assert lines[2].startswith("| InterFormer | 0.7115 ± 0.0007 |") and lines[2].endswith("| 0.8000 |")
    assert lines[6] == "| InterFormer over DIN |" + " +0.0100 ± 0.0000 |" * 3 + " +0.0000 |"
    assert data_shares.table({}, whole) == "not measured\n"
    found = list(data_shares.verdicts({"results": results}))
    assert found[0] == "12.5%, InterFormer ahead of DIN: holds (+0.0100 ± 0.0000)"
    assert found[1].startswith("12.5%, InterFormer ahead of DCNv2: does not hold")
    assert pytest.approx(0.711) == data_shares.aucs({"results": results}, "InterFormer, 25.0%")[1]
