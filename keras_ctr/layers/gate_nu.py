"""Gate neural unit of PEPNet: gates from prior information and from what they gate."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_int
from keras_ctr.layers.mlp import MLP


@keras.saving.register_keras_serializable(package="keras_ctr")
class GateNU(keras.Layer):
    """Gate neural unit: vector `(B, P), (B, N) -> (B, M)`, gates in (0, gamma).

    ```
    g = gamma sigmoid( W_2 ReLU( W_1 [prior || sg(x)] + b_1 ) + b_2 )          sg = stop_gradient
    ```

    W_1 (P + N, H), W_2 (H, M); `(P + N) H + H + H M + M` parameters, N = 0 without x. The prior trains through the gate, x does not. With
    a zero W_2 and b_2 all gates are gamma / 2: 1 by default, the neutral gate.

    Args:
        units: M, the gates.
        hidden_units: H; None = M.
        gamma: Upper end of a gate; the paper's 2.

    Call arguments:
        prior: `(B, P)`, the personalisation input.
        inputs: `(B, N)` x, what the gates shall know besides, or None.

    Raises:
        ValueError: On a non-positive width or `gamma`.

    Source: PEPNet (arXiv:2302.01115, section 3, Gate NU). Deviations: H is an argument, the paper does not state it.
    """

    def __init__(self, units, *, hidden_units=None, gamma=2.0, **kwargs):
        super().__init__(**kwargs)
        check_int(self, "units", units)
        if hidden_units is not None:
            check_int(self, "hidden_units", hidden_units)
        if not gamma > 0:
            raise ValueError(f"GateNU '{self.name}': gamma must be positive, got {gamma!r}")
        self.units = units
        self.hidden_units = hidden_units
        self.gamma = gamma

    def build(self, prior_shape, inputs_shape=None):
        width = prior_shape[-1] + (0 if inputs_shape is None else inputs_shape[-1])
        hidden = self.hidden_units or self.units
        self.mlp = MLP((hidden,), activation="relu", output_units=self.units, name="mlp", dtype=self.dtype_policy)
        self.mlp.build((None, width))
        self.built = True

    def call(self, prior, inputs=None):
        x = prior if inputs is None else ops.concatenate([prior, ops.stop_gradient(inputs)], axis=-1)  # (B, P + N)
        return self.gamma * ops.sigmoid(self.mlp(x))  # (B, M)

    def compute_output_shape(self, prior_shape, inputs_shape=None):
        return (prior_shape[0], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "hidden_units": self.hidden_units, "gamma": self.gamma}
