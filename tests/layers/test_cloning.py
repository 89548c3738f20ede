"""Copies of prototypes share nothing with them."""

import keras
import numpy as np
import pytest

from keras_ctr.layers.cloning import clone_initializer, clone_layer


def test_clone_shares_no_weight():
    prototype = keras.layers.Dense(3, activation="relu", name="prototype")
    prototype.build((None, 2))
    copy = clone_layer(prototype, name="copy")
    assert (copy.name, copy.built, copy.get_config()["activation"]) == ("copy", False, "relu")
    copy.build((None, 2))
    assert not {id(w) for w in copy.weights} & {id(w) for w in prototype.weights}
    assert clone_layer(prototype).name == "prototype"


def test_clone_needs_a_layer():
    with pytest.raises(TypeError, match="layer object"):
        clone_layer(keras.layers.Dense)


def test_initializer_copies_draw_different_numbers():
    unseeded = keras.initializers.GlorotUniform()
    assert not np.array_equal(clone_initializer(unseeded)((5, 7)), clone_initializer(unseeded)((5, 7)))
    seeded = keras.initializers.GlorotUniform(seed=3)
    assert np.array_equal(clone_initializer(seeded, 1)((5, 7)), clone_initializer(seeded, 1)((5, 7)))
    assert not np.array_equal(clone_initializer(seeded, 1)((5, 7)), clone_initializer(seeded, 2)((5, 7)))
