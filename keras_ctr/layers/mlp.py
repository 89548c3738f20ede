"""The multi-layer perceptron that most CTR models end with."""

import keras

from keras_ctr.layers.cloning import clone_layer

BATCH_NORM_MOMENTUM = 0.9
"""Share of the old moving statistics that a step keeps. Click models are often best after one epoch of a few hundred steps: with the 0.99
of Keras a good part of the moving statistics is still their initial values then (docs/deviations.md)."""


@keras.saving.register_keras_serializable(package="keras_ctr")
class MLP(keras.Layer):
    """Multi-layer perceptron: vector `(..., N) -> (..., hidden_units[-1])`, or `(..., output_units)` with a linear last layer.

    For each width u in `hidden_units`: `x <- dropout(activation(batch_norm(x W + b)))`, W (N, u), b (u,); then, if `output_units` is
    set, `x W_o + b_o`. Parameters: sum over the layers of (N + 1) u, and 4u more a hidden layer with batch normalisation (half of
    them not trained).

    Args:
        hidden_units: Widths of the hidden layers; may be empty.
        activation: Name of a Keras activation, or a layer prototype (such as `Dice()`) that is cloned for every hidden layer.
        dropout: Share of hidden units dropped in training, in [0, 1).
        batch_norm: Whether to normalise before the activation; moving statistics keep 0.9 of the old in a step.
        output_units: Width of a linear last layer, or None for none.
        use_bias: Whether the dense layers have a bias.
        kernel_initializer: Keras initializer of the dense kernels.

    Raises:
        ValueError: On a non-positive width or a dropout rate outside [0, 1).

    Source: the order dense, normalisation, activation, dropout is that of the public benchmarks of the field (BARS).
    """

    def __init__(
        self,
        hidden_units=(),
        *,
        activation="relu",
        dropout=0.0,
        batch_norm=False,
        output_units=None,
        use_bias=True,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.hidden_units = tuple(hidden_units)
        for units in (*self.hidden_units, *(() if output_units is None else (output_units,))):
            if not isinstance(units, int) or units < 1:
                raise ValueError(f"MLP '{self.name}': every width must be a positive int, got {units!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"MLP '{self.name}': dropout must be in [0, 1), got {dropout!r}")
        # A prototype is kept by its configuration: as an attribute it would be tracked as a sub-layer that nobody builds.
        is_layer = isinstance(activation, keras.Layer)
        self.activation = keras.saving.serialize_keras_object(activation) if is_layer else keras.activations.get(activation)
        self.dropout = dropout
        self.batch_norm = batch_norm
        self.output_units = output_units
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.steps = []
        for index, units in enumerate(self.hidden_units):
            self.steps.append(self._dense(units, f"dense_{index}"))
            if batch_norm:
                self.steps.append(self._batch_norm(index))
            if is_layer:
                self.steps.append(clone_layer(activation, name=f"activation_{index}", dtype=self.dtype_policy))
            else:
                self.steps.append(keras.layers.Activation(self.activation, name=f"activation_{index}", dtype=self.dtype_policy))
            if dropout:
                self.steps.append(keras.layers.Dropout(dropout, name=f"dropout_{index}", dtype=self.dtype_policy))
        if output_units is not None:
            self.steps.append(self._dense(output_units, "output"))

    def _batch_norm(self, index):
        return keras.layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, name=f"batch_norm_{index}", dtype=self.dtype_policy)

    def _dense(self, units, name):
        initializer = self.kernel_initializer.clone()
        return keras.layers.Dense(units, use_bias=self.use_bias, kernel_initializer=initializer, name=name, dtype=self.dtype_policy)

    def build(self, input_shape):
        shape = tuple(input_shape)
        for step in self.steps:
            step.build(shape)
            shape = step.compute_output_shape(shape)
        self.built = True

    def call(self, inputs, training=None):
        x = inputs  # (..., N)
        for step in self.steps:
            x = step(x, training=training) if step._call_has_training_arg else step(x)  # (..., u)
        return x

    def compute_output_shape(self, input_shape):
        width = self.output_units or (self.hidden_units[-1] if self.hidden_units else input_shape[-1])
        return (*tuple(input_shape)[:-1], width)

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_units": list(self.hidden_units),
            "activation": self.activation if isinstance(self.activation, dict) else keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "batch_norm": self.batch_norm,
            "output_units": self.output_units,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }

    @classmethod
    def from_config(cls, config):
        activation = config.get("activation")
        if isinstance(activation, dict):
            config = {**config, "activation": keras.saving.deserialize_keras_object(activation)}
        return cls(**config)
