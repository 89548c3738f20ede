"""The benchmark of layer formulations: all forms of a case are one function, what differs is refused, bookkeeping. No timings."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import layers as benchmark
from benchmarks.layer_forms import attention, interactions, measure, whole_models
from benchmarks.layer_forms.case import OURS, Built, Case, Form, normal

SMALL = {"fields": 5, "length": 7, "rank": 3, "units": (3, 2), "hidden_units": (3,), "chunk": 2, "count": 2}
TIMES = {"rounds": 2, "steps": 2, "block_seconds": 1.0}


def small(case):
    return {key: value for key, value in SMALL.items() if key in case.sizes}


def different_cases():
    """Returns names of cases that are not one case once their sizes are small, all numbers of subspaces included."""
    kinds = {(case.build, str({**case.sizes, **small(case)})): name for name, case in benchmark.CASES.items()}
    return list(kinds.values())


def compare(case, jit):
    case = dataclasses.replace(case, jit=jit)
    built = case.make(11, **small(case))
    return measure.compare(case, built, measure.arguments_of(built))


@pytest.mark.parametrize("name", different_cases())
def test_all_forms_of_a_case_are_one_function(name):
    case = benchmark.CASES[name]
    functions, differences, failures = compare(case, jit=False)
    assert not failures and set(functions) == set(differences) == set(case.make(3, **small(case)).forms)
    assert next(iter(functions)) == OURS and (len(functions) > 1 or name.startswith("core_"))


@pytest.mark.slow
def test_forms_under_xla_are_the_same_function():
    functions, differences, failures = compare(benchmark.CASES["din_attention"], jit=True)
    assert not failures and list(functions) == [OURS, "concatenation", f"{OURS}, XLA", "concatenation, XLA"]
    assert all(d["relative_difference"] <= measure.TOLERANCE for d in differences.values())


def scaled_case(factor, weights=1.0):
    """A made-up case: `w x` against `factor w x`, whose weight's gradient is `weights` times as large."""
    weight = keras.Variable(np.float32([2.0, 3.0]))

    def other(x):
        product = x * weight.value
        return factor * (weights * product - (weights - 1.0) * tf.stop_gradient(product))

    def build(rng, batch):
        forms = {OURS: Form(lambda x: x * weight.value, [weight]), "other": Form(other, [weight])}
        return Built([normal(rng, batch, 2)], forms)

    return Case("scaled", build, {})


@pytest.mark.slow
def test_a_form_that_is_another_function_is_refused():
    def run(*factors):
        return measure.measure(scaled_case(*factors), batch_size=3, threads=1, **TIMES)

    assert run(1.0)["forms"]["other"]["largest_difference"] == 0.0
    assert run(1.0 + 1e-5)["forms"]["other"]["relative_difference"] == pytest.approx(1e-5, rel=0.1)
    for wrong in ((1.001,), (1.0, 2.0)):  # its output; its gradients alone
        with pytest.raises(measure.FormsDisagree, match="'other' differs from ours"):
            run(*wrong)


def test_a_missing_gradient_is_refused():
    x = tf.constant([1.0])
    with pytest.raises(measure.FormsDisagree, match="gradient 0 is"):
        measure.differences((x, [x]), (x, [None]))
    with pytest.raises(measure.FormsDisagree, match="the output is not finite"):
        measure.differences((x, [x]), (x * np.nan, [x]))
    # 0.5 of at most 4 is the larger absolute difference, 0.25 of 1 the larger relative one.
    assert measure.differences((tf.constant([4.0]), [x]), (tf.constant([4.5]), [x + 0.25])) == (0.5, 0.25)


def test_a_refused_case_is_not_recorded(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(benchmark.CASES, "scaled", scaled_case(1.001))
    out = tmp_path / "layers.json"
    monkeypatch.setattr(tf.config.threading, "set_intra_op_parallelism_threads", lambda n: None)
    monkeypatch.setattr(tf.config.threading, "set_inter_op_parallelism_threads", lambda n: None)
    assert benchmark.main(["--out", str(out), "--only", "scaled", "--rounds", "1", "--batch-size", "3"]) == 1
    assert "NOT RECORDED" in capsys.readouterr().out and not out.exists()


def test_a_cell_holds_times_sizes_and_differences(tmp_path, monkeypatch):
    asked = []

    def grown(job, threads):
        asked.append(job["form"])
        return {"memory_mb": 40.0 if job["form"] == "materialised" else 10.0}

    monkeypatch.setattr(measure, "in_a_process", grown)
    case = benchmark.CASES["dgp_39"]
    cell = measure.measure(case, batch_size=11, threads=1, sizes={"fields": 5, "rank": 3}, **TIMES)
    assert asked == list(cell["forms"]) == [OURS, "materialised", "einsums"]
    assert cell["forms"][OURS]["ratio"] == 1.0 and cell["forms"]["einsums"]["calls"] >= 2
    assert cell["batch_size"] == 11 and cell["sizes"] == {"fields": 5, "width": 16, "subspaces": 1, "rank": 3}
    # Four bytes a number: 11 of 5^2; 11 of 3^2 and 2 of 5 x 3; 11 of 3 and the same.
    assert cell["dynamic_bytes_per_layer"] == {"materialised": 1100, "paper": 516, OURS: 252}
    assert cell["dynamic_reduction_percent"] == {"paper": 53.09, OURS: 77.09}
    assert cell["memory_reduction_percent"] == {OURS: 75.0, "einsums": 75.0}
    benchmark.results.save(tmp_path / "x.json", benchmark.merge({}, [cell]))
    assert "| dgp_39 | 11 | 3 | 0.0 | 0.0 | 0.0 | 53.09 | 77.09 | 75.0 |" in benchmark.table(benchmark.results.load(tmp_path / "x.json"))


def test_byte_counts_meet_the_papers_figures():
    batch, crossed = 4096, 620
    full, rank = interactions.full_bytes(batch, crossed), crossed // 10
    # 0.01 + 0.2 / B and 0.2 + 1 / B of the full matrices, K = F' / 10.
    assert interactions.generated_bytes(batch, crossed, rank)["paper"] / full == pytest.approx(0.01 + 0.2 / batch)
    assert interactions.weighted_bytes(batch, crossed, rank)["paper"] / full == pytest.approx(0.2 + 1 / batch)


def test_large_cases_take_a_smaller_batch():
    sizes = {name: case.batch(4096) for name, case in benchmark.CASES.items()}
    assert sizes["pin_h4"] == sizes["dgp_39"] == sizes["dwp_156_k2"] == 4096
    # DGP: 5 matrices of 624^2 floats are 7.8 MB a row, 8.0 GB for 1027 rows; DWP: 8 of them, 642 rows.
    assert sizes["dgp_624"] == 1024 and sizes["dwp_624_k4"] == 512
    assert sizes["pin_h16"] == 2048  # two of them, 2568 rows
    assert sizes["rope_100"] == 1024


def test_crossing_by_concatenation_stacks_pieces_on_the_field_axis():
    x = tf.reshape(tf.range(12.0), (1, 3, 4))
    crossed = interactions.cross_by_concatenation(x, 2)
    assert crossed.numpy()[0].tolist() == [[0, 1], [4, 5], [8, 9], [2, 3], [6, 7], [10, 11]]
    assert (interactions.merge_by_concatenation(crossed, 2).numpy() == x.numpy()).all()


def test_interleaved_rotation_turns_neighbours():
    # One head of width 2 at positions 0 and 1: the angle is the position.
    x = tf.constant([1.0, 0.0] * 2, shape=(1, 2, 1, 2))
    expected = [[1.0, 0.0], [np.cos(1), np.sin(1)]]
    np.testing.assert_allclose(attention._interleaved(x).numpy()[0, :, 0], expected, rtol=1e-6)
    wide = tf.constant([[0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]], shape=(1, 2, 1, 4))
    np.testing.assert_allclose(attention._interleaved(wide).numpy()[0, 1, 0], [np.cos(1), np.sin(1), 0, 0], rtol=1e-6)
    np.testing.assert_allclose(attention._half_split(wide).numpy()[0, 1, 0], [np.cos(1), 0, np.sin(1), 0], rtol=1e-6)


def test_rounds_begin_with_another_form_each_time():
    order = []
    functions = {name: (lambda name=name: order.append(name)) for name in "abc"}
    rounds = measure.interleave(functions, rounds=4, steps=1, block_seconds=1e9)
    assert "".join(order[3:]) == "abc" + "bca" + "cab" + "abc"
    assert {name: [len(r) for r in seconds] for name, seconds in rounds.items()} == dict.fromkeys("abc", [1] * 4)


def test_slow_forms_are_called_less_often(monkeypatch):
    monkeypatch.setattr(measure, "seconds_of", lambda function: function())
    rounds = measure.interleave({"fast": lambda: 0.1, "slow": lambda: 2.0, "slower": lambda: 9.0}, rounds=2, steps=10, block_seconds=4.5)
    assert {name: len(seconds[0]) for name, seconds in rounds.items()} == {"fast": 10, "slow": 2, "slower": 1}
    assert measure.summarise(rounds, "fast")["slow"]["ratio"] == 20.0


def form(milliseconds, ratio, **more):
    times = {"median_ms": milliseconds, "ratio": ratio, "ratio_quartiles": [ratio, ratio], "largest_difference": 2e-6}
    return {**times, "relative_difference": 1e-6, "calls": 4, **more}


def forms_cell(name, **forms):
    return {"name": name, "kind": "forms", "batch_size": 64, "forms": forms}


def test_merging_is_by_name_and_an_error_never_erases_a_figure(tmp_path):
    path = tmp_path / "new" / "layers.json"
    benchmark.results.save(path, benchmark.merge({"seed": 1}, [forms_cell("b"), forms_cell("a", ours=form(1.0, 1.0))]))
    second = benchmark.merge(benchmark.results.load(path), [forms_cell("b", ours=form(3.0, 1.0))], machine={"cores": 2})
    assert [c["name"] for c in second["cells"]] == ["a", "b"] and second["cells"][1]["forms"]["ours"]["median_ms"] == 3.0
    assert second["machine"] == {"cores": 2} and second["seed"] == 1
    failed = {"name": "a", "kind": "forms", "error": "killed"}
    third = benchmark.merge(second, [failed, {**failed, "name": "c"}])
    assert third["cells"][0]["forms"] == second["cells"][0]["forms"] and third["cells"][0]["later_error"] == "killed"
    assert third["cells"][2]["error"] == "killed" and "- c: killed" in benchmark.table(third)
    assert [p.name for p in path.parent.iterdir()] == ["layers.json"]


def test_ours_slower_is_said():
    cell = forms_cell("x", **{OURS: form(10.0, 1.0), "near": form(9.6, 0.96), "fast": form(9.0, 0.9), "gone": {"error": "no memory"}})
    assert benchmark.slower_than(cell) == ["fast"] and "OURS IS SLOWER than fast" in benchmark.line(cell)
    # XLA is compared with XLA: ours under it is as fast.
    cell["forms"].update({f"{OURS}, XLA": form(5.0, 0.5), "near, XLA": form(5.1, 0.51), "fast, XLA": form(4.0, 0.4)})
    assert benchmark.slower_than(cell) == ["fast", "fast, XLA"]


def test_table_of_a_made_up_document():
    cells = [
        forms_cell("x", **{OURS: form(10.0, 1.0, memory_mb=1234.0), "other": form(25.0, 2.5), "gone": {"error": "no memory"}}),
        {"name": "memory_M", "kind": "memory", "model": "M", "batch_size": 8, "peak_gb": 3.456, "limit_gb": 8.0},
        {"name": "precision_M", "kind": "precision", "model": "M", "batch_size": 8, "forms": {}},
    ]
    cells[2]["forms"] = {"float32": form(20.0, 1.0), "mixed_bfloat16": form(12.0, 0.6)}
    machine = {"cores": 2, "cpu": "A chip", "flags": ["avx512f"], "memory_gb": 24.0}
    text = benchmark.table({"machine": machine, "versions": {"keras": "3"}, "cells": cells})
    assert "2 cores (A chip; avx512f), 24.0 GB; keras 3." in text
    assert "| x | 64 | ours | 10.0 | 1.00 (1.00 to 1.00) | 2.0e-06 | 1,234 |" in text.splitlines()
    assert "| x | 64 | other | 25.0 | 2.50 (2.50 to 2.50) | 2.0e-06 |  |" in text.splitlines()
    assert "| x | 64 | gone | failed | | |  |" in text.splitlines()
    assert "| M | 8 | 3.46 | 8 |" in text.splitlines()
    assert "| M | 8 | 20.0 | 12.0 | 0.60 (0.60 to 0.60) |" in text.splitlines()
    assert "nothing has been measured" in benchmark.table({})


def test_plan_takes_names_and_beginnings():
    assert benchmark.plan(["pin", "core_din"], False) == ["pin_h1", "pin_h4", "pin_h16", "core_din"]
    assert benchmark.plan(["pin_h1"], False) == ["pin_h1"]  # not pin_h16
    assert benchmark.plan(["DIN"], True) == benchmark.plan(["precision_DIN"], True) == ["precision_DIN"]
    assert "memory_XDeepInt" in benchmark.plan(None, False) and "precision_DCNv2" in benchmark.plan(None, True)
    with pytest.raises(ValueError, match="--only cinn: no such case"):
        benchmark.plan(["cinn"], False)


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own():
    # 97 x 211^2 floats a layer are 17.3 MB; three layers' matrices live until their gradients.
    sizes = {"fields": 211, "width": 2, "rank": 3}
    job = {"case": "dgp_39", "form": "materialised", "batch": 97, "seed": 1, "sizes": sizes}
    answer = measure.in_a_process(job, threads=1)
    assert answer["memory_mb"] > 3 * 17.0, answer
    json.dumps(answer)


def test_memory_of_a_process_that_fails_is_an_error(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\necho first >&2\necho {measure.ROOT}/last words >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(measure.sys, "executable", str(program))
    assert measure.in_a_process({"case": "cin"}, threads=1) == {"memory_error": "status 3: last words"}


@pytest.mark.slow
def test_precision_of_a_small_model_and_the_policy_after_it():
    cell = whole_models.precision("DeepFM", batch_size=13, threads=1, rows=211, pool=2, **TIMES)
    assert set(cell["forms"]) == set(cell["losses"]) == set(whole_models.POLICIES)
    assert cell["forms"]["float32"]["ratio"] == 1.0 and cell["losses"]["float32"] == pytest.approx(
        cell["losses"]["mixed_bfloat16"], abs=0.01
    )
    assert keras.config.dtype_policy().name == "float32"


def test_memory_of_training_counts_the_process():
    answer = whole_models.memory_of_training("XDeepInt", batch_size=5, rows=211, seed=1, steps=1)
    assert answer["peak_gb"] >= answer["before_gb"] > 0.05 and np.isfinite(answer["loss"])
