"""Float64 loops of the optimizers' equations, one row and one element at a time, and the gradients that their tests use.

Knows neither TensorFlow nor the package, so that every backend can be held against it.
"""

import math

import numpy as np

ROWS, WIDTH, STEPS = 17, 5, 8

# (id, class, arguments that class and oracle share). Keras holds decay rates in float32, so those here have few binary digits.
RULES = [
    ("sgd", "SGD", {}),
    ("momentum", "SGD", {"momentum": 0.7}),
    ("nesterov", "SGD", {"momentum": 0.7, "nesterov": True}),
    ("adagrad", "Adagrad", {"initial_accumulator_value": 0.25, "epsilon": 1e-3}),
    ("rowwise_adagrad", "RowWiseAdagrad", {"initial_accumulator_value": 0.25, "epsilon": 1e-3}),
    ("rowwise_adagrad_zero", "RowWiseAdagrad", {"initial_accumulator_value": 0.0, "epsilon": 1e-3}),
    ("lazy_adam", "LazyAdam", {"beta_1": 0.75, "beta_2": 0.9375, "epsilon": 1e-3}),
    ("lazy_adamw", "LazyAdamW", {"beta_1": 0.75, "beta_2": 0.9375, "epsilon": 1e-3, "weight_decay": 0.25}),
]
PENALTIES = {"plain": {"l1": 0.0, "l2": 0.0}, "penalties": {"l1": 0.6, "l2": 0.7}}
for _name, _class in (("ftrl", "FTRL"), ("group", "GroupLassoFTRL")):
    for _semantics in ("anchored", "original"):
        for _penalty, _values in PENALTIES.items():
            for _start in (0.0, 0.25) if _penalty == "penalties" else (0.0,):
                _id = f"{_name}_{_semantics}_{_penalty}_{'zero' if _start == 0 else 'accumulator'}"
                RULES.append((_id, _class, {"beta": 0.5, "initial_accumulator_value": _start, "semantics": _semantics, **_values}))


class Oracle:
    """One variable under one rule; rows are the last axis, the elements of a vector are rows of one element."""

    def __init__(self, weights, weight_decay=0.0):
        self.shape = np.shape(weights)
        self.w = np.array(weights, dtype="float64").reshape(-1, self.shape[-1] if len(self.shape) > 1 else 1)
        self.weight_decay = weight_decay
        self.step = 0
        self.start()

    @property
    def value(self):
        return self.w.reshape(self.shape)

    def slots(self):
        """The slots, in the order in which the equations name them."""
        return []

    def start(self):
        """Creates the slots."""

    def forget(self, rows):
        """What the first sparse step does to the rows outside the batch."""

    def sparse(self, indices, values, rate):
        """A step with one gradient `values[i]` for `variable[indices[i]]`."""
        summed = {}
        for i, g in zip(indices, np.asarray(values, dtype="float64"), strict=True):
            g = g.reshape(-1, self.w.shape[1])
            for j, row in enumerate(g):
                key = int(i) * len(g) + j
                summed[key] = summed.get(key, 0.0) + row
        if self.step == 0:
            self.forget([r for r in range(len(self.w)) if r not in summed])
        self._step(summed, rate)

    def dense(self, gradient, rate):
        self._step(dict(enumerate(np.asarray(gradient, dtype="float64").reshape(self.w.shape))), rate)

    def _step(self, gradients, rate):
        self.step += 1
        for r, g in gradients.items():
            for d in range(self.w.shape[1]):
                self.w[r, d] -= rate * self.weight_decay * self.w[r, d]
            self.row(r, g, rate)


class SGD(Oracle):
    def __init__(self, weights, momentum=0.0, nesterov=False, **options):
        self.momentum, self.nesterov = momentum, nesterov
        super().__init__(weights, **options)

    def start(self):
        self.velocity = np.zeros_like(self.w)

    def slots(self):
        return [self.velocity] if self.momentum else []

    def row(self, r, g, rate):
        for d, gradient in enumerate(g):
            if self.momentum == 0:
                self.w[r, d] -= rate * gradient
                continue
            v = self.momentum * self.velocity[r, d] - rate * gradient
            self.velocity[r, d] = v
            self.w[r, d] += self.momentum * v - rate * gradient if self.nesterov else v


class Adagrad(Oracle):
    def __init__(self, weights, initial_accumulator_value, epsilon, **options):
        self.initial, self.epsilon = initial_accumulator_value, epsilon
        super().__init__(weights, **options)

    def start(self):
        self.n = np.full_like(self.w, self.initial)

    def slots(self):
        return [self.n]

    def row(self, r, g, rate):
        for d, gradient in enumerate(g):
            self.n[r, d] += gradient**2
            self.w[r, d] -= rate * gradient / math.sqrt(self.n[r, d] + self.epsilon)


class RowWiseAdagrad(Adagrad):
    def start(self):
        self.n = np.full((len(self.w), 1), self.initial)

    def row(self, r, g, rate):
        self.n[r, 0] += sum(x**2 for x in g) / len(g)
        for d, gradient in enumerate(g):
            self.w[r, d] -= rate * gradient / (math.sqrt(self.n[r, 0]) + self.epsilon)


class LazyAdam(Oracle):
    def __init__(self, weights, beta_1, beta_2, epsilon, **options):
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon
        super().__init__(weights, **options)

    def start(self):
        self.m, self.v = np.zeros_like(self.w), np.zeros_like(self.w)

    def slots(self):
        return [self.m, self.v]

    def row(self, r, g, rate):
        correction = math.sqrt(1 - self.beta_2**self.step) / (1 - self.beta_1**self.step)
        for d, gradient in enumerate(g):
            self.m[r, d] = self.beta_1 * self.m[r, d] + (1 - self.beta_1) * gradient
            self.v[r, d] = self.beta_2 * self.v[r, d] + (1 - self.beta_2) * gradient**2
            self.w[r, d] -= rate * correction * self.m[r, d] / (math.sqrt(self.v[r, d]) + self.epsilon)


LazyAdamW = LazyAdam


class FTRL(Oracle):
    """A group, here one element, is anchored at the step in which it has its first gradient that is not zero."""

    def __init__(self, weights, beta, l1, l2, initial_accumulator_value, semantics, **options):
        self.beta, self.l1, self.l2, self.initial, self.semantics = beta, l1, l2, initial_accumulator_value, semantics
        super().__init__(weights, **options)

    def start(self):
        self.z, self.n = np.zeros_like(self.w), np.full_like(self.w, self.initial)
        self.seen = np.zeros(self.w.shape, dtype=bool)

    def slots(self):
        return [self.z, self.n]

    def forget(self, rows):
        if self.semantics == "original":
            self.w[rows] = 0.0

    def anchor(self, r, d, rate):
        self.z[r, d] = -self.w[r, d] * (self.beta + math.sqrt(self.n[r, d])) / rate
        self.seen[r, d] = True

    def collect(self, r, d, gradient, rate):
        """Adds a gradient to z and n; returns the curvature `(beta + sqrt(n)) / lr + l2`."""
        n = self.n[r, d] + gradient**2
        sigma = (math.sqrt(n) - math.sqrt(self.n[r, d])) / rate
        self.z[r, d] += gradient - sigma * self.w[r, d]
        self.n[r, d] = n
        return (self.beta + math.sqrt(n)) / rate + self.l2

    def row(self, r, g, rate):
        for d, gradient in enumerate(g):
            if self.semantics == "anchored" and not self.seen[r, d]:
                if gradient == 0:
                    continue
                self.anchor(r, d, rate)
            curvature = self.collect(r, d, gradient, rate)
            z = self.z[r, d]
            self.w[r, d] = 0.0 if abs(z) <= self.l1 else -(z - math.copysign(self.l1, z)) / curvature


class GroupLassoFTRL(FTRL):
    def row(self, r, g, rate):
        if self.semantics == "anchored" and not self.seen[r].any():
            if not any(g):
                return
            for d in range(len(g)):
                self.anchor(r, d, rate)
        curvature = [self.collect(r, d, gradient, rate) for d, gradient in enumerate(g)]
        norm, threshold = math.sqrt(sum(z**2 for z in self.z[r])), self.l1 * math.sqrt(len(g))
        for d in range(len(g)):
            self.w[r, d] = 0.0 if norm <= threshold else self.z[r, d] * (threshold / norm - 1) / curvature[d]


def oracle_of(name):
    return {cls.__name__: cls for cls in (SGD, Adagrad, RowWiseAdagrad, LazyAdam, FTRL, GroupLassoFTRL)}[name.removesuffix("W")]


def initial_weights(shape=(ROWS, WIDTH), seed=3):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def rates(steps=STEPS):
    """A rate that changes: float32 values, as the optimizers hold them."""
    return [float(np.float32(0.3 / (1 + 0.25 * t))) for t in range(steps)]


def sparse_gradients(shape=(ROWS, WIDTH), steps=STEPS, seed=5, lookups=7):
    """`[(indices, values)]`: rows that come twice, cancel out, have a zero gradient, come late, and `NEVER` come."""
    rng = np.random.default_rng(seed)
    out = []
    for t in range(steps):
        stop = shape[0] - 3 if t > 4 else shape[0] - 6
        indices = rng.integers(1, stop, lookups)
        values = rng.normal(size=(lookups, *shape[1:])).astype("float32")
        indices[1] = indices[0]
        indices[3] = indices[2]
        if t % 3 == 0:
            values[3] = -values[2]
        if t % 4 == 1:
            values[5] = 0.0
        if len(shape) > 1:
            values[6, ..., 0] = 0.0
        out.append((indices, values))
    return out


NEVER = (0, ROWS - 3, ROWS - 2, ROWS - 1)


def dense_gradients(shape, steps=STEPS, seed=7):
    """Gradients of which some rows, and some elements, stay zero for the first steps."""
    rng = np.random.default_rng(seed)
    out = [rng.normal(size=shape).astype("float32") for _ in range(steps)]
    for t, g in enumerate(out):
        g[0] = 0.0
        if t < 3:
            g[1] = 0.0
        g[2 : 2 + t % 3] = 0.0
        if len(shape) > 1:
            g[..., t % shape[-1]] *= t % 2
    return out


def densified(indices, values, shape):
    out = np.zeros(shape, dtype="float64")
    for i, g in zip(indices, values, strict=True):
        out[i] += g
    return out
