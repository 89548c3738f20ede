"""The self-masking network that unifies several sequences into one."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_int, check_units
from keras_ctr.layers.mlp import MLP


@keras.saving.register_keras_serializable(package="keras_ctr")
class SequenceMaskNet(keras.Layer):
    """Self-masking, then a linear map to the model's width: map `(B, T, k*d) -> (B, T, D)`, each step by itself.

    With `S_t` the k sequences side by side at step t:

    ```
    S'_t = (S_t * MLP_mask(S_t)) W_lce + b_lce          MLP_mask: kd -> mask_units -> kd, linear at its end
    ```

    Padded steps come out as zeros. Parameters with the default `mask_units = (kd,)`: `2 kd (kd + 1) + kd D + D`.

    Args:
        output_dim: D.
        self_masking: Whether to mask; False leaves the linear map (kd D + D parameters).
        mask_units: Hidden widths of `MLP_mask`; None = `(kd,)`.
        activation: Of the hidden layers of `MLP_mask`.
        mask_activation: Of the mask itself; `"linear"` or such as `"sigmoid"`.

    Call arguments:
        inputs: `(B, T, k*d)`.
        mask: `(B, T)` bool, True = valid; None = all valid.

    Raises:
        ValueError: On a non-positive width.

    Source: InterFormer (Eq. 6).
    Deviations: the paper writes `MLP_mask: R^{kd x T} -> R^{kd x T}`; acting on each step is the one reading that does not depend on T. The
    mask is guided by the sequence itself and has no layer normalisation, unlike MaskNet's.
    """

    def __init__(self, output_dim, *, self_masking=True, mask_units=None, activation="swish", mask_activation="linear", **kwargs):
        super().__init__(**kwargs)
        check_int(self, "output_dim", output_dim)
        self.output_dim = output_dim
        self.self_masking = self_masking
        self.mask_units = None if mask_units is None else check_units(self, "mask_units", mask_units)
        self.activation = keras.activations.get(activation)
        self.mask_activation = keras.activations.get(mask_activation)
        self.supports_masking = True

    def build(self, inputs_shape):
        width = inputs_shape[-1]
        if self.self_masking:
            units = (width,) if self.mask_units is None else self.mask_units
            self.mask_mlp = MLP(units, activation=self.activation, output_units=width, name="mask_mlp", dtype=self.dtype_policy)
            self.mask_mlp.build(inputs_shape)
        self.compress = keras.layers.Dense(self.output_dim, name="compress", dtype=self.dtype_policy)
        self.compress.build(inputs_shape)
        self.built = True

    def call(self, inputs, mask=None):
        x = inputs  # (B, T, k*d)
        if self.self_masking:
            x = x * self.mask_activation(self.mask_mlp(x))  # (B, T, k*d)
        x = self.compress(x)  # (B, T, D)
        return x if mask is None else x * ops.cast(mask, x.dtype)[:, :, None]

    def compute_mask(self, inputs, previous_mask=None):
        return None  # the caller has the mask

    def compute_output_shape(self, inputs_shape):
        return (*tuple(inputs_shape)[:-1], self.output_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "output_dim": self.output_dim,
            "self_masking": self.self_masking,
            "mask_units": None if self.mask_units is None else list(self.mask_units),
            "activation": keras.activations.serialize(self.activation),
            "mask_activation": keras.activations.serialize(self.mask_activation),
        }
