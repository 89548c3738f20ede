"""InterFormer on KuaiRand (the extract that ships with the package): prepare, train, evaluate on the test split.

python examples/interformer_kuairand.py [FOLDER_WITH_THE_FULL_FILES]
"""

import os
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import keras_ctr
from keras_ctr.callbacks import RankingMetrics
from keras_ctr.data import make_dataset, prepare
from keras_ctr.datasets import kuairand


def main(raw_dir=None, out=None, epochs=4, max_length=20, **arguments):
    keras.utils.set_random_seed(1)
    options = {"labels": ("is_click",), "max_length": max_length}
    tables = kuairand.load(raw_dir, **options)
    data = prepare(tables, kuairand.schema(**options), out or f"{tempfile.mkdtemp()}/kuairand")
    base_rate = data.label_rate("train")["is_click"]
    print({split: data.num_rows(split) for split in data.splits}, f"click rate {base_rate:.3f}")

    model = keras_ctr.models.InterFormer(data.schema, **{"dropout": 0.1, **arguments})
    model.compile(keras_ctr.optimizers.default(1e-3), "binary_crossentropy")
    model.fit(
        make_dataset(data, "train", batch_size=512, shuffle=True, seed=1, cache=True),
        epochs=epochs,
        shuffle=False,  # the dataset shuffles
        verbose=0,
        callbacks=[
            # First in the list: the others see its values.
            RankingMetrics(make_dataset(data, "validation", batch_size=4096), base_rate=base_rate, verbose=1),
            keras.callbacks.EarlyStopping("val_auc", mode="max", patience=1, restore_best_weights=True),
        ],
    )
    test = RankingMetrics(make_dataset(data, "test", batch_size=4096), base_rate=base_rate)
    test.set_model(model)
    logs = {}
    test.on_epoch_end(0, logs)
    print("test:", {name.removeprefix("val_"): round(value, 4) for name, value in logs.items()})
    return logs


if __name__ == "__main__":
    main(*sys.argv[1:2])
