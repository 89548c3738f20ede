"""Histories of every kind, and float64 loops over one sample and one step at a time, for the layers of DIEN, DMIN and DMR."""

import keras
import numpy as np

B, T = 5, 7
MASK = np.array(
    [
        [1, 1, 0, 1, 0, 1, 0],  # padded inside and after
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1],
        [0, 0, 1, 1, 1, 1, 1],
    ],
    bool,
)
EMPTY = 1  # the row without an event


def normal(*shape, seed=5):
    return np.random.default_rng(seed).standard_normal(shape)


def f32(*arrays):
    return [np.asarray(a, "float32") for a in arrays]


def f64(weight):
    return keras.ops.convert_to_numpy(weight).astype("float64")


def close(got, expected, atol=2e-6):
    np.testing.assert_allclose(keras.ops.convert_to_numpy(got), expected, rtol=1e-5, atol=atol)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, "float64")))


def softmax(scores):
    e = np.exp(np.asarray(scores) - np.max(scores))
    return e / e.sum()


def valid_steps(mask, b):
    return [int(t) for t in np.flatnonzero(mask[b])]


def rearranged(mask, side, length=11):
    """A mask of `length` steps with the same number of events a row, all at one side or spread, and where each event went."""
    new, places = np.zeros((len(mask), length), bool), []
    for b in range(len(mask)):
        count = len(valid_steps(mask, b))
        spread = sorted(np.random.default_rng(b).permutation(length)[:count].tolist())
        steps = {"after": list(range(count)), "before": list(range(length - count, length)), "inside": spread}[side]
        new[b, steps] = True
        places.append(steps)
    return new, places


def move(values, mask, new, places):
    """The valid steps of `values` at their places in `new`, and noise at the padded ones."""
    out = 9 * np.random.default_rng(0).standard_normal((*new.shape, *values.shape[2:]))
    for b in range(len(mask)):
        out[b, places[b]] = values[b, mask[b]]
    return out.astype("float32")


def gru(layer, x, a, mask):
    """The states after every step `(B, T, U)` by the equations of the paper's GRU variants; `a` is `(B, T)`."""
    units, kind = layer.units, layer.kind
    w, bias = f64(layer.kernel), f64(layer.bias)
    u, d = f64(layer.rnn.cell.recurrent_kernel), f64(layer.rnn.cell.recurrent_bias)
    states = np.zeros((*mask.shape, units))

    def gate(index):
        part = slice(index * units, (index + 1) * units)
        return w[:, part], bias[part], u[:, part], d[part]

    for b in range(len(x)):
        h = np.zeros(units)
        for t in range(mask.shape[1]):
            if mask[b, t]:
                event, weight = x[b, t].astype("float64"), None if a is None else float(a[b, t])
                event = weight * event if kind == "aigru" else event
                wr, br, ur, dr = gate(0)
                wc, bc, uc, dc = gate(1)
                r = sigmoid(event @ wr + br + h @ ur + dr)
                c = np.tanh(event @ wc + bc + r * (h @ uc + dc))
                if kind == "agru":
                    share = weight
                else:
                    wu, bu, uu, du = gate(2)
                    z = sigmoid(event @ wu + bu + h @ uu + du)
                    share = {"augru": (weight or 0) * z, "augru_authors": 1 - (1 - (weight or 0)) * (1 - z)}.get(kind, z)
                h = (1 - share) * h + share * c
            states[b, t] = h
    return states


def next_event_loss(compare, states, events, negatives, mask, negative_mask):
    """`compare(h, s)` gives a logit; pairs each event with the state at the valid step before it."""
    losses = []
    for b in range(len(mask)):
        steps = valid_steps(mask, b)
        for before, t in zip(steps[:-1], steps[1:], strict=True):
            if negative_mask[b, t]:
                positive, negative = compare(states[b, before], events[b, t]), compare(states[b, before], negatives[b, t])
                losses.append(-np.log(sigmoid(positive)) - np.log(1 - sigmoid(negative)))
    return float(np.mean(losses)) if losses else 0.0


def score(layer, query, event):
    """The logit of `EventScore` by the plain concatenation; sigmoid, ReLU or PReLU hidden layers."""
    x = np.concatenate([query, event, query - event, query * event])
    for index, unit in enumerate(layer.units):
        dense = layer if index == 0 else layer.dense[index - 1]
        x = activate(layer.activation, unit, x @ f64(dense.kernel) + f64(dense.bias))
    bias = f64(layer.score.bias)[0] if layer.score_bias else 0.0
    return float((x @ f64(layer.score.kernel))[0] + bias)


def activate(activation, unit, x):
    if activation == "prelu":
        return np.where(x > 0, x, f64(unit.alpha).reshape(-1) * x)
    return {"sigmoid": sigmoid, "relu": lambda v: np.maximum(v, 0), "linear": lambda v: v}[activation](x)


def query(layer, steps, t, target=None, context=None):
    """The query of `PositionQuery` at step t of a history with the valid `steps`."""
    age = sum(1 for s in steps if s > t)
    parts = [np.zeros(0) if target is None else target, f64(layer.positions)[min(age, layer.max_positions - 1)]]
    parts += [] if context is None else [context]
    return activate(layer.activation, layer.unit, np.concatenate(parts) @ f64(layer.kernel) + f64(layer.bias))
