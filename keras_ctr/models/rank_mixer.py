"""RankMixer."""

import keras

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, predictions
from keras_ctr.models.tokens import flat_parts, with_interests
from keras_ctr.registry import register_model


@register_model(paper="https://arxiv.org/abs/2507.15551", sequential=True, multi_task=True)
def RankMixer(
    schema,
    *,
    embedding_dim=16,
    num_layers=2,
    num_tokens=16,
    hidden_dim=64,
    expansion=4,
    attention_units=(80, 40),
    attention_activation="dice",
    layer_norm_epsilon=0.1,
    tower_units=(128, 64),
    dropout=0.0,
    hidden_activation="relu",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="rank_mixer",
):
    """RankMixer: tokens that exchange parts of themselves and grow by networks of their own (Zhu et al., CIKM 2025).

    `z_i = tower_i(mean_t X_L[t])` for label i, `X_l = RankMixerBlock(X_{l-1})`, and X_0 `(B, T, D)` the vector
    `[vec(E) || numerics || u_1 || ...]` of width N0 cut in T equal pieces, each projected by itself (see `layers.SemanticTokens`). u is
    a group of sequences, as in DIN: the sum of its events weighted by their relevance for the candidate, or the mean where none of its
    sequences names a target. Pieces follow the order of the schema: features that belong together should stand together.

    Parameters beside tables, attention and towers: `(N0 + T) D + L (T (2 k D^2 + (k + 1) D) + 4 D)`.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: Width of an embedding.
        num_layers: L; the paper has 2.
        num_tokens: T, as in the paper's smaller model; it has 32 in the larger. At most N0.
        hidden_dim: D, a multiple of T. The paper's models of 100 million and a billion parameters have 768 and 1536.
        expansion: k, the width of a token's hidden layer over D.
        attention_units: Widths of the hidden layers that score an event, as in `DIN`.
        attention_activation: `"dice"` or the name of a Keras activation.
        layer_norm_epsilon: Added to a token's variance where it is normalised. Embeddings start with a variance of 1e-4, so the default
            leaves rows that have hardly been trained small; 1e-6 would make them as large as the others (docs/deviations.md).
        tower_units: Widths of a tower's hidden layers, ours.
        dropout: Share of the hidden units of tokens and towers dropped in training.
        hidden_activation: Activation of the towers' hidden layers; a token's is GELU.
        numeric: How numerics that are not binned enter: `"raw"`, the numbers as they are, or a `kind` of `layers.NumericTokens`:
            `"scale_embedding"` and `"bucketize"` make one embedding each, `"bottom_mlp"` and `"dense_projection"` one for all.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range, tokens that do not divide their width, or fewer numbers than tokens.
    """
    if not isinstance(num_layers, int) or num_layers < 1:
        raise ValueError(f"RankMixer: num_layers must be an int of at least 1, got {num_layers!r}")
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)

    def interest(group):
        attention = layers.TargetAttention(attention_units, activation=attention_activation, name=f"attention_{group}")
        return [attention(features["targets"][group], features["sequences"][group], mask=features["masks"][group])]  # (B, M*D)

    flat = with_interests(flat_parts(features, schema, embedding_dim, numeric), features, schema, interest)  # (B, N0)
    x = layers.SemanticTokens(num_tokens, hidden_dim, name="tokens")(flat)  # (B, T, D)
    for index in range(num_layers):
        x = layers.RankMixerBlock(expansion, dropout=dropout, epsilon=layer_norm_epsilon, name=f"block_{index}")(x)  # (B, T, D)
    pooled = keras.layers.GlobalAveragePooling1D(name="pool")(x)  # (B, D)
    towers = layers.TaskTowers(len(schema.labels), tower_units, activation=hidden_activation, dropout=dropout, name="logits")
    return CTRModel(inputs, predictions(towers(pooled), schema, activation), name=name)
