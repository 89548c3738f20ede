"""PPNet, with PEPNet's gate on embeddings as an option."""

import keras

from keras_ctr import layers
from keras_ctr.models.conditions import check_tower, condition_names, condition_vector, gated_tower
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import flat_features
from keras_ctr.registry import register_model


@register_model(paper="https://arxiv.org/abs/2302.01115")
def PPNet(
    schema,
    *,
    embedding_dim=16,
    condition_features=None,
    domain_features=None,
    gate_units=64,
    hidden_units=(512, 256, 128),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="pp_net",
):
    """Parameter personalized network: hidden units scaled by what is known beforehand of the user (Chang et al., KDD 2023).

    On x = `[vec(E) || numerics || mean-pooled sequences]`, N0 wide, and the prior p, embeddings of K fields, KD wide:
    `h_l = g_l * f(W_l h_{l-1} + b_l)`, `g_l = 2 sigmoid(U_l ReLU(V_l [p || sg(x)] + c_l) + d_l)`, h_0 = x, `logit = w . h_L + b`. With
    `domain_features` (EPNet; both together are PEPNet) x is first scaled by such a gate on the embeddings of these. Gates start near 1.
    Parameters beside the tables: the MLP's, and `(KD + N0) H + H + H u + u` for a gate of width u, H = `gate_units`.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        condition_features: Names of the fields whose embeddings are the prior. None: the schema's `group` if it is a categorical field,
            else the first categorical field. The paper takes the ids of user, item and author.
        domain_features: Names of the fields that tell the domain, whose embeddings gate x; None for no such gate.
        gate_units: H of `layers.GateNU`, ours.
        hidden_units: Widths of the MLP's hidden layers; as in `DNN` here.
        dropout: Share of hidden units dropped in training.
        batch_norm: Whether to normalise before each hidden activation.
        hidden_activation: Activation of the hidden layers.
        numeric: How numerics that are not binned enter: `"raw"`, the numbers as they are, or a `kind` of `layers.NumericTokens`:
            `"scale_embedding"` and `"bucketize"` make one D-wide token each, `"bottom_mlp"` and `"dense_projection"` one for all.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range, or a name that is not a field's.
    """
    check_tower("PPNet", hidden_units)
    priors = condition_names(schema, condition_features, model="PPNet")
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    x = flat_features(features, schema, embedding_dim, numeric=numeric)  # (B, N0)
    if domain_features is not None:
        domains = condition_names(schema, domain_features, model="PPNet", argument="domain_features")
        domain = condition_vector(features, schema, domains, name="domain")  # (B, K'*D)
        gate = layers.GateNU(x.shape[-1], hidden_units=gate_units, name="embedding_gate")(domain, x)  # (B, N0)
        x = keras.layers.Multiply(name="gated_embeddings")([x, gate])  # (B, N0)
    prior = condition_vector(features, schema, priors)  # (B, K*D)

    def gated(index, hidden):
        gate = layers.GateNU(hidden.shape[-1], hidden_units=gate_units, name=f"gate_{index}")(prior, x)  # (B, u)
        return keras.layers.Multiply(name=f"gated_{index}")([hidden, gate])  # (B, u)

    deep = gated_tower(x, hidden_units, gated, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm)  # (B, U)
    return CTRModel(inputs, predictions(logits(deep, schema), schema, activation), name=name)
