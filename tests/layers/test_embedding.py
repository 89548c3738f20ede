"""FeatureEmbedding against a loop over rows, features and steps."""

import keras
import numpy as np
import pytest
from keras import tree

from keras_ctr import Categorical, Numeric, Schema, SchemaError, Sequence
from keras_ctr.layers import FeatureEmbedding, LinearLogit, SequencePooling
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from tests.layer_contract import check_layer
from tests.sample import full_schema, random_rows

DIM = 3


def mixed_schema():
    """A table of another width, an attribute without a target, a group without any target."""
    return Schema(
        features=[
            Categorical("user", 19),
            Categorical("brand", 11, embedding_dim=2),
            Categorical("item", 13),
            Numeric("price", transform="none"),
            Sequence("items", 5, table="item", target="item", group="g"),
            Sequence("actions", 5, vocabulary_size=4, group="g"),
            Sequence("brands", 7, table="brand", group="h"),
        ],
        labels=["click"],
    )


def row_vectors(layer, name, ids):
    """Embedding of each id of one feature, projected where its table has another width."""
    table = layer.schema.table_of(name).name
    rows = layer.rows(table)[ids]
    if table in layer._projections:
        rows = rows @ keras.ops.convert_to_numpy(layer._projections[table])
    return rows


@pytest.mark.parametrize("schema", [mixed_schema(), full_schema()], ids=["mixed", "full"])
def test_against_a_loop(schema):
    x, _ = random_rows(schema, 17)
    layer = FeatureEmbedding(schema, DIM, initializer="random_normal")
    out = layer(x)
    np.testing.assert_allclose(
        out["fields"], np.stack([row_vectors(layer, f.name, x[f.name]) for f in schema.fields], axis=1), rtol=1e-6, atol=1e-6
    )
    np.testing.assert_array_equal(out["numeric"][:, 0], x["price"])
    for group, members in schema.sequence_groups.items():
        steps = members[0].max_length
        for b in range(17):
            for t in range(steps):
                present = [x[s.name][b, t] != 0 for s in members]
                assert bool(out["masks"][group][b, t]) == any(present)
                for m, seq in enumerate(members):
                    expected = row_vectors(layer, seq.name, x[seq.name][b, t]) if present[m] else np.zeros(DIM)
                    np.testing.assert_allclose(out["sequences"][group][b, t, m * DIM : (m + 1) * DIM], expected, rtol=1e-6, atol=1e-6)
        if not any(s.target for s in members):
            assert group not in out.get("targets", {})
            continue
        for m, seq in enumerate(members):
            expected = row_vectors(layer, seq.target, x[seq.target]) if seq.target else np.zeros((17, DIM))
            np.testing.assert_allclose(out["targets"][group][:, m * DIM : (m + 1) * DIM], expected, rtol=1e-6, atol=1e-6)


def test_padding_reads_zero_whatever_its_row_holds():
    schema = full_schema()
    x, _ = random_rows(schema, 5)
    layer = FeatureEmbedding(schema, DIM)
    layer(x)
    assert (layer.rows("item")[0] == 0).all()
    for v in layer.variables:
        v.assign(np.ones(v.shape))
    events = np.array(layer(x)["sequences"]["clicks"])
    assert (events[x["clicked_item"] == 0] == 0).all()
    assert (events[x["clicked_item"] != 0] == 1).all()


def test_one_fused_variable_a_width():
    layer = FeatureEmbedding(mixed_schema(), DIM, name="embedding")
    layer.build(None)
    shapes = {v.path: tuple(v.shape) for v in layer.variables}
    assert shapes == {"embedding/table": (19 + 13 + 4, DIM), "embedding/table_2": (11, 2), "embedding/projection_brand": (2, DIM)}
    with pytest.raises(KeyError, match="no table 'brnad'"):
        layer.rows("brnad")


def test_each_table_has_its_own_initial_value():
    schema = Schema([Categorical("a", 5, embedding_initializer="ones"), Categorical("b", 7)], ["y"])
    layer = FeatureEmbedding(schema, DIM, initializer="zeros")
    layer.build(None)
    assert (layer.rows("a")[1:] == 1).all() and (layer.rows("a")[0] == 0).all()
    assert (layer.rows("b") == 0).all()


def test_l2_counts_only_the_rows_of_the_batch():
    schema = Schema([Categorical("a", 5), Categorical("b", 7)], ["y"])
    layer = FeatureEmbedding(schema, DIM, initializer="ones", embedding_l2=0.1)
    x = {"a": np.array([2, 2, 3]), "b": np.array([1, 4, 6])}
    layer(x)
    assert float(layer.losses[0]) == pytest.approx(0.1 * 6 * DIM / 3)


def test_gradient_is_sparse_on_tensorflow():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("sparse gradients exist on the TensorFlow backend only")
    import tensorflow as tf

    schema = full_schema()
    x, _ = random_rows(schema, 5)
    layer = FeatureEmbedding(schema, DIM)
    with tf.GradientTape() as tape:
        out = layer(x)
        total = tf.reduce_sum(out["fields"] ** 2) + tf.reduce_sum(out["sequences"]["clicks"])
    gradient = tape.gradient(total, layer.trainable_variables[0].value)
    assert isinstance(gradient, tf.IndexedSlices)
    read = 5 * (len(schema.fields) + sum(s.max_length for s in schema.sequences))
    assert gradient.values.shape == (read, DIM)


def test_config_round_trip_leaves_vocabularies_out():
    schema = Schema([Categorical("a", vocabulary=tuple("abc"))], ["y"])
    layer = FeatureEmbedding(schema, DIM, embedding_l2=0.5)
    again = FeatureEmbedding.from_config(layer.get_config())
    assert again.schema.tables["a"].vocabulary_size == 5
    assert "vocabulary" not in layer.get_config()["schema"]["features"][0]
    assert again.get_config() == layer.get_config()


def test_errors():
    with pytest.raises(SchemaError, match="'a' \\(vocabulary_size\\)"):
        FeatureEmbedding(Schema([Categorical("a")], ["y"]), DIM)
    with pytest.raises(ValueError, match="embedding_dim"):
        FeatureEmbedding(full_schema(), 0)
    with pytest.raises(ValueError, match="embedding_l2"):
        FeatureEmbedding(full_schema(), 2, embedding_l2=-1.0)


def test_linear_logit_against_a_loop():
    schema = mixed_schema()
    x, _ = random_rows(schema, 17)
    layer = LinearLogit(schema, 2, initializer="random_normal")
    out = np.array(layer(x))
    layer.bias.assign([0.25, -0.5])
    layer.numeric_tokens.kernel.assign([[0.75, 0.125]])
    out = np.array(layer(x))
    for b in range(17):
        z = np.array([0.25, -0.5]) + x["price"][b] * np.array([0.75, 0.125])
        for f in schema.fields:
            z = z + layer.embedding.rows(f.name)[x[f.name][b]]
        for members in schema.sequence_groups.values():
            valid = [t for t in range(members[0].max_length) if any(x[s.name][b, t] for s in members)]
            for s in members:
                rows = layer.embedding.rows(schema.table_of(s).name)
                z = z + sum(rows[x[s.name][b, t]] for t in valid if x[s.name][b, t]) / max(1, len(valid))
        np.testing.assert_allclose(out[b], z, rtol=1e-5, atol=1e-6)
    assert layer.count_params() == (19 + 11 + 13 + 4) * 2 + 2 + 2


def test_linear_logit_with_weights_of_their_own_for_histories():
    schema = mixed_schema()
    x, _ = random_rows(schema, 17)
    layer = LinearLogit(schema, 2, history_weights="own", initializer="random_normal")
    out = np.array(layer(x))
    expected = np.zeros((17, 2))
    for b in range(17):
        for f in schema.fields:
            expected[b] += layer.embedding.rows(f.name)[x[f.name][b]]
        for members in schema.sequence_groups.values():
            valid = [t for t in range(members[0].max_length) if any(x[s.name][b, t] for s in members)]
            for s in members:
                rows = layer.embedding.rows(s.name)
                expected[b] += sum((rows[x[s.name][b, t]] for t in valid if x[s.name][b, t]), np.zeros(2)) / max(1, len(valid))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    tables = {schema.table_of(f).name: schema.table_of(f).vocabulary_size for f in schema.fields}
    rows = sum(tables.values()) + sum(schema.table_of(s).vocabulary_size for s in schema.sequences)
    assert layer.count_params() == rows * 2 + 2 + 2
    copy = LinearLogit.from_config(layer.get_config())
    copy.build({k: v.shape for k, v in x.items()})
    copy.set_weights(layer.get_weights())
    np.testing.assert_array_equal(np.array(copy(x)), out)
    with pytest.raises(ValueError, match="did you mean 'own'"):
        LinearLogit(schema, history_weights="owns")


def test_pooling_is_the_mean_of_the_valid_steps():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 7, 6)).astype("float32")
    mask = rng.random((5, 7)) < 0.5
    mask[0] = False
    out = np.array(SequencePooling(2)(x, mask=mask))
    for b in range(5):
        expected = x[b][mask[b]].mean(axis=0) if mask[b].any() else np.zeros(6)
        np.testing.assert_allclose(out[b].reshape(-1), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="no multiple of 4"):
        SequencePooling(4)(x)


def test_pooling_contract():
    check_layer(SequencePooling(2), (5, 7, 6), has_weights=False)


def test_quotient_remainder_reads_a_product():
    schema = Schema([Categorical("a", 23, quotient_remainder=5), Categorical("b", 7), Sequence("s", 3, table="a", target="a")], ["y"])
    layer = FeatureEmbedding(schema, DIM, initializer="random_normal", name="embedding")
    x = {"a": np.array([2, 22, 7, 12]), "b": np.array([1, 4, 6, 2]), "s": np.array([[2, 22, 0], [7, 0, 0], [21, 20, 19], [1, 2, 3]])}
    out = layer(x)
    assert [tuple(v.shape) for v in layer.variables] == [(5 + 5 + 7, DIM)]  # 5 remainders, ceil(23 / 5) quotients, 7 rows of b
    stored = keras.ops.convert_to_numpy(layer.variables[0])
    for row, i in enumerate(x["a"]):
        expected = stored[i % 5] * stored[5 + i // 5]
        np.testing.assert_allclose(out["fields"][row, 0], expected, rtol=1e-6)
        np.testing.assert_allclose(out["targets"]["history"][row], expected, rtol=1e-6)
        np.testing.assert_allclose(out["fields"][row, 1], stored[10 + x["b"][row]], rtol=1e-6)
        for step, event in enumerate(x["s"][row]):
            product = stored[event % 5] * stored[5 + event // 5] * (event != 0)
            np.testing.assert_allclose(out["sequences"]["history"][row, step], product, rtol=1e-6)
    table = layer.rows("a")
    assert table.shape == (23, DIM) and len(np.unique(table[1:].round(9), axis=0)) == 22  # distinct ids stay distinct
    np.testing.assert_allclose(table[22], stored[2] * stored[9], rtol=1e-6)


def test_a_table_smaller_than_its_buckets_is_not_compressed():
    layer = FeatureEmbedding(Schema([Categorical("a", 5, quotient_remainder=7)], ["y"]), DIM)
    layer.build(None)
    assert tuple(layer.variables[0].shape) == (5, DIM)


def test_large_tables_are_filled_in_parts_that_differ(monkeypatch):
    from keras_ctr.layers import embedding_storage

    monkeypatch.setattr(embedding_storage, "_CHUNK", 11)
    schema = Schema([Categorical("a", 61), Categorical("b", 17, embedding_initializer="glorot_uniform"), Categorical("c", 13)], ["y"])
    for seed in (None, 7):
        layer = FeatureEmbedding(schema, DIM, initializer=keras.initializers.RandomNormal(stddev=0.5, seed=seed))
        layer.build(None)
        a = layer.rows("a")
        assert (a[0] == 0).all() and (layer.rows("b")[0] == 0).all() and (layer.rows("c")[0] == 0).all()
        assert len(np.unique(a[1:].round(7), axis=0)) == 60
        assert 0.3 < a.std() < 0.7
        assert np.abs(layer.rows("b")).max() <= (6 / (17 + DIM)) ** 0.5  # drawn at once: its limit depends on the table's shape


def test_kept_rows_are_found_through_the_index():
    schema = Schema([Categorical("a", 7), Categorical("b", 5)], ["y"])
    whole, pruned = FeatureEmbedding(schema, DIM), FeatureEmbedding(schema, DIM, kept_rows={str(DIM): 4})
    x = {"a": np.arange(1, 7), "b": np.array([1, 2, 3, 4, 1, 2])}
    whole(x), pruned(x)
    values = np.zeros((12, DIM), "float32")
    kept = [3, 6, 8]
    values[kept] = np.arange(1, 10).reshape(3, 3)
    whole.variables[0].assign(values)
    index = np.zeros(12, "int32")
    index[kept] = [1, 2, 3]
    by_name = {v.name: v for v in pruned.variables}
    by_name["table"].assign(values[[0, *kept]])
    by_name[f"row_index_{DIM}"].assign(index)
    np.testing.assert_array_equal(whole(x)["fields"], pruned(x)["fields"])
    np.testing.assert_array_equal(whole.rows("b"), pruned.rows("b"))
    assert not pruned.trainable_variables
    clone = FeatureEmbedding.from_config(pruned.get_config())
    assert clone.kept_rows == {str(DIM): 4}
    with pytest.raises(ValueError, match="kept_rows names the width '9'"):
        FeatureEmbedding(schema, DIM, kept_rows={"9": 4})


def test_tables_are_marked_for_row_sparse_optimizers():
    layer = FeatureEmbedding(mixed_schema(), DIM)
    layer.build(None)
    assert [v.name for v in layer.variables if getattr(v, "row_sparse", False)] == ["table", "table_2"]


def test_a_width_of_too_many_rows_gets_further_variables(monkeypatch):
    from keras_ctr.layers import embedding_storage

    schema = Schema([Categorical("a", 13), Categorical("b", 11), Categorical("c", 5), Categorical("d", 7, embedding_dim=2)], ["y"])
    whole = FeatureEmbedding(schema, DIM, initializer="random_normal")
    monkeypatch.setattr(embedding_storage, "MAX_ROWS", 17)
    parts = FeatureEmbedding(schema, DIM, initializer="random_normal", name="embedding")
    rng = np.random.default_rng(1)
    x = {f.name: rng.integers(1, f.vocabulary_size, 9) for f in schema.fields}
    whole(x), parts(x)
    shapes = {v.path: tuple(v.shape) for v in parts.variables}
    assert shapes["embedding/table"] == (13, DIM) and shapes["embedding/table_part1"] == (16, DIM) and shapes["embedding/table_2"] == (7, 2)
    first, rest, narrow = parts._tables.values()
    block = keras.ops.convert_to_numpy(whole._tables[str(DIM)])
    first.assign(block[:13])
    rest.assign(block[13:])
    narrow.assign(whole._tables["2"])
    parts._projections["d"].assign(whole._projections["d"])
    np.testing.assert_array_equal(parts(x)["fields"], whole(x)["fields"])
    np.testing.assert_array_equal(parts.rows("c"), whole.rows("c"))
    monkeypatch.setattr(embedding_storage, "MAX_ROWS", 12)
    with pytest.raises(SchemaError, match="table 'a' has 13 rows.*hash_buckets or quotient_remainder"):
        FeatureEmbedding(schema, DIM)


NEGATIVES = ("clicked_item", "clicked_brand")


def with_negatives(x):
    """Other ids of the same tables in the place of the events, and a row without."""
    out = dict(x)
    for name in NEGATIVES:
        out[f"{name}_negatives"] = np.roll(x[name], 1, axis=0)
    return out


def test_negatives_read_as_their_sequences_do():
    x, _ = random_rows(full_schema(), 17)
    layer = FeatureEmbedding(full_schema(), DIM, negatives=NEGATIVES)
    given, without = layer(with_negatives(x)), layer(x)
    np.testing.assert_array_equal(given["negatives"]["clicks"], np.roll(given["sequences"]["clicks"], 1, axis=0))
    np.testing.assert_array_equal(given["negative_masks"]["clicks"], np.roll(given["masks"]["clicks"], 1, axis=0))
    assert np.array(given["negatives"]["clicks"]).any() and list(given["negatives"]) == ["clicks"]
    for key in ("fields", "numeric"):
        np.testing.assert_array_equal(given[key], without[key])
    assert not np.array(without["negatives"]["clicks"]).any() and not np.array(without["negative_masks"]["clicks"]).any()
    assert without["negatives"]["clicks"].shape == given["negatives"]["clicks"].shape
    assert layer.count_params() == (101 + 53 + 11 + 9) * DIM  # the tables, once
    copy = FeatureEmbedding.from_config(layer.get_config())
    assert copy.negatives == NEGATIVES


def test_negatives_are_named_where_they_do_not_fit():
    with pytest.raises(ValueError, match="negatives names 'cliked_item'.*did you mean 'clicked_item'"):
        FeatureEmbedding(full_schema(), DIM, negatives=("cliked_item",))
    with pytest.raises(ValueError, match="lacks clicked_brand of the group 'clicks'"):
        FeatureEmbedding(full_schema(), DIM, negatives=("clicked_item",))
    x = with_negatives(random_rows(full_schema(), 5)[0])
    del x["clicked_brand_negatives"]
    with pytest.raises(ValueError, match="the inputs lack clicked_brand_negatives"):
        FeatureEmbedding(full_schema(), DIM, negatives=NEGATIVES)(x)


def test_a_model_may_be_called_without_its_negatives(tmp_path):
    schema = full_schema()
    inputs = build_inputs(schema, negatives=NEGATIVES)
    features = FeatureEmbedding(schema, DIM, negatives=NEGATIVES, initializer="random_normal")(inputs)
    events = keras.layers.Concatenate()([features["sequences"]["clicks"], features["negatives"]["clicks"]])
    outputs = predictions(logits(keras.layers.Flatten()(events), schema), schema)
    model = CTRModel(inputs, outputs)
    assert model.optional_inputs == {f"{name}_negatives" for name in NEGATIVES}
    x, y = random_rows(schema, 17)
    model.compile("sgd", "binary_crossentropy")
    model.fit(with_negatives(x), y, validation_data=(x, y), batch_size=17, verbose=0)
    zeros = {f"{name}_negatives": np.zeros_like(x[name]) for name in NEGATIVES}
    expected = model.predict({**x, **zeros}, verbose=0)["click"]
    np.testing.assert_array_equal(model.predict(x, verbose=0)["click"], expected)
    assert not np.array_equal(model.predict(with_negatives(x), verbose=0)["click"], expected)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0)["click"], expected)
    with pytest.raises(KeyError, match="'brand'"):
        model.predict({k: v for k, v in x.items() if k != "brand"}, verbose=0)


SHARED = [
    ("user",),
    ("user", "items", "actions"),
    ("item", "price", "brands"),
    ("user", "brand", "item", "price"),
    ("items", "actions", "brands"),
]


@pytest.mark.parametrize("shared", SHARED, ids="-".join)
def test_shared_features_have_one_row(shared):
    schema = mixed_schema()
    x, _ = random_rows(schema, 17)
    x = {name: x[name] for name in schema.feature_names}
    once = {name: value[2:3] if name in shared else value for name, value in x.items()}
    rows = {name: np.repeat(value[2:3], 17, axis=0) if name in shared else value for name, value in x.items()}
    layer = FeatureEmbedding(schema, DIM, initializer="random_normal", embedding_l2=0.5, negatives=("items", "actions"))
    expected, found, sides = layer(rows), layer(once, shared=shared), layer.shared_outputs(shared)
    assert not layer.losses
    made = {
        "fields": ("user", "brand", "item"),
        "numeric": ("price",),
        "g": ("items", "actions"),
        "h": ("brands",),
        "targets": ("item", "actions"),
    }
    inputs = {n: keras.Input(batch_shape=(1 if n in shared else None, *v.shape[1:]), dtype=v.dtype.name) for n, v in once.items()}
    symbolic = tree.flatten(layer(inputs, shared=shared))
    for (path, one), whole, side, symbol in zip(
        tree.flatten_with_path(found), tree.flatten(expected), tree.flatten(sides), symbolic, strict=True
    ):
        assert side == set(made.get(path[0], made.get(path[-1]))).issubset(shared), path
        assert one.shape == ((1, *whole.shape[1:]) if side else whole.shape)
        assert symbol.shape == (1 if side else None, *whole.shape[1:])
        np.testing.assert_allclose(one, whole[:1] if side else whole, rtol=1e-6, atol=1e-7)


def test_what_is_shared_is_checked():
    x, _ = random_rows(mixed_schema(), 5)
    layer = FeatureEmbedding(mixed_schema(), DIM)
    for call in (lambda shared: layer(x, shared=shared), layer.shared_outputs):
        with pytest.raises(ValueError, match="shared names 'usre', which is no feature.*did you mean 'user'"):
            call(("usre",))
        with pytest.raises(ValueError, match="shared lacks actions of the group 'g'"):
            call(("items", "user"))
