"""Requests that no client should send: each scores as documented or is refused by name, and the process lives."""

import functools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import keras_ctr
from keras_ctr.data import fit_schema
from keras_ctr.serving import SavedModelRunner, export_model
from tests.serving.test_bundle import randomised
from tests.serving.test_export import CANDIDATE, example, raw_schema, raw_table, served

pytestmark = pytest.mark.slow

ROWS = 3
USUAL = 1e6
"""Numbers of this size and below give finite scores."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    table = raw_table(300)
    schema, vocabularies = fit_schema([table], raw_schema(), min_count=2)
    model = randomised(keras_ctr.models.DNN(schema, embedding_dim=3, hidden_units=(5,)), 0.5)
    path = export_model(model, schema, vocabularies, tmp_path_factory.mktemp("requests") / "1", candidate_features=CANDIDATE)
    with SavedModelRunner(path) as runner:
        yield runner, schema, table.slice(0, ROWS), model


def encoded_rows(schema, rows=ROWS):
    shape = {name: (rows, *schema.encoded_shape(name)) for name in schema.feature_names}
    return {name: np.full(shape[name], 2, schema.encoded_dtype(name)) for name in schema.feature_names}


def test_ids_outside_their_table_are_unknown(saved):
    """In the fused table a wrong id would read another feature's row."""
    runner, schema, _, _ = saved
    base = encoded_rows(schema)
    for name in schema.feature_names:
        if schema.encoded_dtype(name) == "float32":
            odd, instead = [np.nan, np.inf, -np.inf], [0.0, 0.0, 0.0]
        else:
            size = schema[name].vocabulary_size or schema.table_of(name).vocabulary_size
            odd, instead = [-1, size, 2**31 - 1], [1, 1, 1]
        steps = schema.encoded_shape(name)
        scores = []
        for values in (odd, instead):
            column = np.array(values, base[name].dtype)
            scores.append(runner.run("encoded", {**base, name: np.repeat(column[:, None], steps[0], axis=1) if steps else column})["click"])
        np.testing.assert_array_equal(*scores, err_msg=name)
        assert np.isfinite(scores[0]).all() and not np.allclose(scores[0][0], runner.run("encoded", base)["click"][0])


@pytest.mark.parametrize("signature", ["serving_default", "encoded", "rank"])
def test_other_numbers_of_rows_are_refused_by_name(saved, signature):
    """One row would otherwise be broadcast over the others."""
    runner, schema, part, _ = saved
    rows = encoded_rows(schema) if signature == "encoded" else served(part, schema)
    if signature == "rank":
        rows = {name: value if name in CANDIDATE else value[:1] for name, value in rows.items()}
    assert runner.run(signature, rows)["click"].shape == (ROWS, 1)
    for name in schema.feature_names:
        for count in (1, 2):
            if signature == "rank" and name not in CANDIDATE:
                continue  # the signature says one row, which the runner checks; servers do not
            if signature != "encoded" or name != schema.feature_names[0]:
                with pytest.raises(RuntimeError, match=name):
                    runner.run(signature, {**rows, name: rows[name][:count]})


def test_a_second_user_is_refused_in_the_graph_too(saved):
    """TensorFlow Serving does not compare shapes with the signature."""
    runner, schema, part, _ = saved
    signature = runner.signatures["rank"]
    loose = {n: s._replace(shape=(None,) * len(s.shape)) for n, s in signature.inputs.items()}
    rows = {name: value if name in CANDIDATE else value[:1] for name, value in served(part, schema).items()}
    runner._plan("rank")
    runner.signatures["rank"] = signature._replace(inputs=loose)
    runner._plans.pop("rank", None)
    try:
        with pytest.raises(RuntimeError, match=r"one row of the user.*s features, but this one:\] \[slot\] \[has:\] \[2\]"):
            runner.run("rank", {**rows, "slot": np.array([1, 2])})
    finally:
        runner.signatures["rank"] = signature
        runner._plans.pop("rank", None)


def test_attributes_of_an_event_have_one_length(saved):
    runner, schema, part, _ = saved
    rows = served(part, schema)
    for steps in (0, 1, 2):
        with pytest.raises(RuntimeError, match=r"\[cities\] \[has:\] .*group 'clicks'|\[cities\] \[has:\] .*group \\'clicks"):
            runner.run("serving_default", {**rows, "cities": [row[:steps] for row in rows["cities"]]})


def test_examples_that_lack_features(saved):
    """A whole attribute may be left out, all features may; attributes of other lengths are refused by name."""
    runner, schema, part, _ = saved
    row = part.to_pylist()[0] | {"items": [1, 2, 3], "cities": ["Köln", "a b", "東京"]}

    def scores(*rows):
        return runner.run("serve_examples", {"examples": [example(r, schema) for r in rows]})["click"]

    np.testing.assert_array_equal(scores(row | {"cities": []}), scores(row | {"cities": ["", "", ""]}))
    for steps in (1, 2):
        with pytest.raises(RuntimeError, match="cities"):
            scores(row, row | {"cities": ["Köln"] * steps})
    nothing = runner.run("serve_examples", {"examples": [b""]})["click"]
    missing = {"city": [""], "item": [-1], "slot": [1], "price": [np.nan], "age": [np.nan], "score": [np.nan]}
    rows = {**missing, "items": np.zeros((1, 0), "int64"), "cities": [[]], "words": [[]]}
    rows = {k: np.array(v, schema.raw_dtype(k)) if schema.raw_dtype(k) != "string" else v for k, v in rows.items()}
    np.testing.assert_array_equal(nothing, runner.run("serving_default", rows)["click"])
    assert runner.run("serve_examples", {"examples": []})["click"].shape == (0, 1)


def test_a_large_batch(saved):
    runner, schema, part, _ = saved
    rows = served(part, schema)
    large = {k: v * 33_334 if isinstance(v, list) else np.concatenate([v] * 33_334) for k, v in rows.items()}
    scores = runner.run("serving_default", large)["click"]
    assert scores.shape == (100_002, 1)
    np.testing.assert_allclose(scores[-3:], runner.run("serving_default", rows)["click"], atol=1e-6)


INTEGERS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from([-1, 0, 1, 2, 2**31, 2**63, -(2**63) - 1, 10**30]))
FLOATS = st.one_of(st.floats(), st.sampled_from([3e38, -3e38, 1e39, 5e-324, -0.0]))
STRINGS = st.one_of(st.binary(max_size=20), st.text(max_size=8), st.just(b"\xff\xfe\x00"), st.just("x" * 3000))
VALUES = st.one_of(INTEGERS, FLOATS, STRINGS, st.none(), st.booleans())
COLUMNS = st.one_of(
    st.lists(VALUES, max_size=4),
    st.lists(st.lists(VALUES, max_size=4), max_size=4),
    *(st.lists(kind, min_size=ROWS, max_size=ROWS) for kind in (INTEGERS, FLOATS, STRINGS)),
    *(st.integers(0, 9).flatmap(lambda t, k=k: st.lists(st.lists(k, min_size=t, max_size=t), min_size=ROWS, max_size=ROWS))
      for k in (INTEGERS, STRINGS)),
    VALUES,
)  # fmt: skip
SCHEMA = raw_schema()


def fitting(name):
    """Columns of a feature's own type and rank, so that most requests pass the client's checks and meet the graph."""
    values = {
        "string": st.one_of(STRINGS, st.sampled_from(["Köln", "", "p"])),
        "int64": st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-1, 300)),
        "float32": st.one_of(st.floats(width=32), st.floats(-100, 100, width=32)),
    }[SCHEMA.raw_dtype(name)]
    if not SCHEMA.encoded_shape(name):
        return st.lists(values, min_size=ROWS, max_size=ROWS)
    return st.integers(0, 9).flatmap(lambda steps: st.lists(st.lists(values, min_size=steps, max_size=steps), min_size=ROWS, max_size=ROWS))


CHANGE = st.sampled_from(SCHEMA.feature_names).flatmap(
    lambda name: st.tuples(st.just(name), st.one_of(*[fitting(name)] * 4, COLUMNS, st.just("left out")))
)
CHANGES = st.lists(CHANGE, min_size=1, max_size=3).map(dict)


def numbers(value):
    if isinstance(value, (list, tuple)):
        return [n for item in value for n in numbers(item)]
    return [value] if isinstance(value, (int, float)) else []


def check_request(saved, changes):
    """A malformed request: scores in [0, 1], or an error that names a feature that was changed. Returns whether it scored."""
    runner, schema, part, _ = saved
    rows = {**served(part, schema), **{name: value for name, value in changes.items() if value != "left out"}}
    rows = {name: value for name, value in rows.items() if changes.get(name) != "left out"}
    try:
        scores = runner.run("serving_default", rows)["click"]
    except (ValueError, TypeError, RuntimeError) as error:
        assert any(name in str(error) for name in changes), error
        return False
    assert scores.dtype == np.float32 and scores.shape[1:] == (1,) and scores.shape[0] in (ROWS, 0)
    given = np.abs(np.array([n for value in changes.values() for n in numbers(value)], "float64"))
    if not (given[np.isfinite(given)] > USUAL).any():
        assert np.isfinite(scores).all()
    assert not ((scores < 0) | (scores > 1)).any()
    return True


def check_example(saved, changes, cut):
    """A malformed tf.Example: a score, or an error that names a changed feature unless it was cut. Returns whether it scored."""
    import tensorflow as tf

    runner, schema, part, _ = saved
    message = tf.train.Example.FromString(example(part.to_pylist()[0], schema))
    for name, value in changes.items():
        feature = message.features.feature[name]
        feature.Clear()
        values = value if isinstance(value, list) else [value]
        if all(isinstance(v, int) and not isinstance(v, bool) and -(2**63) <= v < 2**63 for v in values):
            feature.int64_list.value.extend(values)
        elif all(isinstance(v, float) for v in values):
            feature.float_list.value.extend(np.clip(values, -3e38, 3e38).tolist())
        elif all(isinstance(v, (str, bytes)) for v in values):
            feature.bytes_list.value.extend(v if isinstance(v, bytes) else v.encode(errors="replace") for v in values)
    serialized = message.SerializeToString()
    serialized = serialized[: int(cut * len(serialized))]
    try:
        scores = runner.run("serve_examples", {"examples": [serialized]})["click"]
    except RuntimeError as error:
        assert cut < 1 or any(name in str(error) for name in changes), error
        return False
    assert scores.shape == (1, 1) and not ((scores < 0) | (scores > 1)).any()
    return True


CUTS = st.one_of(st.just(1.0), st.floats(0, 1))


def try_all(examples, check, *strategies):
    """Runs a check on so many examples, and asserts that some scored and some were refused."""
    outcomes = []
    health = [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large]
    options = hypothesis.settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=health)
    options(hypothesis.given(st.tuples(*strategies))(lambda values: outcomes.append(check(*values))))()
    assert 0.05 < np.mean(outcomes) < 0.95 and len(outcomes) >= examples


def test_malformed_requests(saved):
    try_all(150, functools.partial(check_request, saved), CHANGES)


def test_malformed_examples(saved):
    try_all(100, functools.partial(check_example, saved), CHANGES, CUTS)


@pytest.mark.slow
def test_ten_thousand_malformed_requests(saved):
    try_all(8000, functools.partial(check_request, saved), CHANGES)
    try_all(2000, functools.partial(check_example, saved), CHANGES, CUTS)
