"""DeepFM: factorization machine and deep network on shared embeddings."""

import keras

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.fm import linear_logits, pair_logits, sum_logits
from keras_ctr.models.tokens import field_tokens
from keras_ctr.registry import register_model


@register_model(paper="https://arxiv.org/abs/1703.04247")
def DeepFM(
    schema,
    *,
    embedding_dim=16,
    hidden_units=(512, 256),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="scale_embedding",
    history_weights="shared",
    embedding_l2=0.0,
    activation="sigmoid",
    name="deep_fm",
):
    """DeepFM: a factorization machine beside an MLP on the same embeddings (Guo et al., IJCAI 2017).

    `logit = linear(x) + sum_{i<j} <e_i, e_j> + MLP(vec(E))` over the tokens E: fields, numerics, mean-pooled sequences. Parameters beside
    the tables: those of `layers.LinearLogit` and of the MLP on F D inputs. Several labels: as in `FM`.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        hidden_units: Widths of the MLP's hidden layers; empty for no MLP, an FM.
        dropout: Share of hidden units dropped in training.
        batch_norm: Whether to normalise before each hidden activation.
        hidden_activation: Activation of the hidden layers.
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
    parts = [linear_logits(inputs, schema, history_weights), pair_logits(tokens, schema)]  # (B, L) each
    if hidden_units:
        mlp = layers.MLP(hidden_units, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm, name="mlp")
        deep = mlp(keras.layers.Flatten(name="flat")(tokens))  # (B, U)
        parts.append(logits(deep, schema, name="deep_logits"))
    return CTRModel(inputs, predictions(sum_logits(parts), schema, activation), name=name)
