"""Cross network of DCN and DCN V2: explicit bit-wise interactions of bounded degree."""

import keras
from keras import ops

from keras_ctr.layers.cloning import clone_initializer

PARAMETERIZATIONS = ("matrix", "vector", "low_rank", "mixture")


@keras.saving.register_keras_serializable(package="keras_ctr")
class CrossNetwork(keras.Layer):
    """Stack of cross layers. Kind: vector `(B, N) -> (B, N)`.

    With `x_0` the input and one layer `l` of `num_layers`:

    ```
    vector    x_{l+1} = x_0 (x_l . w_l) + b_l + x_l                                          2N weights
    matrix    x_{l+1} = x_0 * (W_l x_l + b_l) + x_l                                          N^2 + N
    low_rank  W_l = U_l V_l^T                                                                2NK + N
    mixture   x_{l+1} = sum_e g_e(x_l) x_0 * (U_e f(C_e f(V_e^T x_l)) + b_l) + x_l           E(2NK + K^2 + N) + N
              g(x) = softmax(G_l x), f = tanh
    ```

    `x_l` holds every product of at most `l + 1` elements of the input.

    Args:
        num_layers: number of cross layers, at least 0; 0 returns the input.
        parameterization: `"matrix"` (DCN V2), `"vector"` (DCN), `"low_rank"` or `"mixture"` (DCN V2). `None` means `"low_rank"` when
            `rank` is given, else `"matrix"`.
        rank: K, width of the factors of `"low_rank"` and `"mixture"`; refused with the other two.
        num_experts: E, experts a layer of `"mixture"`.
        activation: `f` of `"mixture"`.
        kernel_initializer: of every kernel (each factor alone).
        bias_initializer: of every bias.
        kernel_regularizer: of every kernel.
        **kwargs: `keras.Layer` arguments (`name`, `dtype`).

    Call arguments:
        inputs: `(B, N)`.

    Returns:
        `(B, N)`, the compute dtype.

    Raises:
        ValueError: an argument is out of its range, `rank` is missing for or meaningless to the parameterization, or the input is not
            of rank 2 with a known width.

    Source: DCN (arXiv:1708.05123, Eq. 3); DCN V2 (arXiv:2008.13535, Eq. 1 to 4).
    Deviations: none in the equations. The paper's mixture puts one gate on each layer, as here; public implementations share one gate over
    all layers. Its bias is inside the sum over experts and the gates sum to 1, so one bias per layer is the whole of it.

    Precision: matrix products run in the compute dtype; the running x_l is kept in float32 and cast at the end, since it grows with l.
    """

    def __init__(
        self,
        num_layers=3,
        *,
        parameterization=None,
        rank=None,
        num_experts=4,
        activation="tanh",
        kernel_initializer="glorot_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if parameterization is None:
            parameterization = "matrix" if rank is None else "low_rank"
        if num_layers < 0:
            raise ValueError(f"CrossNetwork: num_layers must be at least 0, got {num_layers}.")
        if parameterization not in PARAMETERIZATIONS:
            raise ValueError(f"CrossNetwork: parameterization must be one of {PARAMETERIZATIONS}, got {parameterization!r}.")
        factored = parameterization in ("low_rank", "mixture")
        if factored and (rank is None or rank < 1):
            raise ValueError(f"CrossNetwork: parameterization={parameterization!r} needs a positive integer rank, got rank={rank!r}.")
        if not factored and rank is not None:
            raise ValueError(f"CrossNetwork: rank={rank} has no meaning with {parameterization!r}; use 'low_rank' or 'mixture'.")
        if num_experts < 1:
            raise ValueError(f"CrossNetwork: num_experts must be at least 1, got {num_experts}.")
        self.num_layers = num_layers
        self.parameterization = parameterization
        self.rank = rank
        self.num_experts = num_experts
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)

    def build(self, input_shape):
        if len(input_shape) != 2 or input_shape[-1] is None:
            raise ValueError(f"CrossNetwork needs an input (B, N) with N known, got {tuple(input_shape)}: flatten the fields first.")
        width, rank, experts = input_shape[-1], self.rank, self.num_experts
        shapes = {
            "vector": {"kernel": (width, 1)},
            "matrix": {"kernel": (width, width)},
            "low_rank": {"kernel_v": (width, rank), "kernel_u": (rank, width)},
            "mixture": {
                "kernel_v": (experts, width, rank),
                "kernel_c": (experts, rank, rank),
                "kernel_u": (experts, rank, width),
                "kernel_gate": (width, experts),
            },
        }[self.parameterization]
        self.cross_weights = []
        for layer in range(self.num_layers):
            weights = {}
            for number, (name, shape) in enumerate(shapes.items()):
                index = (layer * len(shapes) + number) * experts
                weights[name] = self.add_weight(
                    name=f"{name}_{layer}",
                    shape=shape,
                    initializer=self._initializer(index, stacked=len(shape) == 3),
                    regularizer=self.kernel_regularizer,
                )
            weights["bias"] = self.add_weight(name=f"bias_{layer}", shape=(width,), initializer=self.bias_initializer)
            self.cross_weights.append(weights)
        self.built = True

    def _initializer(self, index, *, stacked):
        """Each expert of a stacked `(E, in, out)` weight is drawn by itself: the fans are those of one expert."""
        if not stacked:
            return clone_initializer(self.kernel_initializer, index)

        def draw(shape, dtype=None):
            return ops.stack([clone_initializer(self.kernel_initializer, index + e)(shape[1:], dtype=dtype) for e in range(shape[0])])

        return draw

    def call(self, inputs):
        x0 = x = ops.cast(inputs, keras.backend.result_type(self.compute_dtype, "float32"))  # (B, N)
        step = getattr(self, f"_{self.parameterization}_step")
        for weights in self.cross_weights:
            x = step(x0, ops.cast(x, self.compute_dtype), weights) + x  # (B, N)
        return ops.cast(x, self.compute_dtype)

    def _vector_step(self, x0, x, weights):
        return x0 * ops.cast(ops.matmul(x, weights["kernel"]), x0.dtype) + ops.cast(weights["bias"], x0.dtype)  # (B, N) * (B, 1)

    def _matrix_step(self, x0, x, weights):
        return x0 * ops.cast(ops.matmul(x, weights["kernel"]) + weights["bias"], x0.dtype)  # (B, N)

    def _low_rank_step(self, x0, x, weights):
        low = ops.matmul(x, weights["kernel_v"])  # (B, K)
        return x0 * ops.cast(ops.matmul(low, weights["kernel_u"]) + weights["bias"], x0.dtype)  # (B, N)

    def _mixture_step(self, x0, x, weights):
        scores = ops.cast(ops.matmul(x, weights["kernel_gate"]), "float32")  # (B, E)
        gates = ops.cast(ops.softmax(scores, axis=-1), x.dtype)  # (B, E)
        low = self.activation(ops.matmul(ops.expand_dims(x, 0), weights["kernel_v"]))  # (E, B, K)
        low = self.activation(ops.matmul(low, weights["kernel_c"]))  # (E, B, K)
        # The gate may weigh the K-wide code instead of the N-wide output: the last map is linear.
        low = low * ops.expand_dims(ops.transpose(gates), -1)  # (E, B, K)
        out = ops.sum(ops.matmul(low, weights["kernel_u"]), axis=0)  # (B, N)
        return x0 * ops.cast(out + weights["bias"], x0.dtype)  # the gates sum to 1, so the bias counts once

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "parameterization": self.parameterization,
            "rank": self.rank,
            "num_experts": self.num_experts,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
        }
