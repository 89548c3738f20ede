"""Modules of POSO, combined or masked by gates on user-group features."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_choice, check_int, check_units
from keras_ctr.layers.mlp import MLP


@keras.saving.register_keras_serializable(package="keras_ctr")
class PersonalizedGate(keras.Layer):
    """Gates from user-group features: vector `(B, P) -> (B, M)`, in (0, C).

    `g = C sigmoid(MLP(p))`; parameters: those of the MLP, `P -> hidden_units -> M`, linear at its end.

    Args:
        units: M.
        scale: C, "correction factor"; 2 makes gates start near 1.
        hidden_units: Widths of the MLP's hidden layers, with ReLU; `()` for one linear map, `C sigmoid(W p + b)`.

    Raises:
        ValueError: On a non-positive width or `scale`.

    Source: POSO (arXiv:2108.04690, section 3). Deviations: see `POSOMLP`.
    """

    def __init__(self, units, *, scale=2.0, hidden_units=(), **kwargs):
        super().__init__(**kwargs)
        check_int(self, "units", units)
        if not scale > 0:
            raise ValueError(f"PersonalizedGate '{self.name}': scale must be positive, got {scale!r}")
        self.units = units
        self.scale = scale
        self.hidden_units = check_units(self, "hidden_units", hidden_units)

    def build(self, inputs_shape):
        self.mlp = MLP(self.hidden_units, activation="relu", output_units=self.units, name="mlp", dtype=self.dtype_policy)
        self.mlp.build(inputs_shape)
        self.built = True

    def call(self, inputs):
        return self.scale * ops.sigmoid(self.mlp(inputs))  # (B, M)

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "scale": self.scale, "hidden_units": list(self.hidden_units)}


@keras.saving.register_keras_serializable(package="keras_ctr")
class POSOMLP(keras.Layer):
    """POSO's form of an MLP: vector `(B, N), (B, P) -> (B, U)`, U the last of `hidden_units`.

    ```
    form="masks":     h_l = C g_l(p) * f(W_l h_{l-1} + b_l)         l = 1 .. L, h_0 = x, g_l in (0, 1)^(u_l)
    form="networks":  y   = C sum_{i=1..K} g_i(p) MLP_i(x)          g in (0, 1)^K
    ```

    `g = sigmoid(MLP_g(p))`. Networks are the general form, K specialised sub-modules; masks are what becomes of it for a linear module
    with one sub-module an output unit that share their weights, and cost next to nothing. Parameters: those of the MLP (masks) or K times
    those (networks), and of the gates, `P -> gate_units -> u_l` each, or one `P -> gate_units -> K`.

    Args:
        hidden_units: Widths u_l; at least one.
        form: `"masks"` or `"networks"`.
        num_networks: K; networks only.
        scale: C. None: 2 for masks, 2 / K for networks, so that the sum starts as the mean of the K networks.
        gate_units: Widths of the gates' hidden layers.
        activation, dropout, batch_norm: Of the MLP, see `layers.MLP`.

    Call arguments:
        inputs: `(B, N)` x.
        condition: `(B, P)` p, embeddings of user-group features.

    Raises:
        ValueError: On an unknown form, no or a non-positive width, or a non-positive `num_networks` or `scale`.

    Source: POSO (arXiv:2108.04690, section 3, equations of the general form and of POSO(MLP)). Deviations: the paper writes C as a
    correction factor; the scale of networks is read as one that keeps the size of the output. MHA and MMoE forms are not here.
    """

    FORMS = ("masks", "networks")

    def __init__(
        self,
        hidden_units,
        *,
        form="masks",
        num_networks=2,
        scale=None,
        gate_units=(),
        activation="relu",
        dropout=0.0,
        batch_norm=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_choice(self, "form", form, self.FORMS)
        check_int(self, "num_networks", num_networks)
        self.hidden_units = check_units(self, "hidden_units", hidden_units)
        if not self.hidden_units:
            raise ValueError(f"POSOMLP '{self.name}': hidden_units is empty; give at least one width")
        if scale is not None and not scale > 0:
            raise ValueError(f"POSOMLP '{self.name}': scale must be positive or None, got {scale!r}")
        self.form = form
        self.num_networks = num_networks
        self.scale = scale
        self.gate_units = check_units(self, "gate_units", gate_units)
        prototype = MLP(activation=activation, dropout=dropout, batch_norm=batch_norm).get_config()
        self.mlp_config = {k: prototype[k] for k in ("activation", "dropout", "batch_norm")}

    def _mlp(self, units, name):
        return MLP.from_config({**self.mlp_config, "hidden_units": units, "name": name, "dtype": self.dtype_policy})

    def _gate(self, units, scale, name):
        scale = scale if self.scale is None else self.scale
        return PersonalizedGate(units, scale=scale, hidden_units=self.gate_units, name=name, dtype=self.dtype_policy)

    def build(self, inputs_shape, condition_shape):
        if self.form == "masks":
            self.mlps = [self._mlp((units,), f"mlp_{i}") for i, units in enumerate(self.hidden_units)]
            self.gates = [self._gate(units, 2.0, f"gate_{i}") for i, units in enumerate(self.hidden_units)]
            widths = (inputs_shape[-1], *self.hidden_units)
        else:
            self.mlps = [self._mlp(self.hidden_units, f"mlp_{i}") for i in range(self.num_networks)]
            self.gates = [self._gate(self.num_networks, 2.0 / self.num_networks, "gate")]
            widths = (inputs_shape[-1],) * self.num_networks
        for mlp, width in zip(self.mlps, widths, strict=False):
            mlp.build((None, width))
        for gate in self.gates:
            gate.build(condition_shape)
        self.built = True

    def call(self, inputs, condition, training=None):
        if self.form == "masks":
            x = inputs  # (B, N)
            for mlp, gate in zip(self.mlps, self.gates, strict=True):
                x = gate(condition) * mlp(x, training=training)  # (B, u_l)
            return x
        gate = self.gates[0](condition)  # (B, K)
        return sum(gate[:, i : i + 1] * mlp(inputs, training=training) for i, mlp in enumerate(self.mlps))  # (B, U)

    def compute_output_shape(self, inputs_shape, condition_shape):
        return (inputs_shape[0], self.hidden_units[-1])

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_units": list(self.hidden_units),
            "form": self.form,
            "num_networks": self.num_networks,
            "scale": self.scale,
            "gate_units": list(self.gate_units),
            **self.mlp_config,
        }

    @classmethod
    def from_config(cls, config):
        if isinstance(config.get("activation"), dict):
            config = {**config, "activation": keras.saving.deserialize_keras_object(config["activation"])}
        return cls(**config)
