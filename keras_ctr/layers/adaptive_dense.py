"""Adaptive parameter generation: a dense layer whose small core is made for each row."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_choice, check_int, check_units
from keras_ctr.layers.cloning import clone_initializer
from keras_ctr.layers.mlp import MLP


@keras.saving.register_keras_serializable(package="keras_ctr")
class AdaptiveDense(keras.Layer):
    """Dense layer with a matrix of low rank that depends on the row: vector `(B, N), (B, C) -> (B, M)`.

    ```
    y = f( ((x U) S(z)) V + b )          U (N, K), V (K, M) shared;  S(z) = I + reshape_{K x K}( MLP(z) )
    over-parameterised:                  U = U_l U_r, V = V_l V_r    U_l (N, P), U_r (P, K), V_l (K, P), V_r (P, M)
    ```

    z is the condition, or x itself where none is given. The products are taken from the left, so that no row ever has its `(N, M)` matrix:
    B (N K + K^2 + K M) operations. With S constant this is a static dense layer of rank K, `U S V`. Parameters: `N K + K M` (or
    `N P + 2 P K + P M`), b, and those of the MLP `C -> hidden_units -> K^2`, linear at its end.

    Args:
        units: M.
        rank: K.
        over_rank: P >= K for the over-parameterised form, or None. Training has more parameters to move; afterwards `folded_weights`
            gives those of the plain form with the same outputs.
        bias: `"static"`, one b for all rows; `"adaptive"`, b(z), M further outputs of the MLP; `"none"`.
        identity: Whether I stands in S. Without it S is the MLP alone.
        hidden_units: Widths of the MLP's hidden layers.
        activation: f, or None.
        kernel_initializer: Of each factor.

    Call arguments:
        inputs: `(B, N)` x.
        condition: `(B, C)` z, or None for z = x (self-wise).

    Raises:
        ValueError: On a non-positive width or rank, an `over_rank` below `rank`, or an unknown `bias`.

    Source: APG (arXiv:2203.16218, section 3: low-rank parameterisation, decomposed feed-forward, parameter sharing, over
    parameterisation). Deviations: I. The MLP's output is as small as the embeddings it reads, so a stack of such layers would start with
    outputs and gradients near 0; with I it starts near the static layer, and what it can express is the same (`identity=False` for the
    letter). The paper's equations have no bias; a static one is added as dense layers have, the adaptive one is a public
    implementation's.
    """

    BIASES = ("static", "adaptive", "none")

    def __init__(
        self,
        units,
        *,
        rank=8,
        over_rank=None,
        bias="static",
        identity=True,
        hidden_units=(),
        activation=None,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_int(self, "units", units)
        check_int(self, "rank", rank)
        if over_rank is not None:
            check_int(self, "over_rank", over_rank, least=rank)
        check_choice(self, "bias", bias, self.BIASES)
        self.units = units
        self.rank = rank
        self.over_rank = over_rank
        self.bias = bias
        self.identity = identity
        self.hidden_units = check_units(self, "hidden_units", hidden_units)
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, inputs_shape, condition_shape=None):
        width, rank, over = inputs_shape[-1], self.rank, self.over_rank
        shapes = {"kernel_u": (width, rank), "kernel_v": (rank, self.units)}
        if over is not None:
            shapes = {
                "kernel_u_left": (width, over),
                "kernel_u_right": (over, rank),
                "kernel_v_left": (rank, over),
                "kernel_v_right": (over, self.units),
            }
        self.factors = [
            self.add_weight(name=name, shape=shape, initializer=clone_initializer(self.kernel_initializer, index))
            for index, (name, shape) in enumerate(shapes.items())
        ]
        if self.bias == "static":
            self.bias_weight = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")
        outputs = rank * rank + (self.units if self.bias == "adaptive" else 0)
        self.generator = MLP(self.hidden_units, output_units=outputs, name="generator", dtype=self.dtype_policy)
        self.generator.build((None, (inputs_shape if condition_shape is None else condition_shape)[-1]))
        self.built = True

    def kernels(self):
        """Returns U `(N, K)` and V `(K, M)`, multiplied out."""
        if self.over_rank is None:
            return tuple(self.factors)
        u_left, u_right, v_left, v_right = self.factors
        return ops.matmul(u_left, u_right), ops.matmul(v_left, v_right)

    def folded_weights(self):
        """Returns the weights of the layer with `over_rank=None` and the same outputs, as a list of arrays for its `set_weights`."""
        return [ops.convert_to_numpy(kernel) for kernel in self.kernels()] + self.get_weights()[len(self.factors) :]

    def call(self, inputs, condition=None):
        kernel_u, kernel_v = self.kernels()
        generated = self.generator(inputs if condition is None else condition)  # (B, K^2 [+ M])
        core = ops.reshape(generated[:, : self.rank**2], (-1, self.rank, self.rank))  # (B, K, K)
        low = ops.matmul(inputs, kernel_u)  # (B, K)
        moved = ops.squeeze(ops.matmul(ops.expand_dims(low, 1), core), 1)  # (B, K)
        moved = moved + low if self.identity else moved
        y = ops.matmul(moved, kernel_v)  # (B, M)
        if self.bias == "static":
            y = y + self.bias_weight
        elif self.bias == "adaptive":
            y = y + generated[:, self.rank**2 :]
        return self.activation(y)

    def compute_output_shape(self, inputs_shape, condition_shape=None):
        return (inputs_shape[0], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "rank": self.rank,
            "over_rank": self.over_rank,
            "bias": self.bias,
            "identity": self.identity,
            "hidden_units": list(self.hidden_units),
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
