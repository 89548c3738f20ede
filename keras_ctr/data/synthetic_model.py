"""The planted click probability of `keras_ctr.data.synthetic`: effects, scales, labels and drift summed up. NumPy only."""

import math

import numpy as np

from keras_ctr.data.synthetic_effects import EFFECTS, RECENCY, recency
from keras_ctr.data.synthetic_layout import generator
from keras_ctr.features import META_TIME

__all__ = ["PlantedModel"]

_CHUNK_ROWS = 65_536  # rows at a time, so that (rows, max_length) temporaries stay small


class _Draw:
    """Random streams of one effect in one world."""

    def __init__(self, seed, world, effect):
        self._seed, self._world, self._effect = seed, world, effect

    def of(self, effect):
        """Returns the streams of another effect of the same world."""
        return _Draw(self._seed, self._world, effect)

    def __call__(self, *names):
        return generator(self._seed, "world", *self._world, self._effect, *names)


def _sigmoid(x):
    return np.exp(-np.logaddexp(0.0, -x))


def _intercept(logit, rate):
    """Returns the b for which the mean of sigmoid(b + logit) is `rate`, by bisection."""
    centre = math.log(rate / (1.0 - rate))
    low, high = centre - logit.max(), centre - logit.min()
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _sigmoid(middle + logit).mean() < rate else (low, middle)
    return 0.5 * (low + high)


class PlantedModel:
    """The known click probability as a function of encoded features.

    Scales and intercepts are fitted once, on the rows given here; afterwards the model scores any rows of the same schema, so that a test
    can ask what happens to a probability when a feature changes.

    Args:
        features: Encoded features that the scales are fitted on.
        seed: Seed of the latents.
        layout: Sizes and places of the effects.
        strengths: `{effect: s}`, s > 0, the standard deviation of the effect's contribution to the logit.
        label_names: Names of the labels.
        base_rate: `{label: mean probability}`.
        drift: Quarter turns of every effect between the first and the last row's time.
        task_correlation: Correlation of the contributions of any effect to two labels.

    Raises:
        ValueError: If an effect is the same on all rows, or the values are too few for independent effects on all labels.
    """

    def __init__(self, features, *, seed, layout, strengths, label_names, base_rate, drift, task_correlation):
        self.layout, self.strengths, self.label_names, self.drift = layout, dict(strengths), tuple(label_names), drift
        num_labels = len(self.label_names)
        worlds = 1 if num_labels == 1 else num_labels + 1  # world 0 is common to all labels, the others are one label's own
        phases = ("start", "end") if drift else ("start",)
        self._worlds = {
            name: [[EFFECTS[name](layout, _Draw(seed, (world, phase), name)) for phase in phases] for world in range(worlds)]
            for name in self.strengths
        }
        own = math.sqrt(1.0 - task_correlation) * np.eye(num_labels)
        mix = np.ones((1, 1)) if num_labels == 1 else np.vstack([np.full(num_labels, math.sqrt(task_correlation)), own])  # (W, L)
        time = features[META_TIME]
        self._time = (int(time.min()), int(time.max()))
        self._scales = {}  # {effect: (W, P)}
        self._mix = {}  # {effect: (W, L)}
        logits = np.zeros((len(time), num_labels))
        for name, raw in self._raw(features).items():
            scale = raw.std(axis=0)  # (W, P)
            if not np.all(scale > 1e-9):
                raise ValueError(f"effect '{name}' is the same on all {len(time)} rows; give more rows or values, or set {name}=0")
            self._scales[name] = 1.0 / scale
            turned = self._turn(name, raw, features)  # (n, W)
            covariance = np.atleast_2d(np.cov(turned, rowvar=False, bias=True))  # (W, W)
            eigenvalues = np.linalg.eigvalsh(covariance)
            if eigenvalues[0] < 1e-6 * eigenvalues[-1]:
                raise ValueError(f"effect '{name}' has too few values to differ between {num_labels} labels; raise vocabulary_size or rows")
            # White worlds: exactly uncorrelated and of variance 1 on these rows. No shift, so that an empty history still contributes 0.
            white = np.linalg.inv(np.linalg.cholesky(covariance)).T
            self._mix[name] = self.strengths[name] * white @ mix
            logits += turned @ self._mix[name]
        self.intercept = {label: _intercept(logits[:, column], base_rate[label]) for column, label in enumerate(self.label_names)}

    def _raw(self, features):
        """Returns `{effect: (n, W, P)}`, every draw of every effect."""
        size = len(features[META_TIME])
        parts = {name: np.empty((size, len(worlds), len(worlds[0]))) for name, worlds in self._worlds.items()}
        for start in range(0, size, _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            chunk = {key: value[rows] for key, value in features.items()}
            if "history" in chunk:
                chunk[RECENCY] = recency(chunk["history"], self.layout.half_life)
            for name, worlds in self._worlds.items():
                for world, phases in enumerate(worlds):
                    for phase, effect in enumerate(phases):
                        parts[name][rows, world, phase] = effect(chunk)
        return parts

    def _turn(self, name, raw, features):
        """Returns `(n, W)`, the standardised draws turned to the time of each row."""
        scaled = raw * self._scales[name]
        if not self.drift:
            return scaled[..., 0]
        first, last = self._time
        angle = 0.5 * math.pi * self.drift * (features[META_TIME] - first) / max(last - first, 1)
        return np.cos(angle)[:, None] * scaled[..., 0] + np.sin(angle)[:, None] * scaled[..., 1]

    def contributions(self, features) -> dict[str, dict[str, np.ndarray]]:
        """Returns `{label: {effect: (n,)}}`, what each effect adds to the logit of each row."""
        out: dict[str, dict] = {label: {} for label in self.label_names}
        for name, raw in self._raw(features).items():
            values = self._turn(name, raw, features) @ self._mix[name]  # (n, L)
            for column, label in enumerate(self.label_names):
                out[label][name] = values[:, column]
        return out

    def logits(self, features, contributions=None) -> dict[str, np.ndarray]:
        """Returns `{label: (n,)}`, intercept plus contributions (computed unless given)."""
        contributions = self.contributions(features) if contributions is None else contributions
        zero = np.zeros(len(features[META_TIME]))
        return {label: sum(contributions[label].values(), zero) + self.intercept[label] for label in self.label_names}

    def probability(self, features, contributions=None) -> dict[str, np.ndarray]:
        """Returns `{label: (n,)}`, the click probability of each row."""
        return {label: _sigmoid(logit) for label, logit in self.logits(features, contributions).items()}
