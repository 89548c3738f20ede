"""Negatives: whole events of the batch, another first attribute, shares by popularity, the same draws under the same seed."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from keras_ctr import Categorical, Schema, Sequence
from keras_ctr.data import make_dataset, negative_events
from keras_ctr.data.negatives import DRAWS, add_negatives
from keras_ctr.data.synthetic import make_synthetic
from tests.data.prepared_sample import sample_schema, write_data
from tests.sample import full_schema, random_rows

ROWS = 211
GROUPS = {"clicks": ("clicked_item", "clicked_brand"), "likes": ("liked_item",)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data") / "prepared", rows=ROWS, num_shards=5)


def drawn(how, x, schema, sequences=None, seed=3, **options):
    """The negatives of arrays, by NumPy or by a dataset of one batch."""
    if how == "numpy":
        return negative_events(x, schema, sequences, seed, **options)
    dataset = tf.data.Dataset.from_tensors({name: tf.constant(values) for name, values in x.items()})
    (batch,) = add_negatives(dataset, schema, sequences, seed=seed, **options)
    return {name: values.numpy() for name, values in batch.items() if name not in x}


def events_of(x, names):
    """Attributes of the valid events, and where they are."""
    columns = [np.asarray(x[name]) for name in names]
    valid = np.any([column != 0 for column in columns], axis=0)
    return list(zip(*(column[valid].tolist() for column in columns), strict=True)), valid


def check_group(x, negatives, names):
    """Each negative is an event of the batch with another first attribute, or padding; padded steps have none. Returns their number."""
    events, valid = events_of(x, names)
    known, count = set(events), 0
    for name in names:
        steps = negatives[f"{name}_negatives"]
        assert steps.shape == x[name].shape and steps.dtype == x[name].dtype
        assert not steps[~valid].any()
    found = zip(*(negatives[f"{name}_negatives"][valid].tolist() for name in names), strict=True)
    for event, negative in zip(events, found, strict=True):
        if any(negative):
            assert negative in known and negative[0] != event[0]
            count += 1
    return count


def one_sequence(items, vocabulary_size):
    """A schema with one history of items, and the rows."""
    schema = Schema([Categorical("item", vocabulary_size), Sequence("past", len(items[0]), table="item", target="item")], ["y"])
    return schema, {"item": np.full(len(items), 2, np.int32), "past": np.asarray(items, np.int32)}


both = pytest.mark.parametrize("how", ["numpy", "tensorflow"])


@both
def test_negatives_are_whole_other_events_of_the_batch(how):
    schema = full_schema()
    x, _ = random_rows(schema, 97)
    negatives = drawn(how, x, schema)
    assert set(negatives) == {f"{name}_negatives" for names in GROUPS.values() for name in names}
    for names in GROUPS.values():
        events, _ = events_of(x, names)
        # The most frequent of 52 values has less than a tenth of some 250 events: 10^-8 a step to find none.
        assert check_group(x, negatives, names) == len(events) > 200
        pairs = {(e[0], negatives[f"{names[0]}_negatives"][tuple(at)]) for e, at in zip(events, np.argwhere(x[names[0]] > 0), strict=True)}
        assert len(pairs) > 100


@both
def test_padding_may_stand_in_front_and_attributes_may_be_missing(how):
    schema = full_schema()
    x, _ = random_rows(schema, 97)
    x["clicked_brand"][::3] = 0  # events without a brand
    x["clicked_item"][1::3] = 0  # and some without an item
    for names in GROUPS.values():
        for name in names:
            x[name] = x[name][:, ::-1].copy()
    negatives = drawn(how, x, schema)
    for names in GROUPS.values():
        assert check_group(x, negatives, names) > 200
    lacking = negatives["clicked_brand_negatives"] == 0
    assert lacking[negatives["clicked_item_negatives"] > 0].any() and (negatives["clicked_item_negatives"][~lacking] == 0).any()


@both
def test_values_come_as_often_as_they_occur(how):
    """P(j | i) = q_j / (1 - q_i) of other items, padding with q_i^DRAWS, within five standard deviations."""
    shares, n = {2: 0.6, 3: 0.3, 4: 0.1}, 40_000
    items = np.repeat(list(shares), [round(n * q) for q in shares.values()])
    items = np.random.default_rng(0).permutation(items).reshape(-1, 8)
    schema, x = one_sequence(items, 7)
    negatives = drawn(how, x, schema)["past_negatives"]
    for own, share in shares.items():
        got = negatives[items == own]
        expected = {other: q / (1 - share) * (1 - share**DRAWS) for other, q in shares.items() if other != own} | {0: share**DRAWS}
        assert set(np.unique(got)) <= set(expected)
        for value, p in expected.items():
            assert abs((got == value).mean() - p) < 5 * np.sqrt(p * (1 - p) / len(got)), (own, value)


@both
def test_uniform_draws_any_value_of_the_table_alike(how):
    items = np.where(np.arange(8) < 7, np.random.default_rng(0).integers(1, 4, (5000, 8)), 0)  # ids 1, 2, 3 and padding
    schema, x = one_sequence(items, 7)
    negatives = drawn(how, x, schema, distribution="uniform")["past_negatives"]
    assert not negatives[items == 0].any()
    for own in (1, 2, 3):
        got = negatives[items == own]
        values = {2, 3, 4, 5, 6} - {own}  # never padding: 5^-8 a step
        for value in values:
            p = 1 / len(values)
            assert abs((got == value).mean() - p) < 5 * np.sqrt(p * (1 - p) / len(got)), (own, value)
        assert set(np.unique(got)) <= values | {0} and (got == 0).mean() < 1e-3


@both
@pytest.mark.parametrize("distribution", ["events", "uniform"])
def test_where_nothing_differs_there_is_none(how, distribution):
    for items in (np.zeros((3, 5)), np.where(np.arange(5) < 3, 2, np.zeros((3, 5))), [[0, 2, 0, 0, 0]]):
        schema, x = one_sequence(items, 3)  # the table's only value is 2
        assert not drawn(how, x, schema, distribution=distribution)["past_negatives"].any()


@both
def test_the_other_of_two_events(how):
    schema, x = one_sequence([[0, 2, 0], [0, 0, 5]], 7)
    found = drawn(how, x, schema)["past_negatives"]  # each has the other one, or none with probability 2^-8
    assert found[0, 1] in (0, 5) and found[1, 2] in (0, 2)
    assert np.count_nonzero(found.ravel()[[0, 2, 3, 4]]) == 0
    several = np.array([drawn(how, x, schema, seed=seed)["past_negatives"] for seed in range(5)])
    assert several[:, 0, 1].max() == 5 and several[:, 1, 2].max() == 2


@both
def test_ids_past_2_to_31(how):
    schema = Schema([Sequence("past", 3, dtype="int64", vocabulary_size=2**40)], ["y"])
    x = {"past": np.array([[2**39, 7, 0], [2**35, 0, 0]])}
    found = drawn(how, x, schema)["past_negatives"]
    assert found.dtype == np.int64 and set(found.ravel()) <= {0, 7, 2**35, 2**39} and found.max() >= 2**35
    assert drawn(how, x, schema, distribution="uniform")["past_negatives"].max() > 2**31


@both
def test_a_group_draws_the_same_whatever_others_do(how):
    schema = full_schema()
    x, _ = random_rows(schema, 53)
    if how == "tensorflow":
        both_groups, likes = drawn(how, x, schema), drawn(how, x, schema, ["liked_item"])
        assert set(likes) == {"liked_item_negatives"}
        np.testing.assert_array_equal(likes["liked_item_negatives"], both_groups["liked_item_negatives"])
    assert set(drawn(how, x, schema, "liked_item")) == {"liked_item_negatives"}
    assert drawn(how, x, schema.without_sequences()) == {}


def test_arrays_by_seed_or_by_a_generator_that_goes_on():
    schema = full_schema()
    x, _ = random_rows(schema, 53)
    before = {name: values.copy() for name, values in x.items()}

    def items(seed):
        return negative_events(x, schema, None, seed)["clicked_item_negatives"]

    assert (items(1) == items(1)).all() and (items(1) != items(2)).any()
    rng = np.random.default_rng(1)
    assert (items(rng) == items(1)).all() and (items(rng) != items(1)).any()
    assert all((x[name] == values).all() for name, values in before.items())


@pytest.mark.slow
def test_draws_hang_on_seed_place_and_pass_only():
    schema = full_schema()
    x, y = random_rows(schema, 17)
    batches = tf.data.Dataset.from_tensors((x, y)).repeat(4)  # four equal batches

    def passes(seed, count=3, threads=None):
        dataset = add_negatives(batches, schema, seed=seed, num_parallel_calls=threads)
        return [[tuple(batch[0]["clicked_item_negatives"].numpy().ravel()) for batch in dataset] for _ in range(count)]

    first = passes(7)
    assert len({draws for one_pass in first for draws in one_pass}) == 12  # every batch of every pass has its own
    assert passes(7) == passes(7, threads=1) == first
    assert not {draws for one_pass in passes(8) for draws in one_pass} & {draws for one_pass in first for draws in one_pass}
    tf.random.set_seed(5)
    free = passes(None)
    tf.random.set_seed(5)
    assert passes(None) == free


@pytest.mark.parametrize("parts", [0, 1, 2])
def test_structure_shapes_and_the_rest_stay(parts):
    schema = full_schema()
    x, y = random_rows(schema, 23)
    weights = np.arange(23, dtype="float32")
    element = (x, (x, y), (x, y, weights))[parts]
    dataset = tf.data.Dataset.from_tensor_slices(element).batch(7)
    out = add_negatives(dataset, schema, seed=1)
    assert out.cardinality().numpy() == dataset.cardinality().numpy() == 4
    spec = out.element_spec if parts == 0 else out.element_spec[0]
    for name in ("clicked_item", "clicked_brand", "liked_item"):
        assert spec[f"{name}_negatives"] == spec[name]
    for before, after in zip(dataset, out, strict=True):
        before, after = ((batch,) if parts == 0 else batch for batch in (before, after))
        assert len(before) == len(after) == parts + 1
        kept = {name: values for name, values in after[0].items() if name in x}
        for one, other in zip(tf.nest.flatten((before[0], before[1:])), tf.nest.flatten((kept, after[1:])), strict=True):
            np.testing.assert_array_equal(one, other)
        numbers = {name: values.numpy() for name, values in after[0].items()}
        for names in GROUPS.values():
            check_group(numbers, numbers, names)


def test_mistakes_are_named():
    schema = full_schema()
    x, _ = random_rows(schema, 7)
    dataset = tf.data.Dataset.from_tensors(x)
    for make in (lambda *a, **k: add_negatives(dataset, *a, seed=1, **k), lambda s, n=None, **k: negative_events(x, s, n, 1, **k)):
        with pytest.raises(KeyError, match="no sequence 'liked_itm' in the schema; did you mean 'liked_item'"):
            make(schema, ["liked_itm"])
        with pytest.raises(ValueError, match="the group 'clicks' need all its sequences: name clicked_brand too"):
            make(schema, ["clicked_item"])
        with pytest.raises(ValueError, match="distribution must be one of .*'uniform'.*did you mean 'uniform'"):
            make(schema, distribution="unifrom")
        with pytest.raises(ValueError, match=r"single ids, but the events of the group 'clicks' have several attributes \(clicked_item, "):
            make(schema, distribution="uniform")
        unfitted = Schema([Sequence("liked_item", 5)], ["y"])
        with pytest.raises(ValueError, match="'liked_item': its table 'liked_item' has vocabulary_size=None"):
            make(unfitted, distribution="uniform")
        with pytest.raises(KeyError, match="the batches lack the sequence 'saved'"):
            make(Schema([Sequence("saved", 5)], ["y"]))
    with pytest.raises(ValueError, match="hold 'clicked_item_negatives' already"):
        add_negatives(add_negatives(dataset, schema, seed=1), schema, seed=1)
    with pytest.raises(ValueError, match="batch the dataset before"):
        add_negatives(dataset.unbatch(), schema, seed=1)
    with pytest.raises(ValueError, match="takes a dataset of"):
        add_negatives(dataset.map(lambda x: x["user"]), schema, seed=1)


def test_the_key_is_that_of_the_model_s_inputs():
    import keras

    from keras_ctr.layers import FeatureEmbedding
    from keras_ctr.models.ctr_model import build_inputs

    schema = full_schema()
    x, _ = random_rows(schema, 19)
    names = [sequence.name for sequence in schema.sequences]
    negatives = negative_events(x, schema, None, 0)
    assert set(build_inputs(schema, negatives=names)) == {*schema.feature_names, *negatives}
    layer = FeatureEmbedding(schema, 3, negatives=names, initializer="random_normal")
    out = layer({name: keras.ops.convert_to_tensor(values) for name, values in {**x, **negatives}.items() if "meta" not in name})
    for group in GROUPS:
        # Every event has a negative (see above), with other rows of the same tables.
        np.testing.assert_array_equal(np.array(out["negative_masks"][group]), np.array(out["masks"][group]))
        valid = np.array(out["masks"][group])
        differ = (np.array(out["negatives"][group]) != np.array(out["sequences"][group])).any(-1)
        np.testing.assert_array_equal(differ, valid)


def numbers_of(dataset):
    return [{name: values.numpy() for name, values in (batch[0] if isinstance(batch, tuple) else batch).items()} for batch in dataset]


@pytest.mark.slow
@pytest.mark.parametrize("cache", [False, True])
def test_make_dataset_adds_them_and_changes_nothing_else(data, cache):
    options = {"batch_size": 50, "shuffle": True, "seed": 4, "cache": cache}
    plain, dataset = make_dataset(data, "train", **options), make_dataset(data, "train", negatives=True, **options)
    assert dataset.cardinality().numpy() == 5
    assert dataset.element_spec[0]["clicked_item_negatives"] == tf.TensorSpec([None, 7], tf.int32)
    again = make_dataset(data, "train", negatives=("clicked_item", "clicked_brand", "liked_item"), **options)
    for _ in range(2):  # passes
        for one, other, same in zip(numbers_of(plain), numbers_of(dataset), numbers_of(again), strict=True):
            assert set(other) - set(one) == {f"{name}_negatives" for names in GROUPS.values() for name in names}
            assert all((other[name] == one[name]).all() for name in one)
            assert all((other[name] == same[name]).all() for name in other)
            for names in GROUPS.values():
                check_group(other, other, names)


@pytest.mark.slow
@pytest.mark.parametrize("cache", [False, True])
def test_make_dataset_draws_anew_in_every_pass(data, cache):
    dataset = make_dataset(data, "train", batch_size=300, negatives=True, seed=1, cache=cache)  # one batch, always the same
    first, second = (numbers_of(dataset)[0] for _ in range(2))
    assert (first["clicked_item"] == second["clicked_item"]).all()
    assert (first["clicked_item_negatives"] != second["clicked_item_negatives"]).any()
    repeated = make_dataset(data, "train", batch_size=300, negatives=True, seed=1, cache=cache, repeat=True)
    a, b = numbers_of(repeated.take(2))
    assert (a["clicked_item"] == b["clicked_item"]).all() and (a["clicked_item_negatives"] != b["clicked_item_negatives"]).any()
    assert (a["clicked_item_negatives"] == first["clicked_item_negatives"]).all()


def test_make_dataset_of_some_features(data):
    only = make_dataset(data, "train", batch_size=50, features=["liked_item", "user"], negatives=True, with_labels=False)
    assert set(only.element_spec) == {"liked_item", "user", "liked_item_negatives", "meta/group", "meta/time"}
    # A group is what is read of it: a model of `select`ed features has the same one.
    part = make_dataset(data, "train", batch_size=50, features=["clicked_brand"], negatives=["clicked_brand"])
    assert "clicked_brand_negatives" in part.element_spec[0]
    none = make_dataset(data, "train", batch_size=50, features=["user"], negatives=True)
    assert set(none.element_spec[0]) == {"user", "meta/group", "meta/time"}
    with pytest.raises(KeyError, match="no sequence 'liked_item'"):
        make_dataset(data, "train", batch_size=50, features=["user"], negatives=["liked_item"])
    assert sample_schema().sequences and not [k for k in make_dataset(data, "train", batch_size=5).element_spec[0] if "negatives" in k]


@pytest.mark.parametrize("effect", ["sequence", "order_matters", "transitions", "history_gated", "bidirectional"])
def test_synthetic_sequence_tasks(effect):
    made = make_synthetic(500, seed=3, num_items=16, max_length=6, **{effect: 1.0})
    x, schema = made.features, made.schema
    assert [s.name for s in schema.sequences] == ["history"]
    for how in ("numpy", "tensorflow"):
        negatives = drawn(how, x, schema)
        assert check_group(x, negatives, ["history"]) == np.count_nonzero(x["history"])  # 16 items alike: 16^-8 a step to find none
        uniform = drawn(how, x, schema, distribution="uniform")["history_negatives"]
        assert ((uniform > 0) == (x["history"] > 0)).all() and (uniform != x["history"])[x["history"] > 0].all()
    dataset = tf.data.Dataset.from_tensor_slices((x, made.labels)).batch(64)
    counts = collections.Counter()
    for batch, _ in add_negatives(dataset, schema, seed=1):
        numbers = {name: values.numpy() for name, values in batch.items()}
        check_group(numbers, numbers, ["history"])
        counts.update(numbers["history_negatives"][numbers["history"] > 0].tolist())
    assert set(range(2, 18)) <= set(counts)
    # The rows themselves are as planted: the negatives enter nothing that the true probability reads.
    assert {name: v.tolist() for name, v in made.planted.probability({**x, **negatives}).items()} == {
        name: v.tolist() for name, v in made.probability.items()
    }
