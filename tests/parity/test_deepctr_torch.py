"""Layers of deepctr-torch with our weights give our outputs; where it deviates from a paper, the test says which argument follows it."""

import numpy as np
import pytest

from keras_ctr import layers
from tests.parity.peer import Peer, needs
from tests.parity.samples import B, D, F, L, N, assert_same, built, shared_gate_mixture, tokens, values, vectors

pytestmark = pytest.mark.slow

T, HIDDEN = 13, (11, 5)
LENGTHS = np.array([13, 1, 7, 12, 5])


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    needs("torch", "deepctr_torch")
    worker = Peer("torch_worker", tmp_path_factory.mktemp("deepctr"))
    yield worker
    worker.close()


def test_factorization_machine(peer):
    assert_same(layers.FactorizationMachine()(tokens()), peer("deepctr.fm", x=tokens()))
    assert_same(layers.FactorizationMachine(reduce=False)(tokens()), peer("deepctr.bi_interaction", x=tokens()))


@pytest.mark.parametrize("parameterization", ["vector", "matrix"])
def test_cross(peer, parameterization):
    layer = built(layers.CrossNetwork(L, parameterization=parameterization), (None, N))
    weights = values(layer)
    kernels = np.stack([weights[f"kernel_{depth}"] for depth in range(L)])
    kernels = kernels.transpose(0, 2, 1) if parameterization == "matrix" else kernels  # theirs W x, ours x W
    bias = np.stack([weights[f"bias_{depth}"] for depth in range(L)])[:, :, None]
    assert_same(layer(vectors()), peer("deepctr.cross", x=vectors(), kernels=kernels, bias=bias))


def test_cross_mixture(peer):
    """deepctr-torch has one gate for all layers, the paper and we one a layer: the same gate in every layer of ours follows it."""
    layer, weights = shared_gate_mixture()
    assert_same(layer(vectors()), peer("deepctr.cross_mix", x=vectors(), **weights))


@pytest.mark.parametrize("split_half", [False, True])
@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_compressed_interaction(peer, split_half, activation):
    """deepctr-torch adds a bias and by default ReLU and the half split: `use_bias`, `activation` and `split_half` follow it."""
    layer = built(layers.CompressedInteraction((4, 2, 3), use_bias=True, activation=activation, split_half=split_half), (None, F, D))
    weights = {name: array.T[:, :, None] if name.startswith("kernel") else array for name, array in values(layer).items()}
    assert_same(layer(tokens()), peer("deepctr.cin", x=tokens(), split_half=split_half, activation=activation, **weights))


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("shortcut", ["projection", None])
def test_interacting_layer(peer, scale, shortcut):
    """Its `att_embedding_size` a head is the width divided by the heads: `key_dim` follows it; the paper's widths are free."""
    layer = built(layers.InteractingLayer(3, key_dim=D // 3, scale=scale, shortcut=shortcut), (None, F, D))
    names = {"W_Query": "query", "W_key": "key", "W_Value": "value", **({"W_Res": "shortcut"} if shortcut else {})}
    weights = {name: getattr(layer, f"{ours}_dense").kernel for name, ours in names.items()}
    assert_same(layer(tokens()), peer("deepctr.interacting", x=tokens(), heads=3, scaling=scale, **weights))


def test_squeeze_excitation(peer):
    layer = built(layers.SqueezeExcitation(2), (None, F, D))
    squeeze, excite = (kernel.numpy().T for kernel in layer.kernels)
    assert_same(layer(tokens()), peer("deepctr.senet", x=tokens(), ratio=2, squeeze=squeeze, excite=excite))


@pytest.mark.parametrize("kind", ["all", "each", "interaction"])
def test_bilinear_interaction(peer, kind):
    """With `each` it also makes a matrix of the last field, which nothing reads: any values do."""
    layer = built(layers.BilinearInteraction(kind), (None, F, D))
    kernels = layer.kernel.numpy().reshape(-1, D, D).transpose(0, 2, 1)
    kernels = np.concatenate([kernels, np.full((1, D, D), 9.0, "float32")]) if kind == "each" else kernels
    assert_same(layer(tokens()), peer("deepctr.bilinear", x=tokens(), kind=kind, kernels=kernels))


def test_inner_product(peer):
    """Each pair once, as here; the paper's double sum has it twice, and the squared norms."""
    assert_same(layers.InnerProduct()(tokens()), peer("deepctr.inner", x=tokens()))


@pytest.mark.parametrize("kind, theirs", [("matrix", "mat"), ("vector", "vec"), ("scalar", "num")])
def test_outer_product_is_the_kernel_product(peer, kind, theirs):
    """Its "outer product" is KPNN's kernel product: `KernelProduct`, not `OuterProduct`, follows it."""
    layer = built(layers.KernelProduct(kind), (None, F, D))
    kernel = layer.kernel.numpy()  # (P, D, D), (P, D) or (P,)
    kernel = {"matrix": lambda: kernel.transpose(2, 0, 1), "vector": lambda: kernel, "scalar": lambda: kernel[:, None]}[kind]()
    assert_same(layer(tokens()), peer("deepctr.outer", x=tokens(), kind=theirs, kernel=kernel))


@pytest.mark.parametrize("training", [False, True])
def test_dice(peer, training):
    """Padding counts in its statistics: `masked_stats=False` follows it. Its moving variance is the unbiased one, ours is not."""
    layer = built(layers.Dice(epsilon=1e-8), (None, F, D))
    theirs = peer(
        "deepctr.dice", x=tokens(), training=training, alpha=layer.alpha, mean=layer.norm.moving_mean, variance=layer.norm.moving_variance
    )
    assert_same(layer(tokens(), training=training), theirs)


def test_mlp_with_batch_normalisation(peer):
    """Its epsilon is 1e-5, that of Keras and ours 1e-3: no argument sets it, a moving variance larger by the difference makes up for it."""
    layer = built(layers.MLP(HIDDEN, batch_norm=True), (None, N))
    weights = {}
    for index in range(2):
        dense, norm = layer.steps[3 * index], layer.steps[3 * index + 1]
        weights |= {f"linears.{index}.weight": dense.kernel.numpy().T, f"linears.{index}.bias": dense.bias}
        weights |= {f"bn.{index}.weight": norm.gamma, f"bn.{index}.bias": norm.beta, f"bn.{index}.running_mean": norm.moving_mean}
        weights[f"bn.{index}.running_var"] = norm.moving_variance.numpy() + 1e-3 - 1e-5
    assert_same(layer(vectors(), training=False), peer("deepctr.dnn", x=vectors(), **weights))


def attention(softmax, activation):
    """Our layer with random weights, the weights in their layout, and the inputs."""
    layer = layers.TargetAttention(HIDDEN, activation=activation, use_softmax=softmax, return_attention=True)
    built(layer, (None, D), (None, T, D))
    net, second = "local_att.dnn", layer.dense[0]
    weights = {f"{net}.linears.0.weight": layer.kernel.numpy().T, f"{net}.linears.0.bias": layer.bias}
    weights |= {f"{net}.linears.1.weight": second.kernel.numpy().T, f"{net}.linears.1.bias": second.bias}
    weights |= {"local_att.dense.weight": layer.score.kernel.numpy().T, "local_att.dense.bias": layer.score.bias}
    for index, dice in enumerate(layer.activations if activation == "dice" else ()):
        part, norm = f"{net}.activation_layers.{index}", dice.norm
        weights |= {f"{part}.alpha": dice.alpha.numpy()[:, None], f"{part}.bn.running_mean": norm.moving_mean}
        weights |= {f"{part}.bn.running_var": norm.moving_variance, f"{part}.bn.weight": np.ones(norm.moving_mean.shape, "float32")}
        weights[f"{part}.bn.bias"] = np.zeros(norm.moving_mean.shape, "float32")
    rng = np.random.default_rng(6)
    inputs = rng.standard_normal((B, D)).astype("float32"), rng.standard_normal((B, T, D)).astype("float32")
    return layer, weights, inputs


@pytest.mark.parametrize("activation", ["sigmoid", "dice"])
@pytest.mark.parametrize("softmax", [False, True])
def test_local_activation_unit(peer, softmax, activation):
    """Both feed difference and product of candidate and event, where the paper has their outer product."""
    layer, weights, (target, events) = attention(softmax, activation)
    pooled, scores = layer(target, events, mask=np.arange(T)[None] < LENGTHS[:, None])
    for ours, wanted in ((pooled, False), (scores, True)):
        theirs = peer(
            "deepctr.attention",
            target=target, events=events, lengths=LENGTHS, softmax=softmax, activation=activation, scores=wanted, **weights,
        )  # fmt: skip
        assert_same(ours, theirs)


def test_an_empty_history_differs_under_softmax(peer):
    """deepctr-torch weighs every padded step with 1 / T then and returns their mean; here it is zeros, and no argument follows it."""
    layer, weights, (target, events) = attention(True, "sigmoid")
    lengths = np.array([0, 1, 7, 12, 5])
    pooled, _ = layer(target, events, mask=np.arange(T)[None] < lengths[:, None])
    theirs = peer(
        "deepctr.attention", target=target, events=events, lengths=lengths, softmax=True, activation="sigmoid", scores=False, **weights
    )
    np.testing.assert_allclose(theirs[0], events[0].mean(axis=0), rtol=1e-5, atol=1e-6)
    assert not np.any(np.asarray(pooled)[0])
    assert_same(np.asarray(pooled)[1:], theirs[1:])
