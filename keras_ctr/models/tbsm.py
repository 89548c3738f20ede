"""TBSM: a DLRM over time."""

import keras

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import numeric_tokens
from keras_ctr.registry import register_model
from keras_ctr.schema import nearest

SEQUENCE_LAYERS = ("tsl", *layers.SequenceContext.KINDS)


@register_model(paper="https://arxiv.org/abs/2010.01639", sequential=True)
def TBSM(
    schema,
    *,
    embedding_dim=16,
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
    name="tbsm",
):
    """Time-based Sequence Model: DLRM at every event, and products over time between its outputs (Ishkhanov et al., 2020).

    `z_t = DLRM(event t)` without its last layer, `w = DLRM(candidate)`, `c = TSL(z_1 .. z_T, w)`, `logit = MLP([c || w])` (see
    `layers.EventTower`, `layers.TimeSeriesLayer`). An event is the row with the attributes of the event in the place of their targets:
    what the log holds once a row (numerics, user) is the same at each event. With several TSL heads each has its own `MLP([c_k || w])` with
    one output a label, and an MLP of hidden width k L + 4 joins the k L outputs.

    Each group of sequences with a target has a tower and a layer of its own, and the last MLP reads `[c_1 || w_1 || c_2 || ..]`. The mean
    of a group without a target is a token of each tower. Without any target w alone is left: DLRM with one more hidden layer.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        sequence_layer: `"tsl"`, or `"mha"`, `"lstm"`, `"transformer"` of `layers.SequenceContext`.
        num_sequence_heads: k of `"tsl"`, heads of `"mha"` and `"transformer"`; None = 1, 8 and 2.
        num_sequence_layers: Layers of `"lstm"` and `"transformer"`; None = 5 and 1.
        sequence_ffn_units: Hidden width of the feed-forward networks of `"transformer"`.
        inner: `"def"`, `"ind"` or `"dot"`: the product of `"tsl"`, see `layers.TimeSeriesLayer`.
        mechanism: `"mlp"` or `"mul"`: how `"tsl"` makes weights of products.
        window: Newest events that `"tsl"` with `"mlp"` weighs; 20 is the papers' length of a history.
        score_units: Hidden widths of that MLP.
        bottom_units: Hidden widths of the bottom MLP, whose last layer is D wide; each layer, the last one too, has `hidden_activation`.
            Used with `numeric="bottom_mlp"`.
        tower_units: Widths of the tower's top MLP, each layer activated; the last is n, the width of z.
        hidden_units: Hidden widths of the last MLP.
        dropout: Share of the towers' and the last MLP's hidden units dropped in training.
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
    return tower_over_time(
        "TBSM",
        schema,
        [layers.DotInteraction()],
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


def tower_over_time(
    model,
    schema,
    interactions,
    *,
    embedding_dim,
    sequence_layer,
    num_sequence_heads,
    num_sequence_layers,
    sequence_ffn_units,
    inner,
    mechanism,
    window,
    score_units,
    bottom_units,
    tower_units,
    hidden_units,
    dropout,
    hidden_activation,
    numeric,
    embedding_l2,
    activation,
    name,
):
    """Builds a tower of `interactions` at every event and a sequence layer over its outputs; arguments as for `TBSM`.

    Args:
        model: Name of the factory, for errors.
        schema: The schema.
        interactions: Layer prototypes for `layers.EventTower`.
    """
    if sequence_layer not in SEQUENCE_LAYERS:
        hint = nearest(sequence_layer, SEQUENCE_LAYERS)
        raise ValueError(f"{model}: sequence_layer must be one of {SEQUENCE_LAYERS}, got {sequence_layer!r}{hint}")
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    fields, numbers = _tokens_of_rows(features, schema, embedding_dim, numeric, bottom_units, hidden_activation)
    index = {field.name: i for i, field in enumerate(schema.fields)}
    tower_options = {"hidden_units": tower_units, "activation": hidden_activation, "dropout": dropout}
    heads = (num_sequence_heads or 1) if sequence_layer == "tsl" else 1
    contexts, last = [[] for _ in range(heads)], []
    for group in features.get("targets", {}):
        replaced = [index.get(sequence.target) for sequence in schema.sequence_groups[group]]
        tower = layers.EventTower(interactions, **tower_options, replaced=replaced, name=f"tower_{group}")
        z = tower(fields, numeric=numbers, events=features["sequences"][group], target=features["targets"][group])  # (B, T + 1, n)
        history, w = z[:, :-1], z[:, -1]  # (B, T, n), (B, n)
        last.append(w)
        for head in range(heads):
            if sequence_layer == "tsl":
                layer = layers.TimeSeriesLayer(
                    inner=inner, mechanism=mechanism, window=window, hidden_units=score_units, name=f"tsl_{group}_{head}"
                )
            else:
                layer = layers.SequenceContext(
                    sequence_layer,
                    num_heads=num_sequence_heads,
                    num_layers=num_sequence_layers,
                    ffn_units=sequence_ffn_units,
                    dropout=dropout,
                    name=f"context_{group}",
                )
            contexts[head].append(layer(history, w, mask=features["masks"][group]))  # (B, c)
    if not last:
        z = layers.EventTower(interactions, **tower_options, name="tower")(fields, numeric=numbers)  # (B, 1, n)
        last, heads = [z[:, 0]], 1

    def mlp(units, layer_name, outputs=None):
        return layers.MLP(units, activation=hidden_activation, dropout=dropout, output_units=outputs, name=layer_name)

    def joined(head):
        parts = [x for pair in zip(contexts[head], last, strict=True) for x in pair] if contexts[head] else last
        return parts[0] if len(parts) == 1 else keras.layers.Concatenate(name=f"head_{head}")(parts)

    if heads == 1:
        x = mlp(hidden_units, "mlp")(joined(0))
    else:
        labels = len(schema.labels)
        votes = [mlp(hidden_units, f"mlp_{head}", labels)(joined(head)) for head in range(heads)]  # (B, L) each
        x = mlp((heads * labels + 4,), "mlp")(keras.layers.Concatenate(name="votes")(votes))
    return CTRModel(inputs, predictions(logits(x, schema), schema, activation), name=name)


def _tokens_of_rows(features, schema, embedding_dim, numeric, bottom_units, hidden_activation):
    """Returns the tokens that rows have besides events: fields and means of groups without a target `(B, F, D)`; numerics or None."""
    if isinstance(numeric, str) and numeric == "bottom_mlp":
        numeric = layers.NumericTokens(embedding_dim, kind=numeric, hidden_units=bottom_units, activation=hidden_activation)
    numbers = numeric_tokens(features, schema, embedding_dim, numeric) if "numeric" in features else None  # (B, N', D)
    tokens = [features["fields"]] if "fields" in features else []
    for group, members in schema.sequence_groups.items():
        if group not in features.get("targets", {}):
            pool = layers.SequencePooling(len(members), name=f"pool_{group}")
            tokens.append(pool(features["sequences"][group], mask=features["masks"][group]))  # (B, M, D)
    if not tokens:
        return numbers, None
    return tokens[0] if len(tokens) == 1 else keras.layers.Concatenate(axis=1, name="tokens")(tokens), numbers
