"""EarlyAggregation against loops."""

import numpy as np
import pytest

from keras_ctr.layers.early_aggregation import EarlyAggregation
from tests.layer_contract import check_layer
from tests.layers.interformer_oracles import attention, masks, mlp, newest, randomize, under, weights

B, T, D, H, U = 5, 7, 6, 3, 11
X = np.random.default_rng(0).standard_normal((B, T, D)).astype("float32")
MASK = masks(B, T)


def built(kind):
    layer = EarlyAggregation(kind, hidden_units=(U,), num_heads=H, name="aggregate")
    layer.build((None, T, D))
    return randomize(layer)


def oracle(layer, x, mask):
    values = weights(layer)
    if layer.kind == "mlp":
        return mlp(under(values, "mlp"), newest(x, mask, T).reshape(-1))
    if layer.kind == "mha":
        x, _ = attention(under(values, "attention"), x, x, mask, H, np.cumsum(mask) - 1)
    return x[mask].mean(axis=0) if mask.any() else np.zeros(D)


@pytest.mark.parametrize("kind", EarlyAggregation.KINDS)
def test_equation(kind):
    layer = built(kind)
    want = [oracle(layer, X[b].astype("float64"), MASK[b]) for b in range(B)]
    np.testing.assert_allclose(layer(X, mask=MASK)[:, 0], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", EarlyAggregation.KINDS)
def test_contract(kind):
    # The MLP's kernel has a row a step: it cannot be handed more steps, so its masking is tested by padding side.
    sequence = () if kind == "mlp" else (0,)
    layer = EarlyAggregation(kind, num_heads=H)
    check_layer(layer, X, call_kwargs={"mask": MASK}, sequence=sequence, has_weights=kind != "avg", low_precision_tolerance=0.1)


@pytest.mark.parametrize("kind", EarlyAggregation.KINDS)
def test_padding_side_does_not_matter(kind):
    layer = built(kind)
    valid = np.zeros((B, T), bool)
    valid[:, :4] = True
    np.testing.assert_allclose(layer(X, mask=valid), layer(np.roll(X, 3, axis=1), mask=np.roll(valid, 3, axis=1)), atol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="kind must be one of"):
        EarlyAggregation("max")
