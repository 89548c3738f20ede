"""Numbers as tokens: how architectures that work on field embeddings take numeric features."""

import keras
import numpy as np
from keras import ops

from keras_ctr.layers.arguments import check_choice, check_int, check_units
from keras_ctr.layers.mlp import MLP

TRANSFORMS = ("none", "log1p", "standardize", "log1p_standardize")


@keras.saving.register_keras_serializable(package="keras_ctr")
class NumericTokens(keras.Layer):
    """Turns numbers into tokens: map `(B, N) -> (B, N', D)`, by one of the four conventions of the field.

    ```
    scale_embedding   token n = v_n w_n                      N' = N   ND weights, no bias        (AutoInt, the public benchmarks)
    bucketize         token n = W_n[bin(x_n)]                N' = N   N num_bins D weights       (DynInt, section 4.1.1)
                      bin(x) = min(floor(log(x^2 + 1)), num_bins - 1)
    bottom_mlp        one token MLP(v)                       N' = 1   those of the MLP           (DLRM, Ad-Rec)
    dense_projection  one token v W                          N' = 1   ND weights, no bias        (InterFormer, Eq. 5)
    ```

    `bucketize` bins the raw number: x is v with its schema's transform undone, as far as float32 allows (a number within rounding of a
    bin's end may fall on the other side). A missing number was given the transform's zero and falls into the bin of that; a bin of its
    own, a row-sparse table and bins that every runtime agrees on come with `Numeric(transform="log_square")`, which makes the feature a
    field before the model sees it.

    Args:
        embedding_dim: D.
        kind: One of the above.
        hidden_units: Hidden widths of `bottom_mlp`; its last layer is D wide. DLRM's by default.
        activation: Of the layers of `bottom_mlp`.
        output_activation: Of its last layer; None = `activation`, as in DLRM.
        num_bins: Bins a number of `bucketize`.
        transforms: For `bucketize`: `(transform, mean, std)` of each number as in `schema.Numeric`, to be undone; None = the numbers are
            raw.
        initializer: Of the tokens' kernel or table; None = Glorot's, N(0, 0.01^2) for the table of `bucketize`.

    Raises:
        ValueError: On an argument out of range, or transforms that do not fit the number of inputs.
    """

    KINDS = ("bucketize", "scale_embedding", "bottom_mlp", "dense_projection")

    def __init__(
        self,
        embedding_dim,
        *,
        kind="scale_embedding",
        hidden_units=(512, 256, 64),
        activation="relu",
        output_activation=None,
        num_bins=64,
        transforms=None,
        initializer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_choice(self, "kind", kind, self.KINDS)
        check_int(self, "embedding_dim", embedding_dim)
        check_int(self, "num_bins", num_bins)
        self.embedding_dim = embedding_dim
        self.kind = kind
        self.hidden_units = check_units(self, "hidden_units", hidden_units)
        self.activation = keras.activations.get(activation)
        self.output_activation = None if output_activation is None else keras.activations.get(output_activation)
        self.num_bins = num_bins
        self.transforms = None if transforms is None else [tuple(transform) for transform in transforms]
        for name, *_ in self.transforms or ():
            check_choice(self, "transforms", name, TRANSFORMS)
        self.initializer = None if initializer is None else keras.initializers.get(initializer)

    def build(self, inputs_shape):
        numbers = inputs_shape[-1]
        if self.kind == "bottom_mlp":
            units, end = (*self.hidden_units, self.embedding_dim), None
            if self.output_activation is not None:
                units, end = self.hidden_units, self.embedding_dim
            self.mlp = MLP(units, activation=self.activation, output_units=end, name="mlp", dtype=self.dtype_policy)
            self.mlp.build(inputs_shape)
        elif self.kind == "bucketize":
            if self.transforms is not None and len(self.transforms) != numbers:
                raise ValueError(f"NumericTokens '{self.name}': {len(self.transforms)} transforms for {numbers} numbers; give one for each")
            initializer = self.initializer or keras.initializers.RandomNormal(stddev=0.01)
            self.table = self.add_weight(name="table", shape=(numbers * self.num_bins, self.embedding_dim), initializer=initializer)
        else:
            initializer = self.initializer or keras.initializers.get("glorot_uniform")
            self.kernel = self.add_weight(name="kernel", shape=(numbers, self.embedding_dim), initializer=initializer)
        self.built = True

    def call(self, inputs):
        if self.kind == "bottom_mlp":
            token = self.mlp(inputs)  # (B, D)
            return ops.expand_dims(token if self.output_activation is None else self.output_activation(token), 1)  # (B, 1, D)
        if self.kind == "dense_projection":
            return ops.expand_dims(ops.matmul(inputs, self.kernel), 1)  # (B, 1, D)
        if self.kind == "scale_embedding":
            return ops.expand_dims(inputs, -1) * self.kernel  # (B, N, D)
        first = np.arange(inputs.shape[-1], dtype="int32") * self.num_bins  # (N,)
        return ops.take(self.table, self.bins(inputs) + first, axis=0)  # (B, N, D)

    def bins(self, inputs):
        """Returns the bin of each number, int32: `(B, N) -> (B, N)`."""
        raw = ops.cast(inputs, "float32")
        if self.transforms is not None:
            raw = ops.stack([_undone(raw[:, n], *transform) for n, transform in enumerate(self.transforms)], axis=1)
        with np.errstate(over="ignore"):  # ends beyond float32 are infinite: their bins stay empty
            ends = np.sqrt(np.expm1(np.arange(1, self.num_bins, dtype="float64"))).astype("float32")
        ends = ends[np.isfinite(ends)].tolist()
        return ops.digitize(ops.abs(raw), ends) if ends else ops.zeros_like(raw, dtype="int32")

    def compute_output_shape(self, inputs_shape):
        tokens = 1 if self.kind in ("dense_projection", "bottom_mlp") else inputs_shape[-1]
        return (inputs_shape[0], tokens, self.embedding_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "embedding_dim": self.embedding_dim,
            "kind": self.kind,
            "hidden_units": list(self.hidden_units),
            "activation": keras.activations.serialize(self.activation),
            "output_activation": None if self.output_activation is None else keras.activations.serialize(self.output_activation),
            "num_bins": self.num_bins,
            "transforms": self.transforms,
            "initializer": None if self.initializer is None else keras.initializers.serialize(self.initializer),
        }


def _undone(values, transform, mean=None, std=None):
    """Returns the raw numbers of a transform's results, float32."""
    if transform.endswith("standardize"):
        values = values * float(std) + float(mean)
    if transform.startswith("log1p"):
        values = ops.sign(values) * ops.expm1(ops.abs(values))
    return values
