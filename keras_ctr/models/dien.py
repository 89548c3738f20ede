"""Deep Interest Evolution Network."""

from keras_ctr import layers
from keras_ctr.layers.positional_attention import hidden_activation as hidden_unit
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import flat_parts, with_interests
from keras_ctr.registry import register_model


@register_model(paper="https://arxiv.org/abs/1809.03672", sequential=True)
def DIEN(
    schema,
    *,
    embedding_dim=16,
    evolution="augru",
    attention="bilinear",
    attention_units=(80, 40),
    attention_activation="dice",
    auxiliary="inner",
    auxiliary_units=(100, 50),
    auxiliary_weight=1.0,
    history_sum=True,
    hidden_units=(200, 80),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="dice",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="dien",
):
    """Deep Interest Evolution Network: a GRU over a history, and an attentional one over its states (Zhou et al., AAAI 2019).

    `logit = MLP([vec(E) || numerics || h' || S || e * S || ... ])`, for every group of sequences `h_t = GRU(s_t)`
    (`layers.InterestExtractor`), `h' = AUGRU(h, attention(h, e))` (`layers.InterestEvolution`), `S = sum_t s_t`, e the target, which
    is among the fields, too. A group none of whose sequences names a target is mean-pooled; a schema without sequences makes this the
    plain deep model.

    The auxiliary loss needs sampled negatives: every sequence of a group with a target has an optional input `<name>_negatives` `(B, T)`,
    step t of which stands beside event t. It is part of the loss in training wherever negatives are given; without them it is 0.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        evolution: The second GRU: `"augru"` (paper), `"augru_authors"` (its authors' code), `"agru"`, `"aigru"` or `"gru"`, see
            `layers.AUGRU`.
        attention: `"bilinear"` (paper) or `"din"` (its authors' code).
        attention_units: Widths of the hidden layers of `"din"`.
        attention_activation: Their activation: `"dice"` or the name of a Keras activation.
        auxiliary: How the loss compares a state with an event: `"inner"` (paper) or `"mlp"` (its authors' code).
        auxiliary_units: Widths of the hidden layers of `"mlp"`.
        auxiliary_weight: Weight of the auxiliary loss, 1 in the authors' code; 0 leaves it out, with the inputs for negatives.
        history_sum: Whether S and e * S enter the MLP, as in the authors' code.
        hidden_units: Widths of the MLP's hidden layers, as in the authors' code.
        dropout: Share of hidden units dropped in training.
        batch_norm: Whether to normalise before each hidden activation.
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
    negatives = [s.name for group in with_target for s in groups[group]] if auxiliary_weight else []
    inputs = build_inputs(schema, negatives=negatives)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, negatives=negatives, name="embedding")(inputs)

    def interest(group):
        parts = []
        events, mask = features["sequences"][group], features["masks"][group]  # (B, T, M*D), (B, T)
        target = features["targets"][group]  # (B, M*D)
        extractor = layers.InterestExtractor(
            auxiliary=auxiliary, auxiliary_units=auxiliary_units, auxiliary_weight=auxiliary_weight, name=f"extractor_{group}"
        )
        sampled = {"negative_mask": features["negative_masks"][group]} if negatives else {}
        states = extractor(events, features["negatives"][group] if negatives else None, mask=mask, **sampled)  # (B, T, M*D)
        evolve = layers.InterestEvolution(
            kind=evolution,
            attention=attention,
            attention_units=attention_units,
            attention_activation=attention_activation,
            name=f"evolution_{group}",
        )
        parts.append(evolve(states, target, mask=mask))  # (B, M*D)
        if history_sum:
            parts.append(layers.HistorySum(name=f"sum_{group}")(events, target, mask=mask))  # (B, 2*M*D)
        return parts

    flat = with_interests(flat_parts(features, schema, embedding_dim, numeric), features, schema, interest)  # (B, N0)
    unit = hidden_unit(hidden_activation)
    deep = layers.MLP(hidden_units, activation=unit, dropout=dropout, batch_norm=batch_norm, name="mlp")(flat)
    return CTRModel(inputs, predictions(logits(deep, schema), schema, activation), name=name)
