"""Deep Match to Rank."""

import keras

from keras_ctr import layers
from keras_ctr.layers.mlp import BATCH_NORM_MOMENTUM
from keras_ctr.layers.positional_attention import hidden_activation as hidden_unit
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import flat_parts, with_interests
from keras_ctr.registry import register_model
from keras_ctr.schema import nearest

ITEM_TO_ITEM = ("full", "pooled", "off")
"""What of the item-to-item network enters the MLP."""


@register_model(paper="https://doi.org/10.1609/aaai.v34i01.5346", sequential=True)
def DMR(
    schema,
    *,
    embedding_dim=16,
    user_to_item=True,
    item_to_item="full",
    attention_units=(80, 40),
    attention_activation="sigmoid",
    matching_activation="prelu",
    position_dim=8,
    max_positions=100,
    score_bias=False,
    transitions="last",
    auxiliary_weight=0.1,
    history_sum=True,
    hidden_units=(512, 256, 128),
    dropout=0.0,
    batch_norm=False,
    input_batch_norm=False,
    hidden_activation="prelu",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="dmr",
):
    """Deep Match to Rank: the relevance of the item for the user, found by two matching networks, as features (Lyu et al., AAAI 2020).

    `logit = MLP([vec(E) || numerics || y || r_i2i || r_u2i || S || e * S || ... ])`, for every group of sequences `r_u2i = <u, v'>` of the
    history's user vector and the target in a second table (`layers.User2ItemNetwork`, `layers.OutputEmbedding`), y the events pooled by
    their similarity to the target and r_i2i their summed similarity (`layers.Item2ItemNetwork`), `S = sum_t s_t`, e the group's target,
    which is among the fields, too. Sequences without a target in a group with one (a type of action, a time gap) are the context c_t of
    its events. A group none of whose sequences names a target is mean-pooled; a schema without sequences makes this the plain deep model.

    The auxiliary loss needs sampled negatives: every sequence with a target has an optional input `<name>_negatives` `(B, T)`, step t of
    which stands beside event t. It is part of the loss in training wherever negatives are given; without them it is 0.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        user_to_item: Whether there is a user-to-item network, with its second table and loss.
        item_to_item: `"full"` for y and r_i2i, `"pooled"` for y alone, `"off"` for neither.
        attention_units: Widths of the hidden layers that score an event.
        attention_activation: Their activation: `"dice"`, `"prelu"` or the name of a Keras activation.
        matching_activation: Activation of queries and user vectors: `"prelu"` or the name of a Keras activation.
        position_dim: Width of a position vector.
        max_positions: Positions told apart, counted from the newest event; older events share the last one.
        score_bias: Whether scores that only a softmax sees have a bias, which it does not see; public parameter counts have it.
        transitions: Which events the auxiliary loss predicts from those before: `"last"`, the newest of a history, or `"all"`.
        auxiliary_weight: Weight of the auxiliary loss; 0 leaves it out, with the inputs for negatives.
        history_sum: Whether S and e * S enter the MLP, as in the authors' code.
        hidden_units: Widths of the MLP's hidden layers.
        dropout: Share of hidden units dropped in training.
        batch_norm: Whether to normalise before each hidden activation.
        input_batch_norm: Whether to normalise the MLP's input, as the authors' code does (docs/deviations.md).
        hidden_activation: `"dice"`, `"prelu"` or the name of a Keras activation.
        numeric: How numerics that are not binned enter: `"raw"`, the numbers as they are, or a `kind` of `layers.NumericTokens`:
            `"scale_embedding"` and `"bucketize"` make one D-wide token each, `"bottom_mlp"` and `"dense_projection"` one for all.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`; of the second table, too.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range.
    """
    if item_to_item not in ITEM_TO_ITEM:
        raise ValueError(f"DMR: item_to_item must be one of {ITEM_TO_ITEM}, got {item_to_item!r}{nearest(item_to_item, ITEM_TO_ITEM)}")
    groups = schema.sequence_groups
    with_target = [group for group, members in groups.items() if any(s.target for s in members)]
    negatives = [s.name for s in schema.sequences if s.target] if auxiliary_weight and user_to_item else []
    inputs = build_inputs(schema, negatives=negatives)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(
        {key: inputs[key] for key in schema.feature_names}
    )
    output = {}
    if with_target and user_to_item:
        second = layers.OutputEmbedding(schema, embedding_dim, negatives=bool(negatives), embedding_l2=embedding_l2, name="output")
        output = second({key: inputs[key] for key in second.input_names})
    shared = {
        "activation": attention_activation,
        "matching_activation": matching_activation,
        "position_dim": position_dim,
        "max_positions": max_positions,
        "score_bias": score_bias,
    }

    def interest(group):
        members, parts = groups[group], []
        events, mask = features["sequences"][group], features["masks"][group]  # (B, T, M*D), (B, T)
        items = [i for i, s in enumerate(members) if s.target]
        others = [i for i, s in enumerate(members) if not s.target]
        target, context = features["targets"][group], None
        if others:
            context = layers.SelectAttributes(others, len(members), name=f"context_{group}")(events)  # (B, T, C)
            events = layers.SelectAttributes(items, len(members), name=f"items_{group}")(events)  # (B, T, V)
            target = layers.SelectAttributes(items, len(members), name=f"target_{group}")(target)  # (B, V)
        if item_to_item != "off":
            full = item_to_item == "full"
            similar = layers.Item2ItemNetwork(attention_units, relevance=full, **shared, name=f"item_to_item_{group}")
            found = similar(events, target, context, mask=mask)
            parts += list(found) if full else [found]  # (B, V), (B, 1)
        if user_to_item:
            match = layers.User2ItemNetwork(
                attention_units, **shared, transitions=transitions, auxiliary_weight=auxiliary_weight, name=f"user_to_item_{group}"
            )
            names = {"events": "events", "negatives": "negatives", "negative_mask": "negative_masks"} if negatives else {}
            sampled = {argument: output[key][group] for argument, key in names.items()}
            parts.append(match(events, output["targets"][group], context, mask=mask, **sampled))  # (B, 1)
        if history_sum:
            parts.append(layers.HistorySum(name=f"sum_{group}")(events, target, mask=mask))  # (B, 2 V)
        return parts

    flat = with_interests(flat_parts(features, schema, embedding_dim, numeric), features, schema, interest)  # (B, N0)
    if input_batch_norm:
        flat = keras.layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, name="input_norm")(flat)
    unit = hidden_unit(hidden_activation)
    deep = layers.MLP(hidden_units, activation=unit, dropout=dropout, batch_norm=batch_norm, name="mlp")(flat)
    return CTRModel(inputs, predictions(logits(deep, schema), schema, activation), name=name)
