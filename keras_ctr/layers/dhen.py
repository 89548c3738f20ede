"""Deep and hierarchical ensemble network: layers that are ensembles of interaction modules."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_choice, check_epsilon, check_int, check_units
from keras_ctr.layers.cloning import clone_layer
from keras_ctr.layers.dot_interaction import DotInteraction
from keras_ctr.layers.gating import LinearCompressedEmbedding
from keras_ctr.layers.mlp import MLP

LAYER_NORM_EPSILON = 1e-6
"""Embeddings start with a variance of about 1e-4: Keras' default of 1e-3 would swamp it."""


@keras.saving.register_keras_serializable(package="keras_ctr")
class DotModule(keras.Layer):
    """Dot products as tokens, a DHEN module: map `(B, m, D) -> (B, l, D)`.

    `u = reshape_{l x D}(MLP(p))`, p the m(m-1)/2 pairwise dot products of the input's tokens.

    Args:
        hidden_units: Hidden widths of the MLP, whose last layer is linear.
        activation: Of the hidden layers.
        num_tokens: l; None = m.

    Raises:
        ValueError: On a non-positive width, or an input of a single token.

    Source: DHEN (arXiv:2203.11014, the DOT module), InterFormer (section B.2).
    """

    def __init__(self, hidden_units=(64,), *, activation="swish", num_tokens=None, **kwargs):
        super().__init__(**kwargs)
        self.hidden_units = check_units(self, "hidden_units", hidden_units)
        self.activation = keras.activations.get(activation)
        if num_tokens is not None:
            check_int(self, "num_tokens", num_tokens)
        self.num_tokens = num_tokens

    def build(self, inputs_shape):
        _, tokens, width = self.compute_output_shape(inputs_shape)
        self.dot = DotInteraction(name="dot", dtype=self.dtype_policy)
        self.dot.build(inputs_shape)
        self.mlp = MLP(self.hidden_units, activation=self.activation, output_units=tokens * width, name="mlp", dtype=self.dtype_policy)
        self.mlp.build(self.dot.compute_output_shape(inputs_shape))
        self.built = True

    def call(self, inputs):
        _, tokens, width = self.compute_output_shape(inputs.shape)
        return ops.reshape(self.mlp(self.dot(inputs)), (-1, tokens, width))  # (B, l, D)

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], self.num_tokens or inputs_shape[1], inputs_shape[2])

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_units": list(self.hidden_units),
            "activation": keras.activations.serialize(self.activation),
            "num_tokens": self.num_tokens,
        }


@keras.saving.register_keras_serializable(package="keras_ctr")
class CrossModule(keras.Layer):
    """One cross of DCN V2 without its residual, a DHEN module: map `(B, m, D) -> (B, l, D)`.

    `u = reshape_{m x D}(x * (U V^T x + b))`, x = vec(X) of width n = mD, U and V `(n, K)`: 2nK + n parameters; then, if l is set, a linear
    mix of the m tokens to l (m l more). The layer around it has the residual.

    Args:
        rank: K.
        num_tokens: l; None = m.

    Raises:
        ValueError: On a non-positive argument.

    Source: DHEN (arXiv:2203.11014, the DCN module), InterFormer (section B.2: rank 32).
    """

    def __init__(self, rank=32, *, num_tokens=None, **kwargs):
        super().__init__(**kwargs)
        check_int(self, "rank", rank)
        if num_tokens is not None:
            check_int(self, "num_tokens", num_tokens)
        self.rank = rank
        self.num_tokens = num_tokens

    def build(self, inputs_shape):
        flat = inputs_shape[1] * inputs_shape[2]
        self.down = keras.layers.Dense(self.rank, use_bias=False, name="down", dtype=self.dtype_policy)
        self.down.build((None, flat))
        self.up = keras.layers.Dense(flat, name="up", dtype=self.dtype_policy)
        self.up.build((None, self.rank))
        if self.num_tokens is not None:
            self.project = LinearCompressedEmbedding(self.num_tokens, name="project", dtype=self.dtype_policy)
            self.project.build(inputs_shape)
        self.built = True

    def call(self, inputs):
        fields, width = inputs.shape[1], inputs.shape[2]
        flat = ops.reshape(inputs, (-1, fields * width))  # (B, n)
        crossed = ops.reshape(flat * self.up(self.down(flat)), (-1, fields, width))  # (B, m, D)
        return crossed if self.num_tokens is None else self.project(crossed)  # (B, l, D)

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], self.num_tokens or inputs_shape[1], inputs_shape[2])

    def get_config(self):
        return {**super().get_config(), "rank": self.rank, "num_tokens": self.num_tokens}


@keras.saving.register_keras_serializable(package="keras_ctr")
class DHENLayer(keras.Layer):
    """One layer of a deep hierarchical ensemble network: map `(B, m, D) -> (B, m', D)`.

    ```
    Y = LayerNorm( Ensemble_i u_i(X) + ShortCut(X) )
    Ensemble: "sum"  sum_i u_i;   "weighted"  sum_i w_i u_i, w_i learned from 1;   "concat"  on the token axis
    ```

    `ShortCut` is the identity if m' = m, else a linear mix of tokens `(m, m')`. LayerNorm is over D, with 2D parameters.

    Args:
        modules: Prototypes of the modules, layers `(B, m, D) -> (B, l_i, D)`; cloned, so the caller's layers stay unbuilt. None =
            `(DotModule(), CrossModule())`, InterFormer's ensemble. `"sum"` and `"weighted"` need equal l_i; with `"concat"` m' is
            their sum.
        ensemble: `"sum"`, `"weighted"` or `"concat"`.
        epsilon: Of the norm, added to a token's variance.

    Raises:
        ValueError: On no module, an unknown ensemble, a module that does not keep D, or unequal l_i.
        TypeError: If a module is not a Keras layer.

    Source: DHEN (arXiv:2203.11014), as in InterFormer (section 3.2).
    Deviations: InterFormer calls the shortcut "an MLP"; here it is the linear map that DHEN has.
    """

    ENSEMBLES = ("sum", "weighted", "concat")

    def __init__(self, modules=None, *, ensemble="sum", epsilon=LAYER_NORM_EPSILON, **kwargs):
        super().__init__(**kwargs)
        check_epsilon(self, epsilon)
        check_choice(self, "ensemble", ensemble, self.ENSEMBLES)
        prototypes = (DotModule(), CrossModule()) if modules is None else tuple(modules)
        if not prototypes:
            raise ValueError(f"DHENLayer '{self.name}': modules is empty; give at least one layer")
        self.ensemble = ensemble
        self.epsilon = epsilon
        self.parts = [clone_layer(layer, name=f"module_{i}", dtype=self.dtype_policy) for i, layer in enumerate(prototypes)]

    def build(self, inputs_shape):
        for part in self.parts:
            part.build(inputs_shape)
        shapes = [tuple(part.compute_output_shape(inputs_shape)) for part in self.parts]
        for shape in shapes:
            if len(shape) != 3 or shape[2] != inputs_shape[2]:
                raise ValueError(f"DHENLayer '{self.name}': a module must return tokens (B, l, {inputs_shape[2]}), one returns {shape}")
        if self.ensemble != "concat" and len({shape[1] for shape in shapes}) > 1:
            counts = [shape[1] for shape in shapes]
            raise ValueError(f"DHENLayer '{self.name}': ensemble={self.ensemble!r} needs equal token counts, the modules return {counts}")
        tokens = self._tokens(shapes)
        if self.ensemble == "weighted":
            self.weighting = self.add_weight(name="weighting", shape=(len(self.parts),), initializer="ones")
        self.shortcut = None
        if tokens != inputs_shape[1]:
            self.shortcut = LinearCompressedEmbedding(tokens, name="shortcut", dtype=self.dtype_policy)
            self.shortcut.build(inputs_shape)
        self.norm = keras.layers.LayerNormalization(epsilon=self.epsilon, name="norm", dtype=self.dtype_policy)
        self.norm.build((None, tokens, inputs_shape[2]))
        self.built = True

    def _tokens(self, shapes):
        return sum(shape[1] for shape in shapes) if self.ensemble == "concat" else shapes[0][1]

    def call(self, inputs, training=None):
        outputs = [part(inputs, training=training) if part._call_has_training_arg else part(inputs) for part in self.parts]
        if self.ensemble == "concat":
            mixed = ops.concatenate(outputs, axis=1)  # (B, m', D)
        else:
            if self.ensemble == "weighted":
                outputs = [self.weighting[index] * output for index, output in enumerate(outputs)]
            mixed = outputs[0]
            for output in outputs[1:]:
                mixed = mixed + output  # (B, l, D)
        return self.norm(mixed + (inputs if self.shortcut is None else self.shortcut(inputs)))

    def compute_output_shape(self, inputs_shape):
        shapes = [part.compute_output_shape(inputs_shape) for part in self.parts]
        return (inputs_shape[0], self._tokens(shapes), inputs_shape[2])

    def get_config(self):
        parts = [keras.saving.serialize_keras_object(part) for part in self.parts]
        return {**super().get_config(), "modules": parts, "ensemble": self.ensemble, "epsilon": self.epsilon}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "modules": [keras.saving.deserialize_keras_object(part) for part in config["modules"]]})
