"""Floors of models on behaviour sequences."""

import numpy as np
import tensorflow as tf

from benchmarks.serving_floors.parts import (
    array,
    attention,
    dense,
    dice,
    key_bias,
    look_up,
    make_flat,
    mlp,
    newest,
    norm,
    numbers_of,
    target_of,
)


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
