"""Attention weights of built models: which there are, that they are the model's own, and that the model stays as it is."""

import keras
import numpy as np
import pytest

import keras_ctr
from keras_ctr.models import attention_weights
from keras_ctr.models.attention_weights import MODELS_WITH_ATTENTION, _attention_nodes
from tests.layers import interformer_oracles as oracle
from tests.models.small_models import spread
from tests.sample import fields_schema, full_schema, random_rows

pytestmark = pytest.mark.slow

D, ROWS, H = 6, 11, 3
CLICKS, LIKES = 7, 5  # steps of the two groups of full_schema
SMALL = {
    "AdRec": {"num_heads": H, "num_layers": 2},
    "AutoInt": {"num_heads": H, "num_layers": 2},
    "BST": {"num_heads": H, "num_layers": 2, "positions": None},
    "DIEN": {},
    "DIN": {"use_softmax": True},
    "DMIN": {"num_heads": H},
    "ETA": {"num_heads": H, "num_selected": 4, "num_recent": 2},
    "INFNet": {"num_heads": H, "num_layers": 2},
    "InterFormer": {"num_heads": H, "num_layers": 2, "num_cls": 3, "num_pma": 2},
    "OneTrans": {"num_heads": H, "hidden_dim": 4 * H},
    "RankMixer": {},
    "SIM": {"num_heads": H, "num_selected": 4, "num_recent": 2},
    "TransAct": {"num_heads": H, "num_layers": 2},
}


def make(name, schema=None, **arguments):
    model = keras_ctr.get_model(name, schema or full_schema(), embedding_dim=D, **{**SMALL[name], **arguments})
    spread(model)
    return model


def rows(schema=None):
    """Random rows, the first with empty histories, the second with full ones."""
    x, _ = random_rows(schema or full_schema(), ROWS)
    for value in x.values():
        if value.ndim == 2:
            value[0], value[1] = 0, np.arange(1, value.shape[1] + 1)
    return x


def valid(x, name):
    return x[name] != 0


def outputs(model, x):
    return {name: keras.ops.convert_to_numpy(p) for name, p in model(x).items()}


def between(model, x, *names):
    """Outputs of inner layers."""
    found = keras.Model(model.inputs, [model.get_layer(name).output for name in names])([x[t.name] for t in model.inputs])
    return keras.tree.map_structure(keras.ops.convert_to_numpy, found)


def float64(model):
    return {w.path: keras.ops.convert_to_numpy(w.value).astype("float64") for w in model.weights}


def check_rows_sum_to_one(weights, shown, always=True):
    """Of `(B, .., T)` weights over the steps `(B, T)` that are shown: none is negative, the hidden ones are 0, the others sum to 1."""
    shown = np.broadcast_to(shown.reshape(len(shown), *([1] * (weights.ndim - 2)), -1), weights.shape)
    assert weights.dtype == np.float32 and weights.min() >= 0 and not np.any(weights[~shown])
    some = shown.any(axis=-1)
    assert some.all() == always
    np.testing.assert_allclose(weights.sum(axis=-1), some, atol=1e-5)


# -- which weights there are


def test_interformer():
    model, x = make("InterFormer"), rows()
    found = attention_weights(model, x)
    assert list(found) == ["cross_1/pma", "sequence_1", "cross_2/pma", "sequence_2", "cross_3/pma"]
    # Groups stand side by side at steps counted from the newest event: a step is there if any group has it.
    count = np.maximum(valid(x, "clicked_item").sum(1), valid(x, "liked_item").sum(1))
    for name, weights in found.items():
        assert weights.shape == (ROWS, H, 2 if "pma" in name else 3 + CLICKS, 3 + CLICKS)
        assert ((weights[:, 0, 0] > 0).sum(1) == 3 + count).all()
        check_rows_sum_to_one(weights, weights[:, 0, 0] > 0)


@pytest.mark.parametrize("arguments", [{"use_pma": False}, {"use_mha": False}, {"final_summary": False}])
def test_interformer_without_some_of_its_parts(arguments):
    found = list(attention_weights(make("InterFormer", **arguments), rows()))
    pma, mha = ["cross_1/pma", "cross_2/pma"], ["sequence_1"]
    if "final_summary" in arguments:
        assert found == [pma[0], *mha, pma[1]]
    else:
        assert found == ([*mha, "sequence_2"] if "use_pma" in arguments else [*pma, "cross_3/pma"])


@pytest.mark.parametrize("name, layer", [("DIN", "attention"), ("DIEN", "evolution"), ("DMIN", "interests")])
def test_pooled_histories(name, layer):
    model, x = make(name), rows()
    found = attention_weights(model, x)
    assert set(found) == {f"{layer}_clicks", f"{layer}_likes"}
    heads = (H,) if name == "DMIN" else ()
    for group, sequence, steps in (("clicks", "clicked_item", CLICKS), ("likes", "liked_item", LIKES)):
        assert found[f"{layer}_{group}"].shape == (ROWS, *heads, steps)
        check_rows_sum_to_one(found[f"{layer}_{group}"], valid(x, sequence), always=False)


def test_bst():
    model, x = make("BST"), rows()
    found = attention_weights(model, x)
    assert set(found) == {f"transformer_{group}/block_{i}" for group in ("clicks", "likes") for i in range(2)}
    shown = np.concatenate([valid(x, "liked_item"), np.ones((ROWS, 1), bool)], axis=1)
    for i in range(2):
        assert found[f"transformer_likes/block_{i}"].shape == (ROWS, H, LIKES + 1, LIKES + 1)
        check_rows_sum_to_one(found[f"transformer_likes/block_{i}"], shown)


def test_trans_act():
    model, x = make("TransAct"), rows()
    found = attention_weights(model, x)
    assert set(found) == {f"encoder_{group}/block_{i}" for group in ("clicks", "likes") for i in range(2)}
    for i in range(2):
        assert found[f"encoder_likes/block_{i}"].shape == (ROWS, H, LIKES, LIKES)
        check_rows_sum_to_one(found[f"encoder_likes/block_{i}"], valid(x, "liked_item"), always=False)


@pytest.mark.parametrize("name", ["SIM", "ETA"])
def test_searches(name):
    model, x = make(name), rows()
    found = attention_weights(model, x)
    assert {key: weights.shape for key, weights in found.items()} == {
        "long_attention_clicks": (ROWS, H, 1, 4),
        "attention_clicks": (ROWS, 2),
        "long_attention_likes": (ROWS, H, 1, 4),
        "attention_likes": (ROWS, 2),
    }
    searched = found["long_attention_likes"][:, 0, 0] > 0
    assert searched.any() and not searched[0].any()
    check_rows_sum_to_one(found["long_attention_likes"], searched, always=False)


@pytest.mark.parametrize("name, layer", [("AdRec", "encoder"), ("AutoInt", "interacting")])
def test_fields(name, layer):
    schema = fields_schema()
    found = attention_weights(make(name, schema), rows(schema))
    assert list(found) == [f"{layer}_0", f"{layer}_1"]
    for weights in found.values():
        assert weights.shape == (ROWS, H, 5, 5)  # four fields and the price
        check_rows_sum_to_one(weights, np.ones((ROWS, 5), bool))


def test_the_names_in_the_error_are_those_of_the_registry():
    for name in keras_ctr.list_models():
        model = keras_ctr.get_model(name, full_schema())
        if name in MODELS_WITH_ATTENTION:
            assert attention_weights(model, rows())
        else:
            with pytest.raises(ValueError, match=f"no layer of the model '{model.name}'.*InterFormer"):
                attention_weights(model, rows())
        keras.utils.clear_session()


@pytest.mark.parametrize("name", SMALL)
def test_layers_know_the_shapes_before(name):
    model = make(name)
    found = attention_weights(model, rows())
    for node in _attention_nodes(model):
        layer = node.operation
        spec = layer.compute_output_spec(*node.arguments.args, **{**node.arguments.kwargs, "return_attention": True})[1]
        parts = {f"{layer.name}/{part}": a for part, a in spec.items()} if isinstance(spec, dict) else {layer.name: spec}
        for key, a in parts.items():
            assert a.shape[1:] == found.pop(key).shape[1:], key
    assert not found


# -- the numbers


def test_interformer_is_that_of_the_equations():
    model, x = make("InterFormer"), rows()
    found, weights = attention_weights(model, x), float64(model)
    cross, after = between(model, x, "cross_1", "sequence_1")
    arch, first = oracle.under(weights, "sequence_1"), oracle.under(weights, "cross_1")
    epsilon = model.get_layer("sequence_1").norms[1].epsilon
    for b in range(ROWS):
        summary, shown, _, tokens = (values[b] for values in cross)  # sorted by name: fields, mask, sequence, tokens

        def norm(values, name):
            return np.array([oracle.layer_norm(oracle.under(arch, name), t, epsilon) for t in values])

        y = tokens + oracle.pffn(oracle.under(arch, "pffn"), norm(tokens, "ffn_norm"), summary, "mlp")
        z = norm(y, "attention_norm")
        expected = oracle.attention(oracle.under(arch, "attention"), z, z, shown, H, np.cumsum(shown) - 1)[1]
        np.testing.assert_allclose(found["sequence_1"][b], expected, atol=1e-4)
        np.testing.assert_allclose(found["cross_1/pma"][b], oracle.pma(oracle.under(first, "pma"), tokens, shown, H)[1], atol=1e-4)
        second = oracle.under(oracle.under(weights, "cross_2"), "pma")
        np.testing.assert_allclose(found["cross_2/pma"][b], oracle.pma(second, after[b], shown, H)[1], atol=1e-4)


@pytest.mark.parametrize("use_softmax", [False, True])
def test_din_is_that_of_the_equation_from_the_ids(use_softmax):
    model = make("DIN", use_softmax=use_softmax, attention_units=(5,), attention_activation="sigmoid")
    x, weights = rows(), float64(model)
    found = attention_weights(model, x)["attention_clicks"]
    tables = [np.asarray(model.get_layer("embedding").rows(name), "float64") for name in ("item", "brand")]
    w = oracle.under(weights, "attention_clicks")
    for b in range(ROWS):
        e = np.concatenate([tables[0][x["item"][b]], tables[1][x["brand"][b]]])
        expected, shown = np.zeros(CLICKS), np.flatnonzero(x["clicked_item"][b])
        for t in shown:
            s = np.concatenate([tables[0][x["clicked_item"][b, t]], tables[1][x["clicked_brand"][b, t]]])
            hidden = oracle.sigmoid(np.concatenate([e, s, e - s, e * s]) @ w["kernel"] + w["bias"])
            expected[t] = (hidden @ w["score/kernel"] + w["score/bias"])[0]
        if use_softmax and len(shown):
            expected[shown] = oracle.softmax(expected[shown])
        np.testing.assert_allclose(found[b], expected, atol=1e-5)


def test_low_precision_gives_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    found = attention_weights(make("DIN", use_softmax=False), rows())
    assert {weights.dtype for weights in found.values()} == {np.dtype("float32")}


# -- the model


@pytest.mark.parametrize("name", ["InterFormer", "DIN", "BST"])
def test_the_model_stays_as_it_is(name, tmp_path):
    model, x = make(name), rows()
    before, calls = outputs(model, x), {layer.name: len(layer._inbound_nodes) for layer in model.layers}
    weights, config = [keras.ops.convert_to_numpy(w.value) for w in model.weights], model.get_config()
    found = attention_weights(model, x)
    after = outputs(model, x)
    assert all(np.array_equal(before[label], after[label]) for label in before)
    assert {layer.name: len(layer._inbound_nodes) for layer in model.layers} == calls and model.get_config() == config
    assert all(np.array_equal(w, keras.ops.convert_to_numpy(v.value)) for w, v in zip(weights, model.weights, strict=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    again = attention_weights(loaded, x)
    assert list(again) == list(found) and all(np.array_equal(again[key], found[key]) for key in found)


def test_further_keys_missing_keys_and_optional_inputs():
    model, x = make("DIEN"), rows()
    found = attention_weights(model, x)
    given = {**x, "unknown": np.zeros(3)}
    for name in ("clicked_item", "clicked_brand", "liked_item"):
        given[f"{name}_negatives"] = x[name][::-1].copy()
    for key, weights in attention_weights(model, given).items():
        np.testing.assert_array_equal(weights, found[key])
    with pytest.raises(KeyError, match="'dien' misses the input 'clicked_brand'"):
        attention_weights(model, {key: value for key, value in x.items() if key != "clicked_brand"})


def test_calls_in_other_graphs_do_not_count():
    model, x = make("DIN"), rows()
    found = attention_weights(model, x)
    layer = model.get_layer("attention_clicks")
    layer(keras.Input((2 * D,)), keras.Input((CLICKS, 2 * D)))
    assert len(layer._inbound_nodes) == 2
    again = attention_weights(model, x)
    assert list(again) == list(found) and all(np.array_equal(again[key], found[key]) for key in found)


def test_a_layer_called_twice_and_inputs_in_a_list():
    tokens, other = keras.Input((3, 4)), keras.Input((5, 4))
    layer = keras_ctr.layers.MultiHeadAttention(2, name="shared")
    model = keras.Model([tokens, other], layer(layer(tokens), other))
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(7, 3, 4)).astype("float32"), rng.normal(size=(7, 5, 4)).astype("float32")
    found = attention_weights(model, [a, b])
    assert {key: weights.shape for key, weights in found.items()} == {"shared/call_0": (7, 2, 3, 3), "shared/call_1": (7, 2, 3, 5)}
    first, expected = layer(a, return_attention=True)
    np.testing.assert_allclose(found["shared/call_0"], keras.ops.convert_to_numpy(expected), atol=1e-6)
    np.testing.assert_allclose(found["shared/call_1"], keras.ops.convert_to_numpy(layer(first, b, return_attention=True)[1]), atol=1e-6)


def test_evolution_without_attention_has_none():
    with pytest.raises(ValueError, match="no layer of the model 'dien'"):
        attention_weights(make("DIEN", evolution="gru"), rows())


def test_only_functional_models():
    with pytest.raises(TypeError, match="functional Keras model.*got Sequential"):
        attention_weights(keras.Sequential([keras.layers.Dense(1)]), np.zeros((2, 3)))
