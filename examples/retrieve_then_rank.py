"""Retrieval and ranking in one SavedModel: a user in, the best items and their click probabilities out.

python examples/retrieve_then_rank.py          (needs the extra `retrieval`)
"""

import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["TF_USE_LEGACY_KERAS"] = "1"  # tensorflow-recommenders is on Keras 2 and looks for it when TensorFlow is first imported

import tensorflow as tf
import tensorflow_recommenders as tfrs

del os.environ["TF_USE_LEGACY_KERAS"]  # `import keras` is Keras 3 all the same, and both live in one process

import keras
import numpy as np

import keras_ctr
from keras_ctr import Categorical, Numeric, Schema
from keras_ctr.serving import SavedModelRunner

USERS, ITEMS, KINDS = 201, 201, 7
FEATURES = [Categorical("user", USERS, dtype="int64"), Categorical("item", ITEMS, dtype="int64"), Numeric("price", transform="none")]


def tower(ids):
    return keras.Sequential([keras.Input((), dtype="int64"), keras.layers.Embedding(ids, 16), keras.layers.Dense(16)])


def main(folder=None, num_rows=20_000, epochs=5, k=20):
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(1)
    price = rng.normal(size=ITEMS).astype("float32")
    user, item = rng.integers(2, USERS, num_rows), rng.integers(2, ITEMS, num_rows)
    click = rng.random(num_rows) < 1 / (1 + np.exp(3 - 3 * (user % KINDS == item % KINDS) + price[item]))  # one's kind, if cheap
    # 1. Two towers learn from clicks which items are near a user: a softmax over the items of a batch.
    users, items, task, optimizer = tower(USERS), tower(ITEMS), tfrs.tasks.Retrieval(), keras.optimizers.Adam(0.01)
    optimizer.build(variables := [*users.trainable_variables, *items.trainable_variables])

    @tf.function
    def step(user, item):
        with tf.GradientTape() as tape:
            loss = task(users(user), items(item), compute_metrics=False)
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)

    for batch in tf.data.Dataset.from_tensor_slices((user[click], item[click])).shuffle(num_rows, seed=1).batch(256).repeat(4 * epochs):
        step(*batch)
    # 2. A ranker of this package learns from all impressions how likely a click is.
    ranker = keras_ctr.models.DCNv2(Schema(FEATURES, labels=["click"]), embedding_dim=8, num_cross_layers=2, hidden_units=(32,))
    ranker.compile(keras_ctr.optimizers.default(1e-3, table_learning_rate=1e-2), "binary_crossentropy")
    rows = {"user": user, "item": item, "price": price[item]}
    ranker.fit(rows, click[:, None].astype("float32"), batch_size=256, epochs=epochs, verbose=0)
    # 3. One graph: user tower -> the k nearest items -> ranker -> sorted by probability.
    ids, prices = tf.range(2, ITEMS, dtype=tf.int64), tf.constant(price)
    index = tfrs.layers.factorized_top_k.BruteForce(k=k).index(items(ids), ids)

    def recommend(user):
        _, found = index(users(user))  # (B, k)
        pairs = {"user": tf.repeat(user, k), "item": tf.reshape(found, [-1]), "price": tf.gather(prices, tf.reshape(found, [-1]))}
        best, order = tf.math.top_k(tf.reshape(ranker(pairs, training=False)["click"], [-1, k]), k)
        return {"item": tf.gather(found, order, batch_dims=1), "click": best}

    archive, path = keras.export.ExportArchive(), os.path.join(folder or tempfile.mkdtemp(), "1")
    for part in (users, ranker, index):
        archive.track(part)
    archive.add_endpoint("serving_default", recommend, input_signature=[tf.TensorSpec((None,), tf.int64, name="user")])
    archive.write_out(path, verbose=False)
    with SavedModelRunner(path) as served:  # TensorFlow's C loader, as TF Serving uses it
        found = served.run("serving_default", {"user": np.arange(2, 102)})
    kind = np.mean(found["item"] % KINDS == np.arange(2, 102)[:, None] % KINDS)
    print(f"{kind:.0%} of the {k} items found are of the user's kind, as are {1 / KINDS:.0%} of all items")
    first, last = price[found["item"][:, :5]].mean(), price[found["item"][:, -5:]].mean()
    print(f"mean price of the first five {first:.2f}, of the last five {last:.2f}")
    return found, recommend(tf.range(2, 102, dtype=tf.int64)), price


if __name__ == "__main__":
    main()
