"""DMIN: events refined by self-attention, and one interest from each head of a second self-attention."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_choice, check_epsilon, check_int, check_units
from keras_ctr.layers.attention import MASKED, key_bias
from keras_ctr.layers.dhen import LAYER_NORM_EPSILON
from keras_ctr.layers.interest_evolution import AUXILIARY, NextEventLoss, all_valid, check_weight, masked_softmax
from keras_ctr.layers.positional_attention import EventScore, PositionQuery, activation_config


@keras.saving.register_keras_serializable(package="keras_ctr")
class BehaviorRefiner(keras.Layer):
    """Events that know those before them: map `(B, T, D) -> (B, T, D)`.

    ```
    Y = LN( S + [A_1 S W_V1 || .. || A_H S W_VH] W_O )       A_h = softmax(S W_Qh (S W_Kh)^T / sqrt(D/H)), row t over the valid steps <= t
    R = Y + relu(Y W_1 + b_1) W_2 + b_2
    ```

    In training with negatives `auxiliary_weight * NextEventLoss(R, s, n)` is added to the loss. Parameters: `4 D^2 + 2D + 2 D F + F + D`
    with F = `ffn_dim`, 4D more with `use_bias`, and those of the loss.

    Args:
        num_heads: H.
        ffn_dim: F; None = 2D.
        use_bias: Whether the four projections of the attention have biases. That of the keys cancels in the softmax.
        dropout: Share of elements of the attention's output dropped in training.
        epsilon: Of the norm, added to an event's variance.
        auxiliary: `kind` of `NextEventLoss`.
        auxiliary_units: `hidden_units` of `NextEventLoss`.
        auxiliary_weight: Weight of the loss; 0 leaves it out, with its weights.

    Call arguments:
        sequence: S, `(B, T, D)`.
        negatives: n, `(B, T, D)`; None = no auxiliary loss.
        mask: `(B, T)` bool, True = valid; None = all valid.
        negative_mask: `(B, T)` bool, of the negatives; None = all valid.

    Returns:
        R, `(B, T, D)`, zeros at padded steps.

    Raises:
        ValueError: On an argument out of range, or if H does not divide D.

    Source: DMIN (Xiao et al., CIKM 2020), behavior refiner layer. Deviations: padded steps are hidden, which the authors' code leaves
    visible; attention scores are divided by sqrt(D/H), there by a constant.
    """

    def __init__(
        self,
        num_heads=4,
        *,
        ffn_dim=None,
        use_bias=False,
        dropout=0.0,
        epsilon=LAYER_NORM_EPSILON,
        auxiliary="inner",
        auxiliary_units=(100, 50),
        auxiliary_weight=1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_int(self, "num_heads", num_heads)
        if ffn_dim is not None:
            check_int(self, "ffn_dim", ffn_dim)
        check_choice(self, "auxiliary", auxiliary, AUXILIARY)
        check_weight(self, auxiliary_weight)
        self.num_heads = num_heads
        self.ffn_dim = ffn_dim
        self.use_bias = use_bias
        check_epsilon(self, epsilon)
        self.dropout = dropout
        self.epsilon = epsilon
        self.auxiliary = auxiliary
        self.auxiliary_units = check_units(self, "auxiliary_units", auxiliary_units)
        self.auxiliary_weight = auxiliary_weight
        self.supports_masking = True

    def build(self, sequence_shape, negatives_shape=None):
        width = sequence_shape[-1]
        check_heads(self, width)
        self.query, self.key, self.value, self.output_dense = (
            built_dense(self, width, sequence_shape, name, use_bias=self.use_bias) for name in ("query", "key", "value", "output")
        )
        build_branch(self, sequence_shape, self.ffn_dim)
        if self.auxiliary_weight:
            self.next_event = NextEventLoss(self.auxiliary, hidden_units=self.auxiliary_units, name="auxiliary", dtype=self.dtype_policy)
            self.next_event.build(sequence_shape)
        self.built = True

    def call(self, sequence, negatives=None, *, mask=None, negative_mask=None, training=None):
        mask = all_valid(sequence) if mask is None else mask
        q, k, v = (split_heads(dense(sequence), self.num_heads) for dense in (self.query, self.key, self.value))  # (B, H, T, E)
        heads = ops.transpose(masked_attention(q, k, v, mask, causal=True), (0, 2, 1, 3))  # (B, T, H, E)
        heads = ops.reshape(heads, (-1, heads.shape[1] or ops.shape(heads)[1], sequence.shape[-1]))  # (B, T, D)
        refined = branch(self, self.output_dense(heads), sequence, training)
        refined = refined * ops.expand_dims(ops.cast(mask, refined.dtype), -1)
        if training and negatives is not None and self.auxiliary_weight:
            loss = self.next_event(refined, sequence, negatives, mask=mask, negative_mask=negative_mask)
            self.add_loss(self.auxiliary_weight * loss)
        return refined

    def compute_mask(self, sequence, previous_mask=None):
        return None  # the caller has the mask

    def compute_output_shape(self, sequence_shape, negatives_shape=None):
        return tuple(sequence_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "ffn_dim": self.ffn_dim,
            "use_bias": self.use_bias,
            "dropout": self.dropout,
            "epsilon": self.epsilon,
            "auxiliary": self.auxiliary,
            "auxiliary_units": list(self.auxiliary_units),
            "auxiliary_weight": self.auxiliary_weight,
        }


class _InterestHead(keras.Layer):
    """From a head's output to its interest: `(B, T, E), (B, T, D), (B, D) -> (B, D), (B, T)`; arguments as for `MultiInterestExtractor`."""

    def __init__(self, arguments, **kwargs):
        super().__init__(**kwargs)
        self.arguments = arguments
        self.supports_masking = True

    def build(self, head_shape, sequence_shape, target_shape):
        own, width, policy = self.arguments, sequence_shape[-1], self.dtype_policy
        self.dropout, self.epsilon = own["dropout"], own["epsilon"]
        self.output_dense = built_dense(self, width, head_shape, "output", use_bias=False)
        build_branch(self, sequence_shape, own["ffn_dim"])
        sizes = {"position_dim": own["position_dim"], "max_positions": own["max_positions"]}
        self.query = PositionQuery(width, **sizes, name="query", dtype=policy)
        self.query.build(tuple(sequence_shape)[:2], target_shape)
        activation = own["attention_activation"]
        self.score = EventScore(own["attention_units"], activation=activation, score_bias=own["score_bias"], name="score", dtype=policy)
        self.score.build(sequence_shape, sequence_shape)
        self.built = True

    def call(self, head, sequence, target, mask=None, training=None):
        events = branch(self, self.output_dense(head), sequence, training)  # (B, T, D)
        scores = self.score(self.query(mask, target=target), events, mask=mask, training=training)
        attention = masked_softmax(scores, mask)  # (B, T)
        interest = ops.matmul(ops.expand_dims(ops.cast(attention, events.dtype), 1), events)  # (B, 1, D)
        return ops.squeeze(interest, 1), attention

    def compute_mask(self, head, previous_mask=None):
        return None, None

    def compute_output_shape(self, head_shape, sequence_shape, target_shape):
        return (sequence_shape[0], sequence_shape[-1]), tuple(sequence_shape)[:2]


@keras.saving.register_keras_serializable(package="keras_ctr")
class MultiInterestExtractor(keras.Layer):
    """One interest for each head of a self-attention: pool `(B, T, D), (B, D) -> (B, H, D)`.

    ```
    O_h = LN_h( R + A_h R W_Vh W_Oh ),   O'_h = O_h + relu(O_h W_1h + b_1h) W_2h + b_2h         A_h as in `BehaviorRefiner`
    q_ht = [e || p_ht] W_qh + b_qh                                                              `PositionQuery`
    i_h = sum_t softmax_t( MLP_h([q_ht || o'_ht || q_ht - o'_ht || q_ht * o'_ht]) ) o'_ht       over the valid steps, `EventScore`
    ```

    Parameters: `3 D^2`, and for each head `D^2 / H + 2D + 2 D F + F + D` and those of `PositionQuery` and of `EventScore`.

    Args:
        num_heads: H.
        ffn_dim: F; None = 2D.
        causal: Whether a step attends to the steps up to it only, as in the public codes, or to all of them.
        attention_units: Widths of the hidden layers that score an event.
        attention_activation: Their activation, `"dice"`, `"prelu"` or the name of a Keras activation.
        position_dim, max_positions: As for `PositionQuery`; each head has its own.
        score_bias: Whether the scores have a bias. The softmax does not see it.
        dropout: Share of elements of a head's output dropped in training.
        epsilon: Of the heads' norms, added to an event's variance.

    Call arguments:
        sequence: R, `(B, T, D)`.
        target: e, the candidate, `(B, E)`.
        mask: `(B, T)` bool, True = valid; None = all valid.
        return_attention: Whether to return `(i, a)`, a `(B, H, T)` float32, the weights of the last sum, zeros at padded steps.

    Returns:
        i, `(B, H, D)`; zeros for an empty history.

    Raises:
        ValueError: On an argument out of range, or if H does not divide D.

    Source: DMIN (Xiao et al., CIKM 2020), multi-interest extractor layer. Deviations: padded steps are hidden in the self-attention;
    the paper writes one attention on target and position, its hidden widths and the FFN are those of the codes.
    """

    one_row_arguments = ("sequence", "mask")  # may have one row for all targets

    def __init__(
        self,
        num_heads=4,
        *,
        ffn_dim=None,
        causal=True,
        attention_units=(80, 40),
        attention_activation="sigmoid",
        position_dim=4,
        max_positions=100,
        score_bias=False,
        dropout=0.0,
        epsilon=LAYER_NORM_EPSILON,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for argument, value in (("num_heads", num_heads), ("position_dim", position_dim), ("max_positions", max_positions)):
            check_int(self, argument, value)
        if ffn_dim is not None:
            check_int(self, "ffn_dim", ffn_dim)
        self.num_heads = num_heads
        self.ffn_dim = ffn_dim
        self.causal = causal
        self.attention_units = check_units(self, "attention_units", attention_units)
        self.attention_activation = activation_config(attention_activation)
        self.position_dim = position_dim
        self.max_positions = max_positions
        check_epsilon(self, epsilon)
        self.score_bias = score_bias
        self.dropout = dropout
        self.epsilon = epsilon
        self.supports_masking = True

    def build(self, sequence_shape, target_shape):
        shape, width = tuple(sequence_shape), sequence_shape[-1]
        check_heads(self, width)
        names = ("query", "key", "value")
        self.query, self.key, self.value = (built_dense(self, width, shape, name, use_bias=False) for name in names)
        self.heads = []
        for index in range(self.num_heads):
            head = _InterestHead(self._arguments(), name=f"head_{index}", dtype=self.dtype_policy)
            head.build((*shape[:2], width // self.num_heads), shape, target_shape)
            self.heads.append(head)
        self.built = True

    def call(self, sequence, target, *, mask=None, return_attention=False, training=None):
        mask = all_valid(sequence) if mask is None else mask
        q, k, v = (split_heads(dense(sequence), self.num_heads) for dense in (self.query, self.key, self.value))  # (B, H, T, E)
        outputs = masked_attention(q, k, v, mask, causal=self.causal)
        found = [head(outputs[:, i], sequence, target, mask=mask, training=training) for i, head in enumerate(self.heads)]
        interests = ops.stack([interest for interest, _ in found], axis=1)  # (B, H, D)
        return (interests, ops.stack([attention for _, attention in found], axis=1)) if return_attention else interests

    def compute_mask(self, sequence, previous_mask=None):
        return None  # interests are always valid

    def compute_output_shape(self, sequence_shape, target_shape):
        return (sequence_shape[0], self.num_heads, sequence_shape[-1])

    def compute_output_spec(self, sequence, target, *, mask=None, return_attention=False, training=None):
        interests = keras.KerasTensor(self.compute_output_shape(sequence.shape, target.shape), dtype=self.compute_dtype)
        attention = keras.KerasTensor((sequence.shape[0], self.num_heads, sequence.shape[1]), dtype="float32")
        return (interests, attention) if return_attention else interests

    def _arguments(self):
        return {
            "ffn_dim": self.ffn_dim,
            "attention_units": list(self.attention_units),
            "attention_activation": self.attention_activation,
            "position_dim": self.position_dim,
            "max_positions": self.max_positions,
            "score_bias": self.score_bias,
            "dropout": self.dropout,
            "epsilon": self.epsilon,
        }

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads, "causal": self.causal, **self._arguments()}


def check_heads(layer, width):
    """Raises `ValueError` naming the layer unless its heads divide `width`."""
    if width % layer.num_heads:
        raise ValueError(
            f"{type(layer).__name__} '{layer.name}': {layer.num_heads} heads do not divide the width {width} of an event; "
            "change num_heads or the embedding width"
        )


def built_dense(layer, units, shape, name, **kwargs):
    """Returns a built linear layer under the policy of `layer`."""
    dense = keras.layers.Dense(units, name=name, dtype=layer.dtype_policy, **kwargs)
    dense.build(shape)
    return dense


def build_branch(layer, sequence_shape, ffn_dim):
    """Gives a layer the parts of `branch`, built."""
    width = sequence_shape[-1]
    ffn_dim = ffn_dim or 2 * width
    layer.drop = keras.layers.Dropout(layer.dropout, name="dropout", dtype=layer.dtype_policy)
    layer.drop.build(sequence_shape)
    layer.norm = keras.layers.LayerNormalization(epsilon=layer.epsilon, name="norm", dtype=layer.dtype_policy)
    layer.norm.build(sequence_shape)
    layer.ffn_in = built_dense(layer, ffn_dim, sequence_shape, "ffn_in", activation="relu")
    layer.ffn_out = built_dense(layer, width, (*tuple(sequence_shape)[:2], ffn_dim), "ffn_out")


def branch(layer, attended, sequence, training):
    """Returns `Y + FFN(Y)` with `Y = LN(sequence + attended)`."""
    y = layer.norm(sequence + layer.drop(attended, training=training))  # (B, T, D)
    return y + layer.ffn_out(layer.ffn_in(y))


def split_heads(x, num_heads):
    """Returns `(B, T, H E)` as `(B, H, T, E)`."""
    x = ops.reshape(x, (-1, x.shape[1] or ops.shape(x)[1], num_heads, x.shape[-1] // num_heads))
    return ops.transpose(x, (0, 2, 1, 3))


def masked_attention(q, k, v, mask, *, causal):
    """Returns `softmax(q k^T / sqrt(E)) v` over the valid keys, with `causal` those up to the query: all `(B, H, T, E)`.

    The row of a padded query may see no key at all: it is finite and means nothing.
    """
    scores = ops.matmul(q * q.shape[-1] ** -0.5, ops.transpose(k, (0, 1, 3, 2)))  # (B, H, T, T)
    scores = ops.cast(scores, "float32") + key_bias(mask)[:, None, None, :]
    if causal:
        steps = ops.arange(q.shape[2] or ops.shape(q)[2])
        scores = scores + ops.cast(steps[None, :] > steps[:, None], "float32") * MASKED
    return ops.matmul(ops.cast(ops.softmax(scores, axis=-1), v.dtype), v)
