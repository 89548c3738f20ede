"""Fitting a schema on the training split: vocabularies of its tables, mean and standard deviation of its numbers, in one pass."""

import dataclasses
import warnings

import numpy as np

from keras_ctr.data.arrow import pc
from keras_ctr.data.columns import MISSING_INT, EncodingError, as_floats, as_lists, as_values, check_columns, get_column
from keras_ctr.data.transforms import RunningStatistics, logarithm
from keras_ctr.data.vocabulary import Vocabulary, VocabularyBuilder
from keras_ctr.data.vocabulary_age import Earlier, check_evict_after, grow
from keras_ctr.schema import Schema, SchemaError, Sequence

__all__ = ["SchemaFitter", "fit_schema"]


class SchemaFitter:
    """Fits batch by batch what a schema leaves open.

    A table gets a vocabulary unless it has one (in the schema or in `vocabularies`), is binned or hashed (`hash_buckets`), or holds ids
    already (int64 with `vocabulary_size` given). It is counted over all features that read it, sequences included; where an integer
    sequence reads it, -1 is no value. A numeric feature gets `mean` and `std` unless both are given.

    Args:
        schema: The schema to fit.
        min_count, capacity: Limits of tables that do not give their own: see `VocabularyBuilder`.
        vocabularies: `{table name: Vocabulary}` that are taken as they are.
        extend: `Earlier` whose schema this is: its vocabularies grow by what is seen, except those that stand in the schema itself.
        evict_after: Preparations in a row without a value after which it loses its id (`grow`); None keeps all.

    Attributes:
        num_rows: Rows seen.
        growth: `{table name: TableGrowth}` of the tables that grew; known after `finish`.

    Raises:
        SchemaError: If a string table has a size and neither a vocabulary nor the freedom to get one, or a hashed one a vocabulary.
        ValueError: If `evict_after` is not positive, or there is nothing to extend.
    """

    def __init__(
        self,
        schema: Schema,
        min_count: int = 1,
        capacity: int | None = None,
        *,
        vocabularies: dict | None = None,
        extend: Earlier | None = None,
        evict_after: int | None = None,
    ):
        check_evict_after(evict_after, extend is not None)
        schema.check_vocabularies(vocabularies or ())
        self._earlier, self._evict_after, self.growth = extend, evict_after, {}
        self._growing = set()
        if extend is not None:
            self._growing = {name for name in extend.vocabularies if schema.tables[name].vocabulary is None}
            schema = _without_sizes(schema, self._growing)
        self.schema = schema
        self.num_rows = 0
        self._vocabularies, self._builders = {}, {}
        for name, table in schema.tables.items():
            given = (vocabularies or {}).get(name)
            if given is not None or table.vocabulary is not None:
                self._vocabularies[name] = given if given is not None else Vocabulary(table.vocabulary, table.dtype)
            elif table.dtype != "float32" and table.vocabulary_size is None:
                limits = {"min_count": table.min_count or min_count, "capacity": table.capacity or capacity}
                self._builders[name] = VocabularyBuilder(table.dtype, **limits)
            elif table.dtype == "string" and table.hash_buckets is None:
                raise SchemaError(
                    f"table '{name}' (feature '{table.features[0]}') holds strings and gives vocabulary_size={table.vocabulary_size} "
                    "without a vocabulary: leave vocabulary_size out to have one built, or pass the vocabularies that belong to the schema"
                )
        self._padded = {schema.table_of(feature).name for feature in schema.sequences if schema.raw_dtype(feature.name) == "int64"}
        self._statistics = {f.name: RunningStatistics() for f in schema.numerics if f.needs_statistics and None in (f.mean, f.std)}
        self._columns = [name for table in self._builders for name in schema.tables[table].features] + list(self._statistics)

    @property
    def is_needed(self) -> bool:
        """Whether the schema leaves anything open."""
        return bool(self._columns)

    @property
    def columns(self) -> tuple:
        """The raw columns that `update` reads."""
        return tuple(self._columns)

    def update(self, batch):
        """Takes in a record batch or table.

        Raises:
            EncodingError: On a missing column or one of a wrong type.
        """
        check_columns(self._columns, batch.schema.names, "the data")
        for table, builder in self._builders.items():
            for name in self.schema.tables[table].features:
                column = get_column(batch, name)
                if isinstance(self.schema[name], Sequence):
                    values, _, lengths = as_lists(column, name)
                    column = values if lengths.sum() == len(values) else column.flatten()
                values = as_values(column, name, builder.dtype, self.num_rows)
                builder.update(values.filter(pc.not_equal(values, MISSING_INT)) if table in self._padded else values)
        for name, statistics in self._statistics.items():
            values = as_floats(get_column(batch, name), name)
            values = np.where(np.isinf(values), np.float32(np.nan), values)
            statistics.update(logarithm(values) if self.schema[name].transform.startswith("log1p") else values)
        self.num_rows += batch.num_rows

    def finish(self) -> tuple[Schema, dict]:
        """Returns the fitted schema and `{table name: Vocabulary}`.

        Raises:
            EncodingError: If no row was seen.
        """
        if self.is_needed and self.num_rows == 0:
            raise EncodingError("the training data has no rows to fit the schema on")
        for name, builder in self._builders.items():
            if name in self._growing:
                earlier = self._earlier
                self.growth[name] = grow(earlier.vocabularies[name], earlier.unseen.get(name), builder, self._evict_after)
                self._vocabularies[name] = self.growth[name].vocabulary
            else:
                self._vocabularies[name] = builder.build()
            if builder.num_line_breaks:
                warnings.warn(
                    f"table '{name}': {builder.num_line_breaks} values with a line break cannot be in a vocabulary and count as unknown",
                    stacklevel=2,
                )
        features = []
        for feature in self.schema.features:
            if feature.name in self._statistics:
                statistics = self._statistics[feature.name]
                feature = dataclasses.replace(feature, mean=statistics.mean, std=statistics.std)
            elif feature in self.schema.categoricals or feature in self.schema.sequences:
                table = self.schema.table_of(feature)
                if table.vocabulary_size is None:
                    feature = dataclasses.replace(feature, vocabulary_size=self._vocabularies[table.name].size)
            features.append(feature)
        return self.schema.replace(features=tuple(features)), dict(self._vocabularies)

    def counts(self) -> dict:
        """Returns, per table that was fitted: values seen, distinct ones, those kept, and the share of the values seen that they are."""
        return {
            name: {
                "values": builder.num_values,
                "distinct": builder.num_distinct,
                "kept": len(self._vocabularies[name]),
                "coverage": round(builder.num_covered / max(builder.num_values, 1), 6),
            }
            for name, builder in self._builders.items()
        }


def _without_sizes(schema, tables):
    """Returns the schema with some tables' sizes open again."""
    features = []
    for feature in schema.features:
        embedded = feature in schema.fields or feature in schema.sequences
        opened = embedded and schema.table_of(feature).name in tables
        features.append(dataclasses.replace(feature, vocabulary_size=None) if opened else feature)
    return schema.replace(features=tuple(features))


def fit_schema(batches, schema: Schema, min_count: int = 1, capacity: int | None = None, *, vocabularies: dict | None = None):
    """Fits a schema on a stream of training batches.

    Args:
        batches: Iterable of `pa.RecordBatch`es or tables of the training split, read once.
        schema, min_count, capacity, vocabularies: See `SchemaFitter`.

    Returns:
        The fitted `Schema` and `{table name: Vocabulary}`.

    Raises:
        EncodingError: On data that does not fit the schema, or no rows.
        SchemaError: See `SchemaFitter`.
    """
    fitter = SchemaFitter(schema, min_count, capacity, vocabularies=vocabularies)
    for batch in batches:
        fitter.update(batch)
    return fitter.finish()
