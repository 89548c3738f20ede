"""Wukong: stacked factorization machines."""

import keras

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import field_tokens
from keras_ctr.registry import register_model


@register_model(paper="https://arxiv.org/abs/2403.02545")
def Wukong(
    schema,
    *,
    embedding_dim=16,
    num_layers=3,
    fm_tokens=16,
    linear_tokens=16,
    rank=24,
    fm_hidden_units=(512,),
    hidden_units=(512, 256),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="scale_embedding",
    embedding_l2=0.0,
    activation="sigmoid",
    name="wukong",
):
    """Wukong: layers of factorization machines over tokens, built to scale (Zhang et al., ICML 2024).

    `logit = MLP(vec(X_L))` with `X_l = LayerNorm([FMB(X_{l-1}) ; LCB(X_{l-1})] + R(X_{l-1}))` on the tokens X_0: fields, numerics,
    mean-pooled sequences. Layer l holds interactions of up to 2^l tokens. Parameters beside the tables: those of each
    `layers.WukongLayer`, and of the MLP on (m + n) D inputs.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        num_layers: L.
        fm_tokens: m, tokens that the factorization machine of a layer puts out.
        linear_tokens: n, tokens that the linear compression of a layer puts out.
        rank: k of the factorization machine's projection; None for all dot products.
        fm_hidden_units: Hidden widths of the MLP within a factorization machine block.
        hidden_units: Widths of the last MLP's hidden layers.
        dropout: Share of the last MLP's hidden units dropped in training.
        batch_norm: Whether the last MLP normalises before each hidden activation.
        hidden_activation: Activation of all hidden layers.
        numeric: How numerics that are not binned become tokens, `kind` of `layers.NumericTokens`.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range.
    """
    if num_layers < 1:
        raise ValueError(f"Wukong: num_layers must be at least 1, got {num_layers!r}")
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    x = field_tokens(features, schema, embedding_dim, numeric=numeric)  # (B, F, D)
    for index in range(num_layers):
        layer = layers.WukongLayer(
            fm_tokens,
            linear_tokens,
            rank=rank,
            hidden_units=fm_hidden_units,
            activation=hidden_activation,
            name=f"wukong_{index}",
        )
        x = layer(x)  # (B, m + n, D)
    flat = keras.layers.Flatten(name="flat")(x)  # (B, (m + n) D)
    deep = layers.MLP(hidden_units, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm, name="mlp")(flat)  # (B, U)
    return CTRModel(inputs, predictions(logits(deep, schema), schema, activation), name=name)
