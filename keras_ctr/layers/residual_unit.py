"""The residual unit of Deep Crossing."""

import keras

from keras_ctr.layers.arguments import check_int
from keras_ctr.layers.cloning import clone_initializer
from keras_ctr.layers.mlp import BATCH_NORM_MOMENTUM


@keras.saving.register_keras_serializable(package="keras_ctr")
class ResidualUnit(keras.Layer):
    """Two dense layers around which the input is led: vector `(B, N) -> (B, N)`.

    ```
    y = f( norm( f(x W_1 + b_1) W_2 + b_2 + x ) )        W_1 (N, units), W_2 (units, N)
    ```

    norm is the identity, or batch normalisation with `batch_norm`; in training dropout follows. With W_2 = 0 and b_2 = 0 the unit is
    f(x), which ReLU leaves unchanged from the second unit on. Parameters: `2 N units + units + N`, and 4N with batch normalisation (half of
    them not trained).

    Args:
        units: Width of the inner layer.
        activation: f.
        batch_norm: Whether to normalise the sum, before its activation.
        dropout: Share of outputs dropped in training, in [0, 1).
        kernel_initializer: Of W_1 and W_2.

    Raises:
        ValueError: On a non-positive `units` or a dropout rate outside [0, 1).

    Source: Deep Crossing (Shan et al., KDD 2016, https://doi.org/10.1145/2939672.2939704, section on residual layers). Deviations: none by
    default; normalisation and dropout are those of public implementations.
    """

    def __init__(self, units, *, activation="relu", batch_norm=False, dropout=0.0, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        check_int(self, "units", units)
        if not 0 <= dropout < 1:
            raise ValueError(f"ResidualUnit '{self.name}': dropout must be in [0, 1), got {dropout!r}")
        self.units = units
        self.activation = keras.activations.get(activation)
        self.batch_norm = batch_norm
        self.dropout = dropout
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, inputs_shape):
        width = inputs_shape[-1]
        initializers = [clone_initializer(self.kernel_initializer, index) for index in range(2)]
        self.inner = keras.layers.Dense(
            self.units, activation=self.activation, kernel_initializer=initializers[0], name="inner", dtype=self.dtype_policy
        )
        self.outer = keras.layers.Dense(width, kernel_initializer=initializers[1], name="outer", dtype=self.dtype_policy)
        self.inner.build(inputs_shape)
        self.outer.build((*tuple(inputs_shape)[:-1], self.units))
        self.norm = self.drop = None
        if self.batch_norm:
            self.norm = keras.layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, name="norm", dtype=self.dtype_policy)
            self.norm.build(inputs_shape)
        if self.dropout:
            self.drop = keras.layers.Dropout(self.dropout, name="drop", dtype=self.dtype_policy)
            self.drop.build(inputs_shape)
        self.built = True

    def call(self, inputs, training=None):
        x = self.outer(self.inner(inputs)) + inputs  # (B, N)
        if self.norm is not None:
            x = self.norm(x, training=training)
        x = self.activation(x)
        return x if self.drop is None else self.drop(x, training=training)

    def compute_output_shape(self, inputs_shape):
        return inputs_shape

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "batch_norm": self.batch_norm,
            "dropout": self.dropout,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
