"""Requests for TensorFlow Serving from rows of plain Python values, checked against the schema before they leave.

A server's errors name an input at best and arrive after the trip; here every value is checked first, and the message names feature and
row. Standard library and NumPy only: a client needs neither TensorFlow nor Keras.
"""

import base64
import math
import operator

import numpy as np

from keras_ctr.schema import Sequence, nearest

__all__ = ["predict_columns", "rank_columns", "rest_predict", "rest_rank", "split_features"]

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_MISSING = {"string": "", "int64": -1, "float32": math.nan}


def split_features(schema, candidate_features=None):
    """Returns `(user's, candidate's)` feature names of a ranking request.

    By default the user's are the sequences and the schema's `group`, as in the export (`serving.ranking.candidate_names`).

    Raises:
        KeyError: If a name is no feature of the schema, with the nearest one.
    """
    if candidate_features is None:
        own = [f.name for f in schema.features if not isinstance(f, Sequence) and f.name != schema.group]
        candidate_features = own or schema.feature_names
    for name in candidate_features:
        if name not in schema:
            raise KeyError(f"no feature '{name}' in the schema{nearest(name, schema.feature_names)}")
    chosen = set(candidate_features)
    return tuple(n for n in schema.feature_names if n not in chosen), tuple(n for n in schema.feature_names if n in chosen)


def predict_columns(schema, rows):
    """Returns `{feature: list}` of rows, `(B,)` or, sequences, `(B, T)`, T the longest of the request in its group and at least 1.

    A feature that a row lacks, or that is None, is missing: `""`, -1 or NaN on the wire. Integers must be integers (5994.0 is none, as for
    TensorFlow Serving), numbers must fit float32, strings are str or bytes.

    Args:
        schema: The schema of the served model.
        rows: Dicts `{feature: value}`; sequences are lists, oldest event first, and the attributes of one group have equal lengths. Other
            columns of the schema (labels, group, time) are ignored.

    Raises:
        ValueError: If there are no rows, a key is unknown (with the nearest one), a number does not fit, or sequences of a group differ
            in length.
        TypeError: If a value has another type than its feature.
    """
    rows = list(rows)
    if not rows:
        raise ValueError("a request needs at least one row")
    _check_keys(schema, rows, schema.feature_names, "")
    return _columns(schema, rows, schema.feature_names, "row")


def rank_columns(schema, user, candidates, *, candidate_features=None):
    """Returns `{feature: list}` of a ranking request: user features with one row, candidate features with a row a candidate.

    Args:
        schema: The schema of the served model.
        user: `{feature: value}` of the user; a candidate's feature that stands here holds for all candidates.
        candidates: Dicts `{feature: value}`, at least one.
        candidate_features: What the export was given; None for its default.

    Raises:
        KeyError, TypeError, ValueError: As `split_features` and `predict_columns`; ValueError also if a candidate holds a user's feature.
    """
    candidates = list(candidates)
    if not candidates:
        raise ValueError("a ranking request needs at least one candidate")
    users, own = split_features(schema, candidate_features)
    _check_keys(schema, [user], schema.feature_names, "the user: ")
    for i, candidate in enumerate(candidates):
        for name in candidate:
            if name in users:
                raise ValueError(f"candidate {i}: feature '{name}' is the user's, who has one in a request: give it with the user")
    _check_keys(schema, candidates, own, "candidate ")
    common = {name: user[name] for name in own if name in user}
    return {
        **_columns(schema, [user], users, "user's row"),
        **_columns(schema, [{**common, **candidate} for candidate in candidates], own, "candidate"),
    }


def rest_predict(schema, rows, *, signature="serving_default"):
    """Returns the JSON-ready body of a REST prediction: one object a row, so that the server's errors name the input.

    Bytes go as `{"b64": ...}`, str as it is. NaN stands for a missing number: TensorFlow Serving reads it, though JSON has none.

    Raises:
        ValueError, TypeError: As `predict_columns`.
    """
    columns = {name: _json(values) for name, values in predict_columns(schema, rows).items()}
    names = list(columns)
    return {"signature_name": signature, "instances": [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]}


def rest_rank(schema, user, candidates, *, candidate_features=None, signature="rank"):
    """Returns the JSON-ready body of a REST ranking request, in columns, since user and candidates differ in rows.

    Raises:
        KeyError, TypeError, ValueError: As `rank_columns`.
    """
    columns = rank_columns(schema, user, candidates, candidate_features=candidate_features)
    return {"signature_name": signature, "inputs": {name: _json(values) for name, values in columns.items()}}


def _check_keys(schema, rows, wanted, where):
    known = {*wanted, *schema.raw_columns}
    for i, row in enumerate(rows):
        for name in row:
            if name not in known or (name in schema and name not in wanted):
                at = where if where.endswith(": ") else f"{where or 'row '}{i}: "
                raise ValueError(f"{at}'{name}' is no feature of the model{nearest(name, wanted)}; its features: {', '.join(wanted)}")


def _columns(schema, rows, names, where):
    out = {}
    for name in names:
        dtype, sequence = schema.raw_dtype(name), bool(schema.encoded_shape(name))
        column = []
        for i, row in enumerate(rows):
            try:
                value = row.get(name)
                column.append(_events(value, dtype) if sequence else _value(value, dtype))
            except (TypeError, ValueError, OverflowError) as error:
                raise type(error)(f"{where} {i}: feature '{name}' {error}") from None
        out[name] = column
    for group, members in schema.sequence_groups.items():
        members = [m for m in members if m.name in out]
        longest = 1
        for i in range(len(rows)):
            lengths = {m.name: len(out[m.name][i]) for m in members if rows[i].get(m.name) is not None}
            if len(set(lengths.values())) > 1:
                stated = ", ".join(f"'{name}' has {length}" for name, length in lengths.items())
                raise ValueError(f"{where} {i}: sequences of the group '{group}' are attributes of the same events, but {stated} values")
            longest = max(longest, *lengths.values(), 1)
        for m in members:
            pad = [_MISSING[schema.raw_dtype(m.name)]]
            out[m.name] = [values + pad * (longest - len(values)) for values in out[m.name]]
    return out


def _events(value, dtype):
    if value is None:
        return []
    if isinstance(value, (str, bytes)) or not isinstance(value, (list, tuple, np.ndarray)):
        raise TypeError(f"is a sequence: give a list of {dtype}, got {type(value).__name__}")
    return [_value(v, dtype) for v in value]


def _value(value, dtype):
    if value is None:
        return _MISSING[dtype]
    kind = type(value).__name__
    if dtype == "string":
        if isinstance(value, (str, bytes)):
            return str(value) if isinstance(value, str) else bytes(value)
        raise TypeError(f"takes str or bytes, got {kind} {value!r}")
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"takes {dtype}, got {kind} {value!r}; write it as 0 or 1")
    if dtype == "int64":
        if isinstance(value, (float, np.floating)):
            raise TypeError(f"takes int64, got {kind} {value!r}, which a server refuses even where it is whole: pass an int")
        try:
            value = operator.index(value)
        except TypeError:
            raise TypeError(f"takes int64, got {kind} {value!r}") from None
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"takes int64, and {value} does not fit")
        return value
    if not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"takes a number, got {kind} {value!r}")
    value = float(value)
    if math.isfinite(value) and abs(value) > _FLOAT32_MAX:
        raise ValueError(f"takes float32, and {value} does not fit")
    return value


def _json(value):
    if isinstance(value, list):
        return [_json(v) for v in value]
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
