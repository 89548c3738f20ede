"""Field-matrixed factorization machine and its special cases."""

import keras

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, predictions
from keras_ctr.models.fm import linear_logits, sum_logits
from keras_ctr.models.tokens import field_tokens
from keras_ctr.registry import register_model


@register_model(paper="https://arxiv.org/abs/2102.12994")
def FmFM(
    schema,
    *,
    embedding_dim=16,
    kind="matrix",
    numeric="scale_embedding",
    history_weights="shared",
    embedding_l2=0.0,
    activation="sigmoid",
    name="fm_fm",
):
    """FmFM: a factorization machine with a matrix for every pair of fields (Sun et al., WWW 2021).

    `logit = linear(x) + sum_{i<j} <e_i M_ij, e_j>` over the tokens e: fields, numerics `v w`, mean-pooled sequences. M_ij starts as the
    identity, so the model as an `FM`. Parameters beside the tables: those of `layers.LinearLogit`, and `P D^2`, `P D` (FvFM) or `P` (FwFM)
    for P = F(F-1)/2 pairs. With L > 1 labels the pairs are weighed along the width,
    `logit_k = linear_k(x) + sum_d h_dk sum_{i<j} (e_i M_ij)_d e_jd`, h `(D, L)` from 1, so that labels share tables and matrices.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        kind: `"matrix"` (FmFM), `"vector"` (FvFM, diagonal matrices) or `"scalar"` (FwFM), see `layers.FieldMatrixedInteraction`.
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
        ValueError: On an argument out of range, or a schema of a single feature.
    """
    labels = len(schema.labels)
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    tokens = field_tokens(features, schema, embedding_dim, numeric=numeric)  # (B, F, D)
    pairs = layers.FieldMatrixedInteraction(kind, reduce=labels == 1, dtype="float32", name="pairs")(tokens)  # (B, 1) or (B, D)
    if labels > 1:
        pairs = keras.layers.Dense(labels, use_bias=False, kernel_initializer="ones", dtype="float32", name="pair_weights")(pairs)
    values = sum_logits([linear_logits(inputs, schema, history_weights), pairs])  # (B, L)
    return CTRModel(inputs, predictions(values, schema, activation), name=name)
