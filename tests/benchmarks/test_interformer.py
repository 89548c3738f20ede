"""InterFormer's ablations: cut histories, cases that stand in several studies, tables, figures and orderings from results."""

import inspect
import json

import numpy as np
import pytest

from benchmarks import comparison, interformer, selection
from keras_ctr.schema import Categorical, Label, Schema, Sequence

SCHEMA = Schema(
    features=(
        Categorical("item", vocabulary_size=99),
        Sequence("watched_item", max_length=5, table="item", target="item", group="watched"),
        Sequence("watched_action", max_length=5, vocabulary_size=9, group="watched"),
        Sequence("liked_item", max_length=3, table="item", target="item", group="liked"),
    ),
    labels=(Label("is_click"),),
)


def splits():
    item = np.array([[11, 12, 13, 14, 15], [21, 0, 23, 24, 0], [31, 32, 0, 0, 0], [0, 0, 0, 44, 45], [0, 0, 0, 0, 0]], "int32")
    action = np.array([[1, 2, 3, 4, 5], [1, 2, 0, 4, 0], [1, 2, 0, 0, 0], [0, 0, 0, 4, 5], [0, 0, 0, 0, 0]], "int64")
    liked = np.arange(15, dtype="int32").reshape(5, 3)
    x = {"item": np.arange(5), "watched_item": item, "watched_action": action, "liked_item": liked, "meta/group": np.arange(5)}
    return {"train": (x, {"is_click": np.zeros((5, 1))})}


def test_the_newest_events_of_a_history_are_kept_and_what_belongs_together_stays_together():
    before, again = splits(), splits()
    schema, after = interformer.newest_events(SCHEMA, before, {"watched": 3})
    x = after["train"][0]
    # The second row: its second event has an action only, its third an item only; both are events.
    np.testing.assert_array_equal(x["watched_item"], [[13, 14, 15], [0, 23, 24], [31, 32, 0], [44, 45, 0], [0, 0, 0]])
    np.testing.assert_array_equal(x["watched_action"], [[3, 4, 5], [2, 0, 4], [1, 2, 0], [4, 5, 0], [0, 0, 0]])
    assert x["watched_item"].dtype == "int32" and x["watched_action"].dtype == "int64"
    assert [f.max_length for f in schema.sequences] == [3, 3, 3] and schema.fields == SCHEMA.fields
    for name in ("item", "liked_item", "meta/group"):
        np.testing.assert_array_equal(x[name], again["train"][0][name])
    for name, value in again["train"][0].items():
        np.testing.assert_array_equal(before["train"][0][name], value, err_msg=f"the argument's {name} was changed")
    assert SCHEMA["watched_item"].max_length == 5


def test_a_history_shorter_than_asked_keeps_all_its_events():
    schema, after = interformer.newest_events(SCHEMA, splits(), {"watched": 7, "liked": 1})
    x = after["train"][0]
    np.testing.assert_array_equal(x["watched_item"][:3], [[11, 12, 13, 14, 15], [21, 0, 23, 24, 0], [31, 32, 0, 0, 0]])
    np.testing.assert_array_equal(x["liked_item"], [[2], [5], [8], [11], [14]])
    assert {f.name: f.max_length for f in schema.sequences} == {"watched_item": 5, "watched_action": 5, "liked_item": 1}


def test_cutting_names_the_group_that_is_wrong():
    with pytest.raises(ValueError, match="no group 'bought'.*watched, liked"):
        interformer.newest_events(SCHEMA, splits(), {"bought": 2})
    with pytest.raises(ValueError, match="'liked' must keep at least 1 event, got 0"):
        interformer.newest_events(SCHEMA, splits(), {"liked": 0})


def test_cases_are_named_by_what_they_change_and_stand_once():
    from keras_ctr.models import InterFormer

    defaults = {k: p.default for k, p in inspect.signature(InterFormer).parameters.items()}
    assert {k: defaults[k] for k in interformer.FULL} == interformer.FULL, "the full model is the factory's"
    cases = interformer.cases()
    names = [c["name"] for c in cases]
    assert len(names) == len(set(names)) == 15 + 2 + 7 + 3  # final_summary=False is num_layers=1
    arguments = {json.dumps(c["arguments"], sort_keys=True) for c in cases}
    assert len(arguments) == len(cases), "two names for one configuration"
    assert interformer.name_of({"backbone": "dhen", "mode": "int"}) == interformer.name_of({"num_layers": 2}) == "full"
    assert {"full", "mode=sole", "mode=n2s, backbone=dot", "mode=sole, early_aggregation=mlp", "num_layers=4", "use_pma=False"} <= set(
        names
    )
    by_name = {c["name"]: c for c in cases}
    assert by_name["mode=n2s, backbone=dot"]["arguments"]["backbone"] == "dot"
    training = {json.dumps({k: v for k, v in c.items() if k not in ("name", "arguments")}) for c in cases}
    assert len(training) == 1 and cases[0]["labels"] == ["is_click", "long_view"]
    assert [c["name"] for c in interformer.cases(["layers"])] == ["num_layers=1", "full", "num_layers=3", "num_layers=4"]
    for study, _, _, links in interformer.CLAIMS:
        assert {row for low, _, high in links for row in (low, high)} <= set(interformer.STUDIES[study])


@pytest.mark.slow
def test_without_the_final_summary_two_layers_are_the_model_of_one():
    import keras

    from keras_ctr.models import InterFormer

    x = {name: value for name, value in splits()["train"][0].items() if name in SCHEMA.feature_names}
    outputs, sizes = [], []
    for settings in ({"final_summary": False, "num_layers": 2}, {"final_summary": True, "num_layers": 1}):
        keras.utils.set_random_seed(1)
        model = InterFormer(SCHEMA, embedding_dim=8, hidden_units=(7,), **settings)
        sizes.append([tuple(w.shape) for w in model.weights])
        outputs.append(np.asarray(model(x)["is_click"]))
    assert sizes[0] == sizes[1]
    np.testing.assert_array_equal(*outputs)
    assert np.ptp(outputs[0]) > 0


def result(name, seed, auc, ne=0.9):
    case = {c["name"]: c for c in interformer.cases()}[name]
    metrics = {"auc": auc, "gauc": auc - 0.1, "logloss": ne - 0.3, "ne": ne}
    config = {k: v for k, v in case.items() if k != "data"}
    scores = {"is_click": metrics, "long_view": {**metrics, "auc": auc + 0.05}}
    validation = {label: {**v, "auc": v["auc"] + 0.01} for label, v in scores.items()}
    return {
        "name": name,
        "seed": seed,
        "parameters": 1234,
        "data": case["data"],
        "config": config,
        "validation": validation,
        "test": scores,
    }


def document():
    """Two seeds. PMA helps by 0.01 with both, recent events hurt, gating is 0.01 and -0.02."""
    base = {1: 0.70, 2: 0.74}
    rows = [result("full", seed, auc) for seed, auc in base.items()]
    for name, changes in {
        "use_pma=False": (-0.01, -0.01),
        "use_recent=False": (0.02, 0.03),
        "use_gating=False": (0.01, -0.02),
        "mode=sole": (-0.02, -0.03),
    }.items():
        rows += [result(name, seed, base[seed] + change) for seed, change in zip(base, changes, strict=True)]
    rows += [result("num_layers=1", 2, 0.72, ne=0.95), result("num_layers=1", 1, 0.70, ne=0.93)]
    return {"trials": [], "results": rows}


def test_tables_compare_seed_by_seed():
    tables = interformer.tables(document())
    lines = tables["interformer_components"].splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| full", "| - pma", "| - recent", "| - gating", "| final_summary=False"]
    # Means 0.72 and 0.71; deviation of (0.70, 0.74) is 0.04 / sqrt(2); the paired difference has none.
    assert lines[2] == ("| full | 0.7300 ± 0.0283 | 0.7200 ± 0.0283 | 0.6200 ± 0.0283 | 0.6000 ± 0.0000 | 0.7700 ± 0.0283 | 1,234 |  |")
    assert lines[3].endswith("| 1,234 | -0.0100 ± 0.0000 |")
    assert lines[5].endswith("| -0.0050 ± 0.0212 |")
    assert "| dhen, sole |" in tables["interformer_modes"] and "| avg |" in tables["interformer_aggregation"]
    assert set(interformer.tables({}).values()) == {"not measured\n"}


def test_orderings_say_what_holds():
    assert comparison.verdict([0.01, 0.012, 0.011]) == "holds"
    assert comparison.verdict([-0.01, -0.012, -0.011]) == "does not hold"
    assert comparison.verdict([0.01, -0.012, 0.011]) == "within the spread"
    assert comparison.verdict([0.01]) == comparison.verdict([], "~") == "not decided"
    assert comparison.verdict([0.01, -0.012, 0.011], "~") == "holds"
    assert comparison.verdict([-0.01, -0.012, -0.011], "~") == "does not hold"
    text = "\n".join(interformer.orderings(document()))
    counts = "(holds: 1, does not hold: 1, within the spread: 1, not decided: 2)"
    assert f"components, each component helps (AUC of is_click): does not hold {counts}" in text
    assert "  full better than - pma: holds (+0.0100 ± 0.0000, 2 seeds)" in text
    assert "  full better than - recent: does not hold (-0.0250 ± 0.0071, 2 seeds)" in text
    assert "  full better than - gating: within the spread (+0.0050 ± 0.0212, 2 seeds)" in text
    assert "  full better than - mha: not decided (not measured)" in text
    assert "  dhen, int better than dhen, sole: holds" in text and "  int better than avg: holds" in text
    # 0.72 - 0.70 and 0.74 - 0.72 paired; a lower NE is better: 0.93 - 0.9 and 0.95 - 0.9.
    assert "  2 better than 1: within the spread (+0.0100 ± 0.0141, 2 seeds)" in text
    assert "  2 better than 1: holds (+0.0400 ± 0.0141, 2 seeds)" in text
    only = list(interformer.orderings(document(), ["layers"]))
    assert len(only) == 8 and all(line.startswith(("layers", "  ")) for line in only)


def test_every_study_that_is_measured_has_a_figure(tmp_path):
    pytest.importorskip("matplotlib", reason="the figures need the extra report")
    assert interformer.draw({"results": []}, tmp_path / "none") == []
    paths = interformer.draw(document(), tmp_path / "figures")
    assert [p.name for p in paths] == [f"interformer_{study}.png" for study in interformer.STUDIES]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in paths)


def test_a_study_keeps_the_cases_of_another_and_refuses_other_settings(tmp_path, monkeypatch):
    out, called = tmp_path / "interformer.json", {}

    def select(cases, load, path, **options):
        called.update(options, cases=[c["name"] for c in cases])

    monkeypatch.setattr(selection, "select", select)
    assert comparison.earlier(out, interformer.cases()) == set()
    out.write_text(json.dumps(document()))
    interformer.run(["layers"], None, out, seeds=2, jobs=1)
    assert called["cases"] == ["num_layers=1", "full", "num_layers=3", "num_layers=4"]
    kept = {c["name"] for c in called["note"]["cases"]}
    assert kept == {*called["cases"], "use_pma=False", "use_recent=False", "use_gating=False", "mode=sole"}
    assert called["note"]["studies"]["aggregation"]["avg"] == "mode=sole" and len(called["grid"]) == 1
    changed = document()
    changed["results"][0]["config"]["learning_rate"] = 0.1
    out.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=r"'full' was run with other settings \(learning_rate\)"):
        interformer.run(["layers"], None, out)
