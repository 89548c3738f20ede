"""The effects that `keras_ctr.data.synthetic` plants into click probabilities. NumPy only.

The equations stand in the docstring of `keras_ctr.data.synthetic`. An effect is a class that draws its parameters from named random streams
(`draw(*names)` gives a generator, `draw.of(effect)` the streams of another effect) and maps encoded features to `(n,)`.
"""

import math

import numpy as np

from keras_ctr.features import FIRST_ID, META_GROUP, PADDING_ID

__all__ = ["EFFECTS", "HISTORY_EFFECTS", "RECENCY", "recency"]

HISTORY_EFFECTS = ("sequence", "order_matters", "transitions", "history_gated", "bidirectional")
"""Effects that read the behaviour sequence."""
RECENCY = "meta/recency"
"""Key under which the effects find the weights of the events, computed once for all of them."""


def _table(values):
    """Puts zero rows for padding and unknown before per-value rows, so that ids index the result and reserved ids contribute 0."""
    return np.concatenate([np.zeros((FIRST_ID, *values.shape[1:]), dtype=values.dtype), values])


def _signs(rng, num_values, rank):
    """Draws `(FIRST_ID + num_values, rank)` latents: the codes of {-1, 1}^rank, each equally often, in random order.

    With signs, the distribution of a product given all factors but one is the same whatever those are: unlike with Gaussian latents, not
    even the curvature of the sigmoid leaks an interaction to models of lower order. Columns are centred and scaled for the case that
    num_values is not a multiple of 2^rank.
    """
    codes = rng.permutation(num_values) % 2**rank
    signs = 2.0 * ((codes[:, None] >> np.arange(rank)) & 1) - 1.0  # (V, R)
    return _table((signs - signs.mean(axis=0)) / signs.std(axis=0))


def _field(features, index):
    return features[f"field_{index}"]


def recency(history, half_life):
    """Returns weights `(n, T)` that halve every `half_life` events of age and have Euclidean norm 1 (0 for an empty history)."""
    valid = history != PADDING_ID  # (n, T)
    newer = np.cumsum(valid[:, ::-1], axis=1)[:, ::-1] * valid  # (n, T): 1 for the newest event, 0 for padding
    halved = np.concatenate([[0.0], 0.5 ** (np.arange(history.shape[1]) / half_life)])
    norm = np.sqrt(np.cumsum(halved**2))[valid.sum(axis=1)]  # (n,)
    return halved[newer] / np.where(norm > 0, norm, 1.0)[:, None]


class Linear:
    """Main effects of fields and numeric features."""

    def __init__(self, layout, draw):
        self.weights = []
        for index, num_values in enumerate(layout.num_values):
            weights = draw("field", index).normal(size=num_values)
            self.weights.append(_table(weights - weights.mean()))
        self.slopes = [draw("numeric", index).normal() for index in range(layout.num_numerics)]

    def __call__(self, features):
        total = sum(weights[_field(features, f)] for f, weights in enumerate(self.weights))
        return total + sum(slope * features[f"numeric_{m}"].astype(np.float64) for m, slope in enumerate(self.slopes))


class User:
    """Main effect of the user: it raises AUC and leaves the AUC within each user alone."""

    def __init__(self, layout, draw):
        self.weights = draw("user").normal(size=layout.num_users)

    def __call__(self, features):
        return self.weights[features[META_GROUP]]


class Products:
    """Sum over field tuples of the inner product of one sign latent per field."""

    def __init__(self, layout, draw, tuples):
        self.terms, self.rank = [], layout.rank
        for fields in tuples:
            latents = [_signs(draw("fields", *fields, f), layout.num_values[f], layout.rank) for f in fields]
            self.terms.append((fields, latents))

    def __call__(self, features):
        total = 0.0
        for fields, latents in self.terms:
            factors = [latent[_field(features, f)] for f, latent in zip(fields, latents, strict=True)]  # each (n, R)
            total = total + math.prod(factors).sum(axis=1)
        return total


class Pairwise(Products):
    """Second-order interactions."""

    def __init__(self, layout, draw):
        super().__init__(layout, draw, layout.pairs)


class ThirdOrder(Products):
    """Third-order interactions."""

    def __init__(self, layout, draw):
        super().__init__(layout, draw, layout.triples)


class InstanceDependent:
    """The pairwise interactions, their sign flipped by the majority of the gate fields."""

    def __init__(self, layout, draw):
        self.pairwise = Pairwise(layout, draw.of("pairwise"))  # the latents of the static effect: W and G o W share W
        self.gates = [(f, _signs(draw("gate", f), layout.num_values[f], 1)[:, 0]) for f in layout.gate_fields]

    def gate(self, features):
        """Returns the gate `(n,)`, -1 or 1."""
        return np.sign(sum(np.sign(sign[_field(features, f)]) for f, sign in self.gates))

    def __call__(self, features):
        return self.gate(features) * self.pairwise(features)


class SequenceMatch:
    """Events of the candidate's kind count, newer ones more."""

    def __init__(self, layout, draw):
        kinds = draw("kinds").permutation(layout.num_items) % layout.num_interests
        share = np.bincount(kinds, minlength=layout.num_interests) / layout.num_items  # (C,)
        # Centred in both arguments: neither the candidate alone nor the history alone tells anything.
        kernel = np.eye(layout.num_interests) - share[:, None] - share[None, :] + (share**2).sum()
        self.kernel = np.pad(kernel, ((1, 0), (1, 0)))  # kind 0: padding and unknown
        self.kinds = _table(kinds + 1)

    def match(self, features):
        """Returns the match of every event, without its weight, `(n, T)`."""
        rows = self.kernel[self.kinds[features["item_id"]]]  # (n, C + 1)
        return np.take_along_axis(rows, self.kinds[features["history"]], axis=1)

    def __call__(self, features):
        return np.einsum("nt,nt->n", features[RECENCY], self.match(features))


class Order:
    """Items are of kind A or B; every A somewhere before a B counts for, every B before an A against."""

    def __init__(self, layout, draw):
        self.kind = _signs(draw("kind"), layout.num_items, 1)[:, 0]

    def __call__(self, features):
        history = features["history"]
        valid = history != PADDING_ID  # (n, T)
        length = valid.sum(axis=1, keepdims=True)
        # The sum over s < t of v_t - v_s is the sum over t of v_t times (events before t - events after t).
        place = np.where(valid, 2.0 * np.cumsum(valid, axis=1) - 1 - length, 0.0)
        norm = np.sqrt(np.maximum(length * (length**2 - 1) / 3.0, 1.0))  # Euclidean norm of `place`, 0 for one event
        return np.einsum("nt,nt->n", place / norm, self.kind[history])


class Transitions:
    """Kinds of events lie on a circle of four; steps one way count for, steps the other way against."""

    def __init__(self, layout, draw):
        self.kinds = _table(draw("circle").permutation(layout.num_items) % 4 + 1)  # 0: padding and unknown
        turn = np.rint(np.sin(0.5 * np.pi * (np.arange(4)[None, :] - np.arange(4)[:, None])))  # [before, after]: 1, 0 or -1
        self.turn = np.pad(turn, ((1, 0), (1, 0))).ravel()

    def __call__(self, features):
        kinds = self.kinds[features["history"]]  # (n, T)
        turns = self.turn[5 * kinds[:, :-1] + kinds[:, 1:]].sum(axis=1)
        steps = ((kinds[:, :-1] > 0) & (kinds[:, 1:] > 0)).sum(axis=1)
        return turns / np.sqrt(np.maximum(steps, 1))


class HistoryGated:
    """The history decides the sign and size of the pairwise interactions."""

    def __init__(self, layout, draw):
        self.taste = _signs(draw("taste"), layout.num_items, 1)[:, 0]
        self.pairwise = Pairwise(layout, draw.of("pairwise"))

    def __call__(self, features):
        """Returns `(n,)`: of variance 1 unless the history is empty, then 0."""
        pairwise = self.pairwise(features) / math.sqrt(len(self.pairwise.terms) * self.pairwise.rank)
        return np.einsum("nt,nt->n", features[RECENCY], self.taste[features["history"]]) * pairwise


class Bidirectional:
    """A field picks the events that count, and the history decides the sign and size of the pairwise interactions."""

    def __init__(self, layout, draw):
        self.context_field = len(layout.num_values) - 1
        self.picked, self.sign = self._kinds(draw("context"), layout.num_values[-1], layout.num_interests)
        self.kinds, self.polarity = self._kinds(draw("items"), layout.num_items, layout.num_interests)
        self.to_fields = HistoryGated(layout, draw)

    @staticmethod
    def _kinds(rng, num_values, num_kinds):
        """Draws a kind and a sign per value; every kind has as many values of either sign."""
        codes = rng.permutation(num_values) % (2 * num_kinds)
        return _table(codes // 2 + 1), _table(2.0 * (codes % 2) - 1.0)

    def to_sequence(self, features):
        """Returns the flow from fields to sequence `(n,)`: of variance 1 where the history holds an event of the picked kind, else 0."""
        context, history = _field(features, self.context_field), features["history"]
        weights = features[RECENCY] * (self.kinds[history] == self.picked[context][:, None])  # (n, T)
        norm = np.sqrt((weights**2).sum(axis=1))
        return self.sign[context] * np.einsum("nt,nt->n", weights, self.polarity[history]) / np.where(norm > 0, norm, 1.0)

    def __call__(self, features):
        return self.to_sequence(features) + self.to_fields(features)


EFFECTS = {
    "linear": Linear,
    "user": User,
    "pairwise": Pairwise,
    "third_order": ThirdOrder,
    "instance_dependent": InstanceDependent,
    "sequence": SequenceMatch,
    "order_matters": Order,
    "transitions": Transitions,
    "history_gated": HistoryGated,
    "bidirectional": Bidirectional,
}
"""Effects by the name of their strength."""
