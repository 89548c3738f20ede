"""Any CSV of click logs: infer the schema, build histories, train, export. Here the CSV is made up on the spot.

python examples/own_data_csv.py
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_ctr
from keras_ctr.callbacks import RankingMetrics
from keras_ctr.data import make_dataset, prepare_file
from keras_ctr.serving import SavedModelRunner, export_model


def write_log(path, num_rows=6_000):
    """Users click on items of the kinds they like."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 300, num_rows), rng.integers(0, 200, num_rows)
    price = np.round(rng.lognormal(2.0, 1.0, num_rows), 2)
    likes = (user % 7 == item % 7).astype(int)
    click = rng.random(num_rows) < 0.1 + 0.6 * likes - 0.05 * (price > 20)
    columns = [1_700_000_000 + np.arange(num_rows) * 60, user, item, rng.choice(["app", "web"], num_rows), price, click.astype(int)]
    with open(path, "w", encoding="utf-8") as file:
        file.write("time,user_id,item_id,device,price,click\n")
        file.writelines(",".join(map(str, row)) + "\n" for row in zip(*columns, strict=True))


def main(folder=None, epochs=3):
    folder = Path(folder or tempfile.mkdtemp())
    keras.utils.set_random_seed(1)
    write_log(folder / "log.csv")
    # The command line does the same: keras-ctr prepare --csv log.csv --label click --user user_id --item item_id --time time --out data
    data = prepare_file(folder / "log.csv", folder / "data", label="click", user="user_id", item="item_id", time="time")
    print(f"{data.num_rows('train')} training rows, features: {', '.join(data.schema.feature_names)}")

    model = keras_ctr.models.DIN(data.schema)
    model.compile(keras_ctr.optimizers.default(1e-3), "binary_crossentropy")
    validation = make_dataset(data, "validation", batch_size=1024)
    model.fit(
        make_dataset(data, "train", batch_size=256, shuffle=True, seed=1),
        epochs=epochs,
        shuffle=False,  # the dataset shuffles
        verbose=0,
        callbacks=[RankingMetrics(validation, base_rate=data.label_rate("train")["click"], verbose=1)],
    )

    path = export_model(model, data.schema, data.vocabularies, folder / "served" / "1", overwrite=True)
    request = {
        "user_id": np.array([3, 3]),
        "item_id": np.array([10, 11]),
        "device": ["app", "app"],
        "price": np.array([5.0, 5.0], "float32"),
        **{name: np.array([[17, 24], [17, 24]]) for name in data.schema.feature_names if data.schema.encoded_shape(name)},
    }
    with SavedModelRunner(path) as served:  # TensorFlow's C API, as TF Serving uses it
        scores = served.run("serving_default", request)["click"][:, 0]
    print(f"user 3, items 10 (10 % 7 == 3 % 7) and 11: {scores.round(3)}")
    return scores


if __name__ == "__main__":
    main()
