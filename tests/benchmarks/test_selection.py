"""Studies at equal budget: the winner is chosen on validation, the test split is the winner's alone, nothing runs twice."""

import json

import numpy as np
import pytest

from benchmarks import planted, selection, zoo
from keras_ctr import list_models
from keras_ctr.data.synthetic import make_synthetic


def load(rows, seed):
    train, validation, test = make_synthetic(rows, seed=seed, linear=1.0, num_fields=3).split((0.6, 0.2, 0.2))
    splits = {name: (part.features, part.labels) for name, part in (("train", train), ("validation", validation), ("test", test))}
    return train.schema, {"click": 0.2}, splits


CASES = [
    {"name": "a", "data": 500, "model": "LR", "epochs": 2, "batch_size": 64},
    {"name": "b", "data": 500, "model": "LR", "epochs": 2, "batch_size": 64, "grid": [{"learning_rate": 0.05}]},
]


@pytest.mark.slow
def test_every_case_has_its_grid_and_the_best_on_validation_is_trained_with_all_seeds(tmp_path):
    out = tmp_path / "study.json"
    grid = [{"learning_rate": rate} for rate in (1e-6, 0.05)]
    document = selection.select(CASES, load, out, grid=grid, seeds=2, jobs=1, note={"rows": 500})
    assert [(t["name"], t["config"]["learning_rate"]) for t in document["trials"]] == [("a", 1e-6), ("a", 0.05)]
    assert all("test" not in t for t in document["trials"])
    best = max(document["trials"], key=lambda t: t["validation"]["click"]["auc"])["config"]["learning_rate"]
    assert document["chosen"] == {"a": {"learning_rate": best}, "b": {"learning_rate": 0.05}}
    found = [(r["name"], r["seed"], r["config"]["learning_rate"]) for r in document["results"]]
    assert sorted(found) == [("a", 1, best), ("a", 2, best), ("b", 1, 0.05), ("b", 2, 0.05)]
    assert all(0 < r["test"]["click"]["auc"] < 1 for r in document["results"])
    assert document["rows"] == 500 and json.loads(out.read_text()) == json.loads(json.dumps(document))
    del document["results"][0]
    out.write_text(json.dumps(document))
    again = selection.select(CASES, load, out, grid=grid, seeds=2, jobs=1)
    assert again["trials"] == document["trials"] and again["results"][:-1] == document["results"]
    assert len(again["results"]) == 4


def test_gaps_are_shares_of_what_is_between_lr_and_the_truth():
    def result(name, seed, auc):
        return {"name": name, "seed": seed, "test": {"click": {"auc": auc}}}

    document = {
        "cases": [{"name": f"pairs/{m}", "data": "pairs"} for m in ("LR", "FM")],
        "best_auc": {"pairs": [0.9, 0.8]},
        "results": [result("pairs/FM", 2, 0.65), result("pairs/LR", 1, 0.5), result("pairs/FM", 1, 0.8), result("pairs/LR", 2, 0.6)],
    }
    np.testing.assert_allclose(planted.gap_closed(document, "pairs/FM"), [0.75, 0.25])
    text = planted.tables({**document, "best_auc": dict.fromkeys(planted.TASKS, [0.9, 0.8])})["planted_pairs"]
    assert text.splitlines()[2] == "| FM | 0.7250 ± 0.1061 | 50.0 ± 35.4 % |"
    assert text.splitlines()[3].startswith("| LR | 0.5500 ± 0.0707 | 0.0 ± 0.0 %")


def test_every_model_is_in_both_studies():
    models = {*list_models(sequential=False, multi_task=False), "CAN"}
    assert {c["model"] for c in planted.cases(["pairs"])} == models
    assert {c["model"] for c in zoo.cases()} == {*models, "INFNet"}
    assert [c["name"] for c in zoo.cases(["LR", "DynInt-DA"])] == ["LR", "DynInt-DA"]
    names = [c["name"] for c in planted.cases(list(planted.TASKS))]
    assert len(names) == len(set(names)) and "noise/AdRec, no mask" in names and "gates/xDeepInt, L=1" in names
    sizes = [len(c.get("grid", zoo.GRID)) for c in zoo.cases()]
    assert set(sizes) == {3}, "every model has the same number of trials"
