"""`FeatureEmbedding` on features of which some have one row, the user's, and some N."""

import itertools

from keras import ops

from keras_ctr.layers import FeatureEmbedding


def splits(operation):
    """Whether `call_embedding` says what an operation does: a `FeatureEmbedding`, and no subclass with a call of its own."""
    return isinstance(operation, FeatureEmbedding) and type(operation).call is FeatureEmbedding.call


def call_embedding(layer, given, repeat):
    """Returns `layer(inputs)`, and in the same structure whether each tensor has one row.

    Each side is gathered by itself, on the layer's own tables: a user's history is looked up once, whatever N is. A tensor that holds
    features of both sides (the fields, the numerics, a target) has N rows.

    Args:
        layer: A built `FeatureEmbedding`.
        given: `{feature: (ids or numbers, whether they have one row)}`; the value of negatives is None.
        repeat: Function that makes N rows of one.
    """
    inputs, once = {n: value for n, (value, _) in given.items()}, {n: side for n, (_, side) in given.items()}
    schema = layer.schema
    rows = {**_rows(layer, inputs, {n for n in inputs if once[n]}), **_rows(layer, inputs, {n for n in inputs if not once[n]})}
    join = _Join(repeat)
    values, sides = {}, {}
    if schema.fields:
        values["fields"], sides["fields"] = join([(rows[f.name], once[f.name]) for f in schema.fields], axis=1)  # (N, F, D)
    if schema.numerics:
        columns = [(ops.cast(inputs[f.name], layer.compute_dtype)[:, None], once[f.name]) for f in schema.numerics]
        values["numeric"], sides["numeric"] = join(columns, axis=1)  # (N, numerics)
    if schema.sequences:
        keys = ("sequences", "masks", "targets")
        values.update({key: {} for key in keys}), sides.update({key: {} for key in keys})
    for group, members in schema.sequence_groups.items():
        side = once[members[0].name]
        events, _ = join([(rows[seq.name], side) for seq in members], axis=2)
        values["sequences"][group] = events * layer._valid(inputs, members)  # (1 or N, T, M*D)
        mask = ops.not_equal(inputs[members[0].name], 0)
        for seq in members[1:]:
            mask = ops.logical_or(mask, ops.not_equal(inputs[seq.name], 0))
        values["masks"][group] = mask
        sides["sequences"][group] = sides["masks"][group] = side
        if any(seq.target for seq in members):
            targets = [
                (rows[seq.target][:, 0], once[seq.target]) if seq.target else (ops.zeros_like(rows[seq.name][:, 0]), side)
                for seq in members
            ]
            values["targets"][group], sides["targets"][group] = join(targets, axis=1)  # (N, M*D)
    if schema.sequences and not values["targets"]:
        del values["targets"], sides["targets"]
    if layer._negative_groups:  # there are none in serving: zeros and False, group by group
        values.update(layer._negatives({n: value for n, value in inputs.items() if n in schema}, None))
        own = {group: once[members[0].name] for group, members in layer._negative_groups.items()}
        sides.update(negatives=own, negative_masks=own)
    return values, sides


def _rows(layer, inputs, names):
    """Returns `{feature: (rows, 1 or T, D)}` of the named fields and sequences, by one gather a fused table."""
    rows = {}
    for key, plan in layer._widths.items():
        part = {**plan, **{kind: [n for n in plan[kind] if n in names] for kind in ("fields", "sequences")}}
        if not part["fields"] and not part["sequences"]:
            continue
        fields, sequences = layer._gather({n: inputs[n] for n in (*part["fields"], *part["sequences"])}, key, part)
        for index, name in enumerate(part["fields"]):
            rows[name] = fields[:, index : index + 1]
        rows.update({name: sequences[name] for name in part["sequences"]})
    for name, value in rows.items():
        kernel = layer._projections.get(layer.schema.table_of(name).name)
        if kernel is not None:
            rows[name] = ops.matmul(value, ops.cast(kernel, layer.compute_dtype))  # (rows, 1 or T, D)
    return rows


class _Join:
    """Concatenates tensors of both sides; neighbours of one row are joined first and repeated together."""

    def __init__(self, repeat):
        self._repeat = repeat

    def __call__(self, parts, axis):
        """Returns `(tensor, whether it has one row)` of `[(tensor, whether it has one row)]`."""
        once = all(side for _, side in parts)
        blocks = []
        for side, run in itertools.groupby(parts, key=lambda part: part[1]):
            tensors = [tensor for tensor, _ in run]
            block = tensors[0] if len(tensors) == 1 else ops.concatenate(tensors, axis=axis)
            blocks.append(self._repeat(block) if side and not once else block)
        return (blocks[0] if len(blocks) == 1 else ops.concatenate(blocks, axis=axis)), once
