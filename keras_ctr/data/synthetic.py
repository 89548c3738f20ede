r"""Click data with a known click probability per row, so that the best possible AUC and log loss are known. NumPy only.

It shows whether an architecture learns what its paper says that it learns: plant the effect, train, compare with `best_auc`.

Rows. Fields x_f, the candidate item c and the events h_1..h_T (oldest first) are drawn uniformly and independently, numeric features
from N(0, 1), history lengths uniformly from 1..max_length, with a share of empty ones. Users are drawn with weights 1 / (5 + rank), so
that a few are frequent and many rare. Times rise strictly from row to row.

Probability. p = sigmoid(b + sum_e s_e g_e / sd(g_e)), where s_e is the strength of effect e, sd is taken over the generated rows, so
that s_e is the standard deviation of the effect's share of the logit, and b is such that the mean of p is the base rate. The effects g_e:

- linear: sum_f w_f[x_f] + sum_m a_m v_m, w and a normal, w_f centred.
- user: a normal offset per user.
- pairwise: sum over pairs (i, j) of sum_r u_r[x_i] v_r[x_j].
- third_order: sum over triples (i, j, k) of sum_r u_r[x_i] v_r[x_j] w_r[x_k].
- instance_dependent: q(x) times the g_pairwise above (same latents), q(x) = sign(sum_{f in gate_fields} a_f[x_f]). The gate fields are in
  no pair. Alone, it flips the interactions; with pairwise and instance_dependent of one strength (one label, no drift) the gate switches
  them on and off.
- sequence: sum_t k_t K(c, h_t) / |k|, k_t = 2^(-age_t / half_life), age 0 for the newest event; K = 1 where event and candidate are of
  one of the `num_interests` kinds, less the means of rows and columns.
- order_matters: sum_{t < t'} (v[h_t'] - v[h_t]) / norm, v = -1 (kind A) or 1 (kind B): every A before a B counts for, every B before an A
  against. The norm makes the variance the same for all lengths.
- transitions: sum_t sin(pi/2 (k[h_{t+1}] - k[h_t])) / sqrt(number of steps), k one of four kinds of items, on a circle: a step one way
  round counts for, the same step back against. Unlike order_matters it takes a model in which neighbouring events interact.
  Reversing a history flips the sign of both: the multiset of its events tells nothing of them.
- history_gated: (sum_t k_t d[h_t] / |k|) g_pairwise / sd(g_pairwise), with the latents of pairwise: the history gives the interactions of
  the fields their sign and size.
- bidirectional: two flows. Fields to sequence: the last field picks a kind of items (one of `num_interests`) and a sign, sum_t k_t
  [h_t is of the kind] (sign of the field's value) (sign of h_t) / norm; the norm makes its variance 1 where any event is of the kind.
  Sequence to fields: as history_gated.

Latents u, v, ..., a, b, d of the interactions are balanced signs, so that given all factors but one a term of pairwise and third_order is
distributed alike whatever those are: models of lower order see nothing of it, not even through the curvature of the sigmoid. This is exact
where the number of values (vocabulary_size - 2) is a multiple of 2^rank, else up to terms of order 1 / number of values. What a gate flips
(instance_dependent, history_gated, bidirectional) has mean zero without the gate, but its size shows through the curvature unless the
base rate is 0.5.

Drift. With drift = d every g_e is cos(d pi/2 tau) g_e' + sin(d pi/2 tau) g_e'', two independent draws, tau in [0, 1] the time: at d = 1
the effects of the end have nothing to do with those of the start, at d = 2 they are their negative.

Labels. With several labels the share of effect e in label l is sqrt(rho) g_e0 + sqrt(1 - rho) g_el, with independent draws made exactly
uncorrelated on the generated rows: rho = `task_correlation` is the correlation of the shares of any two labels. Given the row, labels are
independent.

Irrelevant fields are drawn like fields and enter nothing. All draws have streams of their own: switching an effect or a feature on or off
leaves the values of the others as they were.

How hard it is. An effect without trace in lower orders gives gradient descent nothing to start from, the less so the larger the tables.
Small networks that can express third_order, instance_dependent and sequence find them in 50,000 rows at the default sizes (8 values,
64 items), and mostly miss them with 32 values or 256 items; transitions take fewer items or more rows. The static effect beside a gated one
(pairwise with instance_dependent, history_gated or bidirectional) helps.
"""

import dataclasses
import math
import numbers
from dataclasses import dataclass

import numpy as np

from keras_ctr.data.synthetic_effects import EFFECTS, HISTORY_EFFECTS
from keras_ctr.data.synthetic_layout import Layout, check, check_count, draw_features, generator, places
from keras_ctr.data.synthetic_model import PlantedModel
from keras_ctr.features import FIRST_ID, META_TIME, Categorical, Label, Numeric, Sequence, nearest
from keras_ctr.schema import Schema

__all__ = ["SyntheticData", "expected_auc", "expected_log_loss", "make_synthetic"]


def expected_auc(probability) -> float:
    """Returns the AUC that ranking by the true probabilities gets: the highest that any model can expect on these rows.

    `sum_{i != j} p_i (1 - p_j) ([p_i > p_j] + [p_i = p_j] / 2) / sum_{i != j} p_i (1 - p_j)`: the expected number of click / no-click
    pairs in the right order over the expected number of pairs. O(n log n). The AUC of one draw of labels scatters about it.

    Args:
        probability: Click probabilities `(n,)`.

    Raises:
        ValueError: If no pair of a click and a non-click is possible.
    """
    p = np.asarray(probability, dtype=np.float64)
    _, place = np.unique(p, return_inverse=True)
    negatives = np.bincount(place, weights=1.0 - p)  # expected non-clicks at each distinct value
    below = np.cumsum(negatives) - negatives
    own = p * (1.0 - p)  # the pair of a row with itself does not exist
    correct = (p * (below[place] + 0.5 * negatives[place]) - 0.5 * own).sum()
    pairs = p.sum() * (1.0 - p).sum() - own.sum()
    if not pairs > 0:
        raise ValueError(f"expected_auc needs rows that can be clicked and others that can be left; got {p.size} rows without such a pair")
    return float(correct / pairs)


def expected_log_loss(probability) -> float:
    """Returns `mean(-p log p - (1 - p) log(1 - p))`, the lowest log loss (in nats) that any model can expect on these rows.

    Args:
        probability: Click probabilities `(n,)`.
    """
    p = np.asarray(probability, dtype=np.float64)
    return float(sum(-(q * np.log(np.where(q > 0, q, 1.0))).mean() for q in (p, 1.0 - p)))


@dataclass(frozen=True, eq=False)
class SyntheticData:
    """Encoded rows in order of time, with what is known about them.

    Attributes:
        schema: Fitted schema; ids are given directly, there are no vocabularies.
        features: Encoded features `{name: (n,) or (n, max_length)}` with `"meta/group"` (the user) and `"meta/time"` (seconds).
        labels: `{name: (n, 1) float32}`.
        probability: `{label: (n,) float64}`, the known click probability of each row.
        contributions: `{label: {effect: (n,) float64}}`, what each effect adds to the logit: features for an oracle model.
        planted: The planted function itself; `planted.probability(features)` scores changed rows.
    """

    schema: Schema
    features: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    probability: dict[str, np.ndarray]
    contributions: dict[str, dict[str, np.ndarray]]
    planted: PlantedModel

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.features[META_TIME])

    def _probability_of(self, label):
        label = self.schema.label_names[0] if label is None else label
        if label not in self.probability:
            raise KeyError(f"no label '{label}' in the data{nearest(label, self.probability)}")
        return self.probability[label]

    def best_auc(self, label: str | None = None) -> float:
        """Returns `expected_auc` of the true probabilities of a label (None = the first)."""
        return expected_auc(self._probability_of(label))

    def best_log_loss(self, label: str | None = None) -> float:
        """Returns `expected_log_loss` of the true probabilities of a label (None = the first)."""
        return expected_log_loss(self._probability_of(label))

    def split(self, fractions) -> tuple["SyntheticData", ...]:
        """Cuts the rows by time.

        Args:
            fractions: Share of each part, oldest first; they sum to 1.

        Returns:
            One `SyntheticData` per fraction. Arrays are views.

        Raises:
            ValueError: If the fractions do not sum to 1 or a part would be empty.
        """
        fractions = tuple(fractions)
        if not fractions or min(fractions) <= 0 or abs(sum(fractions) - 1.0) > 1e-9:
            raise ValueError(f"fractions must be positive and sum to 1, got {fractions}")
        ends = [round(end * self.num_rows) for end in np.cumsum(fractions)]
        starts = [0, *ends[:-1]]
        if any(start == end for start, end in zip(starts, ends, strict=True)):
            raise ValueError(f"fractions {fractions} of {self.num_rows} rows leave a part empty")
        return tuple(self._rows(slice(start, end)) for start, end in zip(starts, ends, strict=True))

    def _rows(self, rows):
        parts = {name: {k: v[rows] for k, v in getattr(self, name).items()} for name in ("features", "labels", "probability")}
        contributions = {label: {k: v[rows] for k, v in effects.items()} for label, effects in self.contributions.items()}
        return dataclasses.replace(self, contributions=contributions, **parts)


def make_synthetic(
    num_rows: int,
    *,
    seed: int,
    linear: float = 0.0,
    user: float = 0.0,
    pairwise: float = 0.0,
    third_order: float = 0.0,
    instance_dependent: float = 0.0,
    sequence: float = 0.0,
    order_matters: float = 0.0,
    transitions: float = 0.0,
    history_gated: float = 0.0,
    bidirectional: float = 0.0,
    irrelevant_fields: int = 0,
    drift: float = 0.0,
    num_labels: int = 1,
    task_correlation: float = 0.5,
    base_rate=0.2,
    num_fields: int = 10,
    vocabulary_size=10,
    num_numerics: int = 0,
    num_items: int = 64,
    max_length: int | None = None,
    num_users: int = 200,
    pairs=None,
    triples=None,
    gate_fields=None,
    rank: int = 2,
    num_interests: int = 8,
    half_life: float = 3.0,
    empty_history: float = 0.1,
) -> SyntheticData:
    """Generates rows with planted effects and known click probabilities; the equations stand in the docstring of this module.

    Features: `user_id` (only if `user` > 0), `item_id` and `history` (only if max_length > 0), `field_0`.., `noise_0`.. (the irrelevant
    fields), `numeric_0`... Labels: `click`, `label_2`, `label_3`, ...

    Args:
        num_rows: n.
        seed: Non-negative int; the same arguments give the same data.
        linear, user, pairwise, third_order, instance_dependent, sequence, order_matters, transitions, history_gated, bidirectional:
            Strengths of the effects: standard deviation of each one's share of the logit; 0 = off.
        irrelevant_fields: Number of fields that enter nothing.
        drift: Quarter turns of every effect from the first row to the last; 0 = none.
        num_labels: L.
        task_correlation: Correlation, in [0, 1], of the effects on any two labels.
        base_rate: Mean click probability, in (0, 1), or one per label.
        num_fields: Number of fields that effects may use.
        vocabulary_size: Rows of a field's table with the reserved ids 0 and 1, or one number per field; also that of irrelevant fields
            (the first where there is one per field).
        num_numerics: Number of numeric features; they enter `linear`.
        num_items: Different candidate items.
        max_length: T, longest history; 0 = no item and no history; None = 20 if an effect reads histories, else 0.
        num_users: Different users.
        pairs, triples: Places of the interactions as tuples of field indices. Default: neighbouring fields that are not gate fields, and
            (0, 1, 2), (3, 4, 5).
        gate_fields: An odd number of fields outside the pairs. Default: the last three (the last one below five fields).
        rank: R, latent factors of each interaction.
        num_interests: Kinds of items.
        half_life: Events after which an event counts half; `math.inf` = the place of an event does not matter to `sequence`.
        empty_history: Share of rows with an empty history.

    Returns:
        `SyntheticData`.

    Raises:
        ValueError: On arguments out of range or effects that lack what they need; the message names the argument.

    Example:
        >>> data = make_synthetic(10_000, seed=0, pairwise=1.0)
        >>> train, test = data.split((0.8, 0.2))
        >>> train.features["field_0"].shape, round(test.best_auc(), 1)
        ((8000,), 0.7)
    """
    given = locals()
    strengths = {name: given[name] for name in EFFECTS}
    for name, strength in (*strengths.items(), ("drift", drift)):
        number = isinstance(strength, numbers.Real) and not isinstance(strength, bool)
        check(number and 0 <= strength < math.inf, f"{name} must be a finite number >= 0, got {strength!r}")
    strengths = {name: float(strength) for name, strength in strengths.items() if strength > 0}
    for name, least in (
        *(("num_rows", 1), ("seed", 0), ("irrelevant_fields", 0), ("num_labels", 1), ("num_fields", 1), ("num_numerics", 0)),
        *(("num_items", 4), ("num_users", 1), ("rank", 1), ("num_interests", 2)),
    ):
        check_count(name, given[name], least)
    check(0 <= task_correlation <= 1, f"task_correlation must be in [0, 1], got {task_correlation!r}")
    check(0 <= empty_history < 1, f"empty_history must be in [0, 1), got {empty_history!r}")
    check(half_life > 0, f"half_life must be positive, got {half_life!r}")
    check(num_interests <= num_items, f"num_interests={num_interests} is more than num_items={num_items}")
    rates = (base_rate,) * num_labels if isinstance(base_rate, numbers.Real) else tuple(base_rate)
    check(len(rates) == num_labels, f"base_rate has {len(rates)} values for num_labels={num_labels}")
    check(all(0 < rate < 1 for rate in rates), f"base_rate must be in (0, 1), got {base_rate!r}")
    sizes = (vocabulary_size,) * num_fields if isinstance(vocabulary_size, numbers.Integral) else tuple(vocabulary_size)
    check(len(sizes) == num_fields, f"vocabulary_size has {len(sizes)} values for num_fields={num_fields}")
    for size in sizes:
        check_count(f"vocabulary_size (rank={rank} takes 2^rank values and {FIRST_ID} reserved ids)", size, 2**rank + FIRST_ID)
    pairs, triples, gate_fields = places(num_fields, pairs, triples, gate_fields)
    needs = dict.fromkeys(("pairwise", "history_gated", "bidirectional"), pairs)
    needs |= {"instance_dependent": pairs and gate_fields, "third_order": triples}
    for name, fields in needs.items():
        check(fields or name not in strengths, f"{name} has no fields to stand on: raise num_fields (now {num_fields}) or name them")
    if "instance_dependent" in strengths:
        overlap = sorted({f for pair in pairs for f in pair} & set(gate_fields))
        check(not overlap, f"gate_fields {gate_fields} must be outside the pairs {pairs}; {overlap} are in both")
        check(len(gate_fields) % 2 == 1, f"gate_fields must be an odd number of fields, so that there is a majority, got {gate_fields}")
    reading = [name for name in HISTORY_EFFECTS if name in strengths]
    max_length = (20 if reading else 0) if max_length is None else max_length
    check_count("max_length", max_length, 2 if {"order_matters", "transitions"} & set(strengths) else 0)
    check(max_length > 0 or not reading, f"max_length=0, but {', '.join(reading)} read the history")

    features = [Categorical("user_id", vocabulary_size=num_users + FIRST_ID, dtype="int64")] if "user" in strengths else []
    if max_length:
        features.append(Categorical("item_id", vocabulary_size=num_items + FIRST_ID, dtype="int64"))
    features += [Categorical(f"field_{f}", vocabulary_size=int(size), dtype="int64") for f, size in enumerate(sizes)]
    features += [Categorical(f"noise_{f}", vocabulary_size=int(sizes[0]), dtype="int64") for f in range(irrelevant_fields)]
    features += [Numeric(f"numeric_{m}", transform="none") for m in range(num_numerics)]
    if max_length:
        features.append(Sequence("history", max_length=max_length, table="item_id", target="item_id", dtype="int64"))
    names = tuple("click" if index == 0 else f"label_{index + 1}" for index in range(num_labels))
    schema = Schema(features=features, labels=[Label(name) for name in names], group="user_id", time="time")
    layout = Layout(
        num_values=tuple(int(size) - FIRST_ID for size in sizes),
        **{name: given[name] for name in ("num_numerics", "num_items", "num_users", "rank", "num_interests", "half_life")},
        pairs=pairs,
        triples=triples,
        gate_fields=gate_fields,
    )
    rows = draw_features(num_rows, seed, layout, schema, empty_history)
    planted = PlantedModel(
        rows,
        seed=seed,
        layout=layout,
        strengths=strengths,
        label_names=names,
        base_rate=dict(zip(names, rates, strict=True)),
        drift=drift,
        task_correlation=task_correlation,
    )
    contributions = planted.contributions(rows)
    probability = planted.probability(rows, contributions)
    labels = {
        name: (generator(seed, "label", name).random(num_rows) < probability[name]).astype(np.float32)[:, None]  # (n, 1)
        for name in names
    }
    return SyntheticData(schema, rows, labels, probability, contributions, planted)
