"""Tokens of events, and the few hub tokens that stand for a group of tokens (INFNet)."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_choice, check_int, check_units
from keras_ctr.layers.mlp import MLP
from keras_ctr.layers.pooling import masked_mean
from keras_ctr.layers.positional_attention import event_ages

TOKEN_STDDEV = 0.02
"""Of the normal distribution that learned tokens and positions start from."""


@keras.saving.register_keras_serializable(package="keras_ctr")
class BehaviorTokens(keras.Layer):
    """Events as tokens of one width, with their place and time: map `(B, T, M*D) -> (B, T, D')`.

    `s_t = x_t W + b + p[a_t] + r_t`, x_t the attributes of event t side by side, a_t its age, r_t its attribute number `interval`, which
    W then leaves out. Ages count valid events from the newest, whose age is 0: neither the side nor the amount of padding moves them.
    Parameters: `M D D' + D'`, `max_positions D'` more with positions, `D D'` less with an interval (then D = D').

    Args:
        units: D'.
        use_positions: Whether to add p.
        max_positions: Rows of p; older events share the last one.
        interval: Which of the M attributes is the embedded time interval, D' wide, which is added as it is; None = none.

    Call arguments:
        inputs: `(B, T, M*D)`.
        mask: `(B, T)` bool, True = valid; None = all valid. What stands at padded steps is finite and means nothing.

    Raises:
        ValueError: On a non-positive size, or an `interval` that is no attribute of the events or the only one.

    Source: INFNet (arXiv:2508.11565, the sequence tokens of version 2).
    Deviations: the paper's events are one embedding wide and enter as they are; W makes tokens of events with several attributes. The
    interval is the time between event and row.
    """

    def __init__(self, units, *, use_positions=True, max_positions=200, interval=None, **kwargs):
        super().__init__(**kwargs)
        check_int(self, "units", units)
        check_int(self, "max_positions", max_positions)
        if interval is not None:
            check_int(self, "interval", interval, 0)
        self.units = units
        self.use_positions = use_positions
        self.max_positions = max_positions
        self.interval = interval
        self.supports_masking = True

    def build(self, inputs_shape):
        width = inputs_shape[-1]
        if self.interval is not None:
            attributes = width // self.units
            if width % self.units or attributes < 2 or self.interval >= attributes:
                raise ValueError(
                    f"BehaviorTokens '{self.name}': interval={self.interval} needs events of more than {max(self.interval, 1)} attributes, "
                    f"each {self.units} wide; they are {width} wide"
                )
            width -= self.units
        self.project = keras.layers.Dense(self.units, name="project", dtype=self.dtype_policy)
        self.project.build((*tuple(inputs_shape)[:-1], width))
        if self.use_positions:
            initializer = keras.initializers.RandomNormal(stddev=TOKEN_STDDEV)
            self.positions = self.add_weight(name="positions", shape=(self.max_positions, self.units), initializer=initializer)
        self.built = True

    def call(self, inputs, mask=None):
        interval = None
        if self.interval is not None:
            parts = ops.split(inputs, inputs.shape[-1] // self.units, axis=-1)  # (B, T, D) each
            interval = parts.pop(self.interval)
            inputs = parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)
        x = self.project(inputs)  # (B, T, D')
        if interval is not None:
            x = x + interval
        if self.use_positions:
            mask = ops.ones_like(inputs[..., 0], dtype="bool") if mask is None else mask
            x = x + ops.take(self.positions, ops.minimum(event_ages(mask), self.max_positions - 1), axis=0)
        return x

    def compute_mask(self, inputs, previous_mask=None):
        return None  # the caller has the mask

    def compute_output_shape(self, inputs_shape):
        return (*tuple(inputs_shape)[:-1], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "use_positions": self.use_positions,
            "max_positions": self.max_positions,
            "interval": self.interval,
        }


@keras.saving.register_keras_serializable(package="keras_ctr")
class HubTokens(keras.Layer):
    """A few hub tokens that stand for a group of tokens: map `(B, N, D) -> (B, n, D)`.

    ```
    initialization="mlp"      H = reshape_{n x D}( MLP(vec(X)) )                     pooling=None: a group of N fields
                              H = reshape_{n x D}( sum_t MLP(x_t) ) [/ N_valid]      pooling="sum" ["mean"], over the valid tokens
    initialization="mean"     H_j = mean_t x_t + e_j                                 over the valid tokens
    initialization="random"   H_j = e_j
    ```

    e `(n, D)` is learned: without it hubs of one mean would be alike in every layer. Parameters with hidden widths (u): `(N D + 1) u +
    (u + 1) n D`, with pooling `(D + 1) u + (u + 1) n D`, and `n D` for the other two.

    Args:
        num_hubs: n.
        initialization: `"mlp"`, `"mean"` or `"random"`.
        pooling: How `"mlp"` reads the group: None, `"mean"` or `"sum"`.
        hidden_units: Hidden widths of the MLP, whose last layer is linear; None = `(4 D,)`.
        activation: Of the hidden layers.

    Call arguments:
        inputs: `(B, N, D)`. `"random"` takes from it the number of rows alone.
        mask: `(B, N)` bool, True = valid; None = all valid.

    Returns:
        `(B, n, D)`; pooled over no valid token zeros, or e with `"mean"`.

    Raises:
        ValueError: On an argument out of range, or a mask for tokens that are read one beside the other (`"mlp"` without pooling).

    Source: INFNet (arXiv:2508.11565, hubs of categorical features and of behaviour sequences; `"random"` for shared task hubs).
    Deviations: e beside the mean. Means are taken before the MLP's last layer, which is linear.
    """

    INITIALIZATIONS = ("mlp", "mean", "random")
    POOLINGS = (None, "mean", "sum")

    def __init__(self, num_hubs, *, initialization="mlp", pooling=None, hidden_units=None, activation="relu", **kwargs):
        super().__init__(**kwargs)
        check_int(self, "num_hubs", num_hubs)
        check_choice(self, "initialization", initialization, self.INITIALIZATIONS)
        check_choice(self, "pooling", pooling, self.POOLINGS)
        self.num_hubs = num_hubs
        self.initialization = initialization
        self.pooling = pooling
        self.hidden_units = None if hidden_units is None else check_units(self, "hidden_units", hidden_units)
        self.activation = keras.activations.get(activation)
        self.supports_masking = True

    def build(self, inputs_shape):
        _, tokens, width = inputs_shape
        if self.initialization != "mlp":
            initializer = keras.initializers.RandomNormal(stddev=TOKEN_STDDEV)
            self.offsets = self.add_weight(name="offsets", shape=(self.num_hubs, width), initializer=initializer)
            self.built = True
            return
        units = (4 * width,) if self.hidden_units is None else self.hidden_units
        shape = (None, tokens * width) if self.pooling is None else (None, None, width)
        self.mlp = MLP(units, activation=self.activation, name="mlp", dtype=self.dtype_policy)
        self.mlp.build(shape)
        self.project = keras.layers.Dense(self.num_hubs * width, name="project", dtype=self.dtype_policy)
        self.project.build((None, self.mlp.compute_output_shape(shape)[-1]))
        self.built = True

    def call(self, inputs, mask=None):
        tokens, width = inputs.shape[1], inputs.shape[2]
        if self.initialization == "random":
            return ops.broadcast_to(self.offsets, (ops.shape(inputs)[0], self.num_hubs, width))  # (B, n, D)
        if self.initialization == "mean":
            return ops.expand_dims(self._mean(inputs, mask), 1) + self.offsets  # (B, n, D)
        if self.pooling is None:
            if mask is not None:
                raise ValueError(f"HubTokens '{self.name}': a group with a mask needs pooling='mean' or 'sum'")
            hubs = self.project(self.mlp(ops.reshape(inputs, (-1, tokens * width))))  # (B, n D)
        else:
            # The last layer is linear: pooled before it, nothing of the size T x n D is ever made.
            hubs = self.project(self._mean(self.mlp(inputs), mask))  # (B, n D)
            if mask is not None:
                count = ops.sum(ops.cast(mask, hubs.dtype), axis=1, keepdims=True)  # (B, 1)
                hubs = hubs * (count if self.pooling == "sum" else ops.minimum(count, 1))
            elif self.pooling == "sum":
                hubs = hubs * tokens
        return ops.reshape(hubs, (-1, self.num_hubs, width))

    def _mean(self, x, mask):
        return ops.mean(x, axis=1) if mask is None else masked_mean(x, mask)

    def compute_mask(self, inputs, previous_mask=None):
        return None  # hubs are always valid

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], self.num_hubs, inputs_shape[2])

    def get_config(self):
        return {
            **super().get_config(),
            "num_hubs": self.num_hubs,
            "initialization": self.initialization,
            "pooling": self.pooling,
            "hidden_units": None if self.hidden_units is None else list(self.hidden_units),
            "activation": keras.activations.serialize(self.activation),
        }
