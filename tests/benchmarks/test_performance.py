"""The page of figures is made from results."""

import json

import pytest

from benchmarks import performance


def test_tables_replace_what_stands_between_the_markers():
    page = "a\n<!-- table: one -->\nold\n<!-- end of table -->\nb\n<!-- table: two -->\n<!-- end of table -->\nc"
    out = performance.filled(page, {"one": "| 1 |\n", "two": "| 2 |"})
    assert out == "a\n<!-- table: one -->\n| 1 |\n<!-- end of table -->\nb\n<!-- table: two -->\n| 2 |\n<!-- end of table -->\nc"
    assert performance.filled(out, {"one": "| 1 |", "two": "| 2 |"}) == out
    with pytest.raises(KeyError, match="no table 'two'"):
        performance.filled(page, {"one": ""})


def test_a_study_becomes_a_table_with_means_and_spread(tmp_path, monkeypatch):
    def result(name, seed, auc):
        values = {"is_click": {"auc": auc, "gauc": 0.5, "logloss": 0.6, "ne": 0.9}}
        return {"name": name, "seed": seed, "validation": values, "test": values, "zero_rows": 0.25}

    document = {"configs": [{"name": "b"}, {"name": "a"}], "results": [result("a", 1, 0.70), result("b", 1, 0.60), result("b", 2, 0.62)]}
    (tmp_path / "x.json").write_text(json.dumps(document))
    monkeypatch.setattr(performance, "RESULTS", tmp_path)
    lines = performance.study_table("x").splitlines()
    assert lines[2].startswith("| b | 2 | 0.6100 ± 0.0141 |") and lines[2].endswith("| 25.0 % |")
    assert lines[3].startswith("| a | 1 | 0.7000 |")
    assert performance.study_table("none") == "not measured\n"


def test_a_study_of_labels_shows_them_side_by_side(tmp_path, monkeypatch):
    def result(name, *labels):
        return {"name": name, "seed": 1, "validation": {x: {"auc": 0.7, "gauc": 0.5, "ne": 0.9, "calibration": 1.1} for x in labels}}

    document = {"configs": [{"name": "both"}, {"name": "alone"}], "results": [result("both", "click", "like"), result("alone", "like")]}
    (tmp_path / "x.json").write_text(json.dumps(document))
    monkeypatch.setattr(performance, "RESULTS", tmp_path)
    lines = performance.labels_table("x", rare="like").splitlines()
    assert lines[0].startswith("| validation, 1 seeds | AUC click | AUC like | gAUC like |")
    assert lines[2] == "| both | 0.7000 | 0.7000 | 0.5000 | 0.9000 | 1.1000 |"
    assert lines[3] == "| alone |  | 0.7000 | 0.5000 | 0.9000 | 1.1000 |"
    assert performance.labels_table("none") == "not measured\n"


def test_the_figure_has_our_median_over_groups():
    cells = [
        {"model": "DCN", "rows": 10, "peer": "keras", "median_ms": 8.0, "ours_median_ms": 2.0},
        {"model": "DCN", "rows": 10, "peer": "deepctr", "median_ms": 9.0, "ours_median_ms": 4.0},
        {"model": "DCN", "rows": 20, "peer": "keras", "error": "no"},
        {"model": "DIN", "rows": 10, "peer": "keras", "median_ms": 1.0, "ours_median_ms": 1.0},
    ]
    assert performance.series({"cells": cells}) == {"keras_ctr": [(10, 3.0)], "keras": [(10, 8.0)], "deepctr": [(10, 9.0)]}
