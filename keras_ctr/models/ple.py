"""PLE: experts of one task beside experts of all, separated layer by layer."""

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, predictions
from keras_ctr.models.tokens import flat_features
from keras_ctr.registry import register_model


@register_model(paper="https://dl.acm.org/doi/10.1145/3383313.3412236", multi_task=True)
def PLE(
    schema,
    *,
    embedding_dim=16,
    num_layers=2,
    num_specific_experts=1,
    num_shared_experts=1,
    expert_units=(512, 256, 128),
    gate_units=(),
    tower_units=(128, 64),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="ple",
):
    """Progressive layered extraction: each task mixes experts of its own with shared ones, in several layers (Tang et al., RecSys 2020).

    On x = `[vec(E) || numerics || mean-pooled sequences]`: `X_1 = CGC_1(x)`, `X_l = CGC_l(X_{l-1})`, `logit_i = tower_i(X_i)`, see
    `layers.CustomizedGateControl`; with one layer the paper's CGC. The gate of the shared vector mixes all experts, as in the paper (public
    implementations mix the shared ones only). Parameters beside the tables: those of `layers.ProgressiveLayeredExtraction` on N0 inputs
    and of `layers.TaskTowers` on its output. The paper tunes the sizes; those of the public benchmarks here, on two layers.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        num_layers: Layers of customized gate control; 1 for CGC.
        num_specific_experts: Experts of each task in a layer. 0 leaves the gates as all that tasks have of their own.
        num_shared_experts: Experts of all tasks in a layer.
        expert_units: Widths of an expert's layers, alike in all layers; or a tuple of widths for each layer.
        gate_units: Widths of the gates' hidden layers; empty for the linear gate of the paper.
        tower_units: Widths of a tower's hidden layers; empty for a linear tower.
        dropout: Share of hidden units dropped in training, in experts, gates and towers.
        batch_norm: Whether to normalise before each hidden activation.
        hidden_activation: Activation of the hidden layers.
        numeric: How numerics that are not binned enter: `"raw"`, the numbers as they are, or a `kind` of `layers.NumericTokens`:
            `"scale_embedding"` and `"bucketize"` make one D-wide token each, `"bottom_mlp"` and `"dense_projection"` one for all.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`.
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
    options = {"activation": hidden_activation, "dropout": dropout, "batch_norm": batch_norm}
    extraction = layers.ProgressiveLayeredExtraction(
        len(schema.labels),
        num_layers,
        num_specific_experts=num_specific_experts,
        num_shared_experts=num_shared_experts,
        expert_units=expert_units,
        gate_units=gate_units,
        name="extraction",
        **options,
    )
    values = layers.TaskTowers(len(schema.labels), tower_units, name="logits", **options)(extraction(flat))  # (B, L)
    return CTRModel(inputs, predictions(values, schema, activation), name=name)
