"""DLRM: dot products between embeddings and one token for all numerics."""

import keras

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import numeric_tokens, pooled_sequences
from keras_ctr.registry import register_model

INTERACTIONS = ("dot", "cat")


@register_model(paper="https://arxiv.org/abs/1906.00091")
def DLRM(
    schema,
    *,
    embedding_dim=16,
    interaction="dot",
    self_interaction=False,
    bottom_units=(512, 256, 64),
    hidden_units=(512, 256),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="bottom_mlp",
    embedding_l2=0.0,
    activation="sigmoid",
    name="dlrm",
):
    """DLRM: an MLP turns the numerics into a token, and all pairs of tokens meet in dot products (Naumov et al., 2019).

    `logit = MLP_top([y || p])`, `y = MLP_bottom(numerics)` D wide, p the dot products of all pairs of the tokens T: fields, y, mean-pooled
    sequences; with `interaction="cat"` `MLP_top(vec(T))`. Parameters beside the tables: those of the bottom MLP `N -> bottom_units -> D`
    and of the top MLP on `D + F (F - 1) / 2` inputs, F tokens. The defaults are the authors' code's for Criteo Kaggle.

    Without numerics there is no y: the top MLP reads p alone (vec(T) with `"cat"`). With a `numeric` of N tokens y is their vec.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        interaction: `"dot"` for dot products, `"cat"` for the concatenated tokens.
        self_interaction: Whether the dot products include those of a token with itself; `"dot"` only.
        bottom_units: Hidden widths of the bottom MLP, whose last layer is D wide; each layer, the last one too, has `hidden_activation`.
            Used with `numeric="bottom_mlp"`.
        hidden_units: Widths of the top MLP's hidden layers.
        dropout: Share of the top MLP's hidden units dropped in training.
        batch_norm: Whether the top MLP normalises before each hidden activation.
        hidden_activation: Activation of the hidden layers.
        numeric: How numerics that are not binned become tokens: `"bottom_mlp"`, another `kind` of `layers.NumericTokens`, or a
            `layers.NumericTokens` as a prototype.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range, `self_interaction` with `"cat"`, or a single token without a pair.
    """
    if interaction not in INTERACTIONS:
        raise ValueError(f"DLRM: interaction must be one of {INTERACTIONS}, got {interaction!r}")
    if self_interaction and interaction == "cat":
        raise ValueError("DLRM: self_interaction adds dot products, interaction='cat' has none; set interaction='dot'")
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    y, tokens = numerics_and_tokens(
        features, schema, embedding_dim, numeric=numeric, bottom_units=bottom_units, hidden_activation=hidden_activation
    )  # (B, N' D), (B, F, D)
    if interaction == "dot":
        head = layers.DotInteraction(self_interaction=self_interaction, name="interaction")(tokens)  # (B, P)
        head = head if y is None else keras.layers.Concatenate(name="head")([y, head])  # (B, N' D + P)
    else:
        head = keras.layers.Flatten(name="interaction")(tokens)  # (B, F D)
    mlp = layers.MLP(hidden_units, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm, name="mlp")
    return CTRModel(inputs, predictions(logits(mlp(head), schema), schema, activation), name=name)


def numerics_and_tokens(features, schema, embedding_dim, *, numeric, bottom_units, hidden_activation):
    """Returns the numerics' tokens flattened, `(B, N' D)` or None without numerics, and all tokens `(B, F', D)` as `field_tokens` has them.

    Args:
        features: What `FeatureEmbedding` returned.
        schema: The schema.
        embedding_dim: D.
        numeric: See `tokens.numeric_tokens`.
        bottom_units: Hidden widths of `numeric="bottom_mlp"`.
        hidden_activation: Its activation.
    """
    if isinstance(numeric, str) and numeric == "bottom_mlp":
        numeric = layers.NumericTokens(embedding_dim, kind=numeric, hidden_units=bottom_units, activation=hidden_activation)
    y, tokens = None, []
    if "fields" in features:
        tokens.append(features["fields"])  # (B, F, D)
    if "numeric" in features:
        tokens.append(numeric_tokens(features, schema, embedding_dim, numeric))  # (B, N', D)
        y = keras.layers.Flatten(name="flat_numeric")(tokens[-1])  # (B, N' D)
    tokens += pooled_sequences(features, schema)  # (B, M, D) each
    return y, tokens[0] if len(tokens) == 1 else keras.layers.Concatenate(axis=1, name="tokens")(tokens)
