"""Selection and compression of tokens: self-gating and linear compressed embedding."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_choice, check_int, check_units
from keras_ctr.layers.mlp import MLP


@keras.saving.register_keras_serializable(package="keras_ctr")
class SelfGating(keras.Layer):
    """Lets each token decide how much of itself to pass: map `(B, F, D) -> (B, F, D)`.

    ```
    form="gated":  Y = X * f(MLP(X))
    form="outer":  Y = f(X * MLP(X))
    ```

    `MLP: D -> D` acts on each token with the same weights and is linear at its end. Parameters with no hidden layer: `D^2 + D`.

    Args:
        form: `"gated"` (the self-gating that the paper cites) or `"outer"` (the paper's Eq. 10 to the letter).
        activation: f; `"sigmoid"`, `"tanh"`, `"linear"` or any Keras activation.
        hidden_units: Widths of hidden layers of the MLP, with swish.

    Raises:
        ValueError: On an unknown form or a non-positive width.

    Source: InterFormer (Eq. 10). Deviations: the default is `"gated"`. With f = sigmoid the letter of Eq. 10 maps every token into (0, 1)
    and a zero token to 1/2; "self-gating provides sparse masking" describes the other form.
    """

    FORMS = ("gated", "outer")

    def __init__(self, *, form="gated", activation="sigmoid", hidden_units=(), **kwargs):
        super().__init__(**kwargs)
        check_choice(self, "form", form, self.FORMS)
        self.form = form
        self.activation = keras.activations.get(activation)
        self.hidden_units = check_units(self, "hidden_units", hidden_units)

    def build(self, inputs_shape):
        self.mlp = MLP(self.hidden_units, activation="swish", output_units=inputs_shape[-1], name="mlp", dtype=self.dtype_policy)
        self.mlp.build(inputs_shape)
        self.built = True

    def call(self, inputs):
        score = self.mlp(inputs)  # (B, F, D)
        return inputs * self.activation(score) if self.form == "gated" else self.activation(inputs * score)

    def compute_output_shape(self, inputs_shape):
        return tuple(inputs_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "form": self.form,
            "activation": keras.activations.serialize(self.activation),
            "hidden_units": list(self.hidden_units),
        }


@keras.saving.register_keras_serializable(package="keras_ctr")
class LinearCompressedEmbedding(keras.Layer):
    """Linear mix of tokens: map `(B, F, D) -> (B, F', D)`.

    `Y_j = sum_i W_ij X_i`, `W (F, F')`, no bias: F F' parameters.

    Args:
        num_tokens: F'.
        kernel_initializer: Of W.

    Raises:
        ValueError: On a non-positive `num_tokens`.

    Source: InterFormer (section A.2.1).
    """

    def __init__(self, num_tokens, *, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        check_int(self, "num_tokens", num_tokens)
        self.num_tokens = num_tokens
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, inputs_shape):
        shape = (inputs_shape[1], self.num_tokens)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=self.kernel_initializer.clone())
        self.built = True

    def call(self, inputs):
        return ops.matmul(ops.transpose(self.kernel), inputs)  # (F', F) x (B, F, D) = (B, F', D)

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], self.num_tokens, inputs_shape[2])

    def get_config(self):
        return {
            **super().get_config(),
            "num_tokens": self.num_tokens,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
