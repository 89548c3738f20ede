"""Layers of torch-rechub with our weights give our outputs; where it deviates from a paper, the test says what follows it, if anything.

Its MLP is that of deepctr-torch and not compared again.
"""

import numpy as np
import pytest

from keras_ctr import layers
from tests.parity.peer import Peer, needs
from tests.parity.samples import D, F, L, N, assert_same, built, shared_gate_mixture, tokens, vectors

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    needs("torch", "torch_rechub")
    worker = Peer("torch_worker", tmp_path_factory.mktemp("rechub"))
    yield worker
    worker.close()


@pytest.mark.parametrize("reduce", [True, False])
def test_factorization_machine(peer, reduce):
    assert_same(layers.FactorizationMachine(reduce=reduce)(tokens()), peer("rechub.fm", x=tokens(), reduce_sum=reduce))


def test_cross(peer):
    layer = built(layers.CrossNetwork(L, parameterization="vector"), (None, N))
    weights = {f"w.{depth}.weight": ours["kernel"].numpy().T for depth, ours in enumerate(layer.cross_weights)}
    weights |= {f"b.{depth}": ours["bias"] for depth, ours in enumerate(layer.cross_weights)}
    assert_same(layer(vectors()), peer("rechub.cross", x=vectors(), **weights))


def matrix_cross(num_layers):
    layer = built(layers.CrossNetwork(num_layers), (None, N))
    weights = {f"w.{depth}.weight": ours["kernel"].numpy().T for depth, ours in enumerate(layer.cross_weights)}
    return layer, weights | {f"b.{depth}": ours["bias"] for depth, ours in enumerate(layer.cross_weights)}


def test_cross_v2_without_bias(peer):
    layer, weights = matrix_cross(L)
    for depth, ours in enumerate(layer.cross_weights):
        ours["bias"].assign(np.zeros(N))
        weights[f"b.{depth}"] = np.zeros(N, "float32")
    assert_same(layer(vectors()), peer("rechub.cross_v2", x=vectors(), **weights))


def test_cross_v2_has_its_bias_outside_of_the_product(peer):
    """torch-rechub computes `x_0 * (W x) + b + x`, the paper and we `x_0 * (W x + b) + x`: no argument follows it."""
    layer, weights = matrix_cross(1)
    x, bias = vectors(), layer.cross_weights[0]["bias"].numpy()
    theirs = peer("rechub.cross_v2", x=x, **weights)
    assert_same(np.asarray(layer(x)) + bias - x * bias, theirs)


def test_cross_mixture(peer):
    """torch-rechub has one gate for all layers, the paper and we one a layer: the same gate in every layer of ours follows it."""
    layer, weights = shared_gate_mixture()
    assert_same(layer(vectors()), peer("rechub.cross_mix", x=vectors(), **weights))


@pytest.mark.parametrize("split_half", [False, True])
def test_compressed_interaction(peer, split_half):
    """torch-rechub has biases, ReLU and by default the half split: `use_bias`, `activation`, `split_half`. A linear layer ends it.

    Its rows of a kernel have X^0 first, and the first half of the maps goes out where ours goes on: an order of weights, no other function.
    """
    units = (4, 2, 3)
    layer = built(layers.CompressedInteraction(units, use_bias=True, activation="relu", split_half=split_half), (None, F, D))
    weights = {}
    for depth, (kernel, bias) in enumerate(zip(layer.kernels, layer.biases, strict=True)):
        kernel = kernel.numpy().reshape(-1, F, units[depth]).transpose(2, 1, 0)  # (U, F, H)
        halved = split_half and depth < len(units) - 1
        order = np.roll(np.arange(units[depth]), units[depth] // 2) if halved else np.arange(units[depth])
        weights[f"conv_layers.{depth}.weight"] = kernel[order].reshape(units[depth], -1, 1)
        weights[f"conv_layers.{depth}.bias"] = bias.numpy()[order]
    pooled = np.asarray(layer(tokens()))
    rng = np.random.default_rng(7)
    last, offset = rng.standard_normal((1, pooled.shape[1])).astype("float32"), rng.standard_normal(1).astype("float32")
    theirs = peer("rechub.cin", x=tokens(), split_half=split_half, **weights, **{"fc.weight": last, "fc.bias": offset})
    assert_same(pooled @ last.T + offset, theirs, 1e-4)


@pytest.mark.parametrize("shortcut", ["projection", None])
def test_interacting_layer(peer, shortcut):
    """torch-rechub divides the scores by the root of the head's width, the paper does not: `scale=True` follows it."""
    layer = built(layers.InteractingLayer(3, key_dim=D // 3, scale=True, shortcut=shortcut), (None, F, D))
    names = {"W_Q": "query", "W_K": "key", "W_V": "value", **({"W_Res": "shortcut"} if shortcut else {})}
    weights = {f"{name}.weight": getattr(layer, f"{ours}_dense").kernel.numpy().T for name, ours in names.items()}
    assert_same(layer(tokens()), peer("rechub.interacting", x=tokens(), heads=3, **weights))


def test_squeeze_excitation(peer):
    layer = built(layers.SqueezeExcitation(2), (None, F, D))
    squeeze, excite = (kernel.numpy().T for kernel in layer.kernels)
    assert_same(layer(tokens()), peer("rechub.senet", x=tokens(), ratio=2, squeeze=squeeze, excite=excite))


@pytest.mark.parametrize("kind", ["all", "each", "interaction"])
def test_bilinear_interaction(peer, kind):
    """With `each` it also makes a matrix of the last field, which nothing reads: any values do."""
    layer = built(layers.BilinearInteraction(kind), (None, F, D))
    kernels = layer.kernel.numpy().reshape(-1, D, D).transpose(0, 2, 1)
    kernels = np.concatenate([kernels, np.full((1, D, D), 9.0, "float32")]) if kind == "each" else kernels
    assert_same(layer(tokens()), peer("rechub.bilinear", x=tokens(), kind=kind, kernels=kernels))


def test_dice_is_another_function(peer):
    """torch-rechub normalises over the units of a row, sums where the paper has a mean, and has one alpha: no argument follows it."""
    layer, x = built(layers.Dice(), (None, N)), vectors()
    alpha = np.array([0.3], "float32")
    theirs = peer("rechub.dice", x=x, alpha=alpha)
    centred = x - x.mean(axis=1, keepdims=True)
    gate = 1 / (1 + np.exp(-centred / np.sqrt((centred**2 + 1e-3).sum(axis=1, keepdims=True))))
    assert_same(x * (gate + (1 - gate) * 0.3), theirs)
    layer.alpha.assign(np.full(N, 0.3))
    assert np.abs(np.asarray(layer(x, training=True)) - theirs).max() > 0.1
