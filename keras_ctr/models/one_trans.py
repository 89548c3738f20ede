"""OneTrans."""

import keras

from keras_ctr import layers
from keras_ctr.layers.one_trans import pyramid_shares
from keras_ctr.models.ctr_model import CTRModel, build_inputs, predictions
from keras_ctr.models.tokens import flat_parts
from keras_ctr.registry import register_model


@register_model(paper="https://arxiv.org/abs/2510.26104", sequential=True, multi_task=True)
def OneTrans(
    schema,
    *,
    embedding_dim=16,
    num_layers=3,
    num_heads=4,
    num_tokens=8,
    hidden_dim=64,
    expansion=4,
    pyramid="linear",
    num_positions=128,
    layer_norm_epsilon=0.1,
    tower_units=(128, 64),
    dropout=0.0,
    hidden_activation="relu",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="one_trans",
):
    """OneTrans: one causal transformer for behaviour sequences and feature interaction (Zhang et al., WWW 2026).

    `z_i = tower_i(vec(NS_L))` for label i, `NS_l, S_l = OneTransBlock(NS_{l-1}, S_{l-1})`. S_0 `(B, T, D)` are the events of all groups
    of sequences, one group after the other in the schema's order with a learned token between (see `layers.EventTokens`); put groups
    that say more of the user's intent first. NS_0 `(B, N, D)` are the other features, the candidate among them: one linear map of
    `[vec(E) || numerics]`, N0 wide, split in N tokens. Each sees all events and the tokens before it. A schema without sequences leaves
    the tokens NS alone.

    Parameters beside tables and towers: `(N0 + 1) N D`, those of `layers.EventTokens` and of the `layers.OneTransBlock`s.

    Args:
        schema: The fitted `Schema`; at least one field or numeric.
        embedding_dim: Width of an embedding.
        num_layers: L. The paper's models of 91 and 330 million parameters have 6 and 8 layers of width 256 and 384; the defaults here are
            for smaller data.
        num_heads: Heads of the attention, as in the paper; divides `hidden_dim`.
        num_tokens: N, the tokens of the features that are no sequences.
        hidden_dim: D, the width of a token.
        expansion: k, the hidden width of the feed-forward networks over D.
        pyramid: How many of its events each layer leaves to the next, the newest first to stay: `"linear"`, after layer l of L about
            `(L - l) / L` of the row's events, or the share that every layer leaves of what it got, 1 for no pyramid. The last layer's
            events are never computed, since nothing reads them.
        num_positions: Rows of the table of positions, counted from the newest event of a group, ours; None for no positions.
        layer_norm_epsilon: Added to a token's mean square where it is normalised. Embeddings start with a variance of 1e-4, so the
            default leaves rows that have hardly been trained small; 1e-6 would make them as large as the others (docs/deviations.md).
        tower_units: Widths of a tower's hidden layers, ours.
        dropout: Share of the hidden units of feed-forward networks and towers dropped in training.
        hidden_activation: Activation of the towers' hidden layers; that of the feed-forward networks is GELU.
        numeric: How numerics that are not binned enter: `"raw"`, the numbers as they are, or a `kind` of `layers.NumericTokens`:
            `"scale_embedding"` and `"bucketize"` make one embedding each, `"bottom_mlp"` and `"dense_projection"` one for all.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range, heads that do not divide the width, or a schema with neither fields nor numerics.
    """
    for argument, value in (("num_layers", num_layers), ("num_tokens", num_tokens), ("hidden_dim", hidden_dim)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"OneTrans: {argument} must be an int of at least 1, got {value!r}")
    if not schema.fields and not schema.numerics:
        raise ValueError("OneTrans: the schema has sequences only; add a field or a numeric")
    shares = pyramid_shares(num_layers, pyramid)
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    parts = flat_parts(features, schema, embedding_dim, numeric)
    flat = parts[0] if len(parts) == 1 else keras.layers.Concatenate(name="flat")(parts)  # (B, N0)
    flat_tokens = keras.layers.Dense(num_tokens * hidden_dim, name="tokenizer")(flat)  # (B, N*D)
    x = {"tokens": keras.layers.Reshape((num_tokens, hidden_dim), name="tokens")(flat_tokens)}  # (B, N, D)
    if schema.sequences:
        groups = list(schema.sequence_groups)
        merge = layers.EventTokens(hidden_dim, num_positions=num_positions, name="events")
        events = merge([features["sequences"][group] for group in groups], [features["masks"][group] for group in groups])
        x = {**x, "events": events["tokens"], "mask": events["mask"]}  # (B, T, D), (B, T)
    for index, share in enumerate(shares):
        block = layers.OneTransBlock(
            num_heads, expansion=expansion, keep=share, dropout=dropout, epsilon=layer_norm_epsilon, name=f"block_{index}"
        )
        x = block(x["tokens"], x.get("events"), mask=x.get("mask"))  # (B, N, D), (B, T', D)
    flat = keras.layers.Flatten(name="flat_tokens")(x["tokens"])  # (B, N*D)
    towers = layers.TaskTowers(len(schema.labels), tower_units, activation=hidden_activation, dropout=dropout, name="logits")
    return CTRModel(inputs, predictions(towers(flat), schema, activation), name=name)
