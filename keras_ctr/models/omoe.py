"""OMoE: shared experts, mixed by one gate for all tasks."""

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, predictions
from keras_ctr.models.tokens import flat_features
from keras_ctr.registry import register_model


@register_model(paper="https://dl.acm.org/doi/10.1145/3219819.3220007", multi_task=True)
def OMoE(
    schema,
    *,
    embedding_dim=16,
    num_experts=4,
    expert_units=(512, 256, 128),
    gate_units=(),
    tower_units=(128, 64),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="omoe",
):
    """One-gate mixture of experts: all tasks read one mixture of shared experts (the baseline of MMoE, Ma et al., KDD 2018).

    On x = `[vec(E) || numerics || mean-pooled sequences]`: `logit_i = tower_i(sum_k g_k(x) e_k(x))`, `g = softmax(W x)`: `MMoE` with one
    gate. Parameters beside the tables: those of `layers.MultiGateMixtureOfExperts` with `shared_gate` on N0 inputs and of
    `layers.TaskTowers` on its output. Defaults as in `MMoE`.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        num_experts: E. With 1 there is no gate and all tasks share one network, as in `SharedBottom`.
        expert_units: Widths of an expert's layers.
        gate_units: Widths of the gate's hidden layers; empty for the linear gate of the paper.
        tower_units: Widths of a tower's hidden layers; empty for a linear tower.
        dropout: Share of hidden units dropped in training, in experts, gate and towers.
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
    experts = layers.MultiGateMixtureOfExperts(
        len(schema.labels), num_experts, expert_units=expert_units, gate_units=gate_units, shared_gate=True, name="experts", **options
    )
    values = layers.TaskTowers(len(schema.labels), tower_units, name="logits", **options)(experts(flat))  # (B, L)
    return CTRModel(inputs, predictions(values, schema, activation), name=name)
