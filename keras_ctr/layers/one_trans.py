"""OneTrans: one causal transformer over the events of a user and the tokens of the other features."""

import math

import keras
import numpy as np
from keras import ops

from keras_ctr.layers.arguments import check_epsilon, check_int
from keras_ctr.layers.attention import key_bias
from keras_ctr.layers.behavior_transformer import steps_back
from keras_ctr.layers.mlp import MLP
from keras_ctr.layers.rank_mixer import PerTokenFFN, per_token
from keras_ctr.layers.recent import RecentTokens

RMS_NORM_EPSILON = 1e-6


@keras.saving.register_keras_serializable(package="keras_ctr")
class EventTokens(keras.Layer):
    """The events of G groups as one sequence of tokens: map `[(B, T_g, C_g)] -> (B, T, D)`, T = sum of T_g + G - 1.

    `[s_11 ; .. ; s_1T_1 ; sep_1 ; s_21 ; ..]`, one group after the other, oldest first, with `s_gt = e_gt W_g + b_g + P_{age}` and a
    learned token between two groups. The age of an event is the number of valid events of its group from it on: the newest is 1. Ages
    beyond the table read its last row.

    Parameters: the sum of `(C_g + 1) D`, `(G - 1) D`, and `num_positions D`.

    Args:
        hidden_dim: D.
        num_positions: Rows of P, which starts as small noise; None for no positions.

    Call arguments:
        sequences: List of e `(B, T_g, C_g)`, each oldest first.
        masks: List of `(B, T_g)` bool, True = valid.

    Returns:
        `{"mask": (B, T) bool, "tokens": (B, T, D)}`. The tokens between groups are always valid; hidden steps mean nothing.

    Raises:
        ValueError: On a non-positive argument, or no sequence.

    Source: OneTrans (arXiv:2510.26104, section 3.2, sequences without time stamps).
    Deviations: linear maps where the paper has MLPs of a size it does not state. Positions are ours.
    """

    def __init__(self, hidden_dim=64, *, num_positions=None, **kwargs):
        super().__init__(**kwargs)
        check_int(self, "hidden_dim", hidden_dim)
        if num_positions is not None:
            check_int(self, "num_positions", num_positions)
        self.hidden_dim = hidden_dim
        self.num_positions = num_positions
        self.supports_masking = True

    def build(self, sequences_shape, masks_shape=None):
        if not sequences_shape:
            raise ValueError(f"EventTokens '{self.name}': there is no sequence")
        self.projections = []
        for index, shape in enumerate(sequences_shape):
            self.projections.append(keras.layers.Dense(self.hidden_dim, name=f"group_{index}", dtype=self.dtype_policy))
            self.projections[-1].build(shape)
        self.separators = self.position_table = None
        small = keras.initializers.RandomNormal(stddev=0.02)
        if len(sequences_shape) > 1:
            shape = (len(sequences_shape) - 1, self.hidden_dim)
            self.separators = self.add_weight(name="separators", shape=shape, initializer=small)
        if self.num_positions:
            shape = (self.num_positions, self.hidden_dim)
            self.position_table = self.add_weight(name="positions", shape=shape, initializer=keras.initializers.RandomNormal(stddev=0.01))
        self.built = True

    def call(self, sequences, masks):
        tokens, shown = [], []
        for index, (events, mask) in enumerate(zip(sequences, masks, strict=True)):
            x = self.projections[index](events)  # (B, T_g, D)
            if index:
                separator = ops.zeros_like(x[:, :1]) + ops.cast(self.separators[index - 1], x.dtype)  # (B, 1, D)
                tokens.append(separator)
                shown.append(ops.ones_like(mask[:, :1]))
            if self.num_positions:
                age = ops.clip(steps_back(mask) - 1, 0, self.num_positions - 1)  # (B, T_g)
                x = x + ops.cast(ops.take(self.position_table, age, axis=0), x.dtype)
            tokens.append(x)
            shown.append(mask)
        if len(tokens) == 1:
            return {"mask": shown[0], "tokens": tokens[0]}
        return {"mask": ops.concatenate(shown, axis=1), "tokens": ops.concatenate(tokens, axis=1)}

    def compute_mask(self, inputs, previous_mask=None):
        return None  # the mask is an output

    def compute_output_shape(self, sequences_shape, masks_shape=None):
        batch, steps = sequences_shape[0][0], sum(shape[1] for shape in sequences_shape) + len(sequences_shape) - 1
        return {"mask": (batch, steps), "tokens": (batch, steps, self.hidden_dim)}

    def compute_output_spec(self, sequences, masks):
        shapes = self.compute_output_shape([x.shape for x in sequences])
        return {
            "mask": keras.KerasTensor(shapes["mask"], dtype="bool"),
            "tokens": keras.KerasTensor(shapes["tokens"], dtype=self.compute_dtype),
        }

    def get_config(self):
        return {**super().get_config(), "hidden_dim": self.hidden_dim, "num_positions": self.num_positions}


@keras.saving.register_keras_serializable(package="keras_ctr")
class OneTransBlock(keras.Layer):
    """Causal transformer block, weights shared by events, owned by other tokens: map `(B, N, D), (B, T, D) -> (B, N, D), (B, T', D)`.

    With X = `[S ; NS]`, the valid events oldest first, then the N non-sequential tokens:

    ```
    Z = X + MHA(RMSNorm(X)) W_O                  token i attends to the tokens j <= i
    Y = Z + FFN(RMSNorm(Z))                      FFN(z) = f(z W_1 + b_1) W_2 + b_2
    ```

    All events share W_Q, W_K, W_V and FFN; each other token has its own; W_O and the scales of the norms are one for all. Of a row with n
    valid events the newest `ceil(keep n)` remain: only they ask, while all are keys. With `keep=0` none does, and what only their
    outputs need is not built: the form of a last layer, of which the other tokens alone are read.

    Parameters, with `U = 2 k D^2 + (k + 1) D`: `N (3 D^2 + U) + D^2 + 2 D`, and for the events `3 D^2 + U`, or `2 D^2` with `keep=0`.

    Args:
        num_heads: Heads of the attention; divides D.
        expansion: k, the hidden width of the feed-forward networks over D.
        keep: Share of a row's valid events that remain, in [0, 1]; 1 = no pyramid.
        activation: f.
        dropout: Share of the hidden units of the feed-forward networks dropped in training.
        epsilon: Of the norms, added to a token's mean square.

    Call arguments:
        tokens: NS `(B, N, D)`.
        events: S `(B, T, D)`, oldest first; or `(1, T, D)`, the same for all rows, with a mask `(1, T)`, and so are S' and its mask then.
            None for a block over the other tokens alone.
        mask: `(B, T)` bool, True = valid; None = all valid.
        return_attention: Whether to return `(Y, {"events": A_S, "tokens": A_NS})`, A_S `(B, H, T', T)` without `keep=0`, A_NS
            `(B, H, N, T + N)`, the events first; float32, keys that are hidden weigh 0.

    Returns:
        `{"tokens": (B, N, D)}` and, with events and `keep > 0`, `"events": (B, T', D)` and `"mask": (B, T')`, `T' = ceil(keep T)`. With
        `keep < 1` the events stand at the end, so that the last step is the newest in every row. Hidden steps are finite and mean nothing.

    Raises:
        ValueError: On an argument out of range, heads that do not divide D, unequal widths, or an unknown T with `keep` within (0, 1).

    Source: OneTrans (arXiv:2510.26104, sections 3.3 and 3.4).
    Deviations: the share counts valid events, not steps, so that padding decides nothing.
    """

    # May have one row for all rows of the tokens; those outputs then have one, too.
    one_row_arguments = one_row_outputs = ("events", "mask")

    def __init__(self, num_heads=4, *, expansion=4, keep=1.0, activation="gelu", dropout=0.0, epsilon=RMS_NORM_EPSILON, **kwargs):
        super().__init__(**kwargs)
        check_int(self, "num_heads", num_heads)
        check_int(self, "expansion", expansion)
        check_epsilon(self, epsilon)
        if isinstance(keep, bool) or not isinstance(keep, (int, float)) or not 0 <= keep <= 1:
            raise ValueError(f"OneTransBlock '{self.name}': keep must be a share in [0, 1], got {keep!r}")
        if not 0 <= dropout < 1:
            raise ValueError(f"OneTransBlock '{self.name}': dropout must be in [0, 1), got {dropout!r}")
        self.num_heads = num_heads
        self.expansion = expansion
        self.keep = keep
        self.activation = keras.activations.get(activation)
        self.dropout = dropout
        self.epsilon = epsilon
        self.supports_masking = True

    def build(self, tokens_shape, events_shape=None):
        _, tokens, width = tokens_shape
        if width % self.num_heads:
            raise ValueError(f"OneTransBlock '{self.name}': {self.num_heads} heads do not divide the width {width}; change one of them")
        self.reads_events = events_shape is not None
        self.keeps_events = self.reads_events and self.keep > 0
        self.attention_norm = self._norm("attention_norm", width)
        self.tokens_kernel = self.add_weight(name="tokens_kernel", shape=(tokens, width, 3 * width), initializer=_glorot(3, tokens))
        if self.reads_events:
            if events_shape[-1] != width:
                raise ValueError(f"OneTransBlock '{self.name}': the events are {events_shape[-1]} wide, the tokens {width}")
            self.events_kernel = self.add_weight(name="events_kernel", shape=(width, 2 * width), initializer=_glorot(2))
        self.recent = None
        if self.keeps_events:
            self.query_kernel = self.add_weight(name="query_kernel", shape=(width, width), initializer=_glorot(1))
            if self.keep < 1:
                if events_shape[1] is None:
                    raise ValueError(f"OneTransBlock '{self.name}': keep={self.keep} needs events (B, T, D) with T known")
                self.recent = RecentTokens(kept(events_shape[1], self.keep), name="recent", dtype=self.dtype_policy)
                self.recent.build(events_shape)
        self.output_kernel = self.add_weight(name="output_kernel", shape=(width, width), initializer=_glorot(1))
        self.ffn_norm = self._norm("ffn_norm", width)
        options = {"activation": self.activation, "dropout": self.dropout, "dtype": self.dtype_policy}
        self.tokens_ffn = PerTokenFFN(self.expansion, name="tokens_ffn", **options)
        self.tokens_ffn.build(tokens_shape)
        if self.keeps_events:
            self.events_ffn = MLP((self.expansion * width,), output_units=width, name="events_ffn", **options)
            self.events_ffn.build((None, None, width))
        self.built = True

    def _norm(self, name, width):
        norm = keras.layers.RMSNormalization(epsilon=self.epsilon, name=name, dtype=self.dtype_policy)
        norm.build((None, None, width))
        return norm

    def call(self, tokens, events=None, mask=None, training=None, *, return_attention=False):
        if (events is not None) != self.reads_events:
            raise ValueError(f"OneTransBlock '{self.name}' was built {'with' if self.reads_events else 'without'} events: call it so")
        count = tokens.shape[1]
        query, key, value = ops.split(per_token(self.attention_norm(tokens), self.tokens_kernel), 3, axis=-1)  # (B, N, D) each
        memory = [(key, value, ops.expand_dims(ops.arange(count)[:, None] >= ops.arange(count)[None, :], 0))]  # the last (1, N, N)
        attention, out = {}, {}
        if self.reads_events:
            mask = ops.ones_like(events[..., 0], dtype="bool") if mask is None else mask  # (B, T)
            normed = self.attention_norm(events)  # (B, T, D)
            events_key, events_value = ops.split(ops.matmul(normed, self.events_kernel), 2, axis=-1)  # (B, T, D) each
            if self.keeps_events:
                kept_events, normed, out["mask"], age = self._remaining(events, normed, mask)
                older = ops.expand_dims(steps_back(mask), 1) >= ops.expand_dims(age, 2)  # (B, T', T)
                older = ops.logical_and(older, ops.expand_dims(mask, 1))
                asked = ops.matmul(normed, self.query_kernel)  # (B, T', D)
                change, attention["events"] = self._attend(asked, [(events_key, events_value, older)], return_attention)
                out["events"] = self._fed(kept_events + change, self.events_ffn, training)  # (B, T', D)
            # Apart, not side by side with the tokens' keys: the events may have one row for all.
            memory = [(events_key, events_value, ops.expand_dims(mask, 1)), *memory]
        change, attention["tokens"] = self._attend(query, memory, return_attention)
        out["tokens"] = self._fed(tokens + change, self.tokens_ffn, training)  # (B, N, D)
        return (out, attention) if return_attention else out

    def _remaining(self, events, normed, mask):
        """Returns of the events that remain: themselves and normed, `(B, T', D)`, which are there and their ages, `(B, T')`, 1 = newest."""
        if self.recent is None:
            return events, normed, mask, steps_back(mask)
        steps, number = events.shape[1], self.recent.num_recent
        table = np.array([min(kept(n, self.keep), number) for n in range(steps + 1)], "int32")
        left = ops.take(table, ops.sum(ops.cast(mask, "int32"), axis=1, keepdims=True), axis=0)  # (B, 1)
        age = ops.expand_dims(ops.arange(number, 0, -1, dtype="int32"), 0)  # (1, T')
        newest = self.recent(events, mask=mask)  # (B, T', D)
        return newest, self.attention_norm(newest), age <= left, age

    def _attend(self, query, memory, return_attention):
        """Returns what queries `(B, Q, D)` gather, times W_O, and the weights, over all of memory.

        Memory lists `(keys, values, shown)`, `(B, K, D)` twice and bool `(B, Q, K)`; B may be 1, and the Q of shown.
        """
        head = query.shape[-1] // self.num_heads
        q = ops.transpose(self._heads(query * head**-0.5), (0, 2, 1, 3))  # (B, H, Q, E)
        scores, values = [], []
        for key, value, shown in memory:
            products = ops.matmul(q, ops.transpose(self._heads(key), (0, 2, 3, 1)))  # (B, H, Q, K)
            scores.append(ops.cast(products, "float32") + key_bias(ops.expand_dims(shown, 1)))
            values.append(ops.transpose(self._heads(value), (0, 2, 1, 3)))  # (B, H, K, E)
        weights = ops.softmax(scores[0] if len(memory) == 1 else ops.concatenate(scores, axis=-1), axis=-1)
        weights = [weights] if len(memory) == 1 else _cut(weights, memory[-1][0].shape[1])
        gathered = [ops.matmul(ops.cast(w, v.dtype), v) for w, v in zip(weights, values, strict=True)]  # (B, H, Q, E) each
        out = gathered[0] if len(memory) == 1 else gathered[0] + gathered[1]
        out = ops.transpose(out, (0, 2, 1, 3))  # (B, Q, H, E)
        out = ops.matmul(ops.reshape(out, (-1, out.shape[1] or ops.shape(out)[1], query.shape[-1])), self.output_kernel)
        if not return_attention:
            return out, None
        # A hidden step that no key is shown to has a softmax over nothing. Its weights are 0 where they are looked at.
        weights = [w * ops.cast(ops.expand_dims(shown, 1), "float32") for w, (*_, shown) in zip(weights, memory, strict=True)]
        return out, weights[0] if len(memory) == 1 else ops.concatenate(weights, axis=-1)

    def _heads(self, x):
        return ops.reshape(x, (-1, x.shape[1] or ops.shape(x)[1], self.num_heads, x.shape[-1] // self.num_heads))

    def _fed(self, x, ffn, training):
        return x + ffn(self.ffn_norm(x), training=training)

    def compute_mask(self, inputs, previous_mask=None):
        return None  # the mask is an output

    def compute_output_shape(self, tokens_shape, events_shape=None):
        shapes = {"tokens": tuple(tokens_shape)}
        if events_shape is None or not self.keep:
            return shapes
        steps = self._steps(events_shape[1])
        return {"events": (events_shape[0], steps, events_shape[2]), "mask": (events_shape[0], steps), **shapes}

    def _steps(self, steps):
        if self.built and self.recent is not None:
            return self.recent.num_recent
        return steps if steps is None else kept(steps, self.keep)

    def compute_output_spec(self, tokens, events=None, mask=None, training=None, *, return_attention=False):
        shapes = self.compute_output_shape(tokens.shape, None if events is None else events.shape)
        out = {key: keras.KerasTensor(shape, dtype="bool" if key == "mask" else self.compute_dtype) for key, shape in shapes.items()}
        steps = 0 if events is None else events.shape[1]
        count = tokens.shape[1]
        weights = {"tokens": (tokens.shape[0], self.num_heads, count, None if steps is None else steps + count)}
        if "events" in shapes:
            weights = {"events": (events.shape[0], self.num_heads, shapes["events"][1], steps), **weights}
        attention = {key: keras.KerasTensor(shape, dtype="float32") for key, shape in weights.items()}
        return (out, attention) if return_attention else out

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "expansion": self.expansion,
            "keep": self.keep,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "epsilon": self.epsilon,
        }


def kept(events, share):
    """Returns how many of `events` remain, `ceil(share events)`; what only rounding puts above a whole number is none."""
    return math.ceil(share * events - 1e-9)


def pyramid_shares(num_layers, pyramid):
    """Returns the share of its events that each layer of a stack leaves, L numbers; the last is 0.

    Args:
        num_layers: L.
        pyramid: `"linear"`, after layer l about `(L - l) / L` of the events are left, or the share itself for all layers but the last.

    Raises:
        ValueError: On another `pyramid`.
    """
    if isinstance(pyramid, str) and pyramid == "linear":
        return [(num_layers - layer) / (num_layers - layer + 1) for layer in range(1, num_layers + 1)]
    if isinstance(pyramid, (str, bool)) or not isinstance(pyramid, (int, float)) or not 0 < pyramid <= 1:
        raise ValueError(f"pyramid must be 'linear' or a share in (0, 1], got {pyramid!r}")
    return [pyramid] * (num_layers - 1) + [0.0]


def _cut(weights, last):
    """Returns weights `(.., K)` as all but the `last` and the last; a split where K is known, as its gradient is the cheaper one."""
    if weights.shape[-1] is None:
        return [weights[..., :-last], weights[..., -last:]]
    return ops.split(weights, [weights.shape[-1] - last], axis=-1)


def _glorot(parts, stack=1):
    """Returns an initializer of `parts` square matrices side by side, `stack` times, with the fans of one of them."""
    return keras.initializers.VarianceScaling(stack * (parts + 1) / 2, mode="fan_avg", distribution="uniform")
