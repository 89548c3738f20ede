"""DOT: dot products of all pairs of features beside the features, under an MLP."""

import keras

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import field_tokens
from keras_ctr.registry import register_model


@register_model(paper="https://arxiv.org/abs/2411.09852")
def DOT(
    schema,
    *,
    embedding_dim=16,
    self_interaction=False,
    hidden_units=(512, 256),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="scale_embedding",
    embedding_l2=0.0,
    activation="sigmoid",
    name="dot",
):
    """DOT: pairwise dot products and the embeddings themselves into an MLP, a baseline of InterFormer (Zeng et al., 2024).

    `logit = MLP([vec(E) || p])`, E the tokens: fields, numerics, mean-pooled sequences; p the dot products of all their pairs. Parameters
    beside the tables: those of the MLP on `F D + F (F - 1) / 2` inputs.

    The paper names "DOT" in its Table 3 without an equation; this is the reading that keeps first-order terms. Unlike `DLRM` it has no
    bottom MLP, and all tokens pass on beside the products.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        self_interaction: Whether the dot products include those of a token with itself.
        hidden_units: Widths of the MLP's hidden layers.
        dropout: Share of hidden units dropped in training.
        batch_norm: Whether to normalise before each hidden activation.
        hidden_activation: Activation of the hidden layers.
        numeric: How numerics that are not binned become tokens: a `kind` of `layers.NumericTokens`, or a `layers.NumericTokens` as a
            prototype.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range, or a single token without a pair.
    """
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    tokens = field_tokens(features, schema, embedding_dim, numeric=numeric)  # (B, F, D)
    products = layers.DotInteraction(self_interaction=self_interaction, name="interaction")(tokens)  # (B, P)
    flat = keras.layers.Flatten(name="flat")(tokens)  # (B, F D)
    head = keras.layers.Concatenate(name="head")([flat, products])  # (B, F D + P)
    mlp = layers.MLP(hidden_units, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm, name="mlp")
    return CTRModel(inputs, predictions(logits(mlp(head), schema), schema, activation), name=name)
