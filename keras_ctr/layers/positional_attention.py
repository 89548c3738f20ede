"""Attention whose query differs from step to step: it knows the position of the event that it looks at."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_int, check_units
from keras_ctr.layers.cloning import clone_initializer
from keras_ctr.layers.dice import Dice
from keras_ctr.layers.interest_evolution import event_order


def activation_config(activation):
    """Returns `"dice"`, `"prelu"` or the configuration of a Keras activation.

    Raises:
        ValueError: If it is none of them.
    """
    return activation if activation in ("dice", "prelu") else keras.activations.serialize(keras.activations.get(activation))


def activation_layer(activation, **kwargs):
    """Returns the layer of an `activation_config`; its weights are one number for each entry of the last of three axes, or of two."""
    axes = kwargs.pop("shared_axes", None)
    if activation == "dice":
        return Dice(**kwargs)
    if activation == "prelu":
        return keras.layers.PReLU(alpha_initializer=keras.initializers.Constant(0.1), shared_axes=axes, **kwargs)
    return keras.layers.Activation(activation, **kwargs)


def hidden_activation(activation):
    """Returns what `MLP` takes as activation: a prototype for `"dice"` and `"prelu"`, any other name as it is."""
    return activation_layer(activation) if activation in ("dice", "prelu") else activation


def event_ages(mask):
    """Returns the number of valid steps after each step, int32 `(B, T)`: 0 for the newest event."""
    order = event_order(mask)
    return order[:, -1:] - order


@keras.saving.register_keras_serializable(package="keras_ctr")
class PositionQuery(keras.Layer):
    """A query for each step, from its position and what else is known: map `(B, T)[, (B, E)][, (B, T, C)] -> (B, T, D)`.

    `q_t = f( [e || p_t || c_t] W + b )`, p_t a learned vector for the age of step t: the number of valid steps after it, 0 for the newest
    event. Neither the side nor the amount of padding moves it. Parameters: `P max_positions + (E + P + C) D + D`, and D more with
    `"prelu"`.

    Args:
        units: D.
        activation: f: `"prelu"` or the name of a Keras activation; None = linear.
        position_dim: P.
        max_positions: Rows of p; older events share the last one.

    Call arguments:
        valid: `(B, T)` bool, True = valid: a mask, whose shape is that of the result.
        target: e, `(B, E)`; None = no such part.
        context: c, `(B, T, C)`; None = no such part.

    Raises:
        ValueError: On a non-positive size or an unknown activation.

    Source: DMR (Lyu et al., AAAI 2020), the queries of its two attentions; DMIN (Xiao et al., CIKM 2020). Deviations: positions count
    valid events from the newest, where the codes number the columns of a padded matrix.
    """

    def __init__(self, units, *, activation=None, position_dim=8, max_positions=100, **kwargs):
        super().__init__(**kwargs)
        check_int(self, "units", units)
        check_int(self, "position_dim", position_dim)
        check_int(self, "max_positions", max_positions)
        self.units = units
        self.activation = activation_config(activation)
        self.position_dim = position_dim
        self.max_positions = max_positions
        self.supports_masking = True

    def build(self, valid_shape, target_shape=None, context_shape=None):
        self.widths = tuple(0 if shape is None else shape[-1] for shape in (target_shape, context_shape))
        self.positions = self.add_weight(
            name="positions",
            shape=(self.max_positions, self.position_dim),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )
        inner = sum(self.widths) + self.position_dim
        self.kernel = self.add_weight(name="kernel", shape=(inner, self.units), initializer="glorot_uniform")
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")
        self.unit = activation_layer(self.activation, shared_axes=[1], name="activation", dtype=self.dtype_policy)
        self.unit.build((*tuple(valid_shape)[:2], self.units))
        self.built = True

    def call(self, valid, target=None, context=None, training=None):
        before, after = self.widths[0], self.widths[0] + self.position_dim
        kernel = ops.convert_to_tensor(self.kernel)
        # The positions are few: projected first, read after.
        rows = ops.matmul(ops.convert_to_tensor(self.positions), kernel[before:after]) + self.bias  # (max_positions, D)
        ages = ops.minimum(event_ages(valid), self.max_positions - 1)
        x = ops.take(rows, ages, axis=0)  # (B, T, D)
        if before:
            x = x + ops.expand_dims(ops.matmul(target, kernel[:before]), 1)
        if self.widths[1]:
            x = x + ops.matmul(context, kernel[after:])
        return self.unit(x, mask=valid, training=training) if isinstance(self.unit, Dice) else self.unit(x)

    def compute_mask(self, valid, previous_mask=None):
        return None  # the caller has the mask

    def compute_output_shape(self, valid_shape, target_shape=None, context_shape=None):
        return (*tuple(valid_shape)[:2], self.units)

    def compute_output_spec(self, valid, target=None, context=None, training=None):
        return keras.KerasTensor(self.compute_output_shape(valid.shape), dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "activation": self.activation,
            "position_dim": self.position_dim,
            "max_positions": self.max_positions,
        }


@keras.saving.register_keras_serializable(package="keras_ctr")
class EventScore(keras.Layer):
    """Scores each event against the query of its own step: pool `(B, T, D), (B, T, D) -> (B, T)`.

    `a_t = MLP([q_t || s_t || q_t - s_t || q_t * s_t])`, the MLP's last layer linear with one output. Padded steps have scores too.
    Parameters: those of the MLP on 4D inputs, u more for every hidden layer of width u with Dice, 1 less without `score_bias`.

    Args:
        hidden_units: Widths of the MLP's hidden layers, at least one.
        activation: `"dice"`, `"prelu"` or the name of a Keras activation.
        score_bias: Whether the last layer has a bias. A softmax over the steps does not see it.

    Call arguments:
        query: q, `(B, T, D)`.
        sequence: s, `(B, T, D)`.
        mask: `(B, T)` bool, True = valid; None = all valid. Only the training statistics of Dice depend on it.

    Raises:
        ValueError: On a missing or non-positive width, an unknown activation, or if query and sequence differ in width.

    Source: DMR (Lyu et al., AAAI 2020) and DMIN (Xiao et al., CIKM 2020), by the local activation unit of DIN (arXiv:1706.06978).

    The first layer is computed as `q (W1 + W3) + s (W2 - W3) + (q * s) W4`, as in `TargetAttention`.
    """

    def __init__(self, hidden_units=(80, 40), *, activation="sigmoid", score_bias=True, **kwargs):
        super().__init__(**kwargs)
        self.hidden_units = check_units(self, "hidden_units", hidden_units)
        if not self.hidden_units:
            raise ValueError(f"EventScore '{self.name}': hidden_units is empty; give the network at least one hidden layer")
        self.activation = activation_config(activation)
        self.score_bias = score_bias
        self.supports_masking = True

    def build(self, query_shape, sequence_shape):
        width, policy = sequence_shape[-1], self.dtype_policy
        if query_shape[-1] != width:
            raise ValueError(f"EventScore '{self.name}' needs a query and a sequence of equal width, got {query_shape[-1]} and {width}")
        initializer = keras.initializers.GlorotUniform()
        shape = (*tuple(sequence_shape)[:2], self.hidden_units[0])
        self.kernel = self.add_weight(name="kernel", shape=(4 * width, shape[-1]), initializer=initializer)
        self.bias = self.add_weight(name="bias", shape=shape[-1:], initializer="zeros")
        self.dense, self.units = [], []
        for index, units in enumerate(self.hidden_units):
            if index:
                dense = keras.layers.Dense(units, kernel_initializer=clone_initializer(initializer), name=f"dense_{index}", dtype=policy)
                dense.build(shape)
                self.dense.append(dense)
                shape = (*shape[:2], units)
            self.units.append(activation_layer(self.activation, shared_axes=[1], name=f"activation_{index}", dtype=policy))
            self.units[-1].build(shape)
        self.score = keras.layers.Dense(1, use_bias=self.score_bias, name="score", dtype=policy)
        self.score.build(shape)
        self.built = True

    def call(self, query, sequence, mask=None, training=None):
        of_query, of_event, of_difference, of_product = ops.split(ops.convert_to_tensor(self.kernel), 4, axis=0)  # (D, u) each
        x = ops.matmul(query, of_query + of_difference) + ops.matmul(sequence, of_event - of_difference)
        x = x + ops.matmul(query * sequence, of_product) + self.bias  # (B, T, u)
        for index, unit in enumerate(self.units):
            x = self.dense[index - 1](x) if index else x
            # Dice only: the plain activations know no mask.
            x = unit(x, mask=mask, training=training) if isinstance(unit, Dice) else unit(x)
        return ops.squeeze(self.score(x), -1)  # (B, T)

    def compute_mask(self, query, sequence, mask=None, previous_mask=None):
        return None  # the caller has the mask

    def compute_output_shape(self, query_shape, sequence_shape):
        return tuple(sequence_shape)[:2]

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_units": list(self.hidden_units),
            "activation": self.activation,
            "score_bias": self.score_bias,
        }
