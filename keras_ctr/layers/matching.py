"""DMR: how well a user and an item match, as two features of the ranking model, and the second table of items that one of them needs."""

import dataclasses

import keras
from keras import ops

from keras_ctr.layers.arguments import check_choice, check_int, check_units
from keras_ctr.layers.co_action import OwnEmbedding
from keras_ctr.layers.embedding import FeatureEmbedding
from keras_ctr.layers.interest_evolution import all_valid, check_weight, event_order, masked_softmax, pair_loss
from keras_ctr.layers.positional_attention import EventScore, PositionQuery, activation_config, activation_layer
from keras_ctr.schema import PADDING_ID, Schema, negatives_of


@keras.saving.register_keras_serializable(package="keras_ctr")
class User2ItemNetwork(keras.Layer):
    """Relevance of an item for the user that a history shows: pool `(B, T, D), (B, V) -> (B, 1)`.

    ```
    q_t = f( [p_t || c_t] W_q + b_q )                      `PositionQuery`: the target has no part in it
    a_t = MLP([q_t || s_t || q_t - s_t || q_t * s_t])      `EventScore`
    u_k = f( sum_{t <= k} softmax_{t <= k}(a)_t s_t W_u + b_u )        t valid; u the one of the whole history
    r   = <u, v'>
    ```

    In training with negatives, the loss of telling event k+1 from its negative by u_k,
    `auxiliary_weight * mean[-log sigmoid(<u_k, v'_{k+1}>) - log(1 - sigmoid(<u_k, n_{k+1}>))]`, is added: for the newest event of each
    history, or for all events that have one before them. Parameters: those of `PositionQuery` and of `EventScore`, `D V + V`, and V more
    with `"prelu"`.

    Args:
        hidden_units: Widths of the hidden layers that score an event.
        activation: Their activation, `"dice"`, `"prelu"` or the name of a Keras activation.
        matching_activation: f: `"prelu"` or the name of a Keras activation.
        position_dim, max_positions: As for `PositionQuery`.
        score_bias: Whether the scores have a bias. The softmax does not see it.
        auxiliary_weight: Weight of the loss; 0 leaves it out.
        transitions: `"last"` or `"all"`.

    Call arguments:
        sequence: s, `(B, T, D)`.
        target: v', the item in the second table, `(B, V)`.
        context: c, what is known of an event beside its item, `(B, T, C)`; None = nothing.
        events: The events in the second table, `(B, T, V)`; None = no loss.
        negatives: n, sampled events in the second table, `(B, T, V)`, step t beside event t; None = no loss.
        mask: `(B, T)` bool, True = valid; None = all valid.
        negative_mask: `(B, T)` bool, of the negatives; None = all valid.

    Returns:
        r, `(B, 1)`; zero for an empty history.

    Raises:
        ValueError: On an argument out of range.

    Source: DMR (Lyu et al., AAAI 2020), user-to-item network and auxiliary match network. Deviations: the loss is logistic with one
    negative an event instead of a sampled softmax.
    """

    TRANSITIONS = ("last", "all")
    one_row_arguments = ("sequence", "context", "mask")  # may have one row for all targets

    def __init__(
        self,
        hidden_units=(80, 40),
        *,
        activation="sigmoid",
        matching_activation="prelu",
        position_dim=8,
        max_positions=100,
        score_bias=False,
        auxiliary_weight=0.1,
        transitions="last",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.hidden_units = check_units(self, "hidden_units", hidden_units)
        self.activation = activation_config(activation)
        self.matching_activation = activation_config(matching_activation)
        check_int(self, "position_dim", position_dim)
        check_int(self, "max_positions", max_positions)
        check_weight(self, auxiliary_weight)
        check_choice(self, "transitions", transitions, self.TRANSITIONS)
        self.position_dim = position_dim
        self.max_positions = max_positions
        self.score_bias = score_bias
        self.auxiliary_weight = auxiliary_weight
        self.transitions = transitions
        self.supports_masking = True

    def build(self, sequence_shape, target_shape, context_shape=None, events_shape=None, negatives_shape=None):
        _build_attention(self, sequence_shape, None, context_shape, self.score_bias)
        shape = (*tuple(sequence_shape)[:2], target_shape[-1])
        self.user = keras.layers.Dense(target_shape[-1], name="user", dtype=self.dtype_policy)
        self.user.build(sequence_shape)
        self.user_unit = activation_layer(self.matching_activation, shared_axes=[1], name="user_activation", dtype=self.dtype_policy)
        self.user_unit.build(shape)
        self.built = True

    def call(self, sequence, target, context=None, events=None, negatives=None, *, mask=None, negative_mask=None, training=None):
        mask = all_valid(sequence) if mask is None else mask
        query = self.query(mask, context=context)  # (B, T, D)
        scores = self.score(query, sequence, mask=mask, training=training)  # (B, T)
        user = self._users(scores, sequence, ops.expand_dims(mask, 1))  # (B, 1, V)
        relevance = ops.cast(_inner(user, ops.expand_dims(target, 1)), self.compute_dtype)  # (B, 1)
        if training and self.auxiliary_weight and events is not None and negatives is not None:
            counted = mask if negative_mask is None else ops.logical_and(mask, negative_mask)
            loss = self._match_loss(scores, sequence, events, negatives, mask, counted)
            self.add_loss(self.auxiliary_weight * loss)
        return relevance

    def _users(self, scores, sequence, allowed):
        """Returns a user vector for each set of steps: `(B, T), (B, T, D), (B, P, T) -> (B, P, V)`, zeros for an empty set."""
        weights = masked_softmax(ops.expand_dims(scores, 1), allowed)  # (B, P, T)
        users = self.user_unit(self.user(ops.matmul(ops.cast(weights, self.compute_dtype), sequence)))  # (B, P, V)
        return users * ops.cast(ops.any(allowed, axis=-1, keepdims=True), users.dtype)

    def _match_loss(self, scores, sequence, events, negatives, mask, counted):
        order = event_order(mask)
        counted = ops.logical_and(counted, order > 1)  # (B, T): has an event before it
        if self.transitions == "all":
            allowed = ops.logical_and(mask[:, None, :], order[:, None, :] < order[:, :, None])  # (B, T, T)
        else:
            newest = ops.logical_and(mask, ops.equal(order, order[:, -1:]))  # (B, T)
            allowed = ops.expand_dims(ops.logical_and(mask, ops.logical_not(newest)), 1)  # (B, 1, T)
            pick = ops.expand_dims(ops.cast(newest, events.dtype), 1)  # (B, 1, T)
            events, negatives = ops.matmul(pick, events), ops.matmul(pick, negatives)  # (B, 1, V)
            counted = ops.any(ops.logical_and(counted, newest), axis=1, keepdims=True)  # (B, 1)
        users = self._users(scores, sequence, allowed)  # (B, P, V)
        return pair_loss(_inner(users, events), _inner(users, negatives), counted)

    def compute_mask(self, sequence, previous_mask=None):
        return None  # one number, always valid

    def compute_output_shape(self, sequence_shape, target_shape, context_shape=None, events_shape=None, negatives_shape=None):
        return (sequence_shape[0], 1)

    def compute_output_spec(self, sequence, *args, **kwargs):
        return keras.KerasTensor((sequence.shape[0], 1), dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_units": list(self.hidden_units),
            "activation": self.activation,
            "matching_activation": self.matching_activation,
            "position_dim": self.position_dim,
            "max_positions": self.max_positions,
            "score_bias": self.score_bias,
            "auxiliary_weight": self.auxiliary_weight,
            "transitions": self.transitions,
        }


@keras.saving.register_keras_serializable(package="keras_ctr")
class Item2ItemNetwork(keras.Layer):
    """Events pooled by their similarity to a candidate, and their summed similarity: pool `(B, T, D), (B, E) -> (B, D), (B, 1)`.

    ```
    q_t = f( [e || p_t || c_t] W_q + b_q )                 `PositionQuery`
    a_t = MLP([q_t || s_t || q_t - s_t || q_t * s_t])      `EventScore`
    y   = sum_t softmax(a)_t s_t,   r = sum_t a_t          over the valid steps
    ```

    Parameters: those of `PositionQuery` and of `EventScore`.

    Args:
        hidden_units: Widths of the hidden layers that score an event.
        activation: Their activation, `"dice"`, `"prelu"` or the name of a Keras activation.
        matching_activation: f: `"prelu"` or the name of a Keras activation.
        position_dim, max_positions: As for `PositionQuery`.
        relevance: Whether r is returned.
        score_bias: Whether the scores have a bias where r is not returned: the softmax does not see it, r does and has it always.

    Call arguments:
        sequence: s, `(B, T, D)`.
        target: e, the candidate, `(B, E)`.
        context: c, what is known of an event beside its item, `(B, T, C)`; None = nothing.
        mask: `(B, T)` bool, True = valid; None = all valid.

    Returns:
        `(y, r)`, or y alone without `relevance`; zeros for an empty history.

    Raises:
        ValueError: On an argument out of range.

    Source: DMR (Lyu et al., AAAI 2020), item-to-item network.
    """

    one_row_arguments = ("sequence", "context", "mask")  # may have one row for all targets

    def __init__(
        self,
        hidden_units=(80, 40),
        *,
        activation="sigmoid",
        matching_activation="prelu",
        position_dim=8,
        max_positions=100,
        relevance=True,
        score_bias=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.hidden_units = check_units(self, "hidden_units", hidden_units)
        self.activation = activation_config(activation)
        self.matching_activation = activation_config(matching_activation)
        check_int(self, "position_dim", position_dim)
        check_int(self, "max_positions", max_positions)
        self.position_dim = position_dim
        self.max_positions = max_positions
        self.relevance = relevance
        self.score_bias = score_bias
        self.supports_masking = True

    def build(self, sequence_shape, target_shape, context_shape=None):
        _build_attention(self, sequence_shape, target_shape, context_shape, self.score_bias or self.relevance)
        self.built = True

    def call(self, sequence, target, context=None, *, mask=None, training=None):
        mask = all_valid(sequence) if mask is None else mask
        query = self.query(mask, target=target, context=context)  # (B, T, D)
        scores = self.score(query, sequence, mask=mask, training=training)  # (B, T)
        weights = ops.cast(masked_softmax(scores, mask), self.compute_dtype)
        pooled = ops.squeeze(ops.matmul(ops.expand_dims(weights, 1), sequence), 1)  # (B, D)
        if not self.relevance:
            return pooled
        relevance = ops.sum(ops.where(mask, ops.cast(scores, "float32"), 0.0), axis=1, keepdims=True)  # (B, 1)
        return pooled, ops.cast(relevance, self.compute_dtype)

    def compute_mask(self, sequence, previous_mask=None):
        return (None, None) if self.relevance else None  # always valid

    def compute_output_shape(self, sequence_shape, target_shape, context_shape=None):
        pooled = (sequence_shape[0], sequence_shape[-1])
        return (pooled, (sequence_shape[0], 1)) if self.relevance else pooled

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_units": list(self.hidden_units),
            "activation": self.activation,
            "matching_activation": self.matching_activation,
            "position_dim": self.position_dim,
            "max_positions": self.max_positions,
            "relevance": self.relevance,
            "score_bias": self.score_bias,
        }


@keras.saving.register_keras_serializable(package="keras_ctr")
class OutputEmbedding(keras.Layer):
    """Candidates and events in a second set of tables: map `{feature: ids} -> {"targets": {group: (B, V)}, ..}`, V = M D.

    A table for each that sequences with a target read, within a `FeatureEmbedding` named `embedding`, so that the recipes of
    `keras_ctr.optimizers` know its variable as a table. M counts the sequences of a group that have a target. Parameters: D times the rows
    of those tables.

    Args:
        schema: The fitted `Schema` (or its dict form); the `embedding_dim` and `embedding_initializer` options of its tables do not
            apply here.
        embedding_dim: D.
        negatives: Whether events and their sampled negatives are returned, too. They are looked up in training only, if negatives are
            given for the group; zeros stand for them otherwise.
        embedding_l2: Weight of `sum(rows^2) / B` over the rows gathered in a step, added to the loss.
        table_dtype: As for `FeatureEmbedding`.

    Call arguments:
        inputs: Dict with the targets `(B,)` int; with `negatives` also the sequences and `<name>_negatives`, `(B, T)` int or None.

    Returns:
        `"targets"` `{group: (B, V)}`; with `negatives` also `"events"` and `"negatives"` `{group: (B, T, V)}`, and `"negative_masks"`
        `{group: (B, T)}` bool, True where a negative was looked up.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: If no sequence of the schema has a target.

    Source: DMR (Lyu et al., AAAI 2020), the output embedding of its user-to-item network.
    """

    def __init__(self, schema, embedding_dim, *, negatives=False, embedding_l2=0.0, table_dtype=None, **kwargs):
        super().__init__(**kwargs)
        schema = schema if isinstance(schema, Schema) else Schema.from_dict(schema)
        schema.check_fitted()
        names = {name for s in schema.sequences if s.target for name in (s.name, s.target)}
        if not names:
            raise ValueError(f"OutputEmbedding '{self.name}': no sequence of the schema has a target, so there is nothing to look up")
        schema = schema.select(features=[name for name in schema.feature_names if name in names])
        # Sizes are enough: a vocabulary of millions of strings has no place in a model file.
        self.schema = schema.replace(features=[dataclasses.replace(f, vocabulary=None) for f in schema.features], group=None, time=None)
        self.groups = self.schema.sequence_groups
        # One field a table: all its ids of a step are read under that name.
        self.fields = {self.schema.table_of(s).name: s.target for members in self.groups.values() for s in members}
        own = OwnEmbedding(self.schema, self.fields.values(), embedding_dim).schema
        self.embedding = FeatureEmbedding(own, embedding_dim, table_dtype=table_dtype, name="embedding", dtype=self.dtype_policy)
        self.embedding_dim = embedding_dim
        self.negatives = negatives
        self.embedding_l2 = embedding_l2

    @property
    def input_names(self):
        """Names of the inputs that the layer reads."""
        members = [s for group in self.groups.values() for s in group]
        sequences = [key for s in members for key in (s.name, negatives_of(s.name))] if self.negatives else []
        return tuple(dict.fromkeys([*(s.target for s in members), *sequences]))

    def build(self, inputs_shape=None):
        self.embedding.build(inputs_shape)
        self.built = True

    def call(self, inputs, training=None):
        table = {s.name: self.schema.table_of(s).name for members in self.groups.values() for s in members}
        parts = {}  # what: [(table, ids (B, n)), ...], one for each attribute
        for group, members in self.groups.items():
            parts.update({("target", s.target): [(table[s.name], ops.expand_dims(inputs[s.target], 1))] for s in members})
            names = [negatives_of(s.name) for s in members]
            if self.negatives and training and all(inputs.get(name) is not None for name in names):
                parts["events", group] = [(table[s.name], inputs[s.name]) for s in members]
                parts["negatives", group] = [(table[s.name], inputs[name]) for s, name in zip(members, names, strict=True)]
        rows = self._rows(parts)
        targets = {group: [rows["target", s.target][:, 0] for s in members] for group, members in self.groups.items()}
        out = {"targets": {group: _side_by_side(found) for group, found in targets.items()}}  # (B, V)
        for group, members in self.groups.items() if self.negatives else ():
            steps = inputs[members[0].name]  # (B, T)
            mask = ops.zeros_like(steps, dtype="bool")
            for _, ids in parts.get(("negatives", group), ()):
                mask = ops.logical_or(mask, ops.not_equal(ids, PADDING_ID))
            out.setdefault("negative_masks", {})[group] = mask
            for kind in ("events", "negatives"):
                found = rows.get((kind, group))
                if found is None:
                    found = ops.expand_dims(ops.zeros_like(steps, dtype=self.compute_dtype), -1)  # (B, T, 1)
                    found = ops.repeat(found, len(members) * self.embedding_dim, axis=-1)
                out.setdefault(kind, {})[group] = found  # (B, T, V)
        return out

    def _rows(self, parts):
        """Returns `{what: (B, n, V)}` by one look-up: the ids of a table side by side, filled up to one length, each a row of a batch."""
        columns, places = {table: [] for table in self.fields}, {}
        for key, attributes in parts.items():
            places[key] = []
            for table, ids in attributes:
                places[key].append((table, sum(c.shape[1] for c in columns[table]), ids.shape[1]))
                columns[table].append(ops.cast(ids, "int32"))
        columns = {table: _side_by_side(ids) for table, ids in columns.items()}  # (B, n)
        length = max(ids.shape[1] for ids in columns.values())
        fill = {table: ((0, 0), (0, length - ids.shape[1])) for table, ids in columns.items()}
        columns = {table: ops.pad(ids, fill[table], constant_values=PADDING_ID) for table, ids in columns.items()}
        found = self.embedding({self.fields[table]: ops.reshape(ids, (-1,)) for table, ids in columns.items()})["fields"]  # (B n, F, D)
        names = [field.name for field in self.embedding.schema.fields]
        blocks = {}
        for table, ids in columns.items():
            block = ops.reshape(found[:, names.index(self.fields[table])], (-1, length, self.embedding_dim))  # (B, n, D)
            blocks[table] = block * ops.expand_dims(ops.cast(ops.not_equal(ids, PADDING_ID), block.dtype), -1)
            if self.embedding_l2:
                squares = ops.sum(ops.square(ops.cast(blocks[table], "float32")))
                self.add_loss(self.embedding_l2 * squares / ops.cast(ops.shape(ids)[0], "float32"))
        return {
            key: _side_by_side([blocks[table][:, start : start + steps] for table, start, steps in attributes])  # (B, steps, V)
            for key, attributes in places.items()
        }

    def compute_output_shape(self, inputs_shape):
        batch, dim = tuple(next(iter(inputs_shape.values())))[0], self.embedding_dim
        out = {"targets": {group: (batch, len(members) * dim) for group, members in self.groups.items()}}
        for kind in ("events", "negatives") if self.negatives else ():
            out[kind] = {group: (batch, members[0].max_length, len(members) * dim) for group, members in self.groups.items()}
        if self.negatives:
            out["negative_masks"] = {group: (batch, members[0].max_length) for group, members in self.groups.items()}
        return dict(sorted(out.items()))

    def compute_output_spec(self, inputs, training=None):
        shapes = self.compute_output_shape({name: tensor.shape for name, tensor in inputs.items()})
        kinds = {"negative_masks": "bool"}
        return {k: {g: keras.KerasTensor(s, dtype=kinds.get(k, self.compute_dtype)) for g, s in v.items()} for k, v in shapes.items()}

    def get_config(self):
        return {
            **super().get_config(),
            "schema": self.schema.to_dict(),
            "embedding_dim": self.embedding_dim,
            "negatives": self.negatives,
            "embedding_l2": self.embedding_l2,
            "table_dtype": self.embedding.table_dtype,
        }


@keras.saving.register_keras_serializable(package="keras_ctr")
class SelectAttributes(keras.Layer):
    """Some of the attributes that lie side by side: map `(..., M*D) -> (..., K*D)`. No weights.

    Args:
        positions: K places from 0 to M - 1, rising.
        num_attributes: M.

    Raises:
        ValueError: If there is no place, one is out of range, or M does not divide the width.
    """

    def __init__(self, positions, num_attributes, **kwargs):
        super().__init__(**kwargs)
        check_int(self, "num_attributes", num_attributes)
        self.positions = tuple(positions)
        if not self.positions or any(not 0 <= position < num_attributes for position in self.positions):
            raise ValueError(f"SelectAttributes '{self.name}': positions must be some of 0 to {num_attributes - 1}, got {positions!r}")
        self.num_attributes = num_attributes
        self.supports_masking = True

    def build(self, inputs_shape):
        if inputs_shape[-1] % self.num_attributes:
            raise ValueError(f"SelectAttributes '{self.name}': width {inputs_shape[-1]} is no multiple of {self.num_attributes} attributes")
        self.built = True

    def call(self, inputs):
        parts = ops.split(inputs, self.num_attributes, axis=-1)
        parts = [parts[position] for position in self.positions]
        return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)

    def compute_output_shape(self, inputs_shape):
        return (*tuple(inputs_shape)[:-1], inputs_shape[-1] // self.num_attributes * len(self.positions))

    def get_config(self):
        return {**super().get_config(), "positions": list(self.positions), "num_attributes": self.num_attributes}


def _build_attention(layer, sequence_shape, target_shape, context_shape, score_bias):
    """Gives a layer its `query` and `score`, built."""
    layer.query = PositionQuery(
        sequence_shape[-1],
        activation=layer.matching_activation,
        position_dim=layer.position_dim,
        max_positions=layer.max_positions,
        name="query",
        dtype=layer.dtype_policy,
    )
    layer.query.build(tuple(sequence_shape)[:2], target_shape, context_shape)
    layer.score = EventScore(layer.hidden_units, activation=layer.activation, score_bias=score_bias, name="score", dtype=layer.dtype_policy)
    layer.score.build(sequence_shape, sequence_shape)


def _side_by_side(parts):
    """Returns tensors joined on the last axis."""
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)


def _inner(a, b):
    """Returns the inner products over the last axis, float32."""
    return ops.sum(ops.cast(a, "float32") * ops.cast(b, "float32"), axis=-1)
