"""TBSM: the same tower for every event and the candidate, and layers that sum a history of its outputs up."""

import keras
import numpy as np
from keras import ops

from keras_ctr.layers.arguments import check_choice, check_int, check_units
from keras_ctr.layers.attention import MultiHeadAttention
from keras_ctr.layers.behavior_transformer import TransformerBlock
from keras_ctr.layers.cloning import clone_layer
from keras_ctr.layers.mlp import MLP
from keras_ctr.layers.recent import RecentTokens


@keras.saving.register_keras_serializable(package="keras_ctr")
class EventTower(keras.Layer):
    """One tower for every event and for the row itself: map `(B, F, D), (B, T, M D) -> (B, T + 1, n)`.

    ```
    tokens_t   = the row's fields, those of `replaced` left out ; the M attributes of event t ; the numerics' tokens
    z_t        = MLP([y || vec(I(tokens_t))])                y = vec of the numerics' tokens, I = the interaction layers
    ```

    for t = 1 .. T, and z_{T+1} with the target's attributes for the event's. Without events it is the tower of the row, `(B, 1, n)`. An
    event has its own attributes; the log has the other fields and the numbers once a row, so each event sees the row's.

    Parameters: those of I and of the MLP, whatever T is.

    Args:
        interactions: Layer prototypes applied one after the other to tokens `(B, F', D)`; the last output is flattened.
        hidden_units: Widths of the MLP; n is the last. Each layer, the last one too, is activated, as in DLRM's code.
        activation: Of the MLP.
        dropout: Share of the MLP's units dropped in training.
        replaced: For each of the M attributes the field (index on axis 1) that it stands for, or None for one that rows do not have.

    Call arguments:
        fields: `(B, F, D)`.
        numeric: `(B, N', D)`, the numerics' tokens, or None.
        events: `(B, T, M D)`, or None.
        target: `(B, M D)`, the row's own attributes; None without events.

    Raises:
        ValueError: Without an interaction or a width, or if `replaced` does not fit the attributes.

    Source: TBSM (arXiv:2010.01639), Ad-Rec (arXiv:2308.14902, section 4): a DLRM or Ad-Rec tower over time.
    """

    def __init__(self, interactions, *, hidden_units=(15, 15), activation="relu", dropout=0.0, replaced=(), **kwargs):
        super().__init__(**kwargs)
        if not interactions:
            raise ValueError(f"EventTower '{self.name}': give at least one interaction layer")
        # Prototypes themselves must not become sub-layers: only their copies are built and saved.
        self.parts = [clone_layer(layer, name=f"interaction_{i}", dtype=self.dtype_policy) for i, layer in enumerate(interactions)]
        self.hidden_units = check_units(self, "hidden_units", hidden_units)
        if not self.hidden_units:
            raise ValueError(f"EventTower '{self.name}': hidden_units needs at least one width")
        self.activation = keras.activations.get(activation)
        self.dropout = dropout
        self.replaced = list(replaced)

    def build(self, fields_shape, numeric_shape=None, events_shape=None, target_shape=None):
        fields, width = fields_shape[1:]
        taken = {index for index in self.replaced if index is not None}
        attributes = len(self.replaced)
        if events_shape is None:
            taken, attributes = set(), 0
        elif events_shape[-1] != attributes * width or any(not 0 <= index < fields for index in taken):
            raise ValueError(
                f"EventTower '{self.name}': replaced={self.replaced} does not fit events {events_shape[-1]} wide and {fields} fields "
                f"{width} wide; give one field or None for each attribute"
            )
        self.kept = np.array([index for index in range(fields) if index not in taken], "int32")
        numbers = 0 if numeric_shape is None else numeric_shape[1]
        self.tokens = len(self.kept) + attributes + numbers
        shape = (None, self.tokens, width)
        for part in self.parts:
            part.build(shape)
            shape = tuple(part.compute_output_shape(shape))
        self.flat = int(np.prod(shape[1:]))
        self.mlp = MLP(self.hidden_units, activation=self.activation, dropout=self.dropout, name="mlp", dtype=self.dtype_policy)
        self.mlp.build((None, self.flat + numbers * width))
        self.built = True

    def call(self, fields, numeric=None, events=None, target=None, training=None):
        width = fields.shape[-1]
        if events is None:
            steps, varying = 1, []
        else:
            own = ops.concatenate([events, ops.expand_dims(target, 1)], axis=1)  # (B, T + 1, M D)
            steps = own.shape[1] or ops.shape(own)[1]
            varying = [ops.reshape(own, (-1, steps, len(self.replaced), width))]  # (B, T + 1, M, D)
            fields = ops.take(fields, self.kept, axis=1)  # (B, F - R, D)

        def spread(x):
            return ops.repeat(ops.expand_dims(x, 1), steps, axis=1)  # (B, T + 1, ..)

        numbers = [] if numeric is None else [numeric]
        x = ops.concatenate([spread(fields), *varying, *map(spread, numbers)], axis=2)  # (B, T + 1, F', D)
        x = ops.reshape(x, (-1, self.tokens, width))  # (B (T + 1), F', D)
        for part in self.parts:
            x = part(x, training=training) if part._call_has_training_arg else part(x)
        x = ops.reshape(x, (-1, steps, self.flat))
        for y in numbers:
            x = ops.concatenate([spread(ops.reshape(y, (-1, y.shape[1] * width))), x], axis=-1)
        return self.mlp(x, training=training)  # (B, T + 1, n)

    def compute_output_shape(self, fields_shape, numeric_shape=None, events_shape=None, target_shape=None):
        steps = 1 if events_shape is None else None if events_shape[1] is None else events_shape[1] + 1
        return (fields_shape[0], steps, self.hidden_units[-1])

    def get_config(self):
        return {
            **super().get_config(),
            "interactions": [keras.saving.serialize_keras_object(part) for part in self.parts],
            "hidden_units": list(self.hidden_units),
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "replaced": self.replaced,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "interactions": [keras.saving.deserialize_keras_object(part) for part in config["interactions"]]})


@keras.saving.register_keras_serializable(package="keras_ctr")
class TimeSeriesLayer(keras.Layer):
    """Context of a history by products with the latest event (TSL): pool `(B, T, n), (B, n) -> (B, n)`.

    With h_t and w divided by their norms:

    ```
    x = A^T A w  (inner="def"),  A w  ("ind"),  w  ("dot")          A (n, n)
    a_t = <h_t, x>
    mechanism="mlp":  y = sigmoid(MLP(a_(1) .. a_(W)))              over the newest W valid steps, 0 where there are too few
                      c = sum_t y_t h_t                             over these steps
    mechanism="mul":  c = sum_t a_t h_t                             over all valid steps
    ```

    An empty history gives zeros. Parameters: `n^2` unless `"dot"`; with `"mlp"` those of the MLP `W -> hidden_units -> W`.

    Args:
        inner: `"def"` (x makes a semi-definite form), `"ind"` (any matrix) or `"dot"`.
        mechanism: `"mlp"` or `"mul"`.
        window: W.
        hidden_units: Hidden widths of the MLP; ReLU.
        normalize: Whether to divide by the norms.

    Call arguments:
        history: h `(B, T, n)`, oldest first.
        last: w `(B, n)`.
        mask: `(B, T)` bool, True = valid; None = all valid.

    Raises:
        ValueError: On an argument out of range, or widths that differ.

    Source: TBSM (arXiv:2010.01639, section 3), Ad-Rec (arXiv:2308.14902); A starts at N(0, 1 / n).
    Deviations: the MLP's width is the length of a history there; here it is W, so that neither padding nor `max_length` matter.
    """

    INNER = ("def", "ind", "dot")
    MECHANISMS = ("mlp", "mul")

    def __init__(self, *, inner="def", mechanism="mlp", window=20, hidden_units=(15, 15), normalize=True, **kwargs):
        super().__init__(**kwargs)
        check_choice(self, "inner", inner, self.INNER)
        check_choice(self, "mechanism", mechanism, self.MECHANISMS)
        check_int(self, "window", window)
        self.inner = inner
        self.mechanism = mechanism
        self.window = window
        self.hidden_units = check_units(self, "hidden_units", hidden_units)
        self.normalize = normalize
        self.supports_masking = True

    def build(self, history_shape, last_shape):
        width = _check_widths(self, history_shape, last_shape)
        if self.inner != "dot":
            initializer = keras.initializers.RandomNormal(stddev=width**-0.5)
            self.kernel = self.add_weight(name="kernel", shape=(width, width), initializer=initializer)
        if self.mechanism == "mlp":
            self.recent = RecentTokens(self.window, name="recent", dtype=self.dtype_policy)
            self.recent.build((None, None, width))
            self.mlp = MLP(self.hidden_units, output_units=self.window, name="mlp", dtype=self.dtype_policy)
            self.mlp.build((None, self.window))
        self.built = True

    def call(self, history, last, mask=None):
        if self.mechanism == "mlp":
            history = self.recent(history, mask=mask)  # (B, W, n)
        elif mask is not None:
            history = ops.where(ops.expand_dims(mask, -1), history, ops.zeros_like(history))  # (B, T, n)
        if self.normalize:
            history, last = _unit(history), _unit(last)
        x = last  # (B, n)
        if self.inner != "dot":
            kernel = ops.convert_to_tensor(self.kernel)
            x = ops.matmul(x, ops.transpose(kernel))  # rows are vectors: A w
            x = ops.matmul(x, kernel) if self.inner == "def" else x
        weights = ops.squeeze(ops.matmul(history, ops.expand_dims(x, -1)), -1)  # (B, W) or (B, T)
        if self.mechanism == "mlp":
            weights = ops.sigmoid(self.mlp(weights))
        return ops.squeeze(ops.matmul(ops.expand_dims(weights, 1), history), 1)  # (B, n)

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def compute_output_shape(self, history_shape, last_shape):
        return tuple(last_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "inner": self.inner,
            "mechanism": self.mechanism,
            "window": self.window,
            "hidden_units": list(self.hidden_units),
            "normalize": self.normalize,
        }


@keras.saving.register_keras_serializable(package="keras_ctr")
class SequenceContext(keras.Layer):
    """Context of a history for the latest event by a standard layer: pool `(B, T, n), (B, n) -> (B, c)`.

    ```
    "mha"           MHA(w, H), one query, H heads of width n                    c = H n, H = num_heads
    "lstm"          last hidden state of num_layers stacked LSTMs over h        c = n
    "transformer"   encoder over [w ; h_1 ; .. ; h_T], its output at w          c = n
    ```

    The state of an LSTM passes hidden steps unchanged, wherever they are. An empty history gives zeros (`"transformer"`: what w alone
    gives). Parameters: `"mha"` `3 (n H n + H n) + (H n)^2 + H n`; `"lstm"` `4 (2 n^2 + n)` a layer; `"transformer"` those of
    `TransformerBlock` a layer.

    Args:
        kind: One of the above.
        num_heads: Heads of `"mha"` and `"transformer"` (there they divide n); None = 8 and 2.
        num_layers: Layers of `"lstm"` and `"transformer"`; None = 5 and 1.
        ffn_units: Hidden width of the feed-forward networks of `"transformer"`.
        dropout: Of the blocks of `"transformer"`.

    Call arguments:
        history: h `(B, T, n)`, oldest first.
        last: w `(B, n)`.
        mask: `(B, T)` bool, True = valid; None = all valid.

    Raises:
        ValueError: On an argument out of range, or widths that differ.

    Source: Ad-Rec (arXiv:2308.14902, RM5 to RM7).
    Deviations: all weights are trained. The public code believed to be the authors' makes the attention and the LSTM anew at each step, so
    that they are random in training and evaluation alike.
    """

    KINDS = ("mha", "lstm", "transformer")

    def __init__(self, kind="mha", *, num_heads=None, num_layers=None, ffn_units=512, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        check_choice(self, "kind", kind, self.KINDS)
        for argument, value in (("num_heads", num_heads), ("num_layers", num_layers)):
            if value is not None:
                check_int(self, argument, value)
        check_int(self, "ffn_units", ffn_units)
        self.kind = kind
        self.num_heads = num_heads or (2 if kind == "transformer" else 8)
        self.num_layers = num_layers or (5 if kind == "lstm" else 1)
        self.ffn_units = ffn_units
        self.dropout = dropout
        self.supports_masking = True

    def build(self, history_shape, last_shape):
        width = _check_widths(self, history_shape, last_shape)
        policy, count = self.dtype_policy, self.num_layers
        if self.kind == "mha":
            inner = self.num_heads * width
            self.attention = MultiHeadAttention(self.num_heads, key_dim=width, output_dim=inner, name="attention", dtype=policy)
            self.attention.build((None, 1, width), history_shape)
            self.stack = []
        elif self.kind == "lstm":
            # cuDNN's LSTM knows padding at the end only.
            self.stack = [
                keras.layers.LSTM(width, return_sequences=i < count - 1, use_cudnn=False, name=f"lstm_{i}", dtype=policy)
                for i in range(count)
            ]
        else:
            self.stack = [
                TransformerBlock(self.num_heads, ffn_units=self.ffn_units, dropout=self.dropout, name=f"block_{i}", dtype=policy)
                for i in range(count)
            ]
        for layer in self.stack:
            layer.build(tuple(history_shape))
        self.built = True

    def call(self, history, last, mask=None, training=None):
        if mask is None:
            mask = ops.ones_like(history[..., 0], dtype="bool")  # (B, T)
        if self.kind == "mha":
            return ops.squeeze(self.attention(ops.expand_dims(last, 1), history, mask=mask), 1)  # (B, H n)
        x = history
        if self.kind == "transformer":
            x = ops.concatenate([ops.expand_dims(last, 1), history], axis=1)  # (B, T + 1, n)
            mask = ops.concatenate([ops.ones_like(mask[:, :1]), mask], axis=1)
        for layer in self.stack:
            x = layer(x, mask=mask, training=training)
        return x[:, 0] if self.kind == "transformer" else x  # (B, n)

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def compute_output_shape(self, history_shape, last_shape):
        return (last_shape[0], last_shape[1] * (self.num_heads if self.kind == "mha" else 1))

    def get_config(self):
        return {
            **super().get_config(),
            "kind": self.kind,
            "num_heads": self.num_heads,
            "num_layers": self.num_layers,
            "ffn_units": self.ffn_units,
            "dropout": self.dropout,
        }


def _check_widths(layer, history_shape, last_shape):
    if history_shape[-1] != last_shape[-1]:
        raise ValueError(f"{type(layer).__name__} '{layer.name}': the history is {history_shape[-1]} wide, the last event {last_shape[-1]}")
    return history_shape[-1]


def _unit(x):
    """Returns the vectors divided by their norms, zeros for zeros, with a finite gradient there."""
    square = ops.sum(ops.square(ops.cast(x, "float32")), axis=-1, keepdims=True)
    return x * ops.cast(ops.rsqrt(ops.maximum(square, 1e-12)), x.dtype)
