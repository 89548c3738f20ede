"""The benchmark's architectures in plain Keras 3, as one writes them from the papers: the equations, without tuning for speed."""

import keras
from keras import ops


class ScaleEmbedding(keras.Layer):
    """Numbers as tokens: `(B, N) -> (B, N, D)`, token n is `v_n w_n`."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def build(self, shape):
        self.kernel = self.add_weight(name="kernel", shape=(shape[-1], self.width), initializer="glorot_uniform")

    def call(self, x):
        return ops.expand_dims(x, -1) * self.kernel


class VectorCross(keras.Layer):
    """Cross layers of DCN: `x_{l+1} = x_0 (x_l . w_l) + b_l + x_l`."""

    def __init__(self, layers, **kwargs):
        super().__init__(**kwargs)
        self.layers = layers

    def build(self, shape):
        width = shape[-1]
        self.kernels = [self.add_weight(name=f"kernel_{i}", shape=(width, 1), initializer="glorot_uniform") for i in range(self.layers)]
        self.biases = [self.add_weight(name=f"bias_{i}", shape=(width,), initializer="zeros") for i in range(self.layers)]

    def call(self, x0):
        x = x0
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            x = x0 * ops.matmul(x, kernel) + bias + x
        return x


class CIN(keras.Layer):
    """Compressed interaction network: outer products of x_0 and x_l, one linear map over all pairs, summed over the width."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.maps = [keras.layers.Dense(u) for u in units]

    def call(self, x0):  # (B, F, D)
        fields, width = x0.shape[1], x0.shape[2]
        x, pooled = x0, []
        for dense in self.maps:
            pairs = ops.einsum("bfd,bhd->bdfh", x0, x)  # (B, D, F, H)
            pairs = ops.reshape(pairs, (-1, width, fields * x.shape[1]))
            x = ops.transpose(dense(pairs), (0, 2, 1))  # (B, U, D)
            pooled.append(ops.sum(x, axis=-1))
        return ops.concatenate(pooled, axis=-1)


class Interacting(keras.Layer):
    """Interacting layer of AutoInt: unscaled multi-head attention of the fields with a projected shortcut and ReLU."""

    def __init__(self, heads, key_dim, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.key_dim = heads, key_dim
        self.query, self.key, self.value, self.shortcut = (keras.layers.Dense(heads * key_dim, use_bias=False) for _ in range(4))

    def call(self, x):  # (B, F, D)
        shape = (-1, x.shape[1], self.heads, self.key_dim)
        q, k, v = (ops.reshape(layer(x), shape) for layer in (self.query, self.key, self.value))
        weights = ops.softmax(ops.einsum("bihd,bjhd->bhij", q, k), axis=-1)
        out = ops.reshape(ops.einsum("bhij,bjhd->bihd", weights, v), (-1, x.shape[1], self.heads * self.key_dim))
        return ops.relu(out + self.shortcut(x))


class WukongLayer(keras.Layer):
    """One layer of Wukong: `LN([FMB(X) ; LCB(X)] + R(X))`, `FMB = MLP(LN(vec(X X^T Y)))`."""

    def __init__(self, fm_tokens, linear_tokens, rank, hidden_units, **kwargs):
        super().__init__(**kwargs)
        self.tokens, self.linear_tokens, self.fm_tokens, self.rank, self.hidden_units = (
            fm_tokens + linear_tokens,
            linear_tokens,
            fm_tokens,
            rank,
            hidden_units,
        )
        self.inner_norm = keras.layers.LayerNormalization()
        self.norm = keras.layers.LayerNormalization()

    def build(self, shape):
        tokens, width = shape[1], shape[2]
        self.projection = self.add_weight(name="projection", shape=(tokens, self.rank), initializer="glorot_uniform")
        self.linear = self.add_weight(name="linear", shape=(tokens, self.linear_tokens), initializer="glorot_uniform")
        self.residual = None
        if tokens != self.tokens:
            self.residual = self.add_weight(name="residual", shape=(tokens, self.tokens), initializer="glorot_uniform")
        self.mlp = [keras.layers.Dense(u, "relu") for u in self.hidden_units] + [keras.layers.Dense(self.fm_tokens * width)]

    def call(self, x):  # (B, F, D)
        tokens, width = x.shape[1], x.shape[2]
        flat = ops.matmul(x, ops.einsum("bfd,fk->bdk", x, self.projection))  # (B, F, k)
        flat = self.inner_norm(ops.reshape(flat, (-1, tokens * self.rank)))
        for dense in self.mlp:
            flat = dense(flat)
        factorised = ops.reshape(flat, (-1, self.fm_tokens, width))
        compressed = ops.einsum("bfd,fn->bnd", x, self.linear)
        shortcut = x if self.residual is None else ops.einsum("bfd,fn->bnd", x, self.residual)
        return self.norm(ops.concatenate([factorised, compressed], axis=1) + shortcut)


class Dice(keras.Layer):
    """`y = p x + (1 - p) alpha x`, `p = sigmoid(batch norm of x)`."""

    def build(self, shape):
        self.alpha = self.add_weight(name="alpha", shape=(shape[-1],), initializer="zeros")
        self.norm = keras.layers.BatchNormalization(center=False, scale=False, epsilon=1e-9)

    def call(self, x, training=None):
        p = ops.sigmoid(self.norm(x, training=training))
        return p * x + (1 - p) * self.alpha * x


class TargetAttention(keras.Layer):
    """DIN's activation unit on `[target, event, difference, product]` and the weighted sum of the valid events."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.mlp = [layer for u in units for layer in (keras.layers.Dense(u), Dice())] + [keras.layers.Dense(1)]

    def call(self, target, events, valid, training=None):  # (B, D), (B, T, D), (B, T)
        repeated = ops.broadcast_to(ops.expand_dims(target, 1), ops.shape(events))
        x = ops.concatenate([repeated, events, repeated - events, repeated * events], axis=-1)
        for layer in self.mlp:
            x = layer(x, training=training) if isinstance(layer, Dice) else layer(x)
        return ops.sum(x * ops.expand_dims(ops.cast(valid, x.dtype), -1) * events, axis=1)


class Valid(keras.Layer):
    """Where an id is not padding."""

    def call(self, ids):
        return ops.not_equal(ids, 0)


class PairSum(keras.Layer):
    """Second order of a factorization machine: half of the squared sum less the sum of squares."""

    def call(self, tokens):  # (B, F, D)
        return 0.5 * ops.sum(ops.square(ops.sum(tokens, axis=1)) - ops.sum(ops.square(tokens), axis=1), axis=-1, keepdims=True)


def dense_tower(x, units, activation="relu"):
    """Returns the output of the hidden layers."""
    for u in units:
        x = Dice()(keras.layers.Dense(u)(x)) if activation == "dice" else keras.layers.Dense(u, activation)(x)
    return x


def logit(name, size, tokens, linear=None):
    """Returns the logit `(B, 1)` of a token model.

    Args:
        name: Name in `architectures.MODELS`.
        size: Its sizes.
        tokens: `(B, F, D)`.
        linear: `(B, 1)`, the linear term with its bias, for the models that have one.
    """
    flat = keras.layers.Flatten()(tokens)
    if name == "DCN":
        crossed = VectorCross(size["cross_layers"])(flat)
        return keras.layers.Dense(1)(keras.layers.Concatenate()([crossed, dense_tower(flat, size["hidden_units"])]))
    if name == "DCNv2":
        crossed = flat
        for _ in range(size["cross_layers"]):
            crossed = keras.layers.Add()([keras.layers.Multiply()([flat, keras.layers.Dense(flat.shape[-1])(crossed)]), crossed])
        return keras.layers.Dense(1)(keras.layers.Concatenate()([crossed, dense_tower(flat, size["hidden_units"])]))
    if name == "DeepFM":
        return keras.layers.Add()([linear, PairSum()(tokens), keras.layers.Dense(1)(dense_tower(flat, size["hidden_units"]))])
    if name == "xDeepFM":
        deep = keras.layers.Dense(1)(dense_tower(flat, size["hidden_units"]))
        return keras.layers.Add()([linear, keras.layers.Dense(1, use_bias=False)(CIN(size["cin_units"])(tokens)), deep])
    if name == "AutoInt":
        for _ in range(size["num_layers"]):
            tokens = Interacting(size["num_heads"], size["key_dim"])(tokens)
        return keras.layers.Dense(1)(keras.layers.Flatten()(tokens))
    for _ in range(size["num_layers"]):
        tokens = WukongLayer(size["fm_tokens"], size["linear_tokens"], size["rank"], size["fm_hidden_units"])(tokens)
    return keras.layers.Dense(1)(dense_tower(keras.layers.Flatten()(tokens), size["hidden_units"]))
