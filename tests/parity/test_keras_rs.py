"""Layers of keras-rs with our weights give our outputs.

keras-rs' FeatureCross is one cross layer. Its `pre_activation` has no counterpart here: the papers' cross layers are linear before the
product. Its other layers are look-ups (EmbedReduce, DistributedEmbedding) and retrieval.
"""

import keras
import numpy as np
import pytest

from keras_ctr import Categorical, Schema, Sequence, layers
from tests.parity.peer import needs
from tests.parity.samples import B, D, F, K, L, N, assert_same, built, tokens, values, vectors

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def keras_rs():
    needs("keras_rs")
    return pytest.importorskip("keras_rs")


def stacked(keras_rs, weights, names, **arguments):
    x0 = x = keras.ops.convert_to_tensor(vectors())
    for depth in range(L):
        peer = keras_rs.layers.FeatureCross(**arguments)
        peer(x0, x)
        peer.set_weights([weights[f"{name}_{depth}"] for name in names])
        x = peer(x0, x)
    return x


def test_cross_with_a_full_matrix(keras_rs):
    layer = built(layers.CrossNetwork(L), (None, N))
    assert_same(layer(vectors()), stacked(keras_rs, values(layer), ("kernel", "bias")))


def test_cross_of_low_rank(keras_rs):
    layer = built(layers.CrossNetwork(L, rank=K), (None, N))
    assert_same(layer(vectors()), stacked(keras_rs, values(layer), ("kernel_v", "kernel_u", "bias"), projection_dim=K))


@pytest.mark.parametrize("rank", [None, K])
def test_diag_scale_is_a_diagonal_of_the_matrix(keras_rs, rank):
    """We have no `diag_scale`: `W x + s x = (W + s I) x`, a full matrix whatever W's rank."""
    names = ("kernel", "bias") if rank is None else ("kernel_v", "kernel_u", "bias")
    weights = values(built(layers.CrossNetwork(L, rank=rank), (None, N)))
    layer = layers.CrossNetwork(L)
    layer.build((None, N))
    for depth, ours in enumerate(layer.cross_weights):
        product = weights[f"kernel_{depth}"] if rank is None else weights[f"kernel_v_{depth}"] @ weights[f"kernel_u_{depth}"]
        ours["kernel"].assign(product + 0.3 * np.eye(N))
        ours["bias"].assign(weights[f"bias_{depth}"])
    assert_same(layer(vectors()), stacked(keras_rs, weights, names, projection_dim=rank, diag_scale=0.3))


@pytest.mark.parametrize("self_interaction", [False, True])
def test_dot_interaction(keras_rs, self_interaction):
    x = tokens()
    peer = keras_rs.layers.DotInteraction(self_interaction=self_interaction)
    ours = np.asarray(layers.DotInteraction(self_interaction=self_interaction)(x))
    assert_same(ours, peer([x[:, field] for field in range(F)]))
    rows, columns = np.tril_indices(F, 0 if self_interaction else -1)
    whole = keras_rs.layers.DotInteraction(self_interaction=self_interaction, skip_gather=True)([x[:, field] for field in range(F)])
    assert_same(ours, np.asarray(whole)[:, rows * F + columns])  # skip_gather: the same values in a matrix of F^2, zeros above


def test_mean_of_a_history(keras_rs):
    """EmbedReduce with the mask as weights is FeatureEmbedding and SequencePooling; empty histories are zeros in both."""
    schema = Schema([Categorical("item", 13), Sequence("items", max_length=7, table="item", group="g")], ["click"])
    ids = np.random.default_rng(1).integers(2, 13, (B, 7))
    ids[np.arange(7)[None] >= np.array([7, 3, 1, 5, 0])[:, None]] = 0
    embedding = layers.FeatureEmbedding(schema, D, initializer="random_normal")
    out = embedding({"item": ids[:, 0], "items": ids})
    ours = layers.SequencePooling()(out["sequences"]["g"], mask=out["masks"]["g"])
    peer = keras_rs.layers.EmbedReduce(13, D, combiner="mean")
    peer.build((None, 7))
    peer.set_weights([embedding.rows("item")])
    theirs = peer(keras.ops.convert_to_tensor(ids), keras.ops.convert_to_tensor((ids > 0).astype("float32")))
    assert_same(np.asarray(ours).reshape(B, D), theirs)
