"""BST, TransAct, HSTU, TBSM, AdRecSequential, SIM and ETA: what their options build, beyond the contract of all models."""

import keras
import numpy as np
import pytest

from keras_ctr import Categorical, Numeric, Schema, Sequence
from keras_ctr.models.ad_rec import AD_REC_MODELS, AdRec
from keras_ctr.models.ad_rec_sequential import AD_REC_SEQUENTIAL_MODELS, AdRecSequential
from keras_ctr.models.bst import BST
from keras_ctr.models.dcn_v2 import DCNv2
from keras_ctr.models.dnn import DNN
from keras_ctr.models.eta import ETA
from keras_ctr.models.hstu import HSTU
from keras_ctr.models.sim import SIM
from keras_ctr.models.tbsm import TBSM
from keras_ctr.models.trans_act import TransAct
from tests.models.small_models import FIELDS, NUMERICS, ROWS, check_runs, dense_weights, inner, mlp, scores, spread
from tests.models.test_factorization_models import PUBLIC, TABLES, electronics
from tests.sample import fields_schema, full_schema, random_rows

pytestmark = pytest.mark.slow

D = 6
UNITS = (11, 5)
SMALL = {"embedding_dim": D, "hidden_units": UNITS, "dropout": 0.0}
WIDTHS = {"clicks": 2 * D, "likes": D}
FLAT = FIELDS * D + NUMERICS
GAP = Sequence("clicked_gap", max_length=7, vocabulary_size=34, dtype="int64", group="clicks")


def timed_schema():
    """The full schema with time gaps of the clicks."""
    schema = full_schema()
    return schema.replace(features=[*schema.features, GAP])


def one_group(length=7):
    """Item and brand with their histories and a history without a target."""
    return Schema(
        features=[
            Categorical("item", 53),
            Categorical("brand", 11),
            Sequence("items", length, table="item", target="item", group="clicks"),
            Sequence("brands", length, table="brand", target="brand", group="clicks"),
            Sequence("words", 3, vocabulary_size=13, group="words"),
        ],
        labels=["click"],
    )


def block(m, units, norm=True):
    return 4 * (m * m + m) + mlp(m, units, m) + (4 * m if norm else 0)


# -- BST


@pytest.mark.parametrize(
    "options, tokens, positions, norm",
    [
        ({}, 1, 1, True),
        ({"pooling": "mean", "layer_norm": False}, 1, 1, False),
        ({"pooling": "sum", "positions": "sinusoid"}, 1, 1, True),
        ({"pooling": "flatten_newest", "num_recent": 4}, 5, 1, True),
        ({"positions": None, "residual": False, "batch_norm": True}, 1, 0, True),
    ],
)
def test_bst_parameter_count(options, tokens, positions, norm):
    schema = full_schema()
    options = {"pooling": "target", **options}
    model = BST(schema, num_heads=3, num_layers=2, num_positions=5, ffn_units=13, **SMALL, **options)
    expected = 0
    for width in WIDTHS.values():
        m = width + positions * D
        expected += positions * 5 * D + 2 * block(m, 13, norm)
    head = FLAT + sum(tokens * (width + positions * D) for width in WIDTHS.values())
    norms = 2 * sum(UNITS) if options.get("batch_norm") else 0
    assert dense_weights(model) == expected + mlp(head, *UNITS, 1) + norms
    check_runs(model, schema)


def test_bst_public_total():
    """The documented arguments of the public benchmark: 101 positions of 64, width 192, no norms, the candidate's output."""
    model = BST(electronics(), **PUBLIC, pooling="target", layer_norm=False)
    assert sum(int(np.prod(w.shape)) for w in model.get_layer("embedding").weights) == TABLES
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == 5_301_057


def test_time_gaps_are_attributes_of_the_events():
    schema = timed_schema()
    model = BST(schema, num_heads=3, positions=None, pooling="target", **SMALL)
    assert model.get_layer("transformer_clicks").output.shape == (None, 3 * D)
    spread(model)
    x, _ = random_rows(schema, ROWS)
    other = {**x, "clicked_gap": np.where(x["clicked_gap"] > 0, 33 - x["clicked_gap"] % 7, 0)}
    assert np.abs(np.asarray(model(x)["click"]) - np.asarray(model(other)["click"])).max() > 1e-5


# -- TransAct


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
@pytest.mark.parametrize("rank", [None, 3])
def test_trans_act_parameter_count(structure, rank):
    schema = full_schema()
    model = TransAct(schema, num_recent=2, ffn_units=13, num_cross_layers=2, structure=structure, rank=rank, **SMALL)
    flat = FLAT + sum(3 * 2 * width for width in WIDTHS.values())
    encoders = sum(2 * block(2 * w, 13) + 4 * w * w + 2 * w for w in WIDTHS.values())
    cross = 2 * (flat * flat + flat if rank is None else 2 * flat * rank + flat)
    head = mlp(flat, *UNITS) + UNITS[-1] + 1 + (flat if structure == "parallel" else 0)
    assert dense_weights(model) == encoders + cross + head
    check_runs(model, schema)


def test_trans_act_without_sequences_is_dcn_v2():
    schema = fields_schema()
    model, plain = (factory(schema, num_cross_layers=2, rank=3, **SMALL) for factory in (TransAct, DCNv2))
    spread(model)
    assert [w.shape for w in model.weights] == [w.shape for w in plain.weights]
    plain.set_weights(model.get_weights())
    np.testing.assert_allclose(scores(model, schema), scores(plain, schema), rtol=1e-5)


def test_the_time_window_acts_in_training_and_on_its_group_only():
    schema = timed_schema()
    x, _ = random_rows(schema, 61)
    x["clicked_gap"] = np.where(x["clicked_gap"] > 0, 18 + x["clicked_gap"] % 5, 0)  # from 2^16 to 2^20 seconds, beside 10^6

    def runs(**options):
        keras.utils.set_random_seed(1)
        model = TransAct(schema, **SMALL, **options)
        spread(model)
        return [np.asarray(model(x, training=training)["click"]) for training in (False, True, True)]

    plain = runs(time_gap=None)
    np.testing.assert_array_equal(plain[0], plain[1])
    np.testing.assert_array_equal(plain[0], runs(time_gap="clicked_gap", time_window=0.0)[1])
    once, again = runs(time_gap="clicked_gap", time_window=1e6), runs(time_gap="clicked_gap", time_window=1e6)
    np.testing.assert_array_equal(once[0], plain[0])
    assert np.abs(once[1] - once[0]).max() > 1e-4 and np.abs(once[1] - once[2]).max() > 1e-4
    for one, other in zip(once, again, strict=True):
        np.testing.assert_array_equal(one, other)
    model = TransAct(schema, time_gap="clicked_gap", **SMALL)
    assert model.get_layer("encoder_clicks").time_window == 3600 and not model.get_layer("encoder_likes").time_window


# -- HSTU


@pytest.mark.parametrize("time_gap", [None, "clicked_gap"])
def test_hstu_parameter_count(time_gap):
    schema = timed_schema()
    model = HSTU(schema, num_layers=2, num_heads=2, key_dim=3, value_dim=5, max_length=7, time_gap=time_gap, **SMALL)
    widths = {"clicks": 3 * D, "likes": D}
    expected = 0
    for group, width in widths.items():
        biases = 7 + (32 if time_gap and group == "clicks" else 0)
        expected += 2 * (2 * width * 2 * (3 + 5) + 2 * 5 * width + width + biases)
    assert dense_weights(model) == expected + mlp(FLAT + sum(widths.values()), *UNITS, 1)
    check_runs(model, schema)


# -- TBSM and AdRecSequential


def taobao(length=20):
    """One number and user, item, category, as in the paper's table."""
    return Schema(
        features=[
            Categorical("user", 101),
            Categorical("item", 53),
            Categorical("category", 11),
            Numeric("time", transform="none"),
            Sequence("items", length, table="item", target="item", group="clicks"),
            Sequence("categories", length, table="category", target="category", group="clicks"),
        ],
        labels=["click"],
    )


BOTTOM = mlp(1, 16)
CONTEXT = {  # parameters and width of the context at width n
    "RM4": lambda n: (n * n + mlp(20, 15, 15, 20), n),
    "RM5": lambda n: (3 * mlp(n, 8 * n) + mlp(8 * n, 8 * n), 8 * n),
    "RM6": lambda n: (5 * 4 * (2 * n * n + n), n),
    "RM7": lambda n: (block(n, 512), n),
}


@pytest.mark.parametrize("name", AD_REC_SEQUENTIAL_MODELS)
def test_sets_of_the_paper(name):
    schema, arguments = taobao(), AD_REC_SEQUENTIAL_MODELS[name]
    n = {"RM7": 16}.get(name, 15)
    model = AdRecSequential(schema, **arguments)
    context, width = CONTEXT[name](n)
    tower = block(16, 128) + mlp(16 + 4 * 16, 15, n)
    assert dense_weights(model) == BOTTOM + tower + context + mlp(width + n, 60, 1)
    check_runs(model, schema)


def test_tbsm_defaults_are_the_sizes_of_taobao():
    """The tower 22-15-15 that DLRM's code prints: 6 dot products of 4 tokens beside the 16 of the number."""
    model = TBSM(taobao())
    assert model.get_layer("tower_clicks").mlp.weights[0].shape == (22, 15)
    assert dense_weights(model) == BOTTOM + mlp(22, 15, 15) + 15 * 15 + mlp(20, 15, 15, 20) + mlp(30, 60, 1)


@pytest.mark.parametrize("name, fields, numbers, total", [("RM1", 26, 13, 522_849), ("RM2", 26, 13, 1_550_209), ("RM3", 21, 1, 475_745)])
def test_sets_of_ad_rec(name, fields, numbers, total):
    features = [Categorical(f"c{i}", 3) for i in range(fields)] + [Numeric(f"n{i}", transform="none") for i in range(numbers)]
    model = AdRec(Schema(features=features, labels=["click"]), **AD_REC_MODELS[name])
    assert dense_weights(model) == total


@pytest.mark.parametrize(
    "options", [{}, {"mechanism": "mul"}, {"inner": "dot"}, *({"sequence_layer": kind} for kind in ("mha", "lstm", "transformer"))]
)
@pytest.mark.parametrize("factory", [TBSM, AdRecSequential])
def test_sequence_layers_run_in_several_groups_and_every_weight_moves(factory, options):
    schema = full_schema(("click", "like"))
    model = factory(schema, embedding_dim=D, tower_units=(13, 6), num_sequence_layers=2, **options)
    check_runs(model, schema)
    spread(model)
    x, y = random_rows(schema, 61)
    model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")
    before = [np.asarray(w) for w in model.trainable_weights]
    model.fit(x, y, epochs=2, batch_size=61, verbose=0)
    still = [w.path for w, old in zip(model.trainable_weights, before, strict=True) if np.array_equal(np.asarray(w), old)]
    # A softmax does not see what a key's bias adds to all scores: it moves by rounding, if at all.
    assert not [path for path in still if not path.endswith("key/bias")]


def test_several_heads_of_a_tsl_have_their_own_mlps():
    schema = full_schema(("click", "like"))
    model = TBSM(schema, embedding_dim=D, tower_units=(13, 7), hidden_units=UNITS, num_sequence_heads=3)
    tokens = {"clicks": FIELDS + NUMERICS, "likes": FIELDS + NUMERICS}
    towers = sum(mlp(D + n * (n - 1) // 2, 13, 7) for n in tokens.values())
    heads = 3 * (2 * (49 + mlp(20, 15, 15, 20)) + mlp(4 * 7, *UNITS, 2))
    assert dense_weights(model) == mlp(1, D) + towers + heads + mlp(6, 10, 2)
    check_runs(model, schema)


def test_an_event_that_is_the_candidate_has_its_output():
    schema = one_group()
    model = TBSM(schema, embedding_dim=D)
    spread(model)
    x, _ = random_rows(schema, ROWS)
    x["items"], x["brands"] = (np.repeat(x[name][:, None], 7, axis=1) for name in ("item", "brand"))
    z = inner(model, x, "tower_clicks")
    assert z.shape == (ROWS, 8, 15) and z.std() > 1e-3
    np.testing.assert_allclose(z[:, :-1], np.repeat(z[:, -1:], 7, axis=1), rtol=1e-5, atol=1e-6)
    assert model.get_layer("tower_clicks").tokens == 3  # item, brand and the mean of the words, which have no target


@pytest.mark.parametrize("factory", [TBSM, AdRecSequential])
def test_numbers_alone_are_enough(factory):
    schema = Schema(features=[Numeric("a"), Numeric("b"), Numeric("c")], labels=["click"])
    with pytest.raises(ValueError, match="not fitted|fit"):
        factory(schema)
    schema = Schema(features=[Numeric(name, transform="none") for name in "abc"], labels=["click"])
    check_runs(factory(schema, numeric="scale_embedding"), schema)


# -- SIM and ETA


@pytest.mark.parametrize("factory, options", [(SIM, {"search": "hard"}), (SIM, {"search": "soft"}), (ETA, {"num_hashes": 7})])
@pytest.mark.parametrize("recent", [0, 2])
def test_search_parameter_count(factory, options, recent):
    schema = full_schema()
    plain = {"attention_units": (13, 3), "attention_activation": "sigmoid", "hidden_activation": "relu"}
    model = factory(schema, num_selected=3, num_recent=recent, **SMALL, **plain, **options)
    expected = head = 0
    for width in WIDTHS.values():
        expected += 4 * (width * width + width) + (mlp(4 * width, 13, 3, 1) if recent else 0)
        expected += 7 * width if factory is ETA else 0
        head += width * (2 if recent else 1)
    planes = sum(7 * width for width in WIDTHS.values()) if factory is ETA else 0
    assert dense_weights(model) == expected - planes + mlp(FLAT + head, *UNITS, 1)  # planes are not trained
    assert model.count_params() - sum(int(np.prod(w.shape)) for w in model.trainable_weights) == planes
    check_runs(model, schema)


def test_the_hard_search_looks_by_the_smallest_table_or_by_what_it_is_told():
    schema = one_group()
    x, _ = random_rows(schema, ROWS)
    x["items"], x["brands"] = np.full((ROWS, 7), 5), np.full((ROWS, 7), 7)
    x["items"][:, :2] = x["item"][:, None]
    x["brands"][:, 1:4] = x["brand"][:, None]
    x["item"], x["brand"] = np.where(x["item"] == 5, 6, x["item"]), np.where(x["brand"] == 7, 8, x["brand"])
    x["items"][:, :2], x["brands"][:, 1:4] = x["item"][:, None], x["brand"][:, None]
    for search_by, count in ((None, 3), (["brands"], 3), (["items"], 2)):
        model = SIM(schema, search="hard", search_by=search_by, **SMALL)
        found = keras.Model(model.inputs, model.get_layer("search_clicks").output[1])([x[t.name] for t in model.inputs])
        np.testing.assert_array_equal(np.asarray(found).sum(axis=1), np.full(ROWS, count))


@pytest.mark.parametrize("factory", [SIM, ETA])
def test_the_search_leaves_attributes_without_a_target_out(factory):
    """Time gaps are part of what attention sees, but the candidate has none to compare them with."""
    schema = timed_schema()
    model = factory(schema, num_selected=2, **SMALL)
    search = model.get_layer("search_clicks")
    assert [tuple(t.shape) for t in search.input[:3]] == [(None, 2 * D), (None, 7, 2 * D), (None, 7, 3 * D)]
    check_runs(model, schema)


@pytest.mark.parametrize("factory", [BST, HSTU, SIM, ETA])
def test_without_sequences_it_is_the_plain_deep_model(factory):
    schema = fields_schema()
    plain = {"hidden_activation": "relu"}
    model, deep = factory(schema, **SMALL, **plain), DNN(schema, **SMALL)
    spread(model)
    assert [w.shape for w in model.weights] == [w.shape for w in deep.weights]
    deep.set_weights(model.get_weights())
    np.testing.assert_allclose(scores(model, schema), scores(deep, schema), rtol=1e-5)


@pytest.mark.parametrize("factory, heads", [(BST, {"num_heads": 3}), (TransAct, {}), (HSTU, {}), (SIM, {}), (ETA, {})])
def test_a_group_without_a_target_is_pooled(factory, heads):
    schema = one_group()
    model = factory(schema, **SMALL, **heads)
    assert model.get_layer("flat_words").output.shape == (None, D)
    check_runs(model, schema)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda s: BST(s, embedding_dim=5), "8 heads do not divide the width 15"),
        (lambda s: BST(s, pooling="first"), "pooling"),
        (lambda s: TransAct(s, structure="paralel"), "did you mean 'parallel'"),
        (lambda s: TransAct(s, time_gap="clicked_itm"), "did you mean 'clicked_item'"),
        (lambda s: HSTU(s, time_gap="gaps"), "HSTU: time_gap names 'gaps'"),
        (lambda s: HSTU(s, num_heads=5), "5 heads do not divide"),
        (lambda s: TBSM(s, sequence_layer="lstmm"), "did you mean 'lstm'"),
        (lambda s: AdRecSequential(s, num_layers=0), "num_layers"),
        (lambda s: SIM(s, search="sof"), "did you mean 'soft'"),
        (lambda s: SIM(s, search="hard", search_by=["clicked_itm"]), "did you mean 'clicked_item'"),
        (lambda s: SIM(s, search="hard", search_by=["clicked_item", "clicked_brand"]), "one a group"),
        (lambda s: SIM(s, num_recent=-1), "SIM: num_recent"),
        (lambda s: ETA(s, num_hashes=0), "num_hashes"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make(full_schema())
