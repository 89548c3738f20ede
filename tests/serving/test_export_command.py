"""`keras-ctr export`: from a run folder to a bundle, with warm-up rows from the run's data or from a raw file."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import keras_ctr
from keras_ctr.cli import main, runs
from keras_ctr.data import prepare
from keras_ctr.serving import SavedModelRunner, warmup
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
        result = export(capsys, folder / "run", folder / "gone_served")
    finally:
        (folder / "run" / runs.CONFIG).write_text(json.dumps(document))
    assert result["warmup_rows"].startswith("none") and not (folder / "gone_served" / "1" / warmup.FILE).exists()
    assert "No warm-up requests" in (folder / "gone_served" / "1" / "assets.extra" / "model_card.md").read_text()


def test_the_model_is_the_runs(folder):
    model, schema, _, _ = runs.load_run(folder / "run")
    assert isinstance(model, keras_ctr.models.CTRModel) and schema.feature_names == raw_schema().feature_names
