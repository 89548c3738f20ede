"""Mixtures of experts: small networks on one input, and gates that mix them for each task."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_int, check_units
from keras_ctr.layers.mlp import MLP

_MLP_OPTIONS = ("activation", "dropout", "batch_norm")


@keras.saving.register_keras_serializable(package="keras_ctr")
class ExpertGate(keras.Layer):
    """Weights of experts: vector `(B, N) -> (B, E)`, positive, with sum 1, in float32 under every dtype policy.

    `g = softmax(W MLP(x))`, W without a bias; without hidden layers `g = softmax(W x)`. Parameters: those of the MLP, M wide at its end,
    and `M E`.

    Args:
        num_experts: E, at least 2: one expert has the weight 1 whatever a gate says.
        hidden_units: Widths of hidden layers; empty for the linear gate of the papers.
        activation, dropout, batch_norm: Of the hidden layers, see `layers.MLP`.

    Raises:
        ValueError: On an argument out of range.

    Source: Ma et al., KDD 2018 (MMoE), section 4.2. Hidden layers are those of public implementations.
    """

    def __init__(self, num_experts, hidden_units=(), *, activation="relu", dropout=0.0, batch_norm=False, **kwargs):
        super().__init__(**kwargs)
        check_int(self, "num_experts", num_experts, least=2)
        self.num_experts = num_experts
        self.hidden_units = check_units(self, "hidden_units", hidden_units)
        self._options = _mlp_options(activation, dropout, batch_norm)

    def build(self, input_shape):
        self.hidden = MLP.from_config({**self._options, "hidden_units": self.hidden_units, "name": "hidden", "dtype": self.dtype_policy})
        self.hidden.build(input_shape)
        self.scores = keras.layers.Dense(self.num_experts, use_bias=False, name="scores", dtype="float32")
        self.scores.build(self.hidden.compute_output_shape(input_shape))
        self.built = True

    def call(self, inputs, training=None):
        return ops.softmax(self.scores(self.hidden(inputs, training=training)))  # (B, E)

    def compute_output_shape(self, input_shape):
        return (tuple(input_shape)[0], self.num_experts)

    def compute_output_spec(self, inputs, training=None):
        return keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype="float32")

    def get_config(self):
        return {**super().get_config(), "num_experts": self.num_experts, "hidden_units": list(self.hidden_units), **self._options}

    @classmethod
    def from_config(cls, config):
        return cls(**_with_activation(config))


class ExpertLayer(keras.Layer):
    """What layers of experts share: the arguments of experts and gates, and how these are made. Not for use by itself.

    Args:
        num_tasks: L.
        expert_units: Widths of an expert's layers, all with the activation; at least one.
        gate_units: Widths of a gate's hidden layers.
        activation: Name of a Keras activation, or a layer prototype that is cloned for every layer of the experts and gates.
        dropout: Share of units dropped in training after each of these layers.
        batch_norm: Whether to normalise before each activation.

    Raises:
        ValueError: On an argument out of range.
    """

    def __init__(
        self, num_tasks, *, expert_units=(512, 256, 128), gate_units=(), activation="relu", dropout=0.0, batch_norm=False, **kwargs
    ):
        super().__init__(**kwargs)
        check_int(self, "num_tasks", num_tasks)
        self.num_tasks = num_tasks
        self.expert_units = check_units(self, "expert_units", expert_units)
        if not self.expert_units:
            raise ValueError(f"{type(self).__name__} '{self.name}': expert_units is empty; experts need at least one layer")
        self.gate_units = check_units(self, "gate_units", gate_units)
        self._options = _mlp_options(activation, dropout, batch_norm)

    def make_experts(self, count, name, width):
        """Returns `count` built experts on `(B, width)`, named `<name>_0`, `<name>_1`, ..."""
        experts = []
        for index in range(count):
            expert = MLP.from_config(
                {**self._options, "hidden_units": self.expert_units, "name": f"{name}_{index}", "dtype": self.dtype_policy}
            )
            expert.build((None, width))
            experts.append(expert)
        return experts

    def make_gate(self, num_experts, name, width):
        """Returns a built gate on `(B, width)`, or None for a single expert: its weight is 1, and no gate would learn anything."""
        if num_experts == 1:
            return None
        gate = ExpertGate.from_config(
            {**self._options, "num_experts": num_experts, "hidden_units": self.gate_units, "name": name, "dtype": self.dtype_policy}
        )
        gate.build((None, width))
        return gate

    def get_config(self):
        return {
            **super().get_config(),
            "num_tasks": self.num_tasks,
            "expert_units": list(self.expert_units),
            "gate_units": list(self.gate_units),
            **self._options,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**_with_activation(config))


@keras.saving.register_keras_serializable(package="keras_ctr")
class MultiGateMixtureOfExperts(ExpertLayer):
    """Multi-gate mixture of experts: map `(B, N) -> (B, L, M)`, one mixture of the same experts a task, M = `expert_units[-1]`.

    ```
    f_i(x) = sum_k g_ik(x) e_k(x)        g_i(x) = softmax(W_i MLP_i(x))        i = 1 .. L tasks, k = 1 .. E experts
    ```

    An expert is an MLP with an activation at its end, too. A gate has no hidden layer by default, `g_i = softmax(W_i x)`, and is not built
    for E = 1: the layer is then the bottom that all tasks share. With `shared_gate` all tasks have the same gate, the one-gate mixture
    (OMoE) that the paper compares with. Parameters: `E mlp(N, expert_units) + G gate`, gate = `mlp(N, gate_units)` and its last width
    times E (N E without hidden layers), G = L, 1 with `shared_gate`, 0 for one expert.

    Args:
        num_tasks: L.
        num_experts: E.
        expert_units: Widths of an expert's layers.
        gate_units: Widths of a gate's hidden layers; empty for the linear gate of the paper.
        shared_gate: Whether one gate serves all tasks.
        activation: Name of a Keras activation, or a layer prototype that is cloned for every layer of the experts and gates.
        dropout: Share of units dropped in training after each layer of experts and gates (not after the softmax).
        batch_norm: Whether to normalise before each activation.

    Call arguments:
        inputs: `(B, N)`.
        return_attention: Whether to return `(out, g)`, g `(B, G, E)` float32, rows summing to 1; None for one expert.

    Raises:
        ValueError: On an argument out of range.

    Source: Ma et al., KDD 2018, section 4.2 (https://dl.acm.org/doi/10.1145/3219819.3220007).
    Deviations: none by default.
    """

    def __init__(
        self,
        num_tasks,
        num_experts=4,
        *,
        expert_units=(512, 256, 128),
        gate_units=(),
        shared_gate=False,
        activation="relu",
        dropout=0.0,
        batch_norm=False,
        **kwargs,
    ):
        options = {"activation": activation, "dropout": dropout, "batch_norm": batch_norm}
        super().__init__(num_tasks, expert_units=expert_units, gate_units=gate_units, **options, **kwargs)
        check_int(self, "num_experts", num_experts)
        self.num_experts = num_experts
        self.shared_gate = shared_gate

    def build(self, input_shape):
        width = tuple(input_shape)[-1]
        self.experts = self.make_experts(self.num_experts, "expert", width)
        gates = [self.make_gate(self.num_experts, f"gate_{i}", width) for i in range(1 if self.shared_gate else self.num_tasks)]
        self.gates = [gate for gate in gates if gate is not None]
        self.built = True

    def call(self, inputs, training=None, *, return_attention=False):
        experts = ops.stack([expert(inputs, training=training) for expert in self.experts], axis=1)  # (B, E, M)
        if not self.gates:
            out = ops.repeat(experts, self.num_tasks, axis=1)  # (B, L, M)
            return (out, None) if return_attention else out
        gates = ops.stack([gate(inputs, training=training) for gate in self.gates], axis=1)  # (B, G, E)
        out = mix(gates, experts)  # (B, G, M)
        if self.shared_gate:
            out = ops.repeat(out, self.num_tasks, axis=1)  # (B, L, M)
        return (out, gates) if return_attention else out

    def compute_output_shape(self, input_shape):
        return (tuple(input_shape)[0], self.num_tasks, self.expert_units[-1])

    def compute_output_spec(self, inputs, training=None, *, return_attention=False):
        out = keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=self.compute_dtype)
        if not return_attention:
            return out
        if self.num_experts == 1:
            return out, None
        gates = 1 if self.shared_gate else self.num_tasks
        return out, keras.KerasTensor((inputs.shape[0], gates, self.num_experts), dtype="float32")

    def get_config(self):
        return {**super().get_config(), "num_experts": self.num_experts, "shared_gate": self.shared_gate}


def mix(gates, experts):
    """Returns the sums `(B, G, M)` of experts `(B, E, M)`, weighed by gates `(B, G, E)`, in the dtype of the experts."""
    return ops.matmul(ops.cast(gates, experts.dtype), experts)


def _mlp_options(activation, dropout, batch_norm):
    """Returns checked options of an MLP as in its configuration: a prototype of the activation is no attribute that Keras would track."""
    config = MLP((), activation=activation, dropout=dropout, batch_norm=batch_norm).get_config()
    return {key: config[key] for key in _MLP_OPTIONS}


def _with_activation(config):
    """Returns a configuration whose activation, if it is that of a layer, is the layer."""
    if isinstance(config.get("activation"), dict):
        return {**config, "activation": keras.saving.deserialize_keras_object(config["activation"])}
    return config
