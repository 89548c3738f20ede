"""Floors of `benchmarks.serving_latency`: ten models as plain TensorFlow graphs, without Keras, on the model's own weights.

A floor does what the model's equation says and nothing else: the gathers, the matrix products, the activations, the softmaxes. It has no
checks, and it rests on what these requests hold and a model must not assume: every id is inside its table, a history starts at step 0, all
attributes of an event are there, a padded step reads a row of zeros. What follows from the weights alone is computed when the graph is
built: sums of kernels, the scale of queries, Dice's normalisation, the scores' part of learned seeds, the angles of rotary positions.
"""

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


def build(name, model, schema):
    """Returns a `tf.Module` whose `signature` takes the encoded features by name and gives `{label: (B, 1)}`.

    Args:
        name: Name of the model, a key of `FLOORS`.
        model: The model as its factory makes it by default, with one label; its weights are copied.
        schema: Its schema: fields, numerics and one group of sequences whose targets are neighbours among the fields, tables of one width.
    """
    module = tf.Module()
    module.weights = []

    def weight(value):
        module.weights.append(tf.Variable(np.asarray(array(value), "float32"), trainable=False))
        return module.weights[-1]

    score = FLOORS[name](weight, model, schema)
    label = schema.label_names[0]
    specs = {n: tf.TensorSpec((None, *schema.encoded_shape(n)), schema.encoded_dtype(n), name=n) for n in schema.feature_names}
    module.signature = tf.function(lambda **features: {label: tf.sigmoid(score(features))}).get_concrete_function(**specs)
    return module


def save(name, model, schema, path):
    """Writes the floor as a SavedModel with the signature `encoded`."""
    module = build(name, model, schema)
    tf.saved_model.save(module, str(path), signatures={"encoded": module.signature})


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


def din(weight, model, schema):
    layer = model.get_layer(f"attention_{schema.sequences[0].group}")
    of_target, of_event, of_difference, of_product = np.split(array(layer.kernel), 4)
    of_target, of_event = weight(of_target + of_difference), weight(of_event - of_difference)
    of_product, bias, score_of = weight(of_product), weight(layer.bias), dense(weight, layer.score)
    first, second = (dice(weight, activation) for activation in layer.activations)
    hidden = dense(weight, layer.dense[0])

    def interest(fields, events, lengths):
        target, steps, width = target_of(fields, schema), events.shape[1], events.shape[2]
        fixed = tf.nn.bias_add(tf.matmul(target, of_target), bias)  # (B, u)
        x = tf.matmul(tf.reshape(events, (-1, width)), of_event)
        x = x + tf.matmul(tf.reshape(events * target[:, None], (-1, width)), of_product)  # (B T, u)
        x = first(tf.reshape(x, (-1, steps, x.shape[1])) + fixed[:, None])
        weights = tf.reshape(score_of(second(hidden(x))), (-1, 1, steps))
        return tf.reshape(tf.matmul(weights, events), (-1, width))  # padded events are zeros

    flat, deep = make_flat(weight, model, schema, interest), mlp(weight, model.get_layer("mlp"))
    logits = dense(weight, model.get_layer("logits"))
    return lambda x: logits(deep(flat(x)))


def bst(weight, model, schema):
    layer = model.get_layer(f"transformer_{schema.sequences[0].group}")
    positions, block, count = weight(layer.position_table), layer.blocks[0], layer.num_recent
    attend, ffn = attention(weight, block.attention), mlp(weight, block.ffn)
    first, second = (norm(weight, part) for part in block.norms)

    def interest(fields, events, lengths):
        steps = events.shape[1]
        x = tf.concat([events, target_of(fields, schema)[:, None]], 1)
        age = tf.concat([tf.maximum(lengths - np.arange(steps, dtype="int32"), 0), tf.zeros_like(lengths)], 1)
        x = tf.concat([x, tf.gather(positions, age)], 2)  # (B, T + 1, m)
        read = tf.concat([newest(x, lengths, count), x[:, -1:]], 1)  # (B, K + 1, m): all that is read of the only block
        y = first(read + attend(x, key_bias(lengths, steps, after=1), read))
        there = tf.cast(lengths >= np.arange(count, -1, -1, dtype="int32"), tf.float32)  # (B, K + 1)
        return tf.reshape(second(y + ffn(y)) * there[:, :, None], (-1, (count + 1) * x.shape[2]))

    flat, deep = make_flat(weight, model, schema, interest), mlp(weight, model.get_layer("mlp"))
    logits = dense(weight, model.get_layer("logits"))
    return lambda x: logits(deep(flat(x)))


def gated(weight, layer):
    score = mlp(weight, layer.mlp)
    return lambda x: x * tf.sigmoid(score(x))


def pooled(weight, layer):
    """Returns the pooling of `(B, S, D)` by learned seeds; what seeds and keys make of each other is a constant."""
    heads, seeds, head, width = layer.num_heads, layer.num_seeds, layer.head_dim, layer.seeds.shape[1]
    query = (array(layer.seeds) @ array(layer.query_kernel) + array(layer.query_bias)) * head**-0.5  # (k, H E)
    split = array(layer.key_kernel).reshape(width, heads, head)
    probe = weight(np.einsum("dhe,khe->dhk", split, query.reshape(seeds, heads, head)).reshape(width, heads * seeds))
    values = weight(array(layer.value_kernel).reshape(width, heads, head).transpose(1, 0, 2))  # (H, D, E)
    bias, kernel, last = weight(layer.value_bias), weight(layer.output_kernel), weight(layer.output_bias)

    def apply(x, hidden):
        scores = tf.reshape(tf.matmul(tf.reshape(x, (-1, width)), probe), (-1, x.shape[1], heads * seeds)) + hidden[:, :, None]
        out = tf.matmul(tf.nn.softmax(tf.transpose(scores, (0, 2, 1))), x)  # (B, H k, D)
        out = tf.transpose(tf.reshape(out, (-1, heads, seeds, width)), (1, 0, 2, 3))
        out = tf.reshape(tf.matmul(tf.reshape(out, (heads, -1, width)), values), (heads, -1, seeds, head))
        out = tf.nn.bias_add(tf.reshape(tf.transpose(out, (1, 2, 0, 3)), (-1, heads * head)), bias)
        return tf.reshape(tf.nn.bias_add(tf.matmul(out, kernel), last), (-1, seeds, width))

    return apply


def interaction(weight, layer):
    ensemble, out = layer.steps[0], mlp(weight, layer.mlp)
    dot, cross = ensemble.parts
    dot, down, up = mlp(weight, dot.mlp), dense(weight, cross.down), dense(weight, cross.up)
    normalised = norm(weight, ensemble.norm)

    def apply(fields, summary):
        z = tf.concat([fields, summary], 1)  # (B, N, D)
        count, width = z.shape[1], z.shape[2]
        rows, columns = np.tril_indices(count, -1)
        products = tf.reshape(tf.matmul(z, z, transpose_b=True), (-1, count * count))
        flat = tf.reshape(z, (-1, count * width))
        mixed = dot(tf.gather(products, np.int32(rows * count + columns), axis=1)) + flat * up(down(flat)) + flat
        mixed = normalised(tf.reshape(mixed, (-1, count, width)))
        return tf.reshape(out(tf.reshape(mixed, (-1, count * width))), (-1, *fields.shape[1:]))

    return apply


def transformed(weight, layer, steps):
    first, second = (norm(weight, part) for part in layer.norms)
    hidden, matrix = mlp(weight, layer.ffn.mlp), dense(weight, layer.ffn.matrix)
    head = layer.norms[0].gamma.shape[0] // layer.num_heads
    exponents = np.arange(head // 2) * (-2.0 / head)
    wavelength = layer.attention.rotary_embedding.max_wavelength
    attend = attention(weight, layer.attention, np.float32(np.arange(steps)[:, None, None] * wavelength**exponents))

    def apply(x, summary, bias):
        width = x.shape[2]
        made = tf.reshape(matrix(hidden(tf.reshape(summary, (-1, summary.shape[1] * width)))), (-1, width, width))
        x = x + tf.matmul(first(x), made)
        return x + attend(second(x), bias)

    return apply


def interformer(weight, model, schema):
    embedded, steps = look_up(weight, model.get_layer("embedding"), schema), schema.sequences[0].max_length
    kernel, net = weight(model.get_layer("numeric_tokens").kernel), model.get_layer(f"mask_net_{schema.sequences[0].group}")
    mask, compress = mlp(weight, net.mask_mlp), dense(weight, net.compress)
    crosses = [model.get_layer(f"cross_{i}") for i in (1, 2, 3)]
    mixes = [weight(np.transpose(cross.compress.kernel)) for cross in crosses]
    gates = [(gated(weight, cross.field_gate), gated(weight, cross.sequence_gate)) for cross in crosses]
    pools, (num_cls, num_recent) = [pooled(weight, cross.pma) for cross in crosses], (crosses[0].num_cls, crosses[0].num_recent)
    interactions = [interaction(weight, model.get_layer(f"interaction_{i}")) for i in (1, 2)]
    sequences = [transformed(weight, model.get_layer(f"sequence_{i}"), num_cls + steps) for i in (1, 2)]
    head, logits = mlp(weight, model.get_layer("head")), dense(weight, model.get_layer("logits"))

    def score(x):
        fields, s, lengths = embedded(x)
        tokens = tf.concat([tf.matmul(numbers_of(x, schema), kernel)[:, None], fields], 1)
        s, bias = compress(s * mask(s)), key_bias(lengths, steps, before=num_cls)
        for i in range(3):
            of_fields, of_sequence = gates[i]
            summary = of_fields(tf.matmul(mixes[i], tokens))  # (B, n, D)
            s = tf.concat([summary[:, :num_cls], s], 1) if i == 0 else s
            parts = [s[:, :num_cls], pools[i](s, bias), newest(s, lengths, num_recent, num_cls)]
            behaviour = of_sequence(tf.concat(parts, 1))  # (B, S_sum, D)
            if i < 2:
                tokens, s = interactions[i](tokens, behaviour), sequences[i](s, summary, bias)
        flat = [tf.reshape(part, (-1, part.shape[1] * part.shape[2])) for part in (summary, behaviour)]
        return logits(head(tf.concat(flat, 1)))

    return score


FLOORS = {"LR": lr, "FM": fm, "DNN": dnn, "DeepFM": deep_fm, "DCNv2": dcn_v2, "DynInt": dyn_int, "XDeepInt": x_deep_int}
FLOORS |= {"DIN": din, "BST": bst, "InterFormer": interformer}
