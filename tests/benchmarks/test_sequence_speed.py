"""The benchmark of sequence models: plan, cells and tables. No clock decides anything here."""

import numpy as np
import pytest

from benchmarks import sequence_speed
from benchmarks.peer_workers.protocol import WorkerError

CONFIG = {"model": "DIN", "length": 5, "dim": 3, "batch_size": 50, "threads": 2, "pool": 2, "seed": 1}


class FakeWorker:
    def __init__(self, seconds):
        self.seconds, self.calls, self.closed = seconds, [], False
        self.ready = {"parameters": {"dense": 7, "embedding": 9}, "versions": {}}

    def run(self, steps):
        self.calls.append(steps)
        return {"seconds": [self.seconds] * steps, "peak_mb": 11}

    def close(self):
        self.closed = True


def cell(median, length=100, **more):
    figures = {"quartiles_ms": [median - 1, median + 1], "examples_per_second": round(1e6 / median), "peak_mb": 1500}
    return {"median_ms": median, "length": length, "parameters": {"dense": 12345}, **figures, **more}


def test_every_sequential_model_is_measured():
    import keras_ctr

    assert set(sequence_speed.MODELS) == {*keras_ctr.list_models(sequential=True), sequence_speed.YARDSTICK}
    assert len(set(sequence_speed.MODELS)) == len(sequence_speed.MODELS)


def test_plan_has_the_parts_and_the_lengths():
    todo = sequence_speed.plan(sequence_speed.PARTS, 13)
    assert [c["length"] for part, _, c in todo if part != "lengths"] == [13] * (len(sequence_speed.MODELS) + 4)
    assert [(name, c["length"], c["model"]) for part, name, c in todo if part == "lengths"] == [
        (str(t), t, "DIEN") for t in (25, 50, 100, 200)
    ]
    assert {c["model"] for part, _, c in todo if part == "recurrence"} == {"DIN", "DIEN"}


@pytest.mark.parametrize("seconds, block_seconds, timed", [(0.01, 1.0, 8), (0.5, 2.0, 4), (9.0, 2.0, 2)])
def test_a_cell(seconds, block_seconds, timed):
    worker = FakeWorker(seconds)
    found = sequence_speed.measure(CONFIG, steps=8, warmup=3, block_seconds=block_seconds, start=lambda config: worker)
    assert worker.calls == [2, timed] and worker.closed and found["steps"] == timed
    assert found["median_ms"] == 1e3 * seconds and found["examples_per_second"] == round(50 / seconds) and found["peak_mb"] == 11


def test_a_failure_is_written_down_and_replaces_no_figures():
    def start(config):
        raise WorkerError(f"Traceback\n{sequence_speed.ROOT}/x.py: no memory")

    failed = sequence_speed.measure(CONFIG, steps=8, warmup=3, block_seconds=1.0, start=start)
    assert failed["error"] == "Traceback\nx.py: no memory" and "FAILED" in sequence_speed.line(failed)
    document = {}
    sequence_speed.record(document, "models", "DIN", failed)
    assert document == {"models": {"DIN": failed}}
    sequence_speed.record(document, "models", "DIN", cell(4.0))
    sequence_speed.record(document, "models", "DIN", failed)
    assert document["models"]["DIN"] == {**cell(4.0), "later_error": failed["error"]}


def test_table():
    document = {
        "models": {"DIN": cell(40.0), "DNN": cell(10.0), "BST": {"error": "first\nno memory"}},
        "recurrence": {"no recurrence": cell(20.0), "GRU and AUGRU": cell(90.0)},
        "lengths": {"25": cell(50.0, 25), "50": cell(100.0, 50)},
    }
    text = sequence_speed.table(document)
    lines = text.splitlines()
    assert lines[2] == "| DNN | 100,000 | 10.0 (9.0 to 11.0) | 1.00 | 1,500 | 12,345 |"  # the fastest first
    assert lines[3].startswith("| DIN | 25,000 | 40.0 (39.0 to 41.0) | 4.00 |")
    assert "| GRU and AUGRU | 11,111 | 90.0 (89.0 to 91.0) | 4.50 |" in text
    assert [row.split(" | ")[3] for row in lines if row.startswith(("| 25 |", "| 50 |"))] == ["2.00", "2.00"]
    assert text.endswith("Not measured:\n\n- models, BST: no memory\n")
    assert sequence_speed.table({}) == "not measured\n"


def test_cells_of_other_sizes_have_names_of_their_own():
    usual = {"batch_size": sequence_speed.BATCH_SIZE, "dim": sequence_speed.DIM, "length": sequence_speed.LENGTH}
    assert sequence_speed.label("models", "DIN", usual) == "DIN"
    assert sequence_speed.label("models", "DIN", {**usual, "batch_size": 32, "length": 7}) == "DIN, batch 32, T 7"
    assert sequence_speed.label("lengths", "25", {**usual, "length": 25}) == "25"


def test_batches_have_full_histories_and_negatives_where_asked():
    (x, y), (other, _) = sequence_speed.batches(CONFIG)
    assert x["item_history"].shape == (50, 5) and np.all(x["item_history"] > 0) and y["click"].shape == (50, 1)
    assert np.any(x["item_history"] != other["item_history"]) and "item_history_negatives" not in x
    assert sequence_speed.batches({**CONFIG, "negatives": True})[0][0]["item_history_negatives"].shape == (50, 5)
