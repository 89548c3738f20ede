"""GateNet: a plain deep model with gates on its embeddings and hidden layers."""

import keras

from keras_ctr import layers
from keras_ctr.models.conditions import gated_tower
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import field_tokens
from keras_ctr.registry import register_model


@register_model(paper="https://arxiv.org/abs/2007.03519")
def GateNet(
    schema,
    *,
    embedding_dim=16,
    feature_gate="vector",
    gate_sharing="private",
    hidden_gate=True,
    gate_activation="sigmoid",
    hidden_units=(512, 256, 128),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="scale_embedding",
    embedding_l2=0.0,
    activation="sigmoid",
    name="gate_net",
):
    """GateNet: gates that select among embeddings and among hidden units (Huang et al., DLP-KDD 2020).

    `logit = w . h_L + b`, `h_l = a_l * f(a_l W_l^(g))`, `a_l = MLP layer of h_{l-1}`, `h_0 = vec(G)`, `G_i = E_i * f(E_i W_i)` on the
    tokens E: fields, numerics, mean-pooled sequences. Parameters beside the tables: the MLP on F D inputs, the feature gate's F D
    (vector-wise; bit-wise F D^2; shared D or D^2) and u^2 for each hidden layer of width u. Without both gates this is the plain deep
    model on tokens.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        feature_gate: `"vector"`, one gate an embedding; `"bit"`, one for each of its elements; None for no gate.
        gate_sharing: `"private"`, a matrix for each token, or `"shared"`, one for all.
        hidden_gate: Whether hidden layers are gated.
        gate_activation: f.
        hidden_units: Widths of the MLP's hidden layers; as in `DNN` here.
        dropout: Share of hidden units dropped in training.
        batch_norm: Whether to normalise before each hidden activation.
        hidden_activation: Activation of the hidden layers.
        numeric: How numerics that are not binned become tokens: a `kind` of `layers.NumericTokens`, or such a layer as a prototype.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`.
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
    if feature_gate is not None:
        gate = layers.FeatureGate(feature_gate, sharing=gate_sharing, activation=gate_activation, name="feature_gate")
        tokens = gate(tokens)  # (B, F, D)
    flat = keras.layers.Flatten(name="flat")(tokens)  # (B, F*D)

    def gated(index, x):
        return layers.HiddenGate(activation=gate_activation, name=f"hidden_gate_{index}")(x) if hidden_gate else x

    deep = gated_tower(flat, hidden_units, gated, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm)  # (B, U)
    return CTRModel(inputs, predictions(logits(deep, schema), schema, activation), name=name)
