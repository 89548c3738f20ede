"""Ad-Rec: DLRM with a threshold-masked transformer in place of the dot products."""

from types import MappingProxyType

import keras

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.dlrm import numerics_and_tokens
from keras_ctr.registry import register_model

_KAGGLE = {"embedding_dim": 16, "num_heads": 2, "ffn_units": 128, "bottom_units": (512, 256, 64), "hidden_units": (512, 256)}

AD_REC_MODELS = MappingProxyType(
    {
        "RM1": {**_KAGGLE, "dropout": 0.01},
        "RM2": {
            "embedding_dim": 64,
            "num_heads": 8,
            "ffn_units": 512,
            "bottom_units": (512, 256),
            "hidden_units": (512, 512, 256),
            "dropout": 0.01,
        },
        "RM3": {**_KAGGLE, "mask_thresholds": (0.001, 0.01), "dropout": 0.01},
    }
)
"""Arguments of the paper's models on Criteo Kaggle, Criteo Terabyte and Avazu, `AdRec(schema, **AD_REC_MODELS["RM1"])`: sizes of its
Table 1; dropout and the thresholds of RM3 of the public scripts, those of RM1 and RM2 geometric."""


@register_model(paper="https://arxiv.org/abs/2308.14902")
def AdRec(
    schema,
    *,
    embedding_dim=16,
    num_layers=1,
    num_heads=2,
    ffn_units=128,
    mask_thresholds="geometric",
    fallback="argmax",
    scale=True,
    norm_first=True,
    layer_norm=True,
    layer_norm_epsilon=0.1,
    positional_embedding=False,
    bottom_units=(512, 256, 64),
    hidden_units=(512, 256),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="bottom_mlp",
    embedding_l2=0.0,
    activation="sigmoid",
    name="ad_rec",
):
    """Ad-Rec: self-attention between features that drops weak weights, head by head (Adnan et al., 2023).

    `logit = MLP_top([y || vec(Z_L)])` with `Z_l = MaskedTransformerBlock(Z_{l-1})` on the tokens Z_0: fields, `y = MLP_bottom(numerics)`,
    mean-pooled sequences. Parameters beside the tables: those of the bottom MLP, of each `layers.MaskedTransformerBlock`, and of the top
    MLP on (F + 1) D inputs, F tokens. The defaults are the paper's RM1 (Criteo Kaggle); RM2 has `embedding_dim=64, num_heads=8,
    ffn_units=512, bottom_units=(512, 256), hidden_units=(512, 512, 256)`.

    Without numerics there is no y: the top MLP reads vec(Z_L) alone. With a `numeric` of N tokens y is their vec.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        num_layers: L, encoder layers.
        num_heads: H, heads of the attention; divides D.
        ffn_units: Width of the hidden layer of an encoder layer's feed-forward network.
        mask_thresholds: Attention weights at or below it are dropped: `"geometric"` for 10^-1, .. 10^-H; one number for all heads; a list
            of H numbers; None for no mask.
        fallback: Where a row has no weight above its threshold: `"argmax"` keeps the largest, `"uniform"` attends to all alike.
        scale: Whether to divide attention scores by sqrt(D / H).
        norm_first: Whether to normalise before attention and feed-forward network (the paper), or after the sums.
        layer_norm: Whether to normalise at all; False is the paper's ablation in Table 3.
        layer_norm_epsilon: Added to a token's variance where it is normalised. Embeddings start with a variance of 1e-4, so the default
            leaves rows that have hardly been trained small; with 1e-6 they would be as large as the others (docs/deviations.md).
        positional_embedding: Whether to add a learned vector to each token; True is the paper's ablation in Table 2.
        bottom_units: Hidden widths of the bottom MLP, whose last layer is D wide; each layer, the last one too, has `hidden_activation`.
            Used with `numeric="bottom_mlp"`.
        hidden_units: Widths of the top MLP's hidden layers.
        dropout: Share of the outputs of attention and feed-forward network and of the top MLP's hidden units dropped in training.
        batch_norm: Whether the top MLP normalises before each hidden activation.
        hidden_activation: Activation of all hidden layers.
        numeric: How numerics that are not binned become tokens: `"bottom_mlp"`, another `kind` of `layers.NumericTokens`, or a
            `layers.NumericTokens` as a prototype.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range.
    """
    if num_layers < 1:
        raise ValueError(f"AdRec: num_layers must be at least 1, got {num_layers!r}")
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    y, x = numerics_and_tokens(
        features, schema, embedding_dim, numeric=numeric, bottom_units=bottom_units, hidden_activation=hidden_activation
    )  # (B, N' D), (B, F, D)
    if positional_embedding:
        x = layers.FieldPositionEmbedding(name="positions")(x)
    for index in range(num_layers):
        block = layers.MaskedTransformerBlock(
            num_heads,
            ffn_units=ffn_units,
            mask_thresholds=mask_thresholds,
            fallback=fallback,
            scale=scale,
            norm_first=norm_first,
            layer_norm=layer_norm,
            epsilon=layer_norm_epsilon,
            activation=hidden_activation,
            dropout=dropout,
            name=f"encoder_{index}",
        )
        x = block(x)  # (B, F, D)
    head = keras.layers.Flatten(name="flat")(x)  # (B, F D)
    head = head if y is None else keras.layers.Concatenate(name="head")([y, head])  # (B, (N' + F) D)
    mlp = layers.MLP(hidden_units, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm, name="mlp")
    return CTRModel(inputs, predictions(logits(mlp(head), schema), schema, activation), name=name)
