"""Calibrators: the equations that the fits solve, hand-made tables, and models that carry them."""

import json

import keras
import numpy as np
import pytest

from keras_ctr import Categorical, Numeric, Schema, metrics, models
from keras_ctr.serving import calibration
from keras_ctr.serving.calibration import (
    Isotonic,
    Offset,
    Platt,
    calibrated,
    calibration_report,
    calibrator_from_dict,
    fit_isotonic,
    fit_offset,
    fit_platt,
    negative_sampling,
)
from tests.sample import fields_schema, random_rows

ROWS = 20_011
TABLE = Isotonic((0.3, 0.45, 0.5, 0.6), (0.05, 0.1, 0.4, 0.9))


def logit(p):
    return np.log(p) - np.log1p(-p)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


@pytest.fixture(scope="module")
def overconfident():
    """Clicks drawn from `sigmoid(0.6 x + 0.5)` of a model that says `sigmoid(x)`."""
    rng = np.random.default_rng(0)
    x = rng.normal(-2.0, 1.5, ROWS)
    y = (rng.random(ROWS) < sigmoid(0.6 * x + 0.5)).astype("float32")
    return y, sigmoid(x)


def test_platt_is_where_the_gradient_of_the_likelihood_is_zero(overconfident):
    y, p = overconfident
    q, x = fit_platt(y, p)(p), logit(p)
    clicks = y.sum(dtype="float64")
    target = np.where(y == 1, (clicks + 1) / (clicks + 2), 1 / (ROWS - clicks + 2))
    np.testing.assert_allclose(q.sum(), target.sum(), rtol=1e-8)
    np.testing.assert_allclose(np.dot(q, x), np.dot(target, x), rtol=1e-8)


def test_platt_finds_the_planted_parameters(overconfident):
    """Within four standard errors, which the Fisher information gives."""
    y, p = overconfident
    found, x = fit_platt(y[:, None], p[:, None].astype("float32")), logit(p)
    w = sigmoid(0.6 * x + 0.5)
    w = w * (1 - w)
    errors = np.sqrt(np.diag(np.linalg.inv([[np.sum(w * x * x), np.sum(w * x)], [np.sum(w * x), np.sum(w)]])))
    assert abs(found.slope - 0.6) < 4 * errors[0] and abs(found.intercept - 0.5) < 4 * errors[1]


def test_platt_stays_finite_where_the_classes_are_separate():
    found = fit_platt([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])
    assert 0 < found.slope < 100 and np.isfinite(found.intercept)


def test_offset_makes_predicted_clicks_the_observed_ones(overconfident):
    y, p = overconfident
    np.testing.assert_allclose(fit_offset(y, p)(p).sum(), y.sum(), rtol=1e-9)


def test_negative_sampling_gives_back_the_probabilities_of_the_whole_log():
    """With the share k of the negatives kept, p becomes p / (p + k (1 - p)) (He et al., section 6.3, solved for p)."""
    p, kept = np.array([1e-4, 0.02, 0.5, 0.97]), 0.05
    np.testing.assert_allclose(negative_sampling(kept)(p / (p + kept * (1 - p))), p, rtol=1e-9)
    np.testing.assert_allclose(negative_sampling(1.0)(p), p, rtol=1e-12)
    with pytest.raises(ValueError, match="probability of keeping a negative"):
        negative_sampling(0.0)


def test_isotonic_by_hand():
    """The middle two violate the order and are pooled; four rows keep 1 / 8 away from 0 and 1."""
    found = fit_isotonic([0, 1, 0, 1], [0.125, 0.25, 0.375, 0.5])
    assert found.knots == (0.125, 0.25, 0.375, 0.5) and found.values == (0.125, 0.5, 0.5, 0.875)
    np.testing.assert_allclose(found([0.0, 0.1875, 0.3, 0.4375, 1.0]), [0.125, 0.3125, 0.5, 0.6875, 0.875])


def test_isotonic_with_few_knots_is_near_the_exact_one(overconfident):
    y, p = overconfident
    exact, few = fit_isotonic(y, p, max_knots=ROWS), fit_isotonic(y, p, max_knots=11)
    assert len(few.knots) == 11 < len(exact.knots) and set(few.knots) < set(exact.knots)
    assert few.knots[0] == exact.knots[0] and few.knots[-1] == exact.knots[-1]
    assert np.all(np.diff(few.values) >= 0) and np.all(np.diff(np.float32(exact.knots)) > 0)
    # It is monotone through kept points, so between two of them both lie within their rise.
    assert np.abs(few(p) - exact(p)).max() <= np.diff(few.values).max()
    assert metrics.log_loss(y, few(p)) < metrics.log_loss(y, p)
    with pytest.raises(ValueError, match="max_knots must be an integer >= 2"):
        fit_isotonic(y, p, max_knots=1)


@pytest.mark.parametrize("calibrator", [Platt(0.7, -0.2), Offset(-1.5), Isotonic((0.1, 0.4), (0.2, 0.3))], ids=lambda c: c.kind)
def test_json_round_trip(calibrator):
    again = calibrator_from_dict(json.loads(json.dumps(calibrator.to_dict())))
    assert again == calibrator and hash(again) == hash(calibrator)
    values = {**calibrator.to_dict(), "more": 1}
    with pytest.raises(ValueError, match="has the keys"):
        calibrator_from_dict(values)


@pytest.mark.parametrize("fit", [fit_platt, fit_isotonic, fit_offset])
def test_what_cannot_be_fitted(fit):
    with pytest.raises(ValueError, match="all 3 labels are 0: calibration needs rows of both classes"):
        fit([0, 0, 0], [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="predictions must be finite; row 1 has label 1 and prediction nan"):
        fit([0, 1], [0.1, np.nan])
    with pytest.raises(ValueError, match="logits go through a sigmoid first"):
        fit([0, 1], [0.1, 2.0])
    with pytest.raises(ValueError, match="labels must be 0 or 1; row 0"):
        fit([0.5, 1], [0.1, 0.2])
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3,\)"):
        fit([0, 1], [0.1, 0.2, 0.3])


def test_platt_refuses_what_has_no_order():
    with pytest.raises(ValueError, match="all 3 predictions are 0.25: a slope cannot be fitted"):
        fit_platt([0, 1, 1], [0.25, 0.25, 0.25])
    with pytest.raises(ValueError, match="the fitted slope is -"):
        fit_platt([1, 1, 0, 0], [0.1, 0.2, 0.8, 0.9])
    with pytest.raises(ValueError, match="did you mean 'platt'"):
        calibrator_from_dict({"kind": "plat"})


def test_report(overconfident):
    y, p = overconfident
    fit, held_out = slice(0, ROWS // 2), slice(ROWS // 2, None)
    calibrator = fit_platt(y[fit], p[fit])
    report = calibration_report(y[held_out], p[held_out], calibrator(p[held_out]), base_rate=0.3)
    assert report["after"]["ne"] < report["before"]["ne"] and report["after"]["ece_quantile"] < report["before"]["ece_quantile"] / 2
    assert report["before"]["ratio"] == metrics.calibration_ratio(y[held_out], p[held_out])
    assert report["after"]["auc"] == pytest.approx(report["before"]["auc"], abs=1e-12)  # the order stays


@pytest.mark.slow
@pytest.mark.parametrize("calibrator", [Platt(0.7, -0.2), Offset(-1.5), TABLE], ids=lambda c: c.kind)
def test_calibrated_models(calibrator, tmp_path):
    features = [Categorical("user", 101, dtype="int64"), Categorical("item", 53, dtype="int64"), Numeric("price", transform="none")]
    schema = Schema(features=features, labels=("click", "like"))  # ids are given as they are: no vocabularies
    model = models.DNN(schema, hidden_units=(11,))
    x, _ = random_rows(schema, 53)
    x = {name: x[name] for name in schema.feature_names}
    rng = np.random.default_rng(0)
    for v in model.trainable_variables:
        v.assign(keras.ops.convert_to_numpy(v) + rng.normal(size=v.shape).astype("float32") * 0.2)
    before = model.predict(x, verbose=0)
    after_model = calibrated(model, {"click": calibrator})
    after = after_model.predict(x, verbose=0)
    assert np.ptp(before["click"]) > 0.1 and after["click"].dtype == "float32"
    np.testing.assert_allclose(after["click"], calibrator(before["click"]), atol=1e-6)
    np.testing.assert_array_equal(after["like"], before["like"])
    after_model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0)["click"], after["click"])

    keras.config.set_dtype_policy("mixed_bfloat16")
    low = calibrated(models.DNN(schema, hidden_units=(11,)), {"click": calibrator})
    assert low.predict(x, verbose=0)["click"].dtype == "float32"
    keras.config.set_dtype_policy("float32")

    if keras.backend.backend() == "tensorflow":
        from keras_ctr.serving import SavedModelRunner, export_model

        path = export_model(after_model, schema, {}, tmp_path / "served" / "1")
        with SavedModelRunner(path) as runner:
            served = runner.run("encoded", x)
        np.testing.assert_allclose(served["click"], after["click"], atol=1e-6)


@pytest.mark.slow
def test_models_that_cannot_be_calibrated():
    schema = fields_schema()
    model = models.LR(schema)
    with pytest.raises(KeyError, match="no label 'clik'; did you mean 'click'"):
        calibrated(model, {"clik": Offset(1.0)})
    with pytest.raises(ValueError, match="is no probability"):
        calibrated(models.LR(schema, activation=None), {"click": Platt(1.0, 0.0)})
    with pytest.raises(ValueError, match="expected a calibrator"):
        calibrated(model, {"click": 0.5})
    once = calibrated(calibrated(model, {"click": negative_sampling(0.1)}), {"click": Platt(0.5, 0.0)})
    with pytest.raises(ValueError, match="calibrated already"):
        calibrated(once, {"click": Offset(1.0)})
    with pytest.raises(ValueError, match="expected a LabelPrediction"):  # the table would be lost silently
        models.with_offsets(once, {"click": 1.0})
    x, _ = random_rows(schema, 7)
    p = model.predict(x, verbose=0)["click"]
    np.testing.assert_allclose(once.predict(x, verbose=0)["click"], sigmoid(0.5 * (logit(p) + np.log(0.1))), rtol=1e-5)


def test_both_clip_alike():
    from keras_ctr.layers.calibration import EPSILON

    assert calibration.EPSILON == EPSILON and np.float32(1.0 - EPSILON) == 1.0 - EPSILON
