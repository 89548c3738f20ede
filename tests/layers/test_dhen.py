"""DHENLayer and its modules against loops of their equations."""

import keras
import numpy as np
import pytest

from keras_ctr.layers.dhen import CrossModule, DHENLayer, DotModule
from keras_ctr.layers.gating import LinearCompressedEmbedding
from tests.layer_contract import check_layer, weight_count
from tests.layers.interformer_oracles import layer_norm, mlp, randomize, triangle, under, weights

B, M, D, L, R, U = 5, 7, 3, 2, 11, 13
P = M * (M - 1) // 2
X = np.random.default_rng(0).standard_normal((B, M, D)).astype("float32")


def built(layer):
    layer.build((None, M, D))
    return randomize(layer)


def dot_module(values, x, tokens):
    return mlp(under(values, "mlp"), triangle(x)).reshape(tokens, D)


def cross_module(values, x):
    flat = x.reshape(-1)
    out = flat * (values["up/kernel"].T @ (values["down/kernel"].T @ flat) + values["up/bias"])
    out = out.reshape(x.shape)
    return values["project/kernel"].T @ out if "project/kernel" in values else out


@pytest.mark.parametrize("layer", [DotModule((U,)), DotModule(num_tokens=L), CrossModule(R), CrossModule(R, num_tokens=L)])
def test_module_contract(layer):
    check_layer(layer, X)


@pytest.mark.parametrize("ensemble", DHENLayer.ENSEMBLES)
def test_layer_contract(ensemble):
    check_layer(DHENLayer((DotModule((U,)), CrossModule(R)), ensemble=ensemble), X, low_precision_tolerance=0.1)


@pytest.mark.parametrize("num_tokens", [None, L])
def test_module_equations(num_tokens):
    dot, cross = built(DotModule((U,), num_tokens=num_tokens, name="dot")), built(CrossModule(R, num_tokens=num_tokens, name="cross"))
    x = X.astype("float64")
    np.testing.assert_allclose(dot(X), [dot_module(weights(dot), row, num_tokens or M) for row in x], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(cross(X), [cross_module(weights(cross), row) for row in x], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("ensemble", DHENLayer.ENSEMBLES)
@pytest.mark.parametrize("num_tokens", [None, L])
def test_layer_equation(ensemble, num_tokens):
    layer = built(
        DHENLayer((DotModule((U,), num_tokens=num_tokens), CrossModule(R, num_tokens=num_tokens)), ensemble=ensemble, name="dhen")
    )
    values = weights(layer)
    want = []
    for x in X.astype("float64"):
        u = [dot_module(under(values, "module_0"), x, num_tokens or M), cross_module(under(values, "module_1"), x)]
        if ensemble == "concat":
            y = np.concatenate(u)
        else:
            w = values["weighting"] if ensemble == "weighted" else (1, 1)
            y = w[0] * u[0] + w[1] * u[1]
        short = values["shortcut/kernel"].T @ x if "shortcut/kernel" in values else x
        want.append([layer_norm(under(values, "norm"), token) for token in y + short])
    np.testing.assert_allclose(layer(X), want, rtol=1e-3, atol=1e-3)


def test_one_module_is_that_module_and_the_shortcut_normalised():
    prototype = LinearCompressedEmbedding(M)
    layer = DHENLayer([prototype], name="dhen")
    layer.build((None, M, D))
    module = layer.parts[0]
    np.testing.assert_allclose(layer(X), layer.norm(np.asarray(module(X)) + X), atol=1e-5)
    assert not prototype.built and module is not prototype


def test_parameter_counts():
    assert weight_count(built(DotModule((U,)))) == P * U + U + U * M * D + M * D
    assert weight_count(built(CrossModule(R))) == 2 * M * D * R + M * D
    assert weight_count(built(CrossModule(R, num_tokens=L))) == 2 * M * D * R + M * D + M * L
    parts = weight_count(built(DotModule((U,)))) + weight_count(built(CrossModule(R)))
    assert weight_count(built(DHENLayer((DotModule((U,)), CrossModule(R))))) == parts + 2 * D
    assert weight_count(built(DHENLayer((DotModule((U,)), CrossModule(R)), ensemble="weighted"))) == parts + 2 * D + 2
    assert weight_count(built(DHENLayer((DotModule((U,)), CrossModule(R)), ensemble="concat"))) == parts + 2 * D + M * 2 * M


def test_modules_share_nothing():
    prototype = CrossModule(R)
    a, b = built(DHENLayer((prototype, prototype))), built(DHENLayer((prototype,)))
    assert len({id(w) for w in (*a.weights, *b.weights)}) == len(a.weights) + len(b.weights)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: DHENLayer(()), ValueError, "modules is empty"),
        (lambda: DHENLayer(ensemble="mean"), ValueError, "ensemble must be one of"),
        (lambda: DHENLayer(("dot",)), TypeError, "keras.Layer"),
        (lambda: DHENLayer((DotModule(num_tokens=2), CrossModule())).build((None, M, D)), ValueError, "equal token counts"),
        (lambda: DHENLayer((keras.layers.Dense(D + 1),)).build((None, M, D)), ValueError, "must return tokens"),
        (lambda: CrossModule(0), ValueError, "rank"),
        (lambda: DotModule((0,)), ValueError, "hidden_units"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
