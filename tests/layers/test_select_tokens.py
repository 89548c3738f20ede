"""Tokens by position."""

import numpy as np
import pytest

from keras_ctr.layers.select_tokens import SelectTokens
from tests.layer_contract import check_layer

B, F, D = 5, 7, 3


@pytest.mark.parametrize("positions", [[3], [1, 2, 3], [6, 0], [0, 1, 5, 4, 6], list(range(F))])
def test_selects_in_the_given_order(positions):
    x = np.random.default_rng(0).standard_normal((B, F, D)).astype("float32")
    np.testing.assert_array_equal(SelectTokens(positions)(x), x[:, positions])


def test_contract():
    check_layer(SelectTokens([4, 1, 2]), (B, F, D), has_weights=False)


def test_errors():
    with pytest.raises(ValueError, match="at least one"):
        SelectTokens([])
    with pytest.raises(ValueError, match="no token 7"):
        SelectTokens([0, F]).build((None, F, D))
