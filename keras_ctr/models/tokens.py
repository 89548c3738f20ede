"""How non-sequential architectures see a schema: as field tokens or as one flat vector."""

import keras

from keras_ctr import layers
from keras_ctr.schema import nearest

FLAT_NUMERICS = ("raw", *layers.NumericTokens.KINDS)
"""How architectures on one flat vector may take numerics."""


def field_tokens(features, schema, embedding_dim, *, numeric="scale_embedding"):
    """Returns all features as tokens `(B, F', D)`: fields, then numerics, then one mean-pooled token a sequence.

    Args:
        features: What `FeatureEmbedding` returned.
        schema: The schema.
        embedding_dim: D.
        numeric: `kind` of `layers.NumericTokens`.
    """
    tokens = []
    if "fields" in features:
        tokens.append(features["fields"])  # (B, F, D)
    if "numeric" in features:
        tokens.append(layers.NumericTokens(embedding_dim, kind=numeric, name="numeric_tokens")(features["numeric"]))  # (B, N', D)
    tokens += pooled_sequences(features, schema)  # (B, M, D) each
    return tokens[0] if len(tokens) == 1 else keras.layers.Concatenate(axis=1, name="tokens")(tokens)


def flat_features(features, schema, embedding_dim, *, numeric="raw"):
    """Returns all features as one vector `(B, F*D + N' + M*D)`: fields, numerics, mean-pooled sequences.

    Args:
        features: What `FeatureEmbedding` returned.
        schema: The schema.
        embedding_dim: D.
        numeric: One of `FLAT_NUMERICS`: `"raw"` for the numbers as they are (N' = N), or a `kind` of `layers.NumericTokens`, whose tokens
            are flattened: `"scale_embedding"` (N' = N*D), `"dense_projection"` (N' = D).

    Raises:
        ValueError: On another `numeric`.
    """
    if numeric not in FLAT_NUMERICS:
        raise ValueError(f"numeric must be one of {FLAT_NUMERICS}, got {numeric!r}{nearest(numeric, FLAT_NUMERICS)}")
    parts = []
    if "fields" in features:
        parts.append(keras.layers.Flatten(name="flat_fields")(features["fields"]))  # (B, F*D)
    if "numeric" in features and numeric == "raw":
        parts.append(features["numeric"])  # (B, N)
    elif "numeric" in features:
        tokens = layers.NumericTokens(embedding_dim, kind=numeric, name="numeric_tokens")(features["numeric"])  # (B, N', D)
        parts.append(keras.layers.Flatten(name="flat_numeric")(tokens))  # (B, N'*D)
    for index, pooled in enumerate(pooled_sequences(features, schema)):
        parts.append(keras.layers.Flatten(name=f"flat_sequences_{index}")(pooled))  # (B, M*D)
    return parts[0] if len(parts) == 1 else keras.layers.Concatenate(name="flat")(parts)


def pooled_sequences(features, schema):
    """Returns one `(B, M, D)` tensor a group of sequences: the mean over each sequence's valid events, zeros for an empty history."""
    pooled = []
    for group, members in schema.sequence_groups.items():
        pool = layers.SequencePooling(len(members), name=f"pool_{group}")
        pooled.append(pool(features["sequences"][group], mask=features["masks"][group]))
    return pooled
