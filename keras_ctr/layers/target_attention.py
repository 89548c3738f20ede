"""Target attention of DIN: how much each past event matters for the candidate at hand."""

import keras
from keras import ops

from keras_ctr.layers.cloning import clone_initializer
from keras_ctr.layers.dice import Dice


@keras.saving.register_keras_serializable(package="keras_ctr")
class TargetAttention(keras.Layer):
    """Local activation unit and weighted sum: pool `(B, D), (B, T, D) -> (B, D)`.

    `a_t = MLP([e || s_t || e - s_t || e * s_t])`, `y = sum_{t valid} a_t s_t`, with the MLP's last layer linear with one output. An empty
    history gives zeros. Parameters: those of the MLP on 4D inputs, and u more for every hidden layer of width u with Dice.

    Args:
        hidden_units: Widths of the MLP's hidden layers, at least one.
        activation: `"dice"` or the name of a Keras activation.
        use_softmax: Whether the weights are normalised over the valid steps, `a = softmax(a)`. The paper does not: the sum then also
            tells how strong the interest is.
        masked_stats: `masked_stats` of `Dice`.
        kernel_initializer: Keras initializer of the dense kernels.
        return_attention: Whether to return `(y, a)`, a `(B, T)`, zeros at hidden steps, where the call does not say.

    Call arguments:
        target: e, the candidate, `(B, D)`.
        sequence: s, the events, `(B, T, D)`.
        mask: bool `(B, T)`, True = valid; None = all valid.
        return_attention: Whether this call returns `(y, a)`; None = as the layer was made.

    Raises:
        ValueError: On a missing or non-positive width, or if target and sequence differ in width.

    Source: DIN (Zhou et al. 2018, arXiv:1706.06978), equation 3.1 and figure 2; input and widths as in the code its authors published
    (the paper's text has one hidden layer of 36 and an outer product, the published codes difference and product).

    The first layer is computed as `e (W1 + W3) + s_t (W2 - W3) + (e * s_t) W4`, W1..W4 the four row blocks of its kernel: the same
    function without the `(B, T, 4D)` tensor.
    """

    def __init__(
        self,
        hidden_units=(80, 40),
        *,
        activation="dice",
        use_softmax=False,
        masked_stats=True,
        kernel_initializer="glorot_uniform",
        return_attention=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.hidden_units = tuple(hidden_units)
        if not self.hidden_units or any(not isinstance(units, int) or units < 1 for units in self.hidden_units):
            raise ValueError(f"TargetAttention '{self.name}': hidden_units must be one or more positive ints, got {hidden_units!r}")
        self.activation = activation if activation == "dice" else keras.activations.get(activation)
        self.use_softmax = use_softmax
        self.masked_stats = masked_stats
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.return_attention = return_attention
        self.supports_masking = True
        self.dense, self.activations = [], []
        for index, units in enumerate(self.hidden_units):
            if index:
                self.dense.append(self._dense(units, index, f"dense_{index}"))
            name = f"activation_{index}"
            if activation == "dice":
                self.activations.append(Dice(masked_stats=masked_stats, name=name, dtype=self.dtype_policy))
            else:
                self.activations.append(keras.layers.Activation(self.activation, name=name, dtype=self.dtype_policy))
        self.score = self._dense(1, len(self.hidden_units), "score")

    def _dense(self, units, index, name):
        initializer = clone_initializer(self.kernel_initializer, index)
        return keras.layers.Dense(units, kernel_initializer=initializer, name=name, dtype=self.dtype_policy)

    def build(self, target_shape, sequence_shape):
        width = sequence_shape[-1]
        if len(target_shape) != 2 or len(sequence_shape) != 3 or width is None or target_shape[-1] != width:
            raise ValueError(
                f"TargetAttention '{self.name}' needs a target (B, D) and a sequence (B, T, D) of equal width, "
                f"got {tuple(target_shape)} and {tuple(sequence_shape)}"
            )
        first = self.hidden_units[0]
        initializer = clone_initializer(self.kernel_initializer)
        self.kernel = self.add_weight(name="kernel", shape=(4 * width, first), initializer=initializer)
        self.bias = self.add_weight(name="bias", shape=(first,), initializer="zeros")
        shape = (*tuple(sequence_shape)[:2], first)
        for index, activation in enumerate(self.activations):
            if index:
                self.dense[index - 1].build(shape)
                shape = (*shape[:2], self.hidden_units[index])
            activation.build(shape)
        self.score.build(shape)
        self.built = True

    def call(self, target, sequence, mask=None, training=None, *, return_attention=None):
        width, steps = sequence.shape[-1], ops.shape(sequence)[1]
        of_target, of_event, of_difference, of_product = ops.split(ops.convert_to_tensor(self.kernel), 4, axis=0)  # (D, u) each
        fixed = ops.matmul(target, of_target + of_difference) + self.bias  # (B, u)
        product = sequence * ops.expand_dims(target, 1)  # (B, T, D)
        events = ops.matmul(ops.reshape(sequence, (-1, width)), of_event - of_difference)  # (B T, u)
        events = events + ops.matmul(ops.reshape(product, (-1, width)), of_product)
        x = ops.reshape(events, (-1, steps, events.shape[-1])) + ops.expand_dims(fixed, 1)  # (B, T, u)
        for index, activation in enumerate(self.activations):
            x = self.dense[index - 1](x) if index else x
            # Dice only: the plain activations know no mask.
            x = activation(x, mask=mask, training=training) if isinstance(activation, Dice) else activation(x)
        weights = self._weights(ops.squeeze(self.score(x), -1), mask)  # (B, T)
        pooled = ops.squeeze(ops.matmul(ops.expand_dims(weights, 1), sequence), 1)  # (B, D)
        return (pooled, weights) if self._returns_attention(return_attention) else pooled

    def _returns_attention(self, asked):
        return self.return_attention if asked is None else asked

    def _weights(self, scores, mask):
        if self.use_softmax:
            scores = ops.cast(scores, "float32")
            if mask is not None:
                scores = ops.where(mask, scores, -1e9)
            scores = ops.softmax(scores, axis=-1)
        if mask is not None:
            # After the softmax too: a history without any valid step must weigh nothing, not 1/T each.
            scores = ops.where(mask, scores, 0.0)
        return ops.cast(scores, self.compute_dtype)

    def compute_mask(self, target, sequence, mask=None, previous_mask=None):
        return None

    def compute_output_shape(self, target_shape, sequence_shape):
        pooled = (sequence_shape[0], sequence_shape[2])
        return (pooled, tuple(sequence_shape)[:2]) if self.return_attention else pooled

    def compute_output_spec(self, target, sequence, mask=None, training=None, *, return_attention=None):
        pooled, weights = (keras.KerasTensor(s, dtype=self.compute_dtype) for s in (sequence.shape[::2], sequence.shape[:2]))
        return (pooled, weights) if self._returns_attention(return_attention) else pooled

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_units": list(self.hidden_units),
            "activation": "dice" if self.activation == "dice" else keras.activations.serialize(self.activation),
            "use_softmax": self.use_softmax,
            "masked_stats": self.masked_stats,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "return_attention": self.return_attention,
        }
