"""Deep Crossing: residual units on concatenated embeddings."""

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import flat_features
from keras_ctr.registry import register_model


@register_model(paper="https://doi.org/10.1145/2939672.2939704")
def DeepCrossing(
    schema,
    *,
    embedding_dim=16,
    hidden_units=(256, 256, 256),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="deep_crossing",
):
    """Deep Crossing: a stack of residual units on concatenated embeddings (Shan et al., KDD 2016).

    `logit = w . x_K + b` with `x_k = relu(relu(x_{k-1} W_1 + b_1) W_2 + b_2 + x_{k-1})` and
    `x_0 = [vec(E) || numerics || mean-pooled sequences]`, N0 wide as every x_k. Parameters beside the tables: `2 N0 u + u + N0` for a unit
    whose inner layer is u wide, and N0 + 1.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        hidden_units: Width of the inner layer of each residual unit, one a unit. The default is ours: the paper's sizes are for its data.
        dropout: Share of a unit's outputs dropped in training.
        batch_norm: Whether to normalise the sum in each unit, before its activation.
        hidden_activation: Activation of the inner layers and of the units.
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
    if not hidden_units:
        raise ValueError("DeepCrossing: hidden_units is empty; give the inner width of at least one residual unit")
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    x = flat_features(features, schema, embedding_dim, numeric=numeric)  # (B, N0)
    for index, units in enumerate(hidden_units):
        unit = layers.ResidualUnit(
            units, activation=hidden_activation, batch_norm=batch_norm, dropout=dropout, name=f"residual_unit_{index}"
        )
        x = unit(x)  # (B, N0)
    return CTRModel(inputs, predictions(logits(x, schema), schema, activation), name=name)
