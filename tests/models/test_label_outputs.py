"""Models with another last layer: the same weights, logits moved by a constant."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ctr import Label, models
from tests.sample import fields_schema, random_rows

pytestmark = pytest.mark.slow
SCHEMA = fields_schema(labels=(Label("click"), Label("like", rate=0.1)))


def logits_of(p):
    p = np.asarray(p, "float64")
    return np.log(p) - np.log1p(-p)


def test_offsets_move_the_log_odds_of_their_label_only():
    model = models.DNN(SCHEMA, hidden_units=(11,))
    x, _ = random_rows(SCHEMA, 53)
    moved = models.with_offsets(model, {"like": -np.log(7.0)})
    before, after = model.predict(x, verbose=0), moved.predict(x, verbose=0)
    np.testing.assert_array_equal(after["click"], before["click"])
    np.testing.assert_allclose(logits_of(after["like"]), logits_of(before["like"]) - np.log(7.0), atol=1e-5)
    again = models.with_offsets(moved, {"like": np.log(7.0)})
    np.testing.assert_allclose(again.predict(x, verbose=0)["like"], before["like"], rtol=1e-6)


def test_offset_undoes_the_weight_of_the_positives():
    """A model without features learns the weighted rate; the offset gives back the true one."""
    schema = fields_schema(labels=("like",))
    x = {name: np.ones_like(values[:1]).repeat(1000, axis=0) for name, values in random_rows(schema, 7)[0].items()}
    y = (np.arange(1000) < 50).astype("float32")[:, None]
    model = models.LR(schema)
    model.compile(keras.optimizers.Adam(0.05), "binary_crossentropy")
    model.fit(x, y, sample_weight=np.where(y == 1, 9.0, 1.0)[:, 0], batch_size=1000, epochs=300, verbose=0)
    weighted = 9 * 0.05 / (9 * 0.05 + 0.95)
    np.testing.assert_allclose(model.predict(x, verbose=0)["like"], weighted, rtol=2e-3)
    corrected = models.with_offsets(model, {"like": -np.log(9.0)})
    np.testing.assert_allclose(corrected.predict(x, verbose=0)["like"], 0.05, rtol=5e-3)


def test_log_variances_survive_an_offset():
    model = models.with_uncertainty_weights(models.LR(SCHEMA))
    model.get_layer("like").log_variance.assign(0.7)
    moved = models.with_offsets(model, {"click": 1.0})
    assert ops.convert_to_numpy(moved.get_layer("like").log_variance.value) == np.float32(0.7)


def test_errors():
    model = models.LR(SCHEMA)
    with pytest.raises(KeyError, match="no label 'lik'; did you mean 'like'"):
        models.with_offsets(model, {"lik": 1.0})
    with pytest.raises(ValueError, match="offset of label 'like' must be a finite number"):
        models.with_offsets(model, {"like": float("nan")})
