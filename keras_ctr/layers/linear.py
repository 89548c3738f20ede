"""The linear (wide) part: one weight per id."""

import dataclasses

import keras
from keras import ops

from keras_ctr.layers.embedding import FeatureEmbedding
from keras_ctr.layers.pooling import masked_mean
from keras_ctr.schema import Schema


@keras.saving.register_keras_serializable(package="keras_ctr")
class LinearLogit(keras.Layer):
    """Linear logit of all features: pool `{feature: ids or numbers} -> (B, units)`.

    `z = b + sum_f w_f[id_f] + sum_n v_n u_n + sum_s mean_{t valid} w_s[id_{s,t}]`, with tables of width `units`. An empty history
    contributes 0. Parameters: `units (sum of table rows + N + 1)`.

    Args:
        schema: The fitted `Schema` (or its dict form); its `embedding_dim` and `embedding_initializer` options do not apply here.
        units: Outputs, one a label.
        initializer: Keras initializer of the weights per id.

    Source: logistic regression; the wide part of Wide & Deep (Cheng et al. 2016) without crosses.
    """

    def __init__(self, schema, units=1, *, initializer="zeros", **kwargs):
        super().__init__(**kwargs)
        schema = schema if isinstance(schema, Schema) else Schema.from_dict(schema)
        self.schema = schema.replace(features=[_plain(feature) for feature in schema.features])
        self.units = units
        self.initializer = keras.initializers.get(initializer)
        self.embedding = FeatureEmbedding(self.schema, units, initializer=self.initializer, name="embedding", dtype=self.dtype_policy)

    def build(self, inputs_shape):
        self.embedding.build(inputs_shape)
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")
        if self.schema.numerics:
            shape = (len(self.schema.numerics), self.units)
            self.numeric_kernel = self.add_weight(name="numeric_kernel", shape=shape, initializer="zeros")
        self.built = True

    def call(self, inputs):
        features = self.embedding(inputs)
        logit = self.bias  # (units,)
        if "fields" in features:
            logit = logit + ops.sum(features["fields"], axis=1)  # (B, units)
        if "numeric" in features:
            logit = logit + ops.matmul(features["numeric"], self.numeric_kernel)  # (B, units)
        for group, events in features.get("sequences", {}).items():
            pooled = masked_mean(events, features["masks"][group])  # (B, M*units)
            pooled = ops.reshape(pooled, (-1, len(self.schema.sequence_groups[group]), self.units))  # (B, M, units)
            logit = logit + ops.sum(pooled, axis=1)
        return logit

    def compute_output_shape(self, inputs_shape):
        return (tuple(inputs_shape[self.schema.feature_names[0]])[0], self.units)

    def compute_output_spec(self, inputs):
        shape = self.compute_output_shape({name: tensor.shape for name, tensor in inputs.items()})
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "schema": self.embedding.get_config()["schema"],
            "units": self.units,
            "initializer": keras.initializers.serialize(self.initializer),
        }


def _plain(feature):
    return dataclasses.replace(feature, embedding_dim=None, embedding_initializer=None)
