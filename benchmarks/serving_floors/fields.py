"""Floors of models on fields; histories enter as their mean."""

import tensorflow as tf

from benchmarks.serving_floors.parts import dense, linear, make_flat, make_tokens, mlp


def lr(weight, model, schema):
    return linear(weight, model.get_layer("logits"), schema)


def fm(weight, model, schema):
    first, tokens = linear(weight, model.get_layer("linear"), schema), make_tokens(weight, model, schema)
    return lambda x: first(x) + pairs(tokens(x))


def pairs(tokens):
    squares = tf.square(tf.reduce_sum(tokens, 1)) - tf.reduce_sum(tf.square(tokens), 1)  # (B, D)
    return 0.5 * tf.reduce_sum(squares, 1, keepdims=True)


def dnn(weight, model, schema):
    flat, deep, logits = make_flat(weight, model, schema), mlp(weight, model.get_layer("mlp")), dense(weight, model.get_layer("logits"))
    return lambda x: logits(deep(flat(x)))


def deep_fm(weight, model, schema):
    first, tokens = linear(weight, model.get_layer("linear"), schema), make_tokens(weight, model, schema)
    deep, logits = mlp(weight, model.get_layer("mlp")), dense(weight, model.get_layer("deep_logits"))

    def score(x):
        e = tokens(x)
        return first(x) + pairs(e) + logits(deep(tf.reshape(e, (-1, e.shape[1] * e.shape[2]))))

    return score


def dcn_v2(weight, model, schema):
    flat, deep, logits = make_flat(weight, model, schema), mlp(weight, model.get_layer("mlp")), dense(weight, model.get_layer("logits"))
    crosses = [(weight(w["kernel"]), weight(w["bias"])) for w in model.get_layer("cross").cross_weights]

    def score(x):
        first = crossed = flat(x)
        for kernel, bias in crosses:
            crossed = first * tf.nn.bias_add(tf.matmul(crossed, kernel), bias) + crossed
        return logits(tf.concat([crossed, deep(first)], 1))

    return score


def crossed_rows(tokens, subspaces):
    """Returns the tokens cut into subspaces, with the crossed fields last: `(B D / h, h F)`."""
    fields, chunk = tokens.shape[1], tokens.shape[2] // subspaces
    rows = tf.transpose(tf.reshape(tokens, (-1, fields, subspaces, chunk)), (0, 3, 2, 1))
    return tf.reshape(rows, (-1, subspaces * fields))


def map_logits(weight, layer, width):
    """Returns `sum_d (w . X[:, d] + b)` of crossed rows."""
    kernel, bias = weight(layer.kernel), weight(width * layer.bias)
    fields = kernel.shape[0]
    return lambda rows: tf.matmul(tf.reduce_sum(tf.reshape(rows, (-1, width, fields)), 1), kernel) + bias


def x_deep_int(weight, model, schema):
    tokens, layer = make_tokens(weight, model, schema), model.get_layer("interaction")
    kernels = [weight(kernel) for kernel in layer.kernels]
    logits = map_logits(weight, model.get_layer("logits"), model.get_layer("embedding").embedding_dim)

    def score(x):
        first = rows = crossed_rows(tokens(x), layer.num_subspaces)
        for kernel in kernels:
            rows = rows * tf.matmul(first, kernel) + rows
        return logits(rows)

    return score


def dyn_int(weight, model, schema):
    tokens, layer = make_tokens(weight, model, schema), model.get_layer("interaction")
    factors = [(weight(v), weight(u)) for v, u in zip(layer.kernels_v, layer.kernels_u, strict=True)]
    gates = [(dense(weight, gate.hidden), dense(weight, gate.out)) for gate in layer.gates]
    width = model.get_layer("embedding").embedding_dim
    logits, chunk = map_logits(weight, model.get_layer("logits"), width), width // layer.num_subspaces

    def score(x):
        e = tokens(x)
        first = rows = crossed_rows(e, layer.num_subspaces)  # (B D', F')
        flat = tf.reshape(e, (-1, e.shape[1] * e.shape[2]))
        for (v, u), (hidden, out) in zip(factors, gates, strict=True):
            code = tf.reshape(tf.matmul(first, v), (-1, chunk, layer.rank)) * (1.0 + out(hidden(flat)))[:, None]  # (B, D', K)
            rows = rows * tf.matmul(tf.reshape(code, (-1, layer.rank)), u) + rows
        return logits(rows)

    return score
