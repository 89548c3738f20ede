"""Progressive layered extraction: experts of one task and experts of all, separated layer by layer."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_int, check_units
from keras_ctr.layers.experts import ExpertLayer, mix


@keras.saving.register_keras_serializable(package="keras_ctr")
class CustomizedGateControl(ExpertLayer):
    """Customized gate control (CGC): map `(B, N)` or `(B, L + 1, N) -> (B, L, M)`, or `(B, L + 1, M)` with the shared vector last.

    ```
    f_i = sum_k g_ik S_ik        g_i = softmax(W_i x_i)        S_i = [m_s experts of task i on x_i ; m_sh shared experts on x_sh]
    f_sh = sum_k g_k S_k         g   = softmax(W_sh x_sh)      S   = [experts of task 1 ; .. ; of task L ; shared experts]
    ```

    The last row of the input is x_sh; an input `(B, N)` is every x_i and x_sh. M = `expert_units[-1]`. Without specific experts (m_s = 0)
    tasks differ by their gates only, as in `layers.MultiGateMixtureOfExperts`. Where a gate would have one expert there is none.
    Parameters: `(L m_s + m_sh) mlp(N, expert_units) + L gate(m_s + m_sh) + gate(L m_s + m_sh)`, gate(E) = `mlp(N, gate_units)` and its last
    width times E (N E without hidden layers); the last term with `shared_output` only.

    Args:
        num_tasks: L.
        num_specific_experts: m_s, experts of each task.
        num_shared_experts: m_sh, experts of all tasks.
        shared_output: Whether the shared vector is made, for a layer that follows.
        expert_units: Widths of an expert's layers.
        gate_units: Widths of a gate's hidden layers; empty for the linear gate of the paper.
        activation: Name of a Keras activation, or a layer prototype that is cloned for every layer of the experts and gates.
        dropout: Share of units dropped in training after each layer of experts and gates (not after the softmax).
        batch_norm: Whether to normalise before each activation.

    Call arguments:
        inputs: `(B, N)` or `(B, L + 1, N)`; `(B, L, N)` without shared experts.
        return_attention: Whether to return `(out, {"tasks": (B, L, m_s + m_sh), "shared": (B, 1, L m_s + m_sh)})`, gates in float32, in the
            order above; None for what has no gate.

    Raises:
        ValueError: On an argument out of range, no expert at all, `shared_output` without shared experts (nobody would read it), or an
            input with another number of vectors.

    Source: Tang et al., RecSys 2020 (https://dl.acm.org/doi/10.1145/3383313.3412236), sections 4.1 and 4.2.
    Deviations: none by default.
    """

    def __init__(
        self,
        num_tasks,
        num_specific_experts=1,
        num_shared_experts=1,
        *,
        shared_output=False,
        expert_units=(512, 256, 128),
        gate_units=(),
        activation="relu",
        dropout=0.0,
        batch_norm=False,
        **kwargs,
    ):
        options = {"activation": activation, "dropout": dropout, "batch_norm": batch_norm}
        super().__init__(num_tasks, expert_units=expert_units, gate_units=gate_units, **options, **kwargs)
        check_expert_counts(self, num_specific_experts, num_shared_experts)
        if shared_output and not num_shared_experts:
            raise ValueError(f"{type(self).__name__} '{self.name}': without shared experts nobody reads a shared output")
        self.num_specific_experts = num_specific_experts
        self.num_shared_experts = num_shared_experts
        self.shared_output = shared_output

    def build(self, input_shape):
        shape, rows = tuple(input_shape), self.num_tasks + bool(self.num_shared_experts)
        if len(shape) not in (2, 3) or (len(shape) == 3 and shape[1] != rows):
            raise ValueError(
                f"{type(self).__name__} '{self.name}': the input must be (B, N), or (B, {rows}, N) with a vector for each of the "
                f"{self.num_tasks} tasks{' and a shared one' * bool(self.num_shared_experts)}, got {shape}"
            )
        width, own, shared = shape[-1], self.num_specific_experts, self.num_shared_experts
        # One flat list: task i owns the experts i m_s to (i + 1) m_s - 1.
        self.specific_experts = []
        for i in range(self.num_tasks):
            self.specific_experts += self.make_experts(own, f"task_{i}_expert", width)
        self.shared_experts = self.make_experts(shared, "shared_expert", width)
        gates = [self.make_gate(own + shared, f"gate_{i}", width) for i in range(self.num_tasks)]
        self.gates = [gate for gate in gates if gate is not None]
        self.shared_gate = self.make_gate(self.num_tasks * own + shared, "shared_gate", width) if self.shared_output else None
        self.built = True

    def call(self, inputs, training=None, *, return_attention=False):
        tasks, own = range(self.num_tasks), self.num_specific_experts
        rows = [inputs] * (self.num_tasks + 1) if len(inputs.shape) == 2 else ops.unstack(inputs, axis=1)  # (B, N) each
        specific = [[e(rows[i], training=training) for e in self.specific_experts[i * own : (i + 1) * own]] for i in tasks]
        shared = [e(rows[-1], training=training) for e in self.shared_experts]  # (B, M) each
        out, gates = [], []
        for i in tasks:
            mixed, gate = _gated(self.gates[i] if self.gates else None, rows[i], specific[i] + shared, training)
            out.append(mixed)
            gates.append(gate)
        attention = {"tasks": ops.concatenate(gates, axis=1) if self.gates else None, "shared": None}  # (B, L, m_s + m_sh)
        if self.shared_output:
            mixed, attention["shared"] = _gated(self.shared_gate, rows[-1], [*sum(specific, []), *shared], training)
            out.append(mixed)
        out = out[0] if len(out) == 1 else ops.concatenate(out, axis=1)  # (B, L [+ 1], M)
        return (out, attention) if return_attention else out

    def compute_output_shape(self, input_shape):
        return (tuple(input_shape)[0], self.num_tasks + bool(self.shared_output), self.expert_units[-1])

    def compute_output_spec(self, inputs, training=None, *, return_attention=False):
        out = keras.KerasTensor(self.compute_output_shape(inputs.shape), dtype=self.compute_dtype)
        if not return_attention:
            return out
        own, every = (n * self.num_specific_experts + self.num_shared_experts for n in (1, self.num_tasks))

        def spec(rows, experts):
            return keras.KerasTensor((inputs.shape[0], rows, experts), dtype="float32") if experts > 1 else None

        return out, {"tasks": spec(self.num_tasks, own), "shared": spec(1, every) if self.shared_output else None}

    def get_config(self):
        return {
            **super().get_config(),
            "num_specific_experts": self.num_specific_experts,
            "num_shared_experts": self.num_shared_experts,
            "shared_output": self.shared_output,
        }


@keras.saving.register_keras_serializable(package="keras_ctr")
class ProgressiveLayeredExtraction(ExpertLayer):
    """Progressive layered extraction (PLE): map `(B, N) -> (B, L, M)`, layers of `CustomizedGateControl` one on the other.

    `X_1 = CGC_1(x)`, `X_l = CGC_l(X_{l-1})` on the L task vectors and the shared one, which all layers but the last hand on; the output is
    the L task vectors of the last, M wide. One layer is the paper's CGC model; one layer without specific experts is
    `layers.MultiGateMixtureOfExperts`. Parameters: those of the layers, see there, the first with N and every other with the width of
    the experts before it.

    Args:
        num_tasks: L.
        num_layers: Layers.
        num_specific_experts: m_s, experts of each task in a layer.
        num_shared_experts: m_sh, experts of all tasks in a layer.
        expert_units: Widths of an expert's layers, alike in all layers; or a tuple of widths for each layer.
        gate_units: Widths of a gate's hidden layers; empty for the linear gate of the paper.
        activation: Name of a Keras activation, or a layer prototype that is cloned for every layer of the experts and gates.
        dropout: Share of units dropped in training after each layer of experts and gates (not after the softmax).
        batch_norm: Whether to normalise before each activation.

    Call arguments:
        inputs: `(B, N)`.
        return_attention: Whether to return `(out, {"cgc_0/tasks": .., "cgc_0/shared": .., ..})`, gates of every layer as
            `CustomizedGateControl` returns them; what has no gate is None.

    Raises:
        ValueError: On an argument out of range, no expert at all, or `expert_units` for another number of layers.

    Source: Tang et al., RecSys 2020 (https://dl.acm.org/doi/10.1145/3383313.3412236), section 4.2. Deviations: none by default.
    """

    def __init__(
        self,
        num_tasks,
        num_layers=2,
        *,
        num_specific_experts=1,
        num_shared_experts=1,
        expert_units=(512, 256, 128),
        gate_units=(),
        activation="relu",
        dropout=0.0,
        batch_norm=False,
        **kwargs,
    ):
        options = {"activation": activation, "dropout": dropout, "batch_norm": batch_norm}
        units = tuple(expert_units)
        layered = bool(units) and all(isinstance(u, (list, tuple)) for u in units)
        super().__init__(num_tasks, expert_units=units[-1] if layered else units, gate_units=gate_units, **options, **kwargs)
        check_int(self, "num_layers", num_layers)
        check_expert_counts(self, num_specific_experts, num_shared_experts)
        if layered and len(units) != num_layers:
            raise ValueError(
                f"ProgressiveLayeredExtraction '{self.name}': expert_units has widths for {len(units)} layers, there are {num_layers}"
            )
        self.num_layers = num_layers
        self.num_specific_experts = num_specific_experts
        self.num_shared_experts = num_shared_experts
        self.layer_units = [check_units(self, "expert_units", u) for u in units] if layered else [self.expert_units] * num_layers
        if not all(self.layer_units):
            raise ValueError(f"ProgressiveLayeredExtraction '{self.name}': expert_units is empty for a layer; experts need one at least")

    def build(self, input_shape):
        if len(tuple(input_shape)) != 2:
            raise ValueError(f"ProgressiveLayeredExtraction '{self.name}': the input must be (B, N), got {tuple(input_shape)}")
        shape, self.cgc_layers = tuple(input_shape), []
        for index, units in enumerate(self.layer_units):
            layer = CustomizedGateControl.from_config(
                {
                    **self._options,
                    "num_tasks": self.num_tasks,
                    "num_specific_experts": self.num_specific_experts,
                    "num_shared_experts": self.num_shared_experts,
                    "shared_output": bool(self.num_shared_experts) and index < self.num_layers - 1,
                    "expert_units": units,
                    "gate_units": self.gate_units,
                    "name": f"cgc_{index}",
                    "dtype": self.dtype_policy,
                }
            )
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
            self.cgc_layers.append(layer)
        self.built = True

    def call(self, inputs, training=None, *, return_attention=False):
        x, attention = inputs, {}
        for layer in self.cgc_layers:
            x, gates = layer(x, training=training, return_attention=True)  # (B, L [+ 1], M)
            attention.update({f"{layer.name}/{part}": gate for part, gate in gates.items()})
        return (x, attention) if return_attention else x

    def compute_output_shape(self, input_shape):
        return (tuple(input_shape)[0], self.num_tasks, self.expert_units[-1])

    def compute_output_spec(self, inputs, training=None, *, return_attention=False):
        x, attention = inputs, {}
        for layer in self.cgc_layers:
            x, gates = layer.compute_output_spec(x, return_attention=True)
            attention.update({f"{layer.name}/{part}": gate for part, gate in gates.items()})
        return (x, attention) if return_attention else x

    def get_config(self):
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "num_specific_experts": self.num_specific_experts,
            "num_shared_experts": self.num_shared_experts,
            "expert_units": [list(units) for units in self.layer_units],
        }


def check_expert_counts(layer, specific, shared):
    """Raises `ValueError` naming the layer unless both are counts and one of them is positive."""
    check_int(layer, "num_specific_experts", specific, least=0)
    check_int(layer, "num_shared_experts", shared, least=0)
    if not specific + shared:
        raise ValueError(f"{type(layer).__name__} '{layer.name}': there is no expert; give num_specific_experts or num_shared_experts")


def _gated(gate, x, experts, training):
    """Returns the mixture `(B, 1, M)` of a list of `(B, M)` and the gate's weights `(B, 1, E)`, None without a gate."""
    if gate is None:
        return ops.expand_dims(experts[0], axis=1), None
    weights = ops.expand_dims(gate(x, training=training), axis=1)  # (B, 1, E)
    return mix(weights, ops.stack(experts, axis=1)), weights
