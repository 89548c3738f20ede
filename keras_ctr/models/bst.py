"""BST: behavior sequence transformer."""

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import flat_parts, with_interests
from keras_ctr.registry import register_model


@register_model(paper="https://arxiv.org/abs/1905.06874", sequential=True)
def BST(
    schema,
    *,
    embedding_dim=16,
    num_layers=1,
    num_heads=8,
    positions="learned",
    num_positions=101,
    pooling="flatten_newest",
    num_recent=20,
    ffn_units=None,
    layer_norm=True,
    layer_norm_epsilon=0.1,
    residual=True,
    transformer_activation="leaky_relu",
    hidden_units=(1024, 512, 256),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="leaky_relu",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="bst",
):
    """Behavior Sequence Transformer: the events and the candidate attend to each other (Chen et al., DLP-KDD 2019).

    `logit = MLP([vec(E) || numerics || u_1 || ...])`, for every group of sequences u, the pooled output of a transformer over its events
    and its target (see `layers.BehaviorTransformer`). A group none of whose sequences names a target is mean-pooled; a schema without
    sequences makes this the plain deep model.

    The paper's position of an event is the embedding of its time gap to the candidate: where the schema has one, a sequence of gaps is an
    attribute of its group and already part of every event; `positions=None` then leaves the paper's form. `positions` count events instead,
    as the public codes do.

    The totals of the public benchmark (BARS, AmazonElectronics_x1: 5,301,057) need `embedding_dim=64, pooling="target", layer_norm=False,
    batch_norm=True`: 101 positions of 64, one block of width 192, and an MLP on the candidate's output and the two fields.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding and of a position.
        num_layers: Transformer blocks.
        num_heads: Heads of the attention; divides the width of an event, `(attributes + 1) D`, or `attributes D` without positions.
        positions: `"learned"`, `"sinusoid"` (learned from sinusoids) or None, see `layers.BehaviorTransformer`.
        num_positions: Rows of the table of positions; events further back share the last.
        pooling: `"flatten_newest"` (the paper's, for the newest `num_recent`), `"target"`, `"mean"` or `"sum"`.
        num_recent: Events whose outputs `"flatten_newest"` passes on; 20 is the paper's length of a history.
        ffn_units: Hidden width of a block's feed-forward network; None = the width of an event.
        layer_norm: Whether to normalise after each sum of a block.
        layer_norm_epsilon: Added to a step's variance where it is normalised. Embeddings start with a variance of 1e-4, so the default
            leaves rows that have hardly been trained small; 1e-6 would make them as large as the others (docs/deviations.md).
        residual: Whether blocks add their input.
        transformer_activation: Activation of the feed-forward networks' hidden layers; Keras' `"leaky_relu"` has the slope 0.2, the
            paper states none.
        hidden_units: Widths of the MLP's hidden layers.
        dropout: Share of the blocks' outputs and of the MLP's hidden units dropped in training; the paper has 0.2.
        batch_norm: Whether the MLP normalises before each hidden activation.
        hidden_activation: Activation of the MLP's hidden layers.
        numeric: How numerics that are not binned enter: `"raw"`, the numbers as they are, or a `kind` of `layers.NumericTokens`:
            `"scale_embedding"` and `"bucketize"` make one D-wide token each, `"bottom_mlp"` and `"dense_projection"` one for all.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range, or heads that do not divide the width of an event.
    """
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)

    def interest(group):
        transformer = layers.BehaviorTransformer(
            num_layers,
            num_heads=num_heads,
            positions=positions,
            num_positions=num_positions,
            position_dim=embedding_dim,
            pooling=pooling,
            num_recent=num_recent,
            ffn_units=ffn_units,
            layer_norm=layer_norm,
            residual=residual,
            activation=transformer_activation,
            dropout=dropout,
            epsilon=layer_norm_epsilon,
            name=f"transformer_{group}",
        )
        return [transformer(features["targets"][group], features["sequences"][group], mask=features["masks"][group])]  # (B, m')

    flat = with_interests(flat_parts(features, schema, embedding_dim, numeric), features, schema, interest)  # (B, N0)
    mlp = layers.MLP(hidden_units, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm, name="mlp")
    return CTRModel(inputs, predictions(logits(mlp(flat), schema), schema, activation), name=name)
