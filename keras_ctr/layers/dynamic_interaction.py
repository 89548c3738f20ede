"""DynInt: polynomial interaction whose interactions depend on the row, by activation gates, generated or re-weighted parameters."""

import keras
from keras import ops

from keras_ctr.layers.cloning import clone_initializer
from keras_ctr.layers.gate_network import GateNetwork
from keras_ctr.layers.polynomial import PolynomialInteraction, project_rows


def cosine_penalty(vectors):
    """Sum over pairs of |cosine similarity|: `(..., K, N) -> (...)`, `sum_{p > q} |<a_p, a_q>| / (|a_p| |a_q|)`, in float32."""
    vectors = ops.cast(vectors, "float32")
    norms = ops.sqrt(ops.sum(ops.square(vectors), axis=-1, keepdims=True) + 1e-12)  # (..., K, 1)
    unit = vectors / norms
    cosines = ops.abs(ops.matmul(unit, ops.swapaxes(unit, -1, -2)))  # (..., K, K)
    upper = ops.triu(ops.ones(cosines.shape[-2:], dtype="float32"), 1)
    return ops.sum(cosines * upper, axis=(-2, -1))


class _DynamicInteraction(PolynomialInteraction):
    """What the three variants share: one gate network a layer and its arguments."""

    def __init__(self, num_layers=3, *, reduction_ratio=4, gate_activation="relu", gate_initializer=None, gate_norm=False, **kwargs):
        super().__init__(num_layers, **kwargs)
        if reduction_ratio <= 0:
            raise ValueError(f"{type(self).__name__} '{self.name}': reduction_ratio must be positive, got {reduction_ratio!r}")
        self.reduction_ratio = reduction_ratio
        self.gate_activation = keras.activations.get(gate_activation)
        self.gate_initializer = None if gate_initializer is None else keras.initializers.get(gate_initializer)
        self.gate_norm = gate_norm

    def build_gates(self, units, shape):
        """Creates and builds one gate network with `units` outputs a layer, on an input `shape` `(B, F, D)`."""
        self.gates = []
        for layer in range(self.num_layers):
            gate = GateNetwork(
                units,
                reduction_ratio=self.reduction_ratio,
                activation=self.gate_activation,
                normalize=self.gate_norm,
                output_initializer=None if self.gate_initializer is None else clone_initializer(self.gate_initializer, layer),
                name=f"gate_{layer}",
                dtype=self.dtype_policy,
            )
            gate.build(shape)
            self.gates.append(gate)

    def gate_values(self, layer, inputs):
        """Output of a layer's gate network, in the accumulation dtype so that values near 1 keep their digits: `(B, units)`."""
        return ops.cast(self.gates[layer](inputs), self.accumulation_dtype)

    def build_interactions(self, crossed, chunk):
        self.build_gates(self.gate_units(crossed, chunk), (None, crossed // self.num_subspaces, chunk * self.num_subspaces))

    def add_penalty(self, rate, *vectors):
        """Adds `rate` times the mean over the batch (if there is one) of the cosine penalties of `vectors`, `(..., K, N)` each."""
        if rate and self.rank > 1:
            self.add_loss(rate * sum(ops.mean(cosine_penalty(v)) for v in vectors))

    def check_rank(self, orthogonality):
        """Raises ValueError unless `rank` and `orthogonality` are in range."""
        where = f"{type(self).__name__} '{self.name}'"
        if not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"{where}: rank must be a positive int, got {self.rank!r}")
        if orthogonality < 0:
            raise ValueError(f"{where}: orthogonality must not be negative, got {orthogonality!r}")

    def get_config(self):
        return {
            **super().get_config(),
            "reduction_ratio": self.reduction_ratio,
            "gate_activation": keras.activations.serialize(self.gate_activation),
            "gate_initializer": keras.initializers.serialize(self.gate_initializer) if self.gate_initializer else None,
            "gate_norm": self.gate_norm,
        }


@keras.saving.register_keras_serializable(package="keras_ctr")
class DynamicActivationGate(_DynamicInteraction):
    """DynInt-DA, polynomial interaction with gated interactions: map `(B, F, D) -> (B, F, D)`.

    `X_l = (X_{l-1} * (W_{l-1} X_0)) * G_{l-1} + X_{l-1}`, `G = 2 sigmoid(gate network(sg(X_0)))`, on the crossed map of F' = hF rows of
    width D' = D/h. G starts near 1. Parameters: `L (F'^2 + g(M))`, `g(M) = FD H + H + H M + M`, H = FD // r.

    Args:
        num_layers, num_subspaces, residual, kernel_initializer, kernel_regularizer: As for `PolynomialInteraction`.
        gate: `"bit"`: a gate for every element, M = F' D'. `"field"`: one for every row of the crossed map, M = F'.
        reduction_ratio: r of the gate networks.
        gate_activation: Hidden activation of the gate networks.
        gate_initializer: Last kernel of the gate networks; None = `GateNetwork`'s. `"zeros"` makes the layer start as
            `PolynomialInteraction` exactly.
        gate_norm: `normalize` of the gate networks; not in the paper.

    Raises:
        ValueError: On an unknown `gate` and as for `PolynomialInteraction`.

    Source: DynInt (Yan and Li 2022), equation 4. The paper calls G a vector but multiplies a matrix with it: `"bit"` is the literal
    product, `"field"` the literal word.
    """

    GATES = ("bit", "field")

    def __init__(self, num_layers=3, *, gate="bit", **kwargs):
        super().__init__(num_layers, **kwargs)
        if gate not in self.GATES:
            raise ValueError(f"DynamicActivationGate '{self.name}': gate must be one of {self.GATES}, got {gate!r}")
        self.gate = gate

    def gate_units(self, crossed, chunk):
        return crossed * chunk if self.gate == "bit" else crossed

    def build_interactions(self, crossed, chunk):
        self.kernels = [self.add_kernel(f"kernel_{layer}", (crossed, crossed), layer) for layer in range(self.num_layers)]
        super().build_interactions(crossed, chunk)

    def interactions(self, inputs, rows):
        crossed = rows.shape[-1]
        chunk = rows.shape[1] if self.gate == "bit" else 1
        for layer, kernel in enumerate(self.kernels):
            gate = 2.0 * ops.sigmoid(self.gate_values(layer, inputs))  # (B, D' F') or (B, F')
            gate = ops.reshape(gate, (-1, chunk, crossed))  # (B, D' or 1, F')
            yield ops.cast(project_rows(rows, kernel), gate.dtype) * gate  # (B, D', F')

    def get_config(self):
        return {**super().get_config(), "gate": self.gate}


@keras.saving.register_keras_serializable(package="keras_ctr")
class DynamicGeneratedInteraction(_DynamicInteraction):
    """DynInt-DGP, polynomial interaction with low-rank matrices made for each row: map `(B, F, D) -> (B, F, D)`.

    `X_l = X_{l-1} * (W_{l-1} X_0) + X_{l-1}`, `W = U diag(s) V^T`, U, V (F', K), `s = 1 + gate network(sg(X_0))` (K,), on the crossed map
    of F' = hF rows. W starts near the static `U V^T` and is never formed: `U (s * (V^T X_0))`. Parameters: `L (2 F' K + g(K))`,
    `g(M) = FD H + H + H M + M`, H = FD // r.

    Args:
        num_layers, num_subspaces, residual, kernel_initializer, kernel_regularizer: As for `PolynomialInteraction`; U and V are kernels.
        rank: K. The paper's "kernel size": 16 to 128 searched, 64 best at F' = 624.
        reduction_ratio: r of the gate networks.
        orthogonality: Weight of the penalty `sum_l sum_{p > q} |cos(u_p, u_q)| + |cos(v_p, v_q)|` over the columns of U and V, added to
            the (mean) loss once a step.
        gate_activation, gate_initializer, gate_norm: As for `DynamicActivationGate`.

    Raises:
        ValueError: On a rank or orthogonality out of range and as for `PolynomialInteraction`.

    Source: DynInt (Yan and Li 2022), equations 5, 7, 8, 11. The paper gives no start for s; the constant 1 is ours, and stands outside
    the network because FTRL would wipe a bias that starts at 1. Equation 11 sums the penalty over the samples; beside a mean loss that is
    one penalty a step.
    """

    def __init__(self, num_layers=3, *, rank, orthogonality=0.0, **kwargs):
        super().__init__(num_layers, **kwargs)
        self.rank = rank
        self.orthogonality = orthogonality
        self.check_rank(orthogonality)

    def gate_units(self, crossed, chunk):
        return self.rank

    def build_interactions(self, crossed, chunk):
        self.kernels_v, self.kernels_u = [], []
        for layer in range(self.num_layers):
            self.kernels_v.append(self.add_kernel(f"kernel_v_{layer}", (crossed, self.rank), 2 * layer))
            self.kernels_u.append(self.add_kernel(f"kernel_u_{layer}", (self.rank, crossed), 2 * layer + 1))  # U transposed
        super().build_interactions(crossed, chunk)

    def interactions(self, inputs, rows):
        if not self.num_layers:
            return
        # V of all layers in one product: every layer reads the same X_0.
        codes = project_rows(rows, ops.concatenate(self.kernels_v, axis=1))  # (B, D', L K)
        for layer in range(self.num_layers):
            scale = ops.expand_dims(1.0 + self.gate_values(layer, inputs), 1)  # (B, 1, K)
            code = codes[:, :, layer * self.rank : (layer + 1) * self.rank] * ops.cast(scale, codes.dtype)  # (B, D', K)
            self.add_penalty(self.orthogonality, ops.transpose(self.kernels_v[layer]), self.kernels_u[layer])
            yield project_rows(code, self.kernels_u[layer])  # (B, D', F')

    def get_config(self):
        return {**super().get_config(), "rank": self.rank, "orthogonality": self.orthogonality}


@keras.saving.register_keras_serializable(package="keras_ctr")
class DynamicWeightedInteraction(_DynamicInteraction):
    """DynInt-DWP, polynomial interaction with static matrices re-weighted for each row: map `(B, F, D) -> (B, F, D)`.

    `X_l = X_{l-1} * ((G_{l-1} * W_{l-1}) X_0) + X_{l-1}`, `G = sum_{p=1..K} u_p v_p^T`, `[u_1..u_K, v_1..v_K] = offset + gate
    network(sg(X_0))`, on the crossed map of F' = hF rows. G is never formed: `sum_p u_p * (W (v_p * X_0))`, memory `B K D' F'`.
    Parameters: `L (F'^2 + g(2 K F'))`, `g(M) = FD H + H + H M + M`, H = FD // r.

    Args:
        num_layers, num_subspaces, residual, kernel_initializer, kernel_regularizer: As for `PolynomialInteraction`.
        rank: K, 1 to 4 in the paper.
        reduction_ratio: r of the gate networks.
        offset: `"inv_sqrt_rank"`: `1 / sqrt(K)`, G starts near 1 as the paper wants. `"inv_rank"`: `1 / K` as the paper writes,
            G starts near 1 / K.
        orthogonality: Weight of the penalty `mean_B sum_l sum_{p > q} |cos(u_p, u_q)| + |cos(v_p, v_q)|`, added to the (mean) loss.
        gate_activation, gate_initializer, gate_norm: As for `DynamicActivationGate`; with `"zeros"` all K terms of G start and stay equal.

    Raises:
        ValueError: On a rank, offset or orthogonality out of range and as for `PolynomialInteraction`.

    Source: DynInt (Yan and Li 2022), equations 6, 9, 10, 12. Deviation: the default offset, see above.
    """

    OFFSETS = ("inv_sqrt_rank", "inv_rank")

    def __init__(self, num_layers=3, *, rank=2, offset="inv_sqrt_rank", orthogonality=0.0, **kwargs):
        super().__init__(num_layers, **kwargs)
        self.rank = rank
        self.check_rank(orthogonality)
        if offset not in self.OFFSETS:
            raise ValueError(f"DynamicWeightedInteraction '{self.name}': offset must be one of {self.OFFSETS}, got {offset!r}")
        self.offset = offset
        self.orthogonality = orthogonality

    def gate_units(self, crossed, chunk):
        return 2 * self.rank * crossed

    def build_interactions(self, crossed, chunk):
        self.kernels = [self.add_kernel(f"kernel_{layer}", (crossed, crossed), layer) for layer in range(self.num_layers)]
        super().build_interactions(crossed, chunk)

    def factors(self, layer, inputs):
        """The factors of a layer's weighting matrix, u and v, `(B, K, F')` each: `G = sum_p u_p v_p^T`."""
        offset = self.rank**-0.5 if self.offset == "inv_sqrt_rank" else 1.0 / self.rank
        crossed = self.kernels[layer].shape[0]
        both = ops.reshape(offset + self.gate_values(layer, inputs), (-1, 2, self.rank, crossed))  # (B, 2, K, F')
        return both[:, 0], both[:, 1]

    def interactions(self, inputs, rows):
        for layer, kernel in enumerate(self.kernels):
            u, v = self.factors(layer, inputs)  # (B, K, F')
            self.add_penalty(self.orthogonality, u, v)
            weighted = ops.expand_dims(rows, 1) * ops.expand_dims(ops.cast(v, rows.dtype), 2)  # (B, K, D', F')
            mapped = project_rows(weighted, kernel)  # (B, K, D', F')
            yield ops.sum(mapped * ops.expand_dims(ops.cast(u, rows.dtype), 2), axis=1)  # (B, D', F')

    def get_config(self):
        return {**super().get_config(), "rank": self.rank, "offset": self.offset, "orthogonality": self.orthogonality}
