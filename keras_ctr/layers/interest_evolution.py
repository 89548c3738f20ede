"""DIEN: interests are the states of a GRU over the events, and a second GRU follows those that matter for the candidate."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_choice, check_int, check_units
from keras_ctr.layers.attention import key_bias
from keras_ctr.layers.mlp import MLP
from keras_ctr.layers.target_attention import TargetAttention

AUXILIARY = ("inner", "mlp")
"""How an auxiliary loss may compare a state with an event."""


def all_valid(sequence):
    """Returns a mask `(B, T)` that hides nothing."""
    return ops.ones_like(sequence[:, :, 0], dtype="bool")


def event_order(mask):
    """Returns the place of each valid step among the valid ones, from 1, int32 `(B, T)`; a padded step has that of the last valid one."""
    return ops.cumsum(ops.cast(mask, "int32"), axis=1)


def masked_softmax(scores, mask):
    """Returns the softmax over the valid entries of the last axis, float32; zeros where none is valid."""
    weights = ops.softmax(ops.cast(scores, "float32") + key_bias(mask), axis=-1)
    return weights * ops.cast(mask, "float32")


def pair_loss(positive, negative, counted):
    """Returns the mean of `-log sigmoid(positive) - log(1 - sigmoid(negative))` over the counted entries, 0 if there is none."""
    positive, negative = ops.cast(positive, "float32"), ops.cast(negative, "float32")
    counted = ops.cast(counted, "float32")
    losses = ops.softplus(-positive) + ops.softplus(negative)
    return ops.sum(losses * counted) / ops.maximum(ops.sum(counted), 1.0)


class AUGRUCell(keras.Layer):
    """One step of `AUGRU`, on inputs that are projected already: `(B, G U [+ 1]), (B, U) -> (B, U)`.

    The last column of the input is the attention weight, if the kind has one within the step.
    """

    WEIGHED = ("augru", "augru_authors", "agru")

    def __init__(self, units, *, kind, recurrent_initializer, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units
        self.kind = kind
        self.recurrent_initializer = recurrent_initializer
        self.gates = 2 if kind == "agru" else 3

    def build(self, inputs_shape):
        shape = (self.units, self.gates * self.units)
        self.recurrent_kernel = self.add_weight(name="recurrent_kernel", shape=shape, initializer=self.recurrent_initializer.clone())
        self.recurrent_bias = self.add_weight(name="recurrent_bias", shape=shape[1:], initializer="zeros")
        self.built = True

    def call(self, inputs, states):
        h, units, kind = states[0], self.units, self.kind
        inner = ops.matmul(h, self.recurrent_kernel) + self.recurrent_bias  # (B, G U)
        reset = ops.sigmoid(inputs[:, :units] + inner[:, :units])  # (B, U)
        candidate = inputs[:, units : 2 * units] + reset * inner[:, units : 2 * units]
        candidate = ops.tanh(candidate)
        weight = inputs[:, self.gates * units :] if kind in self.WEIGHED else None  # (B, 1)
        if kind != "agru":
            update = ops.sigmoid(inputs[:, 2 * units : 3 * units] + inner[:, 2 * units :])
            if kind == "augru":
                weight = weight * update
            elif kind == "augru_authors":
                weight = 1 - (1 - weight) * (1 - update)
            else:
                weight = update
        new = h + weight * (candidate - h)
        return new, [new]


@keras.saving.register_keras_serializable(package="keras_ctr")
class AUGRU(keras.Layer):
    """GRU whose updates attention weighs: pool `(B, T, D), (B, T) -> (B, U)`, or map `-> (B, T, U)`.

    ```
    r_t = sigmoid(x_t W_r + b_r + h_{t-1} U_r + d_r)
    c_t = tanh(x_t W_c + b_c + r_t * (h_{t-1} U_c + d_c))
    u_t = sigmoid(x_t W_u + b_u + h_{t-1} U_u + d_u)
    h_t = (1 - w_t) * h_{t-1} + w_t * c_t                                 over the valid steps, h_0 = 0

    kind             w_t                            at a_t = 0        at a_t = 1
    "augru"          a_t u_t                        h_{t-1}           GRU
    "augru_authors"  1 - (1 - a_t) (1 - u_t)        GRU               c_t
    "agru"           a_t, without an update gate    h_{t-1}           c_t
    "aigru"          u_t, with a_t x_t for x_t      GRU on zeros      GRU
    "gru"            u_t                            GRU               GRU
    ```

    A padded step leaves the state as it is, wherever it stands. Parameters: G (D U + U^2 + 2U), G = 3 gates, 2 for `"agru"`.

    Args:
        units: U.
        kind: One of the kinds above.
        return_sequences: Whether to return the state after every step instead of the last one.
        kernel_initializer, recurrent_initializer: Of W and of U.

    Call arguments:
        sequence: x, `(B, T, D)`.
        attention: a, `(B, T)`; None for `"gru"`.
        mask: `(B, T)` bool, True = valid; None = all valid.

    Returns:
        `(B, U)`, zeros for an empty history, or `(B, T, U)`: at padded steps the state of the last valid step before, zeros if there is
        none.

    Raises:
        ValueError: On a non-positive width, an unknown kind, or a missing attention.

    Source: DIEN (Zhou et al., AAAI 2019, arXiv:1809.03672), equations of the GRU in its section "Interest Extractor Layer" and of AIGRU,
    AGRU and AUGRU in "Interest Evolving Layer". Deviations: two bias vectors a gate, as in cuDNN; `"augru_authors"` is what the authors'
    code computes, where the update gate is the share that is kept. The recurrence runs in float32 under every policy: with weights that
    sum to 1 over a history, a step may change the state by less than bfloat16 can tell.
    """

    KINDS = ("augru", "augru_authors", "agru", "aigru", "gru")

    def __init__(
        self,
        units,
        *,
        kind="augru",
        return_sequences=False,
        kernel_initializer="glorot_uniform",
        recurrent_initializer="orthogonal",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_int(self, "units", units)
        check_choice(self, "kind", kind, self.KINDS)
        self.units = units
        self.kind = kind
        self.return_sequences = return_sequences
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.recurrent_initializer = keras.initializers.get(recurrent_initializer)
        self.supports_masking = True

    def build(self, sequence_shape, attention_shape=None):
        exact = keras.backend.result_type(self.compute_dtype, "float32")
        cell = AUGRUCell(self.units, kind=self.kind, recurrent_initializer=self.recurrent_initializer, name="cell", dtype=exact)
        width = cell.gates * self.units
        self.kernel = self.add_weight(name="kernel", shape=(sequence_shape[-1], width), initializer=self.kernel_initializer.clone())
        self.bias = self.add_weight(name="bias", shape=(width,), initializer="zeros")
        self.rnn = keras.layers.RNN(cell, return_sequences=self.return_sequences, name="rnn", dtype=exact)
        self.rnn.build((*tuple(sequence_shape)[:2], width + (self.kind in cell.WEIGHED)))
        self.built = True

    def call(self, sequence, attention=None, *, mask=None):
        if attention is None and self.kind != "gru":
            raise ValueError(f"AUGRU '{self.name}': kind={self.kind!r} needs attention weights (B, T); pass them or use kind='gru'")
        # The part of the gates that needs no state, for all steps at once.
        x = ops.matmul(sequence, self.kernel)  # (B, T, G U)
        if self.kind == "aigru":
            x = x * ops.expand_dims(ops.cast(attention, x.dtype), -1)
        x = x + self.bias
        if self.kind in AUGRUCell.WEIGHED:
            x = ops.cast(ops.broadcast_to(x, (*ops.shape(attention), x.shape[-1])), self.rnn.compute_dtype)
            x = ops.concatenate([x, ops.cast(ops.expand_dims(attention, -1), x.dtype)], axis=-1)  # (B, T, G U + 1)
        if mask is not None:
            mask = ops.broadcast_to(mask, ops.shape(x)[:2])
        return ops.cast(self.rnn(x, mask=mask), self.compute_dtype)

    def compute_mask(self, sequence, previous_mask=None):
        return None  # the caller has the mask

    def compute_output_shape(self, sequence_shape, attention_shape=None):
        shape = tuple(sequence_shape)
        return (*shape[:2], self.units) if self.return_sequences else (shape[0], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "kind": self.kind,
            "return_sequences": self.return_sequences,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "recurrent_initializer": keras.initializers.serialize(self.recurrent_initializer),
        }


@keras.saving.register_keras_serializable(package="keras_ctr")
class NextEventLoss(keras.Layer):
    """How well states tell the next event from a sampled one: `(B, T, D), (B, T, D), (B, T, D) -> ()`, float32.

    `L = -(1/N) sum [log sigmoid(g(h_t', s_t)) + log(1 - sigmoid(g(h_t', n_t)))]` over the N valid events s_t of the batch with a valid
    negative n_t and a valid event before them; t' is the last valid step before t. 0 without any.
    Parameters: none with `"inner"`, those of the MLP on 2D inputs with `"mlp"`.

    Args:
        kind: g: `"inner"` for the inner product, `"mlp"` for an MLP on `[h || s]` with one linear output.
        hidden_units: Widths of the MLP's hidden layers.

    Call arguments:
        states: h, `(B, T, D)`.
        sequence: s, the events, `(B, T, D)`.
        negatives: n, `(B, T, D)`; step t stands beside event t.
        mask: `(B, T)` bool, True = valid; None = all valid.
        negative_mask: `(B, T)` bool, of the negatives; None = all valid.

    Raises:
        ValueError: On an unknown kind or a non-positive width.

    Source: DIEN (Zhou et al., AAAI 2019, arXiv:1809.03672), auxiliary loss of its section "Interest Extractor Layer". Deviations: the mean
    over transitions, where the paper divides by the number of histories; the MLP of the authors' code, with sigmoid hidden layers, has one
    logit instead of a softmax over two (the same function) and no batch normalisation.
    """

    def __init__(self, kind="inner", *, hidden_units=(100, 50), **kwargs):
        super().__init__(**kwargs)
        check_choice(self, "kind", kind, AUXILIARY)
        self.kind = kind
        self.hidden_units = check_units(self, "hidden_units", hidden_units)
        self.supports_masking = True

    def build(self, states_shape, sequence_shape=None, negatives_shape=None):
        if self.kind == "mlp":
            self.network = MLP(self.hidden_units, activation="sigmoid", output_units=1, name="network", dtype=self.dtype_policy)
            self.network.build((*tuple(states_shape)[:2], 2 * states_shape[-1]))
        self.built = True

    def call(self, states, sequence, negatives, *, mask=None, negative_mask=None):
        mask = all_valid(sequence) if mask is None else mask
        order = event_order(mask)  # (B, T)
        follows = ops.equal(order[:, :, None], order[:, None, :] + 1)  # (B, T, T): row t is the event after column t'
        follows = ops.logical_and(follows, ops.logical_and(mask[:, :, None], mask[:, None, :]))
        # A product with 0/1 rows: its gradient is a product too, where a gather's is a scatter.
        before = ops.matmul(ops.cast(follows, states.dtype), states)  # (B, T, D)
        counted = ops.logical_and(mask, order > 1)
        if negative_mask is not None:
            counted = ops.logical_and(counted, negative_mask)
        return pair_loss(self._compare(before, sequence), self._compare(before, negatives), counted)

    def _compare(self, states, events):
        if self.kind == "mlp":
            return ops.squeeze(self.network(ops.concatenate([states, events], axis=-1)), -1)  # (B, T)
        return ops.sum(ops.cast(states, "float32") * ops.cast(events, "float32"), axis=-1)

    def compute_mask(self, states, previous_mask=None):
        return None  # one number

    def compute_output_shape(self, states_shape, sequence_shape=None, negatives_shape=None):
        return ()

    def compute_output_spec(self, states, sequence, negatives, **kwargs):
        return keras.KerasTensor((), dtype="float32")

    def get_config(self):
        return {**super().get_config(), "kind": self.kind, "hidden_units": list(self.hidden_units)}


@keras.saving.register_keras_serializable(package="keras_ctr")
class InterestExtractor(keras.Layer):
    """Interest states of a history: map `(B, T, D) -> (B, T, D)`.

    `h_t = GRU(s_t, h_{t-1})` (`AUGRU` of the kind `"gru"`); in training with negatives `auxiliary_weight * NextEventLoss(h, s, n)` is
    added to the loss. Parameters: `6 (D^2 + D)`, and those of the loss.

    Args:
        auxiliary: `kind` of `NextEventLoss`.
        auxiliary_units: `hidden_units` of `NextEventLoss`.
        auxiliary_weight: Weight of the loss; 0 leaves it out, with its weights.

    Call arguments:
        sequence: s, `(B, T, D)`.
        negatives: n, `(B, T, D)`; None = no auxiliary loss.
        mask: `(B, T)` bool, True = valid; None = all valid.
        negative_mask: `(B, T)` bool, of the negatives; None = all valid.

    Returns:
        `(B, T, D)`; at padded steps the state before them.

    Raises:
        ValueError: On an unknown `auxiliary`, a non-positive width or a negative weight.

    Source: DIEN (Zhou et al., AAAI 2019, arXiv:1809.03672), section "Interest Extractor Layer".
    """

    def __init__(self, *, auxiliary="inner", auxiliary_units=(100, 50), auxiliary_weight=1.0, **kwargs):
        super().__init__(**kwargs)
        check_choice(self, "auxiliary", auxiliary, AUXILIARY)
        check_weight(self, auxiliary_weight)
        self.auxiliary = auxiliary
        self.auxiliary_units = check_units(self, "auxiliary_units", auxiliary_units)
        self.auxiliary_weight = auxiliary_weight
        self.supports_masking = True

    def build(self, sequence_shape, negatives_shape=None):
        self.gru = AUGRU(sequence_shape[-1], kind="gru", return_sequences=True, name="gru", dtype=self.dtype_policy)
        self.gru.build(sequence_shape)
        if self.auxiliary_weight:
            self.next_event = NextEventLoss(self.auxiliary, hidden_units=self.auxiliary_units, name="auxiliary", dtype=self.dtype_policy)
            self.next_event.build(sequence_shape)
        self.built = True

    def call(self, sequence, negatives=None, *, mask=None, negative_mask=None, training=None):
        states = self.gru(sequence, mask=mask)  # (B, T, D)
        if training and negatives is not None and self.auxiliary_weight:
            loss = self.next_event(states, sequence, negatives, mask=mask, negative_mask=negative_mask)
            self.add_loss(self.auxiliary_weight * loss)
        return states

    def compute_mask(self, sequence, previous_mask=None):
        return None  # the caller has the mask

    def compute_output_shape(self, sequence_shape, negatives_shape=None):
        return tuple(sequence_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "auxiliary": self.auxiliary,
            "auxiliary_units": list(self.auxiliary_units),
            "auxiliary_weight": self.auxiliary_weight,
        }


@keras.saving.register_keras_serializable(package="keras_ctr")
class InterestEvolution(keras.Layer):
    """The interest that matters for a candidate, at the end of its evolution: pool `(B, T, U), (B, D) -> (B, U)`.

    ```
    a_t = softmax_t( h_t W e )                   over the valid steps ("bilinear"), W (U, D)
    a_t = softmax_t( MLP([e || h_t || e - h_t || e * h_t]) )           ("din", `TargetAttention`), D = U
    h'  = AUGRU(h, a)
    ```

    Parameters: U D or those of `TargetAttention`, and those of `AUGRU` on U inputs; no attention with `"gru"`.

    Args:
        kind: `kind` of `AUGRU`.
        attention: `"bilinear"` or `"din"`.
        attention_units: Widths of the hidden layers of `"din"`.
        attention_activation: Their activation, `"dice"` or the name of a Keras activation.

    Call arguments:
        states: h, the interest states, `(B, T, U)`.
        target: e, the candidate, `(B, D)`.
        mask: `(B, T)` bool, True = valid; None = all valid.
        return_attention: Whether to return `(h', a)`, a `(B, T)` float32, zeros at padded steps; `(h', None)` with `"gru"`.

    Returns:
        `(B, U)`, zeros for an empty history.

    Raises:
        ValueError: On an unknown kind or attention, or widths that do not fit `"din"`.

    Source: DIEN (Zhou et al., AAAI 2019, arXiv:1809.03672), section "Interest Evolving Layer"; `"din"` is the attention of the authors'
    code.
    """

    ATTENTIONS = ("bilinear", "din")
    one_row_arguments = ("states", "mask")  # may have one row for all targets

    def __init__(self, *, kind="augru", attention="bilinear", attention_units=(80, 40), attention_activation="dice", **kwargs):
        super().__init__(**kwargs)
        check_choice(self, "kind", kind, AUGRU.KINDS)
        check_choice(self, "attention", attention, self.ATTENTIONS)
        self.kind = kind
        self.attention = attention
        self.attention_units = check_units(self, "attention_units", attention_units)
        dice = attention_activation == "dice"
        self.attention_activation = "dice" if dice else keras.activations.serialize(keras.activations.get(attention_activation))
        self.supports_masking = True

    def build(self, states_shape, target_shape):
        width, policy = states_shape[-1], self.dtype_policy
        if self.kind != "gru" and self.attention == "bilinear":
            self.kernel = self.add_weight(name="kernel", shape=(width, target_shape[-1]), initializer="glorot_uniform")
        elif self.kind != "gru":
            self.network = TargetAttention(
                self.attention_units,
                activation=self.attention_activation,
                use_softmax=True,
                return_attention=True,
                name="attention",
                dtype=policy,
            )
            self.network.build(target_shape, states_shape)
        self.gru = AUGRU(width, kind=self.kind, name="gru", dtype=policy)
        self.gru.build(states_shape)
        self.built = True

    def call(self, states, target, *, mask=None, return_attention=False, training=None):
        mask = all_valid(states) if mask is None else mask
        attention = None
        if self.kind != "gru" and self.attention == "bilinear":
            probe = ops.matmul(target, ops.transpose(self.kernel))  # (B, U)
            scores = ops.squeeze(ops.matmul(states, ops.expand_dims(probe, -1)), -1)  # (B, T)
            attention = masked_softmax(scores, mask)
        elif self.kind != "gru":
            _, attention = self.network(target, states, mask=mask, training=training)
        final = self.gru(states, attention, mask=mask)  # (B, U)
        if self.kind == "gru":
            final = ops.broadcast_to(final, (ops.shape(target)[0], final.shape[-1]))
        if not return_attention:
            return final
        return final, None if attention is None else ops.cast(attention, "float32")

    def compute_mask(self, states, previous_mask=None):
        return None  # one vector, always valid

    def compute_output_shape(self, states_shape, target_shape):
        return (states_shape[0], states_shape[-1])

    def compute_output_spec(self, states, target, *, mask=None, return_attention=False, training=None):
        final = keras.KerasTensor(self.compute_output_shape(states.shape, target.shape), dtype=self.compute_dtype)
        attention = None if self.kind == "gru" else keras.KerasTensor(states.shape[:2], dtype="float32")
        return (final, attention) if return_attention else final

    def get_config(self):
        return {
            **super().get_config(),
            "kind": self.kind,
            "attention": self.attention,
            "attention_units": list(self.attention_units),
            "attention_activation": self.attention_activation,
        }


def check_weight(layer, value):
    """Raises `ValueError` naming the layer if the weight of its auxiliary loss is negative."""
    if value < 0:
        raise ValueError(f"{type(layer).__name__} '{layer.name}': auxiliary_weight must not be negative, got {value!r}")
