"""How non-sequential architectures see a schema: as field tokens or as one flat vector."""

import keras

from keras_ctr import layers
from keras_ctr.schema import nearest

FLAT_NUMERICS = ("raw", *layers.NumericTokens.KINDS)
"""How architectures on one flat vector may take numerics."""


def numeric_tokens(features, schema, embedding_dim, numeric):
    """Returns the numerics as tokens `(B, N', D)`.

    Args:
        features: What `FeatureEmbedding` returned, with `"numeric"`.
        schema: The schema.
        embedding_dim: D.
        numeric: `kind` of `layers.NumericTokens`, or a `layers.NumericTokens` as a prototype (for another bottom MLP or other bins).

    Raises:
        ValueError: On an unknown kind, or a prototype of another width.
    """
    prototype = numeric if isinstance(numeric, layers.NumericTokens) else layers.NumericTokens(embedding_dim, kind=numeric)
    if prototype.embedding_dim != embedding_dim:
        raise ValueError(f"numeric: the NumericTokens given are {prototype.embedding_dim} wide, the embeddings {embedding_dim}")
    config = {**prototype.get_config(), "name": "numeric_tokens"}
    if config["kind"] == "bucketize" and config["transforms"] is None:
        config["transforms"] = [(f.transform, f.mean, f.std) for f in schema.numerics]
    return layers.NumericTokens.from_config(config)(features["numeric"])  # (B, N', D)


def field_tokens(features, schema, embedding_dim, *, numeric="scale_embedding"):
    """Returns all features as tokens `(B, F', D)`: fields, then numerics, then one mean-pooled token a sequence.

    Args:
        features: What `FeatureEmbedding` returned.
        schema: The schema.
        embedding_dim: D.
        numeric: See `numeric_tokens`.
    """
    tokens = []
    if "fields" in features:
        tokens.append(features["fields"])  # (B, F, D)
    if "numeric" in features:
        tokens.append(numeric_tokens(features, schema, embedding_dim, numeric))  # (B, N', D)
    tokens += pooled_sequences(features, schema)  # (B, M, D) each
    return tokens[0] if len(tokens) == 1 else keras.layers.Concatenate(axis=1, name="tokens")(tokens)


def flat_features(features, schema, embedding_dim, *, numeric="raw"):
    """Returns all features as one vector `(B, F*D + N' + M*D)`: fields, numerics, mean-pooled sequences.

    Args:
        features: What `FeatureEmbedding` returned.
        schema: The schema.
        embedding_dim: D.
        numeric: `"raw"` for the numbers as they are (N' = N), or what `numeric_tokens` takes; the tokens are flattened:
            `"scale_embedding"` and `"bucketize"` (N' = N*D), `"dense_projection"` and `"bottom_mlp"` (N' = D).

    Raises:
        ValueError: On another `numeric`.
    """
    parts = flat_parts(features, schema, embedding_dim, numeric)
    for index, pooled in enumerate(pooled_sequences(features, schema)):
        parts.append(keras.layers.Flatten(name=f"flat_sequences_{index}")(pooled))  # (B, M*D)
    return parts[0] if len(parts) == 1 else keras.layers.Concatenate(name="flat")(parts)


def flat_parts(features, schema, embedding_dim, numeric):
    """Returns `[(B, F*D) of the fields, (B, N') of the numerics]`, as far as the schema has them; arguments as for `flat_features`."""
    if not isinstance(numeric, layers.NumericTokens) and numeric not in FLAT_NUMERICS:
        raise ValueError(f"numeric must be one of {FLAT_NUMERICS}, got {numeric!r}{nearest(numeric, FLAT_NUMERICS)}")
    parts = []
    if "fields" in features:
        parts.append(keras.layers.Flatten(name="flat_fields")(features["fields"]))  # (B, F*D)
    if "numeric" in features and isinstance(numeric, str) and numeric == "raw":
        parts.append(features["numeric"])  # (B, N)
    elif "numeric" in features:
        tokens = numeric_tokens(features, schema, embedding_dim, numeric)  # (B, N', D)
        parts.append(keras.layers.Flatten(name="flat_numeric")(tokens))  # (B, N'*D)
    return parts


def with_interests(parts, features, schema, interest):
    """Returns one vector `(B, N0)`: `parts`, then `interest(group)` of every group that has a target and the mean of every other.

    Args:
        parts: List of `(B, N)`, the features that are no sequences.
        features: What `FeatureEmbedding` returned.
        schema: The schema.
        interest: Function of a group's name that returns a list of `(B, K)`.
    """
    parts = list(parts)
    for group in schema.sequence_groups:
        if group in features.get("targets", {}):
            parts += interest(group)
            continue
        pooled = layers.SequencePooling(name=f"pool_{group}")(features["sequences"][group], mask=features["masks"][group])  # (B, 1, M*D)
        parts.append(keras.layers.Flatten(name=f"flat_{group}")(pooled))  # (B, M*D)
    return parts[0] if len(parts) == 1 else keras.layers.Concatenate(name="flat")(parts)


def pooled_sequences(features, schema):
    """Returns one `(B, M, D)` tensor a group of sequences: the mean over each sequence's valid events, zeros for an empty history."""
    pooled = []
    for group, members in schema.sequence_groups.items():
        pool = layers.SequencePooling(len(members), name=f"pool_{group}")
        pooled.append(pool(features["sequences"][group], mask=features["masks"][group]))
    return pooled
