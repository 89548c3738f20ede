"""FmFM, PNN, FiBiNET, DeepCrossing and WideDeep: what their options build, beyond the contract of all models."""

import keras
import numpy as np
import pytest

from keras_ctr import Categorical, Schema, Sequence, optimizers
from keras_ctr.models.deep_crossing import DeepCrossing
from keras_ctr.models.dnn import DNN
from keras_ctr.models.fi_bi_net import FiBiNET
from keras_ctr.models.fm import FM
from keras_ctr.models.fm_fm import FmFM
from keras_ctr.models.lr import LR
from keras_ctr.models.pnn import PNN
from keras_ctr.models.wide_deep import WideDeep
from tests.cost_model import outputs_with, touched, train_graph
from tests.sample import fields_schema, full_schema, random_rows

pytestmark = pytest.mark.slow

D = 6
ROWS = 7
FIELDS, NUMERICS, SEQUENCES = 4, 1, 3  # of full_schema: the binned age is a field
TOKENS = FIELDS + NUMERICS + SEQUENCES
PAIRS = [(i, j) for i in range(TOKENS) for j in range(i + 1, TOKENS)]
P = len(PAIRS)
FLAT = (FIELDS + SEQUENCES) * D + NUMERICS  # raw numerics
UNITS = (11, 5)
TWO = ("click", "like")
CROSSES = [("item", "brand"), ("age", "user", "brand")]


def dense_weights(model):
    """Trainable scalars outside the embedding layer and the wide part."""
    outside = ("embedding", "linear", "wide")
    return sum(int(np.prod(w.shape)) for x in model.layers if x.name not in outside for w in x.trainable_weights)


def mlp(inputs, units, outputs=0):
    """Parameters of dense layers of these widths, and of a last one unless `outputs` is 0."""
    total = 0
    for width in (*units, *((outputs,) if outputs else ())):
        total += inputs * width + width
        inputs = width
    return total


def spread(model):
    rng = np.random.default_rng(7)
    for weight in model.trainable_variables:
        weight.assign(0.3 * rng.standard_normal(weight.shape))


def check_runs(model, schema):
    x, y = random_rows(schema, ROWS)
    for p in model(x).values():
        p = keras.ops.convert_to_numpy(p)
        assert p.shape == (ROWS, 1) and np.all((p > 0) & (p < 1))
    model.compile("adam", "binary_crossentropy", run_eagerly=True)
    assert np.all(np.isfinite(model.train_on_batch(x, y)))


def inner(model, x, *names):
    """A list of the outputs of inner layers as NumPy arrays."""
    out = keras.Model(model.inputs, {name: model.get_layer(name).output for name in names})([x[t.name] for t in model.inputs])
    return [keras.ops.convert_to_numpy(out[name]).astype("float64") for name in names]


def numpy(x):
    return np.asarray(keras.ops.convert_to_numpy(x))


def weighed_pairs(tokens, kernel, kind):
    """sum_{i<j} (E_i M_ij) * E_j pair by pair, `(B, D)`."""
    total = 0
    for (i, j), w in zip(PAIRS, numpy(kernel), strict=True):
        left = tokens[:, i] @ w if kind == "matrix" else tokens[:, i] * w
        total = total + left * tokens[:, j]
    return total


@pytest.mark.parametrize("kind, count", [("matrix", P * D * D), ("vector", P * D), ("scalar", P)])
def test_fm_fm_is_the_linear_part_and_weighed_pairs(kind, count):
    schema = full_schema()
    model, linear = FmFM(schema, embedding_dim=D, kind=kind, activation=None), LR(schema, activation=None)
    assert dense_weights(model) == NUMERICS * D + count
    spread(model)
    linear.get_layer("logits").set_weights(model.get_layer("linear").get_weights())
    x, _ = random_rows(schema, ROWS)
    (tokens,) = inner(model, x, "tokens")
    pairs = weighed_pairs(tokens, model.get_layer("pairs").kernel, kind)
    want = numpy(linear(x)["click"]) + pairs.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model(x)["click"], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("labels", [("click",), TWO])
@pytest.mark.parametrize("kind", ["matrix", "vector", "scalar"])
def test_fm_fm_starts_as_an_fm(kind, labels):
    schema = full_schema(labels)
    model, plain = FmFM(schema, embedding_dim=D, kind=kind, activation=None), FM(schema, embedding_dim=D, activation=None)
    spread(plain)
    for layer in plain.layers:
        if layer.weights:
            model.get_layer(layer.name).set_weights(layer.get_weights())
    x, _ = random_rows(schema, ROWS)
    for label in labels:
        np.testing.assert_allclose(model(x)[label], plain(x)[label], rtol=1e-5, atol=1e-5)


def test_labels_of_fm_fm_weigh_the_pairs_apart():
    schema = full_schema(TWO)
    model = FmFM(schema, embedding_dim=D, activation=None)
    weights = model.get_layer("pair_weights").kernel
    np.testing.assert_array_equal(weights, np.ones((D, 2)))
    spread(model)
    x, _ = random_rows(schema, ROWS)
    tokens, linear = inner(model, x, "tokens", "linear")
    want = linear + weighed_pairs(tokens, model.get_layer("pairs").kernel, "matrix") @ numpy(weights)
    for index, label in enumerate(TWO):
        np.testing.assert_allclose(model(x)[label][:, 0], want[:, index], rtol=1e-4, atol=1e-4)


# The total of a public benchmark (BARS, AmazonElectronics_x1) at D = 64: item and category, and the history of each.
ITEMS, CATEGORIES = 63_003, 803
TABLES = (ITEMS + CATEGORIES) * 64
HISTORY_WEIGHTS = ITEMS + CATEGORIES  # its linear part has weights of their own for the histories


def test_fm_fm_has_the_total_of_a_public_benchmark():
    schema = Schema(
        features=[
            Categorical("item", ITEMS),
            Categorical("category", CATEGORIES),
            Sequence("items", max_length=3, table="item", target="item", group="history"),
            Sequence("categories", max_length=3, table="category", target="category", group="history"),
        ],
        labels=["click"],
    )
    model = FmFM(schema, embedding_dim=64)
    assert model.count_params() == 4_235_773 - HISTORY_WEIGHTS == TABLES + ITEMS + CATEGORIES + 1 + 6 * 64**2
    assert FmFM(schema, embedding_dim=64, history_weights="own").count_params() == 4_235_773


@pytest.mark.parametrize(
    "arguments, inputs, kernels",
    [
        ({}, TOKENS * D + P + D * D, 0),
        ({"product": "both"}, TOKENS * D + P + D * D, 0),
        ({"product": "inner"}, TOKENS * D + P, 0),
        ({"product": "outer", "dropout": 0.3}, TOKENS * D + D * D, 0),
        ({"product": "kernel"}, TOKENS * D + P, P * D * D),
        ({"product": "kernel", "kernel_kind": "vector"}, TOKENS * D + P, P * D),
        ({"product": "kernel", "kernel_kind": "scalar", "batch_norm": True}, TOKENS * D + P, P + 2 * sum(UNITS)),
    ],
)
def test_pnn_parameter_count(arguments, inputs, kernels):
    schema = full_schema(TWO)
    model = PNN(schema, embedding_dim=D, hidden_units=UNITS, **arguments)
    assert dense_weights(model) == NUMERICS * D + kernels + mlp(inputs, UNITS, 2)
    check_runs(model, schema)


def test_pnn_feeds_tokens_and_both_products_to_its_mlp():
    schema = full_schema()
    model = PNN(schema, embedding_dim=D, hidden_units=UNITS)
    spread(model)
    x, _ = random_rows(schema, ROWS)
    tokens, head = inner(model, x, "tokens", "head")
    dots = np.stack([(tokens[:, i] * tokens[:, j]).sum(axis=1) for i, j in PAIRS], axis=1)
    total = tokens.sum(axis=1)
    want = np.concatenate([tokens.reshape(ROWS, -1), dots, (total[:, :, None] * total[:, None]).reshape(ROWS, -1)], axis=1)
    np.testing.assert_allclose(head, want, rtol=1e-4, atol=1e-5)


def test_pnn_with_fresh_kernels_is_ipnn():
    schema = full_schema()
    kernel, inner_product = (PNN(schema, embedding_dim=D, hidden_units=UNITS, product=product) for product in ("kernel", "inner"))
    spread(inner_product)
    for layer in inner_product.layers:
        if layer.weights:
            kernel.get_layer(layer.name).set_weights(layer.get_weights())
    x, _ = random_rows(schema, ROWS)
    np.testing.assert_allclose(kernel(x)["click"], inner_product(x)["click"], rtol=1e-5)


@pytest.mark.parametrize(
    "arguments, matrices, reduced",
    [
        ({}, 2 * P, TOKENS // 3),
        ({"shared_bilinear": True}, P, TOKENS // 3),
        ({"bilinear": "each", "reduction_ratio": 2}, 2 * (TOKENS - 1), TOKENS // 2),
        ({"bilinear": "each", "shared_bilinear": True}, TOKENS - 1, TOKENS // 3),
        ({"bilinear": "all", "gate_activation": "sigmoid", "reduction_ratio": 13}, 2, 1),
        ({"bilinear": "all", "shared_bilinear": True, "linear": False, "dropout": 0.3}, 1, TOKENS // 3),
    ],
)
def test_fi_bi_net_parameter_count(arguments, matrices, reduced):
    schema = full_schema(TWO)
    model = FiBiNET(schema, embedding_dim=D, hidden_units=UNITS, **arguments)
    assert dense_weights(model) == NUMERICS * D + 2 * TOKENS * reduced + matrices * D * D + mlp(TOKENS * (TOKENS - 1) * D, UNITS, 2)
    assert ("linear" in [x.name for x in model.layers]) == arguments.get("linear", True)
    check_runs(model, schema)


@pytest.mark.parametrize("shared", [False, True])
def test_fi_bi_net_pairs_tokens_as_they_are_and_weighed(shared):
    schema = full_schema()
    model = FiBiNET(schema, embedding_dim=D, hidden_units=UNITS, shared_bilinear=shared, gate_activation="sigmoid")
    spread(model)
    x, _ = random_rows(schema, ROWS)
    tokens, weighed, pairs = inner(model, x, "tokens", "squeeze_excitation", "pairs")
    gates = numpy(model.get_layer("squeeze_excitation").gates(tokens.astype("float32")))
    np.testing.assert_allclose(weighed, gates[:, :, None] * tokens, rtol=1e-5, atol=1e-6)
    for offset, name, source in ((0, "bilinear", tokens), (P, "bilinear" if shared else "bilinear_weighed", weighed)):
        for p, ((i, j), w) in enumerate(zip(PAIRS, numpy(model.get_layer(name).kernel), strict=True)):
            np.testing.assert_allclose(pairs[:, offset + p], (source[:, i] @ w) * source[:, j], rtol=1e-3, atol=1e-5)


def test_fi_bi_net_is_linear_part_and_deep_part():
    schema = full_schema()
    model = FiBiNET(schema, embedding_dim=D, hidden_units=UNITS, activation=None)
    spread(model)
    x, _ = random_rows(schema, ROWS)
    linear, deep = inner(model, x, "linear", "deep_logits")
    assert linear.std() > 1e-3 and deep.std() > 1e-3
    np.testing.assert_allclose(model(x)["click"], linear + deep, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "arguments, width, extra",
    [
        ({}, FLAT, 0),
        ({"numeric": "dense_projection"}, FLAT - NUMERICS + D, NUMERICS * D),
        ({"batch_norm": True, "dropout": 0.3}, FLAT, 2 * 2 * FLAT),
    ],
)
def test_deep_crossing_parameter_count(arguments, width, extra):
    schema = full_schema()
    model = DeepCrossing(schema, embedding_dim=D, hidden_units=UNITS, **arguments)
    assert dense_weights(model) == extra + sum(2 * width * u + u + width for u in UNITS) + width + 1
    check_runs(model, schema)


def test_deep_crossing_stacks_residual_units():
    schema = full_schema()
    model = DeepCrossing(schema, embedding_dim=D, hidden_units=UNITS, activation=None)
    spread(model)
    x, _ = random_rows(schema, ROWS)
    (state,) = inner(model, x, "flat")
    for index in range(len(UNITS)):
        first, first_bias, second, second_bias = model.get_layer(f"residual_unit_{index}").get_weights()
        state = np.maximum(np.maximum(state @ first + first_bias, 0) @ second + second_bias + state, 0)
    kernel, bias = model.get_layer("logits").get_weights()
    np.testing.assert_allclose(model(x)["click"], state @ kernel + bias, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("crosses", [(), CROSSES])
def test_wide_deep_parameter_count(crosses):
    schema = full_schema(TWO)
    model = WideDeep(schema, embedding_dim=D, hidden_units=UNITS, wide_crosses=crosses, cross_buckets=31)
    assert dense_weights(model) == mlp(FLAT, UNITS, 2)
    plain, linear = DNN(schema, embedding_dim=D, hidden_units=UNITS), LR(schema)
    assert model.count_params() == plain.count_params() + linear.count_params() + len(crosses) * 31 * 2
    check_runs(model, schema)


def test_wide_deep_is_linear_part_crosses_and_dnn():
    schema = full_schema(TWO)
    model = WideDeep(schema, embedding_dim=D, hidden_units=UNITS, wide_crosses=CROSSES, cross_buckets=31, activation=None)
    linear, deep = LR(schema, activation=None), DNN(schema, embedding_dim=D, hidden_units=UNITS, activation=None)
    spread(model)
    linear.get_layer("logits").set_weights(model.get_layer("linear").get_weights())
    for name, source in (("embedding", "embedding"), ("mlp", "mlp"), ("logits", "deep_logits")):
        deep.get_layer(name).set_weights(model.get_layer(source).get_weights())
    x, _ = random_rows(schema, ROWS)
    crosses = model.get_layer("wide")
    table = numpy(crosses.table)
    assert table.shape == (2 * 31, 2)
    buckets = numpy(crosses.buckets(x))
    for index, label in enumerate(TWO):
        wide = sum(table[c * 31 + buckets[:, c], index] for c in range(2))[:, None]
        want = numpy(linear(x)[label]) + wide + numpy(deep(x)[label])
        np.testing.assert_allclose(model(x)[label], want, rtol=1e-4, atol=1e-4)


def test_wide_deep_recipe_trains_linear_part_and_crosses_with_ftrl():
    schema = full_schema()
    x, y = random_rows(schema, 64)
    model = WideDeep(schema, embedding_dim=D, hidden_units=UNITS, wide_crosses=CROSSES, cross_buckets=31)
    optimizer = optimizers.wide_deep()
    model.compile(optimizer, "binary_crossentropy")
    before = {v.path: numpy(v).copy() for v in model.trainable_variables}
    losses = model.fit(x, y, batch_size=32, epochs=8, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    owners = {}
    for variable in model.trainable_variables:
        for one in optimizer.optimizers:
            try:
                one.slots_of(variable)
            except (KeyError, AttributeError):
                continue
            owners[variable.path] = type(one).__name__
    wide = {"linear/bias", "linear/embedding/table", "wide/table"}
    numeric = {path for path in before if path.startswith("linear/") and "numeric" in path}
    assert numeric and {path for path, owner in owners.items() if owner == "FTRL"} == wide | numeric
    assert {owner for path, owner in owners.items() if path not in wide | numeric} == {"Adagrad"}
    moved = {v.path: not np.array_equal(numpy(v), before[v.path]) for v in model.trainable_variables}
    assert all(moved.values()), moved


def test_ftrl_leaves_buckets_that_no_row_falls_into():
    schema = full_schema()
    x, y = random_rows(schema, 32)
    model = WideDeep(schema, embedding_dim=D, hidden_units=UNITS, wide_crosses=CROSSES, cross_buckets=101)
    crosses = model.get_layer("wide")
    crosses.table.assign(np.full(crosses.table.shape, 0.25))
    model.compile(optimizers.wide_deep(), "binary_crossentropy")
    model.fit(x, y, batch_size=32, epochs=1, verbose=0)
    hit = np.zeros(2 * 101, bool)
    for c in range(2):
        hit[c * 101 + numpy(crosses.buckets(x))[:, c]] = True
    changed = numpy(crosses.table)[:, 0] != 0.25
    np.testing.assert_array_equal(changed, hit)


def test_a_step_touches_only_the_buckets_of_its_rows():
    """The cost does not grow with the buckets: nothing in the graph of a step reads, writes or makes something as long as the table."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the operations of a step are listed from TensorFlow's traced graph")
    schema, length = full_schema(), 2 * 1009
    x, y = random_rows(schema, ROWS)
    model = WideDeep(schema, embedding_dim=D, hidden_units=UNITS, wide_crosses=CROSSES, cross_buckets=1009)
    model.compile(optimizers.wide_deep(), "binary_crossentropy")
    graph = train_graph(model, x, y)
    slots = [v for v in model.optimizer.variables if len(v.shape) and v.shape[0] == length]
    assert len(slots) == 2  # of FTRL
    for path, found in touched(graph, [model.get_layer("wide").table, *slots]).items():
        assert not found["whole"] and {"ResourceGather", "ResourceScatterUpdate"} <= found["rows"], path
    assert not outputs_with(graph, [length])


def test_l1_empties_the_wide_part():
    schema = full_schema()
    x, y = random_rows(schema, 64)
    model = WideDeep(schema, embedding_dim=D, hidden_units=UNITS, wide_crosses=CROSSES, cross_buckets=31)
    model.compile(optimizers.wide_deep(l1=1e3), "binary_crossentropy")
    model.fit(x, y, batch_size=32, epochs=2, verbose=0)
    for name in ("linear", "wide"):
        for weight in model.get_layer(name).trainable_weights:
            np.testing.assert_array_equal(weight, np.zeros(weight.shape))


def test_crosses_learn_what_neither_part_alone_can():
    """A click is the parity of two ids; a wide part without crosses cannot tell it."""
    schema = Schema([Categorical("a", 13), Categorical("b", 11)], labels=["click"])
    rng = np.random.default_rng(0)
    x = {"a": rng.integers(2, 13, 512).astype("int32"), "b": rng.integers(2, 11, 512).astype("int32")}
    y = {"click": ((x["a"] + x["b"]) % 2).astype("float32")[:, None]}
    final = {}
    for crosses in ((), [("a", "b")]):
        model = WideDeep(schema, embedding_dim=2, hidden_units=(), wide_crosses=crosses, cross_buckets=4096)
        model.compile(optimizers.FTRL(0.5), "binary_crossentropy")
        final[bool(crosses)] = model.fit(x, y, batch_size=64, epochs=10, verbose=0).history["loss"][-1]
    assert final[True] < 0.35 < 0.6 < final[False]


@pytest.mark.parametrize("factory", [FmFM, PNN, FiBiNET])
def test_numerics_may_be_one_token(factory):
    schema = full_schema()
    model = factory(schema, embedding_dim=D, numeric="dense_projection")
    assert model.get_layer("numeric_tokens").output.shape == (None, 1, D)


@pytest.mark.parametrize(
    "factory, arguments, message",
    [
        (FmFM, {"kind": "scalars"}, "did you mean 'scalar'"),
        (FmFM, {"numeric": "raw"}, "numeric|kind"),
        (PNN, {"product": "outter"}, "PNN: product.*did you mean 'outer'"),
        (PNN, {"product": "kernel", "kernel_kind": "num"}, "kind must be one of"),
        (FiBiNET, {"bilinear": "al"}, "did you mean 'all'"),
        (FiBiNET, {"reduction_ratio": 0}, "reduction_ratio"),
        (DeepCrossing, {"hidden_units": ()}, "hidden_units is empty"),
        (DeepCrossing, {"hidden_units": (0,)}, "units"),
        (WideDeep, {"wide_crosses": [("user", "price")]}, r"'price' \(numeric\).*user, item, brand, age"),
        (WideDeep, {"wide_crosses": [("clicked_item", "user")]}, r"'clicked_item' \(sequence\)"),
        (WideDeep, {"wide_crosses": [("usr", "item"), ("shop", "item")]}, r"'shop' \(unknown\), 'usr' \(unknown\); did you mean 'user'"),
        (WideDeep, {"wide_crosses": ("user", "item")}, "list of tuples"),
        (WideDeep, {"wide_crosses": [("user", "item")], "cross_buckets": 0}, "num_buckets"),
    ],
)
def test_errors(factory, arguments, message):
    with pytest.raises(ValueError, match=message):
        factory(full_schema(), **arguments)


@pytest.mark.parametrize("factory", [FmFM, PNN, FiBiNET])
def test_a_single_feature_has_no_pair(factory):
    with pytest.raises(ValueError, match="single token"):
        factory(Schema([Categorical("item", 13)], labels=["click"]))


def test_the_wide_part_does_not_see_keys_that_ride_along():
    schema = fields_schema()
    model = WideDeep(schema, wide_crosses=[("user", "item")])
    assert {t.name for t in model.inputs} == set(schema.feature_names)
