"""Layers that take one history for all candidates: the same as the history repeated, a row each."""

import numpy as np
import pytest
from keras import tree
from keras.ops import convert_to_numpy as numpy

from keras_ctr import layers
from tests.layers.interaction_oracles import randomise

N, T, D, E, C, V, M = 11, 7, 6, 5, 3, 2, 4
ATTENTION = {"hidden_units": (5, 13), "position_dim": 4, "max_positions": 17}
HISTORIES = np.array([[1, 1, 0, 1, 0, 1, 0], [0] * 7, [1] * 7], bool)  # with gaps, empty, full

# layer -> (its variants, the shapes that it is built with, and, by their names, the arguments of which each row has its own)
CASES = {
    layers.HSTUEncoder: (
        [lambda time=time: layers.HSTUEncoder(3, num_heads=2, max_length=5, use_time=time, epsilon=0.1) for time in (False, True)],
        {"target": (D,), "events": (T, D)},
        ("target",),
    ),
    layers.OneTransBlock: (
        [lambda keep=keep: layers.OneTransBlock(2, expansion=2, keep=keep) for keep in (1.0, 0.5, 0.0)],
        {"tokens": (M, D), "events": (T, D)},
        ("tokens",),
    ),
    layers.InterestEvolution: (
        [lambda kind=kind: layers.InterestEvolution(kind=kind) for kind in ("augru", "augru_authors", "agru", "aigru")],
        {"states": (T, D), "target": (D,)},
        ("target",),
    ),
    layers.HistorySum: ([layers.HistorySum], {"sequence": (T, D), "target": (D,)}, ("target",)),
    layers.MultiInterestExtractor: (
        [lambda: layers.MultiInterestExtractor(3, attention_units=(5, 13), max_positions=17)],
        {"sequence": (T, D), "target": (E,)},
        ("target",),
    ),
    layers.Item2ItemNetwork: (
        [lambda relevance=relevance: layers.Item2ItemNetwork(relevance=relevance, **ATTENTION) for relevance in (False, True)],
        {"sequence": (T, D), "target": (E,), "context": (T, C)},
        ("target",),
    ),
    layers.User2ItemNetwork: (
        [lambda: layers.User2ItemNetwork(**ATTENTION)],
        {"sequence": (T, D), "target": (V,), "context": (T, C)},
        ("target",),
    ),
}


def test_each_of_them_is_here():
    found = {value for value in vars(layers).values() if isinstance(value, type) and hasattr(value, "one_row_arguments")}
    assert found == set(CASES)


@pytest.mark.parametrize("given_mask", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind, make", [(kind, make) for kind, (makes, *_) in CASES.items() for make in makes])
def test_one_history_for_all_rows(kind, make, given_mask):
    rng, layer, (_, shapes, own) = np.random.default_rng(3), make(), CASES[kind]
    layer.build(**{f"{name}_shape": (None, *shape) for name, shape in shapes.items()})
    randomise(layer)
    for shown in HISTORIES if given_mask else HISTORIES[2:]:
        x = {name: rng.standard_normal((N if name in own else 1, *shape)).astype("float32") for name, shape in shapes.items()}
        if given_mask:
            x["mask"] = shown[None]
        if getattr(layer, "layer_options", {}).get("use_time"):
            x["gaps"] = rng.integers(2, 34, (1, T))
        assert set(x) - set(own) <= set(kind.one_row_arguments)
        rows = {name: value if name in own else np.repeat(value, N, axis=0) for name, value in x.items()}
        found, expected = tree.flatten_with_path(layer(**x)), tree.flatten(layer(**rows))
        for (path, one), whole in zip(found, expected, strict=True):
            alone = bool(path) and path[-1] in getattr(kind, "one_row_outputs", ())
            assert one.shape == ((1, *whole.shape[1:]) if alone else whole.shape)
            np.testing.assert_allclose(numpy(one), numpy(whole)[: len(one)], atol=1e-6 * max(1, np.abs(numpy(whole)).max()))
            assert alone or len(np.unique(numpy(one).round(5), axis=0)) == N or not shown.any()


def test_what_no_target_changes_is_given_to_every_row():
    layer = layers.InterestEvolution(kind="gru")
    rng = np.random.default_rng(0)
    states, target = rng.normal(size=(1, T, D)).astype("float32"), rng.normal(size=(N, D)).astype("float32")
    out = numpy(layer(target=target, states=states))
    np.testing.assert_allclose(out, np.repeat(numpy(layer(target=target[:1], states=states)), N, axis=0), atol=1e-6)
