"""Deep Multi-Interest Network."""

import keras

from keras_ctr import layers
from keras_ctr.layers.mlp import BATCH_NORM_MOMENTUM
from keras_ctr.layers.positional_attention import hidden_activation as hidden_unit
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import flat_parts, with_interests
from keras_ctr.registry import register_model


@register_model(paper="https://doi.org/10.1145/3340531.3412092", sequential=True)
def DMIN(
    schema,
    *,
    embedding_dim=16,
    num_heads=4,
    ffn_dim=None,
    use_refiner=True,
    refiner_bias=False,
    causal=True,
    layer_norm_epsilon=0.1,
    attention_units=(80, 40),
    attention_activation="sigmoid",
    position_dim=4,
    max_positions=100,
    score_bias=False,
    auxiliary="inner",
    auxiliary_units=(100, 50),
    auxiliary_weight=1.0,
    history_sum=True,
    hidden_units=(200, 80),
    dropout=0.0,
    batch_norm=False,
    input_batch_norm=False,
    hidden_activation="dice",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="dmin",
):
    """Deep Multi-Interest Network: self-attention over a history, one interest from each head (Xiao et al., CIKM 2020).

    `logit = MLP([vec(E) || numerics || i_1 || .. || i_H || S || e * S || ... ])`, for every group of sequences R the events refined by
    causal self-attention (`layers.BehaviorRefiner`), i_h what head h of a second self-attention finds in R for the target
    (`layers.MultiInterestExtractor`), `S = sum_t s_t`, e the group's target, which is among the fields, too. A group none of whose
    sequences names a target is mean-pooled; a schema without sequences makes this the plain deep model.

    The auxiliary loss needs sampled negatives: every sequence of a group with a target has an optional input `<name>_negatives` `(B, T)`,
    step t of which stands beside event t. It is part of the loss in training wherever negatives are given; without them it is 0.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        num_heads: H, of both attentions; must divide the width of an event, D times the sequences of its group.
        ffn_dim: Hidden width of the feed-forward networks; None = twice the width of an event.
        use_refiner: Whether events are refined; without, there is no auxiliary loss either.
        refiner_bias: `use_bias` of `layers.BehaviorRefiner`.
        causal: Whether the heads of the extractor see events up to their own only.
        layer_norm_epsilon: Added to an event's variance where it is normalised. Embeddings start with a variance of 1e-4, so the default
            leaves rows that have hardly been trained small; 1e-6 would make them as large as the others (docs/deviations.md).
        attention_units: Widths of the hidden layers that score an event.
        attention_activation: Their activation: `"dice"`, `"prelu"` or the name of a Keras activation.
        position_dim: Width of a position vector.
        max_positions: Positions told apart, counted from the newest event; older events share the last one.
        score_bias: Whether the scores have a bias, which a softmax does not see; public parameter counts have it.
        auxiliary: How the loss compares a refined event with the next one: `"inner"` or `"mlp"` (authors' code).
        auxiliary_units: Widths of the hidden layers of `"mlp"`.
        auxiliary_weight: Weight of the auxiliary loss; 0 leaves it out, with the inputs for negatives.
        history_sum: Whether S and e * S enter the MLP, as in the authors' code.
        hidden_units: Widths of the MLP's hidden layers, as in the authors' code.
        dropout: Share of hidden units dropped in training, in the MLP and of what the attentions add.
        batch_norm: Whether to normalise before each hidden activation.
        input_batch_norm: Whether to normalise the MLP's input.
        hidden_activation: `"dice"`, `"prelu"` or the name of a Keras activation.
        numeric: How numerics that are not binned enter: `"raw"`, the numbers as they are, or a `kind` of `layers.NumericTokens`:
            `"scale_embedding"` and `"bucketize"` make one D-wide token each, `"bottom_mlp"` and `"dense_projection"` one for all.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range.
    """
    groups = schema.sequence_groups
    with_target = [group for group, members in groups.items() if any(s.target for s in members)]
    negatives = [s.name for group in with_target for s in groups[group]] if auxiliary_weight and use_refiner else []
    inputs = build_inputs(schema, negatives=negatives)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, negatives=negatives, name="embedding")(inputs)

    def interest(group):
        parts = []
        events, mask = features["sequences"][group], features["masks"][group]  # (B, T, M*D), (B, T)
        target, refined = features["targets"][group], events  # (B, M*D), (B, T, M*D)
        if use_refiner:
            refiner = layers.BehaviorRefiner(
                num_heads,
                ffn_dim=ffn_dim,
                use_bias=refiner_bias,
                dropout=dropout,
                epsilon=layer_norm_epsilon,
                auxiliary=auxiliary,
                auxiliary_units=auxiliary_units,
                auxiliary_weight=auxiliary_weight,
                name=f"refiner_{group}",
            )
            sampled = {"negative_mask": features["negative_masks"][group]} if negatives else {}
            refined = refiner(events, features["negatives"][group] if negatives else None, mask=mask, **sampled)
        extract = layers.MultiInterestExtractor(
            num_heads,
            ffn_dim=ffn_dim,
            causal=causal,
            attention_units=attention_units,
            attention_activation=attention_activation,
            position_dim=position_dim,
            max_positions=max_positions,
            score_bias=score_bias,
            dropout=dropout,
            epsilon=layer_norm_epsilon,
            name=f"interests_{group}",
        )
        interests = extract(refined, target, mask=mask)  # (B, H, M*D)
        parts.append(keras.layers.Flatten(name=f"flat_{group}")(interests))  # (B, H*M*D)
        if history_sum:
            parts.append(layers.HistorySum(name=f"sum_{group}")(events, target, mask=mask))  # (B, 2*M*D)
        return parts

    flat = with_interests(flat_parts(features, schema, embedding_dim, numeric), features, schema, interest)  # (B, N0)
    if input_batch_norm:
        flat = keras.layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, name="input_norm")(flat)
    unit = hidden_unit(hidden_activation)
    deep = layers.MLP(hidden_units, activation=unit, dropout=dropout, batch_norm=batch_norm, name="mlp")(flat)
    return CTRModel(inputs, predictions(logits(deep, schema), schema, activation), name=name)
