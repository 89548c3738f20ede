"""InterFormer's equations as float64 loops, written from the paper; each takes weights as a dict {short name: array}."""

import numpy as np


def randomize(layer, scale=0.5, seed=3):
    """Gives every weight of a built layer random values; returns the layer."""
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(scale * rng.standard_normal(weight.shape))
    return layer


def weights(layer):
    """`{path below the layer: float64 array}`, such as `{"attention/query/kernel": ...}`."""
    return {w.path.split("/", 1)[1] if "/" in w.path else w.path: np.asarray(w.numpy(), "float64") for w in layer.weights}


def under(values, prefix):
    """The weights below one sub-layer, with the prefix cut."""
    return {name.removeprefix(prefix + "/"): value for name, value in values.items() if name.startswith(prefix + "/")}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def swish(x):
    return x * sigmoid(x)


def mlp(values, x, activation=swish):
    """One vector through dense_0, dense_1, .. with the activation, then the linear "output" if there is one."""
    index = 0
    while f"dense_{index}/kernel" in values:
        x = activation(values[f"dense_{index}/kernel"].T @ x + values[f"dense_{index}/bias"])
        index += 1
    return values["output/kernel"].T @ x + values["output/bias"] if "output/kernel" in values else x


def layer_norm(values, x, epsilon=1e-6):
    return values["gamma"] * (x - x.mean()) / np.sqrt(x.var() + epsilon) + values["beta"]


def rotate(x, position):
    """RoFormer's rotation by complex numbers, coordinate i paired with i + E/2."""
    half = len(x) // 2
    theta = 10000.0 ** (-np.arange(half) / half)
    turned = (x[:half] + 1j * x[half:]) * np.exp(1j * position * theta)
    return np.concatenate([turned.real, turned.imag])


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def attention(values, query, memory, valid, heads, positions=None):
    """One row of multi-head attention: `(T_q, D), (T_k, D) -> (T_q, D')`, the attention `(H, T_q, T_k)` beside it."""
    q = query @ values["query/kernel"] + values["query/bias"]
    k = memory @ values["key/kernel"] + values["key/bias"]
    v = memory @ values["value/kernel"] + values["value/bias"]
    width = q.shape[1] // heads
    out, maps = np.zeros((len(query), heads * width)), np.zeros((heads, len(query), len(memory)))
    shown = np.flatnonzero(valid)
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        for i in range(len(query)):
            scores = []
            for j in shown:
                a, b = q[i, part], k[j, part]
                if positions is not None:
                    a, b = rotate(a, positions[i]), rotate(b, positions[j])
                scores.append(a @ b / np.sqrt(width))
            if scores:
                maps[h, i, shown] = softmax(np.array(scores))
                out[i, part] = sum(maps[h, i, j] * v[j, part] for j in shown)
    if not len(shown):
        return np.zeros((len(query), values["output/kernel"].shape[1])), maps
    return out @ values["output/kernel"] + values["output/bias"], maps


def pma(values, tokens, valid, heads):
    """Attention in the textbook order from the learned seeds."""
    names = ("query", "key", "value", "output")
    textbook = {f"{n}/kernel": values[f"{n}_kernel"] for n in names}
    textbook |= {f"{n}/bias": values.get(f"{n}_bias", np.zeros(values[f"{n}_kernel"].shape[1])) for n in names}
    return attention(textbook, values["seeds"], tokens, valid, heads)


def gate(values, tokens, form="gated"):
    """Self-gating, token by token."""
    score = np.array([mlp(under(values, "mlp"), x) for x in tokens])
    return tokens * sigmoid(score) if form == "gated" else sigmoid(tokens * score)


def newest(tokens, valid, count):
    """The last `count` valid tokens, oldest first, zeros in front."""
    shown = [x for x, ok in zip(tokens, valid, strict=True) if ok][-count:]
    return np.array([np.zeros(tokens.shape[1])] * (count - len(shown)) + shown)


def triangle(tokens):
    return np.array([tokens[i] @ tokens[j] for i in range(len(tokens)) for j in range(i)])


def pffn(values, sequence, summary, kind):
    """W_PFFN per row, applied to each token as a column vector."""
    width = sequence.shape[1]
    if kind == "linear":
        matrix = summary.T @ values["kernel"]  # W_PFFN = X_sum W, (D, n) (n, D)
    else:
        flat = mlp(under(values, "mlp"), summary.reshape(-1))
        matrix = (values["matrix/kernel"].T @ flat + values["matrix/bias"]).reshape(width, width).T
    return np.array([matrix @ s for s in sequence])


def mask_net(values, sequence, valid, self_masking=True):
    out = []
    for x, ok in zip(sequence, valid, strict=True):
        x = x * mlp(under(values, "mask_mlp"), x) if self_masking else x
        out.append((values["compress/kernel"].T @ x + values["compress/bias"]) * ok)
    return np.array(out)


def masks(batch, steps, seed=5):
    """Row 0 without a valid step, row 1 with one, row 2 full, the rest mixed, holes and front padding included."""
    mask = np.random.default_rng(seed).random((batch, steps)) < 0.5
    mask[0], mask[1], mask[2] = False, False, True
    mask[1, steps // 2] = True
    return mask
