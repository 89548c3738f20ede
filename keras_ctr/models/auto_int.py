"""AutoInt: self-attention over fields."""

import keras

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.fm import linear_logits, sum_logits
from keras_ctr.models.tokens import field_tokens
from keras_ctr.registry import register_model


@register_model(paper="https://arxiv.org/abs/1810.11921")
def AutoInt(
    schema,
    *,
    embedding_dim=16,
    num_layers=3,
    num_heads=2,
    key_dim=32,
    shortcut="projection",
    scale=False,
    hidden_units=(),
    linear=False,
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="scale_embedding",
    history_weights="shared",
    embedding_l2=0.0,
    activation="sigmoid",
    name="auto_int",
):
    """AutoInt: layers of multi-head self-attention let fields interact (Song et al., CIKM 2019); AutoInt+ with `hidden_units`.

    `logit = w . vec(X_L) + b` with `X_l = InteractingLayer(X_{l-1})` on the tokens X_0: fields, numerics, mean-pooled sequences. AutoInt+
    reads `[vec(X_L) || MLP(vec(X_0))]`. Parameters beside the tables: `4 D H E + (L - 1) 4 (H E)^2 + F H E + 1` for one label; with an MLP
    of last width U its own on F D inputs and U more.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        num_layers: L, interacting layers.
        num_heads: H.
        key_dim: E, the width of a head; a layer's tokens are H E wide.
        shortcut: `"projection"` (the paper), `"identity"` or None, see `layers.InteractingLayer`.
        scale: Whether to divide attention scores by sqrt(E). The paper does not.
        hidden_units: Widths of the MLP's hidden layers; empty for AutoInt, otherwise AutoInt+.
        linear: Whether to add a linear part with one weight per id, as some public implementations do.
        dropout: Share of attention weights and of hidden units dropped in training.
        batch_norm: Whether to normalise before each hidden activation of the MLP.
        hidden_activation: Activation of the hidden layers.
        numeric: How numerics that are not binned become tokens, `kind` of `layers.NumericTokens`.
        history_weights: `"shared"`: in the linear part a history reads the weights of the table that it names. `"own"`: it has weights of
            its own, as in the public benchmarks.
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
        raise ValueError(f"AutoInt: num_layers must be at least 1, got {num_layers!r}")
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    tokens = x = field_tokens(features, schema, embedding_dim, numeric=numeric)  # (B, F, D)
    for index in range(num_layers):
        attention = layers.InteractingLayer(
            num_heads, key_dim=key_dim, shortcut=shortcut, scale=scale, dropout=dropout, name=f"interacting_{index}"
        )
        x = attention(x)  # (B, F, H E)
    head = keras.layers.Flatten(name="flat_interactions")(x)  # (B, F H E)
    if hidden_units:
        mlp = layers.MLP(hidden_units, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm, name="mlp")
        deep = mlp(keras.layers.Flatten(name="flat")(tokens))  # (B, U)
        head = keras.layers.Concatenate(name="head")([head, deep])
    if linear:
        values = sum_logits([linear_logits(inputs, schema, history_weights), logits(head, schema, name="head_logits")])  # (B, L)
    else:
        values = logits(head, schema)
    return CTRModel(inputs, predictions(values, schema, activation), name=name)
