"""INFNet's equations as float64 loops, written from the paper; each takes weights as a dict {short name: array} and one row of a batch."""

import numpy as np

from tests.layers.interformer_oracles import layer_norm, mlp, sigmoid, softmax, under

GROUPS = ("categorical", "sequence", "task")


def relu(x):
    return np.maximum(x, 0)


def network(values, x, last):
    """The hidden layers of a network, then its linear layer `last`."""
    return values[f"{last}/kernel"].T @ mlp(under(values, "mlp"), x, relu) + values[f"{last}/bias"]


def hub_tokens(values, tokens, valid, count, initialization="mlp", pooling=None):
    """`(N, D) -> (n, D)`."""
    shown = [x for x, ok in zip(tokens, valid, strict=True) if ok]
    width = tokens.shape[1]
    if initialization == "random":
        return values["offsets"]
    if initialization == "mean":
        return np.array([np.mean(shown, axis=0) + e if shown else e for e in values["offsets"]])
    if pooling is None:
        return network(values, np.concatenate(list(tokens)), "project").reshape(count, width)
    total = sum((network(values, x, "project") for x in shown), np.zeros(count * width))
    return (total / max(len(shown), 1) if pooling == "mean" else total).reshape(count, width)


def cross_attention(values, group, source, hubs, tokens, valid, heads):
    """CA of `(n, D)` hubs to `(N, D)` tokens in the order of the equation: `(n, D)` and the attention `(H, n, N)`."""
    width = tokens.shape[1]
    head = width // heads
    shown = np.flatnonzero(valid)
    out, maps = np.zeros((len(hubs), width)), np.zeros((heads, len(hubs), len(tokens)))
    for i, hub in enumerate(hubs):
        for h in range(heads):
            part = slice(h * head, (h + 1) * head)
            if not len(shown):
                continue
            scores = np.zeros(len(shown))  # one token: nothing to choose, no keys
            if f"key_{source}" in values:
                q = (values[f"query_{group}"].T @ hub)[part]
                scores = np.array([q @ (values[f"key_{source}"].T @ tokens[t])[part] / np.sqrt(head) for t in shown])
            for t, weight in zip(shown, softmax(scores), strict=True):
                maps[h, i, t] = weight
                out[i, part] += weight * (values[f"value_{source}"].T @ tokens[t])[part]
    return out, maps


def aggregate(values, hubs, tokens, valid, heads, fusion="concat", residual=True, epsilon=1e-6):
    """New hubs `{group: (n_g, D)}` and the attention `{"g/j": (H, n_g, N_j)}`."""
    out, maps = {}, {}
    for group, h in hubs.items():
        parts = []
        for source in sorted(tokens):
            if fusion == "sum" and source == group:
                continue
            shown = valid if source == "sequence" else np.ones(len(tokens[source]), bool)
            z, maps[f"{group}/{source}"] = cross_attention(values, group, source, h, tokens[source], shown, heads)
            parts.append(z)
        if fusion == "sum":
            out[group] = sum(parts, h * residual) if parts else h
            continue
        z = np.array([values[f"fuse_{group}"].T @ np.concatenate([part[i] for part in parts]) for i in range(len(h))])
        out[group] = np.array([layer_norm(under(values, f"norm_{group}"), row, epsilon) for row in h * residual + z])
    return out, maps


def affine(values, tokens, hubs, per_token=False, normalize=True, epsilon=1e-6):
    """Broadcast gated unit: `(N, D), (n, D) -> (N, D)`."""
    out = []
    for i, x in enumerate(tokens):
        h = hubs[i] if per_token else np.concatenate(list(hubs))
        y = x + (x * sigmoid(network(values, h, "scale")) + network(values, h, "shift"))
        out.append(layer_norm(under(values, "norm"), y, epsilon) if normalize else y)
    return np.array(out)


def gated(values, tokens, hubs, per_token=False):
    """Proxy gated unit: `(N, D), (n, D) -> (N, D)`."""
    return np.array(
        [x * sigmoid(network(values, hubs[i] if per_token else np.concatenate(list(hubs)), "scale")) for i, x in enumerate(tokens)]
    )


def block_v2(values, hubs, tokens, valid, heads, epsilon=1e-6, per_token=False):
    hubs, maps = aggregate(under(values, "aggregation"), hubs, tokens, valid, heads, epsilon=epsilon)
    new = {g: affine(under(values, f"broadcast_{g}"), tokens[g], h, per_token, epsilon=epsilon) for g, h in hubs.items()}
    return hubs, {**tokens, **new}, maps


def block_v1(values, hubs, tokens, valid, heads, residual=True):
    cross = under(values, "aggregation")
    new, maps = aggregate(cross, hubs, tokens, valid, heads, "sum", residual)
    read = dict(tokens)
    if "task" in hubs:
        read.update(aggregate(cross, {"task": tokens["task"]}, tokens, valid, heads, "sum", residual)[0])
    return new, {**tokens, **{g: gated(under(values, f"broadcast_{g}"), read[g], h) for g, h in new.items()}}, maps
