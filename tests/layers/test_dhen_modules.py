"""DHEN's attention, linear and convolution modules against loops of their equations, and within a DHEN layer."""

import numpy as np
import pytest

from keras_ctr.layers.dhen import CrossModule, DHENLayer, DotModule
from keras_ctr.layers.dhen_modules import ConvolutionModule, LinearModule, SelfAttentionModule
from tests.layer_contract import check_layer, weight_count
from tests.layers.interformer_oracles import attention, layer_norm, mlp, randomize, under, weights

B, M, D, L, H, U, C, K = 5, 7, 6, 4, 2, 11, 3, 5
X = np.random.default_rng(0).standard_normal((B, M, D)).astype("float32")
KEY_BIAS = (r"key/bias",)  # one number for all keys of a query: it cancels in the softmax
ENCODER = 4 * (D * D + D) + 2 * D * U + U + D + 4 * D


def built(layer):
    layer.build((None, M, D))
    return randomize(layer, scale=0.3)


def relu(x):
    return np.maximum(x, 0)


def encoder(values, x, norm_first):
    def norm(name, z):
        return np.array([layer_norm(under(values, name), token) for token in z])

    def attend(z):
        return attention(under(values, "attention"), z, z, np.ones(len(z), bool), H)[0]

    def feed(z):
        return np.array([mlp(under(values, "ffn"), token, relu) for token in z])

    if norm_first:
        z = x + attend(norm("attention_norm", x))
        return z + feed(norm("ffn_norm", z))
    z = norm("attention_norm", x + attend(x))
    return norm("ffn_norm", z + feed(z))


def convolution(values, x, tokens, activation, size=K, filters=C):
    """A window that begins (size - 1) // 2 steps before its place; outside of the map is zero."""
    kernel, bias = values["convolution/kernel"], values["convolution/bias"]
    out = np.zeros((tokens, D))
    for i in range(M):
        for d in range(D):
            for c in range(filters):
                total = bias[c]
                for p in range(size):
                    for q in range(size):
                        row, column = i + p - (size - 1) // 2, d + q - (size - 1) // 2
                        if 0 <= row < M and 0 <= column < D:
                            total += kernel[p, q, 0, c] * x[row, column]
                for j in range(tokens):
                    out[j, d] += values["project/kernel"][i * filters + c, j] * activation(total)
    return out


MODULES = {
    "attention": lambda **tokens: SelfAttentionModule(H, ffn_units=U, **tokens),
    "linear": lambda **tokens: LinearModule(**tokens),
    "convolution": lambda **tokens: ConvolutionModule(C, kernel_size=K, **tokens),
}


@pytest.mark.parametrize("num_tokens", [None, L, M])
@pytest.mark.parametrize("name", MODULES)
def test_contract(name, num_tokens):
    layer = MODULES[name](num_tokens=num_tokens)
    out = check_layer(layer, X, no_gradient=KEY_BIAS, low_precision_tolerance=0.1)
    assert out.shape == (B, num_tokens or M, D)


def test_contract_of_other_options():
    check_layer(SelfAttentionModule(H, ffn_units=U, norm_first=True, dropout=0.5), X, no_gradient=KEY_BIAS, low_precision_tolerance=0.1)
    check_layer(ConvolutionModule(activation="relu"), X)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("num_tokens", [None, L])
def test_attention_equation(norm_first, num_tokens):
    layer = built(SelfAttentionModule(H, ffn_units=U, norm_first=norm_first, num_tokens=num_tokens, name="module"))
    values = weights(layer)
    want = [encoder(under(values, "encoder"), x, norm_first) for x in X.astype("float64")]
    if num_tokens:
        want = [np.array([sum(values["project/kernel"][i, j] * z[i] for i in range(M)) for j in range(L)]) for z in want]
    np.testing.assert_allclose(layer(X), want, rtol=1e-5, atol=3e-6)


def test_linear_equation():
    layer = built(LinearModule(num_tokens=L, name="module"))
    kernel = weights(layer)["mix/kernel"]
    want = [[sum(kernel[i, j] * x[i] for i in range(M)) for j in range(L)] for x in X.astype("float64")]
    np.testing.assert_allclose(layer(X), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size, activation, function", [(K, None, lambda z: z), (K, "relu", relu), (2, None, lambda z: z)])
def test_convolution_equation(size, activation, function):
    layer = built(ConvolutionModule(C, kernel_size=size, activation=activation, num_tokens=L, name="module"))
    want = [convolution(weights(layer), x, L, function, size) for x in X.astype("float64")]
    np.testing.assert_allclose(layer(X), want, rtol=1e-5, atol=2e-5)


def test_a_window_of_one_step_is_a_linear_module():
    """A 1 x 1 filter of weight 1 and bias 0 copies the map: the projection alone is left."""
    layer, linear = built(ConvolutionModule(kernel_size=1, num_tokens=L)), built(LinearModule(num_tokens=L))
    layer.set_weights([np.ones((1, 1, 1, 1)), np.zeros(1), linear.mix.kernel.numpy()])
    np.testing.assert_allclose(layer(X), linear(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "layer, count",
    [
        (SelfAttentionModule(H, ffn_units=U), ENCODER),
        (SelfAttentionModule(H, ffn_units=U, num_tokens=M), ENCODER),
        (SelfAttentionModule(H, ffn_units=U, num_tokens=L), ENCODER + M * L),
        (LinearModule(), M * M),
        (LinearModule(num_tokens=L), M * L),
        (ConvolutionModule(C, kernel_size=K), K * K * C + C + M * C * M),
        (ConvolutionModule(C, kernel_size=K, num_tokens=L), K * K * C + C + M * C * L),
    ],
)
def test_parameter_count(layer, count):
    assert weight_count(built(layer)) == count


@pytest.mark.parametrize("name", MODULES)
def test_a_dhen_layer_of_one_module_is_its_sum_with_the_shortcut_normalised(name):
    layer = DHENLayer([MODULES[name]()], name="dhen")
    layer.build((None, M, D))
    np.testing.assert_allclose(layer(X), layer.norm(np.asarray(layer.parts[0](X)) + X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ensemble, tokens", [("sum", L), ("weighted", L), ("concat", 5 * L)])
def test_all_modules_in_one_dhen_layer(ensemble, tokens):
    modules = [DotModule(num_tokens=L), CrossModule(3, num_tokens=L), *(make(num_tokens=L) for make in MODULES.values())]
    layer = DHENLayer(modules, ensemble=ensemble)
    out = check_layer(layer, X, no_gradient=KEY_BIAS, low_precision_tolerance=0.1)
    assert out.shape == (B, tokens, D)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: SelfAttentionModule(0), "num_heads"),
        (lambda: SelfAttentionModule(H, num_tokens=0), "num_tokens"),
        (lambda: SelfAttentionModule(4).build((None, M, D)), "do not divide"),
        (lambda: LinearModule(num_tokens=0), "num_tokens"),
        (lambda: ConvolutionModule(0), "filters"),
        (lambda: ConvolutionModule(kernel_size=0), "kernel_size"),
        (lambda: ConvolutionModule(num_tokens=-1), "num_tokens"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
