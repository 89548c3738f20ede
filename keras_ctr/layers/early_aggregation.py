"""Early aggregation: a whole sequence as one token, the habit that InterFormer argues against."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_choice, check_int, check_units
from keras_ctr.layers.attention import MultiHeadAttention
from keras_ctr.layers.mlp import MLP
from keras_ctr.layers.pooling import masked_mean
from keras_ctr.layers.recent import RecentTokens


@keras.saving.register_keras_serializable(package="keras_ctr")
class EarlyAggregation(keras.Layer):
    """A sequence compressed to one token: pool `(B, T, D) -> (B, 1, D)`.

    ```
    kind="avg":  y = mean of the valid steps
    kind="mlp":  y = MLP(vec(S)), S moved so that its newest event stands last, zeros in front
    kind="mha":  y = mean of the valid steps of MHA(S), with rotary positions
    ```

    An empty sequence gives zeros, except for `"mlp"`, where it gives `MLP(0)`.

    Args:
        kind: `"avg"`, `"mlp"` or `"mha"`.
        hidden_units: Hidden widths of the `"mlp"` kind, whose last layer is linear to D.
        activation: Of its hidden layers.
        num_heads: Heads of the `"mha"` kind.

    Call arguments:
        inputs: `(B, T, D)`, oldest first.
        mask: `(B, T)` bool, True = valid; None = all valid.

    Raises:
        ValueError: On an unknown kind or a non-positive width.

    Source: InterFormer (section 5.2.2, Fig. 3, the three "aggressive" variants; their sizes are not published).
    """

    KINDS = ("avg", "mlp", "mha")

    def __init__(self, kind="avg", *, hidden_units=(64,), activation="swish", num_heads=1, **kwargs):
        super().__init__(**kwargs)
        check_choice(self, "kind", kind, self.KINDS)
        check_int(self, "num_heads", num_heads)
        self.kind = kind
        self.hidden_units = check_units(self, "hidden_units", hidden_units)
        self.activation = keras.activations.get(activation)
        self.num_heads = num_heads
        self.supports_masking = True

    def build(self, inputs_shape):
        policy, (batch, steps, width) = self.dtype_policy, inputs_shape
        if self.kind == "mlp":
            self.align = RecentTokens(steps, name="align", dtype=policy)
            self.align.build(inputs_shape)
            self.mlp = MLP(self.hidden_units, activation=self.activation, output_units=width, name="mlp", dtype=policy)
            self.mlp.build((batch, steps * width))
        if self.kind == "mha":
            self.attention = MultiHeadAttention(self.num_heads, rotary=True, name="attention", dtype=policy)
            self.attention.build(inputs_shape)
        self.built = True

    def call(self, inputs, mask=None):
        steps, width = inputs.shape[1:]
        if self.kind == "mlp":
            aligned = inputs if mask is None else self.align(inputs, mask=mask)  # (B, T, D)
            return self.mlp(ops.reshape(aligned, (-1, steps * width)))[:, None, :]  # (B, 1, D)
        x = inputs
        if self.kind == "mha":
            positions = None if mask is None else ops.cumsum(ops.cast(mask, "int32"), axis=1) - 1
            x = self.attention(x, mask=mask, positions=positions)  # (B, T, D)
        pooled = ops.mean(x, axis=1) if mask is None else masked_mean(x, mask)  # (B, D)
        return pooled[:, None, :]

    def compute_mask(self, inputs, previous_mask=None):
        return None  # a summary is always valid

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], 1, inputs_shape[2])

    def get_config(self):
        return {
            **super().get_config(),
            "kind": self.kind,
            "hidden_units": list(self.hidden_units),
            "activation": keras.activations.serialize(self.activation),
            "num_heads": self.num_heads,
        }
