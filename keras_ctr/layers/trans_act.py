"""TransAct: a user's latest actions, each joined with the candidate, through a transformer encoder."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_int
from keras_ctr.layers.behavior_transformer import TransformerBlock
from keras_ctr.layers.masked_attention import LAYER_NORM_EPSILON
from keras_ctr.layers.recent import RecentTokens

FIRST_GAP = 2
"""Id of the bucket of the shortest time gap, see `gap_seconds`."""


def gap_seconds(gaps):
    """Returns the shortest gap in seconds, float32, that has each bucket id: `2^(id - 2) - 1`, the inverse of `2 + floor(log2(s + 1))`."""
    exponent = ops.cast(ops.maximum(gaps, FIRST_GAP), "float32") - float(FIRST_GAP)
    return ops.power(2.0, exponent) - 1.0


@keras.saving.register_keras_serializable(package="keras_ctr")
class TransActEncoder(keras.Layer):
    """Early fusion with the candidate, encoder, the newest outputs and a maximum: pool `(B, D), (B, T, D) -> (B, (K + 1) m)`, m = 2 D.

    ```
    X_0 = [s_1 || e ; .. ; s_T || e]                                (T, m)
    X_l = TransformerBlock(X_{l-1})                                 l = 1 .. L, attention to the valid events
    out = [x_(1) || .. || x_(K) || W max_{t valid} x_t + b]         x_(j) the j-th newest row of X_L, zeros where there are too few
    ```

    In training, with a time window of W > 0 seconds, events younger than u ~ U(0, W) are hidden, u drawn for every row: the newest actions
    then cannot be all that the network looks at. The mask of the events that are left holds for attention, newest outputs and maximum.
    An empty history gives zeros in the K outputs and in the maximum.

    Parameters: `L (4 m^2 + 4 m + 2 m U + U + m + 4 m) + m^2 + m`, U = ffn_units.

    Args:
        num_layers: L.
        num_heads: Heads of the attention; divides m.
        ffn_units: U, hidden width of a block's feed-forward network.
        num_recent: K.
        time_window: W in seconds; 0 = no random mask.
        activation: Of the feed-forward networks' hidden layers.
        dropout: Share of the outputs of attention and feed-forward network dropped in training.
        epsilon: Of the blocks' norms, added to a step's variance.
        seed: Int that makes the random windows of a layer reproducible; None = from the global seed (`keras.utils.set_random_seed`).

    Call arguments:
        target: e `(B, D)`.
        events: s `(B, T, D)`, oldest first.
        mask: `(B, T)` bool, True = valid; None = all valid.
        gaps: int `(B, T)`, buckets of the time from each event to the row, `2 + min(floor(log2(seconds + 1)), 31)`; None = no window.
        return_attention: Whether to return `(out, {"block_0": A, ..})`, A `(B, H, T, T)` float32 of every block.

    Raises:
        ValueError: On an argument out of range, heads that do not divide 2 D, or widths of target and events that differ.

    Source: TransAct (arXiv:2306.00248, section 3.3). Values and the norms after the sums as in the code its authors published.
    Deviations: that code hides by one u a batch, keeps its first step out of every mask and takes the maximum over padding too; here a mask
    is a mask. A gap is known up to its bucket and counted at the bucket's start.
    """

    def __init__(
        self,
        num_layers=2,
        *,
        num_heads=2,
        ffn_units=32,
        num_recent=10,
        time_window=0.0,
        activation="relu",
        dropout=0.0,
        epsilon=LAYER_NORM_EPSILON,
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_int(self, "num_layers", num_layers)
        check_int(self, "num_recent", num_recent)
        if not time_window >= 0:
            raise ValueError(f"TransActEncoder '{self.name}': time_window must be seconds, at least 0, got {time_window!r}")
        self.num_layers = num_layers
        self.num_recent = num_recent
        self.time_window = time_window
        self.seed = seed
        self.supports_masking = True
        self.block_options = {
            "num_heads": num_heads,
            "ffn_units": ffn_units,
            "activation": activation,
            "dropout": dropout,
            "epsilon": epsilon,
        }
        self.blocks = [TransformerBlock(**self.block_options, name=f"block_{i}", dtype=self.dtype_policy) for i in range(num_layers)]
        if time_window:
            self.seed_generator = keras.random.SeedGenerator(seed, name="seed")

    def build(self, target_shape, events_shape):
        width = events_shape[-1]
        if target_shape[-1] != width:
            raise ValueError(f"TransActEncoder '{self.name}': the target is {target_shape[-1]} wide, the events {width}")
        model_dim = 2 * width
        for block in self.blocks:
            block.build((None, None, model_dim))
        self.recent = RecentTokens(self.num_recent, name="recent", dtype=self.dtype_policy)
        self.recent.build((None, None, model_dim))
        self.max_dense = keras.layers.Dense(model_dim, name="max_dense", dtype=self.dtype_policy)
        self.max_dense.build((None, model_dim))
        self.built = True

    def call(self, target, events, mask=None, gaps=None, training=None, *, return_attention=False):
        if mask is None:
            mask = ops.ones_like(events[..., 0], dtype="bool")  # (B, T)
        if training and self.time_window and gaps is not None:
            window = keras.random.uniform((ops.shape(events)[0], 1), maxval=float(self.time_window), seed=self.seed_generator)
            mask = ops.logical_and(mask, gap_seconds(gaps) >= window)  # (B, T)
        candidate = ops.broadcast_to(ops.expand_dims(target, 1), ops.shape(events))  # (B, T, D)
        x = ops.concatenate([events, candidate], axis=-1)  # (B, T, m)
        attention = {}
        for block in self.blocks:
            x = block(x, mask=mask, training=training, return_attention=return_attention)
            x, attention[block.name] = x if return_attention else (x, None)
        newest = self.recent(x, mask=mask)  # (B, K, m), oldest first
        newest = ops.reshape(ops.flip(newest, axis=1), (-1, self.num_recent * x.shape[-1]))  # (B, K m)
        shown = ops.expand_dims(mask, -1)  # (B, T, 1)
        top = ops.max(ops.where(shown, x, ops.cast(-1e9, x.dtype)), axis=1)  # (B, m)
        top = ops.where(ops.any(shown, axis=1), top, ops.zeros_like(top))
        out = ops.concatenate([newest, self.max_dense(top)], axis=-1)
        return (out, attention) if return_attention else out

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def compute_output_shape(self, target_shape, events_shape):
        return (events_shape[0], (self.num_recent + 1) * 2 * events_shape[-1])

    def compute_output_spec(self, target, events, mask=None, gaps=None, training=None, *, return_attention=False):
        out = keras.KerasTensor(self.compute_output_shape(target.shape, events.shape), dtype=self.compute_dtype)
        batch, steps, _ = events.shape
        shape = (batch, self.block_options["num_heads"], steps, steps)
        attention = {block.name: keras.KerasTensor(shape, dtype="float32") for block in self.blocks}
        return (out, attention) if return_attention else out

    def get_config(self):
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "num_recent": self.num_recent,
            "time_window": self.time_window,
            "seed": self.seed,
            **self.block_options,
            "activation": keras.activations.serialize(keras.activations.get(self.block_options["activation"])),
        }
