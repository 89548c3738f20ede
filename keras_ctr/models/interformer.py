"""InterFormer: fields and behaviour sequences that inform each other in every layer."""

import keras

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import numeric_tokens
from keras_ctr.registry import register_model
from keras_ctr.schema import nearest

MODES = ("int", "s2n", "n2s", "sep", "sole")
AGGREGATIONS = ("avg", "mlp", "mha")


@register_model(paper="https://arxiv.org/abs/2411.09852", sequential=True)
def InterFormer(
    schema,
    *,
    embedding_dim=16,
    num_layers=2,
    num_heads=2,
    num_summary=4,
    num_cls=4,
    num_pma=2,
    num_recent=2,
    backbone="dhen",
    mode="int",
    early_aggregation=None,
    sequence_merge="features",
    block_style="transformer",
    pffn="mlp",
    pffn_units=None,
    gate="gated",
    final_summary=True,
    use_pma=True,
    use_recent=True,
    use_gating=True,
    use_pffn=True,
    use_mha=True,
    use_self_masking=True,
    layer_norm_epsilon=0.1,
    rank=32,
    num_inner_layers=1,
    residual=False,
    interaction_units=(256,),
    hidden_units=(512, 256, 128),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="swish",
    numeric="dense_projection",
    embedding_l2=0.0,
    activation="sigmoid",
    name="interformer",
):
    """InterFormer (Zeng et al., CIKM 2025): interleaved learning of feature interactions and of behaviour sequences.

    With X the field tokens `(B, F, D)` (the numerics make one of them) and S the sequence tokens `(B, num_cls + T, D)`, layer l does

    ```
    X_sum, S_sum = CrossArch(X, S)                  summaries, S with CLS tokens = X_sum put in front before the first layer
    X <- InteractionArch(X, S_sum)                  fields interact with each other and with the behaviour
    S <- SequenceArch(S, X_sum)                     personalized feed-forward network, then self-attention
    ```

    and after the last one `logit = MLP([vec(X_sum) || vec(S_sum)])`. On a schema without sequences it is the Interaction Arch alone: the
    layers act on X, the head sees X_sum.

    Args:
        schema: The fitted `Schema`; at least one field or numeric.
        embedding_dim: D, the width of a token.
        num_layers: L, at least 1.
        num_heads: Heads of every attention; `embedding_dim / num_heads` must be an even whole number.
        num_summary: Tokens of the field summary.
        num_cls: CLS tokens, the first of the field summary; at most `num_summary`.
        num_pma: Tokens pooled from the sequence by learned queries.
        num_recent: Newest events that enter the sequence summary; with `sequence_merge="tokens"` of each of the G groups, so that none is
            lost (the summary then has `num_cls + num_pma + G num_recent` tokens).
        backbone: Interaction module: `"dhen"`, `"dcnv2"`, `"dot"`, or a layer prototype on `(B, N, D)`.
        mode: Which way information flows: `"int"` both; `"s2n"` sequence to fields only (PFFN a learned matrix, CLS learned tokens);
            `"n2s"` fields to sequence only; `"sep"` neither before the head; `"sole"` no Sequence Arch: each group of sequences is
            compressed to one token beside the fields.
        early_aggregation: How `"sole"` compresses: `"avg"` (also None), `"mlp"` or `"mha"`. Only with that mode.
        sequence_merge: How several groups of sequences become one: `"features"`, side by side at steps counted from the newest event,
            unified by one self-masking network (Eq. 6); `"tokens"`, each unified by its own network, then one after the other (section
            5.3.1), equally good on KuaiRand. Attention costs the square of the sum of lengths against that of the longest.
        block_style: `"transformer"` (pre-norm residual Sequence Arch) or `"paper"` (Eq. 9 to the letter).
        pffn: `"mlp"` (Eq. 8) or `"linear"` (section A.2.2, of rank `num_summary` at most).
        pffn_units: Hidden widths of the `"mlp"` PFFN; None = `(embedding_dim,)`.
        gate: `"gated"`, X * sigmoid(XW + b), or `"outer"`, sigmoid(X * (XW + b)) (Eq. 10 to the letter).
        final_summary: Whether the head sees summaries of the last layer's output. False is Algorithm 1 to the letter: the head sees the
            summaries with which the last layer begins, so that only L - 1 layers have their Interaction and Sequence Arch.
        use_pma: False drops the PMA tokens.
        use_recent: False drops the recent tokens.
        use_gating: False replaces the gates by the identity.
        use_pffn: False replaces the PFFN by one learned matrix.
        use_mha: False drops the self-attention of the Sequence Arch.
        use_self_masking: False leaves the linear map of the self-masking network.
        layer_norm_epsilon: Added to a token's variance where it is normalised. Embeddings start with a variance of 1e-4, so the default
            leaves rows that have hardly been trained small; 1e-6 would make them as large as the others (docs/deviations.md).
        rank: Rank of the crosses in `"dhen"` and `"dcnv2"`.
        num_inner_layers: DHEN layers in an Interaction Arch.
        residual: Whether an Interaction Arch adds its output to its input; Eq. 7 has no residual.
        interaction_units: Hidden widths of the MLP that ends an Interaction Arch.
        hidden_units: Hidden widths of the head.
        dropout: Share dropped in training, of the hidden units of head and Interaction Arch and of the Sequence Arch's branches.
        batch_norm: Whether to normalise before each hidden activation of the head.
        hidden_activation: Activation of all hidden layers.
        numeric: How numerics that are not binned become tokens, `kind` of `layers.NumericTokens`; the paper's is one token for all.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range, arguments that exclude each other, or a schema with neither fields nor numerics.
    """
    _check("mode", mode, MODES)
    _check("sequence_merge", sequence_merge, layers.MergeSequences.MERGES)
    _check("pffn", pffn, layers.PersonalizedFFN.KINDS)
    _check("block_style", block_style, layers.SequenceArch.BLOCK_STYLES)
    if early_aggregation is not None:
        _check("early_aggregation", early_aggregation, AGGREGATIONS)
        if mode != "sole":
            raise ValueError(f"InterFormer: early_aggregation={early_aggregation!r} needs mode='sole', got mode={mode!r}")
    if not isinstance(num_layers, int) or num_layers < 1:
        raise ValueError(f"InterFormer: num_layers must be an int of at least 1, got {num_layers!r}")
    if mode != "sole" and not (use_pma or use_recent or use_mha):
        raise ValueError("InterFormer: without use_pma, use_recent and use_mha no event reaches a summary; keep one of them")
    if not schema.fields and not schema.numerics:
        raise ValueError("InterFormer: the schema has sequences only; add a field or a numeric")
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    tokens = _field_tokens(features, schema, embedding_dim, numeric)
    s = mask = segments = None
    if schema.sequences:
        groups = _unified_groups(features, embedding_dim, sequence_merge, activation=hidden_activation, self_masking=use_self_masking)
        if mode == "sole":
            for group, events, valid in groups:
                pool = layers.EarlyAggregation(
                    early_aggregation or "avg", activation=hidden_activation, num_heads=num_heads, name=f"aggregate_{group}"
                )
                tokens.append(pool(events, mask=valid))  # (B, 1, D)
        else:
            segments = [events.shape[1] for _, events, _ in groups]
            s, mask = _one_sequence(groups)  # (B, T, D), (B, T)
    x = tokens[0] if len(tokens) == 1 else keras.layers.Concatenate(axis=1, name="field_tokens")(tokens)  # (B, F', D)

    fields_inform = s is not None and mode in ("int", "n2s")  # the sequence learns from the fields
    personalized = fields_inform and use_pffn
    # What each layer but the last summary needs: nothing is built that no later layer reads.
    exchanged = {"fields": personalized, "sequence": s is not None and mode in ("int", "s2n")}
    sides = ("fields",) if s is None else ("fields", "sequence")
    rounds = num_layers if final_summary else num_layers - 1
    for layer in range(1, rounds + 2):
        last = layer == rounds + 1
        summarize = [side for side in sides if last or exchanged[side]]
        cls_source = "given"
        if layer == 1 and s is not None and num_cls:
            cls_source = "summary" if fields_inform else "learned"
        summary = {}
        if summarize or cls_source != "given":
            cross = layers.CrossArch(
                num_summary,
                num_cls=num_cls,
                num_pma=num_pma if use_pma else 0,
                num_recent=num_recent if use_recent else 0,
                num_heads=num_heads,
                cls_source=cls_source,
                summarize=summarize,
                segments=segments,
                use_gating=use_gating,
                gate=gate,
                name=f"cross_{layer}",
            )
            reads_fields = "fields" in summarize or cls_source == "summary"
            summary = cross(x if reads_fields else None, s, mask=mask)
            s, mask = summary.get("tokens", s), summary.get("mask", mask)  # (B, num_cls + T, D), (B, num_cls + T)
        if last:
            break
        interaction = layers.InteractionArch(
            backbone,
            hidden_units=interaction_units,
            activation=hidden_activation,
            dropout=dropout,
            rank=rank,
            num_inner_layers=num_inner_layers,
            residual=residual,
            epsilon=layer_norm_epsilon,
            name=f"interaction_{layer}",
        )
        x = interaction(x, summary.get("sequence"))  # (B, F', D)
        if s is not None:
            sequence = layers.SequenceArch(
                num_heads,
                block_style=block_style,
                pffn=pffn if personalized else "static",
                pffn_units=pffn_units,
                use_attention=use_mha,
                dropout=dropout,
                epsilon=layer_norm_epsilon,
                name=f"sequence_{layer}",
            )
            s = sequence(s, summary.get("fields"), mask=mask)  # (B, num_cls + T, D)

    flat = [keras.layers.Flatten(name=f"flat_{side}")(summary[side]) for side in sides]
    flat = flat[0] if len(flat) == 1 else keras.layers.Concatenate(name="summaries")(flat)  # (B, (num_summary + S_sum) D)
    head = layers.MLP(hidden_units, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm, name="head")(flat)
    return CTRModel(inputs, predictions(logits(head, schema), schema, activation), name=name)


def _field_tokens(features, schema, embedding_dim, numeric):
    """Returns `[(B, N', D) of the numerics, (B, F, D)]`, as far as the schema has them (Eq. 5)."""
    tokens = [numeric_tokens(features, schema, embedding_dim, numeric)] if "numeric" in features else []
    return [*tokens, features["fields"]] if "fields" in features else tokens


def _unified_groups(features, embedding_dim, merge, **mask_net):
    """Returns `[(name, events (B, T_g, D), mask (B, T_g))]` after the self-masking network (Eq. 6)."""
    groups = [(name, events, features["masks"][name]) for name, events in features["sequences"].items()]
    if merge == "features" and len(groups) > 1:
        merged = layers.MergeSequences("features", name="merge")([events for _, events, _ in groups], [mask for *_, mask in groups])
        groups = [("merged", merged["tokens"], merged["mask"])]
    return [
        (name, layers.SequenceMaskNet(embedding_dim, name=f"mask_net_{name}", **mask_net)(events, mask=mask), mask)
        for name, events, mask in groups
    ]


def _one_sequence(groups):
    """Returns `(B, T, D), (B, T)`: the groups one after the other."""
    if len(groups) == 1:
        return groups[0][1:]
    merged = layers.MergeSequences("tokens", name="merge")([events for _, events, _ in groups], [mask for *_, mask in groups])
    return merged["tokens"], merged["mask"]


def _check(argument, value, choices):
    if value not in choices:
        raise ValueError(f"InterFormer: {argument} must be one of {choices}, got {value!r}{nearest(value, choices)}")
