"""Worker of `benchmarks.peers` for DeepCTR (TensorFlow): its DCN on Keras 3, the step of `fit`.

DeepCTR feeds numbers to the network as they are. So that its model has the same 624 inputs, the 13 numbers are made tokens in front of it
and enter as one dense feature of width 208; all else is its own. Without any linear part its DCN does not run on Keras 3 (it adds a
`(1, 1)` zero to `(B, 1)`), so the field with the smallest table also enters linearly: a handful of weights more.
"""

from importlib.metadata import version

import keras
from deepctr.feature_column import DenseFeat, SparseFeat
from deepctr.models import DCN

from benchmarks.peer_workers import architectures, keras_models, keras_steps, synthetic
from benchmarks.peer_workers.protocol import Unavailable


def make_model(sizes):
    """Builds DeepCTR's DCN with the least linear part that runs and without its default penalties."""
    size, width = architectures.MODELS["DCN"], architectures.EMBEDDING_DIM
    numeric_width = architectures.NUM_NUMERIC * width
    columns = [SparseFeat(f"C{f + 1}", vocabulary_size=n, embedding_dim=width) for f, n in enumerate(sizes)]
    columns.append(DenseFeat("tokens", numeric_width))
    options = {"l2_reg_linear": 0, "l2_reg_embedding": 0, "l2_reg_cross": 0, "l2_reg_dnn": 0}
    smallest = columns[min(range(len(sizes)), key=sizes.__getitem__)]
    inner = DCN([smallest], columns, cross_num=size["cross_layers"], dnn_hidden_units=size["hidden_units"], **options)
    inputs = {f"C{f + 1}": keras.Input((1,), dtype="int32", name=f"C{f + 1}") for f in range(len(sizes))}
    numeric = inputs["numeric"] = keras.Input((architectures.NUM_NUMERIC,), name="numeric")
    tokens = keras.layers.Reshape((numeric_width,))(keras_models.ScaleEmbedding(width)(numeric))
    return keras.Model(inputs, inner([*(inputs[f"C{f + 1}"] for f in range(len(sizes))), tokens]))


def is_table(weight):
    """Whether a weight is an embedding table."""
    return weight.path.endswith("/embeddings")


def build(config):
    """Builds the model and its step, see `protocol.serve`."""
    if config["model"] != "DCN":
        raise Unavailable(f"the DeepCTR worker builds DCN only, not {config['model']}")
    keras_steps.start(config)
    sizes, data = synthetic.of_config(config)
    model = make_model(sizes)
    model.compile(keras.optimizers.Adam(architectures.LEARNING_RATE), "binary_crossentropy", jit_compile=False)
    return {
        "step": keras_steps.training_step(model, [(keras_steps.features(b, column=True), b["label"]) for b in data]),
        "parameters": keras_steps.parameters(model, is_table),
        "versions": {"deepctr": version("deepctr"), **keras_steps.versions()},
        "notes": ["keras.optimizers.Adam", "XLA off", "numbers made tokens in front of its model", "one small field enters linearly, too"],
    }
