"""The small network that turns a row into its own gates or parameters."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_ctr")
class GateNetwork(keras.Layer):
    """Two dense layers on the stopped, flattened input: pool `(B, F, D) -> (B, M)`, or vector `(B, N) -> (B, M)`.

    `y = W_2 f(W_1 x + b_1) + b_2`, x = sg(vec(X)), W_1 (N, H), H = max(1, N // r), W_2 (H, M), N = FD; sg = stop_gradient; with
    `normalize` x = (x - mean(x)) / sqrt(var(x) + 1e-8), over the N numbers of a row. Parameters: `N H + H + H M + M`.

    Args:
        units: M, the outputs.
        reduction_ratio: r, how much narrower the hidden layer is than the input.
        activation: f.
        stop_gradient: Whether the input is kept from training through the gate.
        normalize: Whether a row's input is brought to mean 0 and variance 1. Without, what the network tells rows apart by is as large as
            their embeddings: starting at N(0, 0.01^2), those are a few hundredths after an epoch, and the outputs nearly constant
            (docs/tuning.md).
        output_initializer: Keras initializer of W_2. Default: uniform with a tenth of Glorot's width, so that the output starts close to
            0 whatever the scale of the input, and yet outputs differ. Exact zeros would leave outputs that enter a sum alike (the
            rank-one terms of dynamic weights) alike for ever.

    Raises:
        ValueError: If `units` or `reduction_ratio` is not positive.

    Source: DynInt (Yan and Li 2022), sections 3.2 to 3.5: two-layer network with reduction ratio, gradient blocked. The paper names no
    hidden activation; ReLU is ours, and so is `normalize`.
    """

    def __init__(
        self,
        units,
        *,
        reduction_ratio=4,
        activation="relu",
        stop_gradient=True,
        normalize=False,
        output_initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not isinstance(units, int) or units < 1:
            raise ValueError(f"GateNetwork '{self.name}': units must be a positive int, got {units!r}")
        if reduction_ratio <= 0:
            raise ValueError(f"GateNetwork '{self.name}': reduction_ratio must be positive, got {reduction_ratio!r}")
        self.units = units
        self.reduction_ratio = reduction_ratio
        self.activation = keras.activations.get(activation)
        self.stop_gradient = stop_gradient
        self.normalize = normalize
        if output_initializer is None:
            output_initializer = keras.initializers.VarianceScaling(scale=0.01, mode="fan_avg", distribution="uniform")
        self.output_initializer = keras.initializers.get(output_initializer)

    def build(self, input_shape):
        if None in tuple(input_shape[1:]):
            raise ValueError(f"GateNetwork '{self.name}' needs an input with known sizes after the batch, got {tuple(input_shape)}")
        self.width = 1
        for size in input_shape[1:]:
            self.width *= size
        hidden = max(1, int(self.width // self.reduction_ratio))
        self.hidden = keras.layers.Dense(hidden, activation=self.activation, name="hidden", dtype=self.dtype_policy)
        self.out = keras.layers.Dense(self.units, kernel_initializer=self.output_initializer, name="out", dtype=self.dtype_policy)
        if self.normalize:
            # Tiny rows count: embeddings start at variances of 1e-4.
            self.norm = keras.layers.LayerNormalization(epsilon=1e-8, center=False, scale=False, name="norm", dtype=self.dtype_policy)
            self.norm.build((None, self.width))
        self.hidden.build((None, self.width))
        self.out.build((None, hidden))
        self.built = True

    def call(self, inputs):
        x = ops.reshape(inputs, (-1, self.width))  # (B, N)
        x = ops.stop_gradient(x) if self.stop_gradient else x
        x = self.norm(x) if self.normalize else x
        return self.out(self.hidden(x))  # (B, M)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "reduction_ratio": self.reduction_ratio,
            "activation": keras.activations.serialize(self.activation),
            "stop_gradient": self.stop_gradient,
            "normalize": self.normalize,
            "output_initializer": keras.initializers.serialize(self.output_initializer),
        }
