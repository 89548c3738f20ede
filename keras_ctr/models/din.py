"""Deep Interest Network."""

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import flat_parts, with_interests
from keras_ctr.registry import register_model


@register_model(paper="https://arxiv.org/abs/1706.06978", sequential=True)
def DIN(
    schema,
    *,
    embedding_dim=16,
    attention_units=(80, 40),
    attention_activation="dice",
    use_softmax=False,
    hidden_units=(200, 80),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="dice",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="din",
):
    """Deep Interest Network: histories weighted by their relevance for the candidate (Zhou et al., KDD 2018).

    `logit = MLP([vec(E) || numerics || u_1 || ... ])`, for every group of sequences `u = sum_t a_t s_t`,
    `a_t = MLP_a([e || s_t || e - s_t || e * s_t])`, e the group's target (see `layers.TargetAttention`). The target is among the fields,
    so e enters the MLP as it is, too. A group none of whose sequences names a target is mean-pooled; a schema without sequences makes
    this the plain deep model.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        attention_units: Widths of the hidden layers that score an event. The paper has 36, its authors' later codes 80 and 40.
        attention_activation: `"dice"` or the name of a Keras activation.
        use_softmax: Whether the weights of a history sum to 1. Not in the paper; public benchmarks use it on some data sets.
        hidden_units: Widths of the MLP's hidden layers.
        dropout: Share of hidden units dropped in training.
        batch_norm: Whether to normalise before each hidden activation.
        hidden_activation: `"dice"` or the name of a Keras activation.
        numeric: How numerics that are not binned enter: `"raw"`, the numbers as they are, or a `kind` of `layers.NumericTokens`:
            `"scale_embedding"` and `"bucketize"` make one D-wide token each, `"bottom_mlp"` and `"dense_projection"` one for all.
        embedding_l2: `embedding_l2` of `layers.FeatureEmbedding`, in the place of the paper's mini-batch aware L2: rows of the batch only,
            but weighted by their count in it, where the paper divides by their frequency in the data.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range.
    """
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)

    def interest(group):
        attention = layers.TargetAttention(
            attention_units, activation=attention_activation, use_softmax=use_softmax, name=f"attention_{group}"
        )
        return [attention(features["targets"][group], features["sequences"][group], mask=features["masks"][group])]  # (B, M*D)

    flat = with_interests(flat_parts(features, schema, embedding_dim, numeric), features, schema, interest)  # (B, N0)
    unit = layers.Dice() if hidden_activation == "dice" else hidden_activation
    deep = layers.MLP(hidden_units, activation=unit, dropout=dropout, batch_norm=batch_norm, name="mlp")(flat)
    return CTRModel(inputs, predictions(logits(deep, schema), schema, activation), name=name)
