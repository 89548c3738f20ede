"""Schema -> model -> fit -> exact metrics, on synthetic rows whose best possible AUC is known.

python examples/quickstart.py
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import keras_ctr
from keras_ctr import metrics
from keras_ctr.callbacks import RankingMetrics
from keras_ctr.data import synthetic
from keras_ctr.schema import META_GROUP


def main(num_rows=30_000, epochs=6):
    keras.utils.set_random_seed(1)
    # Click probabilities made of linear and pairwise effects and of the newest events of a history.
    rows = synthetic.make_synthetic(num_rows, seed=1, linear=0.5, pairwise=1.0, sequence=1.0, max_length=20)
    train, validation, test = rows.split((0.8, 0.1, 0.1))
    base_rate = float(train.labels["click"].mean())

    model = keras_ctr.models.InterFormer(rows.schema, num_layers=1)
    # A row of a table moves only when a batch holds it, so tables take a larger rate.
    model.compile(keras_ctr.optimizers.default(1e-3, table_learning_rate=1e-2), "binary_crossentropy")
    model.fit(
        train.features,  # keys that the model does not know, such as the user for gAUC, are ignored
        train.labels,
        batch_size=512,
        epochs=epochs,
        verbose=0,
        callbacks=[
            RankingMetrics((validation.features, validation.labels), base_rate=base_rate, verbose=1),
            keras.callbacks.EarlyStopping("val_auc", mode="max", patience=1, restore_best_weights=True),
        ],
    )
    predicted = model.predict(test.features, batch_size=4096, verbose=0)["click"]
    result = metrics.evaluate(test.labels["click"], predicted, groups=test.features[META_GROUP], base_rate=base_rate)
    print({name: round(value, 4) for name, value in result.items()})
    print(f"test AUC {result['auc']:.4f}; with the true probabilities it would be {test.best_auc():.4f}")
    return result["auc"], test.best_auc()


if __name__ == "__main__":
    main()
