"""DotInteraction against a loop over pairs."""

import numpy as np
import pytest

from keras_ctr.layers.dot_interaction import DotInteraction
from tests.layer_contract import check_layer
from tests.layers.interformer_oracles import triangle

B, F, D = 5, 7, 3
X = np.random.default_rng(0).standard_normal((B, F, D)).astype("float32")


@pytest.mark.parametrize("self_interaction", [False, True])
def test_contract(self_interaction):
    check_layer(DotInteraction(self_interaction=self_interaction), X, has_weights=False)


def test_order_of_pairs():
    np.testing.assert_allclose(DotInteraction()(X), [triangle(row) for row in X], rtol=1e-4, atol=1e-5)


def test_self_interaction_ends_each_row_of_the_triangle():
    want = [[row[i] @ row[j] for i in range(F) for j in range(i + 1)] for row in X]
    np.testing.assert_allclose(DotInteraction(self_interaction=True)(X), want, rtol=1e-4, atol=1e-5)


def test_a_single_token_has_no_pair():
    with pytest.raises(ValueError, match="single token"):
        DotInteraction()(X[:, :1])
    assert DotInteraction(self_interaction=True)(X[:, :1]).shape == (B, 1)
