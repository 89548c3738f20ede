"""Compressed interaction network (CIN) of xDeepFM: explicit vector-wise interactions of bounded degree."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_int, check_units
from keras_ctr.layers.cloning import clone_initializer


@keras.saving.register_keras_serializable(package="keras_ctr")
class CompressedInteraction(keras.Layer):
    """Compressed interaction network: pool `(B, F, D) -> (B, K)`.

    With `X^0` the input and H_k the feature maps of layer k (H_0 = F):

    ```
    X^k_m = f( sum_{i,j} W^k_{m,ij} (X^{k-1}_i * X^0_j) + b^k_m )          m = 1 .. H_k, each (B, D)
    out   = [sum_d X^1 || .. || sum_d X^L]                                 K = sum_k H_k
    ```

    With `split_half` the first half of the maps of every layer but the last goes on to the next layer and the second half to the output: K
    is then the sum of H_k / 2 plus H_L. Parameters: the sum of `H_{k-1} F H_k`, H_{k-1} the maps that come in; `H_k` more a layer with
    biases.

    Args:
        units: H_1 .. H_L.
        activation: f; None = identity, the best in the paper.
        split_half: Whether a map goes either on or out; needs even H_k but for the last.
        use_bias: Whether there is b.
        field_chunk: Number of fields j that are worked on at once; None = all. It changes memory and time only: instead of a tensor
            `(B D, F, H_k)` a layer, kept for the gradient, there is one `(B D, field_chunk, H_k)` at a time, made again for the gradient.
            TensorFlow may hold ten at a time: 1 saves the most.
        kernel_initializer: Of the kernels `(H_{k-1} F, H_k)`; row `i F + j` is the pair (i, j).
        kernel_regularizer: Of the kernels.

    Raises:
        ValueError: On no layer, a non-positive number, an odd H_k that would be split, or an input that is not `(B, F, D)`.

    Source: xDeepFM (arXiv:1803.05170, section 3.2, Eq. 6). Deviations: none by default; the half split, biases and activations are those of
    public implementations.

    Computation: `X^{k-1}` is multiplied with W first, as one plain matrix product with B and D merged, and the result contracted with X^0:
    half the memory traffic of building the outer products.
    """

    def __init__(
        self,
        units=(64, 64),
        *,
        activation=None,
        split_half=False,
        use_bias=False,
        field_chunk=None,
        kernel_initializer="glorot_uniform",
        kernel_regularizer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.units = check_units(self, "units", units)
        if not self.units:
            raise ValueError(f"CompressedInteraction '{self.name}': units is empty; give the feature maps of at least one layer")
        odd = [u for u in self.units[:-1] if u % 2]
        if split_half and odd:
            raise ValueError(f"CompressedInteraction '{self.name}': split_half needs even units in all layers but the last, got {odd[0]}")
        if field_chunk is not None:
            check_int(self, "field_chunk", field_chunk)
        self.activation = keras.activations.get(activation)
        self.split_half = split_half
        self.use_bias = use_bias
        self.field_chunk = field_chunk
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)

    def build(self, inputs_shape):
        if len(inputs_shape) != 3 or None in tuple(inputs_shape[1:]):
            raise ValueError(f"CompressedInteraction '{self.name}' needs tokens (B, F, D), F and D known, got {tuple(inputs_shape)}")
        fields = maps = inputs_shape[1]
        self.kernels, self.biases = [], []
        for layer, units in enumerate(self.units):
            self.kernels.append(
                self.add_weight(
                    name=f"kernel_{layer}",
                    shape=(maps * fields, units),
                    initializer=clone_initializer(self.kernel_initializer, layer),
                    regularizer=self.kernel_regularizer,
                )
            )
            if self.use_bias:
                self.biases.append(self.add_weight(name=f"bias_{layer}", shape=(units,), initializer="zeros"))
            maps = self._split(layer)[0]
        self.built = True

    def _split(self, layer):
        """Returns how many maps of a layer go on and how many of them, from the end, go out."""
        units = self.units[layer]
        halved = self.split_half and layer < len(self.units) - 1
        return (units // 2, units // 2) if halved else (units, units)

    def call(self, inputs):
        fields, width = inputs.shape[1:]
        x = x0 = ops.reshape(ops.transpose(inputs, (0, 2, 1)), (-1, fields))  # (B D, F)
        pooled = []
        for layer, units in enumerate(self.units):
            kernel = ops.reshape(self.kernels[layer], (-1, fields, units))  # (H, F, U)
            x = interact(x, x0, kernel, self.field_chunk)  # (B D, U)
            if self.use_bias:
                x = x + self.biases[layer]
            x = self.activation(x)
            on, out = self._split(layer)
            # In float32: D terms of either sign.
            total = ops.sum(ops.cast(ops.reshape(x[:, units - out :], (-1, width, out)), self.sum_dtype), axis=1)  # (B, out)
            pooled.append(ops.cast(total, self.compute_dtype))
            x = x[:, :on]
        return pooled[0] if len(pooled) == 1 else ops.concatenate(pooled, axis=-1)  # (B, K)

    @property
    def sum_dtype(self):
        """Dtype of the sums over D: float32, or float64 when the layer computes in it."""
        return keras.backend.result_type(self.compute_dtype, "float32")

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], sum(self._split(layer)[1] for layer in range(len(self.units))))

    def get_config(self):
        return {
            **super().get_config(),
            "units": list(self.units),
            "activation": keras.activations.serialize(self.activation),
            "split_half": self.split_half,
            "use_bias": self.use_bias,
            "field_chunk": self.field_chunk,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }


def interact(x, x0, kernel, field_chunk=None):
    """Returns `y_nu = sum_{h,f} x_nh x0_nf kernel_hfu`.

    Args:
        x: `(N, H)`.
        x0: `(N, F)`.
        kernel: `(H, F, U)`.
        field_chunk: Fields at a time, None for all.
    """
    fields = x0.shape[1]
    if field_chunk is None or field_chunk >= fields:
        return contract(x0, multiply(x, kernel))
    spare = -fields % field_chunk  # fields of zeros, so that all chunks have one size
    padded = ops.pad(x0, ((0, 0), (0, spare))), ops.pad(kernel, ((0, 0), (0, spare), (0, 0)))
    return _in_chunks(field_chunk)(x, *padded)


def multiply(x, kernel):
    """Returns `sum_h x_nh kernel_hfu`, as one plain matrix product: `(N, H), (H, F, U) -> (N, F, U)`."""
    maps, fields, units = kernel.shape
    return ops.reshape(ops.matmul(x, ops.reshape(kernel, (maps, fields * units))), (-1, fields, units))


def contract(x0, product):
    """Returns `sum_f x0_nf product_nfu`: `(N, F), (N, F, U) -> (N, U)`."""
    # Not a product of a row with a matrix for every n: so many small ones cost twice as much.
    return ops.sum(ops.expand_dims(x0, -1) * product, axis=1)


def _in_chunks(size):
    """Returns `interact` as a loop over chunks of `size` fields, which must divide F.

    The gradient is written out because automatic differentiation of a loop keeps every chunk's product.
    """

    @ops.custom_gradient
    def run(x, x0, kernel):
        maps, fields, units = kernel.shape
        rows, chunks = ops.shape(x)[0], fields // size
        wide = keras.backend.result_type(x.dtype, "float32")  # of sums over chunks

        def chunk(index):
            start = index * size
            return ops.slice(x0, (0, start), (rows, size)), ops.slice(kernel, (0, start, 0), (maps, size, units))

        def forward(index, total):
            values, part = chunk(index)  # (N, C), (H, C, U)
            return total + ops.cast(contract(values, multiply(x, part)), wide)  # (N, U)

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream  # (N, U); PyTorch hands it over by name

            def backward(index, gradients):
                to_x, to_x0, to_kernel = gradients
                values, part = chunk(index)
                from_x0 = ops.sum(multiply(x, part) * ops.expand_dims(upstream, 1), axis=-1)  # (N, C)
                outer = ops.reshape(ops.expand_dims(values, -1) * ops.expand_dims(upstream, 1), (-1, size * units))  # (N, C U)
                from_x = ops.matmul(outer, ops.transpose(ops.reshape(part, (maps, size * units))))  # (N, H)
                from_kernel = ops.reshape(ops.matmul(ops.transpose(x), outer), (maps, size, units))  # (H, C, U)
                return (
                    to_x + ops.cast(from_x, wide),
                    ops.slice_update(to_x0, (0, index * size), from_x0),
                    ops.slice_update(to_kernel, (0, index * size, 0), from_kernel),
                )

            start = (ops.zeros_like(x, dtype=wide), ops.zeros_like(x0), ops.zeros_like(kernel))
            to_x, to_x0, to_kernel = ops.fori_loop(0, chunks, backward, start)
            return ops.cast(to_x, x.dtype), to_x0, to_kernel

        total = ops.fori_loop(0, chunks, forward, ops.zeros((rows, units), dtype=wide))
        return ops.cast(total, x.dtype), gradient

    return run
