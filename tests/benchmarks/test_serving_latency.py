"""The benchmark of serving latency: floors are the models' own functions, cells, tables. No clock decides anything here."""

import json

import numpy as np
import pytest

from benchmarks import serving_latency

STEPS = 7


def pairs(*milliseconds):
    return [[ms, ms / 2] for ms in milliseconds]


def found(**changes):
    times = {"floor": pairs(2.0, 4.0, 3.0), "encoded": pairs(5.0, 6.0, 4.0), "serving_default": pairs(20.0, 20.0, 20.0)}
    return {"difference": 1e-7, "raw_difference": 0.0, "cpu_share": 0.98, "modules": [], "times": {"32": times}, **changes}


def test_a_cell_holds_percentiles_and_ratios_of_medians():
    cell = serving_latency.cell_of("DNN", found())
    row = cell["batches"]["32"]
    assert row["floor"] == {"p50": 3.0, "p99": pytest.approx(3.98), "session_p50": 1.5, "session_p99": pytest.approx(1.99), "requests": 3}
    assert row["ratio"] == row["session_ratio"] == pytest.approx(5 / 3, abs=1e-3) and row["serving_default"]["p50"] == 20.0
    assert "32: 3.00 -> 5.00 ms (1.67, session 1.67)" in serving_latency.line(cell)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"difference": 2e-5}, "DNN: the floor's scores differ from the model's by 2.0e-05"),
        ({"difference": float("nan")}, "differ from the model's by nan"),
        ({"raw_difference": 2e-5}, "scores of raw features differ"),
        ({"modules": ["keras"]}, "holds keras"),
    ],
)
def test_another_function_is_not_recorded(changes, message):
    with pytest.raises(SystemExit, match=message):
        serving_latency.cell_of("DNN", found(**changes))


def test_tables():
    document = {"sizes": {"batches": [32]}, "models": {"DNN": serving_latency.cell_of("DNN", found())}}
    document["models"]["LR"] = document["models"]["DNN"]
    out = serving_latency.tables(document)
    assert out["serving_floor"].splitlines()[0] == "| ids | 32: floor | 32: model | 32: ratio |"
    assert [row.split(" | ")[0] for row in out["serving_raw"].splitlines()[2:]] == ["| LR", "| DNN"]
    assert out["serving_floor"].splitlines()[3] == "| DNN | 3.00 / 3.98 | 5.00 / 5.98 | 1.67 (1.67) |"
    assert out["serving_raw"].splitlines()[3] == "| DNN | 20.0 / 20.0 |"
    assert serving_latency.tables({}) == {"serving_floor": "not measured\n", "serving_raw": "not measured\n"}


def test_both_forms_of_a_request_are_the_same_rows():
    schema, vocabularies = serving_latency.make_schema(STEPS)
    encoded, raw = serving_latency.make_request(schema, 5, 3)
    assert set(encoded) == set(raw) == set(schema.feature_names)
    values = vocabularies["item"].values.to_pylist()
    for row, ids in zip(raw["seen_item"], encoded["seen_item"], strict=True):
        assert [text.decode() for text in row] == [values[i - 2] if i else "" for i in ids]
    lengths = {name: (encoded[name] > 0).sum(1).tolist() for name in ("seen_item", "seen_author")}
    assert lengths["seen_item"] == lengths["seen_author"] and min(lengths["seen_item"]) >= 1
    assert encoded["user_3"].tolist() == raw["user_3"].tolist() and raw["user_3"].dtype == "int64"


@pytest.mark.slow
@pytest.mark.parametrize("name", serving_latency.MODELS)
def test_a_floor_is_the_model(name):
    from benchmarks import serving_floors

    schema, _ = serving_latency.make_schema(STEPS)
    model = serving_latency.make_model(name, schema)
    encoded, _ = serving_latency.make_request(schema, 11, 1)
    floor = serving_floors.build(name, model, schema)
    scores = {"model": model(encoded)["click"].numpy(), "floor": floor.signature(**encoded)["click"].numpy()}
    assert scores["model"].shape == (11, 1) and np.ptp(scores["model"]) > 1e-3
    np.testing.assert_allclose(scores["floor"], scores["model"], atol=1e-6)


@pytest.mark.slow
def test_a_measurement_writes_a_document_and_resumes(tmp_path, monkeypatch, capsys):
    out = tmp_path / "latency.json"
    arguments = ["--out", str(out), "--models", "LR", "--batches", "1", "3", "--requests", "2", "2", "--steps", str(STEPS)]
    serving_latency.main(arguments)
    document = json.loads(out.read_text())
    cell = document["models"]["LR"]
    assert document["threads"] == 1 and document["sizes"] == {"steps": STEPS, "batches": [1, 3], "requests": [2, 2]}
    assert list(cell["batches"]) == ["1", "3"] and cell["difference"] <= 1e-5 and cell["batches"]["3"]["floor"]["requests"] == 2
    assert "[1/1] LR: 1: " in capsys.readouterr().out

    monkeypatch.setattr(serving_latency, "measure", None)  # what the file holds is not measured again
    serving_latency.main(arguments)
    assert json.loads(out.read_text()) == document
    with pytest.raises(SystemExit, match="choose another file"):
        serving_latency.main([*arguments[:-1], "6"])
