"""What the data is: features, labels and the links between them. Standard library only.

A schema is written by hand, inferred by `keras-ctr prepare` or built by a dataset; every later step (encoding, input pipelines,
model factories, serving signatures) reads it and nothing else.
"""

import dataclasses
import json
import os
from dataclasses import dataclass

from keras_ctr.features import (
    FIRST_ID,
    META_GROUP,
    META_TIME,
    PADDING_ID,
    TIME_GAP_BUCKETS,
    UNKNOWN_ID,
    Categorical,
    Label,
    Numeric,
    SchemaError,
    Sequence,
    Table,
    check,
    hashed_beside,
    nearest,
    negatives_of,
    own_dtype,
    table_name,
    time_gap_sequence,
)

__all__ = [
    "FIRST_ID",
    "META_GROUP",
    "META_TIME",
    "PADDING_ID",
    "TIME_GAP_BUCKETS",
    "UNKNOWN_ID",
    "Categorical",
    "Label",
    "Numeric",
    "Schema",
    "SchemaError",
    "Sequence",
    "Table",
    "nearest",
    "negatives_of",
    "time_gap_sequence",
]

_MAX_INT32 = 2**31 - 1
_TABLE_OPTIONS = (
    "hash_buckets",
    "vocabulary_size",
    "vocabulary",
    "embedding_dim",
    "embedding_initializer",
    "min_count",
    "capacity",
    "quotient_remainder",
)
_FEATURES = {cls.kind: cls for cls in (Categorical, Numeric, Sequence)}


def _to_dict(item) -> dict:
    out = {"kind": item.kind} if item.kind != "label" else {}
    for field in dataclasses.fields(item):
        value = getattr(item, field.name)
        if field.name == "name" or value != field.default:
            out[field.name] = list(value) if isinstance(value, tuple) else value
    return out


def _from_dict(cls, values: dict, where: str):
    known = [field.name for field in dataclasses.fields(cls)]
    for key in values:
        check(key in known, f"{where}: unknown key '{key}'{nearest(key, known)}; known keys: {', '.join(known)}")
    check("name" in values, f"{where}: 'name' is missing")
    return cls(**values)


@dataclass(frozen=True)
class Schema:
    """Features, labels and the keys that ride along, of one data set.

    Args:
        features: `Categorical`, `Numeric` and `Sequence` features, in the order in which models see them.
        labels: `Label`s, at least one.
        group: Raw column that groups rows for gAUC (usually the user); rides along under `"meta/group"`. It may also be a feature.
        time: Raw column with the time of a row; rides along under `"meta/time"`.

    Raises:
        SchemaError: On repeated names, links to features that do not exist, and tables whose features disagree.

    Example:
        >>> schema = Schema(
        ...     features=[
        ...         Categorical("user_id", vocabulary_size=1000),
        ...         Categorical("item_id", vocabulary_size=500),
        ...         Numeric("price", transform="log1p"),
        ...         Sequence("clicked_items", max_length=20, table="item_id", target="item_id", group="clicks"),
        ...     ],
        ...     labels=[Label("click")],
        ...     group="user_id",
        ... )
        >>> schema.tables["item_id"].features
        ('item_id', 'clicked_items')
    """

    features: tuple = ()
    labels: tuple = ()
    group: str | None = None
    time: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "features", tuple(self.features))
        object.__setattr__(self, "labels", tuple(Label(item) if isinstance(item, str) else item for item in self.labels))
        check(self.features, "a schema needs at least one feature")
        check(self.labels, "a schema needs at least one label")
        seen = set()
        for item in (*self.features, *self.labels):
            allowed = Label if item in self.labels else tuple(_FEATURES.values())
            check(isinstance(item, allowed), f"a schema holds Categorical, Numeric, Sequence features and Labels, got {item!r}")
            check(item.name not in seen, f"'{item.name}' stands twice in the schema")
            seen.add(item.name)
        for key in ("group", "time"):
            value = getattr(self, key)
            check(value is None or (isinstance(value, str) and value), f"schema {key} must be a column name, got {value!r}")
        self._check_labels()
        self._check_sequences()
        self._resolve_tables()

    def _check_labels(self):
        by_name = {label.name: label for label in self.labels}
        for label in self.labels:
            met = [label.name]
            while (given := by_name[met[-1]].given) is not None:
                hint = nearest(given, by_name)
                check(given in by_name, f"label '{met[-1]}' is given '{given}', which is no label of the schema{hint}")
                check(given not in met, f"labels {', '.join(map(repr, met))} are given one another in a circle")
                met.append(given)

    def _check_sequences(self):
        by_name = {feature.name: feature for feature in self.features}
        lengths = {}
        for seq in self.sequences:
            first = lengths.setdefault(seq.group, seq)
            check(
                first.max_length == seq.max_length,
                f"Sequence '{seq.name}': max_length={seq.max_length}, but '{first.name}' of its group '{seq.group}' has {first.max_length}",
            )
            if seq.target is not None:
                target = by_name.get(seq.target)
                names = [f.name for f in self.categoricals]
                check(
                    isinstance(target, Categorical),
                    f"Sequence '{seq.name}': target '{seq.target}' is not a categorical feature of the schema{nearest(seq.target, names)}",
                )
                check(
                    table_name(target) == table_name(seq),
                    f"Sequence '{seq.name}' reads table '{table_name(seq)}', its target '{seq.target}' reads '{table_name(target)}'; "
                    f"give the sequence table='{table_name(target)}'",
                )

    def _resolve_tables(self):
        members: dict[str, list] = {}
        for feature in (*self.fields, *self.sequences):
            members.setdefault(table_name(feature), []).append(feature)
        tables = {}
        for name, features in members.items():
            # A sequence that shares a field's table only links to it: what the table is, its field says.
            owners = [f for f in features if not isinstance(f, Sequence)] or features
            options = {}
            for option in _TABLE_OPTIONS:
                given = [(f.name, getattr(f, option, None)) for f in features if getattr(f, option, None) is not None]
                for other, value in given[1:]:
                    check(
                        value == given[0][1],
                        f"table '{name}': '{given[0][0]}' has {option}={given[0][1]!r} but '{other}' has {value!r}; a shared table has one",
                    )
                options[option] = given[0][1] if given else None
            dtypes = {own_dtype(f) for f in owners}
            check(len(dtypes) == 1, f"table '{name}': its features {[f.name for f in owners]} have different dtypes {sorted(dtypes)}")
            buckets = options["hash_buckets"]
            if buckets is not None:  # one feature may hash the table, another give what contradicts it
                for option in ("vocabulary", "min_count", "capacity"):
                    check(options[option] is None, f"table '{name}' of {[f.name for f in features]}: {hashed_beside(option, buckets)}")
                check("float32" not in dtypes, f"table '{name}' of {[f.name for f in features]}: binned numbers cannot have hash_buckets")
            tables[name] = Table(name=name, features=tuple(f.name for f in features), dtype=dtypes.pop(), **options)
        object.__setattr__(self, "_tables", tables)

    @property
    def categoricals(self) -> tuple[Categorical, ...]:
        """The categorical features."""
        return tuple(f for f in self.features if isinstance(f, Categorical))

    @property
    def fields(self) -> tuple:
        """The features that are one id a row, in order: categorical and binned numeric ones. F is their number."""
        return tuple(f for f in self.features if isinstance(f, Categorical) or (isinstance(f, Numeric) and f.is_binned))

    @property
    def numerics(self) -> tuple[Numeric, ...]:
        """The numeric features that stay floats. N is their number."""
        return tuple(f for f in self.features if isinstance(f, Numeric) and not f.is_binned)

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        """The sequence features."""
        return tuple(f for f in self.features if isinstance(f, Sequence))

    @property
    def sequence_groups(self) -> dict[str, tuple[Sequence, ...]]:
        """Sequences by group, in order of first appearance."""
        groups: dict[str, list] = {}
        for seq in self.sequences:
            groups.setdefault(seq.group, []).append(seq)
        return {name: tuple(members) for name, members in groups.items()}

    @property
    def tables(self) -> dict[str, Table]:
        """Embedding tables by name, in order of first appearance."""
        return dict(self._tables)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels."""
        return tuple(label.name for label in self.labels)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features."""
        return tuple(feature.name for feature in self.features)

    @property
    def raw_columns(self) -> tuple[str, ...]:
        """Columns that raw training data must have: features, labels, group and time, each once."""
        names = [*self.feature_names, *self.label_names, *(c for c in (self.group, self.time) if c)]
        return tuple(dict.fromkeys(names))

    def table_of(self, feature) -> Table:
        """Returns the table that a feature (or its name) reads."""
        return self._tables[table_name(self[feature] if isinstance(feature, str) else feature)]

    def raw_dtype(self, name: str) -> str:
        """Returns `"string"`, `"int64"` or `"float32"`: the type of a feature's raw values."""
        feature = self[name]
        return "float32" if isinstance(feature, Numeric) else self.table_of(feature).dtype

    def encoded_dtype(self, name: str) -> str:
        """Returns the type of a feature in the encoded feature dict: `"float32"`, `"int32"`, or `"int64"` for tables past 2^31 rows."""
        feature = self[name]
        if isinstance(feature, Numeric) and not feature.is_binned:
            return "float32"
        size = self.table_of(feature).vocabulary_size
        return "int64" if size is not None and size > _MAX_INT32 else "int32"

    def encoded_shape(self, name: str) -> tuple[int, ...]:
        """Returns the per-row shape of a feature in the encoded feature dict: `()` or `(max_length,)`."""
        feature = self[name]
        return (feature.max_length,) if isinstance(feature, Sequence) else ()

    def __getitem__(self, name: str):
        """Returns the feature of that name.

        Raises:
            KeyError: With the nearest name if there is none.
        """
        for feature in self.features:
            if feature.name == name:
                return feature
        raise KeyError(f"no feature '{name}' in the schema{nearest(name, self.feature_names)}")

    def __contains__(self, name) -> bool:
        return name in self.feature_names

    def check_fitted(self):
        """Raises `SchemaError` naming every feature that still lacks a vocabulary size or statistics."""
        missing = [f"'{t.features[0]}' (vocabulary_size)" for t in self._tables.values() if t.vocabulary_size is None]
        missing += [f"'{f.name}' (mean and std)" for f in self.numerics if f.needs_statistics and (f.mean is None or f.std is None)]
        check(not missing, f"the schema is not fitted: {', '.join(missing)}; give them by hand or run keras_ctr.data.prepare")

    def check_vocabularies(self, tables):
        """Raises `SchemaError` if one of the tables named, for which there is a vocabulary, is hashed and so can have none."""
        for name, table in self._tables.items():
            check(
                table.hash_buckets is None or name not in tables,
                f"table '{name}' (feature '{table.features[0]}') has hash_buckets={table.hash_buckets}, so its values have no vocabulary: "
                "leave the table out of the vocabularies",
            )

    def replace(self, **changes) -> "Schema":
        """Returns a copy with `features`, `labels`, `group` or `time` replaced."""
        return dataclasses.replace(self, **changes)

    def select(self, *, features=None, labels=None) -> "Schema":
        """Returns a schema with only the named features and labels (None keeps all).

        Links to features that are left out go with them; a sequence whose table's owner is gone keeps the table's size and vocabulary. A
        label whose `given` is left out becomes an optional one.

        Raises:
            KeyError: If a name is not in the schema, with the nearest one.
        """
        names = self.feature_names if features is None else tuple(features)
        wanted = [self[name] for name in names]
        keep = []
        for feature in (f for f in self.features if f in wanted):
            if isinstance(feature, Sequence):
                table = self.table_of(feature)
                inherited = {k: getattr(table, k) for k in (*_TABLE_OPTIONS, "dtype")}
                target = feature.target if feature.target in names else None
                feature = dataclasses.replace(feature, table=table.name, target=target, **inherited)
            keep.append(feature)
        for name in labels or ():
            if name not in self.label_names:
                raise KeyError(f"no label '{name}' in the schema{nearest(name, self.label_names)}")
        kept_labels = self.labels if labels is None else tuple(item for item in self.labels if item.name in labels)
        known = [item.name for item in kept_labels]
        # Its outcome stays unknown in the same rows, whether or not the label that says so is there.
        kept_labels = [
            item if item.given is None or item.given in known else dataclasses.replace(item, given=None, optional=True)
            for item in kept_labels
        ]
        return self.replace(features=tuple(keep), labels=tuple(kept_labels))

    def without_sequences(self) -> "Schema":
        """Returns the schema with fields and numerics only."""
        return self.select(features=[f.name for f in self.features if not isinstance(f, Sequence)])

    def to_dict(self) -> dict:
        """Returns a JSON-ready dict; values equal to their defaults are left out."""
        out: dict = {"version": 1, "features": [_to_dict(f) for f in self.features], "labels": [_to_dict(x) for x in self.labels]}
        out.update({key: value for key, value in (("group", self.group), ("time", self.time)) if value})
        return out

    @classmethod
    def from_dict(cls, values: dict) -> "Schema":
        """Builds a schema from `to_dict`'s form.

        Raises:
            SchemaError: On unknown keys and kinds (with the nearest known one), and on everything that the classes check.
        """
        check(isinstance(values, dict), f"a schema is a JSON object, got {type(values).__name__}")
        known = ("version", "features", "labels", "group", "time")
        for key in values:
            check(key in known, f"schema: unknown key '{key}'{nearest(key, known)}; known keys: {', '.join(known)}")
        check(values.get("version", 1) == 1, f"schema version {values.get('version')!r} is unknown: this release reads version 1")
        features = []
        for position, item in enumerate(values.get("features", ())):
            check(isinstance(item, dict), f"schema features[{position}] must be an object, got {item!r}")
            item = dict(item)
            kind = item.pop("kind", None)
            where = f"schema features[{position}] ('{item.get('name', '?')}')"
            check(kind in _FEATURES, f"{where}: kind must be one of {tuple(_FEATURES)}, got {kind!r}{nearest(kind, _FEATURES)}")
            features.append(_from_dict(_FEATURES[kind], item, where))
        labels = []
        for position, item in enumerate(values.get("labels", ())):
            item = {"name": item} if isinstance(item, str) else item
            check(isinstance(item, dict), f"schema labels[{position}] must be an object or a name, got {item!r}")
            labels.append(_from_dict(Label, item, f"schema labels[{position}]"))
        return cls(features=features, labels=labels, group=values.get("group"), time=values.get("time"))

    def to_json(self) -> str:
        """Returns the schema as JSON text that a person can edit."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Schema":
        """Builds a schema from JSON text.

        Raises:
            SchemaError: With line and column if the text is not JSON.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise SchemaError(f"not JSON: {error.msg} at line {error.lineno} column {error.colno}") from error
        return cls.from_dict(values)

    def save(self, path):
        """Writes the schema as JSON, whole or not at all."""
        temporary = f"{os.fspath(path)}.incomplete"
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(self.to_json())
        os.replace(temporary, path)

    @classmethod
    def load(cls, path) -> "Schema":
        """Reads a schema file; errors name the file.

        Raises:
            SchemaError: If the content is not a valid schema.
            FileNotFoundError: If there is no such file.
        """
        with open(path, encoding="utf-8") as file:
            text = file.read()
        try:
            return cls.from_json(text)
        except SchemaError as error:
            raise SchemaError(f"{os.fspath(path)}: {error}") from error
