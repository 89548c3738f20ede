"""Worker of `benchmarks.peers` for keras-rs: `DistributedEmbedding` placed on the CPU, Keras' Adam, the step of `fit`.

keras-rs has the full-matrix cross layer only (`FeatureCross`), so the vector crosses of DCN are the plain Keras ones.
"""

import keras
import keras_rs

from benchmarks.peer_workers import architectures, keras_models, keras_steps, synthetic
from benchmarks.peer_workers.protocol import Unavailable


def make_model(sizes, batch_size):
    """Builds DCN on a `DistributedEmbedding` of one table a field."""
    size, width = architectures.MODELS["DCN"], architectures.EMBEDDING_DIM
    names = [f"C{f + 1}" for f in range(len(sizes))]
    features = {}
    for name, rows in zip(names, sizes, strict=True):
        table = keras_rs.layers.TableConfig(
            name=name, vocabulary_size=rows, embedding_dim=width, combiner="sum", placement="default_device"
        )
        features[name] = keras_rs.layers.FeatureConfig(
            name=name, table=table, input_shape=(batch_size, 1), output_shape=(batch_size, width)
        )
    inputs = {name: keras.Input((1,), dtype="int32", name=name, batch_size=batch_size) for name in names}
    rows = keras_rs.layers.DistributedEmbedding(features, name="distributed_embedding")(dict(inputs))
    numeric = inputs["numeric"] = keras.Input((architectures.NUM_NUMERIC,), name="numeric", batch_size=batch_size)
    stacked = keras.layers.Concatenate(axis=1)([keras.layers.Reshape((1, width))(rows[name]) for name in names])
    tokens = keras.layers.Concatenate(axis=1)([stacked, keras_models.ScaleEmbedding(width)(numeric)])
    return keras.Model(inputs, keras.layers.Activation("sigmoid")(keras_models.logit("DCN", size, tokens)))


def is_table(weight):
    """Whether a weight is an embedding table."""
    return "distributed_embedding" in weight.path or weight.path.endswith("/embeddings")


def build(config):
    """Builds the model and its step, see `protocol.serve`."""
    if config["model"] != "DCN":
        raise Unavailable(f"the keras-rs worker builds DCN only, not {config['model']}")
    keras_steps.start(config)
    sizes, data = synthetic.of_config(config)
    model = make_model(sizes, config["batch_size"])
    model.compile(keras.optimizers.Adam(architectures.LEARNING_RATE), "binary_crossentropy", jit_compile=False)
    return {
        "step": keras_steps.training_step(model, [(keras_steps.features(b, column=True), b["label"]) for b in data]),
        "parameters": keras_steps.parameters(model, is_table),
        "versions": keras_steps.versions(keras_rs),
        "notes": ["keras.optimizers.Adam", "XLA off", "placement default_device"],
    }
