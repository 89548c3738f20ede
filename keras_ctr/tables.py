"""Trained models whose vocabularies have changed: weights and optimizer state carried over to a model for the new ones.

Rows of embedding tables move by what they stand for, everything else by its path; see docs/growing_vocabularies.md.
"""

import collections
import dataclasses
import re

import keras
import numpy as np

from keras_ctr import backend
from keras_ctr.layers import FeatureEmbedding
from keras_ctr.schema import FIRST_ID, UNKNOWN_ID, Numeric, Schema, SchemaError, nearest

__all__ = ["TableRows", "check_schemas", "transfer"]

_CHUNK = 1 << 17  # rows moved at a time
_NEW = -1  # in a map of rows: a value that the trained model does not have
_GROWS = ("vocabulary_size", "vocabulary", "min_count", "capacity")
_OF_TABLE = ("dtype", "embedding_dim", "embedding_initializer", "quotient_remainder", "hash_buckets")
_HINTS = {
    "mean": "extending the earlier preparation keeps it",
    "std": "extending the earlier preparation keeps it",
    "hash_buckets": "with other buckets every value has another row, so no row can be carried over: keep the buckets or train a new model",
}


@dataclasses.dataclass(frozen=True)
class TableRows:
    """What became of the rows of one table; padding and unknown, which both models have, are not counted.

    Attributes:
        kept: Values of both models: their rows were copied. Of a hashed table, its buckets.
        new: Values of the new model only.
        evicted: Values of the trained model only.
    """

    kept: int
    new: int
    evicted: int


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a table lies in a variable: its first row, how many rows it takes up for how many ids, and m if it is compressed."""

    start: int
    rows: int
    ids: int
    buckets: int | None


@dataclasses.dataclass(frozen=True)
class _TableMove:
    """Where a table's rows come from: row `start + i` of the new variable from row `old_start + source[i]` of the trained one."""

    start: int
    old_start: int
    source: np.ndarray


def transfer(model, old_schema, new_schema, old_vocabularies, new_vocabularies, new_model, *, new_rows="initializer") -> dict:
    """Carries a trained model's weights and optimizer state over to a model for other vocabularies.

    Row r of a table of the new model becomes the trained row of the same value; padding (id 0) and unknown (id 1) are copied; rows of
    values that only the trained model has are left behind. In tables without a vocabulary a row stands for its id: their raw values are
    ids, or are hashed into the same buckets by both models. All other weights, the states of dropout's random numbers included, are
    copied as they are. So rows of data whose values both models know keep exactly the predictions they had, and an evicted value is
    predicted as an unknown one was.

    If both models are compiled and the trained one's optimizer has state, the new optimizer is built and gets it: slots that hold rows
    of a table are mapped like the table, new values start as the optimizer starts them; everything else, the number of steps and the
    learning rate included, is copied. Training then goes on bit for bit where the vocabularies are the same.

    Args:
        model: The trained model.
        old_schema, new_schema: The fitted schemas of both models. They may differ in vocabularies and sizes only.
        old_vocabularies, new_vocabularies: `{table name: Vocabulary}` of the tables that have one.
        new_model: A model built for `new_schema` with the same arguments; it is changed.
        new_rows: What a new value's row starts as: `"initializer"` keeps the new model's fresh row; `"unknown"` copies the trained
            unknown row, so that predictions do not change before the first step of training.

    Returns:
        `{table name: TableRows}`.

    Raises:
        SchemaError: If the schemas differ in more than their vocabularies (in `hash_buckets`, say), or a vocabulary does not fit its
            schema.
        ValueError: If a weight of one model has no equal in the other, naming it, or the optimizers differ.
    """
    if new_rows not in ("initializer", "unknown"):
        raise ValueError(f"new_rows must be 'initializer' or 'unknown', got {new_rows!r}{nearest(new_rows, ('initializer', 'unknown'))}")
    if model is new_model:
        raise ValueError("new_model must be another model than the trained one: build it for the new schema")
    check_schemas(old_schema, new_schema)
    for schema, vocabularies in ((old_schema, old_vocabularies), (new_schema, new_vocabularies)):
        schema.check_vocabularies(vocabularies or ())
    sources = {}
    for name in new_schema.tables:
        old, new = (_values(s, v, name) for s, v in ((old_schema, old_vocabularies), (new_schema, new_vocabularies)))
        sources[name] = _source_rows(old_schema.tables[name], new_schema.tables[name], old, new)
    _check_crosses(new_model, old_schema, new_schema, sources)
    old_fused, new_fused = _fused_variables(model, old_schema, "trained"), _fused_variables(new_model, new_schema, "new")
    pairs = _pairs([(v.path, v) for v in model.variables], [(v.path, v) for v in new_model.variables], "weight")
    unknown = new_rows == "unknown"
    moves = []
    for name, old, new in pairs:
        places = old_fused.get(id(old)), new_fused.get(id(new))
        _check_shapes("weight", name, old, new, None not in places)
        moves.append((old, new, _table_moves(name, *places, {**_own_tables(new_schema, sources), **sources}, unknown)))
    _check_optimizers(model, new_model)
    for old, new, table_moves in moves:
        _move(old, new, table_moves, unknown)
    _transfer_optimizer(model, new_model, [move for move in moves if move[2] is not None])
    return {name: _count(source, old_schema.tables[name].vocabulary_size) for name, source in sources.items()}


def check_schemas(old_schema: Schema, new_schema: Schema):
    """Checks that a model of one schema can go on with another: they may differ in vocabularies, sizes, group and time only.

    Raises:
        SchemaError: Naming the feature and what to do.
    """
    for name in old_schema.feature_names:
        if name not in new_schema:
            hint = nearest(name, new_schema.feature_names)
            raise SchemaError(f"the new schema lacks the feature '{name}', which the model reads{hint}; prepare the data with it")
    for name in new_schema.feature_names:
        if name not in old_schema:
            raise SchemaError(f"the model does not know the feature '{name}' of the new schema: leave it out or train a new model")
    if old_schema.feature_names != new_schema.feature_names:
        raise SchemaError(
            f"the features stand in another order, {list(new_schema.feature_names)} instead of {list(old_schema.feature_names)}, "
            "and the model's weights follow it: put them in the old order"
        )
    if old_schema.label_names != new_schema.label_names:
        raise SchemaError(f"the new schema has the labels {list(new_schema.label_names)}, the model's are {list(old_schema.label_names)}")
    for name in old_schema.feature_names:
        before, after = _facts(old_schema, name), _facts(new_schema, name)
        for key in (*before, *(key for key in after if key not in before)):
            if before.get(key) != after.get(key):
                hint = f"; {_HINTS[key]}" if key in _HINTS else ""
                raise SchemaError(
                    f"feature '{name}': {key} is {after.get(key)!r} in the new schema, the model was trained with {before.get(key)!r}{hint}"
                )


def _facts(schema, name):
    """Returns what a model's weights depend on; features that share a table have its properties, wherever they are written."""
    feature = schema[name]
    facts = {"kind": feature.kind}
    for field in dataclasses.fields(feature):
        if field.name not in ("table", *_GROWS, *_OF_TABLE):
            facts[field.name] = getattr(feature, field.name)
    if not isinstance(feature, Numeric) or feature.is_binned:
        table = schema.table_of(feature)
        facts.update(table=table.name, **{key: getattr(table, key, None) for key in _OF_TABLE})
    return facts


def _values(schema, vocabularies, name):
    """Returns a table's vocabulary, or None if its raw values are ids or hashed."""
    table = schema.tables[name]
    vocabulary = (vocabularies or {}).get(name)
    if vocabulary is None:
        if table.vocabulary is None and table.dtype == "string" and table.hash_buckets is None:
            raise SchemaError(f"table '{name}' holds strings: pass its vocabulary")
        return table.vocabulary
    size = len(vocabulary) + FIRST_ID
    if size != table.vocabulary_size:
        raise SchemaError(f"table '{name}': its vocabulary makes {size} rows, the schema says {table.vocabulary_size}")
    return vocabulary


def _source_rows(old_table, new_table, old, new):
    """Returns, for every id of the new table, the id of the same value in the old one: (rows,) int, `_NEW` where there is none."""
    if (old is None) != (new is None):
        has, lacks = ("new", "old") if old is None else ("old", "new")
        raise SchemaError(f"table '{new_table.name}' has a vocabulary in the {has} schema and raw ids in the {lacks} one")
    rows = new_table.vocabulary_size
    dtype = np.int32 if max(rows, old_table.vocabulary_size) < 2**31 else np.int64
    source = np.arange(rows, dtype=dtype)
    if new is None:
        source[old_table.vocabulary_size :] = _NEW
        return source
    if hasattr(old, "lookup") and hasattr(new, "values"):
        found = old.lookup(new.values)
    else:  # vocabularies that stand in the schema
        ids = {value: i for i, value in enumerate(_as_list(old), FIRST_ID)}
        found = np.array([ids.get(value, UNKNOWN_ID) for value in _as_list(new)], dtype)
    source[FIRST_ID:] = np.where(found >= FIRST_ID, found, _NEW)
    return source


def _as_list(vocabulary):
    return vocabulary.to_list() if hasattr(vocabulary, "to_list") else list(vocabulary)


def _count(source, old_rows):
    kept = int(np.count_nonzero(source[FIRST_ID:] >= FIRST_ID))
    return TableRows(kept=kept, new=len(source) - FIRST_ID - kept, evicted=old_rows - FIRST_ID - kept)


def _own_tables(schema, values):
    """Returns `values` of each sequence's table by the sequence's name: a layer may give a sequence a table of its own, named after it."""
    return {s.name: values[schema.table_of(s).name] for s in schema.sequences}


def _check_crosses(new_model, old_schema, new_schema, sources):
    """Raises `ValueError` where a layer hashes ids that mean another value in the new model."""
    for layer in new_model._flatten_layers():
        for field in sorted({name for cross in getattr(layer, "crosses", ()) for name in cross}):
            source, rows = sources[new_schema.table_of(field).name], old_schema.table_of(field).vocabulary_size
            if len(source) < rows or not np.array_equal(source[:rows], np.arange(rows)):
                raise ValueError(
                    f"layer '{layer.path}' hashes the ids of '{field}', and values have got other ids: prepare without evicting, or train "
                    "a new model"
                )


def _fused_variables(model, schema, which):
    """Returns `{id(variable): {table name: _Place}}` of the fused variables of a model."""
    found = {}
    for layer in model._flatten_layers():
        if not isinstance(layer, FeatureEmbedding):
            continue
        sizes = {name: table.vocabulary_size for name, table in schema.tables.items()}
        sizes = {**_own_tables(schema, sizes), **sizes}
        for name, table in layer.schema.tables.items():
            expected = sizes.get(name)
            if expected != table.vocabulary_size:
                raise SchemaError(
                    f"layer '{layer.path}' of the {which} model has {table.vocabulary_size} rows for the table '{name}', "
                    f"its schema says {expected}: pass the schema that the model was built for"
                )
        if layer.table_dtype:
            raise ValueError(f"layer '{layer.path}' of the {which} model has {layer.table_dtype} tables: take the model from before that")
        if getattr(layer, "kept_rows", None):
            raise ValueError(f"layer '{layer.path}' of the {which} model has lost rows by pruning: take the model from before that")
        for key, plan in layer._widths.items():
            ends = [*sorted(plan["offset"].values()), plan["rows"]]
            places = {}
            for name, start in plan["offset"].items():
                table = layer.schema.tables[name]
                buckets = getattr(table, "quotient_remainder", None)
                is_compressed = buckets is not None and buckets < table.vocabulary_size
                rows = ends[ends.index(start) + 1] - start
                places[name] = _Place(start, rows, table.vocabulary_size, buckets if is_compressed else None)
            found[id(layer._tables[key])] = places
    return found


def _pairs(old, new, what):
    """Returns `[(name, old variable, new variable)]`, given both models' `(name, variable)` in the order of their making.

    Keras numbers what is not named explicitly ("seed_generator_7") through a whole process, so two models of one factory may differ in
    such numbers. Where any name differs, names are compared without numbers, and those that are then equal belong together in order.
    """
    exact = collections.Counter(name for name, _ in old) == collections.Counter(name for name, _ in new)
    groups = collections.defaultdict(list)
    for name, variable in new:
        groups[name if exact else _plain(name)].append(variable)
    pairs = []
    for name, variable in old:
        left = groups.get(name if exact else _plain(name))
        if not left:
            hint = nearest(name, [other for other, _ in new])
            raise ValueError(f"the new model lacks the {what} '{name}' of the trained one{hint}; build it with the same arguments")
        pairs.append((name, variable, left.pop(0)))
    for name, variable in new:
        if any(variable is other for other in groups[name if exact else _plain(name)]):
            raise ValueError(f"the trained model lacks the {what} '{name}' of the new one; build the new model with the same arguments")
    return pairs


def _plain(name):
    return re.sub(r"_\d+(?=/|_|$)", "", name)


def _table_moves(name, old, new, sources, unknown):
    """Returns the `_TableMove`s of a fused variable, None for another one."""
    if (old is None) != (new is None) or (old is not None and set(old) != set(new)):
        raise ValueError(f"weight '{name}' holds other embedding tables in the new model; build it with the same arguments")
    if old is None:
        return None
    return [_TableMove(new[t].start, old[t].start, _stored_source(t, sources[t], old[t], new[t], unknown)) for t in new]


def _stored_source(table, source, old, new, unknown):
    """Returns the source of a table's stored rows: of its ids, or of the two kinds of rows that a compressed table multiplies.

    Row i of a compressed table is the product of the rows i mod m and i div m, so its values can be appended to but not moved.
    """
    if old.buckets is None and new.buckets is None:
        return source
    if old.buckets != new.buckets or not np.array_equal(source[: old.ids], np.arange(old.ids)):
        raise ValueError(
            f"table '{table}' is stored as products of rows (quotient_remainder), so its values can be appended to, not moved or evicted: "
            "prepare without evicting, and with more than quotient_remainder rows from the start"
        )
    if unknown and old.ids < new.ids:
        raise ValueError(
            f"table '{table}' is stored as products of rows (quotient_remainder), so new values have no row that could be a copy of the "
            "unknown one: new_rows='initializer'"
        )
    stored = np.arange(new.rows)
    return np.where(stored < old.rows, stored, _NEW)


def _check_shapes(what, name, old, new, by_rows):
    skip = 1 if by_rows else 0
    if tuple(old.shape[skip:]) != tuple(new.shape[skip:]):
        raise ValueError(
            f"{what} '{name}' has the shape {tuple(old.shape)} in the trained model and {tuple(new.shape)} in the new one; "
            "build the new model with the same arguments (embedding_dim among them)"
        )


def _move(old, new, table_moves, unknown=False):
    """Copies a variable; of a fused one the rows that `table_moves` names, a few at a time, leaving the others as they are."""
    if table_moves is None:
        new.assign(keras.ops.convert_to_numpy(old.value))
        return
    # Where a part of a variable cannot be assigned, one copy of it is made and assigned whole.
    whole = None if backend.can_write_rows() else np.array(keras.ops.convert_to_numpy(new.value))
    for table in table_moves:
        for at in range(0, len(table.source), _CHUNK):
            rows = table.source[at : at + _CHUNK].astype(np.int64)
            rows = np.where(rows == _NEW, UNKNOWN_ID, rows) if unknown else rows
            known = np.flatnonzero(rows != _NEW)
            if not len(known):
                continue
            # Reading a variable as a tensor copies it whole after row-sparse updates; a gather reads the rows alone.
            moved = keras.ops.convert_to_numpy(backend.lookup(old, table.old_start + rows[known]))
            start = table.start + at
            if whole is not None:
                whole[start + known] = moved
                continue
            if len(known) < len(rows):
                block = np.array(keras.ops.convert_to_numpy(backend.lookup(new, np.arange(start, start + len(rows)))))
                block[known] = moved
                moved = block
            backend.write_rows(new, start, moved)
    if whole is not None:
        new.assign(whole)


def _check_optimizers(model, new_model):
    old, new = getattr(model, "optimizer", None), getattr(new_model, "optimizer", None)
    if old is not None and new is not None and old.built and type(old) is not type(new):
        raise ValueError(f"the trained model's optimizer is {type(old).__name__}, the new one's {type(new).__name__}: compile both alike")


def _transfer_optimizer(model, new_model, table_moves):
    """Carries the optimizer's state over, if there is any and the new model is compiled.

    Args:
        model, new_model: The models.
        table_moves: `[(trained fused variable, new one, its _TableMoves)]`.
    """
    old, new = getattr(model, "optimizer", None), getattr(new_model, "optimizer", None)
    if old is None or new is None or not old.built:
        return
    if not new.built:
        new.build(new_model.trainable_variables)
    # Keras' list holds the wrapped optimizers' variables too (MultiOptimizer, LossScaleOptimizer).
    pairs = _pairs([(v.name, v) for v in old.variables], [(v.name, v) for v in new.variables], "optimizer variable")
    moves_of = {id(before): moves for before, _, moves in table_moves}
    owners, new_owners = _Owners(model, [t[0] for t in table_moves]), _Owners(new_model, [t[1] for t in table_moves])
    found = []
    for name, before, after in pairs:
        owner, new_owner = owners.of(before), new_owners.of(after)
        by_rows = owner is not None and new_owner is not None
        _check_shapes("optimizer variable", name, before, after, by_rows)
        found.append((before, after, moves_of[id(owner)] if by_rows else None))
    for before, after, moves in found:
        _move(before, after, moves)


class _Owners:
    """Finds the fused variable whose rows an optimizer variable holds, by name.

    Keras names a slot `<path with "_" for "/">_<slot>`: the owner is the variable with the longest such path ("embedding_table_8_momentum"
    belongs to "embedding/table_8", not to "embedding/table"). Adafactor's factors have the variable's own name.
    """

    def __init__(self, model, fused):
        self._fused = {id(v) for v in fused}
        self._by_path = {v.path.replace("/", "_"): v for v in model.trainable_variables}
        self._by_name = collections.defaultdict(list)
        for variable in model.trainable_variables:
            self._by_name[variable.name].append(variable)

    def of(self, slot):
        """Returns the fused variable, None if the slot holds no rows of one."""
        owners = self._by_name.get(slot.name, [])
        for end in (i for i in range(len(slot.name) - 1, 0, -1) if slot.name[i] == "_"):
            if slot.name[:end] in self._by_path:
                owners = [self._by_path[slot.name[:end]]]
                break
        owners = [v for v in owners if id(v) in self._fused and len(slot.shape) and slot.shape[0] == v.shape[0]]
        if len(owners) > 1:
            raise ValueError(f"optimizer variable '{slot.path}': cannot tell which of {[v.path for v in owners]} it belongs to")
        return owners[0] if owners else None
