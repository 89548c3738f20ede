"""Further interaction modules of DHEN: self-attention, linear, convolution."""

import keras
from keras import ops

from keras_ctr.layers.arguments import check_int
from keras_ctr.layers.gating import LinearCompressedEmbedding
from keras_ctr.layers.masked_attention import MaskedTransformerBlock


@keras.saving.register_keras_serializable(package="keras_ctr")
class SelfAttentionModule(keras.Layer):
    """One transformer encoder layer, a DHEN module: map `(B, m, D) -> (B, l, D)`.

    ```
    Z = LN(X + MSA(X));   Z = LN(Z + FFN(Z))         FFN: D -> ffn_units -> D, ReLU
    u_j = sum_i W_ij Z_i                             W (m, l); u = Z if l = m
    ```

    Parameters: `4 (D^2 + D) + 2 D U + U + D + 4 D`, U = ffn_units, and m l if l differs from m.

    Args:
        num_heads: Heads of the attention MSA; divides D.
        ffn_units: Width of the feed-forward network's hidden layer.
        norm_first: Whether to normalise before MSA and FFN instead of after the sums.
        dropout: Share of the outputs of MSA and FFN dropped in training.
        num_tokens: l; None = m.

    Raises:
        ValueError: On an argument out of range, or heads that do not divide D.

    Source: DHEN (arXiv:2203.11014, the self-attention module).
    Deviations: the paper names an encoder layer without its details; norms stand after the sums, as in the original encoder.
    """

    def __init__(self, num_heads=2, *, ffn_units=64, norm_first=False, dropout=0.0, num_tokens=None, **kwargs):
        super().__init__(**kwargs)
        if num_tokens is not None:
            check_int(self, "num_tokens", num_tokens)
        self.num_tokens = num_tokens
        self.encoder = MaskedTransformerBlock(
            num_heads,
            ffn_units=ffn_units,
            mask_thresholds=None,
            norm_first=norm_first,
            dropout=dropout,
            name="encoder",
            dtype=self.dtype_policy,
        )

    def build(self, inputs_shape):
        self.encoder.build(inputs_shape)
        self.project = None
        if self.num_tokens not in (None, inputs_shape[1]):
            self.project = LinearCompressedEmbedding(self.num_tokens, name="project", dtype=self.dtype_policy)
            self.project.build(inputs_shape)
        self.built = True

    def call(self, inputs, training=None):
        encoded = self.encoder(inputs, training=training)  # (B, m, D)
        return encoded if self.project is None else self.project(encoded)  # (B, l, D)

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], self.num_tokens or inputs_shape[1], inputs_shape[2])

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.encoder.attention.num_heads,
            "ffn_units": self.encoder.ffn_units,
            "norm_first": self.encoder.norm_first,
            "dropout": self.encoder.dropout,
            "num_tokens": self.num_tokens,
        }


@keras.saving.register_keras_serializable(package="keras_ctr")
class LinearModule(keras.Layer):
    """Linear mix of tokens, a DHEN module: map `(B, m, D) -> (B, l, D)`.

    `u_j = sum_i W_ij X_i`, `W (m, l)`, no bias: m l parameters.

    Args:
        num_tokens: l; None = m.

    Raises:
        ValueError: On a non-positive `num_tokens`.

    Source: DHEN (arXiv:2203.11014, the linear module).
    """

    def __init__(self, *, num_tokens=None, **kwargs):
        super().__init__(**kwargs)
        if num_tokens is not None:
            check_int(self, "num_tokens", num_tokens)
        self.num_tokens = num_tokens

    def build(self, inputs_shape):
        self.mix = LinearCompressedEmbedding(self.num_tokens or inputs_shape[1], name="mix", dtype=self.dtype_policy)
        self.mix.build(inputs_shape)
        self.built = True

    def call(self, inputs):
        return self.mix(inputs)  # (B, l, D)

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], self.num_tokens or inputs_shape[1], inputs_shape[2])

    def get_config(self):
        return {**super().get_config(), "num_tokens": self.num_tokens}


@keras.saving.register_keras_serializable(package="keras_ctr")
class ConvolutionModule(keras.Layer):
    """A two-dimensional convolution over the map of tokens, a DHEN module: map `(B, m, D) -> (B, l, D)`.

    ```
    C_idc = f( b_c + sum_{p,q} K_pqc X_{i+p, d+q} )          K (k, k, filters), X zero outside of the m x D map
    u_j   = sum_{i,c} W_(ic)j C_i.c                          W (m filters, l)
    ```

    p and q run over a window of k x k around (i, d). Parameters: `k^2 filters + filters + m filters l`. It sees which tokens and which
    coordinates are neighbours, so the order of the features counts.

    Args:
        filters: Channels of the convolution.
        kernel_size: k, odd or even; an even window reaches one step further to the end.
        activation: f; None for a linear module.
        num_tokens: l; None = m.

    Raises:
        ValueError: On a non-positive number.

    Source: DHEN (arXiv:2203.11014, the convolution module).
    Deviations: the paper gives neither kernel size nor channels nor an activation; one linear 3 x 3 filter here.
    """

    def __init__(self, filters=1, *, kernel_size=3, activation=None, num_tokens=None, **kwargs):
        super().__init__(**kwargs)
        check_int(self, "filters", filters)
        check_int(self, "kernel_size", kernel_size)
        if num_tokens is not None:
            check_int(self, "num_tokens", num_tokens)
        self.filters = filters
        self.kernel_size = kernel_size
        self.activation = keras.activations.get(activation)
        self.num_tokens = num_tokens

    def build(self, inputs_shape):
        _, tokens, width = inputs_shape
        self.convolution = keras.layers.Conv2D(
            self.filters,
            self.kernel_size,
            padding="same",
            data_format="channels_last",
            activation=self.activation,
            name="convolution",
            dtype=self.dtype_policy,
        )
        self.convolution.build((None, tokens, width, 1))
        self.project = LinearCompressedEmbedding(self.num_tokens or tokens, name="project", dtype=self.dtype_policy)
        self.project.build((None, tokens * self.filters, width))
        self.built = True

    def call(self, inputs):
        tokens, width = inputs.shape[1:]
        maps = self.convolution(ops.expand_dims(inputs, -1))  # (B, m, D, filters)
        maps = ops.reshape(ops.transpose(maps, (0, 1, 3, 2)), (-1, tokens * self.filters, width))  # (B, m filters, D)
        return self.project(maps)  # (B, l, D)

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[0], self.num_tokens or inputs_shape[1], inputs_shape[2])

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "activation": keras.activations.serialize(self.activation),
            "num_tokens": self.num_tokens,
        }
