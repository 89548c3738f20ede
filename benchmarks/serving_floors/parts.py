"""What the floors are made of: look-ups, dense layers, attention. `weight` makes a constant of the graph from an array."""

import keras
import numpy as np
import tensorflow as tf

from keras_ctr.layers import Dice

ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": tf.nn.relu,
    "silu": lambda x: x * tf.sigmoid(x),
    "leaky_relu": lambda x: tf.nn.leaky_relu(x, 0.2),
}
HIDDEN = -1e9
array = keras.ops.convert_to_numpy


def stacked_tables(layer, schema):
    """Returns the tables one below the other, an array `(V, D)` with rows of zeros for padding, and `{table: first row}`."""
    blocks, start = [], {}
    for name in schema.tables:
        start[name] = sum(map(len, blocks))
        blocks.append(np.array(layer.rows(name)))
        blocks[-1][0] = 0.0
    return np.concatenate(blocks), start


def look_up(weight, layer, schema):
    """Returns a function of the features: fields `(B, F, D)`, events `(B, T, M D)` and histories' lengths, int `(B, 1)`."""
    table, start = stacked_tables(layer, schema)
    table = weight(table)
    of_fields, of_events = ([start[schema.table_of(f).name] for f in group] for group in (schema.fields, schema.sequences))
    steps, width = schema.sequences[0].max_length, len(schema.sequences) * table.shape[1]

    def apply(x):
        fields = tf.gather(table, tf.stack([x[f.name] for f in schema.fields], 1) + np.int32(of_fields))
        events = tf.gather(table, tf.stack([x[s.name] for s in schema.sequences], 2) + np.int32(of_events))  # (B, T, M, D)
        return fields, tf.reshape(events, (-1, steps, width)), lengths_of(x, schema)

    return apply


def lengths_of(x, schema):
    return tf.reduce_sum(tf.cast(tf.not_equal(x[schema.sequences[0].name], 0), tf.int32), 1, keepdims=True)


def numbers_of(x, schema):
    return tf.stack([x[f.name] for f in schema.numerics], 1)  # (B, N)


def mean(events, lengths):
    return tf.reduce_sum(events, 1) / tf.cast(tf.maximum(lengths, 1), tf.float32)


def linear(weight, layer, schema):
    """Returns a function of the features: the linear part `(B, 1)`."""
    table, start = stacked_tables(layer.embedding, schema)
    table = weight(np.reshape(table, -1))
    kernel, bias = weight(layer.numeric_tokens.kernel), weight(layer.bias)
    of_fields = np.int32([start[schema.table_of(f).name] for f in schema.fields])
    of_events = np.int32([start[schema.table_of(s).name] for s in schema.sequences for _ in range(s.max_length)])

    def apply(x):
        fields = tf.reduce_sum(tf.gather(table, tf.stack([x[f.name] for f in schema.fields], 1) + of_fields), 1, keepdims=True)
        events = tf.gather(table, tf.concat([x[s.name] for s in schema.sequences], 1) + of_events)  # (B, M T)
        numbers = tf.matmul(numbers_of(x, schema), kernel)
        return fields + numbers + mean(events[:, :, None], lengths_of(x, schema)) + bias

    return apply


def make_tokens(weight, model, schema):
    """Returns a function of the features: fields, numerics and mean-pooled sequences as tokens `(B, F', D)`."""
    embedded = look_up(weight, model.get_layer("embedding"), schema)
    kernel = weight(model.get_layer("numeric_tokens").kernel)  # (N, D)

    def apply(x):
        fields, events, lengths = embedded(x)
        pooled = tf.reshape(mean(events, lengths), (-1, len(schema.sequences), fields.shape[2]))
        return tf.concat([fields, numbers_of(x, schema)[:, :, None] * kernel, pooled], 1)

    return apply


def make_flat(weight, model, schema, interest=lambda fields, events, lengths: mean(events, lengths)):
    """Returns a function of the features: fields, numerics and the history's vector side by side, `(B, N0)`."""
    embedded = look_up(weight, model.get_layer("embedding"), schema)

    def apply(x):
        fields, events, lengths = embedded(x)
        flat = tf.reshape(fields, (-1, fields.shape[1] * fields.shape[2]))
        return tf.concat([flat, numbers_of(x, schema), interest(fields, events, lengths)], 1)

    return apply


def target_of(fields, schema):
    """Returns the candidate `(B, M D)`: neighbours among the fields."""
    names = [f.name for f in schema.fields]
    first, count = names.index(schema.sequences[0].target), len(schema.sequences)
    return tf.reshape(fields[:, first : first + count], (-1, count * fields.shape[2]))


def dense(weight, layer, scale=1.0):
    """Returns `x W + b` on the last axis as one product, bias and activation, which TensorFlow fuses."""
    kernel = weight(scale * layer.kernel)
    bias = None if layer.bias is None else weight(scale * layer.bias)
    activation = ACTIVATIONS[layer.activation.__name__]

    def apply(x):
        out = tf.matmul(x if len(x.shape) == 2 else tf.reshape(x, (-1, x.shape[-1])), kernel)
        out = activation(out if bias is None else tf.nn.bias_add(out, bias))
        return out if len(x.shape) == 2 else tf.reshape(out, (-1, *x.shape[1:-1], kernel.shape[1]))

    return apply


def dice(weight, layer):
    scale = 1.0 / np.sqrt(array(layer.norm.moving_variance) + layer.epsilon)
    scale, shift = weight(scale), weight(-scale * array(layer.norm.moving_mean))
    alpha, rest = weight(layer.alpha), weight(1.0 - array(layer.alpha))
    return lambda x: x * (alpha + rest * tf.sigmoid(x * scale + shift))


def mlp(weight, layer):
    steps = []
    for step in layer.steps:
        if isinstance(step, keras.layers.Dense):
            steps.append(dense(weight, step))
        else:
            steps.append(dice(weight, step) if isinstance(step, Dice) else ACTIVATIONS[step.activation.__name__])

    def apply(x):
        shape = x.shape
        x = x if len(shape) == 2 else tf.reshape(x, (-1, shape[-1]))
        for step in steps:
            x = step(x)
        return x if len(shape) == 2 else tf.reshape(x, (-1, *shape[1:-1], x.shape[-1]))

    return apply


def norm(weight, layer):
    gamma, beta, epsilon = weight(layer.gamma), weight(layer.beta), layer.epsilon

    def apply(x):
        centred = x - tf.reduce_mean(x, -1, keepdims=True)
        return centred * tf.math.rsqrt(tf.reduce_mean(tf.square(centred), -1, keepdims=True) + epsilon) * gamma + beta

    return apply


def rotate(x, angle):
    """Rotates `(B, S, H, E)` by the angles `(S, 1, E / 2)`."""
    a, b = tf.split(x, 2, -1)
    cos, sin = np.cos(angle, dtype="float32"), np.sin(angle, dtype="float32")
    return tf.concat([a * cos - b * sin, b * cos + a * sin], -1)


def attention(weight, layer, angle=None):
    """Returns self-attention of `(B, S, D)` with the bias `(B, S)` on the keys; queries are all rows, or those that are `asked`."""
    heads = layer.num_heads
    query = dense(weight, layer.query_dense, (layer.query_dense.kernel.shape[1] // heads) ** -0.5)
    key, value, out = (dense(weight, part) for part in (layer.key_dense, layer.value_dense, layer.output_dense))

    def apply(x, bias, asked=None):
        asked = x if asked is None else asked
        q, k, v = (tf.reshape(f(y), (-1, y.shape[1], heads, y.shape[2] // heads)) for f, y in ((query, asked), (key, x), (value, x)))
        if angle is not None:
            q, k = rotate(q, angle), rotate(k, angle)
        q, k, v = tf.transpose(q, (0, 2, 1, 3)), tf.transpose(k, (0, 2, 3, 1)), tf.transpose(v, (0, 2, 1, 3))
        weights = tf.nn.softmax(tf.matmul(q, k) + bias[:, None, None, :])  # (B, H, S, S)
        return out(tf.reshape(tf.transpose(tf.matmul(weights, v), (0, 2, 1, 3)), (-1, *asked.shape[1:])))

    return apply


def newest(x, lengths, count, skip=0):
    """Returns the `count` newest events `(B, count, D)`, oldest first, zeros where there are too few."""
    position = lengths - count + np.arange(count, dtype="int32")  # (B, count)
    rows = tf.gather(x, tf.maximum(position, 0) + skip, batch_dims=1)
    return rows * tf.cast(position >= 0, tf.float32)[:, :, None]


def key_bias(lengths, steps, before=0, after=0):
    """Returns 0 for an event and a large negative number for padding, `(B, before + steps + after)`; what stands around is valid."""
    at = np.concatenate([np.full(before, -1), np.arange(steps), np.full(after, -1)]).astype("int32")
    return tf.where(at < lengths, 0.0, HIDDEN)
