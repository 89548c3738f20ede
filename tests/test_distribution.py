"""Strategies, logical devices, equal batches, and `keras-ctr train --strategy mirrored`."""

import json
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

if keras.backend.backend() != "tensorflow":
    pytest.skip("tf.distribute is of the TensorFlow backend only", allow_module_level=True)

import tensorflow as tf

from keras_ctr import distribution
from keras_ctr.cli import main
from tests.distribution_worker import environment


def replicas(number):
    return SimpleNamespace(num_replicas_in_sync=number)


def numbered(rows, batch, **options):
    """Batches of `({"a": (B,), "b": (B, 2)}, {"click": (B, 1)})` whose values tell the row."""
    n = np.arange(rows)
    x = {"a": n, "b": np.stack([n, -n], 1)}
    return tf.data.Dataset.from_tensor_slices((x, {"click": n[:, None]})).batch(batch, **options)


class TestMirrored:
    def test_all_devices(self):
        strategy = distribution.mirrored()
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        assert strategy.num_replicas_in_sync == len(devices)

    @pytest.mark.parametrize("devices", [1, ["CPU:0"]])
    def test_devices_by_number_and_by_name(self, devices):
        strategy = distribution.mirrored(devices)
        assert isinstance(strategy, tf.distribute.MirroredStrategy)
        assert strategy.num_replicas_in_sync == 1
        with strategy.scope():
            variable = keras.Variable([1.0])
        assert len(strategy.experimental_local_results(variable.value)) == 1

    @pytest.mark.parametrize("devices", [0, -1, 1000])
    def test_too_few_devices(self, devices):
        with pytest.raises(ValueError, match=f"{devices} devices asked for, found 1: .*:0"):
            distribution.mirrored(devices)

    def test_no_devices(self):
        with pytest.raises(ValueError, match="empty; None takes all"):
            distribution.mirrored([])


class TestLogicalCpus:
    def test_the_number_that_is_there(self):
        tf.constant(0)
        assert len(distribution.logical_cpus(1)) == 1

    def test_after_the_start(self):
        tf.constant(0)
        with pytest.raises(RuntimeError, match="3 devices asked for, TensorFlow has started with 1; call it before"):
            distribution.logical_cpus(3)

    def test_number(self):
        with pytest.raises(ValueError, match="positive, got 0"):
            distribution.logical_cpus(0)

    @pytest.mark.slow
    def test_twice_in_a_new_process(self):
        code = (
            "from keras_ctr import distribution as d\n"
            "print(len(d.logical_cpus(3)), len(d.logical_cpus(3)), d.mirrored().num_replicas_in_sync, d.mirrored(2).num_replicas_in_sync)"
        )
        done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=300)
        assert done.stdout.split() == ["3", "3", "3", "2"], done.stderr


class TestEqualBatches:
    def test_batches_are_cut_to_a_multiple_in_their_order(self):
        found = [labels["click"].numpy()[:, 0].tolist() for _, labels in distribution.equal_batches(numbered(20, 6), replicas(3))]
        assert found == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11], [12, 13, 14, 15, 16, 17]]  # 18, 19 do not fill a part each
        found = [labels["click"].numpy()[:, 0].tolist() for _, labels in distribution.equal_batches(numbered(11, 6), replicas(3))]
        assert found == [[0, 1, 2, 3, 4, 5], [6, 7, 8]]

    def test_every_tensor_of_a_batch_is_cut_alike(self):
        for x, y in distribution.equal_batches(numbered(7, 4), replicas(2)):
            np.testing.assert_array_equal(x["a"], y["click"][:, 0])
            np.testing.assert_array_equal(x["b"], np.stack([x["a"], -x["a"]], 1))
            assert len(x["a"]) in (4, 2)

    @pytest.mark.parametrize(
        "take",
        [
            lambda x, y: x,
            lambda x, y: x["a"],
            lambda x, y: (x, y),
            lambda x, y: (x, y, tf.ones_like(x["a"])),
            lambda x, y: ({"inner": {"a": x["a"]}, "b": x["b"]}, y),
        ],
        ids=["features", "tensor", "labels", "weights", "nested"],
    )
    def test_the_structure_stays(self, take):
        dataset = numbered(7, 4).map(take)
        cut = distribution.equal_batches(dataset, replicas(2))
        assert cut.element_spec == dataset.element_spec
        assert [[len(t) for t in tf.nest.flatten(batch)] for batch in cut] == [
            [size] * len(tf.nest.flatten(dataset.element_spec)) for size in (4, 2)
        ]

    def test_a_repeated_dataset_is_cut_in_every_pass(self):
        sizes = [len(x["a"]) for x, _ in distribution.equal_batches(numbered(7, 4).repeat(2), replicas(2))]
        assert sizes == [4, 2, 4, 2]

    def test_one_replica(self):
        dataset = numbered(7, 4)
        assert distribution.equal_batches(dataset, replicas(1)) is dataset

    def test_batches_of_a_known_size(self):
        dataset = numbered(8, 4, drop_remainder=True)
        assert distribution.equal_batches(dataset, replicas(2)) is dataset
        with pytest.raises(ValueError, match="batches of 4 rows do not divide among 3 replicas; choose a multiple"):
            distribution.equal_batches(dataset, replicas(3))


@pytest.mark.slow
def test_keras_ctr_train_on_two_devices(tmp_path, capsys):
    rng = np.random.default_rng(0)
    rows, log = 601, tmp_path / "log.csv"
    user, item = rng.integers(0, 20, rows), rng.integers(0, 10, rows)
    click = (rng.random(rows) < np.where(item % 2 == 0, 0.9, 0.1)).astype(int)
    log.write_text("ts,uid,iid,click\n" + "".join(f"{t},{u},{i},{c}\n" for t, (u, i, c) in enumerate(zip(user, item, click, strict=True))))
    data, out = tmp_path / "data", tmp_path / "run"
    columns = ["--label", "click", "--user", "uid", "--item", "iid", "--time", "ts"]
    assert main(["prepare", "--csv", str(log), *columns, "--out", str(data), "--quiet"]) == 0
    options = {
        "model": "DNN",
        "set": "hidden_units=[8]",
        "optimizer": "default",
        "optimizer-set": "table_learning_rate=0.05",
        "epochs": 3,
        "batch-size": 32,
        "strategy": "mirrored",
        "devices": 2,
    }
    command = [sys.executable, "-c", "import sys; from keras_ctr.cli import main; sys.exit(main())"]
    command += ["train", str(data), "--out", str(out), "--json"]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["validation"] == json.loads((out / "metrics.json").read_text())["validation"]
    config = json.loads((out / "config.json").read_text())
    assert (config["strategy"], config["devices"]) == ("mirrored", 2)
    capsys.readouterr()
    assert main(["evaluate", str(out), str(data), "--split", "validation", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["click"]["auc"] == pytest.approx(summary["validation"]["click"]["auc"], abs=1e-6)
    assert result["click"]["auc"] > 0.7
