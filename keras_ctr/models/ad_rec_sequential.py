"""Ad-Rec over time: TBSM with a threshold-masked transformer in the tower."""

from types import MappingProxyType

from keras_ctr import layers
from keras_ctr.models.tbsm import tower_over_time
from keras_ctr.registry import register_model

_TAOBAO = {"embedding_dim": 16, "num_heads": 2, "ffn_units": 128, "bottom_units": (), "tower_units": (15, 15), "dropout": 0.01}

AD_REC_SEQUENTIAL_MODELS = MappingProxyType(
    {
        "RM4": {**_TAOBAO, "sequence_layer": "tsl", "num_sequence_heads": 1, "mask_thresholds": (0.1, 0.01)},
        "RM5": {**_TAOBAO, "sequence_layer": "mha", "num_sequence_heads": 8, "mask_thresholds": (0.001, 0.01)},
        "RM6": {**_TAOBAO, "sequence_layer": "lstm", "num_sequence_layers": 5, "mask_thresholds": (0.001, 0.01)},
        "RM7": {
            **_TAOBAO,
            "tower_units": (15, 16),  # the transformer's two heads divide it
            "sequence_layer": "transformer",
            "num_sequence_heads": 2,
            "num_sequence_layers": 1,
            "sequence_ffn_units": 512,
            "mask_thresholds": (0.001, 0.01),
        },
    }
)
"""Arguments of the paper's models on Taobao user behaviour, `AdRecSequential(schema, **AD_REC_SEQUENTIAL_MODELS["RM4"])`: sizes of its
Table 1; thresholds and dropout of the public scripts. They were trained with Adagrad at 0.05 and batches of 128."""


@register_model(paper="https://arxiv.org/abs/2308.14902", sequential=True)
def AdRecSequential(
    schema,
    *,
    embedding_dim=16,
    num_layers=1,
    num_heads=2,
    ffn_units=128,
    mask_thresholds=(0.1, 0.01),
    fallback="argmax",
    scale=True,
    norm_first=True,
    layer_norm=True,
    layer_norm_epsilon=0.1,
    sequence_layer="tsl",
    num_sequence_heads=None,
    num_sequence_layers=None,
    sequence_ffn_units=512,
    inner="def",
    mechanism="mlp",
    window=20,
    score_units=(15, 15),
    bottom_units=(),
    tower_units=(15, 15),
    hidden_units=(60,),
    dropout=0.0,
    hidden_activation="relu",
    numeric="bottom_mlp",
    embedding_l2=0.0,
    activation="sigmoid",
    name="ad_rec_sequential",
):
    """Ad-Rec at every event, and a sequence layer over its outputs (Adnan et al., 2023).

    `z_t = AdRec(event t)` without its last layer, `w = AdRec(candidate)`, `c = sequence layer(z_1 .. z_T, w)`, `logit = MLP([c || w])`:
    `TBSM` with `MaskedTransformerBlock` in the place of dot products, and read in the same way. The defaults are the paper's RM4 without
    dropout; `AD_REC_SEQUENTIAL_MODELS` holds RM4 to RM7.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        num_layers: Encoder layers of the tower.
        num_heads: H, heads of its attention; divides D.
        ffn_units: Width of the hidden layer of an encoder layer's feed-forward network.
        mask_thresholds: Attention weights at or below it are dropped: one number for all heads; a list of H numbers; `"geometric"` for
            10^-1, .. 10^-H; None for no mask.
        fallback: Where a row has no weight above its threshold: `"argmax"` keeps the largest, `"uniform"` attends to all alike.
        scale: Whether to divide attention scores by sqrt(D / H).
        norm_first: Whether to normalise before attention and feed-forward network (the paper), or after the sums.
        layer_norm: Whether to normalise at all.
        layer_norm_epsilon: Added to a token's variance where it is normalised. Embeddings start with a variance of 1e-4, so the default
            leaves rows that have hardly been trained small; 1e-6 would make them as large as the others (docs/deviations.md).
        sequence_layer: `"tsl"`, or `"mha"`, `"lstm"`, `"transformer"` of `layers.SequenceContext`; all are trained.
        num_sequence_heads: Heads of `"tsl"`, `"mha"` and `"transformer"`; None = 1, 8 and 2.
        num_sequence_layers: Layers of `"lstm"` and `"transformer"`; None = 5 and 1.
        sequence_ffn_units: Hidden width of the feed-forward networks of `"transformer"`.
        inner: `"def"`, `"ind"` or `"dot"`: the product of `"tsl"`, see `layers.TimeSeriesLayer`.
        mechanism: `"mlp"` or `"mul"`: how `"tsl"` makes weights of products.
        window: Newest events that `"tsl"` with `"mlp"` weighs; 20 is the paper's length of a history.
        score_units: Hidden widths of that MLP.
        bottom_units: Hidden widths of the bottom MLP, whose last layer is D wide; each layer, the last one too, has `hidden_activation`.
            Used with `numeric="bottom_mlp"`.
        tower_units: Widths of the tower's top MLP, each layer activated; the last is n, the width of z.
        hidden_units: Hidden widths of the last MLP.
        dropout: Share of the outputs of attention and feed-forward network and of the MLPs' hidden units dropped in training.
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
        raise ValueError(f"AdRecSequential: num_layers must be at least 1, got {num_layers!r}")
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
    )
    return tower_over_time(
        "AdRecSequential",
        schema,
        [block] * num_layers,
        embedding_dim=embedding_dim,
        sequence_layer=sequence_layer,
        num_sequence_heads=num_sequence_heads,
        num_sequence_layers=num_sequence_layers,
        sequence_ffn_units=sequence_ffn_units,
        inner=inner,
        mechanism=mechanism,
        window=window,
        score_units=score_units,
        bottom_units=bottom_units,
        tower_units=tower_units,
        hidden_units=hidden_units,
        dropout=dropout,
        hidden_activation=hidden_activation,
        numeric=numeric,
        embedding_l2=embedding_l2,
        activation=activation,
        name=name,
    )
