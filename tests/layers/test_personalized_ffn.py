"""PersonalizedFFN against loops of Eq. 8 and section A.2.2."""

import numpy as np
import pytest

from keras_ctr.layers.personalized_ffn import PersonalizedFFN
from tests.layer_contract import check_layer, weight_count
from tests.layers.interformer_oracles import pffn, randomize, weights

B, S, N, D, H = 5, 13, 3, 7, 11
RNG = np.random.default_rng(0)
TOKENS = RNG.standard_normal((B, S, D)).astype("float32")
SUMMARY = RNG.standard_normal((B, N, D)).astype("float32")


def built(kind, **arguments):
    layer = PersonalizedFFN(kind=kind, name="pffn", **arguments)
    layer.build((None, S, D), (None, N, D))
    return randomize(layer, 0.3)


@pytest.mark.parametrize("arguments", [{"kind": "linear"}, {"kind": "mlp"}, {"kind": "mlp", "hidden_units": (H,), "start": "identity"}])
def test_contract(arguments):
    check_layer(PersonalizedFFN(**arguments), TOKENS, SUMMARY)


@pytest.mark.parametrize("kind", PersonalizedFFN.KINDS)
def test_equation(kind):
    layer = built(kind, hidden_units=(H,) if kind == "mlp" else None)
    want = [pffn(weights(layer), TOKENS[b].astype("float64"), SUMMARY[b].astype("float64"), kind) for b in range(B)]
    np.testing.assert_allclose(layer(TOKENS, SUMMARY), want, rtol=1e-4, atol=1e-4)


def matrices(layer):
    """W_PFFN^T of each row: what the identity is mapped to."""
    return np.asarray(layer(np.broadcast_to(np.eye(D, dtype="float32"), (B, D, D)), SUMMARY))


def test_linear_kind_has_the_rank_of_the_summary():
    assert [np.linalg.matrix_rank(m, tol=1e-4) for m in matrices(built("linear"))] == [N] * B
    assert all(np.linalg.matrix_rank(m, tol=1e-4) > N for m in matrices(built("mlp")))


def test_matrix_starts_near_zero_or_identity():
    for start, offset in (("zeros", 0), ("identity", np.eye(D))):
        layer = PersonalizedFFN(start=start)
        layer.build((None, S, D), (None, N, D))
        out = layer(np.broadcast_to(np.eye(D, dtype="float32"), (B, D, D)), np.zeros((B, N, D), "float32"))
        np.testing.assert_allclose(out, np.broadcast_to(offset, (B, D, D)), atol=1e-6)


def test_parameter_counts():
    assert weight_count(built("linear")) == N * D
    assert weight_count(built("mlp", hidden_units=(H,))) == N * D * H + H + H * D * D + D * D
    assert weight_count(built("mlp")) == N * D * D + D + D * D * D + D * D


def test_errors():
    with pytest.raises(ValueError, match="kind"):
        PersonalizedFFN(kind="lin")
    with pytest.raises(ValueError, match="start"):
        PersonalizedFFN(start="one")
    with pytest.raises(ValueError, match="sequence width 7 and summary width 5 differ"):
        PersonalizedFFN().build((None, S, D), (None, N, 5))
