"""The plain deep model: embeddings and a multi-layer perceptron."""

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import flat_features
from keras_ctr.registry import register_model


@register_model(paper="https://doi.org/10.1145/2959100.2959190")
def DNN(
    schema,
    *,
    embedding_dim=16,
    hidden_units=(512, 256, 128),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="dnn",
):
    """Deep neural network on concatenated embeddings (Covington et al., RecSys 2016).

    `logit = MLP([vec(E) || numerics || mean-pooled sequences])`. Parameters beside the tables: those of the MLP on N0 = F D + N + M D
    inputs (N D or D instead of N, and N D more parameters, if `numeric` makes tokens).

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        hidden_units: Widths of the hidden layers.
        dropout: Share of hidden units dropped in training.
        batch_norm: Whether to normalise before each hidden activation.
        hidden_activation: Activation of the hidden layers.
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
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    flat = flat_features(features, schema, embedding_dim, numeric=numeric)  # (B, N0)
    deep = layers.MLP(hidden_units, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm, name="mlp")(flat)
    return CTRModel(inputs, predictions(logits(deep, schema), schema, activation), name=name)
