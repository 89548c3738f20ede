"""The command line: the whole road on a small CSV, errors that name what is wrong, JSON output."""

import json

import keras
import numpy as np
import pytest

from keras_ctr.cli import main
from keras_ctr.cli.main import COMMANDS


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    rng = np.random.default_rng(0)
    rows = 1500
    user, item = rng.integers(0, 40, rows), rng.integers(0, 30, rows)
    click = (rng.random(rows) < np.where(item % 2 == 0, 0.7, 0.2)).astype(int)
    path = tmp_path_factory.mktemp("log") / "log.csv"
    with open(path, "w") as file:
        file.write("ts,uid,iid,price,click\n")
        for i in range(rows):
            file.write(f"{1000 + i},{user[i]},{item[i]},{rng.lognormal():.3f},{click[i]}\n")
    return path


@pytest.fixture(scope="module")
def prepared(log):
    out = log.parent / "data"
    assert run("prepare", "--csv", log, "--label", "click", "--user", "uid", "--item", "iid", "--time", "ts", "--out", out, "--quiet") == 0
    return out


@pytest.fixture(scope="module")
def trained(prepared):
    out = prepared.parent / "run"
    options = ["--model", "DIN", "--set", "hidden_units=[16]", "--epochs", "2", "--batch-size", "256", "--learning-rate", "0.01"]
    assert run("train", prepared, "--out", out, "--quiet", *options) == 0
    return out


def run(*arguments):
    return main([str(a) for a in arguments])


def output(capsys, *arguments):
    """The one JSON object that a command prints."""
    capsys.readouterr()
    assert run(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def failure(capsys, code, *arguments):
    capsys.readouterr()
    assert run(*arguments) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


def test_help_names_every_command(capsys):
    assert run("--help") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    for name in COMMANDS:
        assert run(name, "--help") == 0
        assert "--help" in capsys.readouterr().out


def test_list(capsys):
    models = {m["name"]: m for m in output(capsys, "list")}
    assert models["InterFormer"]["sequential"] and models["InterFormer"]["paper"].startswith("https://arxiv.org/")
    assert output(capsys, "list", "dynint")["arguments"]["variant"] == "dgp"


def test_prepared_data_has_histories_and_splits(prepared):
    from keras_ctr.data import PreparedData

    data = PreparedData(prepared)
    assert [data.num_rows(s) for s in ("train", "validation", "test")] == [1200, 150, 150]
    assert [s.target for s in data.schema.sequences] == ["iid"]
    assert data.schema.group == "uid" and data.schema.time == "ts"


def test_train_writes_a_whole_run(trained, prepared):
    assert sorted(p.name for p in trained.iterdir()) == [
        "config.json",
        "history.json",
        "metrics.json",
        "model.keras",
        "schema.json",
        "vocabularies",
    ]
    metrics = json.loads((trained / "metrics.json").read_text())
    history = json.loads((trained / "history.json").read_text())
    assert max(history["val_auc"]) == pytest.approx(metrics["validation"]["click"]["auc"], abs=1e-6)
    assert metrics["validation"]["click"]["auc"] > 0.6


@pytest.mark.slow
def test_a_config_file_repeats_a_run_exactly(trained, prepared, capsys):
    config = json.loads((trained / "config.json").read_text())
    for key in ("data", "keras_ctr"):
        config.pop(key)
    path = prepared.parent / "config.json"
    path.write_text(json.dumps(config))
    again = output(capsys, "train", prepared, "--out", prepared.parent / "again", "--config", path)
    first = json.loads((trained / "metrics.json").read_text())
    assert again["validation"] == first["validation"]


def with_negatives(schema, **_):
    """A model that reads negatives where there are any."""
    from keras_ctr import layers
    from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions

    names = [sequence.name for sequence in schema.sequences]
    inputs = build_inputs(schema, negatives=names)
    features = layers.FeatureEmbedding(schema, 4, negatives=names, name="embedding")(inputs)
    events = [*features["sequences"].values(), *features["negatives"].values()]
    pooled = keras.layers.Concatenate()([keras.layers.GlobalMaxPooling1D()(x) for x in events])
    return CTRModel(inputs, predictions(logits(pooled, schema), schema), name="with_negatives")


@pytest.mark.slow
def test_only_training_draws_negatives(prepared, log, capsys, monkeypatch):
    import keras_ctr
    from keras_ctr.cli import runs

    read = {}

    def watched(data, split, **options):
        dataset = make(data, split, **options)
        read.setdefault(split, []).append({name for name in dataset.element_spec[0] if name.endswith("_negatives")})
        return dataset

    make = runs.make_dataset
    monkeypatch.setattr(runs, "make_dataset", watched)
    monkeypatch.setattr(keras_ctr, "get_model", lambda name, schema, **arguments: with_negatives(schema, **arguments))
    out = prepared.parent / "negatives"
    options = ["--model", "any", "--epochs", "2", "--batch-size", "256", "--overwrite"]
    first = output(capsys, "train", prepared, "--out", out, *options)
    assert read == {"train": [{"hist_iid_negatives"}], "validation": [set(), set()]}  # in training and after it
    assert output(capsys, "train", prepared, "--out", out, *options)["validation"] == first["validation"]
    result = output(capsys, "evaluate", out, prepared, "--split", "validation")
    assert result["click"] == first["validation"]["click"] and read["validation"][-1] == set()
    scores = prepared.parent / "negatives.parquet"
    assert output(capsys, "predict", out, prepared, "--split", "test", "--out", scores)["rows"] == 150
    assert output(capsys, "export", out, prepared.parent / "negatives_served" / "1")["signatures"]


def test_evaluate_and_predict_agree(trained, prepared, capsys):
    from keras_ctr import metrics
    from keras_ctr.data import make_dataset

    result = output(capsys, "evaluate", trained, prepared, "--split", "test")
    out = prepared.parent / "scores.parquet"
    assert output(capsys, "predict", trained, prepared, "--split", "test", "--out", out)["rows"] == 150
    import pyarrow.parquet as pq

    scores = pq.read_table(out)["click"].to_numpy()
    labels = np.concatenate([np.asarray(y["click"]) for _, y in make_dataset(prepared, "test", batch_size=64)])
    assert metrics.auc(labels, scores) == pytest.approx(result["click"]["auc"], abs=1e-9)
    assert {"auc", "gauc", "logloss", "ne", "calibration", "ece"} <= set(result["click"])


def test_predict_raw_rows_of_a_model_without_sequences(log, prepared, capsys):
    out = prepared.parent / "fields"
    assert run("train", prepared, "--out", out, "--model", "LR", "--no-sequences", "--epochs", "1", "--quiet") == 0
    scores = prepared.parent / "raw.csv"
    result = output(capsys, "predict", out, log, "--out", scores)
    assert result["rows"] == 1500 and len(scores.read_text().splitlines()) == 1501
    assert result["input"]["uid"]["values"] == 1500


@pytest.mark.slow
def test_export_scores_raw_features(trained, prepared, capsys):
    from keras_ctr.serving import SavedModelRunner

    path = prepared.parent / "served" / "1"
    signatures = {"serving_default", "serve_examples", "encoded", "rank", "classify", "regress"}
    assert set(output(capsys, "export", trained, path)["signatures"]) == signatures
    with SavedModelRunner(path) as model:
        names = set(model.signatures["serving_default"].inputs)
        assert {"uid", "iid", "price"} < names
        history = (names - {"uid", "iid", "price"}).pop()
        request = {"uid": np.array([1, 1]), "iid": np.array([1, 2]), "price": np.array([1.0, 1.0], "float32")}
        scores = model.run("serving_default", {**request, history: np.array([[4, 7], [4, 7]])})["click"]
    assert scores.shape == (2, 1) and scores[0] != scores[1]
    assert "exists" in failure(capsys, 1, "export", trained, path)


def test_schema_is_inferred_edited_and_used(log, capsys):
    schema = log.parent / "schema.json"
    result = output(capsys, "prepare", "--csv", log, "--label", "click", "--exclude", "ts", "--schema-only", "--out", schema)
    assert "price" in result["features"]
    edited = json.loads(schema.read_text())
    edited["features"] = [f for f in edited["features"] if f["name"] != "price"]
    schema.write_text(json.dumps(edited))
    summary = output(capsys, "prepare", "--csv", log, "--schema", schema, "--split", "random", "--out", log.parent / "edited")
    assert summary["features"] == len(edited["features"])
    assert "exists" in failure(capsys, 1, "prepare", "--csv", log, "--schema", schema, "--out", log.parent / "edited")


def test_time_gaps_of_histories(log, capsys, tmp_path):
    from keras_ctr.data import PreparedData, make_dataset

    columns = ["--csv", log, "--label", "click", "--user", "uid", "--item", "iid", "--time", "ts", "--history-length", 4]
    assert "time gaps need time_unit" in failure(capsys, 1, "prepare", *columns, "--time-gap", "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    output(capsys, "prepare", *columns, "--time-gap", "--time-unit", "s", "--out", tmp_path / "data")
    data = PreparedData(tmp_path / "data")
    assert [s.name for s in data.schema.sequences] == ["hist_iid", "hist_time_gap"]
    assert data.schema.tables["hist_time_gap"].vocabulary_size == 34 and data.schema.sequence_groups.keys() == {"history"}
    _, *rows = [line.split(",") for line in log.read_text().splitlines()]  # in order of time, one a second
    for x, _ in make_dataset(data, "test", batch_size=150):
        for time, gaps, items in zip(x["meta/time"].numpy(), x["hist_time_gap"].numpy(), x["hist_iid"].numpy(), strict=True):
            user = rows[time - 1000][1]
            events = [int(r[0]) for r in rows if r[1] == user and r[4] == "1" and int(r[0]) < time][-4:]
            expected = [1 + (int(time) - event + 1).bit_length() for event in events]  # 2 + floor(log2(seconds + 1))
            assert gaps.tolist() == expected + [0] * (4 - len(expected))
            assert ((gaps > 0) == (items > 0)).all()
    # Data of the same schema later on: the time gaps are part of it.
    grown = ["prepare", "--csv", log, "--extend", tmp_path / "data", "--out", tmp_path / "grown"]
    assert "time gaps need time_unit" in failure(capsys, 1, *grown)
    assert "--time-gap does not go with --extend" in failure(capsys, 2, *grown, "--time-gap")
    output(capsys, *grown, "--time-unit", "s")
    assert PreparedData(tmp_path / "grown").schema.sequence_groups == data.schema.sequence_groups
    text = ["prepare", "--csv", log, "--schema", tmp_path / "data" / "schema.json", "--time-gap", "--out", tmp_path / "y"]
    assert "time_gap goes with an inferred schema" in failure(capsys, 1, *text)
    result = output(capsys, "prepare", *columns, "--time-gap", "--schema-only", "--out", tmp_path / "schema.json")
    assert result["features"][-1] == "hist_time_gap"
    assert "--time-unit goes with --csv" in failure(
        capsys, 2, "prepare", "--dataset", "kuairand", "--time-unit", "s", "--out", tmp_path / "x"
    )


def test_mistakes_are_named(log, prepared, trained, capsys, tmp_path):
    assert "did you mean 'train'" in failure(capsys, 2, "trian")
    assert "give either --csv or --dataset" in failure(capsys, 2, "prepare", "--out", tmp_path / "x")
    assert "--user goes with --csv" in failure(capsys, 2, "prepare", "--dataset", "kuairand", "--user", "u", "--out", tmp_path / "x")
    assert "--label is missing" in failure(capsys, 2, "prepare", "--csv", log, "--out", tmp_path / "x")
    assert "clik" in failure(capsys, 1, "prepare", "--csv", log, "--label", "clik", "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    assert "nowhere.csv" in failure(capsys, 1, "prepare", "--csv", tmp_path / "nowhere.csv", "--label", "click", "--out", tmp_path / "x")
    assert "did you mean 'InterFormer'" in failure(capsys, 1, "train", prepared, "--model", "InterFromer", "--out", tmp_path / "x")
    assert "no argument 'dropuot'" in failure(capsys, 1, "train", prepared, "--model", "DIN", "--set", "dropuot=1", "--out", tmp_path / "x")
    assert "NAME=VALUE" in failure(capsys, 2, "train", prepared, "--set", "dropout", "--out", tmp_path / "x")
    assert "no label 'clck'" in failure(capsys, 1, "train", prepared, "--label", "clck", "--out", tmp_path / "x")
    assert "is no run folder" in failure(capsys, 1, "evaluate", prepared, prepared)
    assert "holdout" in failure(capsys, 1, "evaluate", trained, prepared, "--split", "holdout")
    assert "exists" in failure(capsys, 1, "train", prepared, "--out", trained)
    bad = tmp_path / "config.json"
    bad.write_text('{"modle": "LR"}')
    assert "did you mean 'model'" in failure(capsys, 1, "train", prepared, "--config", bad, "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_optimizers_by_name():
    from keras_ctr import optimizers
    from keras_ctr.cli import runs

    def made(name, **arguments):
        return runs.optimizer_of(runs.RunConfig(optimizer=name, **arguments))

    assert isinstance(made("default"), optimizers.LazyAdam) and float(made("default", learning_rate=0.5).learning_rate) == 0.5
    assert type(made("Adagrad")) is optimizers.Adagrad and type(made("adagrad")) is keras.optimizers.Adagrad
    assert type(made("adam")) is keras.optimizers.Adam and type(made("lazyadam")) is optimizers.LazyAdam
    composite = made("dynint", learning_rate=0.05, optimizer_arguments={"l1": 0.001, "dense_learning_rate": 0.02})
    table = composite._optimizer_map["embedding/table"]
    assert isinstance(table, optimizers.GroupLassoFTRL) and table.l1 == 0.001 and float(table.learning_rate) == pytest.approx(0.05)
    assert isinstance(made("wide_deep"), keras.optimizers.MultiOptimizer)
    with pytest.raises(ValueError, match="no optimizer 'lazy_adm'.*did you mean"):
        made("lazy_adm")
    with pytest.raises(ValueError, match="optimizer 'default'.*'l7'"):
        made("default", optimizer_arguments={"l7": 1})
    with pytest.raises(ValueError, match="strategy must be 'none' or 'mirrored', got 'ring'"):
        runs.strategy_of(runs.RunConfig(strategy="ring"))
