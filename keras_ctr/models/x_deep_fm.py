"""xDeepFM: compressed interaction network and deep network on shared embeddings."""

import keras

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.fm import linear_logits, sum_logits
from keras_ctr.models.tokens import field_tokens
from keras_ctr.registry import register_model


@register_model(paper="https://arxiv.org/abs/1803.05170")
def XDeepFM(
    schema,
    *,
    embedding_dim=16,
    cin_units=(64, 64),
    cin_activation=None,
    split_half=False,
    cin_bias=False,
    field_chunk=None,
    hidden_units=(512, 256),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="scale_embedding",
    history_weights="shared",
    embedding_l2=0.0,
    activation="sigmoid",
    name="x_deep_fm",
):
    """xDeepFM: explicit vector-wise interactions (CIN) beside an MLP and a linear part (Lian et al., KDD 2018).

    `logit = linear(x) + w . [CIN(E) || MLP(vec(E))] + b` over the tokens E: fields, numerics, mean-pooled sequences. Parameters beside the
    tables: those of `layers.LinearLogit`, `layers.CompressedInteraction` and the MLP on F D inputs; then the last layer's.

    Layer k of the CIN holds products of k + 1 tokens. Its time grows with F H_{k-1} H_k D. The public benchmarks choose 16 to 256 maps in
    one to three layers; the default is their choice for KuaiVideo.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        cin_units: Feature maps of each layer of the CIN.
        cin_activation: Activation of the feature maps; None (identity) was best in the paper.
        split_half: Whether half the maps of a layer go on and the other half out, see `layers.CompressedInteraction`.
        cin_bias: Whether feature maps have a bias, as in public implementations.
        field_chunk: Fields contracted at once, None for all: less memory, the same result.
        hidden_units: Widths of the MLP's hidden layers; empty for no MLP.
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
    cin = layers.CompressedInteraction(
        cin_units, activation=cin_activation, split_half=split_half, use_bias=cin_bias, field_chunk=field_chunk, name="cin"
    )
    head = cin(tokens)  # (B, K)
    if hidden_units:
        mlp = layers.MLP(hidden_units, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm, name="mlp")
        deep = mlp(keras.layers.Flatten(name="flat")(tokens))  # (B, U)
        head = keras.layers.Concatenate(name="head")([head, deep])  # (B, K + U)
    values = sum_logits([linear_logits(inputs, schema, history_weights), logits(head, schema, name="head_logits")])  # (B, L)
    return CTRModel(inputs, predictions(values, schema, activation), name=name)
