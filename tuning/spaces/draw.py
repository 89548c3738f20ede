"""Draws from a space without KerasTuner."""

import contextlib
import math
import random


class Draw:
    """What spaces need of `keras_tuner.HyperParameters`: random values, or the defaults.

    Args:
        seed: Of the draws; None for the default of every choice.
        fixed: `{name: value}` of choices that are not drawn.

    Attributes:
        values: `{name: value}` of the active choices that were asked for.
    """

    def __init__(self, seed=None, fixed=None):
        self.values = {}
        self._fixed = dict(fixed or {})
        self._random = None if seed is None else random.Random(seed)
        self._active = [True]

    @contextlib.contextmanager
    def conditional_scope(self, parent_name, parent_values):
        """Choices inside are None unless the parent is active and has one of the values."""
        self._active.append(self._active[-1] and self.values.get(parent_name) in parent_values)
        try:
            yield
        finally:
            self._active.pop()

    def Choice(self, name, values, default=None):
        """Returns one of `values`; None if inactive."""
        return self._value(name, values[0] if default is None else default, lambda: self._random.choice(list(values)))

    def Boolean(self, name, default=False):
        """Returns True or False; None if inactive."""
        return self._value(name, default, lambda: self._random.random() < 0.5)

    def Float(self, name, min_value, max_value, sampling="linear", default=None):
        """Returns a number of the range, uniform or, with `sampling="log"`, log-uniform; None if inactive."""

        def draw():
            share = self._random.random()
            if sampling == "log":
                return min_value * math.pow(max_value / min_value, share)
            return min_value + share * (max_value - min_value)

        return self._value(name, min_value if default is None else default, draw)

    def get(self, name):
        """Returns the value of an active choice."""
        return self.values[name]

    def __contains__(self, name):
        return name in self.values

    def _value(self, name, default, draw):
        if not self._active[-1]:
            return None
        if name not in self.values:
            self.values[name] = self._fixed[name] if name in self._fixed else default if self._random is None else draw()
        return self.values[name]
