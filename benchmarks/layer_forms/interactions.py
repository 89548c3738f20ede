"""Forms of the interaction layers: polynomial (PIN), compressed (CIN), and dynamic by generated (DGP) or re-weighted (DWP) matrices."""

import tensorflow as tf

from benchmarks.layer_forms.case import OURS, Built, Case, Form, normal, tensor
from keras_ctr import layers

FIELDS, WIDTH, LAYERS = 39, 16, 3
FLOAT = 4  # bytes


def cross_by_concatenation(x, subspaces):
    """`(B, F, D) -> (B, hF, D/h)` as the papers describe it: cut the last axis in h, stack the pieces on the field axis."""
    return tf.concat(tf.split(x, subspaces, axis=2), axis=1)


def merge_by_concatenation(x, subspaces):
    """Inverse of `cross_by_concatenation`."""
    return tf.concat(tf.split(x, subspaces, axis=1), axis=2)


def polynomial(rng, batch, *, fields, width, subspaces):
    """PIN: the published form, one product a layer on crossed rows, as an einsum and as a product a sample, against ours."""
    layer = layers.PolynomialInteraction(LAYERS, num_subspaces=subspaces)
    layer.build((None, fields, width))

    def published(product):
        def call(inputs):
            x = x0 = cross_by_concatenation(inputs, subspaces)  # (B, F', D')
            for kernel in layer.kernels:
                x = x * product(tensor(kernel), x0) + x
            return merge_by_concatenation(x, subspaces)

        return call

    forms = {
        OURS: layer,
        "published, einsum": published(lambda kernel, x0: tf.einsum("fg,bfd->bgd", kernel, x0)),
        "published, matmul": published(lambda kernel, x0: tf.matmul(tf.transpose(kernel), x0)),
    }
    return Built([normal(rng, batch, fields, width)], {n: Form(f, layer.trainable_weights) for n, f in forms.items()})


def compressed(rng, batch, *, fields, width, units, chunk):
    """CIN: outer products and a convolution or einsum, a three-operand einsum, ours, and ours in chunks of fields."""
    layer = layers.CompressedInteraction(units)
    layer.build((None, fields, width))
    chunked = layers.CompressedInteraction(units, field_chunk=chunk)
    chunked.build((None, fields, width))
    chunked.set_weights(layer.get_weights())

    def stack(step):
        """Returns a form from one layer: `step(x (B, H, D), x0 (B, F, D), kernel (H, F, U)) -> (B, U, D)`."""

        def call(inputs):
            x, pooled = inputs, []
            for kernel, size in zip(layer.kernels, units, strict=True):
                x = step(x, inputs, tf.reshape(tensor(kernel), (-1, fields, size)))
                pooled.append(tf.reduce_sum(x, axis=2))  # (B, U)
            return tf.concat(pooled, axis=1)

        return call

    def outer_convolution(x, x0, kernel):
        pairs = kernel.shape[0] * fields
        products = x[:, :, None, :] * x0[:, None, :, :]  # (B, H, F, D)
        products = tf.transpose(tf.reshape(products, (-1, pairs, width)), (0, 2, 1))  # (B, D, H F)
        out = tf.nn.conv1d(products, tf.reshape(kernel, (1, pairs, -1)), stride=1, padding="VALID")  # (B, D, U)
        return tf.transpose(out, (0, 2, 1))

    def outer_einsum(x, x0, kernel):
        products = x[:, :, None, :] * x0[:, None, :, :]  # (B, H, F, D)
        return tf.einsum("bhfd,hfu->bud", products, kernel)

    def three_operands(x, x0, kernel):
        return tf.einsum("bhd,bfd,hfu->bud", x, x0, kernel)

    forms = {
        OURS: Form(layer, layer.trainable_weights),
        f"ours, chunks of {chunk}": Form(chunked, chunked.trainable_weights),
        **{f.__name__: Form(stack(f), layer.trainable_weights) for f in (outer_convolution, outer_einsum, three_operands)},
    }
    return Built([normal(rng, batch, fields, width)], forms)


def _rows(inputs, subspaces):
    """`(B, F, D) -> (B, D', F')`, the layout that suits a product with one matrix a sample."""
    return tf.transpose(cross_by_concatenation(inputs, subspaces), (0, 2, 1))


def _polynomial_by_rows(inputs, subspaces, interaction, count):
    """`X_l = X_{l-1} * interaction(l, X_0) + X_{l-1}` on rows `(B, D', F')`, back to `(B, F, D)`."""
    x = x0 = _rows(inputs, subspaces)
    for index in range(count):
        x = x * interaction(index, x0) + x
    return merge_by_concatenation(tf.transpose(x, (0, 2, 1)), subspaces)


def _polynomial_by_fields(inputs, subspaces, interaction, count):
    """The same on `(B, F', D')`."""
    x = x0 = cross_by_concatenation(inputs, subspaces)
    for index in range(count):
        x = x * interaction(index, x0) + x
    return merge_by_concatenation(x, subspaces)


def generated(rng, batch, *, fields, width, subspaces, rank):
    """DGP: a matrix for every sample, einsums from right to left, ours. The gate networks are the layer's in every form."""
    # tanh, not ReLU: at a kink two forms that differ in the last digit may have different gradients.
    layer = layers.DynamicGeneratedInteraction(LAYERS, num_subspaces=subspaces, rank=rank, gate_activation="tanh")
    layer.build((None, fields, width))
    crossed = subspaces * fields

    def scale(index, inputs):
        return 1.0 + layer.gates[index](inputs)  # (B, K)

    def materialised(inputs):
        def interaction(index, x0):
            scaled = tensor(layer.kernels_v[index]) * scale(index, inputs)[:, None, :]  # (B, F', K)
            matrices = tf.reshape(tf.reshape(scaled, (-1, rank)) @ tensor(layer.kernels_u[index]), (-1, crossed, crossed))
            return x0 @ matrices  # (B, D', F')

        return _polynomial_by_rows(inputs, subspaces, interaction, LAYERS)

    def einsums(inputs):
        def interaction(index, x0):
            codes = tf.einsum("bfd,fk->bkd", x0, tensor(layer.kernels_v[index])) * scale(index, inputs)[:, :, None]
            return tf.einsum("bkd,kf->bfd", codes, tensor(layer.kernels_u[index]))  # (B, F', D')

        return _polynomial_by_fields(inputs, subspaces, interaction, LAYERS)

    forms = {OURS: layer, "materialised": materialised, "einsums": einsums}
    return Built(
        [normal(rng, batch, fields, width)],
        {n: Form(f, layer.trainable_weights) for n, f in forms.items()},
        dynamic_bytes={"materialised": full_bytes(batch, crossed), **generated_bytes(batch, crossed, rank)},
    )


def weighted(rng, batch, *, fields, width, subspaces, rank):
    """DWP: a matrix for every sample, einsums over rank-one terms, ours. The gate networks are the layer's in every form."""
    layer = layers.DynamicWeightedInteraction(LAYERS, num_subspaces=subspaces, rank=rank, gate_activation="tanh")
    layer.build((None, fields, width))
    crossed = subspaces * fields

    def factors(index, inputs):
        both = tf.reshape(rank**-0.5 + layer.gates[index](inputs), (-1, 2, rank, crossed))
        return both[:, 0], both[:, 1]  # u, v (B, K, F')

    def materialised(inputs):
        def interaction(index, x0):
            u, v = factors(index, inputs)
            return x0 @ (tf.matmul(v, u, transpose_a=True) * tensor(layer.kernels[index]))  # (B, D', F') x (B, F', F')

        return _polynomial_by_rows(inputs, subspaces, interaction, LAYERS)

    def einsums(inputs):
        def interaction(index, x0):
            u, v = factors(index, inputs)
            mapped = tf.einsum("fg,bpfd->bpgd", tensor(layer.kernels[index]), tf.einsum("bpf,bfd->bpfd", v, x0))
            return tf.einsum("bpg,bpgd->bgd", u, mapped)  # (B, F', D')

        return _polynomial_by_fields(inputs, subspaces, interaction, LAYERS)

    forms = {OURS: layer, "materialised": materialised, "einsums": einsums}
    return Built(
        [normal(rng, batch, fields, width)],
        {n: Form(f, layer.trainable_weights) for n, f in forms.items()},
        dynamic_bytes={"materialised": full_bytes(batch, crossed), **weighted_bytes(batch, crossed, rank)},
    )


def full_bytes(batch, crossed):
    """Bytes of one matrix a sample: `B F'^2` numbers."""
    return FLOAT * batch * crossed**2


def generated_bytes(batch, crossed, rank):
    """DGP as the paper counts it, `B K^2 + 2 F' K` numbers, and as it is here, with a diagonal: `B K + 2 F' K`."""
    static = 2 * crossed * rank
    return {"paper": FLOAT * (batch * rank**2 + static), OURS: FLOAT * (batch * rank + static)}


def weighted_bytes(batch, crossed, rank):
    """DWP, `2 B F' K + F'^2` numbers: the factors and the static matrix. Products with X_0 are not in it, in neither form."""
    numbers = FLOAT * (2 * batch * crossed * rank + crossed**2)
    return {"paper": numbers, OURS: numbers}


def cases():
    """Returns the cases of this file."""
    sizes = {"fields": FIELDS, "width": WIDTH}
    out = []
    for h in (1, 4, 16):
        # The gradient of a product a sample is one matrix a sample before it is summed, possibly for two layers at once.
        matrices = 2 * FLOAT * (h * FIELDS) ** 2
        out.append(Case(f"pin_h{h}", polynomial, {**sizes, "subspaces": h}, memory=True, row_bytes=matrices))
    out.append(Case("cin", compressed, {**sizes, "units": (32, 32, 32), "chunk": 13}, jit=True, memory=True))
    for h in (1, 4, 16):
        crossed = h * FIELDS
        matrix = FLOAT * crossed**2
        tenth = round(crossed / 10)
        # Kept for the gradient: the matrix of every layer, for DWP before and after the product with W; and two more on the way back.
        case = Case(f"dgp_{crossed}", generated, {**sizes, "subspaces": h, "rank": tenth}, memory=True, row_bytes=(LAYERS + 2) * matrix)
        out.append(case)
        for rank in dict.fromkeys((2, 4, tenth)):
            name, more = f"dwp_{crossed}_k{rank}", {**sizes, "subspaces": h, "rank": rank}
            out.append(Case(name, weighted, more, memory=True, row_bytes=(2 * LAYERS + 2) * matrix))
    return out
