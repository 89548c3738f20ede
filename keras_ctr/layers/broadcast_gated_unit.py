"""Local broadcast: what hub tokens know, back to the tokens of their group."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_epsilon, check_units
from keras_ctr.layers.mlp import MLP

SCALE_BIAS = 2.0
"""Start of the bias below a gate's sigmoid: sigmoid(2) = 0.88, so that tokens begin near themselves."""


@keras.saving.register_keras_serializable(package="keras_ctr")
class ProxyGatedUnit(keras.Layer):
    """Gates all tokens of a group by its hubs: map `(B, N, D), (B, n, D) -> (B, N, D)`.

    `Y = X * sigmoid( MLP(vec(H)) )`, one gate `(B, D)` for all tokens; with `per_token` (n = N) `y_i = x_i * sigmoid( MLP(h_i) )`.
    Parameters with one hidden layer of width u: `(n D + 1) u + (u + 1) D`; with `per_token` as for n = 1.

    Args:
        hidden_units: Hidden widths of the MLP, whose last layer is linear; None = `(4 D,)`.
        activation: Of the hidden layers.
        per_token: Whether token i has a hub of its own, h_i, instead of one gate for the group.

    Call arguments:
        inputs: X `(B, N, D)`.
        hubs: H `(B, n, D)`.

    Raises:
        ValueError: On a non-positive width, or `per_token` with n other than N.

    Source: INFNet (arXiv:2508.11565, version 1, proxy gated unit).
    Deviations: the bias of the MLP's last layer starts at 2, so that a gate starts near 0.88; a stack of gates of 1/2 would halve the
    tokens in every block.
    """

    def __init__(self, *, hidden_units=None, activation="relu", per_token=False, **kwargs):
        super().__init__(**kwargs)
        self.hidden_units = None if hidden_units is None else check_units(self, "hidden_units", hidden_units)
        self.activation = keras.activations.get(activation)
        self.per_token = per_token

    def build(self, inputs_shape, hubs_shape):
        width, count = inputs_shape[-1], hubs_shape[1]
        if self.per_token and count != inputs_shape[1]:
            raise ValueError(
                f"{type(self).__name__} '{self.name}': per_token needs a hub for each of {inputs_shape[1]} tokens, got {count}"
            )
        shape = (None, None, width) if self.per_token else (None, count * width)
        units = (4 * width,) if self.hidden_units is None else self.hidden_units
        self.mlp = MLP(units, activation=self.activation, name="mlp", dtype=self.dtype_policy)
        self.mlp.build(shape)
        self.hidden_shape = self.mlp.compute_output_shape(shape)
        self.scale = self._dense(width, "scale", bias_initializer=keras.initializers.Constant(SCALE_BIAS))
        self.built = True

    def _dense(self, units, name, **initializers):
        dense = keras.layers.Dense(units, name=name, dtype=self.dtype_policy, **initializers)
        dense.build(self.hidden_shape)
        return dense

    def _hidden(self, hubs):
        """Returns `(B, 1, u)`, or `(B, N, u)` per token."""
        if self.per_token:
            return self.mlp(hubs)
        return ops.expand_dims(self.mlp(ops.reshape(hubs, (-1, hubs.shape[1] * hubs.shape[2]))), 1)

    def call(self, inputs, hubs):
        return inputs * ops.sigmoid(self.scale(self._hidden(hubs)))  # (B, N, D)

    def compute_output_shape(self, inputs_shape, hubs_shape=None):
        return tuple(inputs_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_units": None if self.hidden_units is None else list(self.hidden_units),
            "activation": keras.activations.serialize(self.activation),
            "per_token": self.per_token,
        }


@keras.saving.register_keras_serializable(package="keras_ctr")
class BroadcastGatedUnit(ProxyGatedUnit):
    """Moves all tokens of a group by an affine map that its hubs make: map `(B, N, D), (B, n, D) -> (B, N, D)`.

    ```
    [alpha || beta] = MLP(vec(H))                              (B, 2D), the same for all tokens
    Y = LN( X + ( X * sigmoid(alpha) + beta ) )
    ```

    With `per_token` (n = N) hub i makes the map of token i. Parameters with one hidden layer of width u: `(n D + 1) u + 2 (u + 1) D`, and
    2D of the norm; with `per_token` as for n = 1.

    Args:
        hidden_units: Hidden widths of the MLP, whose last layer is linear; None = `(4 D,)`.
        activation: Of the hidden layers.
        per_token: Whether token i has a hub of its own, h_i, instead of one map for the group.
        normalize: Whether there is the norm.
        epsilon: Of the norm, added to a token's variance.

    Call arguments:
        inputs: X `(B, N, D)`.
        hubs: H `(B, n, D)`.

    Raises:
        ValueError: On an argument out of range, or `per_token` with n other than N.

    Source: INFNet (arXiv:2508.11565, version 2, Eq. 4: phase 2 of a block).
    Deviations: the start is not given: the bias of alpha is 2, kernel and bias of beta are 0, so that Y starts near LN(1.88 X).
    """

    def __init__(self, *, normalize=True, epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        check_epsilon(self, epsilon)
        self.normalize = normalize
        self.epsilon = epsilon

    def build(self, inputs_shape, hubs_shape):
        super().build(inputs_shape, hubs_shape)
        self.shift = self._dense(inputs_shape[-1], "shift", kernel_initializer="zeros")
        if self.normalize:
            self.norm = keras.layers.LayerNormalization(epsilon=self.epsilon, name="norm", dtype=self.dtype_policy)
            self.norm.build(inputs_shape)

    def call(self, inputs, hubs):
        hidden = self._hidden(hubs)
        x = inputs + (inputs * ops.sigmoid(self.scale(hidden)) + self.shift(hidden))  # (B, N, D)
        return self.norm(x) if self.normalize else x

    def get_config(self):
        return {**super().get_config(), "normalize": self.normalize, "epsilon": self.epsilon}
