"""From the ids of a row to the tensors that architectures work on: one lookup for all features of a model."""

import dataclasses
import functools
import itertools

import keras
import numpy as np
from keras import ops

from keras_ctr import backend
from keras_ctr.layers.arguments import check_choice
from keras_ctr.layers.embedding_storage import SMALL_DTYPES, add_table, plan_storage, small_dtype, table_values
from keras_ctr.schema import PADDING_ID, Schema, nearest, negatives_of


@keras.saving.register_keras_serializable(package="keras_ctr")
class FeatureEmbedding(keras.Layer):
    """Looks up every feature of a schema: map `{feature: ids or numbers} -> {"fields": (B, F, D), "numeric": (B, N), ...}`.

    Tables of equal width lie one below the other in ONE variable (a further one past 2^31 rows), and all features of a row are read by
    one gather: row `offset[table] + id`. Its gradient is sparse on TensorFlow (`docs/notation.md`), and `rows` gives each table back by
    name. A table whose schema sets `embedding_dim` d != D is stored with width d and mapped to D by a learned matrix `(d, D)` without
    bias.

    A table whose schema sets `quotient_remainder` m < V is stored as m remainder rows R and ceil(V / m) quotient rows Q, and id i reads
    `R[i mod m] * Q[i div m]` (Shi et al., KDD 2020, arXiv:1909.02107, the multiplicative form): distinct ids stay distinct. Q starts
    around 1 (N(1, 0.1^2)), so that R's initializer is the table's (the paper leaves the start open).

    Args:
        schema: The fitted `Schema` (or its dict form).
        embedding_dim: D, the width of a token.
        initializer: Keras initializer of the rows of tables whose schema sets none. Padding rows (id 0) start at zero and are never read
            through: a padded step yields exact zeros whatever the row holds.
        embedding_l2: Weight of `sum(rows^2) / B` over the rows gathered in a step, added to the loss: an L2 penalty that costs
            O(batch), not O(vocabulary). A row counts as often as the batch holds it.
        negatives: Names of sequences for which the inputs may hold sampled negative events under `<name>_negatives`; of a group, all or
            none.
        kept_rows: `{width: rows}` of fused tables of which only that many rows are stored, found through an index of all rows
            (`keras_ctr.pruning.prune_zero_rows` makes such layers); these tables are not trained.
        table_dtype: `"int8"` or `"float16"`: tables are stored in this type, int8 with one float32 scale a row, as far as that makes them
            smaller (`keras_ctr.serving.with_small_tables` makes such layers); they are not trained, and `training=True` is an error.

    Call arguments:
        inputs: Dict with every feature of the schema: fields `(B,)` int, numerics `(B,)` float, sequences `(B, T)` int, padded with 0;
            negatives `(B, T)` int like their sequence, or None.
        shared: Names of features that have one row in the inputs, the same for all B rows of the others; of a group of sequences, all or
            none, its negatives with it. They are looked up once, each side by a gather of its own. Outputs of such features only have
            one row (`shared_outputs`), all others B; no penalty is added.

    Returns:
        Dict with the keys that the schema gives rise to:
        `"fields"` `(B, F, D)`, one token a field in schema order;
        `"numeric"` `(B, N)` float, in schema order;
        `"sequences"` `{group: (B, T, M*D)}`, the attributes of an event side by side, zeros at padded steps;
        `"masks"` `{group: (B, T)}` bool, True where any attribute of the step is not padding;
        `"targets"` `{group: (B, M*D)}` for groups of which at least one sequence has a target: the target's rows in the sequences'
        order, zeros for sequences without one;
        `"negatives"` `{group: (B, T, M*D)}` and `"negative_masks"` `{group: (B, T)}` bool for groups with `negatives`: as for the
        sequences, zeros and False where the inputs hold None (nothing is looked up then).

    Raises:
        SchemaError: If the schema is not fitted, or a single table has more than 2^31 - 1 rows.
        ValueError: On a non-positive `embedding_dim`, a negative `embedding_l2`, an unknown `table_dtype`, or `negatives` or `shared` that
            are not whole groups of sequences.
    """

    def __init__(
        self, schema, embedding_dim, *, initializer=None, embedding_l2=0.0, negatives=(), kept_rows=None, table_dtype=None, **kwargs
    ):
        super().__init__(**kwargs)
        self.schema = schema if isinstance(schema, Schema) else Schema.from_dict(schema)
        self.schema.check_fitted()
        if not isinstance(embedding_dim, int) or embedding_dim < 1:
            raise ValueError(f"FeatureEmbedding '{self.name}': embedding_dim must be a positive int, got {embedding_dim!r}")
        if embedding_l2 < 0:
            raise ValueError(f"FeatureEmbedding '{self.name}': embedding_l2 must not be negative, got {embedding_l2!r}")
        self.embedding_dim = embedding_dim
        self.embedding_l2 = embedding_l2
        self.initializer = keras.initializers.get(initializer or keras.initializers.RandomNormal(stddev=0.01))
        self.negatives = tuple(negatives)
        self._negative_groups = self._check_negatives()
        self.supports_jit = backend.lookup_supports_jit()
        self.kept_rows = dict(kept_rows or {})
        if table_dtype is not None:
            check_choice(self, "table_dtype", table_dtype, tuple(SMALL_DTYPES))
        self.table_dtype = table_dtype
        self._widths = plan_storage(self.schema, embedding_dim)
        for key in self.kept_rows:
            if key not in self._widths:
                raise ValueError(f"FeatureEmbedding '{self.name}': kept_rows names the width '{key}'; widths: {', '.join(self._widths)}")

    def _check_negatives(self):
        """Returns `{group: members}` of the groups with negatives."""
        names = [s.name for s in self.schema.sequences]
        for name in self.negatives:
            if name not in names:
                raise ValueError(f"FeatureEmbedding '{self.name}': negatives names '{name}', which is no sequence{nearest(name, names)}")
        groups = {g: m for g, m in self.schema.sequence_groups.items() if any(s.name in self.negatives for s in m)}
        for group, members in groups.items():
            missing = [s.name for s in members if s.name not in self.negatives]
            if missing:
                raise ValueError(f"FeatureEmbedding '{self.name}': negatives lacks {', '.join(missing)} of the group '{group}'")
        return groups

    def build(self, inputs_shape=None):
        self._tables, self._projections, self._row_index, self._scales = {}, {}, {}, {}
        for key, plan in self._widths.items():
            width = plan["width"]
            name = f"table{plan['suffix']}"
            small = small_dtype(self.table_dtype, width)
            if key in self.kept_rows:
                self._row_index[key] = self.add_weight(
                    name=f"row_index_{key}", shape=(plan["rows"],), dtype="int32", initializer="zeros", trainable=False, autocast=False
                )
                plan = {**plan, "rows": self.kept_rows[key]}
            if small or key in self.kept_rows:
                self._tables[key] = self.add_weight(
                    name=name, shape=(plan["rows"], width), dtype=small, initializer="zeros", trainable=False, autocast=False
                )
            else:
                self._tables[key] = add_table(self, name, plan, self.initializer)
            if small == "int8":
                self._scales[key] = self.add_weight(
                    name=f"{name}_scales", shape=(plan["rows"],), dtype="float32", initializer="zeros", trainable=False, autocast=False
                )
            if width != self.embedding_dim:
                for table in plan["tables"]:
                    shape = (width, self.embedding_dim)
                    self._projections[table.name] = self.add_weight(
                        name=f"projection_{table.name}", shape=shape, initializer="glorot_uniform"
                    )
        self.built = True

    def rows(self, table: str):
        """Returns the weights of one table as a NumPy array `(vocabulary_size, d)`, row i for id i.

        Raises:
            KeyError: If the schema has no such table.
        """
        for key, plan in self._widths.items():
            if table in plan["offset"]:
                return table_values(plan, self.schema.tables[table], lambda start, stop, key=key: self._read(key, start, stop))
        raise KeyError(f"no table '{table}' in the schema; tables: {', '.join(self.schema.tables)}")

    def _read(self, key, start, stop):
        """Returns rows of a fused table as a NumPy array, through the row index if there is one."""
        ids = self._row_index[key].value[start:stop] if key in self._row_index else np.arange(start, stop, dtype="int32")
        return ops.convert_to_numpy(self._stored(key, ids))

    def _stored(self, key, ids):
        """Returns rows of a fused table in the type of its variable; those of a smaller type in float32, int8 times their scales."""
        rows = backend.lookup(self._tables[key], ids)
        if small_dtype(self.table_dtype, self._widths[key]["width"]) is None:
            return rows
        rows = ops.cast(rows, "float32")
        return rows * ops.expand_dims(backend.lookup(self._scales[key], ids), -1) if key in self._scales else rows

    def _gather(self, inputs, key, plan, penalised=True):
        """Returns the rows of one width by a single gather: `(fields (B, F_w, d) or None, {sequence: (B, T, d)})`."""
        schema = self.schema
        columns, quotients, sizes, offsets = [], [], [], []
        given = {negatives_of(name): name for name in plan["sequences"] if inputs.get(negatives_of(name)) is not None}
        sequence_names = (*plan["sequences"], *given)
        for name in (*plan["fields"], *sequence_names):
            ids = ops.cast(inputs[name], "int32")
            ids = ids if len(ids.shape) == 2 else ops.expand_dims(ids, -1)  # (B, 1) or (B, T)
            table = schema.table_of(given.get(name, name))
            if table.name in plan["quotient_offset"]:
                buckets = table.quotient_remainder
                quotients.append((name, ids // buckets + plan["quotient_offset"][table.name]))
                ids = ids % buckets
            columns.append(ids)
            sizes.append(1 if name in plan["fields"] else schema[given.get(name, name)].max_length)
            offsets.append(plan["offset"][table.name])
        columns = [ops.concatenate(columns, axis=1) + np.repeat(offsets, sizes).astype("int32")]  # (B, F_w + sum of T)
        ids = ops.concatenate([*columns, *(q for _, q in quotients)], axis=1) if quotients else columns[0]
        if key in self._row_index:
            ids = backend.lookup(self._row_index[key], ids)
        rows = ops.cast(self._stored(key, ids), self.compute_dtype)
        if self.embedding_l2 and penalised:
            squares = ops.sum(ops.square(ops.cast(rows, "float32")))
            self.add_loss(self.embedding_l2 * squares / ops.cast(ops.shape(rows)[0], "float32"))
        # One split instead of slices: the gradient of each slice is a zero-padded copy of the whole block.
        count = len(plan["fields"])
        blocks = [count, *sizes[count:], *(q.shape[1] for _, q in quotients)]
        blocks = [size for size in blocks if size]
        parts = ops.split(rows, [int(end) for end in np.cumsum(blocks)[:-1]], axis=1) if len(blocks) > 1 else [rows]
        fields = parts.pop(0) if count else None
        sequences = dict(zip(sequence_names, parts, strict=False))
        factors = {name: part for (name, _), part in zip(quotients, parts[len(sequences) :], strict=True)}
        if any(name in factors for name in plan["fields"]):
            fields = [
                fields[:, i : i + 1] * factors[name] if name in factors else fields[:, i : i + 1] for i, name in enumerate(plan["fields"])
            ]
            fields = ops.concatenate(fields, axis=1)
        return fields, {name: rows * factors[name] if name in factors else rows for name, rows in sequences.items()}

    def _project(self, rows, name):
        name = {negatives_of(n): n for n in self.negatives}.get(name, name)
        kernel = self._projections.get(self.schema.table_of(name).name)
        return rows if kernel is None else ops.matmul(rows, kernel)

    def call(self, inputs, shared=(), training=None):
        if training and self.table_dtype:
            kind = f"has {self.table_dtype} tables, which are for serving"
            raise ValueError(f"FeatureEmbedding '{self.name}' {kind}: train the model that this one was made from")
        schema, out, pieces = self.schema, {}, {}
        self._check_shared(shared)
        plans = [(key, part) for key, plan in self._widths.items() for part in _by_side(plan, shared)]
        blocks = [self._gather(inputs, key, plan, penalised=not shared) for key, plan in plans]
        if schema.fields and [key for key, _ in plans] == [str(self.embedding_dim)]:
            out["fields"] = blocks[0][0]  # (B, F, D)
        for (_, plan), (fields, sequences) in zip(plans, blocks, strict=True):
            pieces.update(sequences)
            pieces.update({name: (fields, i) for i, name in enumerate(plan["fields"])})
        others = [name for name in schema.feature_names if name not in shared] if shared else []
        count = ops.shape(inputs[others[0]])[0] if others else None

        def rows_of(name):
            piece = pieces[name]
            rows = piece[0][:, piece[1] : piece[1] + 1] if isinstance(piece, tuple) else piece
            return self._project(rows, name)  # (B, 1, D) or (B, T, D)

        def join(names, tensors, axis=-1):
            return _joined(tensors, [name in shared for name in names], count, axis)

        if schema.fields and "fields" not in out:
            names = [f.name for f in schema.fields]
            out["fields"] = join(names, [rows_of(name) for name in names], axis=1)  # (B, F, D)
        if schema.numerics:
            names = [f.name for f in schema.numerics]
            out["numeric"] = join(names, [ops.expand_dims(ops.cast(inputs[name], self.compute_dtype), 1) for name in names])  # (B, N)
        if schema.sequences:
            out.update(self._sequences(inputs, rows_of, join))
        if self._negative_groups:
            out.update(self._negatives(inputs, rows_of))
        return out

    def _check_shared(self, shared):
        for name in shared:
            if name not in self.schema:
                near = nearest(name, self.schema.feature_names)
                raise ValueError(f"FeatureEmbedding '{self.name}': shared names '{name}', which is no feature{near}")
        for group, members in self.schema.sequence_groups.items() if shared else ():
            missing = [s.name for s in members if s.name not in shared]
            if missing and len(missing) < len(members):
                raise ValueError(f"FeatureEmbedding '{self.name}': shared lacks {', '.join(missing)} of the group '{group}'")

    def shared_outputs(self, shared):
        """Returns, in the structure of the outputs, which have one row when the features `shared` have: those of no other feature."""
        self._check_shared(shared)
        schema, out = self.schema, {}
        for key, features in (("fields", schema.fields), ("numeric", schema.numerics)):
            if features:
                out[key] = all(f.name in shared for f in features)
        groups = {group: members[0].name in shared for group, members in schema.sequence_groups.items()}
        if groups:
            out["sequences"], out["masks"] = groups, dict(groups)
        targets = {g: all((s.target or s.name) in shared for s in m) for g, m in schema.sequence_groups.items() if any(s.target for s in m)}
        if targets:
            out["targets"] = targets
        if self._negative_groups:
            out["negatives"], out["negative_masks"] = ({g: groups[g] for g in self._negative_groups} for _ in range(2))
        return out

    def _sequences(self, inputs, rows_of, join):
        sequences, masks, targets = {}, {}, {}
        for group, members in self.schema.sequence_groups.items():
            mask = ops.not_equal(inputs[members[0].name], PADDING_ID)
            for other in members[1:]:
                mask = ops.logical_or(mask, ops.not_equal(inputs[other.name], PADDING_ID))
            # A step may lack some attributes: their ids are 0 and must read as zeros too, whatever the padding row has become.
            events = [rows_of(seq.name) * self._valid(inputs[seq.name]) for seq in members]
            sequences[group] = join([seq.name for seq in members], events)  # (B, T, M*D)
            masks[group] = mask  # (B, T)
            if any(seq.target for seq in members):
                rows = [rows_of(seq.target)[:, 0] if seq.target else ops.zeros_like(rows_of(seq.name)[:, 0]) for seq in members]
                targets[group] = join([seq.target or seq.name for seq in members], rows)  # (B, M*D)
        out = {"sequences": sequences, "masks": masks}
        return {**out, "targets": targets} if targets else out

    def _negatives(self, inputs, rows_of):
        events, masks = {}, {}
        for group, members in self._negative_groups.items():
            names = [negatives_of(s.name) for s in members]
            if all(inputs.get(name) is None for name in names):
                steps = inputs[members[0].name]  # (B, T)
                masks[group] = ops.zeros_like(steps, dtype="bool")
                empty = ops.expand_dims(ops.zeros_like(steps, dtype=self.compute_dtype), -1)
                events[group] = ops.repeat(empty, len(members) * self.embedding_dim, axis=-1)
                continue
            lacks = [name for name in names if inputs.get(name) is None]
            if lacks:
                raise ValueError(f"FeatureEmbedding '{self.name}': the inputs lack {', '.join(lacks)} beside the group's other negatives")
            rows = [rows_of(name) * self._valid(inputs[name]) for name in names]
            events[group] = rows[0] if len(rows) == 1 else ops.concatenate(rows, axis=-1)  # (B, T, M*D)
            masks[group] = functools.reduce(ops.logical_or, [ops.not_equal(inputs[name], PADDING_ID) for name in names])  # (B, T)
        return {"negatives": events, "negative_masks": masks}

    def _valid(self, ids):
        """Returns 1.0 where an id is not padding: `(B, T) -> (B, T, 1)`."""
        return ops.expand_dims(ops.cast(ops.not_equal(ids, PADDING_ID), self.compute_dtype), -1)

    def compute_output_shape(self, inputs_shape):
        schema, dim = self.schema, self.embedding_dim
        batch = tuple(inputs_shape[schema.feature_names[0]])[0]
        out = {}
        if schema.fields:
            out["fields"] = (batch, len(schema.fields), dim)
        if schema.numerics:
            out["numeric"] = (batch, len(schema.numerics))
        if schema.sequences:
            groups = schema.sequence_groups
            out["sequences"] = {g: (batch, m[0].max_length, len(m) * dim) for g, m in groups.items()}
            out["masks"] = {g: (batch, m[0].max_length) for g, m in groups.items()}
            targets = {g: (batch, len(m) * dim) for g, m in groups.items() if any(s.target for s in m)}
            if targets:
                out["targets"] = targets
        if self._negative_groups:
            out["negatives"] = {g: out["sequences"][g] for g in self._negative_groups}
            out["negative_masks"] = {g: out["masks"][g] for g in self._negative_groups}
        return out

    def compute_output_spec(self, inputs, shared=(), training=None):
        batch = next((inputs[name].shape[0] for name in self.schema.feature_names if name not in shared), 1)

        def spec(shape, dtype, one):
            return keras.KerasTensor((1 if one else batch, *shape[1:]), dtype=dtype)

        shapes, sides = self.compute_output_shape({name: tensor.shape for name, tensor in inputs.items()}), self.shared_outputs(shared)
        out = {}
        for key, value in shapes.items():
            dtype = "bool" if key.endswith("masks") else self.compute_dtype
            if isinstance(value, dict):
                out[key] = {group: spec(shape, dtype, sides[key][group]) for group, shape in value.items()}
            else:
                out[key] = spec(value, dtype, sides[key])
        return out

    def get_config(self):
        return {
            **super().get_config(),
            "schema": self.schema.replace(
                features=[without_vocabulary(feature) for feature in self.schema.features],
            ).to_dict(),
            "embedding_dim": self.embedding_dim,
            "initializer": keras.initializers.serialize(self.initializer),
            "embedding_l2": self.embedding_l2,
            "negatives": list(self.negatives),
            "kept_rows": self.kept_rows,
            "table_dtype": self.table_dtype,
        }


def _by_side(plan, shared):
    """Returns the plan of a width as one for the features that are `shared` and one for the others, without those that read nothing."""
    if not shared:
        return [plan]
    kinds = ("fields", "sequences")
    parts = [{**plan, **{kind: [n for n in plan[kind] if (n in shared) == side] for kind in kinds}} for side in (True, False)]
    return [part for part in parts if any(part[kind] for kind in kinds)]


def _joined(tensors, shared, count, axis):
    """Returns tensors side by side. If only some are `shared`, of one row, these are given `count` rows, neighbours together."""
    blocks = []
    for one, run in itertools.groupby(zip(shared, tensors, strict=True), key=lambda pair: pair[0]):
        run = [tensor for _, tensor in run]
        blocks.append((one, run[0] if len(run) == 1 else ops.concatenate(run, axis=axis)))
    if len(blocks) == 1:
        return blocks[0][1]
    return ops.concatenate([ops.broadcast_to(x, (count, *x.shape[1:])) if one else x for one, x in blocks], axis=axis)


def without_vocabulary(feature):
    """The layer needs sizes only; a vocabulary of millions of strings has no place in a model file."""
    return dataclasses.replace(feature, vocabulary=None) if getattr(feature, "vocabulary", None) is not None else feature
