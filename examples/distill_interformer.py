"""A large model teaches a small one: DCNv2 learns from the probabilities of InterFormer beside the clicks (`keras.distillation`).

python examples/distill_interformer.py
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import distillation

import keras_ctr
from keras_ctr import metrics
from keras_ctr.data import synthetic


def click_of(model):
    """The same model with one tensor as output: Keras 3.15's Distiller fails on a dict of losses."""
    return keras_ctr.models.CTRModel(model.input, model.output["click"])


def student_of(schema):
    return click_of(keras_ctr.models.DCNv2(schema, embedding_dim=8, num_cross_layers=1, hidden_units=(32,)))


def main(num_rows=20_000, epochs=8, seeds=(1, 2, 3)):
    rows = synthetic.make_synthetic(num_rows, seed=1, linear=1.0, sequence=1.5, max_length=10)
    parts = rows.split((0.8, 0.1, 0.1))
    x = [{name: part.features[name] for name in rows.schema.feature_names} for part in parts]
    y = [part.labels["click"] for part in parts]

    def fit(model, trained):
        """Trains until the validation loss rises; returns AUC and log loss on the test rows."""
        trained.compile(keras_ctr.optimizers.default(1e-3, table_learning_rate=1e-2), loss="binary_crossentropy")
        stop = keras.callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True)
        trained.fit(x[0], y[0], validation_data=(x[1], y[1]), batch_size=512, epochs=epochs, verbose=0, callbacks=[stop])
        p = model.predict(x[2], batch_size=4096, verbose=0)
        return metrics.auc(y[2], p), metrics.log_loss(y[2], p)

    found, sizes = {"teacher": [], "student alone": [], "distilled": []}, {}
    for seed in seeds:
        keras.utils.set_random_seed(seed)
        teacher = click_of(keras_ctr.models.InterFormer(rows.schema, num_layers=1, embedding_dim=8))
        found["teacher"].append(fit(teacher, teacher))

        keras.utils.set_random_seed(seed)
        alone = student_of(rows.schema)
        found["student alone"].append(fit(alone, alone))

        keras.utils.set_random_seed(seed)  # the same start as the student alone
        student = student_of(rows.schema)
        # Cross-entropy against the teacher's probability: a click says 0 or 1, the teacher says how likely it was. Keras'
        # LogitsDistillation takes a softmax over the last axis, which is constant for the one logit of a label.
        soft = distillation.FeatureDistillation(loss=keras.losses.BinaryCrossentropy())
        found["distilled"].append(fit(student, distillation.Distiller(teacher, student, soft, student_loss_weight=0.3)))
        sizes = {"teacher": teacher.count_params(), "student alone": alone.count_params(), "distilled": student.count_params()}

    for name, values in found.items():
        (auc, loss), spread = np.mean(values, axis=0), np.std([auc for auc, _ in values])
        print(f"{name:<14} test AUC {auc:.4f} ± {spread:.4f}  log loss {loss:.4f}  {sizes[name]:>7,} parameters")
    print(f"with the true probabilities the AUC would be {parts[2].best_auc():.4f}; {len(seeds)} seeds")
    return {name: [auc for auc, _ in values] for name, values in found.items()}


if __name__ == "__main__":
    main()
