"""Gated Deep & Cross Network."""

import keras

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import flat_features
from keras_ctr.registry import register_model
from keras_ctr.schema import nearest

STRUCTURES = ("parallel", "stacked")


@register_model(paper="https://arxiv.org/abs/2311.04635")
def GDCN(
    schema,
    *,
    embedding_dim=16,
    structure="parallel",
    num_cross_layers=3,
    hidden_units=(512, 256),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="gdcn",
):
    """Gated Deep & Cross Network: crosses that pass an information gate, beside or below an MLP (Wang et al., CIKM 2023).

    On x_0 = `[vec(E) || numerics || mean-pooled sequences]`, N0 wide, with
    `x_{l+1} = x_0 * (W_l x_l + b_l) * sigmoid(W_l^(g) x_l) + x_l`: parallel (GDCN-P) `logit = w . [cross(x_0) || MLP(x_0)] + b`; stacked
    (GDCN-S) `w . MLP(cross(x_0)) + b`. A cross layer has 2 N0^2 + N0 parameters.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding. The paper's field-level widths are the schema's: `Categorical(embedding_dim=...)`.
        structure: `"parallel"` or `"stacked"`.
        num_cross_layers: Gated cross layers. The paper varies the depth and finds that gates let it grow; 3 is as in `DCNv2` here.
        hidden_units: Widths of the MLP's hidden layers; as in `DCNv2` here.
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
        ValueError: On an argument out of range.
    """
    if structure not in STRUCTURES:
        raise ValueError(f"GDCN: structure must be one of {STRUCTURES}, got {structure!r}{nearest(structure, STRUCTURES)}")
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    flat = flat_features(features, schema, embedding_dim, numeric=numeric)  # (B, N0)
    crossed = layers.GatedCrossNetwork(num_cross_layers, name="cross")(flat)  # (B, N0)
    mlp = layers.MLP(hidden_units, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm, name="mlp")
    if structure == "parallel":
        head = keras.layers.Concatenate(name="head")([crossed, mlp(flat)])  # (B, N0 + U)
    else:
        head = mlp(crossed)  # (B, U)
    return CTRModel(inputs, predictions(logits(head, schema), schema, activation), name=name)
