"""Some of the tokens, by their positions."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_ctr")
class SelectTokens(keras.Layer):
    """The tokens at given positions, in the order given: map `(B, F, D) -> (B, K, D)`. No weights.

    Args:
        positions: K positions from 0 to F - 1.

    Raises:
        ValueError: If there is no position, or one is out of range.

    Source: how models that adapt to a user or domain read the fields that they adapt to.
    """

    def __init__(self, positions, **kwargs):
        super().__init__(**kwargs)
        self.positions = tuple(positions)
        if not self.positions:
            raise ValueError(f"SelectTokens '{self.name}': positions must name at least one token")

    def build(self, inputs_shape):
        for position in self.positions:
            if not 0 <= position < inputs_shape[1]:
                raise ValueError(f"SelectTokens '{self.name}': there is no token {position} among {inputs_shape[1]}")
        self.built = True

    def call(self, inputs):
        # Slices of neighbours are taken at once.
        parts, start = [], 0
        for end in range(1, len(self.positions) + 1):
            if end == len(self.positions) or self.positions[end] != self.positions[end - 1] + 1:
                parts.append(inputs[:, self.positions[start] : self.positions[end - 1] + 1])  # (B, k, D)
                start = end
        return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=1)  # (B, K, D)

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], len(self.positions), inputs_shape[2])

    def get_config(self):
        return {**super().get_config(), "positions": list(self.positions)}
