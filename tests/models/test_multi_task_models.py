"""SharedBottom, MMoE, OMoE, PLE, STEM and ESMM: what their options build and what trains what, beyond the contract of all models."""

import re

import keras
import numpy as np
import pytest

from keras_ctr.features import Label
from keras_ctr.layers import FeatureEmbedding
from keras_ctr.models import attention_weights
from keras_ctr.models.esmm import ESMM, conversion_rates
from keras_ctr.models.mmoe import MMoE
from keras_ctr.models.omoe import OMoE
from keras_ctr.models.ple import PLE
from keras_ctr.models.shared_bottom import SharedBottom
from keras_ctr.models.stem import STEM
from keras_ctr.optimizers import TABLES
from tests.gradients import gradients
from tests.layers.expert_oracles import gate_count, mlp_count
from tests.models.small_models import N0, NUMERICS, ROWS, TOKENS, D, check_runs, inner, scores, spread
from tests.sample import full_schema, random_rows

pytestmark = pytest.mark.slow

LABELS = ("click", "like", "buy")
L, UNITS, TOWER, GATE = 3, (11, 5), (7,), (3,)
SMALL = {"embedding_dim": D, "tower_units": TOWER}
MIXED = {**SMALL, "expert_units": UNITS}
TOWERS = L * mlp_count(5, *TOWER, 1)
STEM_GATES = L * gate_count(TOKENS * D, L + 1, 128, 64)


def dense_weights(model):
    """Trainable scalars outside of embedding tables."""
    tables = {id(w) for layer in model.layers if isinstance(layer, FeatureEmbedding) for w in layer.weights}
    return sum(int(np.prod(w.shape)) for w in model.trainable_weights if id(w) not in tables)


def cgc_count(width, specific, shared, shared_output, gate=()):
    experts = (L * specific + shared) * mlp_count(width, *UNITS)
    gates = L * gate_count(width, specific + shared, *gate) if specific + shared > 1 else 0
    return experts + gates + (gate_count(width, L * specific + shared, *gate) if shared_output else 0)


@pytest.mark.parametrize(
    "factory, arguments, expected",
    [
        (SharedBottom, {**SMALL, "hidden_units": UNITS}, mlp_count(N0, *UNITS) + TOWERS),
        (SharedBottom, {**SMALL, "hidden_units": UNITS, "tower_units": ()}, mlp_count(N0, *UNITS) + L * 6),
        (MMoE, MIXED, 4 * mlp_count(N0, *UNITS) + L * gate_count(N0, 4) + TOWERS),
        (MMoE, {**MIXED, "num_experts": 2, "gate_units": GATE}, 2 * mlp_count(N0, *UNITS) + L * gate_count(N0, 2, 3) + TOWERS),
        (MMoE, {**MIXED, "num_experts": 1}, mlp_count(N0, *UNITS) + TOWERS),
        (OMoE, MIXED, 4 * mlp_count(N0, *UNITS) + gate_count(N0, 4) + TOWERS),
        (PLE, MIXED, cgc_count(N0, 1, 1, True) + cgc_count(5, 1, 1, False) + TOWERS),
        (PLE, {**MIXED, "num_layers": 1, "num_specific_experts": 2, "gate_units": GATE}, cgc_count(N0, 2, 1, False, GATE) + TOWERS),
        (STEM, {**MIXED, "gate_units": ()}, 4 * mlp_count(N0, *UNITS) + L * gate_count(N0, 4) + TOWERS),
        (STEM, {**MIXED, "num_specific_experts": 2}, 7 * mlp_count(N0, *UNITS) + L * gate_count(N0, 7, 128, 64) + TOWERS),
        (STEM, {**MIXED, "numeric": "scale_embedding"}, (L + 1) * NUMERICS * D + 4 * mlp_count(TOKENS * D, *UNITS) + STEM_GATES + TOWERS),
        (ESMM, SMALL, L * mlp_count(N0, *TOWER, 1)),
        (ESMM, {**SMALL, "conversions": ["buy"], "batch_norm": True}, L * (mlp_count(N0, *TOWER, 1) + 2 * 7)),
    ],
)  # fmt: skip
def test_parameters(factory, arguments, expected):
    schema = full_schema(LABELS)
    model = factory(schema, **arguments)
    assert dense_weights(model) == expected
    check_runs(model, schema)


def values_of(model, names):
    return [w for name in names for w in model.get_layer(name).get_weights()]


def test_mixture_of_one_expert_is_the_shared_bottom():
    schema = full_schema(LABELS)
    bottom = SharedBottom(schema, **SMALL, hidden_units=UNITS)
    spread(bottom)
    for factory in (MMoE, OMoE):
        one = factory(schema, **MIXED, num_experts=1)
        one.set_weights(values_of(bottom, ["embedding", "mlp", "logits"]))
        np.testing.assert_allclose(scores(one, schema), scores(bottom, schema), rtol=1e-6)


def test_ple_without_specific_experts_is_mmoe():
    schema = full_schema(LABELS)
    mmoe = MMoE(schema, **MIXED)
    ple = PLE(schema, **MIXED, num_layers=1, num_specific_experts=0, num_shared_experts=4)
    spread(mmoe)
    for name in ("embedding", "logits"):
        ple.get_layer(name).set_weights(mmoe.get_layer(name).get_weights())
    source, target = mmoe.get_layer("experts"), ple.get_layer("extraction").cgc_layers[0]
    for mine, theirs in zip([*target.shared_experts, *target.gates], [*source.experts, *source.gates], strict=True):
        mine.set_weights(theirs.get_weights())
    assert scores(mmoe, schema).std() > 1e-2
    np.testing.assert_allclose(scores(ple, schema), scores(mmoe, schema), rtol=1e-5, atol=1e-6)


def test_gates_can_be_looked_at():
    schema = full_schema(LABELS)
    x, _ = random_rows(schema, ROWS)
    shapes = {
        MMoE: {"experts": (ROWS, L, 4)},
        OMoE: {"experts": (ROWS, 1, 4)},
        PLE: {"extraction/cgc_0/tasks": (ROWS, L, 2), "extraction/cgc_0/shared": (ROWS, 1, L + 1), "extraction/cgc_1/tasks": (ROWS, L, 2)},
        STEM: {"experts": (ROWS, L, L + 1)},
    }
    for factory, expected in shapes.items():
        model = factory(schema, **MIXED)
        spread(model)
        found = attention_weights(model, x)
        assert {name: gates.shape for name, gates in found.items()} == expected
        for gates in found.values():
            np.testing.assert_allclose(gates.sum(axis=-1), 1, atol=1e-6)
            assert gates.std(axis=0).max() > 1e-4  # rows differ


# -- STEM


def test_stem_trains_the_tables_of_a_task_by_its_own_loss_only():
    schema = full_schema(LABELS)
    model = STEM(schema, **MIXED, numeric="scale_embedding")
    spread(model)
    x, _ = random_rows(schema, 23)
    for i, label in enumerate(LABELS):
        found = gradients(lambda label=label: keras.ops.sum(model(x)[label]), model.trainable_weights)
        for weight, gradient in zip(model.trainable_weights, found, strict=True):
            part = weight.path.split("/")[0]
            if re.match(r"(embedding|numeric_tokens)", part):
                foreign = [f"_task_{j}" for j in range(L) if j != i]
                assert np.any(gradient) != any(part.endswith(end) for end in foreign), (label, weight.path)


def test_stem_reads_other_tasks_tables_forward():
    schema = full_schema(LABELS)
    model = STEM(schema, **MIXED)
    spread(model)
    before = scores(model, schema)
    for table in model.get_layer("embedding_task_1").weights:
        table.assign(table + 0.5)
    assert np.all(np.any(scores(model, schema) != before, axis=0))


def test_stem_has_the_tables_once_more_than_labels():
    schema = full_schema(LABELS)
    model = STEM(schema, **MIXED)
    layers = [layer for layer in model.layers if isinstance(layer, FeatureEmbedding)]
    assert sorted(layer.name for layer in layers) == ["embedding", *(f"embedding_task_{i}" for i in range(L))]
    rows = sum(table.vocabulary_size for table in schema.tables.values())
    assert sum(layer.count_params() for layer in layers) == (L + 1) * rows * D
    first, second = (layer.get_weights()[0] for layer in layers[:2])
    assert first.shape == second.shape and np.any(first != second)  # own initial values


def test_recipes_of_optimizers_know_the_tables_of_stem():
    model = STEM(full_schema(LABELS), **MIXED)
    tables = {w.path for layer in model.layers if isinstance(layer, FeatureEmbedding) for w in layer.weights}
    assert tables == {w.path for w in model.weights if re.fullmatch(TABLES, w.path)}


# -- ESMM


def sigmoid(z):
    return 1 / (1 + np.exp(-z.astype("float64")))


@pytest.mark.parametrize(
    "arguments, click, conversions",
    [({}, 0, (1, 2)), ({"conversions": ["buy"]}, 0, (2,)), ({"click": "like"}, 1, (0, 2)), ({"conversions": []}, 0, ())],
)
def test_esmm_multiplies_click_and_conversion(arguments, click, conversions):
    schema = full_schema(LABELS)
    model, logit_model = ESMM(schema, **SMALL, **arguments), ESMM(schema, **SMALL, **arguments, activation=None)
    spread(model)
    logit_model.set_weights(model.get_weights())
    x, _ = random_rows(schema, ROWS)
    given = sigmoid(inner(model, x, "conditional_logits"))
    expected = given.copy()
    for i in conversions:
        expected[:, i] *= given[:, click]
    np.testing.assert_allclose(scores(model, schema), expected, rtol=5e-6)
    np.testing.assert_allclose(scores(logit_model, schema), np.log(expected / (1 - expected)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores(conversion_rates(model), schema), given, rtol=5e-6)
    np.testing.assert_allclose(scores(conversion_rates(model, activation=None), schema), np.log(given / (1 - given)), rtol=1e-5, atol=1e-5)


def test_esmm_learns_conversions_on_all_impressions(tmp_path):
    """The gradient of the conversion's loss reaches the click's tower, in rows without a click too; nothing is conditioned on clicks."""
    schema = full_schema(("click", "buy"))
    model = ESMM(schema, **SMALL)
    spread(model)
    x, _ = random_rows(schema, ROWS)
    found = gradients(lambda: keras.ops.sum(keras.ops.log(1 - model(x)["buy"])), model.trainable_weights)
    assert all(np.any(gradient) for gradient in found)
    model.save(tmp_path / "esmm.keras")
    loaded = keras.saving.load_model(tmp_path / "esmm.keras")
    np.testing.assert_array_equal(scores(loaded, schema), scores(model, schema))
    np.testing.assert_array_equal(scores(conversion_rates(loaded), schema), scores(conversion_rates(model), schema))


def test_esmm_of_one_label_is_the_tower_of_the_click():
    schema = full_schema()
    model = ESMM(schema, **SMALL)
    spread(model)
    x, _ = random_rows(schema, ROWS)
    np.testing.assert_allclose(scores(model, schema), sigmoid(inner(model, x, "towers")), rtol=5e-6)


def test_esmm_starts_at_the_rates():
    rates = {"click": 0.2, "like": None, "buy": 0.003}
    schema = full_schema().replace(labels=[Label(name, rate=rate) for name, rate in rates.items()])
    model = ESMM(schema, **SMALL)
    for weight in model.get_layer("towers").weights:
        weight.assign(np.zeros(weight.shape))
    np.testing.assert_allclose(scores(model, schema), np.tile([0.2, 0.2 * 0.5, 0.003], (ROWS, 1)), rtol=1e-5)
    np.testing.assert_allclose(scores(conversion_rates(model), schema), np.tile([0.2, 0.5, 0.015], (ROWS, 1)), rtol=1e-5)


@pytest.mark.parametrize(
    "labels, arguments, message",
    [
        (LABELS, {"click": "klick"}, "click names 'klick'.*did you mean 'click'"),
        (LABELS, {"conversions": ["bye"]}, "conversions names 'bye'.*did you mean 'buy'"),
        (LABELS, {"conversions": "buy"}, r"write \['buy'\]"),
        (LABELS, {"conversions": ["click"]}, "the click is 'click'"),
        (LABELS, {"conversions": ["buy", "buy"]}, "twice"),
        (("click", Label("buy", given="click")), {}, "'buy' is given 'click'.*all impressions"),
        ((Label("click", rate=0.1), Label("buy", rate=0.1)), {}, "rate of the conversion 'buy'"),
    ],
)
def test_bad_roles_of_labels(labels, arguments, message):
    with pytest.raises(ValueError, match=f"ESMM: .*{message}"):
        ESMM(full_schema(labels), **arguments)


def test_conversion_rates_need_an_esmm():
    with pytest.raises(ValueError, match="'mmoe' is no ESMM"):
        conversion_rates(MMoE(full_schema(LABELS), **MIXED))


@pytest.mark.parametrize(
    "factory, arguments, message",
    [
        (SharedBottom, {"hidden_units": (0,)}, "width"),
        (MMoE, {"num_experts": 0}, "num_experts"),
        (OMoE, {"expert_units": ()}, "expert_units is empty"),
        (PLE, {"num_specific_experts": 0, "num_shared_experts": 0}, "no expert"),
        (STEM, {"num_shared_experts": 0}, "num_shared_experts"),
        (ESMM, {"tower_units": (0,)}, "hidden_units"),
    ],
)
def test_bad_arguments(factory, arguments, message):
    with pytest.raises(ValueError, match=message):
        factory(full_schema(LABELS), **arguments)
