"""Float64 loops that the tests of the sequence layers share, one row of a batch at a time, and their histories."""

import numpy as np

from tests.layers.interaction_oracles import randomise

B, T = 5, 7
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


def mask():
    """Histories with gaps, empty, full, of one event, padded in front."""
    return np.array([[1, 1, 0, 1, 0, 1, 0], [0] * 7, [1] * 7, [0, 0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1]], bool)


def normal(*shape, seed=3):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def built(layer, *shapes, scale=0.4):
    layer.build(*shapes)
    randomise(layer, scale=scale)
    return layer


def values(layer):
    """Weights in float64 by their path below the layer."""
    return {w.path.split(f"{layer.name}/", 1)[-1]: np.asarray(w).astype("float64") for w in layer.weights}


def part(w, prefix):
    return {key.removeprefix(prefix + "/"): value for key, value in w.items() if key.startswith(prefix + "/")}


def dense(w, x):
    return x @ w["kernel"] + w["bias"]


def mlp(w, x, activation=lambda v: np.maximum(v, 0)):
    index = 0
    while f"dense_{index}/kernel" in w:
        x = activation(dense(part(w, f"dense_{index}"), x))
        index += 1
    return dense(part(w, "output"), x) if "output/kernel" in w else x


def softmax(scores):
    scores = np.exp(scores - np.max(scores))
    return scores / scores.sum()


def attention(w, queries, keys, valid, heads):
    """Multi-head attention of `queries (Q, D)` to the valid rows of `keys (T, D)`; zeros without any."""
    q, k, v = (dense(part(w, name), x) for name, x in (("query", queries), ("key", keys), ("value", keys)))
    width = q.shape[1] // heads
    shown = np.flatnonzero(valid)
    joined = np.zeros((len(q), heads * v.shape[1] // heads))
    if not len(shown):
        return np.zeros((len(q), w["output/kernel"].shape[1]))
    for i in range(len(q)):
        for h in range(heads):
            columns = slice(h * width, (h + 1) * width)
            a = softmax(np.array([q[i, columns] @ k[j, columns] for j in shown]) / np.sqrt(width))
            joined[i, columns] = sum(a[n] * v[j, columns] for n, j in enumerate(shown))
    return dense(part(w, "output"), joined)


def layer_norm(w, x, epsilon):
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + epsilon) * w["gamma"] + w["beta"]


def block(w, x, valid, heads, *, epsilon=1e-6, residual=True, activation=lambda v: np.maximum(v, 0)):
    """An encoder block on `x (T, D)`; without norms where `w` has none."""

    def joined(x, change, name):
        x = x + change if residual else change
        return layer_norm(part(w, name), x, epsilon) if f"{name}/gamma" in w else x

    x = joined(x, attention(part(w, "attention"), x, x, valid, heads), "attention_norm")
    return joined(x, mlp(part(w, "ffn"), x, activation), "ffn_norm")


def mlp_count(inputs, *units):
    total = 0
    for width in units:
        total += inputs * width + width
        inputs = width
    return total


def padded(x, side, steps=3, fill=0):
    """Adds steps to axis 1 before or after: garbage for floats, `fill` for masks and ids."""
    shape = (len(x), steps, *x.shape[2:])
    more = np.full(shape, fill, x.dtype) if x.dtype.kind != "f" else normal(*shape, seed=9)
    return np.concatenate([more, x] if side == "before" else [x, more], axis=1)


def check_padding(layer, *args, steps, mask, **more):
    """Padding on either side changes no output; `steps`: which of `args` have a time axis; `more`: keyword arguments with one."""
    expected = np.asarray(layer(*args, mask=mask, **more))
    for side in ("before", "after"):
        wide = [padded(a, side) if i in steps else a for i, a in enumerate(args)]
        got = layer(*wide, mask=padded(mask, side), **{k: padded(v, side) for k, v in more.items()})
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-6, err_msg=side)
