"""ETA: end-to-end target attention over a hashed history."""

from keras_ctr import layers
from keras_ctr.models.sim import search_model, searched
from keras_ctr.registry import register_model


@register_model(paper="https://arxiv.org/abs/2108.04468", sequential=True)
def ETA(
    schema,
    *,
    embedding_dim=16,
    num_selected=50,
    num_hashes=32,
    seed=1,
    num_heads=2,
    num_recent=10,
    attention_units=(80, 40),
    attention_activation="dice",
    hidden_units=(200, 80),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="dice",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="eta",
):
    """End-to-end Target Attention: the K events with the hash nearest to the candidate's, then attention (Chen et al., 2021).

    `SIM` with another search (`layers.LSHSearch`): embeddings are hashed by random planes as they are in that step, so the search follows
    them in training without an index of its own. Otherwise `logit = MLP([vec(E) || numerics || u_1 || v_1 || ...])` as in `SIM`, and a
    schema without sequences makes this the plain deep model.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        num_selected: K; the paper searches among a thousand events and more.
        num_hashes: Bits of a hash.
        seed: Of the random planes.
        num_heads: Heads of the attention to the events found; divides the width of an event.
        num_recent: Newest events of the short history; 0 = no short history.
        attention_units: Widths of the hidden layers that score an event of the short history.
        attention_activation: `"dice"` or the name of a Keras activation.
        hidden_units: Widths of the MLP's hidden layers.
        dropout: Share of hidden units dropped in training.
        batch_norm: Whether to normalise before each hidden activation.
        hidden_activation: `"dice"` or the name of a Keras activation.
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

    def found(inputs, features, group):
        query, keys = searched(features, schema, group)
        search = layers.LSHSearch(num_selected, num_hashes=num_hashes, seed=seed, name=f"search_{group}")
        return search(query, keys, features["sequences"][group], mask=features["masks"][group])

    return search_model(
        "ETA",
        schema,
        found,
        embedding_dim=embedding_dim,
        num_heads=num_heads,
        num_recent=num_recent,
        attention_units=attention_units,
        attention_activation=attention_activation,
        hidden_units=hidden_units,
        dropout=dropout,
        batch_norm=batch_norm,
        hidden_activation=hidden_activation,
        numeric=numeric,
        embedding_l2=embedding_l2,
        activation=activation,
        name=name,
    )
