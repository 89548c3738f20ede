"""Where `keras_ctr.data.synthetic` plants its effects, and the drawing of features. NumPy only."""

import numbers
import zlib
from dataclasses import dataclass

import numpy as np

from keras_ctr.features import FIRST_ID, META_GROUP, META_TIME, PADDING_ID, Numeric, Sequence

__all__ = ["Layout", "check", "check_count", "draw_features", "generator", "places"]


def generator(seed: int, *names) -> np.random.Generator:
    """Returns the random stream of that name: what is drawn for one feature or effect does not depend on which others exist."""
    return np.random.default_rng([seed, *(zlib.crc32(str(name).encode()) for name in names)])


@dataclass(frozen=True)
class Layout:
    """Sizes, and where the effects are planted.

    Attributes:
        num_values: Values of each field, without the reserved ids; its length is the number of fields.
        num_numerics, num_items, num_users: Numeric features, candidate items, users.
        pairs, triples: Field indices of the pairwise and third-order interactions.
        gate_fields: Fields whose majority decides the sign of the instance-dependent interactions.
        rank: R, latent factors of an interaction.
        num_interests: C, kinds of items: a candidate matches the events of its kind.
        half_life: Events after which an event counts half; `math.inf` = all events alike.
    """

    num_values: tuple[int, ...]
    num_numerics: int
    num_items: int
    num_users: int
    pairs: tuple[tuple[int, int], ...]
    triples: tuple[tuple[int, int, int], ...]
    gate_fields: tuple[int, ...]
    rank: int
    num_interests: int
    half_life: float


def check(condition, message):
    """Raises `ValueError` with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def check_count(name, value, least):
    """Raises `ValueError` unless the value of the argument is an int of at least that size."""
    integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    check(integer and value >= least, f"{name} must be an int >= {least}, got {value!r}")


def places(num_fields, pairs, triples, gate_fields):
    """Fills in the default places of the interactions and checks given ones."""
    if gate_fields is None:
        gate_fields = tuple(range(num_fields))[-3 if num_fields >= 5 else -1 :] if num_fields >= 3 else ()
    if pairs is None:
        free = [f for f in range(num_fields) if f not in gate_fields]
        pairs = tuple(zip(free[0::2], free[1::2], strict=False))
    if triples is None:
        triples = tuple((f, f + 1, f + 2) for f in range(0, min(num_fields - 2, 6), 3))
    for name, groups, size in (("pairs", pairs, 2), ("triples", triples, 3), ("gate_fields", [(f,) for f in gate_fields], 1)):
        for fields in groups:
            distinct = len(fields) == size and len(set(fields)) == size
            known = all(isinstance(f, numbers.Integral) and 0 <= f < num_fields for f in fields)
            check(distinct and known, f"{name}: {tuple(fields)} must be {size} different field indices below num_fields={num_fields}")
        check(len({frozenset(fields) for fields in groups}) == len(groups), f"{name} has repeated entries: {tuple(groups)}")
    return tuple(map(tuple, pairs)), tuple(map(tuple, triples)), tuple(gate_fields)


def draw_features(num_rows, seed, layout, schema, empty_history):
    """Draws the encoded features; every feature has its own stream."""
    time = np.cumsum(generator(seed, META_TIME).integers(1, 60, size=num_rows), dtype=np.int64)
    activity = np.cumsum(1.0 / (5.0 + np.arange(layout.num_users)))
    group = np.searchsorted(activity, generator(seed, META_GROUP).random(num_rows) * activity[-1], side="right")
    group = np.minimum(group, layout.num_users - 1).astype(np.int64)  # the product above may round up to the last sum
    features = {}
    for feature in schema.features:
        rng, shape, dtype = generator(seed, "feature", feature.name), (num_rows, *schema.encoded_shape(feature.name)), np.int32
        if isinstance(feature, Numeric):
            values, dtype = rng.normal(size=shape), np.float32
        elif feature.name == schema.group:
            values = group + FIRST_ID
        else:
            values = rng.integers(FIRST_ID, schema.table_of(feature).vocabulary_size, size=shape)
        if isinstance(feature, Sequence):
            lengths = np.where(rng.random(num_rows) < empty_history, 0, rng.integers(1, feature.max_length + 1, size=num_rows))
            values = np.where(np.arange(feature.max_length) < lengths[:, None], values, PADDING_ID)  # (n, T)
        features[feature.name] = values.astype(dtype)
    return {**features, META_GROUP: group, META_TIME: time}
