"""The commands around a served model: score with the SavedModel alone, calibrate on the validation split."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.test_cli import failure, log, output, prepared, run  # noqa: F401 (fixtures among them)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(prepared):  # noqa: F811
    out = prepared.parent / "deep"
    options = ["--model", "DNN", "--no-sequences", "--set", "hidden_units=[8]", "--epochs", "3", "--learning-rate", "0.01"]
    assert run("train", prepared, "--out", out, "--quiet", *options) == 0
    return out


@pytest.fixture(scope="module")
def bundle(trained):
    path = trained.parent / "bundle"
    assert run("export", trained, path / "2") == 0 and run("export", trained, path / "10") == 0
    return path


def test_score_is_predict_without_the_model(trained, bundle, log, capsys, tmp_path):  # noqa: F811
    output(capsys, "predict", trained, log, "--out", tmp_path / "predicted.parquet")
    result = output(
        capsys, "score", bundle, log, "--out", tmp_path / "scored.parquet", "--batch-size", 64, "--keep", "uid", "--group", "uid"
    )
    assert result["rows"] == 1500 and result["model"].endswith("10")  # the highest version, not the last in the alphabet
    scored = pq.read_table(tmp_path / "scored.parquet")
    assert scored.column_names == ["uid", "click"]
    p = scored["click"].to_numpy()
    np.testing.assert_allclose(p, pq.read_table(tmp_path / "predicted.parquet")["click"].to_numpy(), atol=1e-6)
    rows = [line.split(",") for line in log.read_text().splitlines()[1:]]
    assert scored["uid"].to_pylist() == [int(row[1]) for row in rows]
    from keras_ctr import metrics

    y, users = np.array([int(row[4]) for row in rows]), np.array([int(row[1]) for row in rows])
    assert result["click"]["auc"] == pytest.approx(metrics.auc(y, p), abs=1e-12)
    assert result["click"]["gauc"] == pytest.approx(metrics.gauc(y, p, users), abs=1e-12)


def test_score_of_raw_sequences_and_missing_values(prepared, capsys, tmp_path):  # noqa: F811
    assert run("train", prepared, "--out", tmp_path / "run", "--model", "DIN", "--set", "hidden_units=[4]", "--epochs", "1", "--quiet") == 0
    assert run("export", tmp_path / "run", tmp_path / "served") == 0
    table = {"uid": [1, None, 3], "iid": [7, 8, None], "price": [None, 1.0, 2.0], "hist_iid": [[4, None, 7], None, list(range(30))]}
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    result = output(capsys, "score", tmp_path / "served", tmp_path / "rows.parquet", "--out", tmp_path / "scores.csv")
    assert "click" not in result  # no labels, no metrics
    output(capsys, "predict", tmp_path / "run", tmp_path / "rows.parquet", "--out", tmp_path / "predicted.csv")
    found, expected = (np.loadtxt(tmp_path / name, skiprows=1) for name in ("scores.csv", "predicted.csv"))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert len(set(found)) == 3


def test_sequences_of_a_group_have_as_many_steps():
    """The graph refuses groups whose attributes differ in steps, and an attribute may be null in a whole batch."""
    from types import SimpleNamespace

    from keras_ctr.cli.score_command import request_columns

    inputs = {
        name: SimpleNamespace(name=name, dtype=dtype, shape=(None, None)) for name, dtype in (("items", "int64"), ("words", "string"))
    }
    table = {"items": [[1, None, 3], [], None, [4]], "words": pa.array([None, ["a"], ["b", None], None], pa.list_(pa.string()))}
    batch = pa.table(table).slice(1).combine_chunks().to_batches()[0]
    found = request_columns(batch, inputs, 0)
    np.testing.assert_array_equal(found["items"], [[-1, -1], [-1, -1], [4, -1]])
    np.testing.assert_array_equal(found["words"], [["a", ""], ["b", ""], ["", ""]])
    first = request_columns(pa.table(table).to_batches()[0], inputs, 0)
    np.testing.assert_array_equal(first["items"][0], [1, -1, 3])
    assert first["words"].shape == (4, 3)


def test_score_names_mistakes(bundle, prepared, log, capsys, tmp_path):  # noqa: F811
    out = tmp_path / "x.csv"
    assert "neither saved_model.pb nor numbered versions" in failure(capsys, 1, "score", prepared, log, "--out", out)
    assert "must end in .csv or .parquet" in failure(capsys, 2, "score", bundle, log, "--out", tmp_path / "x.txt")
    assert "--keep click" in failure(capsys, 2, "score", bundle, log, "--out", out, "--keep", "click")
    (tmp_path / "less.csv").write_text("uid,price\n1,2\n")
    assert "has no column 'iid'" in failure(capsys, 1, "score", bundle, tmp_path / "less.csv", "--out", out)
    (tmp_path / "bad.csv").write_text("uid,iid,price\n1,2,3\n1,two,3\n")
    assert "two" in failure(capsys, 1, "score", bundle, tmp_path / "bad.csv", "--out", out)
    assert not out.exists() and not list(tmp_path.glob("*.incomplete"))
    out.write_text("kept")
    assert "exists" in failure(capsys, 1, "score", bundle, log, "--out", out)
    assert out.read_text() == "kept"


@pytest.mark.parametrize("method, more", [("platt", []), ("isotonic", []), ("offset", []), ("negative-sampling", ["--kept", 0.5])])
def test_calibrate(method, more, trained, prepared, capsys, tmp_path):  # noqa: F811
    before = output(capsys, "evaluate", trained, prepared, "--split", "test")["click"]
    result = output(capsys, "calibrate", trained, prepared, "--method", method, *more, "--out", tmp_path / "run")
    after = output(capsys, "evaluate", tmp_path / "run", prepared, "--split", "test")["click"]
    report = result["report"]["click"]
    assert report["before"]["ratio"] == pytest.approx(before["calibration"], rel=1e-6)
    assert report["after"]["ratio"] == pytest.approx(after["calibration"], rel=1e-4) and report["after"]["ne"] == pytest.approx(
        after["ne"], rel=1e-4
    )
    stored = json.loads((tmp_path / "run" / "metrics.json").read_text())["calibration"]
    assert stored["calibrators"]["click"]["kind"] == {"negative-sampling": "offset"}.get(method, method)
    if method in ("platt", "offset"):
        assert after["auc"] == pytest.approx(before["auc"], abs=1e-3)  # the order stays, up to float32
    if method == "offset":
        fitted = output(capsys, "evaluate", tmp_path / "run", prepared, "--split", "validation")["click"]
        assert fitted["calibration"] == pytest.approx(1.0, abs=1e-4)  # exactly what it was fitted to
    assert "exists" in failure(capsys, 1, "calibrate", trained, prepared, "--out", tmp_path / "run")


def test_calibrate_names_mistakes(trained, prepared, capsys, tmp_path):  # noqa: F811
    out = tmp_path / "x"
    assert "no honest test" in failure(capsys, 2, "calibrate", trained, prepared, "--split", "test", "--out", out)
    assert "--kept belongs to" in failure(capsys, 2, "calibrate", trained, prepared, "--method", "negative-sampling", "--out", out)
    assert "--kept belongs to" in failure(capsys, 2, "calibrate", trained, prepared, "--kept", 0.5, "--out", out)
    assert not out.exists()


def test_what_smaller_tables_cost(trained, prepared, capsys):  # noqa: F811
    from keras_ctr.cli import evaluate_command, runs
    from keras_ctr.data import make_dataset
    from keras_ctr.schema import META_GROUP
    from keras_ctr.serving import quantization_cost, quantized

    assert evaluate_command.TABLES == quantized.DTYPES
    plain = output(capsys, "evaluate", trained, prepared, "--split", "validation")
    result = output(capsys, "evaluate", trained, prepared, "--tables", "int8", "--tables", "float16")
    costs = result.pop("tables")
    assert result == plain and result["split"] == "validation"
    x, y = next(iter(make_dataset(prepared, "validation", batch_size=150)))
    x, y = ({name: value.numpy() for name, value in part.items()} for part in (x, y))
    expected = quantization_cost(runs.load_run(trained)[0], x, y, groups=x[META_GROUP])
    assert costs.keys() == expected.keys() == {"int8", "float16"}
    for dtype, cost in costs.items():
        assert cost["bytes_after"] == expected[dtype]["bytes_after"] < cost["bytes_before"] == expected[dtype]["bytes_before"]
        assert cost["largest_error"] == expected[dtype]["largest_error"] > 0
        for metric in ("auc", "gauc", "logloss"):
            assert cost["labels"]["click"][metric] == pytest.approx(expected[dtype]["labels"]["click"][metric], abs=1e-6)
            assert cost["labels"]["click"][metric]["before"] == plain["click"][metric]
    assert output(capsys, "evaluate", trained, prepared)["split"] == "test"
    assert run("evaluate", trained, prepared, "--split", "test", "--tables", "int8", "--quiet") == 0
    text = capsys.readouterr().out
    assert "int8 tables:" in text and "float16" not in text and "split                     test" in text
    line = next(line for line in text.splitlines() if line.startswith("  click auc "))
    assert all(word in line for word in ("before 0.", "after 0.", "difference "))
    assert "'int4' is not one of" in failure(capsys, 2, "evaluate", trained, prepared, "--tables", "int4")


def test_the_choices_of_options_are_those_of_the_library():
    """They are written out in the commands, so that help does not wait for Keras."""
    from keras_ctr.cli import evaluate_command, export_command
    from keras_ctr.serving import quantized, runtimes

    assert evaluate_command.TABLES == quantized.DTYPES
    assert export_command.RUNTIMES == tuple(runtimes.RUNTIMES)
