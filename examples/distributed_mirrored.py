"""One model on all GPUs of a machine, with row-sparse optimizers. Without a GPU the processor plays two devices.

python examples/distributed_mirrored.py
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import keras_ctr
from keras_ctr import distribution, metrics
from keras_ctr.data import synthetic


def main(num_rows=10_001, epochs=3, batch_size=256):
    if not tf.config.list_physical_devices("GPU"):
        distribution.logical_cpus(2)  # before anything else that uses TensorFlow
    strategy = distribution.mirrored()
    keras.utils.set_random_seed(1)
    rows = synthetic.make_synthetic(num_rows, seed=1, linear=1.0, pairwise=0.5, max_length=5)
    train, test = rows.split((0.9, 0.1))

    # A batch is the whole of what a step sees; every replica gets an equal part of it.
    dataset = tf.data.Dataset.from_tensor_slices((train.features, train.labels)).shuffle(num_rows, seed=1).batch(batch_size)
    dataset = distribution.equal_batches(dataset, strategy)

    # Variables, and the optimizer's slots, are copied to every device: they must be made in the scope.
    with strategy.scope():
        model = keras_ctr.models.DCNv2(rows.schema, hidden_units=(32,), num_cross_layers=2)
        model.compile(keras_ctr.optimizers.default(1e-3, table_learning_rate=1e-2), "binary_crossentropy")
    model.fit(dataset, epochs=epochs, shuffle=False, verbose=0)

    # Replicas do not drift apart: each has applied the same summed gradients.
    table = next(v for v in model.trainable_variables if v.path.startswith("embedding/"))
    copies = [copy.numpy() for copy in strategy.experimental_local_results(table.value)]
    apart = max(float(np.abs(copies[0] - copy).max()) for copy in copies)

    predicted = model.predict(test.features, batch_size=1000, verbose=0)["click"]
    auc = metrics.evaluate(test.labels["click"], predicted)["auc"]
    print(f"{len(copies)} replicas, copies of the table differ by {apart}")
    print(f"test AUC {auc:.4f}; with the true probabilities it would be {test.best_auc():.4f}")
    return {"replicas": len(copies), "apart": apart, "auc": auc, "best": test.best_auc()}


if __name__ == "__main__":
    main()
