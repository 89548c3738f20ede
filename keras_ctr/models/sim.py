"""SIM: search-based interest model."""

import keras

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import flat_parts, with_interests
from keras_ctr.registry import register_model
from keras_ctr.schema import nearest

SEARCHES = ("hard", "soft")


@register_model(paper="https://arxiv.org/abs/2006.05639", sequential=True)
def SIM(
    schema,
    *,
    embedding_dim=16,
    search="soft",
    search_by=None,
    num_selected=50,
    num_heads=2,
    num_recent=10,
    attention_units=(80, 40),
    attention_activation="dice",
    hidden_units=(200, 80),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="dice",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="sim",
):
    """Search-based Interest Model: attention to the events of a long history that a search finds for the candidate (Pi et al., CIKM 2020).

    `logit = MLP([vec(E) || numerics || u_1 || v_1 || ...])`, for every group of sequences u, multi-head attention of the target to the
    events that the search found, and v, DIN's target attention to the newest events. A group none of whose sequences names a target is
    mean-pooled; a schema without sequences makes this the plain deep model.

    `"hard"`: the newest K events of the target's category. `"soft"`: the K events of the largest inner products with the target. The search
    has no gradient; the events it selects have.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        search: `"hard"` or `"soft"`.
        search_by: Names of the sequences by whose ids `"hard"` searches, at most one a group; each has a target. A group without one: the
            sequence with a target whose table is the smallest.
        num_selected: K; the paper searches among thousands of events.
        num_heads: Heads of the attention to the events found; divides the width of an event.
        num_recent: Newest events of the short history; 0 = no short history.
        attention_units: Widths of the hidden layers that score an event of the short history.
        attention_activation: `"dice"` or the name of a Keras activation.
        hidden_units: Widths of the MLP's hidden layers.
        dropout: Share of hidden units dropped in training.
        batch_norm: Whether to normalise before each hidden activation.
        hidden_activation: `"dice"` or the name of a Keras activation.
        numeric: How numerics that are not binned enter: `"raw"`, the numbers as they are, or a `kind` of `layers.NumericTokens`:
            `"scale_embedding"` and `"bucketize"` make one D-wide token each, `"bottom_mlp"` and `"dense_projection"` one for all.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range, or a `search_by` that does not name sequences with targets.
    """
    if search not in SEARCHES:
        raise ValueError(f"SIM: search must be one of {SEARCHES}, got {search!r}{nearest(search, SEARCHES)}")
    sought = _sought(schema, search_by)

    def found(inputs, features, group):
        events, mask = features["sequences"][group], features["masks"][group]
        if search == "soft":
            query, keys = searched(features, schema, group)
            return layers.SoftSearch(num_selected, name=f"search_{group}")(query, keys, events, mask=mask)
        sequence = sought[group]
        return layers.HardSearch(num_selected, name=f"search_{group}")(inputs[sequence.target], inputs[sequence.name], events, mask=mask)

    return search_model(
        "SIM",
        schema,
        found,
        embedding_dim=embedding_dim,
        num_heads=num_heads,
        num_recent=num_recent,
        attention_units=attention_units,
        attention_activation=attention_activation,
        hidden_units=hidden_units,
        dropout=dropout,
        batch_norm=batch_norm,
        hidden_activation=hidden_activation,
        numeric=numeric,
        embedding_l2=embedding_l2,
        activation=activation,
        name=name,
    )


def search_model(
    model,
    schema,
    found,
    *,
    embedding_dim,
    num_heads,
    num_recent,
    attention_units,
    attention_activation,
    hidden_units,
    dropout,
    batch_norm,
    hidden_activation,
    numeric,
    embedding_l2,
    activation,
    name,
):
    """Builds a model on the events that a search found and on the newest ones; arguments as for `SIM`.

    Args:
        model: Name of the factory, for errors.
        schema: The schema.
        found: Function of `(inputs, features, group)` that returns the selected events `(B, K, M*D)` and their mask `(B, K)`.
    """
    if not isinstance(num_recent, int) or num_recent < 0:
        raise ValueError(f"{model}: num_recent must be an int of at least 0, got {num_recent!r}")
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)

    def interest(group):
        target, events, mask = (features[kind][group] for kind in ("targets", "sequences", "masks"))
        selected, shown = found(inputs, features, group)  # (B, K, M*D), (B, K)
        query = keras.layers.Reshape((1, target.shape[-1]), name=f"query_{group}")(target)  # (B, 1, M*D)
        attention = layers.MultiHeadAttention(num_heads, name=f"long_attention_{group}")
        long = keras.layers.Flatten(name=f"long_{group}")(attention(query, selected, mask=shown))  # (B, M*D)
        if not num_recent:
            return [long]
        recent, shown = layers.RecentSearch(num_recent, name=f"recent_{group}")(target, events, events, mask=mask)
        attention = layers.TargetAttention(attention_units, activation=attention_activation, name=f"attention_{group}")
        return [long, attention(target, recent, mask=shown)]  # (B, M*D) each

    flat = with_interests(flat_parts(features, schema, embedding_dim, numeric), features, schema, interest)  # (B, N0)
    unit = layers.Dice() if hidden_activation == "dice" else hidden_activation
    deep = layers.MLP(hidden_units, activation=unit, dropout=dropout, batch_norm=batch_norm, name="mlp")(flat)
    return CTRModel(inputs, predictions(logits(deep, schema), schema, activation), name=name)


def searched(features, schema, group):
    """Returns target and events `(B, C)`, `(B, T, C)` of the attributes that have a target: the others know nothing of the candidate."""
    target, events = features["targets"][group], features["sequences"][group]
    members = schema.sequence_groups[group]
    kept = [i for i, sequence in enumerate(members) if sequence.target]
    if len(kept) == len(members):
        return target, events
    select = layers.SelectAttributes(kept, len(members), name=f"searched_{group}")
    return select(target), select(events)


def _sought(schema, names):
    """Returns `{group: sequence}` by whose ids the hard search looks."""
    with_target = {s.name: s for s in schema.sequences if s.target}
    sought = {}
    for name in names or ():
        if name not in with_target:
            hint = nearest(name, with_target)
            raise ValueError(f"SIM: search_by names '{name}', which is no sequence with a target{hint}")
        group = with_target[name].group
        if group in sought:
            raise ValueError(f"SIM: search_by names '{sought[group].name}' and '{name}' of the group '{group}'; give one a group")
        sought[group] = with_target[name]
    for sequence in sorted(with_target.values(), key=lambda s: schema.table_of(s).vocabulary_size):
        sought.setdefault(sequence.group, sequence)
    return sought
