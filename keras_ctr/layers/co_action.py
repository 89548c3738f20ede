"""Co-action of CAN: one feature's embedding is a small network that another feature's embedding runs through."""

import dataclasses

import keras
from keras import ops

from keras_ctr.layers.arguments import check_int, check_units
from keras_ctr.layers.embedding import FeatureEmbedding
from keras_ctr.schema import Schema, Sequence


@keras.saving.register_keras_serializable(package="keras_ctr")
class CoAction(keras.Layer):
    """Runs a feed embedding through the micro-MLP that an induction embedding holds: pool `(B, W), (B, [T,] C) -> (B, O sum_j u_j)`.

    ```
    h_{o,0} = p_feed^o (element by element),    h_{o,j} = f( h_{o,j-1} w_j + b_j ), f left out for the last j         o = 1..O, j = 1..J
    y = ||_o ||_j sum_{t valid} h_{o,j}[t]
    ```

    The row of the induction table is cut into w_1 (C, u_1), [b_1,] w_2 (u_1, u_2), [b_2,] ...; orders share them. No weights of its own:
    the tables are the parameters. Without a time axis T is 1. A history without a valid event gives zeros.

    Args:
        units: u_1 .. u_J, the outputs of the micro-MLP's layers.
        orders: O, the highest power of the feed embedding.
        use_bias: Whether the induction row holds biases.
        activation: f, between the layers.

    Call arguments:
        induction: `(B, W)`, W = `induction_width(C)`.
        feed: `(B, C)` or `(B, T, C)`.
        mask: `(B, T)` bool, True = valid; None = all valid.

    Raises:
        ValueError: On no or a non-positive width or order, or an induction row whose width is not W.

    Source: CAN (arXiv:2011.05625, section 4). Deviations: as the authors' code has it, the outputs of all orders lie side by side (the
    paper's multi-order form is read as their sum), the sum over a history is taken after the micro-MLP (the paper's text is read as
    before it), the last layer is linear, and biases are off. Orders share their weights, as by default there.
    """

    def __init__(self, units=(8, 4), *, orders=3, use_bias=False, activation="tanh", **kwargs):
        super().__init__(**kwargs)
        self.units = check_units(self, "units", units)
        if not self.units:
            raise ValueError(f"CoAction '{self.name}': units is empty; give the micro-MLP at least one layer")
        check_int(self, "orders", orders)
        self.orders = orders
        self.use_bias = use_bias
        self.activation = keras.activations.get(activation)
        self.supports_masking = True

    def induction_width(self, feed_dim):
        """Returns W, the numbers in a micro-MLP on inputs `feed_dim` wide: 16*8 + 8*4 = 160 for 16 and the default units."""
        widths = (feed_dim, *self.units)
        return sum(a * b + (b if self.use_bias else 0) for a, b in zip(widths[:-1], widths[1:], strict=True))

    def build(self, induction_shape, feed_shape):
        needed = self.induction_width(feed_shape[-1])
        if induction_shape[-1] != needed:
            raise ValueError(
                f"CoAction '{self.name}': a micro-MLP {feed_shape[-1]} -> {' -> '.join(map(str, self.units))} has {needed} numbers, the "
                f"induction embedding has {induction_shape[-1]}; make its table {needed} wide"
            )
        self.built = True

    def call(self, induction, feed, mask=None):
        if len(feed.shape) == 2:
            feed = ops.expand_dims(feed, 1)  # (B, 1, C)
        steps, width = feed.shape[1:]
        powers = [feed]
        for _ in range(self.orders - 1):
            powers.append(powers[-1] * feed)
        # Orders share the weights: they run through the micro-MLP as further steps.
        h = powers[0] if self.orders == 1 else ops.concatenate(powers, axis=1)  # (B, O T, C)
        outputs, start = [], 0
        for index, units in enumerate(self.units):
            kernel = ops.reshape(induction[:, start : start + width * units], (-1, width, units))  # (B, C, u)
            start += width * units
            h = ops.matmul(h, kernel)  # (B, O T, u)
            if self.use_bias:
                h = h + ops.expand_dims(induction[:, start : start + units], 1)
                start += units
            if index < len(self.units) - 1:
                h = self.activation(h)
            outputs.append(h)
            width = units
        out = outputs[0] if len(outputs) == 1 else ops.concatenate(outputs, axis=-1)  # (B, O T, sum u)
        out = ops.reshape(out, (-1, self.orders, steps, sum(self.units)))  # (B, O, T, sum u)
        out = ops.cast(out, keras.backend.result_type(self.compute_dtype, "float32"))
        if mask is not None:
            out = ops.where(ops.expand_dims(ops.expand_dims(mask, 1), -1), out, 0.0)
        out = ops.reshape(ops.sum(out, axis=2), (-1, self.orders * sum(self.units)))  # (B, O sum u)
        return ops.cast(out, self.compute_dtype)

    def compute_mask(self, induction, previous_mask=None):
        return None  # one vector a row, always valid

    def compute_output_shape(self, induction_shape, feed_shape):
        return (induction_shape[0], self.orders * sum(self.units))

    def get_config(self):
        return {
            **super().get_config(),
            "units": list(self.units),
            "orders": self.orders,
            "use_bias": self.use_bias,
            "activation": keras.activations.serialize(self.activation),
        }


@keras.saving.register_keras_serializable(package="keras_ctr")
class OwnEmbedding(keras.Layer):
    """Embeddings of some features in tables of their own: map `{feature: ids} -> {"rows": {feature: (B, [T,] D)}, "masks": {..}}`.

    A `FeatureEmbedding` named `embedding` within this layer, so that the recipes of `keras_ctr.optimizers` know its variable as a table.
    Features that share a table in the schema share it here. Parameters: D times the rows of the tables.

    Args:
        schema: The fitted `Schema` (or its dict form); the `embedding_dim` and `embedding_initializer` options of its tables do not
            apply here.
        features: Names of fields and sequences.
        embedding_dim: D.
        embedding_l2, table_dtype: As for `FeatureEmbedding`.

    Call arguments:
        inputs: Dict with at least those features: fields `(B,)` int, sequences `(B, T)` int, padded with 0.

    Returns:
        `"rows"`: `(B, D)` for a field, `(B, T, D)` for a sequence, zeros at padded steps. `"masks"`: `(B, T)` bool for each sequence, True
        where the id is not padding; the key is missing without sequences.

    Raises:
        KeyError: If the schema lacks a feature.
        SchemaError: If the schema is not fitted.
        ValueError: If a feature is a number without a table.
    """

    def __init__(self, schema, features, embedding_dim, *, embedding_l2=0.0, table_dtype=None, **kwargs):
        super().__init__(**kwargs)
        schema = schema if isinstance(schema, Schema) else Schema.from_dict(schema)
        self.features = tuple(dict.fromkeys(features))
        embedded = [f.name for f in (*schema.fields, *schema.sequences)]
        for name in self.features:
            if schema[name].name not in embedded:
                raise ValueError(f"OwnEmbedding '{self.name}': '{name}' is a number that has no table; name fields and sequences")
        own = [_own(schema[name], schema) for name in self.features]
        self.schema = schema.replace(features=own, group=None, time=None)
        self.embedding = FeatureEmbedding(
            self.schema, embedding_dim, embedding_l2=embedding_l2, table_dtype=table_dtype, name="embedding", dtype=self.dtype_policy
        )

    def build(self, inputs_shape=None):
        self.embedding.build(inputs_shape)
        self.built = True

    def call(self, inputs):
        found = self.embedding({name: inputs[name] for name in self.features})
        rows = {field.name: found["fields"][:, index] for index, field in enumerate(self.schema.fields)}  # (B, D)
        rows.update(found.get("sequences", {}))  # (B, T, D)
        return {"masks": found["masks"], "rows": rows} if self.schema.sequences else {"rows": rows}

    def compute_output_shape(self, inputs_shape):
        shapes = self.embedding.compute_output_shape({name: inputs_shape[name] for name in self.features})
        batch = tuple(inputs_shape[self.features[0]])[0]
        rows = {field.name: (batch, self.embedding.embedding_dim) for field in self.schema.fields}
        rows.update(shapes.get("sequences", {}))
        return {"masks": shapes["masks"], "rows": rows} if self.schema.sequences else {"rows": rows}

    def compute_output_spec(self, inputs):
        shapes = self.compute_output_shape({name: tensor.shape for name, tensor in inputs.items()})
        kinds = {"rows": self.compute_dtype, "masks": "bool"}
        return {key: {n: keras.KerasTensor(s, dtype=kinds[key]) for n, s in value.items()} for key, value in shapes.items()}

    def get_config(self):
        return {
            **super().get_config(),
            "schema": self.embedding.get_config()["schema"],
            "features": list(self.features),
            "embedding_dim": self.embedding.embedding_dim,
            "embedding_l2": self.embedding.embedding_l2,
            "table_dtype": self.embedding.table_dtype,
        }


def _own(feature, schema):
    """Returns the feature alone: with what its table knows, and a sequence as a group of its own."""
    table = schema.table_of(feature)
    changes = {"embedding_dim": None, "embedding_initializer": None}
    if hasattr(feature, "vocabulary"):
        # What a table is may stand at a feature that is left out here.
        known = {k: getattr(table, k) for k in ("vocabulary_size", "hash_buckets", "quotient_remainder", "dtype")}
        changes.update(known, table=table.name, vocabulary=None, min_count=None, capacity=None)
        if table.dtype == "float32":  # a sequence on the table of a binned number
            changes["dtype"] = "int64"
    if isinstance(feature, Sequence):
        changes.update(target=None, group=feature.name)
    return dataclasses.replace(feature, **changes)
