"""The layer contract catches the faults it is there for: each broken layer fails, with the clause named."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.layer_contract import check_layer

B, T, D = 3, 5, 7
MASK = np.array([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)


@keras.saving.register_keras_serializable(package="contract_test")
class Sound(keras.Layer):
    """A masked, weighted sum over time: everything that the broken layers below get wrong is right here."""

    def __init__(self, units=2, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.supports_masking = True

    def build(self, inputs_shape):
        self.kernel = self.add_weight(name="kernel", shape=(inputs_shape[-1], self.units))
        self.built = True

    def call(self, inputs, mask=None):
        x = ops.matmul(inputs, self.kernel)
        return ops.sum(ops.where(ops.expand_dims(mask, -1), x, 0.0), axis=1)

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class ForgetsConfig(Sound):
    def get_config(self):
        return {k: v for k, v in super().get_config().items() if k != "units"} | {"units": 3 if self.units == 2 else 5}


class BuildsLate(Sound):
    def build(self, inputs_shape):
        self.built = True

    def call(self, inputs, mask=None):
        if not self.weights:
            super().build(inputs.shape)
        return super().call(inputs, mask)


class UnbuiltPart(Sound):
    def build(self, inputs_shape):
        super().build(inputs_shape)
        self.part = keras.layers.Dense(self.units)


class WrongShape(Sound):
    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], self.units + 1)


class IgnoresMask(Sound):
    def call(self, inputs, mask=None):
        return ops.sum(ops.matmul(inputs, self.kernel), axis=1)


class MixesRows(Sound):
    def call(self, inputs, mask=None):
        out = super().call(inputs, mask)
        return out - ops.mean(out, axis=0, keepdims=True)


class WrongDtype(Sound):
    def call(self, inputs, mask=None):
        return ops.cast(super().call(inputs, mask), "float32")


class DeadWeight(Sound):
    def build(self, inputs_shape):
        super().build(inputs_shape)
        self.unused = self.add_weight(name="unused", shape=(1,))


class NotANumber(Sound):
    def call(self, inputs, mask=None):
        out = super().call(inputs, mask)
        return out / ops.max(ops.cast(mask, out.dtype), axis=1, keepdims=True)


def check(layer):
    return check_layer(layer, (B, T, D), call_kwargs={"mask": MASK}, sequence=(0,))


def test_a_sound_layer_passes():
    assert check(Sound()).shape == (B, 2)


@pytest.mark.parametrize(
    "broken, message",
    [
        (ForgetsConfig, "another configuration"),
        (BuildsLate, "no weights after build"),
        (UnbuiltPart, "not built by build"),
        (WrongShape, "symbolic shapes"),
        (IgnoresMask, "hidden steps change the output"),
        (MixesRows, "depends on its batch"),
        (WrongDtype, "output is float32"),
        (DeadWeight, "unused: no gradient"),
        (NotANumber, "without valid steps is not finite"),
    ],
)
def test_a_broken_layer_fails(broken, message):
    keras.saving.register_keras_serializable(package="contract_test")(broken)
    with pytest.raises(AssertionError, match=message):
        check(broken())
