"""`keras-ctr export`: from a run folder to a bundle, with warm-up rows from the run's data or from a raw file."""

import importlib.util
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import keras_ctr
from keras_ctr import Schema
from keras_ctr.cli import export_command, main, runs
from keras_ctr.data import Encoder, Vocabulary, prepare
from keras_ctr.serving import RuntimeRunner, SavedModelRunner, raw_rows, replay_warmup, runtimes, warmup
from tests.serving.test_bundle import randomised
from tests.serving.test_export import raw_schema, raw_table

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with prepared data, a run that was not trained, and raw rows."""
    folder = tmp_path_factory.mktemp("export")
    table = raw_table(400)
    pq.write_table(table.slice(300), folder / "rows.parquet")
    data = prepare({"train": table.slice(0, 300), "validation": table.slice(300)}, raw_schema(), folder / "data", min_count=2, num_shards=1)
    config = runs.RunConfig(model="LR")
    model = randomised(runs.build(config, data.schema))
    results = {"model": "LR", "epochs": 3, "validation": {"click": {"auc": 0.75, "calibration": 1.25, "ece": 0.125}}}
    runs.save_run(folder / "run", model, data, config, {}, results)
    return folder


def export(capsys, *arguments, code=0):
    assert main(["export", *map(str, arguments), *(["--json"] if not code else [])]) == code
    captured = capsys.readouterr()
    return captured.err if code else json.loads(captured.out.strip().splitlines()[-1])


def test_a_run_becomes_versions(folder, capsys):
    served = folder / "served"
    first = export(capsys, folder / "run", served, "--notes", "for a test")
    assert first["version"] == 1 and first["saved_model"] == str(served / "1") and first["warmup_rows"] == "replayed"
    assert {"serving_default", "serve_examples", "encoded", "rank", "classify", "regress"} == set(first["signatures"])
    card = json.loads((served / "1" / "assets.extra" / "model_card.json").read_text())
    assert card["metrics"]["click"]["auc"] == 0.75 and card["calibration"] == {"click": {"calibration": 1.25, "ece": 0.125}}
    assert card["training"]["model"] == "LR" and card["training"]["epochs trained"] == 3 and card["notes"] == "for a test"
    assert card["split"].startswith("validation") and card["data"]["prepared data set"] == str(folder / "data")
    # Rows of the prepared data, ids turned back: the first of the validation split.
    record = warmup.read_warmup(served / "1")[0]
    original = pq.read_table(folder / "rows.parquet").slice(0, 1).to_pylist()[0]
    assert record.inputs["slot"].tolist() == [original["slot"]] and len(record.inputs["city"]) == 1

    second = export(capsys, folder / "run", served / "7", "--rows", folder / "rows.parquet", "--candidate", "item", "--candidate", "price")
    assert second["version"] == 7
    with SavedModelRunner(served / "7") as saved:
        shapes = {name: spec.shape for name, spec in saved.signatures["rank"].inputs.items()}
    assert shapes["item"] == shapes["price"] == (None,) and shapes["slot"] == (1,) and shapes["items"] == (1, None)
    raw = [r for r in warmup.read_warmup(served / "7") if r.signature == "serving_default"][-1]
    rows = pq.read_table(folder / "rows.parquet")
    np.testing.assert_array_equal(raw.inputs["item"], rows["item"].to_numpy()[:32])


def test_what_is_refused(folder, capsys):
    served = folder / "refused"
    (served / "3").mkdir(parents=True)
    assert "3 exists" in export(capsys, folder / "run", served / "3", code=1)
    assert "3 exists" in export(capsys, folder / "run", served, "--version", 3, code=1)
    assert "give one of the two" in export(capsys, folder / "run", served / "3", "--version", 4, code=2)
    assert "--overwrite needs the version" in export(capsys, folder / "run", served, "--overwrite", code=2)
    assert "did you mean 'item'" in export(capsys, folder / "run", served, "--candidate", "itme", code=1)
    pq.write_table(pa.table({"city": ["a"]}), folder / "short.parquet")
    assert "item" in export(capsys, folder / "run", served, "--rows", folder / "short.parquet", code=1)
    assert sorted(p.name for p in served.iterdir() if p.name.isdecimal()) == ["3"]


def test_a_run_whose_data_is_gone(folder, capsys):
    document = json.loads((folder / "run" / runs.CONFIG).read_text())
    (folder / "run" / runs.CONFIG).write_text(json.dumps({**document, "data": str(folder / "gone")}))
    try:
        result = export(capsys, folder / "run", folder / "gone_served", "--runtime", "litert")
    finally:
        (folder / "run" / runs.CONFIG).write_text(json.dumps(document))
    assert result["warmup_rows"].startswith("none") and not (folder / "gone_served" / "1" / warmup.FILE).exists()
    found = result["runtimes"]["litert"]
    assert found["largest_difference"] is None and "not checked: there are no rows" in export_command._checked("litert", found)
    assert "No warm-up requests" in (folder / "gone_served" / "1" / "assets.extra" / "model_card.md").read_text()


def test_a_version_has_all_that_another_runtime_needs(folder, capsys):
    """The model of ids, the vocabularies and, in the card, the schema: together they score raw rows as `serving_default` does."""
    assert export_command.RUNTIMES == tuple(runtimes.RUNTIMES)
    version = folder / "runtimes" / "1"
    assert main(["export", str(folder / "run"), str(version), "--runtime", "litert"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "model.tflite" in line)
    file = version / "assets.extra" / "model.tflite"
    assert (
        line.startswith(f"  litert                  {file}, ") and "largest difference from predict" in line and "over 32 rows in" in line
    )
    card = json.loads((version / "assets.extra" / "model_card.json").read_text())
    assert card["runtimes"]["litert"]["largest_difference"] < 1e-6 and replay_warmup(version)[0] == 7

    schema, vocabularies = Schema.from_dict(card["schema"]), {}
    for name, table in schema.tables.items():
        if (values := version / "assets" / f"vocabulary_{name}.txt").exists():
            vocabularies[name] = Vocabulary.load(values, table.dtype)
    assert set(vocabularies) == {"city", "item", "words"}
    table = pq.read_table(folder / "rows.parquet").combine_chunks()
    encoded = Encoder(schema.replace(group=None, time=None), vocabularies).encode(table, labels=False).features
    with SavedModelRunner(version) as saved:
        expected = saved.run("serving_default", raw_rows.as_request(raw_rows.as_table(table, schema, 100), schema))["click"]
    assert len(expected) == 100 and np.ptp(expected) > 1e-2
    np.testing.assert_allclose(RuntimeRunner(file).run(encoded)["click"], expected, atol=1e-6)


def test_missing_packages_are_named_before_any_work(folder, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "tf2onnx" else find(name, *more))
    (folder / "no_run").mkdir()
    error = export(capsys, folder / "no_run", folder / "no_onnx", "--runtime", "onnx", code=1)
    assert "the export to ONNX needs tf2onnx" in error and "pip install 'keras_ctr[onnx]'" in error
    assert not (folder / "no_onnx").exists()
    assert "'tflite' is not one of 'onnx', 'litert'" in export(capsys, folder / "run", folder / "no_onnx", "--runtime", "tflite", code=2)


def test_the_model_is_the_runs(folder):
    model, schema, _, _ = runs.load_run(folder / "run")
    assert isinstance(model, keras_ctr.models.CTRModel) and schema.feature_names == raw_schema().feature_names
