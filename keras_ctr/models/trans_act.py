"""TransAct."""

import keras

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import flat_parts, with_interests
from keras_ctr.registry import register_model
from keras_ctr.schema import nearest

STRUCTURES = ("parallel", "stacked")


@register_model(paper="https://arxiv.org/abs/2306.00248", sequential=True)
def TransAct(
    schema,
    *,
    embedding_dim=16,
    num_layers=2,
    num_heads=2,
    ffn_units=32,
    num_recent=10,
    layer_norm_epsilon=0.1,
    time_gap=None,
    time_window=3600.0,
    structure="parallel",
    num_cross_layers=2,
    rank=32,
    hidden_units=(512, 256),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="trans_act",
):
    """TransAct: an encoder over the latest actions, each beside the candidate; its newest outputs and their maximum (Xia et al., KDD 2023).

    `x_0 = [vec(E) || numerics || u_1 || ...]`, for every group of sequences u, the output of `layers.TransActEncoder` on its events and its
    target; then crosses and an MLP as in DCN V2: parallel `logit = w . [cross(x_0) || MLP(x_0)] + b`, stacked `w . MLP(cross(x_0)) + b`. A
    group none of whose sequences names a target is mean-pooled; a schema without sequences makes this DCN V2.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding; the paper has 32 for each of action, item and candidate.
        num_layers: Encoder blocks.
        num_heads: Heads of the attention; divides twice the width of an event.
        ffn_units: Hidden width of a block's feed-forward network.
        num_recent: K, newest outputs that are passed on.
        layer_norm_epsilon: Added to a step's variance where it is normalised. Embeddings start with a variance of 1e-4, so the default
            leaves rows that have hardly been trained small; 1e-6 would make them as large as the others (docs/deviations.md).
        time_gap: Name of the sequence that holds the events' time gaps in buckets `2 + min(floor(log2(seconds + 1)), 31)`; the random time
            window works on its group. None = no window.
        time_window: W in seconds: in training, events younger than a number drawn from U(0, W) are hidden. 0 = none. The authors' code
            has an hour.
        structure: `"parallel"` or `"stacked"`.
        num_cross_layers: Cross layers. The paper gives no number.
        rank: Rank of the crosses; None for full matrices, as in the paper. The encoders make the input about a thousand wide, so a full
            cross has a million weights a layer.
        hidden_units: Widths of the MLP's hidden layers. The paper gives none.
        dropout: Share of the blocks' outputs and of the MLP's hidden units dropped in training; the authors' code has 0.1 in the blocks.
        batch_norm: Whether the MLP normalises before each hidden activation.
        hidden_activation: Activation of the MLP's hidden layers.
        numeric: How numerics that are not binned enter: `"raw"`, the numbers as they are, or a `kind` of `layers.NumericTokens`:
            `"scale_embedding"` and `"bucketize"` make one D-wide token each, `"bottom_mlp"` and `"dense_projection"` one for all.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range, or a `time_gap` that is no sequence.
    """
    if structure not in STRUCTURES:
        raise ValueError(f"TransAct: structure must be one of {STRUCTURES}, got {structure!r}{nearest(structure, STRUCTURES)}")
    gap_group = group_of_gaps("TransAct", schema, time_gap)
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)

    def interest(group):
        timed = group == gap_group
        encoder = layers.TransActEncoder(
            num_layers,
            num_heads=num_heads,
            ffn_units=ffn_units,
            num_recent=num_recent,
            time_window=time_window if timed else 0.0,
            dropout=dropout,
            epsilon=layer_norm_epsilon,
            name=f"encoder_{group}",
        )
        events, mask = features["sequences"][group], features["masks"][group]  # (B, T, M*D), (B, T)
        return [encoder(features["targets"][group], events, mask=mask, gaps=inputs[time_gap] if timed else None)]  # (B, (K + 1) 2 M*D)

    flat = with_interests(flat_parts(features, schema, embedding_dim, numeric), features, schema, interest)  # (B, N0)
    crossed = layers.CrossNetwork(num_cross_layers, rank=rank, name="cross")(flat)  # (B, N0)
    mlp = layers.MLP(hidden_units, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm, name="mlp")
    head = mlp(crossed) if structure == "stacked" else keras.layers.Concatenate(name="head")([crossed, mlp(flat)])
    return CTRModel(inputs, predictions(logits(head, schema), schema, activation), name=name)


def group_of_gaps(model, schema, time_gap):
    """Returns the group of the sequence named `time_gap`, None for None.

    Raises:
        ValueError: If there is no such sequence; the message names `model` and the nearest one.
    """
    if time_gap is None:
        return None
    groups = {s.name: s.group for s in schema.sequences}
    if time_gap not in groups:
        raise ValueError(f"{model}: time_gap names '{time_gap}', which is no sequence of the schema{nearest(time_gap, groups)}")
    return groups[time_gap]
