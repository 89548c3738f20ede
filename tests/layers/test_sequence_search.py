"""The searches of SIM and ETA against sorting in Python."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ctr.layers.sequence_search import HardSearch, LSHSearch, RecentSearch, SoftSearch
from tests.gradients import gradients
from tests.layer_contract import check_layer
from tests.layers.transformer_oracles import B, T, mask, normal, padded

C, D, K = 5, 2, 3
KINDS = ("hard", "recent", "soft", "lsh")


def search(kind, count=K):
    if kind == "lsh":
        return LSHSearch(count, num_hashes=11)
    return {"hard": HardSearch, "recent": RecentSearch, "soft": SoftSearch}[kind](count)


def arguments(kind):
    """Query, keys and events; the keys of the second to last step repeat those of the step before."""
    events = normal(B, T, D, seed=1)
    if kind == "hard":
        rng = np.random.default_rng(2)
        return rng.integers(1, 3, B).astype("int32"), rng.integers(1, 3, (B, T)).astype("int32"), events
    query, keys = normal(B, C, seed=3), normal(B, T, C, seed=4)
    keys[:, -2] = keys[:, -3]
    return query, keys, events


def score(layer, kind, query, key):
    if kind == "hard":
        return 0.0 if key == query else None
    if kind == "recent":
        return 0.0
    if kind == "soft":
        return float(np.float32(1e6) * np.round(query.astype("float64") @ key.astype("float64"), 6))
    planes = np.asarray(layer.planes).astype("float64")
    return sum((query @ planes[:, j] > 0) == (key @ planes[:, j] > 0) for j in range(planes.shape[1]))


def chosen(layer, kind, query, keys, valid, count=K):
    """Steps of one row, oldest first: sorted by score, the newer first among equals."""
    scored = [(score(layer, kind, query, keys[t]), t) for t in range(len(keys)) if valid[t]]
    best = sorted((pair for pair in scored if pair[0] is not None), reverse=True)[:count]
    return sorted(t for _, t in best)


@pytest.mark.parametrize("count", [K, T + 4])
@pytest.mark.parametrize("kind", KINDS)
def test_selects_what_a_sort_selects(kind, count):
    layer, (query, keys, events) = search(kind, count), arguments(kind)
    for valid, given in ((mask(), mask()), (np.ones((B, T), bool), None)):
        selected, found = (np.asarray(x) for x in layer(query, keys, events, mask=given))
        assert selected.shape == (B, min(count, T), D) and found.shape == (B, min(count, T))
        for b in range(B):
            steps = chosen(layer, kind, query[b], keys[b], valid[b], count)
            np.testing.assert_array_equal(selected[b][found[b]], events[b][steps])
            assert not selected[b][~found[b]].any()


def test_the_hard_search_finds_and_misses():
    """The example holds rows with and without what is sought."""
    query, keys, events = arguments("hard")
    counts = np.asarray(search("hard")(query, keys, events, mask=mask())[1]).sum(axis=1)
    assert counts[1] == 0 and counts.max() == K and 0 < counts.min(where=counts > 0, initial=K) < K


@pytest.mark.parametrize("kind", KINDS)
def test_padding_on_either_side_changes_nothing(kind):
    layer, (query, keys, events) = search(kind), arguments(kind)
    selected, found = (np.asarray(x) for x in layer(query, keys, events, mask=mask()))
    for side in ("before", "after"):
        more = layer(query, padded(keys, side, fill=1), padded(events, side), mask=padded(mask(), side))
        wide, shown = (np.asarray(x) for x in more)
        for b in range(B):
            np.testing.assert_array_equal(wide[b][shown[b]], selected[b][found[b]], err_msg=side)


@pytest.mark.parametrize("kind", KINDS)
def test_contract(kind):
    query, keys, _ = arguments(kind)
    check_layer(
        search(kind),
        query,
        keys,
        (B, T, D),
        call_kwargs={"mask": mask()},
        has_weights=False,
        # A bit or an order of close products may differ in bfloat16, and another event is found.
        dtypes=("float32", "mixed_bfloat16") if kind in ("hard", "recent") else ("float32",),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_selected_events_have_a_gradient(kind):
    layer, (query, keys, events) = search(kind), arguments(kind)
    variables = [keras.Variable(x) for x in ((events,) if kind == "hard" else (query, keys, events))]  # ids have no gradient

    def total():
        given = [ops.convert_to_tensor(v) for v in variables]
        if kind == "hard":
            given = [query, keys, *given]
        return ops.sum(ops.square(layer(*given, mask=mask())[0]))

    *others, got = gradients(total, variables)
    expected = np.zeros_like(events)
    for b in range(B):
        for t in chosen(layer, kind, query[b], keys[b], mask()[b]):
            expected[b, t] = 2 * events[b, t]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert not any(other.any() for other in others)


def test_the_hash_keeps_angles():
    """Bits of two vectors agree with probability 1 - angle / pi."""
    layer = LSHSearch(1, num_hashes=4001)
    layer.build((None, 2), (None, 1, 2), (None, 1, 2))
    for angle in (0.3, 1.1, 2.5):
        x = np.array([[1, 0], [np.cos(angle), np.sin(angle)]], "float32")
        one, other = ops.convert_to_numpy(layer._code(ops.convert_to_tensor(x)))
        assert abs((one == other).mean() - (1 - angle / np.pi)) < 4 * 0.5 / np.sqrt(4001)


def test_planes_are_fixed_and_drawn_from_the_seed():
    planes = []
    for seed in (1, 1, 2):
        layer = LSHSearch(K, seed=seed)
        layer.build((None, C), (None, T, C), (None, T, D))
        assert not layer.trainable_weights
        planes.append(np.asarray(layer.planes))
    np.testing.assert_array_equal(planes[0], planes[1])
    assert np.abs(planes[0] - planes[2]).max() > 0.1


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: HardSearch(0), "num_selected"),
        (lambda: LSHSearch(K, num_hashes=0), "num_hashes"),
        (lambda: SoftSearch(K).compute_output_shape((None, C), (None, None, C), (None, None, D)), "T = None"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
