"""FiBiNET: importance of fields and bilinear interactions."""

import keras

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.fm import linear_logits, sum_logits
from keras_ctr.models.tokens import field_tokens
from keras_ctr.registry import register_model


@register_model(paper="https://arxiv.org/abs/1905.09433")
def FiBiNET(
    schema,
    *,
    embedding_dim=16,
    bilinear="interaction",
    shared_bilinear=False,
    reduction_ratio=3,
    gate_activation="relu",
    linear=True,
    hidden_units=(400, 400, 400),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="scale_embedding",
    history_weights="shared",
    embedding_l2=0.0,
    activation="sigmoid",
    name="fi_bi_net",
):
    """FiBiNET: bilinear products of all pairs of embeddings, as they are and weighed by importance (Huang et al., RecSys 2019).

    `logit = linear(x) + MLP([vec(bilinear(E)) || vec(bilinear'(V))])` with `V = SqueezeExcitation(E)` over the tokens E: fields, numerics,
    mean-pooled sequences. With F tokens and R = max(1, floor(F / r)) the parameters beside the tables are those of `layers.LinearLogit`,
    `2 F R`, twice (once if shared) those of `layers.BilinearInteraction`, and those of the MLP on F (F - 1) D inputs: time and memory
    grow with F^2 D.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        bilinear: Matrices of the products: `"all"` (one), `"each"` (one a field) or `"interaction"` (one a pair).
        shared_bilinear: Whether E and V share the matrices.
        reduction_ratio: r.
        gate_activation: Of the importance gates, `"relu"` (the paper) or `"sigmoid"`, under which no gate can close for good.
        linear: Whether there is a linear part, one weight per id.
        hidden_units: Widths of the MLP's hidden layers.
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
        ValueError: On an argument out of range, or a schema of a single feature.
    """
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    tokens = field_tokens(features, schema, embedding_dim, numeric=numeric)  # (B, F, D)
    weighed = layers.SqueezeExcitation(reduction_ratio, gate_activation=gate_activation, name="squeeze_excitation")(tokens)  # (B, F, D)
    first = second = layers.BilinearInteraction(bilinear, name="bilinear")
    if not shared_bilinear:
        second = layers.BilinearInteraction(bilinear, name="bilinear_weighed")
    pairs = keras.layers.Concatenate(axis=1, name="pairs")([first(tokens), second(weighed)])  # (B, F (F - 1), D)
    mlp = layers.MLP(hidden_units, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm, name="mlp")
    deep = mlp(keras.layers.Flatten(name="flat")(pairs))  # (B, U)
    if linear:
        values = sum_logits([linear_logits(inputs, schema, history_weights), logits(deep, schema, name="deep_logits")])  # (B, L)
    else:
        values = logits(deep, schema)
    return CTRModel(inputs, predictions(values, schema, activation), name=name)
