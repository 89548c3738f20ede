"""MaskNet: hidden vectors multiplied by masks that a network makes from the instance's embeddings."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_int
from keras_ctr.layers.mlp import MLP

FIELD_NORM_EPSILON = 1e-6
"""Embeddings start with a variance of about 1e-4: Keras' default of 1e-3 would swamp it."""

BLOCK_NORM_EPSILON = 1e-10
"""A mask made from such embeddings starts near 0.01, so what it has multiplied has a variance near 1e-8 where that is an embedding too."""


@keras.saving.register_keras_serializable(package="keras_ctr")
class FieldLayerNormalization(keras.Layer):
    """Layer normalisation with a gain and a bias of each field: map `(B, F, D) -> (B, F, D)`.

    `Y_f = gamma_f * (X_f - mean(X_f)) / sqrt(var(X_f) + epsilon) + beta_f`, mean and variance over D; gamma, beta `(F, D)`: 2 F D
    parameters. Two fields never share them, unlike in `keras.layers.LayerNormalization` on the last axis.

    Args:
        epsilon: Added to the variance.

    Raises:
        ValueError: If `epsilon` is not positive.

    Source: MaskNet (arXiv:2102.07619, section 3.2, LN_EMB).
    """

    def __init__(self, *, epsilon=FIELD_NORM_EPSILON, **kwargs):
        super().__init__(**kwargs)
        if not epsilon > 0:
            raise ValueError(f"FieldLayerNormalization '{self.name}': epsilon must be positive, got {epsilon!r}")
        self.epsilon = epsilon

    def build(self, inputs_shape):
        shape = tuple(inputs_shape[1:])
        self.gamma = self.add_weight(name="gamma", shape=shape, initializer="ones")
        self.beta = self.add_weight(name="beta", shape=shape, initializer="zeros")
        self.built = True

    def call(self, inputs):
        x = ops.cast(inputs, "float32")  # whatever the policy: the variance of small numbers cancels
        centred = x - ops.mean(x, axis=-1, keepdims=True)  # (B, F, D)
        variance = ops.mean(ops.square(centred), axis=-1, keepdims=True)  # (B, F, 1)
        normal = ops.cast(centred * ops.rsqrt(variance + self.epsilon), self.compute_dtype)
        return normal * self.gamma + self.beta

    def compute_output_shape(self, inputs_shape):
        return tuple(inputs_shape)

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="keras_ctr")
class InstanceGuidedMask(keras.Layer):
    """A mask made from the instance's embeddings: vector `(B, N) -> (B, Z)`.

    `m = W_2 ReLU(W_1 x + b_1) + b_2`, R = r Z hidden units (rounded, at least 1). Parameters: `N R + R + R Z + Z`. The mask is not
    bounded: it scales what it multiplies up as well as down.

    Args:
        units: Z, the width of what the mask will multiply.
        reduction_ratio: r. At least 1 in the paper, whose aggregation is wider than the mask; public benchmarks also use 0.1 to 0.8.

    Raises:
        ValueError: On a non-positive argument.

    Source: MaskNet (arXiv:2102.07619, section 3.1).
    """

    def __init__(self, units, *, reduction_ratio=2.0, **kwargs):
        super().__init__(**kwargs)
        check_int(self, "units", units)
        _check_ratio(self, reduction_ratio)
        self.units = units
        self.reduction_ratio = reduction_ratio

    def build(self, inputs_shape):
        hidden = max(1, round(self.reduction_ratio * self.units))
        self.mlp = MLP((hidden,), activation="relu", output_units=self.units, name="mlp", dtype=self.dtype_policy)
        self.mlp.build(inputs_shape)
        self.built = True

    def call(self, inputs):
        return self.mlp(inputs)  # (B, Z)

    def compute_output_shape(self, inputs_shape):
        return (*tuple(inputs_shape)[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "reduction_ratio": self.reduction_ratio}


@keras.saving.register_keras_serializable(package="keras_ctr")
class MaskBlock(keras.Layer):
    """Mask, dense layer, normalisation: vector `(B, Z), (B, N) -> (B, U)`.

    `y = dropout(f(LN(W (m(x) * v))))`, m an `InstanceGuidedMask` of width Z on x, W `(Z, U)` without bias. v is the normalised embeddings
    or the output of another block, x always the embeddings. Parameters: those of the mask, `Z U`, and `2 U` of the norm.

    Args:
        units: U.
        reduction_ratio: r of the mask.
        layer_norm: Whether to normalise before the activation.
        activation: f.
        dropout: Share of the output dropped in training.

    Call arguments:
        inputs: v `(B, Z)`.
        embeddings: x `(B, N)`, from which the mask is made.

    Raises:
        ValueError: On a non-positive size or ratio, or a dropout rate outside [0, 1).

    Source: MaskNet (arXiv:2102.07619, section 3.3).
    Deviations: epsilon of the norm is 1e-10, see `BLOCK_NORM_EPSILON`.
    """

    def __init__(self, units, *, reduction_ratio=2.0, layer_norm=True, activation="relu", dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        check_int(self, "units", units)
        _check_ratio(self, reduction_ratio)
        if not 0 <= dropout < 1:
            raise ValueError(f"MaskBlock '{self.name}': dropout must be in [0, 1), got {dropout!r}")
        self.units = units
        self.reduction_ratio = reduction_ratio
        self.layer_norm = layer_norm
        self.activation = keras.activations.get(activation)
        self.dropout = dropout
        self.drop = keras.layers.Dropout(dropout, name="dropout", dtype=self.dtype_policy) if dropout else None

    def build(self, inputs_shape, embeddings_shape):
        self.mask = InstanceGuidedMask(inputs_shape[-1], reduction_ratio=self.reduction_ratio, name="mask", dtype=self.dtype_policy)
        self.mask.build(embeddings_shape)
        self.dense = keras.layers.Dense(self.units, use_bias=False, name="dense", dtype=self.dtype_policy)
        self.dense.build(inputs_shape)
        outputs_shape = (*tuple(inputs_shape)[:-1], self.units)
        self.norm = None
        if self.layer_norm:
            self.norm = keras.layers.LayerNormalization(epsilon=BLOCK_NORM_EPSILON, name="norm", dtype=self.dtype_policy)
            self.norm.build(outputs_shape)
        if self.drop is not None:
            self.drop.build(outputs_shape)
        self.built = True

    def call(self, inputs, embeddings, training=None):
        x = self.dense(self.mask(embeddings) * inputs)  # (B, U)
        x = self.activation(x if self.norm is None else self.norm(x))
        return x if self.drop is None else self.drop(x, training=training)

    def compute_output_shape(self, inputs_shape, embeddings_shape):
        return (*tuple(inputs_shape)[:-1], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "reduction_ratio": self.reduction_ratio,
            "layer_norm": self.layer_norm,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
        }


def _check_ratio(layer, value):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(f"{type(layer).__name__} '{layer.name}': reduction_ratio must be a positive number, got {value!r}")
