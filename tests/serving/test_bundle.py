"""The serving bundle: what is in it, that it scores as the model does, and that a wrong one is not published."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_ctr
from keras_ctr import Categorical, Schema, SchemaError
from keras_ctr.data import Encoder, fit_schema
from keras_ctr.serving import SIGNATURES, SavedModelRunner, bundle, export_bundle, raw_rows, replay_warmup, runner, warmup
from keras_ctr.serving.runner import read_signatures
from tests.serving.test_export import CANDIDATE, example, raw_schema, raw_table

pytestmark = pytest.mark.slow

FORBIDDEN_OPS = {
    "PyFunc",
    "PyFuncStateless",
    "EagerPyFunc",
    "ReadFile",
    "WriteFile",
    "MatchingFiles",
    "WholeFileReaderV2",
    "TextLineReaderV2",
}
MUST_COMPILE = {"_XlaMustCompile", "_XlaCompile", "_tpu_replicate"}


def randomised(model, spread=0.05):
    rng = np.random.default_rng(0)
    for v in model.trainable_variables:
        v.assign(keras.ops.convert_to_numpy(v) + rng.normal(size=v.shape).astype("float32") * spread)
    return model


@pytest.fixture(scope="module")
def fitted():
    table = raw_table(300)
    schema = raw_schema().replace(labels=("click", "like"))
    table = table.append_column("like", table["click"])
    return table, *fit_schema([table], schema, min_count=2)


@pytest.fixture(scope="module")
def exported(fitted, tmp_path_factory):
    table, schema, vocabularies = fitted
    model = randomised(keras_ctr.models.DNN(schema, embedding_dim=3, hidden_units=(5,)))
    folder = tmp_path_factory.mktemp("bundle") / "ctr"
    card = {"data": {"rows": 300}, "split": "test", "metrics": {"click": {"auc": 0.75}}, "notes": "made up"}
    path = export_bundle(
        model, schema, folder, vocabularies=vocabularies, rows=table, candidate_features=CANDIDATE, card=card, name="clicks"
    )
    return path, model


def test_what_is_in_it(exported, fitted):
    path, model = exported
    _, schema, _ = fitted
    assert path.name == "1" and sorted(p.name for p in path.parent.iterdir()) == ["1", "batching.config", "compose.yaml", "models.config"]
    assert sorted(p.name for p in (path / "assets").iterdir()) == ["vocabulary_city.txt", "vocabulary_item.txt", "vocabulary_words.txt"]
    assert 'name: "clicks"' in (path.parent / "models.config").read_text()
    assert "/models/clicks/models.config" in (path.parent / "compose.yaml").read_text()
    card = json.loads((path / "assets.extra" / "model_card.json").read_text())
    assert card["version"] == 1 and card["metrics"] == {"click": {"auc": 0.75}} and card["calibration"] is None
    assert card["parameters"]["all"] == model.count_params() and card["versions"]["keras"] == keras.__version__
    assert card["rank"] == {"candidate": ["item", "price", "age"], "user": ["city", "slot", "score", "items", "cities", "words"]}
    assert "vocabulary" not in json.dumps(card["schema"]).replace("vocabulary_size", "")
    text = (path / "assets.extra" / "model_card.md").read_text()
    assert "# clicks, version 1" in text and "| items | sequence | int64 | item |" in text and "made up" in text


def test_names_types_and_shapes_are_the_schemas(exported, fitted):
    path, _ = exported
    _, schema, _ = fitted
    signatures = read_signatures(path)
    assert sorted(signatures) == sorted([*SIGNATURES, "regress_click", "regress_like"])
    for name, signature in signatures.items():
        if name in ("serving_default", "encoded", "rank"):
            assert sorted(signature.inputs) == sorted(schema.feature_names)
        for feature, spec in signature.inputs.items():
            if feature in ("examples", "inputs"):
                assert (spec.dtype, spec.shape) == ("string", (None,))
            elif name == "encoded":
                assert (spec.dtype, spec.shape) == (schema.encoded_dtype(feature), (None, *schema.encoded_shape(feature)))
            else:
                first = None if name == "serving_default" or feature in CANDIDATE else 1
                assert (spec.dtype, spec.shape) == (schema.raw_dtype(feature), (first,) + (None,) * len(schema.encoded_shape(feature)))
    for name in ("serving_default", "serve_examples", "encoded", "rank"):
        assert {(n, s.dtype, s.shape) for n, s in signatures[name].outputs.items()} == {
            (label, "float32", (None, 1)) for label in ("click", "like")
        }


def test_classification_and_regression_have_their_method_names(exported, fitted):
    from tensorflow.core.protobuf import saved_model_pb2

    path, _ = exported
    table, schema, _ = fitted
    signatures = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0].signature_def
    methods = {name: s.method_name.rpartition("/")[2] for name, s in signatures.items() if not name.startswith("__")}
    assert methods == {name: "predict" for name in SIGNATURES[:4]} | {
        "classify": "classify",
        "regress_click": "regress",
        "regress_like": "regress",
    }
    examples = [example(row, schema) for row in table.slice(0, 5).to_pylist()]
    with SavedModelRunner(path) as saved:
        scores = saved.run("serve_examples", {"examples": examples})
        found = saved.run("classify", {"inputs": examples})
        assert found["classes"].tolist() == [[b"click", b"like"]] * 5
        np.testing.assert_allclose(found["scores"], np.concatenate([scores["click"], scores["like"]], axis=1), atol=1e-7)
        assert np.max(np.abs(scores["click"] - scores["like"])) > 1e-4
        for label in ("click", "like"):
            np.testing.assert_allclose(saved.run(f"regress_{label}", {"inputs": examples})["outputs"], scores[label], atol=1e-7)


def test_the_graph_has_nothing_that_a_server_lacks_and_each_variable_once(exported):
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    path, model = exported
    graph = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    assert not FORBIDDEN_OPS & {node.op for node in nodes}
    attributes = {key for node in nodes for key in node.attr} | {key for f in graph.library.function for key in f.attr}
    assert not MUST_COMPILE & attributes
    stored = tf.train.list_variables(str(path / "variables" / "variables"))
    assert sum(int(np.prod(shape)) for name, shape in stored if "VARIABLE_VALUE" in name) == model.count_params()


def test_the_answers_in_it_are_predicts_and_a_wrong_one_is_seen(exported, fitted, tmp_path):
    path, model = exported
    table, schema, vocabularies = fitted
    count, largest = replay_warmup(path)
    records = warmup.read_warmup(path)
    assert count == len(records) == 7 and largest < 1e-6
    assert {record.signature for record in records} == {"serving_default", "serve_examples", "encoded", "rank"}
    encoded = Encoder(schema, vocabularies).encode(table.slice(0, 32).combine_chunks()).features
    expected = model.predict(encoded, verbose=0)
    for record in records:
        if record.signature != "rank":
            rows = len(record.outputs["click"])
            np.testing.assert_allclose(record.outputs["like"], expected["like"][:rows], atol=1e-7)
    original = (path / warmup.FILE).read_bytes()
    try:
        for index in (0, 6):
            wrong = [r._replace(outputs={**r.outputs, "like": r.outputs["like"] + 2e-5 * (i == index)}) for i, r in enumerate(records)]
            warmup.write_warmup(path, wrong, "clicks")
            with pytest.raises(
                ValueError, match=rf"warm-up record {index} of signature '{records[index].signature}': output 'like' differs"
            ):
                replay_warmup(path)
        short = [records[0]._replace(outputs={"like": records[0].outputs["like"]})]
        warmup.write_warmup(path, short, "clicks")
        with pytest.raises(ValueError, match="has the outputs"):
            replay_warmup(path)
    finally:
        (path / warmup.FILE).write_bytes(original)
    assert replay_warmup(path)[0] == 7


def test_versions(fitted, tmp_path, monkeypatch):
    _, schema, vocabularies = fitted
    model = object()
    monkeypatch.setattr(bundle, "write_saved_model", lambda *a, **k: (a[3].mkdir(), (a[3] / "saved_model.pb").write_bytes(b"x")))
    monkeypatch.setattr(bundle, "make_card", lambda *a, **k: {})
    monkeypatch.setattr(bundle, "write_card", lambda *a: None)
    folder = tmp_path / "ctr"

    def export(**options):
        return export_bundle(model, schema, folder, vocabularies=vocabularies, **options).name

    assert [export(), export(), export(version=7), export()] == ["1", "2", "7", "8"]
    with pytest.raises(FileExistsError, match="7 exists; choose another version"):
        export(version=7)
    (folder / "7" / "old").touch()
    assert export(version=7, overwrite=True) == "7" and not (folder / "7" / "old").exists()
    for version in (0, -1, True, "3", 1.0):
        with pytest.raises(ValueError, match="version must be a positive number"):
            export(version=version)
    # Somebody else takes the number between the look and the rename.
    calls = iter([2, 9])
    monkeypatch.setattr(bundle, "next_version", lambda path: next(calls))
    assert export() == "9"
    (folder / "models.config").write_text("mine")
    assert export(version=10) == "10" and (folder / "models.config").read_text() == "mine"
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_nothing_is_published_if_the_replay_fails(fitted, tmp_path, monkeypatch):
    table, schema, vocabularies = fitted
    model = randomised(keras_ctr.models.LR(schema))
    original = bundle.make_records

    def perturbed(*args):
        first, *others = original(*args)
        return [first._replace(outputs={label: value + 1e-3 for label, value in first.outputs.items()}), *others]

    monkeypatch.setattr(bundle, "make_records", perturbed)
    with pytest.raises(ValueError, match="differs by 0.001"):
        export_bundle(model, schema, tmp_path / "ctr", vocabularies=vocabularies, rows=table)
    assert [p.name for p in (tmp_path / "ctr").iterdir() if p.name != "models.config"] == []


def test_what_does_not_fit_is_named(fitted, tmp_path):
    table, schema, vocabularies = fitted
    model = keras_ctr.models.LR(schema)
    with pytest.raises(SchemaError, match="table 'words' .* holds strings: give its vocabulary"):
        export_bundle(model, schema, tmp_path / "ctr", vocabularies={n: v for n, v in vocabularies.items() if n != "words"})
    with pytest.raises(SchemaError, match="lack the column 'price'"):
        export_bundle(model, schema, tmp_path / "ctr", vocabularies=vocabularies, rows=table.drop_columns(["price"]))
    with pytest.raises(SchemaError, match="'slto', which is no feature"):
        export_bundle(model, schema, tmp_path / "ctr", vocabularies=vocabularies, candidate_features=["slto"])
    with pytest.raises(ValueError, match="unknown section 'metric'"):
        export_bundle(model, schema, tmp_path / "ctr", vocabularies=vocabularies, card={"metric": 1})
    assert not list((tmp_path / "ctr").glob("*/saved_model.pb"))


def test_vocabularies_in_the_schema_are_enough(tmp_path):
    schema = Schema(features=[Categorical("city", vocabulary=["a", "b"])], labels=["click"])
    model = randomised(keras_ctr.models.LR(schema), 0.5)
    path = export_bundle(model, schema, tmp_path / "ctr", rows={"city": ["a", "b", None, "?"]})
    with SavedModelRunner(path) as saved:
        scores = saved.run("serving_default", {"city": ["a", "b", "", "?"]})["click"][:, 0]
    np.testing.assert_allclose(scores, model.predict({"city": np.array([2, 3, 1, 1])}, verbose=0)["click"][:, 0], atol=1e-6)
    assert len(set(scores.tolist())) == 3


@pytest.fixture(scope="module")
def kuairand(tmp_path_factory):
    from keras_ctr.datasets import kuairand

    options = {"labels": ("is_click", "long_view"), "max_length": 11}
    table = kuairand.load(**options)["validation"].slice(0, 1000).combine_chunks()
    return table, *fit_schema([table.slice(0, 700)], kuairand.schema(**options))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DNN", "DIN", "InterFormer", "MMoE"])
def test_real_rows_score_as_predict_in_a_process_without_keras(name, kuairand, tmp_path):
    """256 rows of KuaiRand that the vocabularies were not made of, raw and as tf.Examples, in a process that imports neither."""
    table, schema, vocabularies = kuairand
    model = randomised(keras_ctr.get_model(name, schema))
    video = ("video_id", "author_id", "tag", "video_type", "upload_type", "upload_dt", "music_type", "duration")
    path = export_bundle(model, schema, tmp_path / "ctr", vocabularies=vocabularies, rows=table, candidate_features=video)
    part = raw_rows.as_table(table.slice(700), schema, 256)
    encoded = Encoder(schema.replace(group=None, time=None), vocabularies).encode(part, labels=False).features
    assert 0 < np.mean(encoded["video_id"] == 1) < 1
    expected = model.predict(encoded, verbose=0)
    request = raw_rows.as_request(part, schema)
    np.save(tmp_path / "request.npy", {"serving_default": request, "serve_examples": {"examples": raw_rows.as_examples(part, schema)}})
    code = (
        "import runpy, sys, numpy as np\n"
        f"Runner = runpy.run_path({runner.__file__!r})['SavedModelRunner']\n"
        f"requests = np.load({str(tmp_path / 'request.npy')!r}, allow_pickle=True).item()\n"
        f"with Runner({str(path)!r}) as saved: out = {{name: saved.run(name, inputs) for name, inputs in requests.items()}}\n"
        "assert not {'keras', 'keras_ctr', 'tensorflow'} & set(sys.modules)\n"
        f"np.save({str(tmp_path / 'scores.npy')!r}, out)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    scores = np.load(tmp_path / "scores.npy", allow_pickle=True).item()
    for signature in ("serving_default", "serve_examples"):
        for label in ("is_click", "long_view"):
            assert scores[signature][label].shape == (256, 1) and np.ptp(expected[label]) > 1e-3
            np.testing.assert_allclose(scores[signature][label], expected[label], atol=1e-5)
