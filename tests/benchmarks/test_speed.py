"""The benchmark of our own step: plan, ratios, tables. No clock decides anything here."""

import numpy as np
import pytest

from benchmarks import speed


class FakeWorker:
    def __init__(self, config, calls):
        self.config, self.calls, self.closed = config, calls, False
        self.ready = {"parameters": {"dense": 100, "embedding": 16 * config["rows"]}}

    def run(self, steps):
        self.calls.append(self.config["rows"])
        return {"seconds": [self.config["rows"] * 1e-7] * steps, "peak_mb": 7}

    def close(self):
        self.closed = True


def test_rounds_alternate_and_ratios_are_of_the_sides():
    calls, made = [], []

    def start(config):
        made.append(FakeWorker(config, calls))
        return made[-1]

    (name, configs), *_ = speed.pairs("optimizers")
    cell = speed.measure(configs, rounds=3, steps=2, warmup=1, common={"batch_size": 50, "threads": 2}, start=start)
    assert name == "SGD" and cell["ratio"] == 100.0
    small, large = speed.SIZES
    assert calls == [small, large, small, large, large, small, small, large]  # warm-up, then turns
    assert cell["sides"]["100000"]["examples_per_second"] == 5000  # 50 rows in 10 ms
    assert all(worker.closed for worker in made)


def test_workers_end_when_one_fails():
    made = []

    def start(config):
        if made:
            raise RuntimeError("no memory")
        made.append(FakeWorker(config, []))
        return made[-1]

    (_, configs), *_ = speed.pairs("storage")
    with pytest.raises(RuntimeError, match="no memory"):
        speed.measure(configs, rounds=1, steps=1, warmup=1, common={"batch_size": 50, "threads": 2}, start=start)
    assert made[0].closed


def test_state_counts_weights_and_slots():
    parameters = {"dense": 0, "embedding": 2**18}  # one MiB in float32
    assert speed.state_megabytes(parameters, "LazyAdam") == 3
    assert speed.state_megabytes(parameters, "SGD") == 2
    assert speed.state_megabytes(parameters, "RowWiseAdagrad") == pytest.approx(1 + 1 / 16, abs=0.05)


def test_every_optimizer_of_the_package_is_measured():
    from keras_ctr import optimizers

    missing = {n for n in optimizers.__all__ if n[0].isupper() and not n.isupper()} - set(speed.OPTIMIZERS)
    assert missing == {"LossScaleOptimizer", "RowSparseOptimizer"}
    assert {"SGD", "FTRL", "default", "dynint", "wide_deep"} <= set(speed.OPTIMIZERS)


@pytest.mark.slow
def test_one_variable_a_field_is_the_same_model():
    from benchmarks.peer_workers import keras_ctr_worker, synthetic

    sizes = synthetic.table_sizes(500)
    fused, separate = keras_ctr_worker.make_model("DCN", sizes), keras_ctr_worker.separate_tables(sizes)
    assert sum(np.prod(v.shape) for v in fused.trainable_variables) == sum(np.prod(v.shape) for v in separate.trainable_variables)
    x = keras_ctr_worker.inputs_of(synthetic.batches(500, batch_size=7, pool=1)[0])
    assert separate(x)["click"].shape == fused(x)["click"].shape == (7, 1)
