"""MLP against NumPy, and its order of normalisation, activation and dropout."""

import keras
import numpy as np
import pytest

from keras_ctr.layers import MLP, LabelPrediction
from tests.layer_contract import check_layer


def test_against_numpy():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 7))
    layer = MLP((11, 3), output_units=2)
    out = np.asarray(layer(x.astype("float32")))
    h = x
    for dense in layer.steps:
        if isinstance(dense, keras.layers.Dense):
            kernel, bias = (keras.ops.convert_to_numpy(v).astype("float64") for v in dense.weights)
            h = h @ kernel + bias
        else:
            h = np.maximum(h, 0)
    np.testing.assert_allclose(out, h, atol=1e-5)
    assert layer.count_params() == (7 + 1) * 11 + (11 + 1) * 3 + (3 + 1) * 2


def test_order_is_dense_norm_activation_dropout():
    layer = MLP((5,), batch_norm=True, dropout=0.3, activation="tanh")
    assert [type(s).__name__ for s in layer.steps] == ["Dense", "BatchNormalization", "Activation", "Dropout"]
    layer.build((None, 7))
    assert layer.count_params() == 8 * 5 + 4 * 5


def test_layer_activation_is_cloned():
    prototype = keras.layers.PReLU()
    layer = MLP((5, 3), activation=prototype)
    layer.build((None, 7))
    assert not prototype.built
    assert layer.count_params() == 8 * 5 + 5 + 6 * 3 + 3


@pytest.mark.parametrize(
    "layer",
    [MLP((5, 3)), MLP((5,), output_units=2, batch_norm=True), MLP((5,), activation=keras.layers.PReLU())],
    ids=["plain", "norm", "layer"],
)
def test_contract(layer):
    check_layer(layer, (13, 7), no_gradient=("batch_norm.*",), row_independent=True)


def test_errors():
    with pytest.raises(ValueError, match="width"):
        MLP((5, 0))
    with pytest.raises(ValueError, match="dropout"):
        MLP((5,), dropout=1.0)
    with pytest.raises(ValueError, match="activation"):
        LabelPrediction(0, activation="relu")
    with pytest.raises(ValueError, match="no logit 2"):
        LabelPrediction(2)(np.zeros((3, 2), "float32"))


def test_loss_of_a_hopeless_prediction_still_has_a_gradient():
    """A sigmoid that is not the last operation, or in half precision, would clip here and stop learning."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the other backends clip probabilities at 1e-7")
    import tensorflow as tf

    x = tf.constant([[60.0]])
    layer = LabelPrediction(0)

    @tf.function
    def loss_and_gradient():
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = keras.losses.binary_crossentropy(tf.zeros((1, 1)), layer(x))
        return loss, tape.gradient(loss, x)

    loss, gradient = loss_and_gradient()
    assert float(loss[0]) == pytest.approx(60.0)
    assert float(gradient[0, 0]) == pytest.approx(1.0)
