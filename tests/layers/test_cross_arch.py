"""CrossArch against loops of Eq. 10 and 11."""

import numpy as np
import pytest

from keras_ctr.layers.cross_arch import CrossArch
from tests.layer_contract import check_layer, weight_count
from tests.layers.interformer_oracles import gate, masks, newest, pma, randomize, under, weights

B, F, T, D, H = 5, 7, 11, 6, 3
N, C, K, R = 4, 3, 2, 2
RNG = np.random.default_rng(0)
FIELDS = RNG.standard_normal((B, F, D)).astype("float32")
EVENTS = RNG.standard_normal((B, T, D)).astype("float32")
MASK = masks(B, T)


def made(**arguments):
    sizes = {"num_cls": C, "num_pma": K, "num_recent": R, "num_heads": H}
    return CrossArch(N, **{**sizes, **arguments}, name="cross")


def built(**arguments):
    layer = made(**arguments)
    layer.build((None, F, D), (None, T, D))
    return randomize(layer, 0.3)


def oracle(layer, x, s, mask):
    """One row: X_sum, S (with its CLS tokens), its mask and S_sum."""
    values = weights(layer)

    def gated(name, tokens):
        return gate(under(values, name), tokens, layer.gate) if layer.use_gating else tokens

    x_sum = gated("field_gate", values["compress/kernel"].T @ x)
    if layer.cls_source != "given" and layer.num_cls:
        first = x_sum[: layer.num_cls] if layer.cls_source == "summary" else values["cls_tokens"]
        s, mask = np.concatenate([first, s]), np.concatenate([np.ones(layer.num_cls, bool), mask])
    parts, start = [s[: layer.num_cls]], layer.num_cls
    if layer.num_pma:
        parts.append(pma(under(values, "pma"), s, mask, H)[0])
    for length in layer.segments or (len(s) - start,):
        if layer.num_recent:
            parts.append(newest(s[start : start + length], mask[start : start + length], layer.num_recent))
        start += length
    return x_sum, s, mask, gated("sequence_gate", np.concatenate(parts))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"cls_source": "summary"},
        {"cls_source": "learned"},
        {"use_gating": False},
        {"gate": "outer"},
        {"num_pma": 0},
        {"num_recent": 0},
        {"num_cls": 0, "cls_source": "summary"},
        {"cls_source": "summary", "segments": (4, 7)},
        {"segments": (3, 5)},
    ],
)
def test_equations(arguments):
    layer = built(**arguments)
    out = layer(FIELDS, EVENTS, mask=MASK)
    for b in range(B):
        x_sum, s, mask, s_sum = oracle(layer, FIELDS[b].astype("float64"), EVENTS[b].astype("float64"), MASK[b])
        np.testing.assert_allclose(out["fields"][b], x_sum, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(out["sequence"][b], s_sum, rtol=1e-4, atol=1e-4)
        if layer.cls_source == "given":
            assert set(out) == {"fields", "sequence"}
        else:
            np.testing.assert_allclose(out["tokens"][b], s, rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(out["mask"][b], mask)


@pytest.mark.parametrize("cls_source", CrossArch.CLS_SOURCES)
def test_contract(cls_source):
    outputs = ["pool", "pool"] if cls_source == "given" else ["pool", None, "pool", "sequence"]  # sorted by key
    layer = made(cls_source=cls_source)
    arguments = {"call_kwargs": {"mask": MASK}, "low_precision_tolerance": 0.1}
    if cls_source == "given":
        # Garbage at a hidden CLS position is read as the CLS token: masking is tested where the tokens are prepended.
        check_layer(layer, FIELDS, EVENTS, **arguments)
    else:
        check_layer(layer, FIELDS, EVENTS, sequence=(1,), mask_output=outputs, **arguments)


@pytest.mark.parametrize("summarize, cls_source", [(("fields",), "given"), (("sequence",), "given"), ((), "summary"), ((), "learned")])
def test_only_what_is_asked_for_is_built(summarize, cls_source):
    layer = made(summarize=summarize, cls_source=cls_source)
    fields = None if "fields" not in summarize and cls_source != "summary" else FIELDS
    sequence = None if summarize == ("fields",) else EVENTS
    out = layer(fields, sequence, mask=None if sequence is None else MASK)
    assert set(out) == set(summarize) | ({"tokens", "mask"} if cls_source != "given" else set())
    names = {path.split("/")[0] for path in weights(layer)}
    wanted = set()
    if "fields" in summarize or cls_source == "summary":
        wanted |= {"compress", "field_gate"}
    if "sequence" in summarize:
        wanted |= {"pma", "sequence_gate"}
    assert names == wanted | ({"cls_tokens"} if cls_source == "learned" else set())


def test_padding_side_does_not_matter():
    layer = built(cls_source="summary")
    valid = np.zeros((B, T), bool)
    valid[:, :4] = True
    a, b = layer(FIELDS, EVENTS, mask=valid), layer(FIELDS, np.roll(EVENTS, 7, axis=1), mask=np.roll(valid, 7, axis=1))
    np.testing.assert_allclose(a["sequence"], b["sequence"], atol=1e-5)


def test_parameter_counts():
    gating, attention = D * D + D, K * D + 4 * D * D + 3 * D
    assert weight_count(built()) == F * N + 2 * gating + attention
    assert weight_count(built(cls_source="learned")) == F * N + 2 * gating + attention + C * D
    assert weight_count(built(use_gating=False)) == F * N + attention
    assert weight_count(built(num_pma=0)) == F * N + 2 * gating


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: made(cls_source="summary", num_cls=5), "num_cls=5 CLS tokens are taken from num_summary=4"),
        (lambda: made(num_cls=0, num_pma=0, num_recent=0), "all three counts are 0"),
        (lambda: made(cls_source="x"), "cls_source"),
        (lambda: made(summarize=("field",)), "did you mean 'fields'"),
        (lambda: made()(FIELDS), "a sequence is needed"),
        (lambda: made()(None, EVENTS), "fields are needed"),
        (lambda: made(segments=(4, 5))(FIELDS, EVENTS), "do not add up to 11 steps"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
