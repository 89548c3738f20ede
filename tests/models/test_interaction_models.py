"""DCNv2, DIN, XDeepInt and DynInt: what their options build, beyond the contract of all models."""

import dataclasses

import keras
import numpy as np
import pytest

from keras_ctr import Sequence
from keras_ctr.models.dcn_v2 import DCNv2
from keras_ctr.models.din import DIN
from keras_ctr.models.dyn_int import DynInt
from keras_ctr.models.x_deep_int import XDeepInt
from tests.sample import fields_schema, full_schema, random_rows

pytestmark = pytest.mark.slow

D = 6
ROWS = 7


def dense_weights(model):
    """Trainable scalars outside the embedding layer."""
    return sum(int(np.prod(w.shape)) for layer in model.layers if layer.name != "embedding" for w in layer.trainable_weights)


def mlp(inputs, units, outputs):
    """Parameters of dense layers of these widths, and of a last one unless `outputs` is 0."""
    total = 0
    for width in (*units, *((outputs,) if outputs else ())):
        total += inputs * width + width
        inputs = width
    return total


def check_runs(model, schema):
    x, y = random_rows(schema, ROWS)
    for p in model(x).values():
        p = keras.ops.convert_to_numpy(p)
        assert p.shape == (ROWS, 1) and np.all((p > 0) & (p < 1))
    model.compile("adam", "binary_crossentropy", run_eagerly=True)
    assert np.all(np.isfinite(model.train_on_batch(x, y)))


FIELDS, NUMERICS = 4, 1  # of fields_schema: the binned age is a field
N0 = FIELDS * D + NUMERICS
CROSS = 2 * (N0 * N0 + N0)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({}, CROSS + mlp(N0, (11, 5), 0) + (N0 + 5 + 1)),
        ({"structure": "stacked"}, CROSS + mlp(N0, (11, 5), 1)),
        ({"structure": "stacked_parallel"}, CROSS + 2 * mlp(N0, (11, 5), 0) + (5 + 5 + 1)),
        ({"structure": "cross"}, CROSS + N0 + 1),
        ({"structure": "cross", "rank": 3}, 2 * (2 * N0 * 3 + N0) + N0 + 1),
        ({"structure": "cross", "parameterization": "vector"}, 2 * 2 * N0 + N0 + 1),
        (
            {"structure": "cross", "parameterization": "mixture", "rank": 3, "num_experts": 2},
            2 * (2 * (2 * N0 * 3 + 9 + N0) + N0) + N0 + 1,
        ),
    ],
)
def test_dcn_structures(arguments, expected):
    schema = fields_schema()
    model = DCNv2(schema, embedding_dim=D, num_cross_layers=2, hidden_units=(11, 5), **arguments)
    assert dense_weights(model) == expected
    check_runs(model, schema)


def test_dcn_names_an_unknown_structure():
    with pytest.raises(ValueError, match="structure"):
        DCNv2(fields_schema(), structure="serial")


def test_din_parameter_count():
    """Attention on 4 M D inputs with Dice for each group with a target, then the MLP with Dice on fields, numerics and interests."""
    schema = full_schema()  # clicks: 2 attributes, likes: 1
    model = DIN(schema, embedding_dim=D, attention_units=(11, 5), hidden_units=(13, 3))
    attention = sum(mlp(4 * m * D, (11, 5), 1) + 11 + 5 for m in (2, 1))
    assert dense_weights(model) == attention + mlp(N0 + 3 * D, (13, 3), 1) + 13 + 3


def test_din_interest_depends_on_the_target():
    """Two rows with one history and different candidates see different interests; the mean of the history is the same."""
    schema = full_schema()
    x, _ = random_rows(schema, 2)
    x = {name: np.repeat(values[:1], 2, axis=0) for name, values in x.items()}
    x["clicked_item"][:], x["clicked_brand"][:] = np.arange(2, 9), np.arange(2, 9)
    x["item"][:] = (3, 17)
    model = DIN(schema, embedding_dim=D)
    interest = keras.Model(model.inputs, model.get_layer("attention_clicks").output)([x[t.name] for t in model.inputs])
    interest = keras.ops.convert_to_numpy(interest)
    assert np.abs(interest[0] - interest[1]).max() > 1e-6 * np.abs(interest).max() > 0


def test_din_pools_histories_without_target():
    schema = full_schema()
    features = [dataclasses.replace(f, target=None) if isinstance(f, Sequence) and f.group == "likes" else f for f in schema.features]
    schema = schema.replace(features=features)
    model = DIN(schema, embedding_dim=D, use_softmax=True, attention_activation="sigmoid", hidden_activation="relu", embedding_l2=0.01)
    names = [layer.name for layer in model.layers]
    assert "attention_clicks" in names and "attention_likes" not in names and "pool_likes" in names
    check_runs(model, schema)
    model(random_rows(schema, ROWS)[0])
    assert float(model.losses[0]) > 0


def test_x_deep_int_parameter_count_and_logit():
    schema = fields_schema(("click", "like"))
    model = XDeepInt(schema, embedding_dim=D, num_layers=2, num_subspaces=3)
    tokens = FIELDS + NUMERICS
    assert dense_weights(model) == 2 * (3 * tokens) ** 2 + NUMERICS * D + 2 * (tokens + 1)
    check_runs(model, schema)


def test_x_deep_int_without_layers_is_linear_in_the_embeddings():
    schema = fields_schema()
    x, _ = random_rows(schema, ROWS)
    model = XDeepInt(schema, embedding_dim=D, num_layers=0, num_subspaces=1, activation=None)
    once = model(x)["click"]
    for weight in (*model.get_layer("embedding").weights, *model.get_layer("numeric_tokens").weights):
        weight.assign(3 * weight)
    np.testing.assert_allclose(model(x)["click"], 3 * once, rtol=1e-5)  # the bias starts at 0


DYN_INT = [
    {"variant": "da"},
    {"variant": "da", "gate": "field"},
    {"variant": "dgp", "orthogonality": 0.1},
    {"variant": "dgp", "rank": 3},
    {"variant": "dwp", "orthogonality": 0.1},
    {"variant": "dwp", "rank": 3, "offset": "inv_rank"},
]


@pytest.mark.parametrize("arguments", DYN_INT)
def test_dyn_int_variants(arguments, tmp_path):
    schema = fields_schema(("click", "like"))
    model = DynInt(schema, embedding_dim=D, num_layers=2, num_subspaces=3, **arguments)
    tokens, hidden = FIELDS + NUMERICS, (FIELDS + NUMERICS) * D // 4
    crossed, chunk = 3 * tokens, D // 3

    def g(outputs):
        return tokens * D * hidden + hidden + hidden * outputs + outputs

    variant, rank = arguments["variant"], arguments.get("rank")
    layer = {
        "da": crossed**2 + g(crossed * (1 if "gate" in arguments else chunk)),
        "dgp": 2 * crossed * (rank or 15) + g(rank or 15),  # 16 by default, but never above F' = 15
        "dwp": crossed**2 + g(2 * (rank or 2) * crossed),
    }[variant]
    assert dense_weights(model) == 2 * layer + NUMERICS * D + 2 * (tokens + 1)
    check_runs(model, schema)
    x, _ = random_rows(schema, ROWS)
    model(x)
    assert bool(model.losses) == ("orthogonality" in arguments)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for label, p in model(x).items():
        np.testing.assert_array_equal(loaded(x)[label], p)


def test_dyn_int_starts_as_x_deep_int():
    """With zero last gate kernels DynInt-DA and -DWP are xDeepInt: same weights, same predictions."""
    schema = fields_schema()
    x, _ = random_rows(schema, ROWS)
    for variant in ("da", "dwp"):
        model = DynInt(schema, variant=variant, embedding_dim=D, num_subspaces=2)
        plain = XDeepInt(schema, embedding_dim=D, num_subspaces=2)
        interaction = model.get_layer("interaction")
        for gate in interaction.gates:
            gate.out.kernel.assign(np.zeros(gate.out.kernel.shape))
        for name in ("embedding", "numeric_tokens", "logits"):
            plain.get_layer(name).set_weights(model.get_layer(name).get_weights())
        for target, source in zip(plain.get_layer("interaction").kernels, interaction.kernels, strict=True):
            target.assign(source)
        np.testing.assert_allclose(model(x)["click"], plain(x)["click"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"variant": "dpg"}, "variant"),
        ({"variant": "da", "rank": 2}, "rank"),
        ({"variant": "da", "orthogonality": 0.1}, "orthogonality"),
        ({"num_subspaces": 5}, "does not divide"),
    ],
)
def test_dyn_int_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        DynInt(fields_schema(), embedding_dim=D, **arguments)
