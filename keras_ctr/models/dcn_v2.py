"""Deep & Cross Network, both versions."""

import keras

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import flat_features
from keras_ctr.registry import register_model

STRUCTURES = ("parallel", "stacked", "stacked_parallel", "cross")


@register_model(paper="https://arxiv.org/abs/2008.13535")
def DCNv2(
    schema,
    *,
    embedding_dim=16,
    structure="parallel",
    num_cross_layers=3,
    parameterization=None,
    rank=None,
    num_experts=4,
    hidden_units=(512, 256),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="dcn_v2",
):
    """Deep & Cross Network V2: explicit bounded-degree crosses beside or below an MLP (Wang et al., WWW 2021).

    On x_0 = `[vec(E) || numerics || mean-pooled sequences]`, N0 wide, with `x_{l+1} = x_0 * (W_l x_l + b_l) + x_l`:
    parallel `logit = w . [cross(x_0) || MLP(x_0)] + b`; stacked `w . MLP(cross(x_0)) + b`; stacked_parallel
    `w . [MLP'(cross(x_0)) || MLP(x_0)] + b`; cross `w . cross(x_0) + b`. A cross layer has N0^2 + N0 parameters (2 N0 K + N0 low-rank).

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        structure: `"parallel"`, `"stacked"`, `"stacked_parallel"` or `"cross"`.
        num_cross_layers: Cross layers; l of them make crosses of up to l + 1 inputs.
        parameterization: `parameterization` of `layers.CrossNetwork`; `"vector"` is the first DCN. None: `"low_rank"` if `rank` is
            given, else `"matrix"`.
        rank: K of the low-rank and mixture forms; None for full matrices.
        num_experts: Experts of the mixture form.
        hidden_units: Widths of the MLP's hidden layers.
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
        raise ValueError(f"DCNv2: structure must be one of {STRUCTURES}, got {structure!r}")

    def mlp(x, name):
        return layers.MLP(hidden_units, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm, name=name)(x)

    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    flat = flat_features(features, schema, embedding_dim, numeric=numeric)  # (B, N0)
    cross = layers.CrossNetwork(num_cross_layers, parameterization=parameterization, rank=rank, num_experts=num_experts, name="cross")
    crossed = cross(flat)  # (B, N0)
    heads = {
        "parallel": lambda: [crossed, mlp(flat, "mlp")],
        "stacked": lambda: [mlp(crossed, "mlp")],
        "stacked_parallel": lambda: [mlp(crossed, "stacked_mlp"), mlp(flat, "mlp")],
        "cross": lambda: [crossed],
    }[structure]()
    head = heads[0] if len(heads) == 1 else keras.layers.Concatenate(name="head")(heads)
    return CTRModel(inputs, predictions(logits(head, schema), schema, activation), name=name)
