"""Every factory on real data: two labels of KuaiRand, without a line of special code."""

import keras
import numpy as np
import pytest

import keras_ctr
from keras_ctr.callbacks import RankingMetrics
from keras_ctr.data import make_dataset, prepare
from keras_ctr.datasets import kuairand

pytestmark = pytest.mark.slow

OPTIONS = {"labels": ("is_click", "long_view"), "max_length": 7}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    tables = {name: table.slice(0, 1500) for name, table in kuairand.load(**OPTIONS).items()}
    return prepare(tables, kuairand.schema(**OPTIONS), tmp_path_factory.mktemp("kuairand") / "data", num_shards=1)


@pytest.mark.parametrize("name", keras_ctr.list_models())
def test_two_labels_train(name, data):
    model = keras_ctr.get_model(name, data.schema)
    model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")
    metrics = RankingMetrics(make_dataset(data, "validation", batch_size=1024), base_rate=data.label_rate("train"))
    training = make_dataset(data, "train", batch_size=256, shuffle=True, seed=1)
    history = model.fit(training, epochs=2, callbacks=[metrics], shuffle=False, verbose=0).history
    assert history["loss"][1] < history["loss"][0]
    for label in OPTIONS["labels"]:
        assert np.isfinite(history[f"val_{label}_auc"]).all() and np.isfinite(history[f"val_{label}_gauc"]).all()
    assert history["val_auc"][-1] == pytest.approx(np.mean([history[f"val_{label}_auc"][-1] for label in OPTIONS["labels"]]))
