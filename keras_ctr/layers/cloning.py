"""Fresh copies of layer prototypes: how a block takes a sub-module as an argument without sharing it."""

import keras


def clone_layer(layer, name=None, dtype=None):
    """A new, unbuilt layer of the same class and configuration as `layer`, sharing no weight with it.

    A block that takes a layer as an argument calls this once for every place where it needs one, so that the caller's
    layer stays a prototype: never built, never shared between two blocks.

    Args:
        layer: a `keras.Layer`; built or not, only its configuration is read.
        name: name of the copy. `None` keeps the prototype's name.
        dtype: dtype policy of the copy, usually that of the block. `None` keeps the prototype's.

    Returns:
        A layer of `type(layer)`, unbuilt.

    Raises:
        TypeError: `layer` is not a `keras.Layer`.
    """
    if not isinstance(layer, keras.Layer):
        raise TypeError(f"clone_layer needs a keras.Layer as prototype, got {type(layer).__name__}: pass a layer object.")
    config = layer.get_config()
    if name is not None:
        config = {**config, "name": name}
    if dtype is not None:
        config = {**config, "dtype": dtype}
    # Not through serialize_keras_object: a model saved with layers cloned that way does not reload in Keras 3.15.
    return type(layer).from_config(config)


def clone_initializer(initializer, index=0):
    """A copy of `initializer` that draws its own numbers.

    A Keras initializer object returns the same numbers on every call, so two weights that share one start equal. Blocks
    with several weights of the same shape take one copy for each.

    Args:
        initializer: a `keras.initializers.Initializer` or a plain callable; a callable without a configuration is returned as it is.
        index: added to an integer seed, so that seeded copies with different `index` differ and stay reproducible.

    Returns:
        A new initializer; unseeded copies draw from a fresh seed.
    """
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    config = initializer.get_config()
    if isinstance(config.get("seed"), int):
        config = {**config, "seed": config["seed"] + index}
    return type(initializer).from_config(config)
