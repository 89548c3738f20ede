"""Heads on every backbone of the zoo: that it works or says why not, what is shared, and that plain heads change nothing."""

import keras
import numpy as np
import pytest

import keras_ctr
from keras_ctr import layers
from keras_ctr.models import with_task_heads
from tests.gradients import gradients
from tests.models.small_models import ROWS, D, scores
from tests.sample import fields_schema, full_schema, random_rows

pytestmark = pytest.mark.slow

LABELS = ("click", "like")
L, UNITS, TOWER = 2, (13, 7), (5,)
WITHOUT_A_VECTOR = ("FM", "FmFM", "LR")
WITH_TASKS = ("ESMM", "INFNet", "MMoE", "OMoE", "PLE", "STEM")
BACKBONES = [name for name in keras_ctr.list_models() if name not in WITHOUT_A_VECTOR + WITH_TASKS]


def spread(model):
    """Moves every weight away from its start, not so far that gates and probabilities saturate."""
    rng = np.random.default_rng(7)
    for weight in model.trainable_variables:
        weight.assign(weight + 0.1 * rng.standard_normal(weight.shape).astype("float32"))


def mixture(num_tasks=L, **arguments):
    return layers.MultiGateMixtureOfExperts(num_tasks, 3, expert_units=UNITS, **arguments)


def extraction(num_tasks=L):
    return layers.ProgressiveLayeredExtraction(num_tasks, 2, expert_units=UNITS)


def copy_of_logits(model, heads):
    """Gives linear heads the weights of the linear layer that they replaced; returns whether there was one."""
    name = next((n for n in ("deep_logits", "head_logits", "logits") if n in [layer.name for layer in heads.layers]), None)
    old, towers = model.get_layer(name), heads.get_layer(name)
    if isinstance(old, layers.TaskTowers):
        return False
    kernel, bias = (keras.ops.convert_to_numpy(w) for w in old.weights)
    if isinstance(old, layers.FeatureMapLogits):
        width = old.input.shape[-1]
        kernel, bias = np.repeat(kernel, width, axis=0), width * bias
    for i, logit in enumerate(towers.logits):
        logit.set_weights([kernel[:, i : i + 1], bias[i : i + 1]])
    return True


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone(name):
    schema = full_schema(LABELS)
    model = keras_ctr.get_model(name, schema)
    spread(model)
    before, mine = scores(model, schema), {id(w) for w in model.weights}

    plain = with_task_heads(model, schema, tower_units=())
    if copy_of_logits(model, plain):
        np.testing.assert_allclose(scores(plain, schema), before, rtol=1e-4, atol=1e-5)

    # No ReLU and no sigmoid: a unit that is dead, or a probability of 1, in all of the rows would have no gradient.
    heads = with_task_heads(model, schema, mixture(activation="swish"), tower_units=TOWER, tower_activation="swish", activation=None)
    x, _ = random_rows(schema, 61)
    assert list(heads(x)) == list(LABELS) and heads.name == f"{model.name}_task_heads"
    new = [w for w in heads.weights if id(w) not in mine]
    assert new and all("task_head" in w.path or "logits" in w.path for w in new)
    weights = heads.trainable_weights
    rng = np.random.default_rng(5)
    noise = {label: rng.standard_normal((61, 1)).astype("float32") for label in LABELS}
    found = gradients(lambda: sum(keras.ops.sum(p * noise[label]) for label, p in heads(x).items()), weights)
    still = [w.path for w, gradient in zip(weights, found, strict=True) if not np.any(gradient)]
    assert not still, f"no gradient reaches {still}"


@pytest.mark.parametrize("name", WITHOUT_A_VECTOR)
def test_models_without_a_vector_say_so(name):
    schema = full_schema(LABELS)
    model = keras_ctr.get_model(name, schema, activation=None)
    with pytest.raises(ValueError, match=f"'{model.name}'.*to put a head on"):
        with_task_heads(model, schema)


@pytest.mark.parametrize("name", WITH_TASKS)
def test_models_with_tasks_say_so(name):
    schema = full_schema(LABELS)
    model = keras_ctr.get_model(name, schema)
    with pytest.raises(ValueError, match=f"'{model.name}'.*(vectors of each task already|no vector before)"):
        with_task_heads(model, schema)


def test_a_deep_fm_without_a_deep_part_says_so():
    schema = full_schema(LABELS)
    with pytest.raises(ValueError, match="'deep_fm' sums the logits of 'linear', 'pair_weights'"):
        with_task_heads(keras_ctr.models.DeepFM(schema, hidden_units=()), schema)


@pytest.mark.parametrize("name, head", [("DIN", mixture), ("DeepFM", extraction), ("DynInt", mixture), ("DCNv2", extraction)])
def test_saving_is_exact_without_custom_objects(name, head, tmp_path):
    schema = full_schema(LABELS)
    model = with_task_heads(keras_ctr.get_model(name, schema), schema, head(), tower_units=TOWER, name="heads")
    x, y = random_rows(schema, ROWS)
    model.compile("adam", "binary_crossentropy")
    model.fit(x, y, epochs=1, batch_size=ROWS, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, keras_ctr.models.CTRModel) and loaded.name == "heads"
    np.testing.assert_array_equal(scores(loaded, schema), scores(model, schema))


@pytest.mark.parametrize("arguments", [{}, {"linear": True}])
def test_parts_beside_the_deep_one_stay_in_the_sum(arguments):
    """With towers that say nothing, the logits are those of the linear part."""
    schema = fields_schema(LABELS)
    model = keras_ctr.models.AutoInt(schema, num_heads=1, key_dim=3, num_layers=1, **arguments)
    spread(model)
    heads = with_task_heads(model, schema, mixture(), activation=None)
    for weight in heads.get_layer("head_logits" if arguments else "logits").weights:
        weight.assign(np.zeros(weight.shape))
    x, _ = random_rows(schema, ROWS)
    linear = keras.ops.convert_to_numpy(model.get_layer("linear")(x)) if arguments else np.zeros((ROWS, L))
    np.testing.assert_allclose(scores(heads, schema), linear, rtol=1e-5, atol=1e-6)


def test_training_the_heads_trains_the_backbone_and_leaves_its_last_layer():
    schema = full_schema(LABELS)
    model = keras_ctr.models.DNN(schema, embedding_dim=D, hidden_units=UNITS)
    x, y = random_rows(schema, 61)
    before, last = scores(model, schema), model.get_layer("logits").get_weights()
    heads = with_task_heads(model, schema, mixture())
    np.testing.assert_array_equal(scores(model, schema), before)
    heads.compile(keras.optimizers.Adam(1e-2), "binary_crossentropy")
    heads.fit(x, y, epochs=2, batch_size=61, verbose=0)
    assert np.abs(scores(model, schema) - before).max() > 1e-5
    for now, then in zip(model.get_layer("logits").get_weights(), last, strict=True):
        np.testing.assert_array_equal(now, then)


def test_a_backbone_of_one_label_gets_more_and_heads_may_be_replaced():
    schema, more = full_schema(), full_schema(("click", "like", "buy"))
    model = keras_ctr.models.DCNv2(schema, embedding_dim=D, hidden_units=UNITS)
    x, _ = random_rows(schema, ROWS)
    first = with_task_heads(model, more, tower_units=TOWER)
    second = with_task_heads(first, schema, mixture(1), name="again")
    assert list(first(x)) == ["click", "like", "buy"] and list(second(x)) == ["click"] and second.name == "again"
    assert second.get_layer("mlp") is model.get_layer("mlp") and "logits" in [layer.name for layer in second.layers]
    with pytest.raises(ValueError, match="vectors of each task already"):
        with_task_heads(second, schema)


def test_any_layer_of_one_vector_a_task_is_a_head():
    schema = full_schema(LABELS)
    model = keras_ctr.models.DNN(schema, embedding_dim=D, hidden_units=UNITS)
    mixed = layers.CustomizedGateControl(L, expert_units=UNITS)
    for head in (keras.layers.RepeatVector(L), layers.GradientSurgery(L), layers.MLP(UNITS), mixed):
        x, _ = random_rows(schema, ROWS)
        heads = with_task_heads(model, schema, head, tower_units=TOWER)
        assert not head.built and heads.get_layer("task_head") is not head
        assert all(p.shape == (ROWS, 1) for p in heads(x).values())


def test_gates_of_heads_can_be_looked_at():
    schema = full_schema(LABELS)
    heads = with_task_heads(keras_ctr.models.DIN(schema), schema, mixture())
    x, _ = random_rows(schema, ROWS)
    assert keras_ctr.models.attention_weights(heads, x)["task_head"].shape == (ROWS, L, 3)


def test_mixed_precision_keeps_a_float32_output():
    schema = full_schema(LABELS)
    keras.config.set_dtype_policy("mixed_bfloat16")
    heads = with_task_heads(keras_ctr.models.DeepFM(schema, hidden_units=UNITS), schema, extraction())
    x, _ = random_rows(schema, ROWS)
    assert {keras.backend.standardize_dtype(p.dtype) for p in heads(x).values()} == {"float32"}


@pytest.mark.parametrize(
    "make, labels, head, error, message",
    [
        (lambda s: keras_ctr.models.DNN(s), LABELS, mixture(3), ValueError, "is for 3 tasks, the schema has 2 labels"),
        (lambda s: keras_ctr.models.DeepFM(s), ("click", "like", "buy"), None, ValueError, "'deep_fm' sums parts with 2 logits.*3 labels"),
        (lambda s: keras.Sequential([keras.layers.Dense(1)]), LABELS, None, TypeError, "got Sequential"),
        (lambda s: layers.MLP((3,)), LABELS, None, TypeError, "got MLP"),
    ],
)
def test_bad_arguments(make, labels, head, error, message):
    with pytest.raises(error, match=message):
        with_task_heads(make(full_schema(LABELS)), full_schema(labels), head)


def test_a_schema_that_lacks_an_input_is_named():
    schema = full_schema(LABELS)
    model = keras_ctr.models.DNN(schema, embedding_dim=D)
    with pytest.raises(ValueError, match="'dnn' has the input 'clicked_[a-z]*', which the schema lacks"):
        with_task_heads(model, fields_schema(LABELS))


def test_a_model_of_somebody_else_says_so():
    inputs = {"user": keras.Input((), name="user", dtype="int32")}
    model = keras.Model(inputs, keras.layers.Embedding(101, 3)(inputs["user"]), name="mine")
    with pytest.raises(ValueError, match="'mine' has no layer 'logits'"):
        with_task_heads(model, fields_schema(LABELS))
