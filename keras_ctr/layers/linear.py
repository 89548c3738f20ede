"""The linear (wide) part: one weight per id."""

import dataclasses
import functools

import keras
from keras import ops

from keras_ctr.layers.arguments import check_choice
from keras_ctr.layers.embedding import FeatureEmbedding, without_vocabulary
from keras_ctr.layers.numeric import NumericTokens
from keras_ctr.schema import Schema, Sequence


@keras.saving.register_keras_serializable(package="keras_ctr")
class LinearLogit(keras.Layer):
    """Linear logit of all features: pool `{feature: ids or numbers} -> (B, units)`.

    `z = b + sum_f w_f[id_f] + sum_n v_n u_n + sum_s mean_{t valid} w_s[id_{s,t}]`, with tables of width `units`. An empty history
    contributes 0. Parameters: `units (sum of table rows + N + 1)`.

    Args:
        schema: The fitted `Schema` (or its dict form); its `embedding_dim` and `embedding_initializer` options do not apply here.
        units: Outputs, one a label.
        numeric: `kind` of `layers.NumericTokens`, whose `units`-wide tokens are added up: `"scale_embedding"` is the sum above,
            `"dense_projection"` the same, `"bucketize"` one weight per bin, `"bottom_mlp"` an MLP with a linear end.
        history_weights: `"shared"`: a history reads the weights of the table that it names, as embeddings do. `"own"`: every sequence
            has weights of its own, as in the public benchmarks.
        initializer: Keras initializer of the weights per id.
        table_dtype: As for `FeatureEmbedding`.

    Raises:
        ValueError: On an unknown `numeric` or `history_weights`.

    Source: logistic regression; the wide part of Wide & Deep (Cheng et al. 2016) without crosses.
    """

    HISTORY_WEIGHTS = ("shared", "own")

    def __init__(
        self,
        schema,
        units=1,
        *,
        numeric="scale_embedding",
        history_weights="shared",
        initializer="zeros",
        table_dtype=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_choice(self, "numeric", numeric, NumericTokens.KINDS)
        check_choice(self, "history_weights", history_weights, self.HISTORY_WEIGHTS)
        schema = schema if isinstance(schema, Schema) else Schema.from_dict(schema)
        features = [_plain(feature) for feature in schema.features]
        if history_weights == "own":
            features = [_detached(f, schema) if isinstance(f, Sequence) else f for f in features]
        self.schema = schema.replace(features=features)
        self.units = units
        self.numeric = numeric
        self.history_weights = history_weights
        self.initializer = keras.initializers.get(initializer)
        # Every sequence as a group of its own: rows that are added up need not be put side by side first.
        alone = [dataclasses.replace(f, group=f.name, target=None) if isinstance(f, Sequence) else f for f in self.schema.features]
        self.embedding = FeatureEmbedding(
            self.schema.replace(features=alone),
            units,
            initializer=self.initializer,
            table_dtype=table_dtype,
            name="embedding",
            dtype=self.dtype_policy,
        )

    def build(self, inputs_shape):
        self.embedding.build(inputs_shape)
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")
        if self.schema.numerics:
            self.numeric_tokens = NumericTokens(
                self.units,
                kind=self.numeric,
                output_activation="linear",
                transforms=[(f.transform, f.mean, f.std) for f in self.schema.numerics],
                initializer="zeros",
                name="numeric",
                dtype=self.dtype_policy,
            )
            self.numeric_tokens.build((None, len(self.schema.numerics)))
        self.built = True

    def call(self, inputs):
        features = self.embedding(inputs)
        logit = self.bias  # (units,)
        if "fields" in features:
            logit = logit + ops.sum(features["fields"], axis=1)  # (B, units)
        if "numeric" in features:
            logit = logit + ops.sum(self.numeric_tokens(features["numeric"]), axis=1)  # (B, units)
        for members in self.schema.sequence_groups.values():
            total = sum(ops.sum(features["sequences"][s.name], axis=1) for s in members)  # (B, units), padded steps are zeros
            valid = functools.reduce(ops.logical_or, [features["masks"][s.name] for s in members])  # (B, T)
            logit = logit + total / ops.maximum(ops.sum(ops.cast(valid, total.dtype), axis=1, keepdims=True), 1)
        return logit

    def compute_output_shape(self, inputs_shape):
        return (tuple(inputs_shape[self.schema.feature_names[0]])[0], self.units)

    def compute_output_spec(self, inputs):
        shape = self.compute_output_shape({name: tensor.shape for name, tensor in inputs.items()})
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "schema": self.schema.replace(features=[without_vocabulary(f) for f in self.schema.features]).to_dict(),
            "units": self.units,
            "numeric": self.numeric,
            "history_weights": self.history_weights,
            "initializer": keras.initializers.serialize(self.initializer),
            "table_dtype": self.embedding.table_dtype,
        }


def _plain(feature):
    return dataclasses.replace(feature, embedding_dim=None, embedding_initializer=None)


def _detached(sequence, schema):
    """Returns the sequence with a table of its own, as large as the one that it shares."""
    table = schema.table_of(sequence)
    return dataclasses.replace(
        sequence,
        table=None,
        target=None,
        vocabulary_size=table.vocabulary_size,
        quotient_remainder=getattr(table, "quotient_remainder", None),
        **dict.fromkeys(("vocabulary", "min_count", "capacity", "hash_buckets")),
    )
