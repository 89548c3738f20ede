"""Co-Action Network."""

import keras

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import flat_features
from keras_ctr.registry import register_model
from keras_ctr.schema import nearest


@register_model(paper="https://arxiv.org/abs/2011.05625", sequential=True)
def CAN(
    schema,
    *,
    embedding_dim=16,
    co_action_pairs=None,
    feed_dim=16,
    co_action_units=(8, 4),
    orders=3,
    co_action_bias=False,
    hidden_units=(200, 80),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="can",
):
    """Co-Action Network: a feature's embedding is a micro-MLP for other features' embeddings (Bian et al., WSDM 2022).

    `logit = MLP([x || y_1 || y_2 || ...])`, x = `[vec(E) || numerics || mean-pooled sequences]`, and for every pair (induction feature,
    feed feature) y, the outputs of all layers of the micro-MLP that the induction row holds, on the powers 1..O of the feed row, summed
    over a history's events (`layers.CoAction`). Induction and feed rows stand in tables of their own. Parameters beside those of the plain
    deep model: W = 16*8 + 8*4 = 160 for each row of an induction feature's table, `feed_dim` for each row of a feed feature's, and
    O (8 + 4) more inputs of the MLP a pair.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        co_action_pairs: `[(induction feature, feed feature), ...]`; an induction feature is a field, a feed feature a field or a sequence.
            None: the target of each sequence with that sequence; if no sequence has a target, the first categorical field that is not
            the schema's `group` with the group (or with the next categorical field).
        feed_dim: C, the width of a feed row.
        co_action_units: Widths of the micro-MLP's layers.
        orders: O.
        co_action_bias: Whether the micro-MLP has biases; the paper writes them, the authors' code leaves them out.
        hidden_units: Widths of the MLP's hidden layers, as in the authors' code.
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
        ValueError: On an argument out of range, or pairs that do not name such features.
    """
    pairs = _pairs(schema, co_action_pairs)
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    shared = {"orders": orders, "use_bias": co_action_bias}
    width = layers.CoAction(co_action_units, **shared).induction_width(feed_dim)

    def rows(names, dim, name):
        own = layers.OwnEmbedding(schema, names, dim, embedding_l2=embedding_l2, name=name)
        return own({n: inputs[n] for n in own.features})

    induction = rows([pair[0] for pair in pairs], width, "induction")
    feed = rows([pair[1] for pair in pairs], feed_dim, "feed")
    parts = [flat_features(features, schema, embedding_dim, numeric=numeric)]  # (B, N0)
    for index, (giver, taker) in enumerate(pairs):
        co_action = layers.CoAction(co_action_units, **shared, name=f"co_action_{index}")
        mask = feed.get("masks", {}).get(taker)
        parts.append(co_action(induction["rows"][giver], feed["rows"][taker], mask=mask))  # (B, O sum u)
    head = keras.layers.Concatenate(name="head")(parts)
    deep = layers.MLP(hidden_units, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm, name="mlp")(head)
    return CTRModel(inputs, predictions(logits(deep, schema), schema, activation), name=name)


def _pairs(schema, pairs):
    """Returns the pairs, checked, or the default ones."""
    fields, sequences = [f.name for f in schema.fields], [s.name for s in schema.sequences]
    if pairs is None:
        pairs = [(s.target, s.name) for s in schema.sequences if s.target]
        if not pairs:
            names = [f.name for f in schema.categoricals]
            others = [name for name in names if name != schema.group]
            if len(names) < 2:
                raise ValueError("CAN: the schema has neither a sequence with a target nor two categorical fields; give co_action_pairs")
            pairs = [(others[0], schema.group if schema.group in names else others[1])]
    pairs = [(pair,) if isinstance(pair, str) else tuple(pair) for pair in pairs]
    if not pairs:
        raise ValueError("CAN: co_action_pairs is empty; name at least one pair, or leave it out")
    for pair in pairs:
        if len(pair) != 2:
            raise ValueError(f"CAN: co_action_pairs holds pairs (induction feature, feed feature), got {pair!r}")
        for name, kind, known in ((pair[0], "induction", fields), (pair[1], "feed", [*fields, *sequences])):
            if name not in known:
                raise ValueError(
                    f"CAN: co_action_pairs names the {kind} feature {name!r}, which is none of {', '.join(known)}{nearest(name, known)}"
                )
    if len(set(pairs)) < len(pairs):
        raise ValueError(f"CAN: co_action_pairs names a pair twice: {pairs!r}")
    return pairs
