"""InterFormer's Sequence Arch: the sequence transformed by the field summary, then by self-attention."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_choice, check_epsilon, check_int, check_units
from keras_ctr.layers.attention import MultiHeadAttention
from keras_ctr.layers.dhen import LAYER_NORM_EPSILON
from keras_ctr.layers.personalized_ffn import PersonalizedFFN


@keras.saving.register_keras_serializable(package="keras_ctr")
class SequenceArch(keras.Layer):
    """Context-aware sequence tokens: map `(B, S, D), (B, n, D) -> (B, S, D)`.

    ```
    block_style="paper":        S' = MHA( PFFN(X_sum, S) )
    block_style="transformer":  Y = S + PFFN(X_sum, LN(S));   S' = Y + MHA(LN(Y))
    ```

    Every token attends to all valid tokens. Rotary positions count the valid tokens (0 for the first valid one), so neither the side nor
    the amount of padding moves them. Padded rows of S' are zeros.
    Parameters: PFFN + `4 (D^2 + D)`, and 4D more with `"transformer"`.

    Args:
        num_heads: Heads of the attention; D / num_heads must be even with `rotary`.
        block_style: `"transformer"` or `"paper"`.
        pffn: `"mlp"` or `"linear"`, the kind of `PersonalizedFFN`; `"static"` for one learned `D -> D` map that needs no summary.
        pffn_units: Hidden widths of the `"mlp"` kind; None = `(D,)`.
        use_attention: Whether there is attention at all (the paper's "-MHA" ablation without).
        rotary: Whether attention knows positions.
        dropout: Share of elements of each branch dropped in training, before it is added (`"transformer"`) or passed on (`"paper"`).
        epsilon: Of the norms of `"transformer"`, added to a token's variance.

    Call arguments:
        sequence: S `(B, S, D)`, CLS tokens first.
        summary: X_sum `(B, n, D)`; None with `pffn="static"`.
        mask: `(B, S)` bool, True = valid; None = all valid.
        return_attention: Whether to return `(S', A)`, A `(B, H, S, S)`.

    Raises:
        ValueError: On an unknown style or kind, or if the summary is missing.

    Source: InterFormer (Eq. 9). Deviations: Eq. 9 has neither residual nor normalisation, which stacks badly; the default is the pre-norm
    residual block. In the `"paper"` style the PFFN of kind `"mlp"` starts near the identity (an initial value, not a change of equation).
    """

    BLOCK_STYLES = ("transformer", "paper")
    PFFN = (*PersonalizedFFN.KINDS, "static")

    def __init__(
        self,
        num_heads=1,
        *,
        block_style="transformer",
        pffn="mlp",
        pffn_units=None,
        use_attention=True,
        rotary=True,
        dropout=0.0,
        epsilon=LAYER_NORM_EPSILON,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_int(self, "num_heads", num_heads)
        check_choice(self, "block_style", block_style, self.BLOCK_STYLES)
        check_choice(self, "pffn", pffn, self.PFFN)
        check_epsilon(self, epsilon)
        self.num_heads = num_heads
        self.block_style = block_style
        self.pffn = pffn
        self.pffn_units = None if pffn_units is None else check_units(self, "pffn_units", pffn_units)
        self.use_attention = use_attention
        self.rotary = rotary
        self.dropout = dropout
        self.epsilon = epsilon
        self.supports_masking = True

    def build(self, sequence_shape, summary_shape=None):
        policy, width = self.dtype_policy, sequence_shape[-1]
        if self.pffn == "static":
            self.ffn = keras.layers.Dense(width, name="ffn", dtype=policy)
            self.ffn.build(sequence_shape)
        elif summary_shape is None:
            raise ValueError(f"SequenceArch '{self.name}': pffn={self.pffn!r} needs a summary; pass one or use pffn='static'")
        else:
            start = "identity" if self.block_style == "paper" else "zeros"
            units = self.pffn_units if self.pffn == "mlp" else None
            self.ffn = PersonalizedFFN(kind=self.pffn, hidden_units=units, start=start, name="pffn", dtype=policy)
            self.ffn.build(sequence_shape, summary_shape)
        if self.use_attention:
            self.attention = MultiHeadAttention(self.num_heads, rotary=self.rotary, name="attention", dtype=policy)
            self.attention.build(sequence_shape)
        if self.block_style == "transformer":
            self.norms = []
            for name in ("ffn_norm", "attention_norm")[: 1 + self.use_attention]:
                norm = keras.layers.LayerNormalization(epsilon=self.epsilon, name=name, dtype=policy)
                norm.build(sequence_shape)
                self.norms.append(norm)
        self.drop = keras.layers.Dropout(self.dropout, name="dropout", dtype=policy)
        self.drop.build(sequence_shape)
        self.built = True

    def call(self, sequence, summary=None, *, mask=None, return_attention=False, training=None):
        residual = self.block_style == "transformer"
        x = self.norms[0](sequence) if residual else sequence  # (B, S, D)
        x = self.ffn(x) if self.pffn == "static" else self.ffn(x, summary)
        x = self.drop(x, training=training)
        x = sequence + x if residual else x  # (B, S, D)
        weights = None
        if self.use_attention:
            positions = None if mask is None else ops.cumsum(ops.cast(mask, "int32"), axis=1) - 1  # (B, S)
            y = self.norms[1](x) if residual else x
            y = self.attention(y, mask=mask, positions=positions, return_attention=return_attention)  # (B, S, D)
            y, weights = y if return_attention else (y, None)
            y = self.drop(y, training=training)
            x = x + y if residual else y
        x = x if mask is None else x * ops.cast(mask, x.dtype)[:, :, None]
        return (x, weights) if return_attention else x

    def compute_mask(self, inputs, previous_mask=None):
        return None  # the caller has the mask

    def compute_output_shape(self, sequence_shape, summary_shape=None):
        return tuple(sequence_shape)

    def compute_output_spec(self, sequence, summary=None, *, mask=None, return_attention=False, training=None):
        out = keras.KerasTensor(tuple(sequence.shape), dtype=self.compute_dtype)
        batch, steps, _ = sequence.shape
        attention = keras.KerasTensor((batch, self.num_heads, steps, steps), dtype="float32")
        return (out, attention) if return_attention else out

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "block_style": self.block_style,
            "pffn": self.pffn,
            "pffn_units": None if self.pffn_units is None else list(self.pffn_units),
            "use_attention": self.use_attention,
            "rotary": self.rotary,
            "dropout": self.dropout,
            "epsilon": self.epsilon,
        }
