"""BST: a transformer over a user's events and the candidate."""

import keras
import numpy as np
from keras import ops

from keras_ctr.layers.arguments import check_choice, check_epsilon, check_int
from keras_ctr.layers.attention import MultiHeadAttention
from keras_ctr.layers.masked_attention import LAYER_NORM_EPSILON
from keras_ctr.layers.mlp import MLP
from keras_ctr.layers.recent import RecentTokens


def steps_back(mask):
    """Returns how many valid steps lie at or after each step, int32 `(B, T)`: 1 at the newest valid one, 0 at hidden ones."""
    valid = ops.cast(mask, "int32")
    return ops.flip(ops.cumsum(ops.flip(valid, axis=1), axis=1), axis=1) * valid


def sinusoids(positions, width):
    """Returns the table of sinusoids `(positions, width)`, float32: columns 2i and 2i + 1 are sin and cos of p / 10000^(2i / width)."""
    angle = np.arange(positions)[:, None] / 10000.0 ** (2 * (np.arange(width) // 2) / width)[None, :]
    return np.where(np.arange(width) % 2 == 0, np.sin(angle), np.cos(angle)).astype("float32")


@keras.saving.register_keras_serializable(package="keras_ctr")
class TransformerBlock(keras.Layer):
    """Encoder layer with norms after the sums and a mask: map `(B, T, D) -> (B, T, D)`.

    ```
    Z = LN(X + dropout(MHA(X)))        attention to the valid steps only
    Y = LN(Z + dropout(FFN(Z)))        FFN(z) = f(z W_1 + b_1) W_2 + b_2
    ```

    Parameters, U = ffn_units: `4 (D^2 + D) + 2 D U + U + D + 4 D`; the last `4 D` are the norms'.

    Args:
        num_heads: Heads of the attention; divides D.
        ffn_units: U; None = D.
        layer_norm: Whether to normalise (LN is the identity otherwise).
        residual: Whether to add X and Z.
        activation: f.
        dropout: Share of the outputs of either part dropped in training.
        epsilon: Of the norms, added to a step's variance.

    Call arguments:
        inputs: `(B, T, D)`.
        mask: `(B, T)` bool, True = valid; None = all valid. Outputs at hidden steps are finite and mean nothing.
        query: `(B, Q, D)`, the steps to compute instead of all; keys and values are those of `inputs`.
        return_attention: Whether to return `(Y, A)`, A `(B, H, T, T)` float32, rows summing to 1.

    Raises:
        ValueError: On an argument out of range, or heads that do not divide D.

    Source: Vaswani et al. (arXiv:1706.03762, section 3), as BST (arXiv:1905.06874) and TransAct (arXiv:2306.00248) use it.
    """

    def __init__(
        self,
        num_heads=8,
        *,
        ffn_units=None,
        layer_norm=True,
        residual=True,
        activation="relu",
        dropout=0.0,
        epsilon=LAYER_NORM_EPSILON,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_epsilon(self, epsilon)
        check_int(self, "num_heads", num_heads)
        if ffn_units is not None:
            check_int(self, "ffn_units", ffn_units)
        if not 0 <= dropout < 1:
            raise ValueError(f"{type(self).__name__} '{self.name}': dropout must be in [0, 1), got {dropout!r}")
        self.num_heads = num_heads
        self.ffn_units = ffn_units
        self.layer_norm = layer_norm
        self.residual = residual
        self.activation = keras.activations.get(activation)
        self.dropout = dropout
        self.epsilon = epsilon
        self.supports_masking = True
        self.dropouts = [keras.layers.Dropout(dropout, name=f"dropout_{i}", dtype=self.dtype_policy) for i in range(2 if dropout else 0)]

    def build(self, inputs_shape):
        width = inputs_shape[-1]
        self.attention = MultiHeadAttention(self.num_heads, name="attention", dtype=self.dtype_policy)
        units = (self.ffn_units or width,)
        self.ffn = MLP(units, activation=self.activation, output_units=width, name="ffn", dtype=self.dtype_policy)
        self.norms = []
        if self.layer_norm:
            self.norms = [
                keras.layers.LayerNormalization(epsilon=self.epsilon, name=name, dtype=self.dtype_policy)
                for name in ("attention_norm", "ffn_norm")
            ]
        for part in (self.attention, self.ffn, *self.norms, *self.dropouts):
            part.build(inputs_shape)
        self.built = True

    def call(self, inputs, mask=None, training=None, *, query=None, return_attention=False):
        asked = inputs if query is None else query
        attended = self.attention(asked, None if query is None else inputs, mask=mask, return_attention=return_attention)  # (B, Q, D)
        attended, weights = attended if return_attention else (attended, None)
        x = self._joined(0, asked, attended, training)  # (B, Q, D)
        x = self._joined(1, x, self.ffn(x), training)
        return (x, weights) if return_attention else x

    def _joined(self, index, x, change, training):
        if self.dropouts:
            change = self.dropouts[index](change, training=training)
        x = x + change if self.residual else change
        return self.norms[index](x) if self.norms else x

    def compute_mask(self, inputs, previous_mask=None):
        return None  # the caller has the mask

    def compute_output_shape(self, inputs_shape):
        return tuple(inputs_shape)

    def compute_output_spec(self, inputs, mask=None, training=None, *, query=None, return_attention=False):
        if query is not None:
            return self.attention.compute_output_spec(query, inputs, return_attention=return_attention)
        return self.attention.compute_output_spec(inputs, return_attention=return_attention)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "ffn_units": self.ffn_units,
            "layer_norm": self.layer_norm,
            "residual": self.residual,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "epsilon": self.epsilon,
        }


@keras.saving.register_keras_serializable(package="keras_ctr")
class BehaviorTransformer(keras.Layer):
    """Transformer over the events and the candidate, pooled: pool `(B, D), (B, T, D) -> (B, m)`.

    ```
    X_0 = [s_1 || P_{age 1} ; .. ; s_T || P_{age T} ; e || P_0]        m = D + position_dim wide
    X_l = TransformerBlock(X_{l-1})                                    l = 1 .. L, attention to valid events and the candidate
    ```

    The age of an event is the number of valid events from it to the newest one, itself included: the newest is 1, the candidate 0. Ages
    beyond the table read its last row.

    ```
    target            the candidate's row of X_L                                       (B, m)
    mean, sum         over the candidate and the valid events                          (B, m)
    flatten_newest    the newest K valid events, oldest first, then the candidate      (B, (K + 1) m), zeros where there are too few
    ```

    Parameters: `num_positions position_dim` and, a block, those of `TransformerBlock` at width m.

    Args:
        num_layers: L.
        num_heads: Heads of the attention; divides m.
        positions: P: `"learned"`, a table that starts as small noise; `"sinusoid"`, a learned table that starts as sinusoids; None for no
            positions (m = D).
        num_positions: Rows of P, the candidate's included.
        position_dim: Width of P.
        pooling: One of the above.
        num_recent: K of `"flatten_newest"`.
        ffn_units: Hidden width of a block's feed-forward network; None = m.
        layer_norm: Whether blocks normalise after each sum.
        residual: Whether blocks add their input.
        activation: Of the feed-forward networks' hidden layers.
        dropout: Share of the outputs of attention and feed-forward network dropped in training.
        epsilon: Of the blocks' norms, added to a step's variance.

    Call arguments:
        target: e `(B, D)`.
        events: s `(B, T, D)`, oldest first.
        mask: `(B, T)` bool, True = valid; None = all valid.
        return_attention: Whether to return `(y, {"block_0": A, ..})`, A `(B, H, T + 1, T + 1)` float32 of every block, the candidate last.

    Raises:
        ValueError: On an argument out of range, heads that do not divide m, or widths of target and events that differ.

    Source: BST (arXiv:1905.06874, section 2.2).
    Deviations: the paper joins to each event the learned embedding of its time gap to the candidate; here that is one more attribute of
    the event, which the embedding layer joins (`positions=None` then leaves the paper's form). The paper's network reads the outputs of all
    steps, whose number is that of the data: `"flatten_newest"` is this for the newest K.
    """

    POOLINGS = ("mean", "sum", "target", "flatten_newest")
    POSITIONS = ("learned", "sinusoid", None)

    def __init__(
        self,
        num_layers=1,
        *,
        num_heads=8,
        positions="learned",
        num_positions=101,
        position_dim=16,
        pooling="target",
        num_recent=20,
        ffn_units=None,
        layer_norm=True,
        residual=True,
        activation="leaky_relu",
        dropout=0.0,
        epsilon=LAYER_NORM_EPSILON,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_int(self, "num_layers", num_layers)
        check_int(self, "num_positions", num_positions)
        check_int(self, "position_dim", position_dim)
        check_int(self, "num_recent", num_recent)
        check_choice(self, "pooling", pooling, self.POOLINGS)
        if positions is not None:
            check_choice(self, "positions", positions, self.POSITIONS[:2])
        self.num_layers = num_layers
        self.positions = positions
        self.num_positions = num_positions
        self.position_dim = position_dim
        self.pooling = pooling
        self.num_recent = num_recent
        self.supports_masking = True
        self.block_options = {
            "num_heads": num_heads,
            "ffn_units": ffn_units,
            "layer_norm": layer_norm,
            "residual": residual,
            "activation": activation,
            "dropout": dropout,
            "epsilon": epsilon,
        }
        self.blocks = [TransformerBlock(**self.block_options, name=f"block_{i}", dtype=self.dtype_policy) for i in range(num_layers)]

    def build(self, target_shape, events_shape):
        width = events_shape[-1]
        if target_shape[-1] != width:
            raise ValueError(f"BehaviorTransformer '{self.name}': the target is {target_shape[-1]} wide, the events {width}")
        self.model_dim = width + (self.position_dim if self.positions else 0)
        if self.positions:
            initializer = keras.initializers.RandomNormal(stddev=0.01)
            if self.positions == "sinusoid":

                def initializer(shape, dtype=None):
                    return ops.convert_to_tensor(sinusoids(*shape), dtype=dtype)

            shape = (self.num_positions, self.position_dim)
            self.position_table = self.add_weight(name="positions", shape=shape, initializer=initializer)
        for block in self.blocks:
            block.build((None, None, self.model_dim))
        self.recent = RecentTokens(self.num_recent, name="recent", dtype=self.dtype_policy)
        self.recent.build((None, None, self.model_dim))
        self.built = True

    def call(self, target, events, mask=None, training=None, *, return_attention=False):
        if mask is None:
            mask = ops.ones_like(events[..., 0], dtype="bool")  # (B, T)
        x = ops.concatenate([events, ops.expand_dims(target, 1)], axis=1)  # (B, T + 1, D)
        shown = ops.concatenate([mask, ops.ones_like(mask[:, :1])], axis=1)  # (B, T + 1)
        if self.positions:
            age = ops.pad(ops.minimum(steps_back(mask), self.num_positions - 1), ((0, 0), (0, 1)))  # (B, T + 1)
            x = ops.concatenate([x, ops.cast(ops.take(self.position_table, age, axis=0), x.dtype)], axis=-1)  # (B, T + 1, m)
        attention = {}
        for index, block in enumerate(self.blocks):
            query = None
            if index == len(self.blocks) - 1 and not return_attention:
                query = self._read(x, mask)  # of the last block, only what is read is computed
            x = block(x, mask=shown, training=training, query=query, return_attention=return_attention)
            x, attention[block.name] = x if return_attention else (x, None)
        if return_attention:
            x = self._read(x, mask)
        pooled = self._pooled(x, mask, shown)
        return (pooled, attention) if return_attention else pooled

    def _read(self, x, mask):
        """Returns the steps of `x (B, T + 1, m)` that the pooling reads, `(B, 1, m)` or `(B, K + 1, m)`, or x where it reads all."""
        if self.pooling == "target":
            return x[:, -1:]
        if self.pooling == "flatten_newest":
            return ops.concatenate([self.recent(x[:, :-1], mask=mask), x[:, -1:]], axis=1)
        return x

    def _pooled(self, x, mask, shown):
        if self.pooling == "target":
            return x[:, -1]  # (B, m)
        if self.pooling == "flatten_newest":
            count = ops.sum(ops.cast(mask, "int32"), axis=1, keepdims=True)  # (B, 1)
            there = count >= ops.arange(self.num_recent, -1, -1, dtype="int32")[None]  # (B, K + 1)
            x = ops.where(ops.expand_dims(there, -1), x, ops.zeros_like(x))
            return ops.reshape(x, (-1, (self.num_recent + 1) * self.model_dim))  # (B, (K + 1) m)
        weights = ops.cast(shown, x.dtype)  # (B, T + 1)
        if self.pooling == "mean":
            weights = weights / ops.sum(weights, axis=1, keepdims=True)  # at least the candidate is there
        return ops.sum(x * ops.expand_dims(weights, -1), axis=1)  # (B, m)

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def compute_output_shape(self, target_shape, events_shape):
        width = events_shape[-1] + (self.position_dim if self.positions else 0)
        return (events_shape[0], width * (self.num_recent + 1 if self.pooling == "flatten_newest" else 1))

    def compute_output_spec(self, target, events, mask=None, training=None, *, return_attention=False):
        pooled = keras.KerasTensor(self.compute_output_shape(target.shape, events.shape), dtype=self.compute_dtype)
        steps = None if events.shape[1] is None else events.shape[1] + 1
        shape = (events.shape[0], self.block_options["num_heads"], steps, steps)
        attention = {block.name: keras.KerasTensor(shape, dtype="float32") for block in self.blocks}
        return (pooled, attention) if return_attention else pooled

    def get_config(self):
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "positions": self.positions,
            "num_positions": self.num_positions,
            "position_dim": self.position_dim,
            "pooling": self.pooling,
            "num_recent": self.num_recent,
            **self.block_options,
            "activation": keras.activations.serialize(keras.activations.get(self.block_options["activation"])),
        }
