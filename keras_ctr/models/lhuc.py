"""LHUC: a plain deep model whose hidden units have amplitudes of the user's own."""

from keras_ctr import layers
from keras_ctr.models.conditions import check_tower, condition_names, condition_vector, gated_tower
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import flat_features
from keras_ctr.registry import register_model


@register_model(paper="https://doi.org/10.1109/SLT.2014.7078569")
def LHUC(
    schema,
    *,
    embedding_dim=16,
    condition_features=None,
    gate_units=(64,),
    hidden_units=(512, 256, 128),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="lhuc",
):
    """Learning hidden unit contributions, in the form of CTR models (after Swietojanski and Renals, SLT 2014).

    On x = `[vec(E) || numerics || mean-pooled sequences]`: `h_l = 2 sigmoid(r_l) * f(W_l h_{l-1} + b_l)`, `r_l = MLP_l(c)`, h_0 = x,
    `logit = w . h_L + b`, c the embeddings of K fields side by side. Amplitudes start near 1. Parameters beside the tables: the MLP's, and
    those of an MLP `K D -> gate_units -> u` for each hidden layer of width u.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        condition_features: Names of the fields that c is made of. None: the schema's `group` if it is a categorical field, else the first
            categorical field.
        gate_units: Widths of the hidden layers that make r, ours; `()` for a linear map.
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
    check_tower("LHUC", hidden_units)
    names = condition_names(schema, condition_features, model="LHUC")
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    flat = flat_features(features, schema, embedding_dim, numeric=numeric)  # (B, N0)
    condition = condition_vector(features, schema, names)  # (B, K*D)

    def gated(index, hidden):
        return layers.HiddenUnitGate(gate_units, name=f"gate_{index}")(hidden, condition)  # (B, u)

    deep = gated_tower(flat, hidden_units, gated, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm)  # (B, U)
    return CTRModel(inputs, predictions(logits(deep, schema), schema, activation), name=name)
