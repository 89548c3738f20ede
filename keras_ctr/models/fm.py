"""Factorization machine."""

import keras

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, predictions
from keras_ctr.models.tokens import field_tokens
from keras_ctr.registry import register_model


@register_model(paper="https://doi.org/10.1109/ICDM.2010.127")
def FM(
    schema,
    *,
    embedding_dim=16,
    numeric="scale_embedding",
    history_weights="shared",
    embedding_l2=0.0,
    activation="sigmoid",
    name="fm",
):
    """Factorization machine: one weight per id and the dot products of all pairs of embeddings (Rendle, ICDM 2010).

    `logit = linear(x) + sum_{i<j} <e_i, e_j>` over the tokens e: fields, numerics `v w`, mean-pooled sequences (events of one history are
    not paired with each other). Parameters beside the tables: those of `layers.LinearLogit`. With L > 1 labels the pairs are weighed along
    the width, `logit_k = linear_k(x) + sum_d h_dk sum_{i<j} e_id e_jd`, h `(D, L)` from 1, so that labels share the tables.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        numeric: How numerics that are not binned become tokens, `kind` of `layers.NumericTokens`. The linear part takes them as they are.
        history_weights: `"shared"`: in the linear part a history reads the weights of the table that it names. `"own"`: it has weights of
            its own, as in the public benchmarks.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`; not on the linear part.
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
    tokens = field_tokens(features, schema, embedding_dim, numeric=numeric)  # (B, F, D)
    values = sum_logits([linear_logits(inputs, schema, history_weights), pair_logits(tokens, schema)])  # (B, L)
    return CTRModel(inputs, predictions(values, schema, activation), name=name)


def linear_logits(inputs, schema, history_weights="shared"):
    """Returns `(B, L)` float32, the linear part of all features: one weight per id and label, and a bias."""
    linear = layers.LinearLogit(schema, len(schema.labels), history_weights=history_weights, dtype="float32", name="linear")
    return linear(inputs)  # (B, L)


def pair_logits(tokens, schema):
    """Returns `(B, L)` float32, the second-order term of an FM; several labels weigh its D parts, from weights of 1."""
    labels = len(schema.labels)
    pairs = layers.FactorizationMachine(reduce=labels == 1, dtype="float32", name="pairs")(tokens)  # (B, 1) or (B, D)
    if labels == 1:
        return pairs
    return keras.layers.Dense(labels, use_bias=False, kernel_initializer="ones", dtype="float32", name="pair_weights")(pairs)


def sum_logits(parts):
    """Returns the sum of `(B, L)` logits as the float32 layer named `logits`."""
    return keras.layers.Add(dtype="float32", name="logits")(parts)
