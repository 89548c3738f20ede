"""Polynomial Interaction Network (PIN) and subspace crossing: the mathematics of xDeepInt, and the skeleton of DynInt."""

import keras
from keras import ops

from keras_ctr.layers.cloning import clone_initializer


def to_rows(x, num_subspaces):
    """Subspace split in the layout in which the products run: `(B, F, D) -> (B, D/h, hF)`.

    Column `s F + f` holds chunk s of field f. With the crossed fields last, `W X_0` of every sample and every bit is one plain matrix
    product, and one transpose at either end serves all layers.
    """
    fields, width = x.shape[1:]
    x = ops.reshape(x, (-1, fields, num_subspaces, width // num_subspaces))  # (B, F, h, D')
    return ops.reshape(ops.transpose(x, (0, 3, 2, 1)), (-1, width // num_subspaces, num_subspaces * fields))  # (B, D', hF)


def from_rows(x, num_subspaces):
    """Inverse of `to_rows`: `(B, D/h, hF) -> (B, F, D)`."""
    chunk, crossed = x.shape[1:]
    fields = crossed // num_subspaces
    x = ops.reshape(x, (-1, chunk, num_subspaces, fields))  # (B, D', h, F)
    return ops.reshape(ops.transpose(x, (0, 3, 2, 1)), (-1, fields, num_subspaces * chunk))  # (B, F, D)


def project_rows(x, kernel):
    """`x W` over the last axis, as one matrix product with the leading axes merged: `(..., M) x (M, N) -> (..., N)`."""
    out = ops.matmul(ops.reshape(x, (-1, x.shape[-1])), kernel)
    return ops.reshape(out, (-1, *x.shape[1:-1], kernel.shape[-1]))


@keras.saving.register_keras_serializable(package="keras_ctr")
class SubspaceCrossing(keras.Layer):
    """Splits every embedding in h chunks that become fields of their own: map `(B, F, D) -> (B, hF, D/h)`.

    `y[s F + f, :] = x[f, s D/h : (s + 1) D/h]`: row `s F + f` is chunk s of field f. With `merge=True` the inverse,
    `(B, hF, D/h) -> (B, F, D)`. h = 1 leaves interactions vector-wise, h = D makes them fully bit-wise. No weights.

    Args:
        num_subspaces: h, a divisor of D (of the number of rows when merging).
        merge: Whether to undo a split instead.

    Raises:
        ValueError: If h is not positive or does not divide.

    Source: xDeepInt; DynInt (Yan and Li 2022), figure 2b. `PolynomialInteraction` does this by itself.
    """

    def __init__(self, num_subspaces=1, *, merge=False, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(num_subspaces, int) or num_subspaces < 1:
            raise ValueError(f"SubspaceCrossing '{self.name}': num_subspaces must be a positive int, got {num_subspaces!r}")
        self.num_subspaces = num_subspaces
        self.merge = merge

    def build(self, input_shape):
        axis, what = (1, "rows") if self.merge else (2, "embedding width")
        if input_shape[axis] % self.num_subspaces:
            raise ValueError(
                f"SubspaceCrossing '{self.name}': num_subspaces={self.num_subspaces} does not divide the {what} {input_shape[axis]}"
            )
        self.built = True

    def call(self, inputs):
        if self.merge:
            return from_rows(ops.transpose(inputs, (0, 2, 1)), self.num_subspaces)  # (B, F, D)
        return ops.transpose(to_rows(inputs, self.num_subspaces), (0, 2, 1))  # (B, hF, D/h)

    def compute_output_shape(self, input_shape):
        batch, rows, width = input_shape
        h = self.num_subspaces
        return (batch, rows // h, width * h) if self.merge else (batch, rows * h, width // h)

    def get_config(self):
        return {**super().get_config(), "num_subspaces": self.num_subspaces, "merge": self.merge}


@keras.saving.register_keras_serializable(package="keras_ctr")
class PolynomialInteraction(keras.Layer):
    """Polynomial Interaction Network with subspace crossing: map `(B, F, D) -> (B, F, D)`.

    On the crossed map X_0 (F', D') with F' = hF and D' = D/h (see `SubspaceCrossing`), for l = 1..L:

    `X_l = X_{l-1} * (W_{l-1} X_0) + X_{l-1}`, W (F', F'), no bias, no activation.

    X_l holds every product of 1 to l+1 elements that share a column. Parameters: `L F'^2`.

    Args:
        num_layers: L; 0 returns the input.
        num_subspaces: h, a divisor of D.
        residual: Whether to add `X_{l-1}`; without it X_l holds products of exactly l+1 elements.
        kernel_initializer: Keras initializer of the kernels.
        kernel_regularizer: Keras regularizer of the kernels.

    Raises:
        ValueError: On a negative L, an h that is not positive or does not divide D, or an input that is not `(B, F, D)`.

    Source: xDeepInt; DynInt (Yan and Li 2022), equation 3. Kernel l is stored as `W_l` transposed, (in, out) like any Keras kernel.

    Precision: matrix products run in the compute dtype; the running product X_l is kept in float32, since a product of L+1 factors
    overflows float16 and loses bfloat16's 8 bits L times over.
    """

    def __init__(
        self,
        num_layers=3,
        *,
        num_subspaces=1,
        residual=True,
        kernel_initializer="glorot_uniform",
        kernel_regularizer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not isinstance(num_layers, int) or num_layers < 0:
            raise ValueError(f"{type(self).__name__} '{self.name}': num_layers must be an int, 0 or more, got {num_layers!r}")
        if not isinstance(num_subspaces, int) or num_subspaces < 1:
            raise ValueError(f"{type(self).__name__} '{self.name}': num_subspaces must be a positive int, got {num_subspaces!r}")
        self.num_layers = num_layers
        self.num_subspaces = num_subspaces
        self.residual = residual
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)

    def build(self, input_shape):
        where = f"{type(self).__name__} '{self.name}'"
        if len(input_shape) != 3 or None in tuple(input_shape[1:]):
            raise ValueError(f"{where} needs an input (B, F, D) with known F and D, got {tuple(input_shape)}")
        fields, width = input_shape[1:]
        if width % self.num_subspaces:
            raise ValueError(f"{where}: num_subspaces={self.num_subspaces} does not divide the embedding width {width}")
        self.build_interactions(self.num_subspaces * fields, width // self.num_subspaces)
        self.built = True

    def build_interactions(self, crossed, chunk):
        """Creates what `interactions` reads; subclasses override both.

        Args:
            crossed: F' = hF.
            chunk: D' = D/h.
        """
        self.kernels = [self.add_kernel(f"kernel_{layer}", (crossed, crossed), layer) for layer in range(self.num_layers)]

    def add_kernel(self, name, shape, index):
        """Adds a kernel with its own draw of the kernel initializer; `index` tells seeded draws apart."""
        initializer = clone_initializer(self.kernel_initializer, index)
        return self.add_weight(name=name, shape=shape, initializer=initializer, regularizer=self.kernel_regularizer)

    def interactions(self, inputs, rows):
        """Yields, layer by layer, what the running map is multiplied with: here `W_l X_0`.

        Args:
            inputs: `(B, F, D)`, the layer's input.
            rows: X_0 as `to_rows` gives it, `(B, D', F')`.

        Yields:
            `(B, D', F')`, L times.
        """
        for kernel in self.kernels:
            yield project_rows(rows, kernel)  # (B, D', F')

    def call(self, inputs):
        dtype = self.accumulation_dtype
        rows = to_rows(inputs, self.num_subspaces)  # (B, D', F')
        x = ops.cast(rows, dtype)
        for interaction in self.interactions(inputs, rows):
            product = x * ops.cast(interaction, dtype)  # (B, D', F')
            x = product + x if self.residual else product
        return ops.cast(from_rows(x, self.num_subspaces), self.compute_dtype)  # (B, F, D)

    @property
    def accumulation_dtype(self):
        """Dtype of the running product and of the gates: float32, or float64 when the layer computes in it."""
        return keras.backend.result_type(self.compute_dtype, "float32")

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "num_subspaces": self.num_subspaces,
            "residual": self.residual,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }


@keras.saving.register_keras_serializable(package="keras_ctr")
class FeatureMapLogits(keras.Layer):
    """Logits of an interaction map, one weight a field: pool `(B, F, D) -> (B, units)`.

    `z_k = sum_d (sum_f w_{f,k} x_{f,d} + b_k)`: the weights are shared by all columns of the map, and b counts D times. Parameters:
    `units (F + 1)`.

    Args:
        units: Outputs, one a label.
        kernel_initializer: Keras initializer of w.

    Raises:
        ValueError: If `units` is not positive or the input is not `(B, F, D)`.

    Source: DynInt (Yan and Li 2022), equation 2, and xDeepInt, without the sigmoid.
    """

    def __init__(self, units=1, *, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        if not isinstance(units, int) or units < 1:
            raise ValueError(f"FeatureMapLogits '{self.name}': units must be a positive int, got {units!r}")
        self.units = units
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape):
        if len(input_shape) != 3 or None in tuple(input_shape[1:]):
            raise ValueError(f"FeatureMapLogits '{self.name}' needs an input (B, F, D) with known F and D, got {tuple(input_shape)}")
        shape = (input_shape[1], self.units)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=clone_initializer(self.kernel_initializer))
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")
        self.built = True

    def call(self, inputs):
        # Summing the columns first leaves one small product instead of one a column.
        return ops.matmul(ops.sum(inputs, axis=2), self.kernel) + inputs.shape[2] * self.bias  # (B, units)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.units)

    def get_config(self):
        kernel_initializer = keras.initializers.serialize(self.kernel_initializer)
        return {**super().get_config(), "units": self.units, "kernel_initializer": kernel_initializer}
