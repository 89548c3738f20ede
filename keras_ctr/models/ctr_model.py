"""What all model factories share: named inputs, the model class and the named predictions."""

import math

import keras

from keras_ctr.layers.predictions import LabelPrediction
from keras_ctr.schema import nearest, negatives_of


@keras.saving.register_keras_serializable(package="keras_ctr")
class CTRModel(keras.Model):
    """A functional Keras model that picks its inputs by name.

    Keys that no input has (the user id for gAUC, a time stamp, a feature of another model) are ignored; a plain functional model given
    an extra key feeds wrong columns. A missing key is an error that names it. Everything else is `keras.Model`: `compile`, `fit`,
    `evaluate`, `predict`, `save`.

    Raises:
        KeyError: When called on a dict that lacks an input, with the nearest key that is there.
    """

    def __call__(self, inputs, *args, **kwargs):
        return super().__call__(self._select(inputs), *args, **kwargs)

    def call(self, inputs, training=None, mask=None):
        """Runs the model. The stateless steps of the JAX backend come here without passing `__call__`."""
        # The signature is spelled out: Keras reads from it whether the model takes `training`, which dropout needs.
        return super().call(self._select(inputs), training=training, mask=mask)

    @property
    def optional_inputs(self):
        """Names of the inputs that a dict may lack: what only training uses."""
        return frozenset(tensor.name for tensor in self._inputs if tensor._keras_history.operation.optional)

    def _select(self, inputs):
        if not isinstance(inputs, dict) or not isinstance(self._inputs_struct, dict):
            return inputs
        optional = self.optional_inputs
        missing = [name for name in self._inputs_struct if name not in inputs and name not in optional]
        if missing:
            hint = nearest(missing[0], inputs)
            raise KeyError(f"model '{self.name}' misses the input{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}{hint}")
        return {name: inputs.get(name) for name in self._inputs_struct}


def build_inputs(schema, *, negatives=()):
    """Returns `{feature: keras.Input}` for every feature of a fitted schema.

    Fields are int `(B,)`, numerics float32 `(B,)`, sequences int `(B, T)`; ints are int32, or int64 for tables past 2^31 rows.

    Args:
        schema: The schema.
        negatives: Names of sequences that also get an input `<name>_negatives` for sampled negative events. It is optional: a dict without
            it (in validation, prediction and serving) means that there are none.

    Raises:
        SchemaError: If the schema is not fitted.
    """
    schema.check_fitted()

    def entry(feature, name, **optional):
        return keras.Input(shape=schema.encoded_shape(feature), dtype=schema.encoded_dtype(feature), name=name, **optional)

    inputs = {name: entry(name, name) for name in schema.feature_names}
    for name in negatives:
        key = negatives_of(name)
        if key in inputs:
            raise ValueError(f"the schema has a feature named '{key}', which is the name of the negatives of '{name}': rename it")
        inputs[key] = entry(name, key, optional=True)
    return inputs


def logits(x, schema, *, name="logits"):
    """Returns `(B, L)` logits, one a label, by a linear float32 layer named `name` on `x` `(B, N)`."""
    return keras.layers.Dense(len(schema.labels), dtype="float32", name=name)(x)


def predictions(values, schema, activation="sigmoid"):
    """Returns `{label: (B, 1)}` from `(B, L)` logits: probabilities, or the logits themselves with `activation=None`.

    Each output is a layer named after its label, so metrics and losses are named `click_auc`, `val_click_loss`, ... A label with a `rate`
    has its log-odds added to the logit.
    """
    offsets = [0.0 if label.rate is None else math.log(label.rate) - math.log1p(-label.rate) for label in schema.labels]
    return {
        label: LabelPrediction(i, activation=activation, offset=offset, name=label)(values)
        for i, (label, offset) in enumerate(zip(schema.label_names, offsets, strict=True))
    }
