"""Cases and tables of the multi-task studies, and the fit of INFNet's cost, from made-up results."""

import inspect
import json

import numpy as np
import pytest

from benchmarks import infnet, infnet_cost, multi_task
from keras_ctr import list_models
from keras_ctr.registry import model_info


def test_every_multi_task_model_has_a_row_and_every_argument_is_the_factorys():
    cases = {c["name"]: c for c in multi_task.cases()}
    assert {*list_models(multi_task=True), *multi_task.SHARED_BOTTOM, *multi_task.VARIANTS} == set(cases)
    for case in cases.values():
        assert set(case["arguments"]) <= set(inspect.signature(model_info(case["model"]).factory).parameters)
        assert case["labels"] == ["is_click", "is_like", "long_view"]
    assert cases["DIN + PLE"]["head"]["layer"] == "ProgressiveLayeredExtraction"
    assert [c["name"] for c in multi_task.cases(["MMoE"])] == ["MMoE"]


def scores(auc, shift=0.0):
    values = {"auc": auc, "gauc": auc - 0.1, "ne": 0.9, "calibration": 1.0}
    return {label: {**values, "auc": auc + shift * i} for i, label in enumerate(multi_task.LABELS)}


def test_tables_show_every_label():
    case = {"name": "MMoE"}
    results = [
        {"name": "MMoE", "seed": s, "validation": scores(0.6 + s / 100), "test": scores(0.7 + s / 100, 0.05), "parameters": 1234}
        | {"examples_per_second": 1000.0 * s}
        for s in (1, 3)
    ]
    tables = multi_task.tables({"cases": [case], "results": results, "chosen": {"MMoE": {"learning_rate": 0.003}}})
    assert tables["multi_task"].splitlines()[2] == (
        "| MMoE | 0.7200 ± 0.0141 | 0.7700 ± 0.0141 | 0.8200 ± 0.0141 | 0.6200 ± 0.0141 | 1,234 | 2,000 | 0.003 |"
    )
    assert (
        tables["multi_task_is_like"].splitlines()[2] == "| MMoE | 0.7700 ± 0.0141 | 0.6200 ± 0.0141 | 0.9000 ± 0.0000 | 1.0000 ± 0.0000 |"
    )
    assert set(multi_task.tables({}).values()) == {"not measured\n"}


def test_infnet_cases_stand_once_and_the_full_model_is_the_factorys():
    from keras_ctr.models import INFNet
    from keras_ctr.models.infnet import DEFAULTS

    defaults = {k: p.default for k, p in inspect.signature(INFNet).parameters.items()} | DEFAULTS["v2"]
    assert {k: defaults[k] for k in infnet.FULL} == infnet.FULL
    assert {k: v for k, v in infnet.V1.items() if k != "version"} == {k: DEFAULTS["v1"][k] for k in infnet.V1 if k != "version"}
    cases = infnet.cases()
    assert len({c["name"] for c in cases}) == len({json.dumps(c["arguments"], sort_keys=True) for c in cases}) == len(cases)
    assert infnet.name_of({"num_categorical_hubs": 16}) == "full"


def infnet_document():
    results = []
    for name, gain in (("full", 0.0), ("use_hubs=False", -0.01), ("num_categorical_hubs=1", -0.02)):
        for seed in (1, 2):
            noise = 0.03 * seed  # the same for all cases of a seed
            results.append({"name": name, "seed": seed, "test": scores(0.7 + gain + noise), "validation": scores(0.6), "parameters": 7})
            results[-1]["examples_per_second"] = 100.0
    return {"results": results, "attention": {"hubs": ["a", "b"], "tokens": ["x", "y", "z"], "weights": np.full((2, 3), 0.3).tolist()}}


def test_infnet_tables_and_verdicts_are_paired():
    tables = infnet.tables(infnet_document())
    assert tables["infnet_ablations"].splitlines()[2].endswith("| 7 | 100 |  |")
    assert tables["infnet_ablations"].splitlines()[3].startswith("| - hubs | 0.7350 ± 0.0212 |")
    assert tables["infnet_ablations"].splitlines()[3].endswith("| -0.0100 ± 0.0000 |")
    assert [line.split(" | ")[0] for line in tables["infnet_budgets"].splitlines()[2:]] == [
        "| fields, 1",
        "| fields, 16",
        "| each behaviour type, 1",
        "| shared by the tasks, 4",
    ]
    (line,) = infnet.verdicts(infnet_document())
    assert line.startswith("full better than '- hubs': is_click holds (+0.0100 ± 0.0000), is_like holds")
    assert set(infnet.tables({}).values()) == {"not measured\n"}


def test_infnet_figures(tmp_path):
    pytest.importorskip("matplotlib", reason="the figures need the extra report")
    assert [p.name for p in infnet.draw(infnet_document(), tmp_path)] == [f"infnet_{n}.png" for n in ("ablations", "budgets", "attention")]
    assert infnet.draw({"results": []}, tmp_path / "none") == []


def cost_document():
    def cells(power):
        return {str(n): {"median_ms": 3.0 * n**power, "peak_mb": 500 + 2 * n**power} for n in (100, 200, 400)} | {
            "4": {"median_ms": 1.0, "peak_mb": 500}
        }

    return {"INFNet block": cells(1), "self-attention": cells(2)}


def test_exponents_are_those_of_the_curves(tmp_path):
    found = infnet_cost.curves(cost_document())
    assert infnet_cost.exponent(found["INFNet block"]["ms"]) == pytest.approx(1.0)
    assert infnet_cost.exponent(found["self-attention"]["mb"]) == pytest.approx(2.0)
    table = infnet_cost.table(cost_document())
    assert table.splitlines()[-1] == "| *exponent* | 1.00 | 1.00 | 2.00 | 2.00 |"
    assert table.splitlines()[2] == "| 100 | 300.0 | 200 | 30000.0 | 20,000 |"
    assert infnet_cost.table({}) == "not measured\n"
    pytest.importorskip("matplotlib", reason="the figure needs the extra report")
    infnet_cost.draw(cost_document(), tmp_path / "cost.png")
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("kind", infnet_cost.KINDS)
def test_cost_worker_trains(kind):
    config = {"model": kind, "length": 6, "dim": 4, "batch_size": 3, "pool": 1, "seed": 1, "threads": 1}
    with infnet_cost.start_worker(config) as worker:
        answer = worker.run(2)
    assert len(answer["seconds"]) == 2 and np.isfinite(answer["loss"])
