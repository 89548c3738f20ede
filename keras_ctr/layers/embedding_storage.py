"""How embedding tables lie in variables: which rows are whose, and what they hold at the start."""

import keras
import numpy as np

from keras_ctr import backend
from keras_ctr.schema import PADDING_ID, SchemaError

_CHUNK = 1 << 18
# Most rows of one variable: TensorFlow writes the shape of a gathered variable in int32.
MAX_ROWS = 2**31 - 1
# Initializers whose values do not depend on the shape: rows drawn in parts are as good as rows drawn at once.
_ROW_BY_ROW = ("Zeros", "Ones", "Constant", "RandomNormal", "RandomUniform", "TruncatedNormal")
_QUOTIENT_INITIALIZER = {"class_name": "RandomNormal", "config": {"mean": 1.0, "stddev": 0.1}}
# Types of smaller tables: bytes of a number, and of what a row has beside its numbers, the float32 scale of int8.
SMALL_DTYPES = {"int8": (1, 4), "float16": (2, 0)}


def small_row_bytes(width, dtype):
    """Returns the bytes of a row in a smaller type, an int8 row with its scale."""
    number, beside = SMALL_DTYPES[dtype]
    return number * width + beside


def small_dtype(dtype, width):
    """Returns the smaller type itself, or None if there is none or float32 rows of this width would not get smaller by it."""
    return dtype if dtype is not None and small_row_bytes(width, dtype) < 4 * width else None


def stored_rows(table):
    """Returns `(rows, quotient rows)` that a schema's table takes up: V and 0, or m and ceil(V / m) if it is compressed."""
    buckets = table.quotient_remainder
    if buckets is None or buckets >= table.vocabulary_size:
        return table.vocabulary_size, 0
    return buckets, -(-table.vocabulary_size // buckets)


def plan_storage(schema, embedding_dim):
    """Lays the tables out by width, and the features in the order in which they are gathered.

    Tables go into one variable a width, and into a further one where it would exceed `MAX_ROWS` rows.

    Returns:
        `{key: plan}`, the key being the width as text, with `_part1`, ... for further variables; TensorFlow refuses to save a model with
        other keys in its dicts. A plan is a dict: `tables` (of the schema), `rows` of the fused variable, `width`, `suffix` of the
        variable's name, `offset` and `quotient_offset` {table: first row}, and the names of the `fields` and `sequences` that read it.

    Raises:
        SchemaError: If one table alone exceeds `MAX_ROWS` rows.
    """
    plans, last = {}, {}
    for table in schema.tables.values():
        width, (own, quotients) = table.embedding_dim or embedding_dim, stored_rows(table)
        if own + quotients > MAX_ROWS:
            advice = "give it hash_buckets or quotient_remainder"
            raise SchemaError(
                f"table '{table.name}' has {own + quotients:,} rows, more than one variable can hold ({MAX_ROWS:,}); {advice}"
            )
        plan = last.get(width)
        if plan is None or plan["rows"] + own + quotients > MAX_ROWS:
            part = "" if plan is None else f"_part{sum(p['width'] == width for p in plans.values())}"
            suffix = part if width == embedding_dim else f"_{width}{part}"
            plan = {"tables": [], "rows": 0, "width": width, "suffix": suffix, "offset": {}, "quotient_offset": {}}
            plans[f"{width}{part}"] = last[width] = plan
        plan["tables"].append(table)
        plan["offset"][table.name] = plan["rows"]
        if quotients:
            plan["quotient_offset"][table.name] = plan["rows"] + own
        plan["rows"] += own + quotients
    for plan in plans.values():
        names = {f for t in plan["tables"] for f in t.features}
        plan["fields"] = [f.name for f in schema.fields if f.name in names]
        plan["sequences"] = [f.name for f in schema.sequences if f.name in names]
    return plans


def initial_blocks(plan, default):
    """Yields `(rows, width)` tensors that make up a fused variable from its first row to its last, each at most 2^18 rows if possible.

    Every table has its own initializer, or the default; padding rows are zero; quotient rows (factors, see `FeatureEmbedding`) scatter
    around 1.
    """
    for table in plan["tables"]:
        own, quotients = stored_rows(table)
        given = table.embedding_initializer
        initializer = default if given is None else keras.initializers.get(given)
        # The first remainder row is not padding's alone.
        padding = 0 if quotients else PADDING_ID + 1
        yield keras.ops.zeros((padding, plan["width"]))
        yield from _drawn(initializer, own, plan["width"], skip=padding)
        yield from _drawn(keras.initializers.get(_QUOTIENT_INITIALIZER), quotients, plan["width"])


def _drawn(initializer, rows, width, skip=0):
    """Yields what an initializer draws for `(rows, width)`, without the first `skip` rows."""
    config = initializer.get_config() if isinstance(initializer, keras.initializers.Initializer) else {}
    if type(initializer).__name__ not in _ROW_BY_ROW or rows <= _CHUNK:
        if rows > skip:
            own = initializer.clone() if config or hasattr(initializer, "clone") else initializer
            yield own((rows, width))[skip:]
        return
    for part, start in enumerate(range(skip, rows, _CHUNK)):
        if isinstance(config.get("seed"), int):  # the same seed in every part would repeat the rows of the first
            own = type(initializer)(**{**config, "seed": config["seed"] + part})
        else:
            own = initializer.clone()
        yield own((min(_CHUNK, rows - start), width))


class FusedInitializer(keras.initializers.Initializer):
    """Initial value of a fused table in one piece."""

    def __init__(self, plan, default):
        self.plan, self.default = plan, default

    def __call__(self, shape, dtype=None):
        blocks = [keras.ops.cast(block, dtype or keras.config.floatx()) for block in initial_blocks(self.plan, self.default)]
        return keras.ops.concatenate(blocks, axis=0)


def add_table(layer, name, plan, default, trainable=True):
    """Adds a fused table to a layer: filled part by part where the backend can, so that it is never in memory twice."""
    in_parts = backend.can_write_rows()
    table = layer.add_weight(
        name=name,
        shape=(plan["rows"], plan["width"]),
        initializer="zeros" if in_parts else FusedInitializer(plan, default),
        trainable=trainable,
        autocast=False,
    )
    if in_parts:
        start = 0
        for block in initial_blocks(plan, default):
            backend.write_rows(table, start, block)
            start += block.shape[0]
    table.row_sparse = True
    return table


def table_values(plan, table, read):
    """Returns one table of a plan as a NumPy array `(vocabulary_size, width)`; `read(start, stop)` reads rows of the variable."""
    start = plan["offset"][table.name]
    own, quotients = stored_rows(table)
    values = read(start, start + own)
    if not quotients:
        return values
    ids = np.arange(table.vocabulary_size)
    return values[ids % own] * read(start + own, start + own + quotients)[ids // own]
