"""Layers of tensorflow-recommenders with our weights give our outputs.

Its Cross also has a `preactivation`, which has no counterpart here: the papers' cross layers are linear before the product.
"""

import numpy as np
import pytest

from keras_ctr import layers
from tests.parity.peer import Peer, needs
from tests.parity.samples import K, L, N, assert_same, built, tokens, values, vectors

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    needs("tensorflow_recommenders", "tf_keras")
    worker = Peer("tfrs_worker", tmp_path_factory.mktemp("tfrs"), TF_USE_LEGACY_KERAS="1", KERAS_BACKEND="tensorflow")
    yield worker
    worker.close()


@pytest.mark.parametrize("rank", [None, K])
def test_cross(peer, rank):
    layer = built(layers.CrossNetwork(L, rank=rank), (None, N))
    assert_same(layer(vectors()), peer("cross", x=vectors(), projection_dim=rank or 0, diag_scale=0.0, **values(layer)))


def test_diag_scale_is_a_diagonal_of_the_matrix(peer):
    """We have no `diag_scale`: `W x + s x = (W + s I) x`."""
    layer = built(layers.CrossNetwork(L), (None, N))
    theirs = peer("cross", x=vectors(), projection_dim=0, diag_scale=0.3, **values(layer))
    for weights in layer.cross_weights:
        weights["kernel"].assign_add(0.3 * np.eye(N, dtype="float32"))
    assert_same(layer(vectors()), theirs)


def test_multi_layer_dcn(peer):
    layer = built(layers.CrossNetwork(L, rank=K), (None, N))
    assert_same(layer(vectors()), peer("multi_layer_dcn", x=vectors(), **values(layer)))


@pytest.mark.parametrize("self_interaction", [False, True])
def test_dot_interaction(peer, self_interaction):
    ours = layers.DotInteraction(self_interaction=self_interaction)(tokens())
    assert_same(ours, peer("dot", x=tokens(), self_interaction=self_interaction))
