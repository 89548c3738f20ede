"""HSTU as a ranking model."""

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import flat_parts, with_interests
from keras_ctr.models.trans_act import group_of_gaps
from keras_ctr.registry import register_model


@register_model(paper="https://arxiv.org/abs/2402.17152", sequential=True)
def HSTU(
    schema,
    *,
    embedding_dim=16,
    num_layers=2,
    num_heads=1,
    key_dim=None,
    value_dim=None,
    max_length=200,
    time_gap=None,
    layer_norm_epsilon=0.1,
    hidden_units=(512, 256),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="hstu",
):
    """HSTU: gated pointwise attention over the events, the candidate last among them (Zhai et al., ICML 2024).

    `logit = MLP([vec(E) || numerics || u_1 || ...])`, for every group of sequences u, the candidate's output of HSTU layers over its events
    and its target (see `layers.HSTUEncoder`). A group none of whose sequences names a target is mean-pooled; a schema without sequences
    makes this the plain deep model.

    The paper makes every feature a token of one long sequence and reads the candidate's output alone; the fields and the MLP are those of
    the other ranking models here.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        num_layers: HSTU layers.
        num_heads: Heads of each.
        key_dim: Width of a head's queries and keys; None = the width of an event / heads.
        value_dim: Width of a head's values; None alike.
        max_length: n, what attention is divided by, and the number of relative positions, the candidate's included. It is no property of a
            batch: padding must not matter. Set it to the longest history and one.
        time_gap: Name of the sequence that holds the events' time gaps in buckets `2 + min(floor(log2(seconds + 1)), 31)`: the attention
            of its group gets a bias by the time between events. None = no time bias.
        layer_norm_epsilon: Added to the variance where the input of a layer is normalised. Embeddings start with a variance of 1e-4, so
            the default leaves rows that have hardly been trained small; 1e-6 would make them as large as the others (docs/deviations.md).
        hidden_units: Widths of the MLP's hidden layers.
        dropout: Share of the gated values and of the MLP's hidden units dropped in training.
        batch_norm: Whether the MLP normalises before each hidden activation.
        hidden_activation: Activation of the MLP's hidden layers.
        numeric: How numerics that are not binned enter: `"raw"`, the numbers as they are, or a `kind` of `layers.NumericTokens`:
            `"scale_embedding"` and `"bucketize"` make one D-wide token each, `"bottom_mlp"` and `"dense_projection"` one for all.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range, or a `time_gap` that is no sequence.
    """
    gap_group = group_of_gaps("HSTU", schema, time_gap)
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)

    def interest(group):
        timed = group == gap_group
        encoder = layers.HSTUEncoder(
            num_layers,
            num_heads=num_heads,
            key_dim=key_dim,
            value_dim=value_dim,
            max_length=max_length,
            use_time=timed,
            dropout=dropout,
            epsilon=layer_norm_epsilon,
            name=f"encoder_{group}",
        )
        events, mask = features["sequences"][group], features["masks"][group]  # (B, T, M*D), (B, T)
        return [encoder(features["targets"][group], events, mask=mask, gaps=inputs[time_gap] if timed else None)]  # (B, M*D)

    flat = with_interests(flat_parts(features, schema, embedding_dim, numeric), features, schema, interest)  # (B, N0)
    mlp = layers.MLP(hidden_units, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm, name="mlp")
    return CTRModel(inputs, predictions(logits(mlp(flat), schema), schema, activation), name=name)
