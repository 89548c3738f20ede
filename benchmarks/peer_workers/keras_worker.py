"""Worker of `benchmarks.peers` for plain Keras 3: one `keras.layers.Embedding` a field, Keras' Adam, the step of `fit`."""

import keras

from benchmarks.peer_workers import architectures, keras_models, keras_steps, synthetic

WITH_LINEAR_TERM = ("DeepFM", "xDeepFM")


def make_model(name, sizes):
    """Builds a model of the benchmark from `keras.layers` and the layers of `keras_models`."""
    size, width = architectures.MODELS[name], architectures.EMBEDDING_DIM
    inputs = {f"C{f + 1}": keras.Input((), dtype="int32", name=f"C{f + 1}") for f in range(len(sizes))}
    tables = [keras.layers.Embedding(rows, width, name=f"embedding_C{f + 1}") for f, rows in enumerate(sizes)]
    rows = [table(x) for table, x in zip(tables, inputs.values(), strict=True)]
    if name == "DIN":
        inputs["history"] = keras.Input((architectures.HISTORY_LENGTH,), dtype="int32", name="history")
        events = tables[architectures.HISTORY_FIELD](inputs["history"])
        attention = keras_models.TargetAttention(size["attention_units"])
        rows.append(attention(rows[architectures.HISTORY_FIELD], events, keras_models.Valid()(inputs["history"])))
        deep = keras_models.dense_tower(keras.layers.Concatenate()(rows), size["hidden_units"], "dice")
        logit = keras.layers.Dense(1)(deep)
    else:
        ids = list(inputs.values())
        numeric = inputs["numeric"] = keras.Input((architectures.NUM_NUMERIC,), name="numeric")
        stacked = keras.layers.Concatenate(axis=1)([keras.layers.Reshape((1, width))(row) for row in rows])
        tokens = keras.layers.Concatenate(axis=1)([stacked, keras_models.ScaleEmbedding(width)(numeric)])
        linear = None
        if name in WITH_LINEAR_TERM:
            weights = [keras.layers.Embedding(n, 1, name=f"linear_C{f + 1}")(x) for f, (n, x) in enumerate(zip(sizes, ids, strict=True))]
            linear = keras.layers.Add()([*weights, keras.layers.Dense(1)(numeric)])
        logit = keras_models.logit(name, size, tokens, linear)
    return keras.Model(inputs, keras.layers.Activation("sigmoid", dtype="float32", name="click")(logit))


def is_table(weight):
    """Whether a weight is an embedding table."""
    return weight.path.endswith("/embeddings")


def build(config):
    """Builds the model and its step, see `protocol.serve`."""
    keras_steps.start(config)
    sizes, data = synthetic.of_config(config)
    model = make_model(config["model"], sizes)
    # XLA, which `compile` takes by itself for such a model, makes the update of the tables slower on a CPU.
    model.compile(keras.optimizers.Adam(architectures.LEARNING_RATE), "binary_crossentropy", jit_compile=False)
    return {
        "step": keras_steps.training_step(model, [(keras_steps.features(b), b["label"]) for b in data]),
        "parameters": keras_steps.parameters(model, is_table),
        "versions": keras_steps.versions(),
        "notes": ["keras.optimizers.Adam", "XLA off"],
    }
