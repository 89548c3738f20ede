"""xDeepInt: polynomial interaction network without a deep part."""

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, predictions
from keras_ctr.models.tokens import field_tokens
from keras_ctr.registry import register_model


@register_model(paper="https://arxiv.org/abs/2301.01089")
def XDeepInt(
    schema,
    *,
    embedding_dim=16,
    num_layers=3,
    num_subspaces=4,
    numeric="scale_embedding",
    embedding_l2=0.0,
    activation="sigmoid",
    name="x_deep_int",
):
    """xDeepInt: polynomial vector-wise and bit-wise interactions, no MLP (Yan and Li 2020).

    On the tokens X_0 `(F, D)` crossed into h subspaces, `X_l = X_{l-1} * (W_{l-1} X_0) + X_{l-1}`;
    `logit = sum_d (w . X_L[:, d] + b)`. Parameters beside the tables: `L (hF)^2 + F + 1` for one label.

    The authors searched 1 to 4 layers and 1, 2, 4, 8 and 16 subspaces at D = 16. Three layers are "generally a good choice" in their
    words (DynInt, section 4.4.2); of the subspaces, 16 were best on Criteo, 4 on Avazu and iPinYou.

    Args:
        schema: The fitted `Schema`. The authors bin all numeric features (`Numeric(transform="log_square")`).
        embedding_dim: D, the width of an embedding.
        num_layers: L; crosses of up to L + 1 features.
        num_subspaces: h, a divisor of D; 1 = vector-wise only, D = fully bit-wise.
        numeric: How numerics that are not binned become tokens, `kind` of `layers.NumericTokens`.
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
    tokens = field_tokens(features, schema, embedding_dim, numeric=numeric)  # (B, F, D)
    crossed = layers.PolynomialInteraction(num_layers, num_subspaces=num_subspaces, name="interaction")(tokens)  # (B, F, D)
    values = layers.FeatureMapLogits(len(schema.labels), dtype="float32", name="logits")(crossed)  # (B, L)
    return CTRModel(inputs, predictions(values, schema, activation), name=name)
