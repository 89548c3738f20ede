"""The first Deep & Cross Network."""

import keras

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import flat_features
from keras_ctr.registry import register_model


@register_model(paper="https://arxiv.org/abs/1708.05123")
def DCN(
    schema,
    *,
    embedding_dim=16,
    num_cross_layers=6,
    hidden_units=(1024, 1024),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="dcn",
):
    """Deep & Cross Network: crosses of bounded degree, two vectors of weights a layer, beside an MLP (Wang et al., ADKDD 2017).

    On x_0 = `[vec(E) || numerics || mean-pooled sequences]`, N0 wide: `x_{l+1} = x_0 (x_l . w_l) + b_l + x_l` and
    `logit = w . [x_L || MLP(x_0)] + b`. Parameters beside the tables: 2 N0 a cross layer, those of the MLP on N0 inputs, and
    N0 + hidden_units[-1] + 1. Full matrices in place of w_l are `DCNv2`. Default depths and widths are those of the paper's best model.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        num_cross_layers: L, cross layers; they make crosses of up to L + 1 inputs.
        hidden_units: Widths of the MLP's hidden layers; empty for the cross network alone.
        dropout: Share of hidden units dropped in training.
        batch_norm: Whether to normalise before each hidden activation; the paper does.
        hidden_activation: Activation of the hidden layers.
        numeric: How numerics that are not binned enter: `"raw"`, the numbers as they are; a `kind` of `layers.NumericTokens`, whose
            tokens are flattened; or a `layers.NumericTokens` as a prototype.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range.
    """
    if num_cross_layers < 1:
        raise ValueError(f"DCN: num_cross_layers must be at least 1, got {num_cross_layers!r}")
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    flat = flat_features(features, schema, embedding_dim, numeric=numeric)  # (B, N0)
    head = layers.CrossNetwork(num_cross_layers, parameterization="vector", name="cross")(flat)  # (B, N0)
    if hidden_units:
        mlp = layers.MLP(hidden_units, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm, name="mlp")
        head = keras.layers.Concatenate(name="head")([head, mlp(flat)])  # (B, N0 + U)
    return CTRModel(inputs, predictions(logits(head, schema), schema, activation), name=name)
