"""RankingMetrics inside real `fit` calls."""

import math
import os
import subprocess
import sys
import textwrap
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_ctr import metrics
from keras_ctr.callbacks import RankingMetrics

ROWS, BATCH = 211, 37  # six batches, the last one partial


class SelectsByName(keras.Model):
    """Functional model that picks its inputs out of the feature dict."""

    def call(self, inputs, training=None, mask=None):
        return super().call({name: inputs[name] for name in ("a", "b")}, training=training)


def make_model(labels=("click",), activation="sigmoid", bare=False, by_name=True, **compile_kwargs):
    inputs = {"a": keras.Input((1,), name="a"), "b": keras.Input((1,), name="b")}
    hidden = keras.layers.Concatenate()([inputs["a"], inputs["b"]])
    outputs = {label: keras.layers.Dense(1, activation=activation, name=label)(hidden) for label in labels}
    model = (SelectsByName if by_name else keras.Model)(inputs, outputs[labels[0]] if bare else outputs)
    loss = keras.losses.BinaryCrossentropy(from_logits=activation is None)
    model.compile("adam", loss=loss if bare else dict.fromkeys(labels, loss), **compile_kwargs)
    return model


def make_data(labels=("click",), rows=ROWS, seed=3, groups=True):
    rng = np.random.default_rng(seed)
    x = {name: rng.standard_normal((rows, 1)).astype("float32") for name in ("a", "b")}
    if groups:
        x["meta/group"] = rng.integers(0, 29, rows) + 10**12
    chance = 1 / (1 + np.exp(1 - 2 * x["a"] + x["b"]))
    y = {label: (rng.random((rows, 1)) < chance).astype("float32") for label in labels}
    return x, y


def dataset(*data, batch=BATCH):
    return tf.data.Dataset.from_tensor_slices(data).batch(batch)


def fit(model, callbacks, data=None, epochs=1, batch=BATCH, **kwargs):
    train = dataset(*(data or make_data(tuple(model.output_names), seed=11)), batch=batch)
    return model.fit(train, epochs=epochs, callbacks=callbacks, verbose=0, shuffle=False, **kwargs)


class PyDataset(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    @property
    def num_batches(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


class Reread:
    """Plain object that makes a new generator each time it is iterated."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        yield from self.batches


FORMS = {
    "tf.data": lambda d: dataset(*d),
    "arrays": lambda d: d,
    "list of arrays": list,
    "list of batches": lambda d: list(dataset(*d).as_numpy_iterator()),
    "re-iterable": lambda d: Reread(list(dataset(*d))),
    "PyDataset": lambda d: PyDataset(list(dataset(*d).as_numpy_iterator())),
}


@pytest.mark.parametrize("form", FORMS)
def test_values_are_those_of_evaluate_on_predict(form):
    x, y = make_data()
    model = make_model()
    callback = RankingMetrics(FORMS[form]((x, y)), base_rate=0.3, gauc_weight="users", batch_size=41)
    history = fit(model, [callback], epochs=2).history
    expected = metrics.evaluate(
        y["click"], model.predict(x, verbose=0)["click"], groups=x["meta/group"], base_rate=0.3, gauc_weight="users"
    )
    assert set(history) == {"loss"} | {f"val_{key}" for key in ("auc", "gauc", "logloss", "ne", "calibration", "ece")}
    for key in ("auc", "gauc", "logloss", "ne", "calibration", "ece"):
        assert len(history[f"val_{key}"]) == 2
        assert history[f"val_{key}"][-1] == pytest.approx(expected[key], rel=1e-6)
    assert callback.results["click"] == pytest.approx(expected, rel=1e-6)
    assert callback.results["click"]["num_rows"] == ROWS


def test_written_into_logs_in_place_as_floats():
    callback = RankingMetrics(make_data())
    callback.set_model(make_model())
    logs = {"loss": 0.5}
    callback.on_epoch_end(0, logs)
    assert list(logs) == ["loss", "val_auc", "val_gauc", "val_logloss", "val_calibration", "val_ece"]
    assert all(type(value) is float for value in logs.values())
    callback.on_epoch_end(1)  # no logs: results all the same
    assert callback.results["click"]["auc"] == logs["val_auc"]


class TestOtherCallbacksSeeThem:
    def test_early_stopping_and_best_weights(self):
        model = make_model()
        seen = []

        class Worsens(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                seen.append([w.copy() for w in self.model.get_weights()])
                if epoch == 1:  # from the third epoch on the model ranks the wrong way round
                    self.model.set_weights([-w for w in self.model.get_weights()])

        callbacks = [
            RankingMetrics(make_data()),
            keras.callbacks.EarlyStopping("val_gauc", mode="max", patience=2, restore_best_weights=True),
            Worsens(),
        ]
        model.set_weights([np.array([[2.0], [-1.0]]), np.array([-1.0])])  # the truth, and a step too small to leave it
        model.optimizer.learning_rate = 1e-4
        history = fit(model, callbacks, epochs=9).history
        assert len(history["val_gauc"]) < 9
        best = int(np.argmax(history["val_gauc"]))
        assert best <= 1
        assert history["val_gauc"][-1] < 0.5 < history["val_gauc"][best]
        for got, expected in zip(model.get_weights(), seen[best], strict=True):
            np.testing.assert_array_equal(got, expected)

    def test_reduce_lr_on_plateau(self):
        model = make_model()
        model.optimizer.learning_rate = 0.0625
        plateau = keras.callbacks.ReduceLROnPlateau("val_auc", mode="max", patience=1, factor=0.5, min_delta=1.0)
        fit(model, [RankingMetrics(make_data()), plateau], epochs=3)  # a gain of 1 is impossible: halved after epochs 2 and 3
        assert float(model.optimizer.learning_rate) == 0.0625 / 4

    def test_checkpoint_and_csv(self, tmp_path):
        checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{val_auc:.4f}.weights.h5", "val_auc", mode="max", save_best_only=True)
        fields = keras.callbacks.CSVLogger(tmp_path / "log.csv")
        history = fit(make_model(), [RankingMetrics(make_data()), checkpoint, fields], epochs=2).history
        assert (tmp_path / f"{max(history['val_auc']):.4f}.weights.h5").exists()
        header, first, _ = (tmp_path / "log.csv").read_text().splitlines()
        assert float(first.split(",")[header.split(",").index("val_auc")]) == pytest.approx(history["val_auc"][0])

    def test_takes_the_place_of_the_keras_metric(self):
        # Saturated scores: 5 thresholds see two of the three distinct ones as equal.
        x, y = make_data()
        model = make_model(metrics={"click": [keras.metrics.AUC(num_thresholds=5, name="auc")]})
        history = fit(model, [RankingMetrics((x, y))], validation_data=dataset(x, y)).history
        coarse = model.evaluate(dataset(x, y), return_dict=True, verbose=0)["auc"]
        exact = metrics.auc(y["click"], model.predict(x, verbose=0)["click"])
        assert history["val_auc"] == [pytest.approx(exact)]
        assert abs(coarse - exact) > 1e-3
        assert history["val_logloss"] == [pytest.approx(history["val_loss"][0], rel=1e-5)]

    def test_two_of_them(self):
        history = fit(make_model(), [RankingMetrics(make_data()), RankingMetrics(make_data(seed=5), prefix="test_")]).history
        assert history["val_auc"] != history["test_auc"]


class TestOrder:
    STOP = {"monitor": "val_auc", "mode": "max", "patience": 3}

    @pytest.mark.parametrize("kind", [keras.callbacks.EarlyStopping, keras.callbacks.ReduceLROnPlateau])
    def test_monitor_before_it_is_an_error(self, kind):
        model = make_model()
        before = model.get_weights()
        with pytest.raises(
            ValueError, match=rf"{kind.__name__}\(monitor='val_auc'\) stands before RankingMetrics.*Put RankingMetrics first"
        ):
            fit(model, [kind(**self.STOP), RankingMetrics(make_data())])
        for got, expected in zip(model.get_weights(), before, strict=True):  # raised before training, not after an epoch
            np.testing.assert_array_equal(got, expected)

    def test_monitor_of_something_else_may_come_first(self):
        fit(make_model(), [keras.callbacks.EarlyStopping("loss"), RankingMetrics(make_data())])

    def test_log_before_it_is_a_warning(self, tmp_path):
        with pytest.warns(UserWarning, match="CSVLogger stands before RankingMetrics"):
            fit(make_model(), [keras.callbacks.CSVLogger(tmp_path / "log.csv"), RankingMetrics(make_data())])

    def test_right_order_is_silent(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fit(make_model(), [RankingMetrics(make_data()), keras.callbacks.EarlyStopping(**self.STOP), keras.callbacks.History()])

    def test_mode_has_to_be_said(self):
        with pytest.raises(ValueError, match=r"EarlyStopping\(monitor='val_auc'\) needs mode='max'"):
            fit(make_model(), [RankingMetrics(make_data()), keras.callbacks.EarlyStopping("val_auc")])

    def test_names_of_several_labels_are_known(self):
        model = make_model(("click", "like"))
        with pytest.raises(ValueError, match="val_like_gauc.*stands before"):
            fit(model, [keras.callbacks.EarlyStopping("val_like_gauc", mode="max"), RankingMetrics(make_data(("click", "like")))])

    def test_outside_fit_there_is_no_list_to_check(self):
        callback = RankingMetrics(make_data())
        callback.set_model(make_model())
        callback.on_train_begin()


class TestSeveralLabels:
    LABELS = ("click", "like", "share")

    def test_names_and_means(self):
        x, y = make_data((*self.LABELS, "not_a_task"))
        rates = {"click": 0.3, "like": 0.2, "share": 0.1}
        model = make_model(self.LABELS)
        callback = RankingMetrics(dataset(x, y), base_rate=rates)
        history = fit(model, [callback]).history
        p = model.predict(x, verbose=0)
        expected = {label: metrics.evaluate(y[label], p[label], groups=x["meta/group"], base_rate=rates[label]) for label in self.LABELS}
        for label in self.LABELS:
            for key in ("auc", "gauc", "logloss", "ne", "calibration", "ece"):
                assert history[f"val_{label}_{key}"] == [pytest.approx(expected[label][key], rel=1e-6)]
        for key in ("auc", "gauc", "logloss", "ne"):
            assert history[f"val_{key}"] == [pytest.approx(np.mean([expected[label][key] for label in self.LABELS]), rel=1e-6)]
        assert len({name for name in history if name.startswith("val_")}) == 3 * 6 + 4
        assert not [name for name in history if "not_a_task" in name]

    def test_rows_of_weight_0_are_left_out_by_label(self):
        x, y = make_data(self.LABELS)
        rng = np.random.default_rng(0)
        weight = {label: rng.integers(0, 3, ROWS).astype("float32") for label in self.LABELS}
        y["like"][weight["like"] == 0] = -1.0  # not defined there
        model = make_model(self.LABELS)
        callback = RankingMetrics(dataset(x, y, weight))
        callback.set_model(model)
        callback.on_epoch_end(0)
        p = model.predict(x, verbose=0)
        for label in self.LABELS:
            keep = weight[label] > 0
            expected = metrics.evaluate(y[label][keep], p[label][keep], groups=x["meta/group"][keep])
            assert callback.results[label] == pytest.approx(expected, rel=1e-6)

    def test_label_of_one_class(self):
        x, y = make_data(self.LABELS)
        y["like"][:] = 0
        callback = RankingMetrics((x, y))
        with pytest.warns(UserWarning, match="all validation rows of label 'like'") as caught:
            history = fit(make_model(self.LABELS), [callback], epochs=2).history
        assert len([w for w in caught if "RankingMetrics" in str(w.message)]) == 1  # said once, not each epoch
        assert "val_like_auc" not in history and "val_like_logloss" in history
        assert history["val_auc"][0] == pytest.approx((history["val_click_auc"][0] + history["val_share_auc"][0]) / 2)

    @pytest.mark.parametrize(
        ("rate", "match"), [(0.1, "one rate a label"), ({"click": 0.1}, r"\['click'\] and the model \['click', 'like', 'share'\]")]
    )
    def test_base_rate_for_each(self, rate, match):
        with pytest.raises(ValueError, match=match):
            fit(make_model(self.LABELS), [RankingMetrics(make_data(self.LABELS), base_rate=rate)])


class TestKindsOfModelAndData:
    def test_plain_functional_model_without_groups(self):
        history = fit(make_model(by_name=False), [RankingMetrics(make_data(groups=False))], data=make_data(groups=False, seed=11)).history
        assert set(history) == {"loss", "val_auc", "val_logloss", "val_calibration", "val_ece"}

    @pytest.mark.parametrize("columns", [lambda y: y, lambda y: y[:, 0]])
    def test_bare_output_and_label(self, columns):
        x, y = make_data(groups=False)
        model = make_model(bare=True, by_name=False)
        callback = RankingMetrics(dataset(x, columns(y["click"])))
        history = fit(model, [callback], data=(x, y["click"])).history
        assert history["val_auc"] == [pytest.approx(metrics.auc(y["click"], model.predict(x, verbose=0)))]

    def test_logits(self):
        x, y = make_data()
        model = make_model(activation=None)
        callback = RankingMetrics((x, y), from_logits=True)
        history = fit(model, [callback]).history
        p = 1 / (1 + np.exp(-model.predict(x, verbose=0)["click"].astype("float64")))
        assert history["val_logloss"] == [pytest.approx(metrics.log_loss(y["click"], p), rel=1e-6)]
        with pytest.raises(ValueError, match="sigmoid"):
            fit(model, [RankingMetrics((x, y))])

    @pytest.mark.parametrize("form", FORMS)
    def test_other_group_key_and_text_ids(self, form):
        x, y = make_data()
        groups = np.char.add("user ", x.pop("meta/group").astype(str))
        model = make_model()
        callback = RankingMetrics(FORMS[form](({**x, "user": groups}, y)), groups_key="user")
        callback.set_model(model)
        callback.on_epoch_end(0)
        expected = metrics.grouped_auc(y["click"], model.predict(x, verbose=0)["click"], groups)
        assert callback.results["click"]["gauc"] == pytest.approx(expected.value, rel=1e-6)
        assert callback.results["click"]["gauc_groups"] == expected.num_groups

    @pytest.mark.parametrize("kwargs", [{"steps_per_execution": 3}, {"run_eagerly": True}, {"jit_compile": True}])
    def test_ways_of_compiling(self, kwargs):
        x, y = make_data()
        model = make_model(**kwargs)
        history = fit(model, [RankingMetrics(dataset(x, y))]).history
        assert history["val_auc"] == [pytest.approx(metrics.auc(y["click"], model.predict(x, verbose=0)["click"]))]

    def test_nan_predictions_do_not_end_training(self):
        class Diverges(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                self.model.set_weights([w * np.nan for w in self.model.get_weights()])

        stop = keras.callbacks.EarlyStopping("val_auc", mode="max", patience=2, restore_best_weights=True)
        model = make_model()
        with pytest.warns(UserWarning, match="predicts NaN or infinity for label 'click'"):
            history = fit(model, [RankingMetrics(make_data(), base_rate=0.3), stop, Diverges()], epochs=9).history
        assert len(history["val_auc"]) == 3
        for key in ("auc", "gauc", "logloss", "ne", "calibration", "ece"):
            assert [math.isnan(value) for value in history[f"val_{key}"]] == [False, True, True]
        assert np.isfinite(model.get_weights()[0]).all()

    def test_no_group_of_two_classes(self):
        x, y = make_data()
        x["meta/group"] = np.arange(ROWS)
        with pytest.warns(UserWarning, match="no group of the validation data holds both classes"):
            history = fit(make_model(), [RankingMetrics((x, y))]).history
        assert "val_gauc" not in history and "val_auc" in history

    def test_verbose(self, capsys):
        callback = RankingMetrics(make_data(), verbose=1)
        callback.set_model(make_model())
        callback.on_epoch_end(4)
        assert f"Epoch 5: val_auc: {callback.results['click']['auc']:.5f} - val_gauc: " in capsys.readouterr().out

    def test_each_batch_is_read_and_scored_once_an_epoch(self):
        batches, model = list(dataset(*make_data())), make_model()
        read, scored = [], []

        class Counts(Reread):
            def __iter__(self):
                for batch in self.batches:
                    read.append(1)
                    yield batch

        compiled = model.predict_on_batch
        model.predict_on_batch = lambda x: scored.append(sorted(x)) or compiled(x)
        callback = RankingMetrics(Counts(batches))
        callback.set_model(model)
        callback.on_epoch_end(0)
        assert len(read) == len(batches) == 6
        assert scored == [["a", "b", "meta/group"]] * 6  # the whole dict goes to the model


X, Y = make_data()
ONE = {"click": Y["click"]}


class TestErrors:
    @pytest.mark.parametrize(
        ("kwargs", "match"),
        [
            ({"gauc_weight": "views"}, "`gauc_weight`.*'views'"),
            ({"base_rate": 0.0}, "`base_rate`"),
            ({"base_rate": {"click": 1.0}}, r"`base_rate\['click'\]`"),
            ({"batch_size": 0}, "`batch_size`"),
        ],
    )
    def test_arguments(self, kwargs, match):
        with pytest.raises(ValueError, match=match):
            RankingMetrics((X, Y), **kwargs)

    @pytest.mark.parametrize(
        ("data", "match"),
        [
            (lambda: iter([(X, Y)]), "read only once"),
            (lambda: (pair for pair in [(X, Y)]), "read only once"),
            (lambda: dataset(X, Y).repeat(), "never ends"),
            (lambda: X, "must be batches.*got dict of 3"),
            (lambda: None, "must be batches.*got NoneType"),
            (lambda: (X, Y, None, None), r"must be \(x, y\) or \(x, y, sample_weight\), got tuple of 4"),
            (lambda: (X, {"click": Y["click"][:5]}), r"different lengths: \[5, 211\]"),
        ],
    )
    def test_validation_data(self, data, match):
        with pytest.raises(ValueError, match=match):
            RankingMetrics(data())

    @pytest.mark.parametrize(
        ("data", "match"),
        [
            ([], "holds no batches"),
            ([(X,)], r"must be \(x, y\) or \(x, y, sample_weight\), got tuple of 1"),
            ([X], "holds|must be"),
            ([(X, {"clicks": Y["click"]})], r"puts out 'click', the validation labels are \['clicks'\]"),
            ([(X, [Y["click"]])], "not lists"),
            ([(X, {"click": Y["click"][:5]})], r"output 'click' has 211 rows in a batch where y\['click'\] has 5"),
            ([(X, {"click": np.zeros((ROWS, 2))})], r"y\['click'\] must have shape \(B,\) or \(B, 1\), got \(211, 2\)"),
            ([({**X, "meta/group": X["meta/group"][:5]}, Y)], r"x\['meta/group'\] has 5 rows"),
            ([(X, Y, np.ones(5))], "sample_weight has 5 rows"),
        ],
    )
    def test_batches_are_checked_before_training(self, data, match):
        model = make_model()
        before = model.get_weights()
        with pytest.raises(ValueError, match=match):
            fit(model, [RankingMetrics(data)])
        np.testing.assert_array_equal(model.get_weights()[0], before[0])

    def test_bare_label_against_several_outputs(self):
        with pytest.raises(ValueError, match=r"\['click', 'like'\] stand against a single array"):
            fit(make_model(("click", "like")), [RankingMetrics((X, Y["click"]))])

    def test_groups_in_some_batches_only(self):
        bare = {name: X[name] for name in ("a", "b")}
        with pytest.raises(ValueError, match="'meta/group' is in some batches"):
            fit(make_model(), [RankingMetrics([(X, Y), (bare, Y)])])

    def test_all_rows_of_weight_0(self):
        with pytest.raises(ValueError, match="no validation rows for label 'click'"):
            fit(make_model(), [RankingMetrics((X, Y, np.zeros(ROWS)))])


@pytest.mark.slow
def test_mirrored_strategy_on_two_logical_devices():
    # Logical devices must exist before TensorFlow starts, hence the process of its own.
    code = """
        import tensorflow as tf
        tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
        from test_callbacks import *
        x, y = make_data()
        with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
            model = make_model()
        callback = RankingMetrics(dataset(x, y))
        history = fit(model, [callback], data=make_data(rows=4 * 26, seed=11), batch=26).history
        assert model.distribute_strategy.num_replicas_in_sync == 2
        expected = metrics.evaluate(y["click"], model.predict(x, verbose=0)["click"], groups=x["meta/group"])
        assert callback.results["click"] == pytest.approx(expected, rel=1e-6), (callback.results, expected)
    """
    here = os.path.dirname(os.path.abspath(__file__))
    path = os.pathsep.join([here, os.path.dirname(here), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
