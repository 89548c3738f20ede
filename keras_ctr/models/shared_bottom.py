"""Shared bottom: one network for all tasks below a tower for each."""

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, predictions
from keras_ctr.models.tokens import flat_features
from keras_ctr.registry import register_model


@register_model(paper="https://doi.org/10.1023/A:1007379606734", multi_task=True)
def SharedBottom(
    schema,
    *,
    embedding_dim=16,
    hidden_units=(512, 256, 128),
    tower_units=(128, 64),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="shared_bottom",
):
    """Shared bottom: all tasks share a deep network, each has a tower on it (Caruana, Machine Learning 1997).

    `logit_i = tower_i(MLP(x))` on x = `[vec(E) || numerics || mean-pooled sequences]`, the multi-task model that MMoE and its successors
    are compared with. Parameters beside the tables: `mlp(N0, hidden_units)` and those of `layers.TaskTowers` on its output. Widths are
    those that the public benchmarks give the experts and towers of MMoE; the paper has one hidden layer, whose width depends on the data.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        hidden_units: Widths of the shared network's layers.
        tower_units: Widths of a tower's hidden layers; empty for a linear tower.
        dropout: Share of hidden units dropped in training, in network and towers.
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
    bottom = layers.MLP(hidden_units, name="mlp", **options)(flat)  # (B, M)
    values = layers.TaskTowers(len(schema.labels), tower_units, name="logits", **options)(bottom)  # (B, L)
    return CTRModel(inputs, predictions(values, schema, activation), name=name)
