"""Float64 loops of the PIN and DynInt equations, one sample and one matrix at a time, and the sizes that their tests use."""

import numpy as np

B, F = 3, 7


def random_input(width, fields=F, seed=11):
    return np.random.default_rng(seed).standard_normal((B, fields, width))


def randomise(layer, scale=0.4, seed=12):
    """Sets every weight to normal noise, so that no zero initial value hides a mistake."""
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(scale * rng.standard_normal(weight.shape))


def cross(x, h):
    """Subspace split: `(B, F, D) -> (B, hF, D/h)`, row sF+f = chunk s of field f."""
    batch, fields, width = x.shape
    out = np.empty((batch, h * fields, width // h))
    for s in range(h):
        for f in range(fields):
            out[:, s * fields + f] = x[:, f, s * (width // h) : (s + 1) * (width // h)]
    return out


def uncross(x, h):
    """Inverse of `cross`."""
    batch, crossed, chunk = x.shape
    fields = crossed // h
    out = np.empty((batch, fields, chunk * h))
    for s in range(h):
        for f in range(fields):
            out[:, f, s * chunk : (s + 1) * chunk] = x[:, s * fields + f]
    return out


def pin(x, matrices, h, residual=True, gates=None):
    """`X_l = X_{l-1} * (W X_0) [* G] + X_{l-1}`.

    `matrices[l]` is `(F', F')` or one for each sample `(B, F', F')`; `gates[l]` is `(B, F', D')`.
    """
    x0 = cross(x, h)
    out = np.empty_like(x0)
    for b in range(len(x)):
        current = x0[b]
        for layer, matrix in enumerate(matrices):
            w = matrix[b] if matrix.ndim == 3 else matrix
            product = current * (w @ x0[b])
            if gates is not None:
                product = product * gates[layer][b]
            current = product + current if residual else product
        out[b] = current
    return uncross(out, h)


def gate_network(gate, x):
    """The gate network's two dense layers on `vec(x)`, from its weights."""
    w1, b1, w2, b2 = (np.asarray(v, "float64") for v in (gate.hidden.kernel, gate.hidden.bias, gate.out.kernel, gate.out.bias))
    rows = []
    for row in x:
        row = row.reshape(-1)
        if gate.normalize:
            row = (row - row.mean()) / np.sqrt(row.var() + 1e-8)
        hidden = np.maximum(row @ w1 + b1, 0.0)
        rows.append(hidden @ w2 + b2)
    return np.array(rows)


def cosine_sum(vectors):
    """`sum_{p > q} |cos(a_p, a_q)|` of the rows of `(K, N)`."""
    total = 0.0
    for p in range(len(vectors)):
        for q in range(p):
            total += abs(vectors[p] @ vectors[q]) / (np.linalg.norm(vectors[p]) * np.linalg.norm(vectors[q]))
    return total
