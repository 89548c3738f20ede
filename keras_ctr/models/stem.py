"""STEM: embeddings shared and of each task."""

import keras

from keras_ctr import layers
from keras_ctr.layers.cloning import clone_layer
from keras_ctr.models.ctr_model import CTRModel, build_inputs, predictions
from keras_ctr.models.tokens import flat_features
from keras_ctr.registry import register_model


@register_model(paper="https://arxiv.org/abs/2308.13537", multi_task=True)
def STEM(
    schema,
    *,
    embedding_dim=16,
    num_specific_experts=1,
    num_shared_experts=1,
    expert_units=(512, 256, 128),
    gate_units=(128, 64),
    tower_units=(128, 64),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="stem",
):
    """STEM-Net: every task has embedding tables of its own beside shared ones (Su et al., AAAI 2024).

    `logit_i = tower_i(f_i)`, f of `layers.STEMLayer` on `x_j = [vec(E_j) || numerics || mean-pooled sequences]`, E_j from the tables of
    task j = 1 .. L and the shared ones: every task reads all experts, and its loss trains its own tables and experts and the shared ones
    only. Parameters: tables (and what turns numerics into tokens) times L + 1, those of `layers.STEMLayer` on N0 inputs and of
    `layers.TaskTowers` on its output.

    The shared tables are in the layer `embedding`, those of the i-th label, from 0, in `embedding_task_<i>`. Defaults are the authors'
    code's.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        num_specific_experts: Experts of each task.
        num_shared_experts: Experts on the shared embeddings.
        expert_units: Widths of an expert's layers.
        gate_units: Widths of the gates' hidden layers; empty for linear gates.
        tower_units: Widths of a tower's hidden layers; empty for a linear tower.
        dropout: Share of hidden units dropped in training, in experts, gates and towers.
        batch_norm: Whether to normalise before each hidden activation.
        hidden_activation: Activation of the hidden layers.
        numeric: How numerics that are not binned enter: `"raw"`, the numbers as they are, or a `kind` of `layers.NumericTokens`:
            `"scale_embedding"` and `"bucketize"` make one D-wide token each, `"bottom_mlp"` and `"dense_projection"` one for all.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`, in all sets of tables.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range.
    """
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    flat = flat_features(features, schema, embedding_dim, numeric=numeric)  # (B, N0)

    def of_task(index):
        """Returns x_j of a task: what leads to the shared one, on tables and with weights of its own."""

        def clone(layer):
            return clone_layer(layer, name=f"{layer.name}_task_{index}")

        return keras.models.clone_model(keras.Model(inputs, flat), input_tensors=inputs, clone_function=clone).output

    tasks = range(len(schema.labels))
    options = {"activation": hidden_activation, "dropout": dropout, "batch_norm": batch_norm}
    experts = layers.STEMLayer(
        len(tasks), num_specific_experts, num_shared_experts, expert_units=expert_units, gate_units=gate_units, name="experts", **options
    )
    mixed = experts([*(of_task(i) for i in tasks), flat])  # (B, L, M)
    values = layers.TaskTowers(len(schema.labels), tower_units, name="logits", **options)(mixed)  # (B, L)
    return CTRModel(inputs, predictions(values, schema, activation), name=name)
