"""InterFormer's Interaction Arch: the fields interact with each other and with the sequence summary."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_choice, check_epsilon, check_int, check_units
from keras_ctr.layers.cloning import clone_layer
from keras_ctr.layers.cross import CrossNetwork
from keras_ctr.layers.dhen import LAYER_NORM_EPSILON, CrossModule, DHENLayer, DotModule
from keras_ctr.layers.dot_interaction import DotInteraction
from keras_ctr.layers.mlp import MLP


@keras.saving.register_keras_serializable(package="keras_ctr")
class InteractionArch(keras.Layer):
    """Interactions of field tokens, aware of the behaviour: map `(B, F, D), (B, S, D) -> (B, F, D)`.

    ```
    Z = [X ; S_sum]                                         (B, N, D), N = F + S; Z = X without a summary
    Y = reshape_{F x D}( MLP( Interaction(Z) ) )            MLP: hidden_units -> F D, linear at its end
    ```

    `Interaction` by `backbone`:
    `"dot"`: `[vec(Z) || p]`, p the N(N-1)/2 pairwise dot products (p alone with `keep_input=False`);
    `"dcnv2"`: `num_cross_layers` low-rank cross layers on vec(Z);
    `"dhen"`: `num_inner_layers` DHEN layers, each the sum of a DOT and a DCN module, then vec;
    a layer prototype: any layer on `(B, N, D)`; its output is flattened.

    Args:
        backbone: One of the above.
        hidden_units: Hidden widths of the MLP.
        activation: Of its hidden layers.
        dropout: Share of its hidden units dropped in training.
        rank: Rank of the crosses of `"dcnv2"` and `"dhen"`.
        keep_input: Whether `"dot"` passes the tokens on beside the products.
        dot_units: Hidden widths of the MLP in the DOT module of `"dhen"`.
        ensemble: `"sum"`, `"weighted"` or `"concat"`, for `"dhen"`.
        num_cross_layers: For `"dcnv2"`.
        num_inner_layers: For `"dhen"`.
        residual: Whether to add X to the output.
        epsilon: Of the norms of `"dhen"`, added to a token's variance.

    Call arguments:
        fields: X `(B, F, D)`.
        summary: S_sum `(B, S, D)`, or None.

    Raises:
        ValueError: On an unknown backbone or an argument out of range.

    Source: InterFormer (Eq. 7, section B.2).
    Deviations: Eq. 7 does not say whether the inner product keeps first-order terms; without them a stack of DOT layers forgets its input,
    so they are kept by default.
    """

    BACKBONES = ("dot", "dcnv2", "dhen")

    def __init__(
        self,
        backbone="dhen",
        *,
        hidden_units=(256,),
        activation="swish",
        dropout=0.0,
        rank=32,
        keep_input=True,
        dot_units=(64,),
        ensemble="sum",
        num_cross_layers=2,
        num_inner_layers=1,
        residual=False,
        epsilon=LAYER_NORM_EPSILON,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not isinstance(backbone, keras.Layer):
            check_choice(self, "backbone", backbone, self.BACKBONES)
        check_choice(self, "ensemble", ensemble, DHENLayer.ENSEMBLES)
        for argument, value in (("rank", rank), ("num_cross_layers", num_cross_layers), ("num_inner_layers", num_inner_layers)):
            check_int(self, argument, value)
        check_epsilon(self, epsilon)
        # A prototype itself must not become a sub-layer: only its copy is built and saved.
        self.backbone = backbone if isinstance(backbone, str) else None
        self.hidden_units = check_units(self, "hidden_units", hidden_units)
        self.activation = keras.activations.get(activation)
        self.dropout = dropout
        self.rank = rank
        self.keep_input = keep_input
        self.dot_units = check_units(self, "dot_units", dot_units)
        self.ensemble = ensemble
        self.num_cross_layers = num_cross_layers
        self.num_inner_layers = num_inner_layers
        self.residual = residual
        self.epsilon = epsilon
        self.steps = self._backbone_layers(backbone)

    def _backbone_layers(self, backbone):
        """Returns the layers that are applied one after the other to Z, or to vec(Z) for `"dcnv2"`."""
        policy = self.dtype_policy
        if isinstance(backbone, keras.Layer):
            return [clone_layer(backbone, name="backbone", dtype=policy)]
        if backbone == "dot":
            return [DotInteraction(name="dot", dtype=policy)]
        if backbone == "dcnv2":
            return [CrossNetwork(self.num_cross_layers, rank=self.rank, name="cross", dtype=policy)]
        modules = (DotModule(self.dot_units, activation=self.activation), CrossModule(self.rank))
        shared = {"ensemble": self.ensemble, "epsilon": self.epsilon, "dtype": policy}
        return [DHENLayer(modules, name=f"dhen_{i}", **shared) for i in range(self.num_inner_layers)]

    def build(self, fields_shape, summary_shape=None):
        batch, fields, width = fields_shape
        tokens = fields + (0 if summary_shape is None else summary_shape[1])
        shape = (batch, tokens * width) if self.backbone == "dcnv2" else (batch, tokens, width)
        for step in self.steps:
            step.build(shape)
            shape = tuple(step.compute_output_shape(shape))
        size = 1
        for length in shape[1:]:
            size *= length
        if self.backbone == "dot" and self.keep_input:
            size += tokens * width
        self.mlp = MLP(
            self.hidden_units,
            activation=self.activation,
            dropout=self.dropout,
            output_units=fields * width,
            name="mlp",
            dtype=self.dtype_policy,
        )
        self.mlp.build((batch, size))
        self.interaction_size = size
        self.built = True

    def call(self, fields, summary=None, training=None):
        z = fields if summary is None else ops.concatenate([fields, summary], axis=1)  # (B, N, D)
        x = flat = ops.reshape(z, (-1, z.shape[1] * z.shape[2]))  # (B, N*D)
        x = flat if self.backbone == "dcnv2" else z
        for step in self.steps:
            x = step(x, training=training) if step._call_has_training_arg else step(x)
        if self.backbone == "dot" and self.keep_input:
            x = ops.concatenate([flat, x], axis=1)
        x = self.mlp(ops.reshape(x, (-1, self.interaction_size)), training=training)  # (B, F*D)
        x = ops.reshape(x, (-1, *fields.shape[1:]))  # (B, F, D)
        return x + fields if self.residual else x

    def compute_output_shape(self, fields_shape, summary_shape=None):
        return tuple(fields_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "backbone": self.backbone or keras.saving.serialize_keras_object(self.steps[0]),
            "hidden_units": list(self.hidden_units),
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "rank": self.rank,
            "keep_input": self.keep_input,
            "dot_units": list(self.dot_units),
            "ensemble": self.ensemble,
            "num_cross_layers": self.num_cross_layers,
            "num_inner_layers": self.num_inner_layers,
            "residual": self.residual,
            "epsilon": self.epsilon,
        }

    @classmethod
    def from_config(cls, config):
        if isinstance(config.get("backbone"), dict):
            config = {**config, "backbone": keras.saving.deserialize_keras_object(config["backbone"])}
        return cls(**config)
