"""Pruning zero rows changes no prediction."""

import keras
import numpy as np
import pytest

import keras_ctr
from keras_ctr import optimizers
from keras_ctr.pruning import prune_zero_rows
from tests.sample import full_schema, random_rows


def sparse_model(name, share=0.6):
    schema = full_schema(("click", "like"))
    model = keras_ctr.get_model(name, schema)
    rng = np.random.default_rng(3)
    for v in model.trainable_variables:
        values = rng.normal(size=v.shape).astype("float32") * 0.1
        if getattr(v, "row_sparse", False):
            values[rng.random(len(values)) < share] = 0
        v.assign(values)
    return schema, model


@pytest.mark.parametrize("name", ["DNN", pytest.param("DIN", marks=pytest.mark.slow), pytest.param("InterFormer", marks=pytest.mark.slow)])
def test_predictions_stay_bit_for_bit(name, tmp_path):
    schema, model = sparse_model(name)
    x, _ = random_rows(schema, 37)
    before = model.predict(x, verbose=0)
    pruned, report = prune_zero_rows(model)
    table = next(v for v in model.trainable_variables if v.path == "embedding/table")
    nonzero = int(keras.ops.convert_to_numpy(table).any(axis=1).sum())
    assert report["embedding/table"].kept == nonzero + 1 < report["embedding/table"].rows == table.shape[0]
    stored = next(v for v in pruned.variables if v.path == "embedding/table")
    assert stored.shape[0] == nonzero + 1 and not stored.trainable
    after = pruned.predict(x, verbose=0)
    pruned.save(tmp_path / "pruned.keras")
    loaded = keras.saving.load_model(tmp_path / "pruned.keras").predict(x, verbose=0)
    for label in before:
        np.testing.assert_array_equal(after[label], before[label])
        np.testing.assert_array_equal(loaded[label], before[label])


def test_a_dense_table_is_left_alone():
    schema, model = sparse_model("DNN", share=0.0)
    pruned, report = prune_zero_rows(model)
    assert report == {}
    assert {v.path for v in pruned.trainable_variables} == {v.path for v in model.trainable_variables}


@pytest.mark.slow
def test_after_training_with_a_group_lasso():
    schema, _ = full_schema(), None
    x, y = random_rows(schema, 64)
    model = keras_ctr.get_model("DNN", schema)
    model.compile(optimizers.dynint(l1=5e-3), "binary_crossentropy")
    model.fit(x, y, batch_size=16, epochs=2, verbose=0)
    pruned, report = prune_zero_rows(model)
    assert report["embedding/table"].kept < report["embedding/table"].rows
    np.testing.assert_array_equal(pruned.predict(x, verbose=0)["click"], model.predict(x, verbose=0)["click"])


def test_a_model_without_tables_says_so():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)], name="plain")
    with pytest.raises(ValueError, match="'plain' has no FeatureEmbedding"):
        prune_zero_rows(model)
