"""What models that adapt to a user or domain share: the fields they adapt to, and a tower with a gate after each hidden layer."""

import keras

from keras_ctr import layers
from keras_ctr.schema import nearest


def condition_names(schema, names=None, *, model, argument="condition_features", default="group"):
    """Returns the names of the fields that a model adapts to, as a tuple.

    Args:
        schema: The schema.
        names: Names of fields (features that are one id a row), or None for the default.
        model: Name of the model, for errors.
        argument: Name of the model's argument, for errors.
        default: `"group"`: the schema's `group` if it is a categorical field, else the first categorical field. `"all"`: all categorical
            fields.

    Raises:
        ValueError: If a name is not that of a field, with the nearest one, is repeated, or there is none.
    """
    fields = [f.name for f in schema.fields]
    if names is None:
        categoricals = [f.name for f in schema.categoricals]
        if not categoricals:
            raise ValueError(f"{model}: the schema has no categorical field to adapt to; add one, or name a field in {argument}")
        if default == "all":
            return tuple(categoricals)
        return (schema.group if schema.group in categoricals else categoricals[0],)
    if isinstance(names, str):
        raise ValueError(f"{model}: {argument} must be a list of names, got {names!r}; write [{names!r}]")
    names = tuple(names)
    if not names:
        raise ValueError(f"{model}: {argument} is empty; name at least one field, or leave it out")
    for name in names:
        if name not in fields:
            hint = nearest(name, fields)
            raise ValueError(f"{model}: {argument} names {name!r}, which is not a field of the schema{hint}; fields: {', '.join(fields)}")
    if len(set(names)) < len(names):
        raise ValueError(f"{model}: {argument} names a field twice: {', '.join(names)}")
    return names


def condition_tokens(features, schema, names, *, name="condition"):
    """Returns the embeddings of the named fields, `(B, K, D)`.

    Args:
        features: What `FeatureEmbedding` returned.
        schema: The schema.
        names: K names, from `condition_names`.
        name: Name of the layer.
    """
    positions = [f.name for f in schema.fields]
    return layers.SelectTokens([positions.index(n) for n in names], name=name)(features["fields"])


def condition_vector(features, schema, names, *, name="condition"):
    """Returns the embeddings of the named fields side by side, `(B, K*D)`; arguments as for `condition_tokens`."""
    tokens = condition_tokens(features, schema, names, name=f"{name}_tokens")  # (B, K, D)
    return keras.layers.Flatten(name=name)(tokens)


def check_tower(model, hidden_units):
    """Raises `ValueError` if a tower has no hidden layer that could be gated."""
    if not tuple(hidden_units):
        raise ValueError(f"{model}: hidden_units is empty, so there is nothing to adapt; give at least one hidden layer")


def gated_tower(x, hidden_units, gate, *, activation, dropout, batch_norm):
    """Returns the last hidden layer of an MLP whose hidden layers are gated one by one: `(B, N) -> (B, hidden_units[-1])`.

    Args:
        x: `(B, N)`.
        hidden_units: Widths.
        gate: Function `(index, hidden (B, u)) -> (B, u)`, applied after each hidden layer (and its dropout).
        activation, dropout, batch_norm: As for `layers.MLP`.
    """
    for index, units in enumerate(hidden_units):
        step = layers.MLP((units,), activation=activation, dropout=dropout, batch_norm=batch_norm, name=f"mlp_{index}")
        x = gate(index, step(x))  # (B, u)
    return x
