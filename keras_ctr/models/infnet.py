"""INFNet: fields, events and tasks as tokens that inform each other through a few hubs."""

import keras

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, predictions
from keras_ctr.models.tokens import numeric_tokens
from keras_ctr.models.trans_act import group_of_gaps
from keras_ctr.registry import register_model
from keras_ctr.schema import nearest

DEFAULTS = {
    "v1": {"num_categorical_hubs": 4, "num_sequence_hubs": 4, "num_shared_task_hubs": 2, "use_positions": False},
    "v2": {"num_categorical_hubs": 16, "num_sequence_hubs": 1, "num_shared_task_hubs": 4, "use_positions": True},
}
"""Arguments that are None take those of their version."""


@register_model(paper="https://arxiv.org/abs/2508.11565", sequential=True, multi_task=True)
def INFNet(
    schema,
    *,
    embedding_dim=16,
    version="v2",
    num_layers=4,
    num_categorical_hubs=None,
    num_sequence_hubs=None,
    num_shared_task_hubs=None,
    num_heads=1,
    hub_initialization="mlp",
    use_hubs=True,
    use_task_tokens=True,
    use_aggregation=True,
    use_broadcast=True,
    residual=True,
    use_positions=None,
    max_positions=200,
    time_gap=None,
    layer_norm_epsilon=0.1,
    hidden_units=None,
    tower_units=(128, 64),
    dropout=0.0,
    hidden_activation="relu",
    numeric="scale_embedding",
    embedding_l2=0.0,
    activation="sigmoid",
    name="infnet",
):
    """INFNet (Li et al., 2025): fields, events and tasks exchange what they know through a few hub tokens, at a cost linear in the tokens.

    Tokens are the fields and numerics C `(B, M, D)`, the events of all groups of sequences S `(B, T, D)`, and one learned token a label
    T `(B, L, D)`. Each of the three has hubs: C by an MLP of all its tokens, S for each group of sequences (behaviour type) by an MLP of
    each event and their mean, T its own tokens and shared learned ones. A block, for g in C, S, T,

    ```
    H_g <- LN( H_g + [CA(H_g, C) || CA(H_g, S) || CA(H_g, T)] W_g )          CA = cross-attention, the hubs ask
    [alpha || beta] = MLP(vec(H_g));   X_g <- LN( X_g + ( X_g * sigmoid(alpha) + beta ) )
    ```

    keeps all tokens; after the last one `logit_i = tower_i(T_i)`. Of the last block only the task tokens are read, so only their half is
    built; with `num_layers=1` there are no other hubs at all. Without sequences C and T remain, without fields and numerics S and T.

    Args:
        schema: The fitted `Schema`; one label (plain CTR) or several.
        embedding_dim: D, the width of a token; the paper's is 64.
        version: `"v2"` ("Aggregate and Broadcast") or `"v1"` ("A Task-aware Information Flow Network"): hubs read the other groups only,
            what they read is summed, tokens are gated by `sigmoid(MLP(vec(H_g)))` without norm, events are summed (`layers.INFNetV1Block`).
        num_layers: Blocks, at least 1; the paper's industrial model has 4.
        num_categorical_hubs: Hubs of C; None = 16, in `"v1"` 4.
        num_sequence_hubs: Hubs of each group of sequences; None = 1, in `"v1"` 4.
        num_shared_task_hubs: Learned hubs of T beside its tokens, 0 for none in `"v2"`; None = 4, in `"v1"` 2.
        num_heads: Heads of the cross-attention; divides `embedding_dim`.
        hub_initialization: How hubs of C and S start: `"mlp"`, `"mean"` (of the tokens, and a learned vector for each hub) or `"random"`
            (learned vectors).
        use_hubs: False: every token is its own hub, which is all-to-all attention (in `"v1"` to the other groups). Costs the
            square of the number of tokens.
        use_task_tokens: False: no task tokens; the towers share `[vec(C) || mean of each group's events]` after the last block.
        use_aggregation: False: hubs stay what they start as. No task token would learn of its row, so there are none, as above.
        use_broadcast: False: tokens stay what they start as, and the towers read the task hubs. Nothing else is then read, so there are
            only the L task tokens as hubs; without task tokens the towers share the hubs of C and S.
        residual: `"v1"` only: False adds nothing to what is read, the letter of the equations.
        use_positions: Whether events know how many events of their group are newer; None = True, in `"v1"` False.
        max_positions: Positions told apart; older events share the last one. Not the length of a batch: padding must not matter.
        time_gap: Name of the sequence that holds the events' time gaps in buckets `2 + min(floor(log2(seconds + 1)), 31)`: its embedding
            is added to the tokens of its group as it is. None = such a sequence is an attribute like the others.
        layer_norm_epsilon: Added to a token's variance where it is normalised (`"v2"`). Embeddings start with a variance of 1e-4, so the
            default leaves rows that have hardly been trained small; 1e-6 would make them as large as the others (docs/deviations.md).
        hidden_units: Hidden widths of the networks that make hubs, affine maps and gates; None = `(4 * embedding_dim,)`.
        tower_units: Widths of each tower's hidden layers.
        dropout: Share of the towers' hidden units dropped in training.
        hidden_activation: Activation of all hidden layers.
        numeric: How numerics that are not binned become tokens: a `kind` of `layers.NumericTokens`. `"scale_embedding"` and `"bucketize"`
            make one token each, `"bottom_mlp"` and `"dense_projection"` one for all.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range, arguments that exclude each other, or a `time_gap` that is no sequence.
    """
    _check("version", version, DEFAULTS)
    _check("hub_initialization", hub_initialization, layers.HubTokens.INITIALIZATIONS)
    if not isinstance(num_layers, int) or num_layers < 1:
        raise ValueError(f"INFNet: num_layers must be an int of at least 1, got {num_layers!r}")
    if use_hubs + use_aggregation + use_broadcast < 2:
        raise ValueError("INFNet: use_hubs, use_aggregation and use_broadcast are parts of one path; switch off one of them at most")
    if version == "v2" and not residual:
        raise ValueError("INFNet: residual=False is a reading of version='v1'; version 2 has the residual in its equation")
    if num_shared_task_hubs == 0 and version == "v1" and use_hubs and use_broadcast:
        raise ValueError("INFNet: version='v1' gates task tokens by shared hubs alone; num_shared_task_hubs must be at least 1")
    own = DEFAULTS[version]
    num_categorical_hubs = own["num_categorical_hubs"] if num_categorical_hubs is None else num_categorical_hubs
    num_sequence_hubs = own["num_sequence_hubs"] if num_sequence_hubs is None else num_sequence_hubs
    num_shared_task_hubs = own["num_shared_task_hubs"] if num_shared_task_hubs is None else num_shared_task_hubs
    use_positions = own["use_positions"] if use_positions is None else use_positions

    gap_group = group_of_gaps("INFNet", schema, time_gap)
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    tokens, mask, events = _field_tokens(features, schema, embedding_dim, numeric), None, {}
    for group, members in schema.sequence_groups.items():
        interval = [s.name for s in members].index(time_gap) if group == gap_group else None
        embed = layers.BehaviorTokens(
            embedding_dim, use_positions=use_positions, max_positions=max_positions, interval=interval, name=f"events_{group}"
        )
        events[group] = embed(features["sequences"][group], mask=features["masks"][group])  # (B, T_g, D)
    if events:
        merged = layers.MergeSequences("tokens", name="merge")(list(events.values()), list(features["masks"].values()))
        tokens["sequence"], mask = merged["tokens"], merged["mask"]  # (B, T, D), (B, T)
    has_tasks = use_task_tokens and use_aggregation
    if has_tasks:
        learned = layers.HubTokens(len(schema.labels), initialization="random", name="task_tokens")
        tokens["task"] = learned(next(iter(tokens.values())))  # (B, L, D)

    # What the head reads, and what each block changes: nothing is built that no later layer reads.
    read = ("task",) if has_tasks else tuple(tokens)
    changed = [tuple(tokens) if use_broadcast and index < num_layers else read for index in range(1, num_layers + 1)]
    shared = {"initialization": hub_initialization, "hidden_units": hidden_units, "activation": hidden_activation}
    hubs = {}
    if use_hubs and "categorical" in changed[0]:
        hubs["categorical"] = layers.HubTokens(num_categorical_hubs, name="categorical_hubs", **shared)(tokens["categorical"])
    if use_hubs and "sequence" in changed[0]:
        pooling = "mean" if version == "v2" else "sum"
        hubs["sequence"] = _joined(
            [
                layers.HubTokens(num_sequence_hubs, pooling=pooling, name=f"sequence_hubs_{group}", **shared)(
                    events[group], mask=features["masks"][group]
                )
                for group in events
            ],
            "sequence_hubs",
        )
    if use_hubs and has_tasks:
        parts = [] if version == "v1" and use_broadcast else [tokens["task"]]  # a block of version 1 adds them itself
        if use_broadcast and num_shared_task_hubs:
            learned = layers.HubTokens(num_shared_task_hubs, initialization="random", name="shared_task_hubs")
            parts.append(learned(tokens["task"]))
        hubs["task"] = _joined(parts, "task_hubs")
    for index, groups in enumerate(changed, start=1):
        options = {"epsilon": layer_norm_epsilon} if version == "v2" else {"residual": residual}
        block = (layers.INFNetBlock if version == "v2" else layers.INFNetV1Block)(
            num_heads,
            hidden_units=hidden_units,
            activation=hidden_activation,
            use_aggregation=use_aggregation,
            use_broadcast=use_broadcast,
            per_token=not use_hubs,
            name=f"block_{index}",
            **options,
        )
        given = hubs if use_hubs else tokens
        out = block({group: given[group] for group in groups}, tokens, mask=mask)
        hubs, tokens = out["hubs"], out["tokens"]

    outcome = tokens if use_broadcast else hubs
    if has_tasks:
        head = outcome["task"]  # (B, L, D)
    else:
        head = _flat(outcome, features["masks"] if use_broadcast and events else None)  # (B, N)
    towers = layers.TaskTowers(len(schema.labels), tower_units, activation=hidden_activation, dropout=dropout, name="logits")
    return CTRModel(inputs, predictions(towers(head), schema, activation), name=name)


def _field_tokens(features, schema, embedding_dim, numeric):
    """Returns `{"categorical": (B, M, D)}`, fields then numerics, empty without any."""
    parts = [features["fields"]] if "fields" in features else []
    if "numeric" in features:
        parts.append(numeric_tokens(features, schema, embedding_dim, numeric))
    return {"categorical": _joined(parts, "categorical_tokens")} if parts else {}


def _joined(parts, name):
    return parts[0] if len(parts) == 1 else keras.layers.Concatenate(axis=1, name=name)(parts)


def _flat(groups, masks):
    """Returns one vector `(B, N)`: all tokens side by side, with `masks` the mean of each group's events in the place of the events."""
    parts = [keras.layers.Flatten(name=f"flat_{group}")(x) for group, x in groups.items() if group != "sequence" or masks is None]
    start = 0
    for group, mask in (masks or {}).items():
        end = start + mask.shape[1]
        parts.append(layers.SequencePooling(name=f"pool_{group}")(groups["sequence"][:, start:end], mask=mask))  # (B, 1, D)
        parts[-1] = keras.layers.Flatten(name=f"mean_{group}")(parts[-1])
        start = end
    return parts[0] if len(parts) == 1 else keras.layers.Concatenate(name="flat")(parts)


def _check(argument, value, choices):
    if value not in choices:
        raise ValueError(f"INFNet: {argument} must be one of {tuple(choices)}, got {value!r}{nearest(value, choices)}")
