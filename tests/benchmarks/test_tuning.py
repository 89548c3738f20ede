"""Cases, tables and the plot of the tuning studies, from made-up results."""

import inspect

import numpy as np
import pytest

from benchmarks import dynint_gates, dynint_sweeps, tuning_comparison
from keras_ctr import Categorical, Schema, models
from tuning.spaces import SPACES
from tuning.sweeps import SWEEPS, points


def test_every_point_of_the_sweeps_is_a_case_once():
    cases = {c["name"]: c for c in dynint_sweeps.cases()}
    assert set(cases) == {dynint_sweeps.name_of(*point) for sweep in SWEEPS for point in points(sweep)}
    known = set(inspect.signature(models.DynInt).parameters)
    for case in cases.values():
        assert case["model"] == "DynInt" and set(case["arguments"]) <= known
        assert case["optimizer"] == "dynint" and case["learning_rate"] == 0.02 and case["epochs"] == 1
    assert {s for _, _, sweeps in dynint_sweeps.FAMILIES.values() for s in sweeps} == set(SWEEPS)
    for argument, _, sweeps in dynint_sweeps.FAMILIES.values():
        assert all(len(SWEEPS[s][1][argument]) > 1 for s in sweeps)


def sweep_document(score, seeds=(1, 2)):
    results = []
    for case in dynint_sweeps.cases():
        for seed in seeds:
            auc = score(case["arguments"]) + seed / 1000
            results.append({"name": case["name"], "seed": seed, "test": {"is_click": {"auc": auc, "logloss": 1 - auc}}})
    return {"results": results}


def test_sweep_tables_have_a_column_a_value_and_the_mean_of_the_variants(tmp_path):
    offset = {"da": 0.0, "dgp": 0.03, "dwp": 0.06}
    document = sweep_document(lambda a: 0.7 + offset[a["variant"]] + a.get("num_layers", 0) / 100)
    mean = dynint_sweeps.curves(document, "depth")["mean"]
    assert list(mean) == [0, 1, 2, 3, 4, 5]
    assert mean[4] == pytest.approx({1: 0.771, 2: 0.772})  # 0.7 + 0.03 + 0.04 and the seed's share
    table = dynint_sweeps.tables(document)["dynint_depth"].splitlines()
    assert table[0].count("|") == 8 and table[5].startswith("| AUC, mean | 0.7315 ± 0.0007 | 0.7415 ± 0.0007 |")
    assert table[6].startswith("| log loss, mean | 0.2685 ± 0.0007 |")
    reduction = dynint_sweeps.curves(document, "reduction")
    assert list(reduction)[3:] == [f"DynInt-{v}, gates normalised" for v in ("DA", "DGP", "DWP")] + ["mean"]
    assert reduction["mean"][4] == pytest.approx({1: 0.731, 2: 0.732})  # of the paper's form alone
    assert dynint_sweeps.tables(document)["dynint_rank"].splitlines()[-1].startswith("| log loss, DynInt-DWP |")
    lines = list(dynint_sweeps.verdicts(document))
    assert "depth, mean: best 5 (0.7815)" in lines  # every other value is behind in both seeds alike
    assert any(line.startswith("rank, DynInt-DWP: best 1 ") and line.endswith("within the spread of it: 2, 3, 4") for line in lines)
    dynint_sweeps.draw(document, tmp_path / "sweeps.png")
    assert (tmp_path / "sweeps.png").stat().st_size > 10_000


def test_sweeps_without_all_variants_have_no_mean():
    document = sweep_document(lambda a: 0.7)
    document["results"] = [r for r in document["results"] if '"dgp"' not in r["name"]]
    assert set(dynint_sweeps.curves(document, "depth")) == {"DynInt-DA", "DynInt-DWP"}
    assert set(dynint_sweeps.tables({}).values()) == {"not measured\n"}
    assert dynint_sweeps.tables(document)["dynint_kernel_size"] == "not measured\n"


def test_gate_table_has_the_spread_of_what_holding_the_gates_changes():
    names = [name for name, _, _ in dynint_gates.cases(1)]
    assert len(names) == 12 and "DynInt-DWP, Adam, 1e-3, normalised" in names
    result = {"embedding_deviation": 0.03, "gate_deviation": [0.001, 0.003], "validation_auc": 0.76, "test_auc": 0.75}
    results = [{"name": names[0], **result, "validation_auc_at_mean": 0.76 - step} for step in (0.001, 0.003)]
    last = dynint_gates.table({"results": results}).splitlines()[-1]
    assert last == f"| {names[0]} | 0.030 | 0.0020 | 0.7600 ± 0.0000 | -0.00200 ± 0.00141 | 0.7500 ± 0.0000 |"
    assert dynint_gates.table({}) == "not measured\n"
    both = [{"name": name, "seed": 1, **result, "test_auc": 0.75 + 0.01 * place} for place, name in enumerate(names[:2])]
    lines = list(dynint_gates.verdicts({"results": both}))
    assert len(lines) == 2 and lines[1].endswith("normalised input changes test_auc by +0.0100")


def test_gates_held_at_their_mean_give_it():
    rng = np.random.default_rng(0)
    schema = Schema(features=[Categorical("user", 20), Categorical("item", 20)], labels=("is_click",))
    model = models.DynInt(schema, embedding_dim=4, num_layers=2, num_subspaces=2, gate_norm=True)
    x = {"user": rng.integers(2, 20, 50), "item": rng.integers(2, 20, 50)}
    pool, outputs = dynint_gates.gate_outputs(model, x)
    assert pool.shape == (50, 2, 4) and [values.shape for values in outputs] == [(50, 4)] * 2
    assert min(values.std(axis=0).min() for values in outputs) > 0
    dynint_gates.hold_at_mean(model, outputs)
    for values, held in zip(outputs, dynint_gates.gate_outputs(model, x)[1], strict=True):
        np.testing.assert_allclose(held, np.broadcast_to(values.mean(axis=0), held.shape), atol=1e-6)


def scored(auc, parameters):
    values = {metric: {"mean": auc, "deviation": 0.002, "values": [auc]} for metric in ("auc", "ne")}
    return {
        "validation": {"is_click": values},
        "test": {"is_click": values},
        "parameter_count": {"embedding": parameters - 10, "dense": 10},
    }


def test_comparison_puts_winner_and_defaults_side_by_side():
    assert set(tuning_comparison.MODELS) <= set(SPACES)
    trials = [{"trial": "0", "parameters": {"lr": 0.1}}, {"trial": "7", "parameters": {"learning_rate": 0.0012345, "num_layers": 2}}]
    entry = {"model": "DIN", "search": {"objective": 0.74, "trial": "7"}, "trials": trials, **scored(0.73, 1000)}
    document = {"models": [{**entry, "defaults": scored(0.72, 2000)}]}
    tables = tuning_comparison.tables(document)
    own, plain = " | ".join(["0.7300 ± 0.0020"] * 3), " | ".join(["0.7200 ± 0.0020"] * 3)
    assert tables["tuning_comparison"].splitlines()[2] == f"| DIN | 0.7400 | {own} | {plain} | +0.0100 |"
    assert tables["tuning_winners"].splitlines()[2] == "| DIN | 1,000 | 2,000 | learning_rate 0.00123, num_layers 2 |"
    assert set(tuning_comparison.tables({}).values()) == {"not measured\n"}
