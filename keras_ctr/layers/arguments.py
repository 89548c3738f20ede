"""Checks of layer arguments, with one wording for all layers."""

from keras_ctr.schema import nearest


def check_int(layer, argument, value, least=1):
    """Raises `ValueError` naming layer and argument unless `value` is an int of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{type(layer).__name__} '{layer.name}': {argument} must be an int of at least {least}, got {value!r}")


def check_choice(layer, argument, value, choices):
    """Raises `ValueError` naming layer, argument and the nearest choice unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(
            f"{type(layer).__name__} '{layer.name}': {argument} must be one of {tuple(choices)}, got {value!r}{nearest(value, choices)}"
        )


def check_epsilon(layer, value):
    """Raises `ValueError` naming the layer unless `value`, the epsilon of a normalisation, is a positive number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(f"{type(layer).__name__} '{layer.name}': epsilon must be positive, got {value!r}")


def check_units(layer, argument, units):
    """Returns `units` as a tuple of positive ints.

    Raises:
        ValueError: If one of them is not a positive int; the message names layer and argument.
    """
    units = tuple(units)
    for value in units:
        check_int(layer, argument, value)
    return units
