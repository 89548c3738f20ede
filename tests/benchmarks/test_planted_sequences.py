"""The study of sequence models on planted effects: its cases, its data, its tables, and that models see the order that it says they see."""

import inspect

import keras
import numpy as np
import pytest

from benchmarks import planted_sequences as study
from keras_ctr import list_models, models
from keras_ctr.features import PADDING_ID

MODELS = ("LR", "DIN", "DIEN", "InterFormer, int")


def document():
    cases = [
        {"name": f"{task}/{name}", "data": task} for task in study.TASKS for name in MODELS if task in study.INTERFORMER or "," not in name
    ]
    auc = {"LR": (0.5, 0.6), "DIN": (0.7, 0.7), "DIEN": (0.65, 0.65), "InterFormer, int": (0.9, 0.8)}
    results = [
        {"name": c["name"], "seed": seed, "test": {"click": {"auc": auc[c["name"].split("/", 1)[1]][seed - 1]}}}
        for c in cases
        for seed in (2, 1)
    ]
    return {"cases": cases[:3], "results": results, "best_auc": dict.fromkeys(study.TASKS, [0.9, 0.8])}


def test_cases_have_arguments_that_their_factories_know():
    cases = study.cases(study.TASKS)
    names = [c["name"] for c in cases]
    assert len(names) == len(set(names))
    for c in cases:
        assert c["arguments"].keys() <= inspect.signature(getattr(models, c["model"])).parameters.keys(), c["name"]
        assert c["name"].startswith(c["data"] + "/")
    of_task = {task: [c["model"] for c in cases if c["data"] == task] for task in study.TASKS}
    assert all("LR" in found for found in of_task.values()), "gaps are relative to LR"
    assert set(of_task["match"]) == {*list_models(sequential=True), "LR", "DNN", "DCNv2"}
    assert set(of_task["order"]) == study.ORDER_AWARE.keys() - {"DCNv2"}
    for task in study.INTERFORMER:
        modes = [c["arguments"]["mode"] for c in cases if c["data"] == task and c["model"] == "InterFormer"]
        assert sorted(modes) == ["int", "n2s", "s2n", "sep", "sole"]


@pytest.mark.parametrize("task", study.TASKS)
def test_rows_are_the_same_for_a_seed_and_split_by_time(task, monkeypatch):
    monkeypatch.setattr(study, "ROWS", 200)
    (schema, rates, splits), (_, _, again), (_, _, other) = (study.load(task, seed) for seed in (1, 1, 2))
    assert [len(splits[name][1]["click"]) for name in ("train", "validation", "test")] == [
        rows * study.TIMES.get(task, 1) for rows in (140, 20, 40)
    ]
    times = np.concatenate([splits[name][0]["meta/time"] for name in ("train", "validation", "test")])
    assert (np.diff(times) > 0).all()
    for name, (x, y) in splits.items():
        for key in schema.feature_names:
            np.testing.assert_array_equal(x[key], again[name][0][key])
        np.testing.assert_array_equal(y["click"], again[name][1]["click"])
    assert (splits["train"][0]["history"] != other["train"][0]["history"]).any()
    assert schema.sequences[0].max_length == study.LENGTH
    assert rates == {"click": pytest.approx(float(splits["train"][1]["click"].mean()))}
    monkeypatch.setattr(study, "ROWS", 1000)
    first, second = study.best_aucs(task, 2)
    assert 0.6 < min(first, second) and max(first, second) < 1 and first != second


def test_tables_are_in_the_order_of_what_is_closed():
    tables = study.tables(document())
    assert tables.keys() == {"planted_match", "planted_order", "planted_flows", "planted_exchange"}
    rows = tables["planted_order"].splitlines()
    assert rows[0] == "| model | sees order | AUC | gap closed |"
    # (0.7 - 0.5) / (0.9 - 0.5) and (0.7 - 0.6) / (0.8 - 0.6)
    assert rows[2] == "| DIN | no | 0.7000 ± 0.0000 | 50.0 ± 0.0 % |"
    assert rows[3].startswith("| DIEN | recurrence | 0.6500 ")
    assert rows[4].startswith("| LR | no | 0.5500 ± 0.0707 | 0.0 ± 0.0 %")
    assert rows[5] == "| *true probabilities* | | 0.8500 ± 0.0707 | |"
    assert all(row.count("|") == 5 for row in rows)
    flows = tables["planted_flows"].splitlines()
    assert flows[2].startswith("| InterFormer, int | 0.8500 ± 0.0707 | 100.0 ")
    assert all(row.count("|") == 4 for row in flows)
    assert set(study.tables(None).values()) == {"not measured\n"} and study.tables({}).keys() == tables.keys()


def test_the_figure_has_a_panel_a_task(tmp_path):
    pytest.importorskip("matplotlib", reason="the figure needs the extra report")
    from matplotlib import image

    study.draw(document(), tmp_path / "figure.png")
    height, width = image.imread(tmp_path / "figure.png").shape[:2]
    assert width > 2 * height > 200


@pytest.mark.slow
@pytest.mark.parametrize("model", study.ORDER_AWARE)
def test_models_see_the_order_that_the_column_says(model, monkeypatch):
    monkeypatch.setattr(study, "ROWS", 400)
    schema, _, splits = study.load("order", 1)
    x = {name: splits["train"][0][name] for name in schema.feature_names}
    full = (x["history"] != PADDING_ID).all(axis=1)
    x = {name: value[full] for name, value in x.items()}
    keras.utils.set_random_seed(7)
    network = getattr(models, model)(schema, **study.case("order", model, model)["arguments"], activation=None)
    # At their start some models hardly look at the history or at places: larger weights, the same form.
    network.set_weights([2.0 * w if w.ndim > 1 else w + 0.1 for w in network.get_weights()])

    def change(first, last):
        history = x["history"].copy()
        history[:, first:last] = history[:, first:last][:, ::-1]
        outputs = [network.predict_on_batch({**x, "history": h})["click"] for h in (x["history"], history)]
        return np.abs(outputs[1] - outputs[0]).max() / np.abs(outputs[0]).std()

    newest, whole = change(study.LENGTH - 10, study.LENGTH), change(0, study.LENGTH)
    sees = study.ORDER_AWARE[model]
    assert (newest > 1e-4) == (sees not in ("no", "beyond ten events")), newest
    assert (whole > 1e-4) == (sees != "no"), whole
