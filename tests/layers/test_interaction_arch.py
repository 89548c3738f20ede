"""InteractionArch against loops of Eq. 7 with each backbone."""

import keras
import numpy as np
import pytest

from keras_ctr.layers.cross import CrossNetwork
from keras_ctr.layers.dhen import CrossModule, DHENLayer, DotModule
from keras_ctr.layers.interaction_arch import InteractionArch
from tests.layer_contract import check_layer, weight_count
from tests.layers.interformer_oracles import layer_norm, mlp, randomize, triangle, under, weights

B, F, S, D, R, U, V = 5, 7, 4, 3, 2, 11, 13
N = F + S
P = N * (N - 1) // 2
RNG = np.random.default_rng(0)
FIELDS = RNG.standard_normal((B, F, D)).astype("float32")
SUMMARY = RNG.standard_normal((B, S, D)).astype("float32")


def built(backbone, summary=True, **arguments):
    layer = InteractionArch(backbone, hidden_units=(U,), rank=R, dot_units=(V,), name="interaction", **arguments)
    layer.build((None, F, D), (None, S, D) if summary else None)
    return randomize(layer, 0.3)


def interaction(values, z, backbone, keep_input=True):
    """`Interaction(Z)` as one vector."""
    flat = z.reshape(-1)
    if backbone == "dot":
        return np.concatenate([flat, triangle(z)]) if keep_input else triangle(z)
    if backbone == "dcnv2":
        x = flat
        for i in range(2):
            low = values[f"cross/kernel_v_{i}"].T @ x
            x = flat * (values[f"cross/kernel_u_{i}"].T @ low + values[f"cross/bias_{i}"]) + x
        return x
    dot = mlp(under(values, "dhen_0/module_0/mlp"), triangle(z)).reshape(N, D)
    low = values["dhen_0/module_1/down/kernel"].T @ flat
    cross = flat * (values["dhen_0/module_1/up/kernel"].T @ low + values["dhen_0/module_1/up/bias"])
    tokens = dot + cross.reshape(N, D) + z
    return np.concatenate([layer_norm(under(values, "dhen_0/norm"), token) for token in tokens])


@pytest.mark.parametrize("backbone, keep_input", [("dot", True), ("dot", False), ("dcnv2", True), ("dhen", True)])
def test_equation(backbone, keep_input):
    layer = built(backbone, keep_input=keep_input)
    values = weights(layer)
    want = []
    for x, s in zip(FIELDS.astype("float64"), SUMMARY.astype("float64"), strict=True):
        out = interaction(values, np.concatenate([x, s]), backbone, keep_input)
        want.append(mlp(under(values, "mlp"), out).reshape(F, D))
    np.testing.assert_allclose(layer(FIELDS, SUMMARY), want, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("backbone", InteractionArch.BACKBONES)
def test_contract(backbone):
    check_layer(InteractionArch(backbone, hidden_units=(U,), rank=R, dot_units=(V,)), FIELDS, SUMMARY, low_precision_tolerance=0.1)


def test_contract_of_a_prototype_backbone():
    check_layer(InteractionArch(DHENLayer((CrossModule(R),)), hidden_units=(U,)), FIELDS, SUMMARY, low_precision_tolerance=0.1)


def test_prototype_equals_the_backbone_of_that_name():
    prototype = DHENLayer((DotModule((V,)), CrossModule(R)))
    named, given = built("dhen"), built(prototype)
    given.set_weights(named.get_weights())
    np.testing.assert_allclose(named(FIELDS, SUMMARY), given(FIELDS, SUMMARY), atol=1e-6)
    assert not prototype.built


def test_flat_prototype():
    class Flat(keras.layers.Flatten):
        pass

    layer = InteractionArch(Flat(), hidden_units=())
    layer.build((None, F, D))
    assert weight_count(layer) == F * D * F * D + F * D


def test_without_a_summary_the_fields_interact_alone():
    layer = built("dot", summary=False)
    values = weights(layer)
    want = [mlp(under(values, "mlp"), interaction(values, x, "dot")).reshape(F, D) for x in FIELDS.astype("float64")]
    np.testing.assert_allclose(layer(FIELDS), want, rtol=1e-3, atol=1e-3)


def test_residual_adds_the_input():
    plain, residual = built("dot"), built("dot", residual=True)
    np.testing.assert_allclose(residual(FIELDS, SUMMARY), np.asarray(plain(FIELDS, SUMMARY)) + FIELDS, atol=1e-5)


def test_parameter_counts():
    def tail(size):
        return size * U + U + U * F * D + F * D

    cross = CrossNetwork(2, rank=R)
    cross.build((None, N * D))
    dhen = P * V + V + V * N * D + N * D + 2 * N * D * R + N * D + 2 * D
    assert weight_count(built("dot")) == tail(N * D + P)
    assert weight_count(built("dot", keep_input=False)) == tail(P)
    assert weight_count(built("dcnv2")) == 2 * (2 * N * D * R + N * D) + tail(N * D)
    assert weight_count(built("dhen")) == dhen + tail(N * D)
    assert weight_count(built("dhen", num_inner_layers=3)) == 3 * dhen + tail(N * D)


def test_errors():
    with pytest.raises(ValueError, match="backbone must be one of .* did you mean 'dcnv2'"):
        InteractionArch("dcn2")
    with pytest.raises(ValueError, match="rank"):
        InteractionArch(rank=0)
