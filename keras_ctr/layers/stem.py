"""STEM: experts on task-specific embeddings that every task reads and only their own task trains."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_int
from keras_ctr.layers.experts import ExpertLayer, mix


@keras.saving.register_keras_serializable(package="keras_ctr")
class STEMLayer(ExpertLayer):
    """All-forward task-specific-backward gating: map, list of L + 1 vectors `(B, N) -> (B, L, M)`, M = `expert_units[-1]`.

    ```
    f_i = sum_k g_ik S_ik        S_i = [sg(E_1(x_1)) ; .. ; E_i(x_i) ; .. ; sg(E_L(x_L)) ; E_sh(x_sh)]        sg = stop_gradient
    g_i = softmax(W_i (x_i + x_sh))
    ```

    E_j(x_j) are the m_s experts of task j on that task's own vector, E_sh the m_sh shared experts on the shared one: every task reads all
    experts, but its loss reaches those of another task, and what is below them, no more. Parameters: `(L m_s + m_sh) mlp(N, expert_units) +
    L gate`, gate = `mlp(N, gate_units)` and its last width times L m_s + m_sh (that times N without hidden layers).

    Args:
        num_tasks: L.
        num_specific_experts: m_s, experts of each task.
        num_shared_experts: m_sh, experts of all tasks.
        expert_units: Widths of an expert's layers.
        gate_units: Widths of a gate's hidden layers; empty for a linear gate.
        activation: Name of a Keras activation, or a layer prototype that is cloned for every layer of the experts and gates.
        dropout: Share of units dropped in training after each layer of experts and gates (not after the softmax).
        batch_norm: Whether to normalise before each activation.

    Call arguments:
        inputs: List `[x_1, .., x_L, x_sh]` of `(B, N)`.
        return_attention: Whether to return `(out, g)`, g `(B, L, L m_s + m_sh)` float32, experts in the order above.

    Raises:
        ValueError: On an argument out of range, or another number of vectors or vectors of different width.

    Source: Su et al., AAAI 2024 (arXiv:2308.13537), the gating of STEM-Net.
    Deviations: gates have no bias, as those of MMoE and PLE. No shared output: there is one layer, see docs/deviations.md.
    """

    def __init__(
        self,
        num_tasks,
        num_specific_experts=1,
        num_shared_experts=1,
        *,
        expert_units=(512, 256, 128),
        gate_units=(),
        activation="relu",
        dropout=0.0,
        batch_norm=False,
        **kwargs,
    ):
        options = {"activation": activation, "dropout": dropout, "batch_norm": batch_norm}
        super().__init__(num_tasks, expert_units=expert_units, gate_units=gate_units, **options, **kwargs)
        check_int(self, "num_specific_experts", num_specific_experts)
        check_int(self, "num_shared_experts", num_shared_experts)
        self.num_specific_experts = num_specific_experts
        self.num_shared_experts = num_shared_experts

    def build(self, inputs_shape):
        shapes = [tuple(shape) for shape in inputs_shape]
        if len(shapes) != self.num_tasks + 1 or any(len(shape) != 2 or shape[1] != shapes[0][1] for shape in shapes):
            raise ValueError(
                f"STEMLayer '{self.name}': the input must be a list of {self.num_tasks + 1} vectors (B, N) of equal width, one a task "
                f"and a shared one, got the shapes {shapes}"
            )
        width = shapes[0][1]
        # One flat list: task i owns the experts i m_s to (i + 1) m_s - 1.
        self.specific_experts = []
        for i in range(self.num_tasks):
            self.specific_experts += self.make_experts(self.num_specific_experts, f"task_{i}_expert", width)
        self.shared_experts = self.make_experts(self.num_shared_experts, "shared_expert", width)
        self.gates = [self.make_gate(self.num_experts, f"gate_{i}", width) for i in range(self.num_tasks)]
        self.built = True

    @property
    def num_experts(self):
        """Experts that a task mixes."""
        return self.num_tasks * self.num_specific_experts + self.num_shared_experts

    def call(self, inputs, training=None, *, return_attention=False):
        own = self.num_specific_experts
        specific = [expert(inputs[k // own], training=training) for k, expert in enumerate(self.specific_experts)]  # (B, M) each
        shared = [expert(inputs[-1], training=training) for expert in self.shared_experts]
        out, gates = [], []
        for i, gate in enumerate(self.gates):
            seen = [e if k // own == i else ops.stop_gradient(e) for k, e in enumerate(specific)]
            weights = ops.expand_dims(gate(inputs[i] + inputs[-1], training=training), axis=1)  # (B, 1, L m_s + m_sh)
            out.append(mix(weights, ops.stack([*seen, *shared], axis=1)))  # (B, 1, M)
            gates.append(weights)
        out, gates = (parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=1) for parts in (out, gates))
        return (out, gates) if return_attention else out

    def compute_output_shape(self, inputs_shape):
        return (tuple(inputs_shape[0])[0], self.num_tasks, self.expert_units[-1])

    def compute_output_spec(self, inputs, training=None, *, return_attention=False):
        out = keras.KerasTensor(self.compute_output_shape([x.shape for x in inputs]), dtype=self.compute_dtype)
        if not return_attention:
            return out
        return out, keras.KerasTensor((inputs[0].shape[0], self.num_tasks, self.num_experts), dtype="float32")

    def get_config(self):
        return {
            **super().get_config(),
            "num_specific_experts": self.num_specific_experts,
            "num_shared_experts": self.num_shared_experts,
        }
