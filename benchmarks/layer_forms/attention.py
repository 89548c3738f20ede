"""Forms of the attention layers: self-attention, rotary positions, DIN's target attention; and the dense cores of whole models."""

import keras
import tensorflow as tf

from benchmarks.layer_forms.case import OURS, Built, Case, Form, lengths_mask, normal, tensor
from keras_ctr import layers

HIDDEN = -1e9


def _einsum_attention(q, k, v, mask, width):
    """Scaled dot-product attention of heads `(B, T, H, E)`, written with einsums; `(B, T, H E)`, before the output projection."""
    scores = tf.einsum("bthe,bshe->bhts", q, k) * width**-0.5
    scores = tf.where(mask[:, None, None, :], scores, HIDDEN)
    out = tf.einsum("bhts,bshe->bthe", tf.nn.softmax(scores), v)
    return tf.reshape(out, (-1, out.shape[1], out.shape[2] * out.shape[3]))


def self_attention(rng, batch, *, length, width, heads, rotary):
    """Multi-head self-attention with a mask: einsums against ours; with rotary positions also pairs (2i, 2i + 1) against half-split."""
    # No biases: a bias of the keys cancels in the softmax, and a gradient that is only rounding cannot be compared.
    layer = layers.MultiHeadAttention(heads, rotary=rotary, use_bias=False)
    layer.build((None, length, width))
    head = width // heads
    kernels = [dense.kernel for dense in (layer.query_dense, layer.key_dense, layer.value_dense, layer.output_dense)]

    def ours(x, mask):
        return layer(x, mask=mask)

    def projections(x, order=lambda kernel: kernel):
        q, k, v = order(tensor(kernels[0])), order(tensor(kernels[1])), tensor(kernels[2])
        return [tf.reshape(tf.tensordot(x, kernel, 1), (-1, length, heads, head)) for kernel in (q, k, v)]

    def einsums(x, mask):
        q, k, v = projections(x)
        if rotary:
            q, k = _half_split(q), _half_split(k)
        return tf.tensordot(_einsum_attention(q, k, v, mask, head), tensor(kernels[3]), 1)

    def interleaved(x, mask):
        # Columns reordered so that neighbours are the pairs that the half-split form turns: then both are the same function.
        def order(kernel):
            halves = tf.reshape(kernel, (width, heads, 2, head // 2))
            return tf.reshape(tf.transpose(halves, (0, 1, 3, 2)), (width, width))

        q, k, v = projections(x, order)
        q = tf.transpose(_interleaved(q), (0, 2, 1, 3))  # (B, H, T, E)
        k = tf.transpose(_interleaved(k), (0, 2, 1, 3))
        scores = tf.matmul(q * head**-0.5, k, transpose_b=True) + (1.0 - tf.cast(mask, x.dtype))[:, None, None, :] * HIDDEN
        out = tf.matmul(tf.nn.softmax(scores), tf.transpose(v, (0, 2, 1, 3)))  # (B, H, T, E)
        return tf.tensordot(tf.reshape(tf.transpose(out, (0, 2, 1, 3)), (-1, length, width)), tensor(kernels[3]), 1)

    calls = {OURS: ours, "einsums": einsums}
    if rotary:
        calls["interleaved pairs"] = interleaved
    forms = {name: Form(call, kernels) for name, call in calls.items()}
    return Built([normal(rng, batch, length, width)], forms, [lengths_mask(rng, batch, length)])


def _angles(x):
    """Returns cos, sin `(T, 1, E/2)` of positions times `10000^(-2i/E)`."""
    length, width = x.shape[1], x.shape[3]
    frequency = 10000.0 ** (tf.range(width // 2, dtype=tf.float32) * (-2.0 / width))
    angle = tf.range(length, dtype=tf.float32)[:, None] * frequency
    return tf.cos(angle)[:, None, :], tf.sin(angle)[:, None, :]


def _half_split(x):
    cos, sin = _angles(x)
    first, second = tf.split(x, 2, axis=-1)
    return tf.concat([first * cos - second * sin, first * sin + second * cos], axis=-1)


def _interleaved(x):
    cos, sin = _angles(x)
    even, odd = x[..., ::2], x[..., 1::2]
    turned = tf.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)  # (B, T, H, E/2, 2)
    return tf.reshape(turned, tf.shape(x))


def target_attention(rng, batch, *, length, width, units):
    """DIN: the first layer on the concatenation `[e, s, e - s, e * s]` against ours. The other layers are the layer's in both."""
    layer = layers.TargetAttention(units)
    layer.build((None, width), (None, length, width))

    def ours(target, sequence, mask):
        return layer(target, sequence, mask=mask, training=True)

    def concatenation(target, sequence, mask):
        repeated = tf.repeat(target[:, None, :], length, axis=1)  # (B, T, D)
        x = tf.concat([repeated, sequence, repeated - sequence, repeated * sequence], axis=2)  # (B, T, 4D)
        x = tf.tensordot(x, tensor(layer.kernel), 1) + tensor(layer.bias)
        for index, activation in enumerate(layer.activations):
            x = layer.dense[index - 1](x) if index else x
            x = activation(x, mask=mask, training=True)
        weights = tf.where(mask[:, :, None], layer.score(x), 0.0)  # (B, T, 1)
        return tf.reduce_sum(weights * sequence, axis=1)  # (B, D)

    forms = {name: Form(call, layer.trainable_weights) for name, call in ((OURS, ours), ("concatenation", concatenation))}
    return Built([normal(rng, batch, width), normal(rng, batch, length, width)], forms, [lengths_mask(rng, batch, length)])


def din_core(rng, batch, *, length, width, fields, units, hidden_units):
    """DIN after its lookups: target attention, MLP with Dice, logit."""
    attention = layers.TargetAttention(units)
    attention.build((None, width), (None, length, width))
    head = layers.MLP(hidden_units, activation=layers.Dice(), output_units=1)
    head.build((None, (fields + 1) * width))

    def core(target, sequence, others, mask):
        pooled = attention(target, sequence, mask=mask, training=True)
        return head(tf.concat([others, pooled], axis=1), training=True)

    inputs = [normal(rng, batch, width), normal(rng, batch, length, width), normal(rng, batch, fields * width)]
    weights = attention.trainable_weights + head.trainable_weights
    return Built(inputs, {OURS: Form(core, weights)}, [lengths_mask(rng, batch, length)])


def auto_int_core(rng, batch, *, fields, width, heads, key_dim, count):
    """AutoInt's interacting layers, without activation: at a kink two compilations may have different gradients."""
    model = keras.Sequential(
        [layers.InteractingLayer(heads, key_dim=key_dim, activation="linear", name=f"interacting_{i}") for i in range(count)]
    )
    model.build((None, fields, width))
    return Built([normal(rng, batch, fields, width)], {OURS: Form(model, model.trainable_weights)})


def dcn_core(rng, batch, *, fields, width, count):
    """The full-matrix crosses of DCN V2."""
    layer = layers.CrossNetwork(count)
    layer.build((None, fields * width))
    return Built([normal(rng, batch, fields * width)], {OURS: Form(layer, layer.trainable_weights)})


def cases():
    """Returns the cases of this file."""
    out = []
    for rotary, length in ((False, 50), (False, 100), (True, 50), (True, 100)):
        sizes = {"length": length, "width": 64, "heads": 4, "rotary": rotary}
        # A sequence model's batch, and scores (B, H, T, T) that stay under a few hundred MB.
        out.append(Case(f"{'rope' if rotary else 'self_attention'}_{length}", self_attention, sizes, jit=True, share=0.25))
    events = {"length": 100, "width": 16, "units": (80, 40)}
    return [
        *out,
        Case("din_attention", target_attention, events, jit=True),
        Case("core_din", din_core, {**events, "fields": 26, "hidden_units": (200, 80)}, jit=True),
        Case("core_autoint", auto_int_core, {"fields": 39, "width": 16, "heads": 2, "key_dim": 16, "count": 3}, jit=True),
        Case("core_dcnv2", dcn_core, {"fields": 39, "width": 16, "count": 3}, jit=True),
    ]
