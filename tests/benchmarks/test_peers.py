"""The peer benchmark: protocol, data, bookkeeping, and that our model and the plain Keras one are the same model. No timings."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from benchmarks import peers
from benchmarks.peer_workers import architectures, environments, group, keras_worker, protocol, results, synthetic
from benchmarks.peer_workers import keras_ctr_worker as ours

ROOT = Path(__file__).resolve().parents[2]

FAKE = """
import itertools, json, sys
from benchmarks.peer_workers import protocol

def build():
    config = json.loads(sys.argv[1])
    print("so does this import")
    if config["model"] == "lacking":
        raise protocol.Unavailable("no such model here")
    if config["model"] == "broken":
        raise ZeroDivisionError("broken on purpose")
    if config["model"] == "dead":
        sys.stderr.write("last words"); sys.stderr.flush()
        import os; os._exit(3)
    losses = itertools.chain([0.5, 0.4, 0.3], itertools.repeat(float("nan") if config["model"] == "diverging" else 0.2))
    def step():
        print("a package that prints")  # must not reach the parent
        return next(losses)
    return {"step": step, "parameters": {"dense": 7, "embedding": 30}, "versions": {"fake": "1"}, "notes": []}

protocol.serve(build)
"""


def fake_worker(model, **options):
    command = [sys.executable, "-c", FAKE, json.dumps({"model": model})]
    return protocol.Worker(command, cwd=ROOT, start_seconds=60, answer_seconds=60, **options)


def test_worker_answers_in_json_although_its_package_prints():
    with fake_worker("fine") as worker:
        assert worker.ready["parameters"] == {"dense": 7, "embedding": 30}
        answer = worker.run(2)  # the first loss went into the step before "ready"
        assert len(answer["seconds"]) == 2 and all(s > 0 for s in answer["seconds"])
        assert answer["loss"] == 0.3
        assert answer["peak_mb"] > 0
        assert worker.run(1)["loss"] == 0.2
    assert worker.process.returncode == 0


@pytest.mark.parametrize(
    ("model", "message"),
    [("lacking", "^no such model here$"), ("broken", "ZeroDivisionError: broken on purpose"), ("dead", "status 3: .*last words")],
)
def test_worker_that_does_not_start_says_why(model, message):
    with pytest.raises(protocol.WorkerError, match=f"(?s){message}"):
        fake_worker(model)


def test_worker_refuses_a_loss_that_is_no_number():
    with fake_worker("diverging") as worker:
        worker.run(2)
        with pytest.raises(protocol.WorkerError, match="the loss is nan"):
            worker.run(1)


def test_a_line_that_is_no_answer_is_an_error():
    with pytest.raises(protocol.WorkerError, match="not an answer: b'hello'"):
        protocol.Worker([sys.executable, "-c", "print('hello'); input()"], start_seconds=60)


def test_worker_that_hangs_is_given_up():
    with pytest.raises(protocol.WorkerError, match="no answer within"):
        protocol.Worker([sys.executable, "-c", "import time; time.sleep(60)"], start_seconds=0.2)


@pytest.mark.skipif(protocol.malloc_keeps_blocks() is None, reason="needs glibc")
def test_malloc_settings_take_effect():
    def kept(variables):
        code = "from benchmarks.peer_workers.protocol import malloc_keeps_blocks; print(malloc_keeps_blocks())"
        plain = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env={**plain, **variables}).stdout

    assert kept({}).strip() == "False"
    assert kept(architectures.MALLOC).strip() == "True"


@pytest.mark.parametrize("rows", [104, 5003, 100_000, 1_000_000, 10_000_000, 50_000_000])
def test_table_sizes_add_up(rows):
    sizes = synthetic.table_sizes(rows)
    assert sum(sizes) == rows and len(sizes) == 26 and min(sizes) >= 4
    if rows == 10_000_000:
        assert sum(sorted(sizes)[-5:]) > 0.9 * rows


def test_table_sizes_refuse_too_few_rows():
    with pytest.raises(ValueError, match="at least 104"):
        synthetic.table_sizes(103)


def test_batches_are_valid_repeatable_and_different():
    sizes = synthetic.table_sizes(5003)
    data = synthetic.batches(5003, batch_size=37, pool=3, seed=5)
    again = synthetic.batches(5003, batch_size=37, pool=3, seed=5)
    other = synthetic.batches(5003, batch_size=37, pool=3, seed=6)
    for batch, same, differs in zip(data, again, other, strict=True):
        assert batch["ids"].shape == (37, 26) and batch["ids"].dtype == np.int32
        assert batch["numeric"].shape == (37, 13) and batch["label"].shape == (37, 1)
        assert (batch["ids"] >= 1).all() and (batch["ids"] < np.array(sizes)).all()
        assert all(np.array_equal(batch[k], same[k]) for k in batch)
        assert not np.array_equal(batch["ids"], differs["ids"])
    assert all(not np.array_equal(a["ids"], b["ids"]) for a, b in itertools.combinations(data, 2))


def test_history_is_padded_at_the_end():
    (batch,) = synthetic.batches(5003, batch_size=211, pool=1, history=True, history_length=7)
    lengths = (batch["history"] != 0).sum(axis=1)
    assert "numeric" not in batch and set(lengths) == set(range(1, 8))
    assert ((batch["history"] != 0) == (np.arange(7) < lengths[:, None])).all()
    assert batch["history"].max() < synthetic.table_sizes(5003)[architectures.HISTORY_FIELD]


def test_ids_follow_the_power_law():
    # A density r^-1.05 on [1, V + 1) puts (1 - 2^-0.05) / (1 - (V + 1)^-0.05) of the draws on the first of V ranks.
    size, draws = 1009, 200_000
    ids = synthetic.draw_ids(np.random.default_rng(3), draws, size)
    expected = (1 - 2**-0.05) / (1 - size**-0.05)
    share = np.bincount(ids, minlength=size).max() / draws
    assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / draws)


@pytest.mark.parametrize("rows", [1, 2, 3, 10, 997, 1_886_139])
def test_ranks_are_permuted(rows):
    step = synthetic._coprime(rows)
    assert np.gcd(step, rows) == 1  # then r -> r * step mod rows is one to one
    assert rows * step < 2**63


def test_a_batch_at_ten_million_rows_has_about_27_000_distinct_ids():
    assert 26_000 < synthetic.distinct_ids(synthetic.batches(10_000_000, pool=1)) < 28_000


def test_summary_by_hand():
    cell = results.summary([[0.2, 0.4, 0.3], [0.5]], [[0.1], [0.1, 0.3, 0.2]])
    assert cell["ratio"] == 2.75  # rounds: 0.3 / 0.1 = 3, 0.5 / 0.2 = 2.5
    assert cell["median_ms"] == 350.0 and cell["ours_median_ms"] == 150.0
    assert cell["ratio_quartiles"] == [2.625, 2.875]
    with pytest.raises(ValueError, match="pairs"):
        results.summary([[0.1]], [])


def test_parameters_may_differ_by_a_bias_only():
    assert results.compare_parameters({"dense": 10_001, "embedding": 5}, {"dense": 10_000})["agree"]
    wrong = results.compare_parameters({"dense": 10_100, "embedding": 5}, {"dense": 10_000})
    assert not wrong["agree"] and wrong["dense_difference"] == 100


def cell(peer, rows=1000, **more):
    times = results.summary([[0.2, 0.3, 0.4]], [[0.1, 0.1, 0.1]])
    parameters = {"dense": 1234, "embedding": 1, "dense_difference": 0, "agree": True}
    return {"model": "DCN", "rows": rows, "peer": peer, "threads": 2, "parameters": parameters, "peak_mb": 3210, **times, **more}


def failed(peer, rows=1000):
    return {"model": "DCN", "rows": rows, "peer": peer, "error": "Traceback\nIt is broken"}


def test_merging_replaces_by_model_rows_and_peer(tmp_path):
    path = tmp_path / "new" / "peers.json"
    first = results.merge({}, [cell("a"), cell("b")], environments={"x": {"p": "1"}}, machine={"cores": 2})
    results.save(path, first)
    second = results.merge(results.load(path), [cell("b", median_ms=9.0), cell("b", rows=50)], environments={"y": {}})
    assert [results.key_of(c) for c in second["cells"]] == [("DCN", 50, "b"), ("DCN", 1000, "a"), ("DCN", 1000, "b")]
    assert second["cells"][2]["median_ms"] == 9.0
    assert second["environments"] == {"x": {"p": "1"}, "y": {}}
    assert [p.name for p in path.parent.iterdir()] == ["peers.json"]
    assert results.load(tmp_path / "none.json") == {}


def test_an_error_never_erases_a_figure():
    document = results.merge({"cells": [cell("a")]}, [failed("a"), failed("b")])
    kept, recorded = document["cells"]
    assert kept["median_ms"] == 300.0 and "error" not in kept and "broken" in kept["later_error"]
    assert "broken" in recorded["error"]
    assert results.merge(document, [cell("b")])["cells"][1]["median_ms"] == 300.0


def test_table_of_a_made_up_document():
    machine = {"cores": 2, "cpu": "A chip", "flags": ["avx512f"], "memory_gb": 24.0}
    odd = {"dense": 5, "embedding": 1, "dense_difference": -99, "agree": False}
    text = results.tables({"machine": machine, "cells": [cell("slow"), cell("odd", ratio=0.5, parameters=odd), failed("gone")]})
    lines = text.splitlines()
    assert "2 cores (A chip; avx512f), 24.0 GB, 2 threads." in lines[0]
    assert "**DCN, 1,000 rows**" in lines
    assert "| slow | 300.0 (250.0 to 350.0) | 100.0 (100.0 to 100.0) | 3.00 (3.00 to 3.00) | 1,234 | 3,210 |" in lines
    assert "5 (differs)" in text and "- gone, DCN, 1,000 rows: It is broken" in lines
    assert text.index("| odd") < text.index("| slow")
    assert "nothing has been measured" in results.tables({})


class Stub:
    """A worker that takes as long as it is told."""

    log = []

    def __init__(self, peer, seconds, dense=100, dies_after=None):
        self.peer, self.seconds, self.left = peer, seconds, dies_after
        self.ready = {"parameters": {"dense": dense, "embedding": 9}, "versions": {}, "notes": []}
        self.closed = False

    def run(self, steps):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise protocol.WorkerError("gone")
        self.log.append((self.peer, steps))
        return {"seconds": [self.seconds] * steps, "loss": 0.5, "minor_faults": 6 * steps, "peak_mb": 11}

    def close(self):
        self.closed = True


CONFIG = {"model": "DCN", "rows": 1000, "threads": 2, "batch_size": 8, "optimizer": "default"}
TIMES = {"rounds": 2, "steps": 4, "warmup": 1, "block_seconds": 1e9}


def measure(peers, workers, **options):
    Stub.log.clear()

    def start(peer, config, folder):
        if isinstance(workers[peer], Exception):
            raise workers[peer]
        return workers[peer]

    return group.measure(peers, CONFIG, None, **{**TIMES, **options}, start=start)


def test_rounds_are_interleaved_with_ours_and_change_sides():
    workers = {"keras_ctr": Stub("keras_ctr", 0.1), "a": Stub("a", 0.2), "b": Stub("b", 0.4, dense=150)}
    a, b = measure(("a", "b"), workers)
    order = [name for name, steps in Stub.log if steps == 4]
    assert order == ["keras_ctr", "a", "keras_ctr", "b", "a", "keras_ctr", "b", "keras_ctr"]
    assert (a["ratio"], b["ratio"]) == (2.0, 4.0)
    assert a["parameters"]["agree"] and not b["parameters"]["agree"]
    assert a["minor_faults_per_step"] == 6 and a["steps"] == 4 and a["rounds"] == 2
    assert all(w.closed for w in workers.values())


def test_long_rounds_are_cut():
    workers = {"keras_ctr": Stub("keras_ctr", 0.1), "a": Stub("a", 3.0)}
    (a,) = measure(("a",), workers, steps=10, block_seconds=9.5)
    assert (a["steps"], a["ours_steps"]) == (3, 10)
    assert group.steps_for(100.0, 10, 12.0) == 2


@pytest.mark.parametrize(
    "bad", [environments.EnvironmentFailed("no such package"), Stub("b", 0.1, dies_after=0), Stub("b", 0.1, dies_after=2)]
)
def test_a_peer_that_fails_is_recorded_and_the_other_goes_on(bad):
    a, b = measure(("a", "b"), {"keras_ctr": Stub("keras_ctr", 0.1), "a": Stub("a", 0.2), "b": bad})
    assert a["ratio"] == 2.0
    assert b["error"] in ("no such package", "gone") and b["peer"] == "b" and "ratio" not in b


@pytest.mark.parametrize("bad", [protocol.WorkerError("no such model"), Stub("keras_ctr", 0.1, dies_after=2)])
def test_without_our_worker_nothing_is_compared(bad):
    cells = measure(("a",), {"keras_ctr": bad, "a": Stub("a", 0.2)})
    assert [c["peer"] for c in cells] == ["a"] and cells[0]["error"].startswith("our own worker failed")


def test_errors_do_not_name_folders_of_the_machine():
    bad = protocol.WorkerError(f'File "{ROOT}/benchmarks/x.py", line 3')
    (cell_a,) = measure(("a",), {"keras_ctr": Stub("keras_ctr", 0.1), "a": bad})
    assert cell_a["error"] == 'File "benchmarks/x.py", line 3'


def test_plan_keeps_few_workers_alive_and_leaves_other_models_at_the_smallest_size():
    todo = peers.plan(["DCN", "DIN"], [700, 500], None)
    assert max(len(members) for _, _, members in todo) < group.MOST_ALIVE
    assert {rows for model, rows, _ in todo if model == "DCN"} == {700, 500}
    assert {rows for model, rows, _ in todo if model == "DIN"} == {500}
    every = [p for model, rows, members in todo if (model, rows) == ("DCN", 500) for p in members]
    assert sorted([*every, architectures.OURS]) == sorted(architectures.PEERS)
    assert peers.plan(["DIN"], None, ["keras"]) == [("DIN", 100_000, ("keras",))]


def test_commands_carry_settings_and_a_missing_environment_is_an_error(tmp_path):
    command, variables = group.worker_command("keras_ctr_bfloat16", CONFIG, tmp_path)
    assert command[0] == sys.executable and json.loads(command[-1])["dtype"] == "mixed_bfloat16"
    assert variables["OMP_NUM_THREADS"] == "2" and "MALLOC_TOP_PAD_" not in variables
    with pytest.raises(environments.EnvironmentFailed, match="'torch' is not in"):
        group.worker_command("fuxictr", CONFIG, tmp_path)
    (tmp_path / "torch.json").write_text("{}")
    command, variables = group.worker_command("fuxictr_malloc", CONFIG, tmp_path)
    assert command[0] == str(tmp_path / "torch" / "bin" / "python") and variables["MALLOC_TOP_PAD_"] == "4294967296"


def test_an_environment_that_stands_is_read_from_its_record(tmp_path):
    (tmp_path / "deepctr.json").write_text('{"deepctr": "0.9.4"}')
    assert environments.make(tmp_path, "deepctr") == {"deepctr": "0.9.4"}
    assert environments.make(tmp_path, "running")["numpy"] == np.__version__


def test_an_environment_that_cannot_be_made_says_why(tmp_path, monkeypatch):
    def fail(command):
        raise environments.EnvironmentFailed(f"cannot run {command[-1]}")

    monkeypatch.setattr(environments, "_run", fail)
    _, errors = peers.prepare([("DCN", 1000, ("torch_dense",))], tmp_path)
    assert list(errors) == ["torch"] and "cannot run" in errors["torch"]
    assert not (tmp_path / "torch.json").exists()


@pytest.mark.parametrize("name", architectures.MODELS)
def test_our_model_and_the_plain_keras_model_have_the_same_weights(name):
    sizes = synthetic.table_sizes(211)
    try:
        model = ours.make_model(name, sizes)
    except protocol.Unavailable as missing:
        pytest.skip(str(missing))
    plain = keras_worker.make_model(name, sizes)
    counted = [ours.keras_steps.parameters(m, w.is_table) for m, w in ((model, ours), (plain, keras_worker))]
    assert counted[0]["dense"] == counted[1]["dense"]
    assert counted[0]["embedding"] == counted[1]["embedding"] >= 211 * architectures.EMBEDDING_DIM


@pytest.mark.parametrize("worker", [ours, keras_worker])
@pytest.mark.slow
def test_a_worker_trains(worker, monkeypatch):
    # Threads can be set before TensorFlow's first operation only.
    monkeypatch.setattr(ours.keras_steps, "start", lambda config: keras.utils.set_random_seed(config["seed"]))
    config = {"model": "DIN", "rows": 211, "batch_size": 13, "pool": 2, "seed": 1, "threads": 1, "optimizer": "keras_adam"}
    built = worker.build(config)
    losses = [built["step"]() for _ in range(30)]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-2:]) < np.mean(losses[:2])  # two batches, learned by heart


def test_unknown_optimizer_is_refused():
    with pytest.raises(protocol.Unavailable, match="keras_adam"):
        ours.make_optimizer("sgd")


def test_a_module_that_cannot_be_imported_is_reported():
    with pytest.raises(protocol.WorkerError, match="No module named"):
        protocol.Worker([sys.executable, "-m", "benchmarks.peer_workers", "no_such_worker", "{}"], cwd=ROOT, start_seconds=60)
