"""Sampled negative events: beside every event of a history another event that was not it, for the auxiliary losses of sequence models.

For a valid step t of a group (a step with an id in any of its sequences) one event is drawn uniformly from all valid events of the group
in the batch, all its attributes together: its attributes belong to each other, and values are drawn as often as they occur (a popularity
of the batch's own). Where the drawn event has the same first attribute as event t, it is drawn again, `DRAWS` times in all; the negative
is padding (0) if none of them differs, which at a value's share q of the batch's events happens with the probability q^DRAWS. The first
attribute is the group's first sequence in the schema: usually the item.

`distribution="uniform"` draws ids 2..V-1 of the sequence's table instead, all alike; only for groups of one sequence, as ids drawn one by
one for several attributes would not belong to each other.

The negatives of `name` stand under `<name>_negatives`, the name of the optional inputs of `build_inputs(schema, negatives=[...])`.
"""

import numpy as np

from keras_ctr.schema import FIRST_ID, PADDING_ID, nearest, negatives_of

__all__ = ["DRAWS", "add_negatives", "negative_events"]

DRAWS = 8
"""Draws for a step, the first included, until one differs from its event."""
_DISTRIBUTIONS = ("events", "uniform")


def add_negatives(dataset, schema, sequences=None, *, seed, distribution: str = "events", num_parallel_calls=None):
    """Adds sampled negatives to every batch: `<name>_negatives` `(B, T)` for each sequence named, ids like its own.

    Draws are stateless functions of two random words; the words of a batch are those at its place in a stream that `seed` starts and that
    goes on from pass to pass. So with a seed (and the same TensorFlow global seed) two runs draw the same, batch by batch and pass by
    pass, however many threads there are, and every pass (every epoch) draws anew. A batch of a shuffled dataset is another one in every
    pass; that order is the dataset's.

    Args:
        dataset: `tf.data.Dataset` of batches `{feature: tensor}`, alone or first in a tuple with labels (and sample weights), as
            `make_dataset` returns. Other features and what follows the dict stay as they are.
        schema: Schema whose `sequence_groups` say which sequences belong together.
        sequences: Names of sequences, of a group all or none; None takes all of the schema.
        seed: Seed of the draws; None lets the TensorFlow global seed decide.
        distribution: `"events"`: an event of the batch. `"uniform"`: an id of the table, for groups of one sequence.
        num_parallel_calls: Batches worked on at a time; None lets tf.data choose.

    Returns:
        The dataset, of the same cardinality.

    Raises:
        KeyError: If a name is no sequence of the schema, or the batches lack it; with the nearest name.
        ValueError: If only a part of a group is named, the batches have negatives already or are no batches, the distribution is unknown
            or does not go with a group.
    """
    import tensorflow as tf  # `negative_events` serves where there is no TensorFlow

    spec = dataset.element_spec
    features = spec[0] if isinstance(spec, tuple) else spec
    if not isinstance(features, dict):
        raise ValueError(f"add_negatives takes a dataset of ({{feature: tensor}}, ...), got elements {spec}")
    groups = _groups(schema, sequences, distribution, features)
    if not groups:
        return dataset
    for name in (member.name for members in groups.values() for member in members):
        if features[name].shape.rank != 2:
            raise ValueError(f"sequence '{name}' has the shape {features[name].shape}, expected (B, T): batch the dataset before")

    def negatives(inputs, words):
        found = {}
        for place, members in groups.items():
            own_words = tf.random.experimental.stateless_fold_in(words, place)
            found.update(_negatives_of_batch(tf, inputs, members, own_words, schema, distribution))
        return {**inputs, **found}

    def with_negatives(batch, words):
        return (negatives(batch[0], words), *batch[1:]) if isinstance(batch, tuple) else negatives(batch, words)

    words = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2, drop_remainder=True)
    parallel = tf.data.AUTOTUNE if num_parallel_calls is None else num_parallel_calls
    return tf.data.Dataset.zip((dataset, words)).map(with_negatives, num_parallel_calls=parallel, deterministic=True)


def negative_events(x, schema, sequences, seed, *, distribution: str = "events"):
    """Returns the negatives of arrays, `{<name>_negatives: (n, T)}`: as `add_negatives` with all rows as one batch, in NumPy.

    Args:
        x: Encoded features `{name: array}`; sequences `(n, T)`.
        schema, sequences, distribution: See `add_negatives`.
        seed: Seed, or a `numpy.random.Generator` that goes on.

    Raises:
        KeyError, ValueError: See `add_negatives`.

    Example:
        >>> x = {**x, **negative_events(x, schema, None, seed=0)}
    """
    rng, found = np.random.default_rng(seed), {}
    for members in _groups(schema, sequences, distribution, x).values():
        columns = [np.asarray(x[member.name]) for member in members]  # (n, T) each
        valid = np.logical_or.reduce([column != PADDING_ID for column in columns])
        events = [column[valid] for column in columns]  # (events,)
        first, size = events[0], len(events[0])
        low, high = (0, size) if distribution == "events" else (FIRST_ID, schema.table_of(members[0]).vocabulary_size)
        drawn = rng.integers(low, high, size) if size else np.zeros(0, np.int64)  # places among the events, or ids

        def is_own(drawn, at, first=first):
            return (first[drawn] if distribution == "events" else drawn) == first[at]

        again = np.arange(size)
        for _ in range(DRAWS - 1):
            again = again[is_own(drawn[again], again)]
            drawn[again] = rng.integers(low, high, len(again)) if len(again) else 0
        drops = is_own(drawn, np.arange(size))
        for member, column, values in zip(members, columns, events, strict=True):
            out = np.full_like(column, PADDING_ID)
            out[valid] = np.where(drops, PADDING_ID, values[drawn] if distribution == "events" else drawn)
            found[negatives_of(member.name)] = out
    return found


def _groups(schema, sequences, distribution, present) -> dict:
    """Returns the groups to draw for, `{place of the group in the schema: its sequences}`, after all checks."""
    if distribution not in _DISTRIBUTIONS:
        raise ValueError(f"distribution must be one of {_DISTRIBUTIONS}, got {distribution!r}{nearest(distribution, _DISTRIBUTIONS)}")
    known = [member.name for member in schema.sequences]
    wanted = known if sequences is None else [sequences] if isinstance(sequences, str) else list(sequences)
    for name in wanted:
        if name not in known:
            raise KeyError(f"no sequence '{name}' in the schema{nearest(name, known)}")
        if name not in present:
            raise KeyError(f"the batches lack the sequence '{name}'{nearest(name, present)}")
        if negatives_of(name) in present:
            raise ValueError(f"the batches hold '{negatives_of(name)}' already")
    chosen = {}
    for place, (group, members) in enumerate(schema.sequence_groups.items()):
        missing = [member.name for member in members if member.name not in wanted]
        if len(missing) == len(members):
            continue
        if missing:
            raise ValueError(f"negatives of the group '{group}' need all its sequences: name {', '.join(missing)} too, or none of them")
        if distribution == "uniform":
            _check_uniform(schema, group, members)
        chosen[place] = members
    return chosen


def _check_uniform(schema, group, members):
    if len(members) > 1:
        names = ", ".join(member.name for member in members)
        raise ValueError(
            f"distribution='uniform' draws single ids, but the events of the group '{group}' have several attributes ({names}) "
            "that belong together: draw from the events, distribution='events'"
        )
    table = schema.table_of(members[0])
    if table.vocabulary_size is None or table.vocabulary_size <= FIRST_ID:
        raise ValueError(
            f"distribution='uniform' of '{members[0].name}': its table '{table.name}' has vocabulary_size={table.vocabulary_size}, "
            "so there is no value to draw; fit the schema"
        )


def _negatives_of_batch(tf, inputs, members, words, schema, distribution):
    """Returns `{<name>_negatives: (B, T)}` of one group."""
    columns = [inputs[member.name] for member in members]  # (B, T) each
    valid = tf.reshape(tf.reduce_any(tf.stack([column != PADDING_ID for column in columns]), axis=0), [-1])  # (B*T,)
    at = tf.where(valid)[:, 0]  # (events,)
    events = [tf.gather(tf.reshape(column, [-1]), at) for column in columns]  # (events,) each
    first, size = events[0], tf.size(at)
    if distribution == "events":
        low, high, dtype, none = 0, tf.maximum(size, 1), tf.int32, size  # places among the events
    else:
        low, high, dtype, none = FIRST_ID, schema.table_of(members[0]).vocabulary_size, first.dtype, PADDING_ID  # ids

    def draw(shape, number):
        return tf.random.stateless_uniform(shape, tf.random.experimental.stateless_fold_in(words, number), low, high, dtype)

    def is_own(drawn, own):
        return (tf.gather(first, drawn) if distribution == "events" else drawn) == own

    drawn = draw([size], 0)
    again = tf.where(is_own(drawn, first))[:, 0]  # few: all further draws are for these alone
    own, more = tf.gather(first, again), draw([DRAWS - 1, tf.size(again)], 1)
    redrawn = more[0]
    for number in range(1, DRAWS - 1):
        redrawn = tf.where(is_own(redrawn, own), more[number], redrawn)
    redrawn = tf.where(is_own(redrawn, own), tf.cast(none, dtype), redrawn)
    drawn = tf.tensor_scatter_nd_update(drawn, again[:, None], redrawn)
    # Back to steps by gathering, faster than scattering: what is no event reads the place after the last one, which holds none.
    place = tf.where(valid, tf.cumsum(tf.cast(valid, tf.int32), exclusive=True), size)
    drawn = tf.gather(tf.concat([drawn, [tf.cast(none, dtype)]], axis=0), place)  # (B*T,)
    found = {}
    for member, column, values in zip(members, columns, events, strict=True):
        padding = tf.constant([PADDING_ID], column.dtype)
        steps = tf.gather(tf.concat([values, padding], axis=0), drawn) if distribution == "events" else drawn
        found[negatives_of(member.name)] = tf.ensure_shape(tf.reshape(steps, tf.shape(column)), column.shape)
    return found
