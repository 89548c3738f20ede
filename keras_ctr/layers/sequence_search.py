"""Search in long histories: which K of T events a target attention gets to see (SIM, ETA)."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_int
from keras_ctr.layers.behavior_transformer import steps_back


class _Search(keras.Layer):
    """What the searches share: `select` keeps the K best events of a row, in their order."""

    def __init__(self, num_selected=50, **kwargs):
        super().__init__(**kwargs)
        check_int(self, "num_selected", num_selected)
        self.num_selected = num_selected
        self.supports_masking = True

    def build(self, query_shape, keys_shape, events_shape):
        self.built = True

    def select(self, ranks, events):
        """Returns `(B, K, D)` and the mask `(B, K)` of the events with the highest `ranks` `(B, T)` int, of those above 0."""
        count = min(self.num_selected, ranks.shape[1])
        _, index = ops.top_k(ranks, count, sorted=False)  # (B, K)
        index = ops.sort(ops.cast(index, "int32"), axis=1)  # oldest first again
        found = ops.take_along_axis(ranks, index, axis=1) > 0  # (B, K)
        # The gradient of a gather: only what was selected gets any.
        selected = ops.take_along_axis(events, ops.expand_dims(index, -1), axis=1)  # (B, K, D)
        return ops.where(ops.expand_dims(found, -1), selected, ops.zeros_like(selected)), found

    def compute_mask(self, inputs, previous_mask=None):
        return None

    def compute_output_shape(self, query_shape, keys_shape, events_shape):
        if events_shape[1] is None:
            raise ValueError(f"{type(self).__name__} '{self.name}' selects among a known number of steps; the events have T = None")
        count = min(self.num_selected, events_shape[1])
        return (events_shape[0], count, events_shape[2]), (events_shape[0], count)

    def compute_output_spec(self, query, keys, events, mask=None):
        selected, found = self.compute_output_shape(query.shape, keys.shape, events.shape)
        return keras.KerasTensor(selected, dtype=self.compute_dtype), keras.KerasTensor(found, dtype="bool")

    def get_config(self):
        return {**super().get_config(), "num_selected": self.num_selected}


def _newest_first(shown):
    """Returns an int32 rank `(B, T)` of the steps of `shown`: the newest has the highest, hidden ones 0."""
    steps = shown.shape[1]
    return ops.where(shown, steps + 1 - steps_back(shown), ops.zeros_like(ops.cast(shown, "int32")))


def _valid(mask, events):
    return ops.ones_like(events[..., 0], dtype="bool") if mask is None else mask


@keras.saving.register_keras_serializable(package="keras_ctr")
class HardSearch(_Search):
    """The newest events of the candidate's category: map `(B, T, D) -> (B, K, D), (B, K)`. No weights.

    Event t is found if `key_t = query`; of the valid ones found the newest K are returned, oldest first, and a mask that is False where
    there are fewer. K is at most T.

    Args:
        num_selected: K.

    Call arguments:
        query: Int `(B,)`, the candidate's category.
        keys: Int `(B, T)`, the events'.
        events: `(B, T, D)`, oldest first.
        mask: `(B, T)` bool, True = valid; None = all valid.

    Returns:
        `(B, K, D)`, zeros where nothing was found, and the mask `(B, K)`.

    Raises:
        ValueError: On a non-positive K, or an unknown number of steps.

    Source: SIM (arXiv:2006.05639, Eq. 1, hard search).
    """

    def call(self, query, keys, events, mask=None):
        shown = ops.logical_and(_valid(mask, events), ops.equal(keys, ops.expand_dims(query, 1)))  # (B, T)
        return self.select(_newest_first(shown), events)


@keras.saving.register_keras_serializable(package="keras_ctr")
class RecentSearch(_Search):
    """The newest events, whatever they are: map `(B, T, D) -> (B, K, D), (B, K)`. No weights.

    Arguments and results as for `HardSearch`; `query` and `keys` do not count (pass the candidate and the events).

    Args:
        num_selected: K.

    Source: the short history beside the search of SIM and ETA.
    """

    def call(self, query, keys, events, mask=None):
        return self.select(_newest_first(_valid(mask, events)), events)


@keras.saving.register_keras_serializable(package="keras_ctr")
class SoftSearch(_Search):
    """The events of the largest inner products with the candidate: map `(B, T, D) -> (B, K, D), (B, K)`. No weights.

    `r_t = <key_t, query>`; the valid events of the K largest r are returned, oldest first; equal r favour the newer event. The search has
    no gradient, the events that it selects have theirs. K is at most T.

    Args:
        num_selected: K.

    Call arguments:
        query: `(B, C)`, the candidate's embedding.
        keys: `(B, T, C)`, the events'.
        events: `(B, T, D)`, oldest first; what is returned.
        mask: `(B, T)` bool, True = valid; None = all valid.

    Returns:
        `(B, K, D)`, zeros where there are too few valid events, and the mask `(B, K)`.

    Raises:
        ValueError: On a non-positive K, or an unknown number of steps.

    Source: SIM (arXiv:2006.05639, Eq. 1, soft search).
    Deviations: the paper maps candidate and events by two learned matrices before the product and trains these, and embeddings of their
    own, by a second loss on the weighted sum of all events; here the products are those of the model's embeddings.
    """

    def call(self, query, keys, events, mask=None):
        query, keys = (ops.cast(ops.stop_gradient(x), "float32") for x in (query, keys))
        scores = ops.sum(keys * ops.expand_dims(query, 1), axis=-1)  # (B, T)
        shown = _valid(mask, events)
        # Ranks instead of scores: a tie has to fall on the newer event, wherever padding lies.
        scores = ops.where(shown, scores, ops.full_like(scores, -float("inf")))
        order = ops.argsort(ops.argsort(scores, axis=1), axis=1)  # (B, T), equal scores in the order of time
        return self.select(ops.where(shown, ops.cast(order, "int32") + 1, ops.zeros_like(ops.cast(order, "int32"))), events)


@keras.saving.register_keras_serializable(package="keras_ctr")
class LSHSearch(_Search):
    """The events whose hash is nearest to the candidate's: map `(B, T, D) -> (B, K, D), (B, K)`. No trainable weights.

    `code(x)_j = [x . h_j > 0]` for j = 1 .. m, h fixed and drawn from N(0, 1) (SimHash): two vectors agree in a bit with probability
    `1 - angle / pi`. The K valid events whose codes agree with the candidate's in the most bits are returned, oldest first; equal agreement
    favours the newer event. The search has no gradient, the events that it selects have theirs. K is at most T.

    Args:
        num_selected: K.
        num_hashes: m.
        seed: Of h; part of the saved weights besides.

    Call arguments:
        query: `(B, C)`, the candidate's embedding.
        keys: `(B, T, C)`, the events'.
        events: `(B, T, D)`, oldest first; what is returned.
        mask: `(B, T)` bool, True = valid; None = all valid.

    Returns:
        `(B, K, D)`, zeros where there are too few valid events, and the mask `(B, K)`.

    Raises:
        ValueError: On a non-positive number, or an unknown number of steps.

    Source: ETA (arXiv:2108.04468, section 3).
    Deviations: codes are compared as bits in whole numbers, where a server would take the bit count of an exclusive or; serving with stored
    codes is not part of this layer.
    """

    def __init__(self, num_selected=50, *, num_hashes=32, seed=1, **kwargs):
        super().__init__(num_selected, **kwargs)
        check_int(self, "num_hashes", num_hashes)
        self.num_hashes = num_hashes
        self.seed = seed

    def build(self, query_shape, keys_shape, events_shape):
        initializer = keras.initializers.RandomNormal(stddev=1.0, seed=self.seed)
        shape = (query_shape[-1], self.num_hashes)
        self.planes = self.add_weight(name="planes", shape=shape, initializer=initializer, trainable=False, autocast=False)
        self.built = True

    def call(self, query, keys, events, mask=None):
        query = ops.expand_dims(self._code(query), 1)  # (B, 1, m)
        agreement = ops.sum(ops.cast(ops.equal(self._code(keys), query), "int32"), axis=-1)  # (B, T)
        shown = _valid(mask, events)
        newest = _newest_first(shown)  # (B, T)
        ranks = agreement * (newest.shape[1] + 1) + newest
        return self.select(ops.where(shown, ranks, ops.zeros_like(ranks)), events)

    def _code(self, x):
        return ops.matmul(ops.cast(ops.stop_gradient(x), "float32"), self.planes) > 0

    def get_config(self):
        return {**super().get_config(), "num_hashes": self.num_hashes, "seed": self.seed}
