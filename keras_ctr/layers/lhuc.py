"""Learning hidden unit contributions: amplitudes of hidden units that depend on the user."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_units
from keras_ctr.layers.mlp import MLP


@keras.saving.register_keras_serializable(package="keras_ctr")
class HiddenUnitGate(keras.Layer):
    """Amplitudes of hidden units from a personalisation input: vector `(B, N), (B, P) -> (B, N)`.

    `y = x * 2 sigmoid(r)`, `r = MLP(c)`, c `(B, P)`: each unit is scaled by a number in (0, 2), by 1 where r = 0. Parameters: those of
    the MLP, `P -> hidden_units -> N`, linear at its end.

    Args:
        hidden_units: Widths of the MLP's hidden layers; `()` for one linear map.
        activation: Of the hidden layers.

    Call arguments:
        inputs: `(B, N)` x, the hidden units.
        condition: `(B, P)` c, for instance the embedding of the user.

    Raises:
        ValueError: On a non-positive width.

    Source: LHUC (Swietojanski and Renals, "Learning hidden unit contributions for unsupervised speaker adaptation of neural network
    acoustic models", IEEE SLT 2014). Deviations: the paper learns a free vector r for each speaker and layer; as CTR models do, r is made
    from embeddings, so that units of all layers share what is known of a user. With `hidden_units=()` r is linear in the user's row.
    """

    def __init__(self, hidden_units=(), *, activation="relu", **kwargs):
        super().__init__(**kwargs)
        self.hidden_units = check_units(self, "hidden_units", hidden_units)
        self.activation = keras.activations.get(activation)

    def build(self, inputs_shape, condition_shape):
        units = inputs_shape[-1]
        self.mlp = MLP(self.hidden_units, activation=self.activation, output_units=units, name="mlp", dtype=self.dtype_policy)
        self.mlp.build(condition_shape)
        self.built = True

    def call(self, inputs, condition):
        return inputs * (2.0 * ops.sigmoid(self.mlp(condition)))  # (B, N)

    def compute_output_shape(self, inputs_shape, condition_shape):
        return tuple(inputs_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_units": list(self.hidden_units),
            "activation": keras.activations.serialize(self.activation),
        }
