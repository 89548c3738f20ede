"""Wide & Deep: a linear model with crosses beside a deep network."""

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.fm import linear_logits, sum_logits
from keras_ctr.models.tokens import flat_features
from keras_ctr.registry import register_model
from keras_ctr.schema import nearest


@register_model(paper="https://arxiv.org/abs/1606.07792")
def WideDeep(
    schema,
    *,
    embedding_dim=16,
    wide_crosses=(),
    cross_buckets=1 << 17,
    hidden_units=(1024, 512, 256),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="raw",
    history_weights="shared",
    embedding_l2=0.0,
    activation="sigmoid",
    name="wide_deep",
):
    """Wide & Deep: a linear part that memorises beside an MLP that generalises, trained jointly (Cheng et al., DLRS 2016).

    `logit = linear(x) + sum_c w_c[cross_c(x)] + MLP([vec(E) || numerics || mean-pooled sequences])`. Crosses are hashed
    (`layers.HashedCrosses`); which ones help is for the user to say, so there are none by default. Parameters beside the tables: those of
    `layers.LinearLogit`, `cross_buckets` a cross and label, and those of the MLP on N0 = F D + N + M D inputs.

    The paper trains the wide part with FTRL and L1 and the deep part with AdaGrad: `optimizers.wide_deep()`.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        wide_crosses: Crosses of the wide part: tuples of two or more fields (categorical features or binned numerics), such as
            `[("user_city", "item_category")]`.
        cross_buckets: Buckets, that is weights, of each cross.
        hidden_units: Widths of the MLP's hidden layers.
        dropout: Share of hidden units dropped in training.
        batch_norm: Whether to normalise before each hidden activation.
        hidden_activation: Activation of the hidden layers.
        numeric: How numerics that are not binned enter the MLP: `"raw"`, the numbers as they are, or a `kind` of `layers.NumericTokens`:
            `"scale_embedding"` and `"bucketize"` make one D-wide token each, `"bottom_mlp"` and `"dense_projection"` one for all. The
            linear part takes them as they are.
        history_weights: `"shared"`: in the linear part a history reads the weights of the table that it names. `"own"`: it has weights of
            its own, as in the public benchmarks.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`; not on the wide part.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range, or a cross of a feature that is no field of the schema, naming it.
    """
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    parts = [linear_logits(inputs, schema, history_weights)]  # (B, L) each
    if wide_crosses:
        crosses = layers.HashedCrosses(wide_crosses, cross_buckets, len(schema.labels), dtype="float32", name="wide")
        _check_fields(crosses.crosses, schema)
        parts.append(crosses({field: inputs[field] for cross in crosses.crosses for field in cross}))
    flat = flat_features(features, schema, embedding_dim, numeric=numeric)  # (B, N0)
    deep = layers.MLP(hidden_units, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm, name="mlp")(flat)  # (B, U)
    parts.append(logits(deep, schema, name="deep_logits"))
    return CTRModel(inputs, predictions(sum_logits(parts), schema, activation), name=name)


def _check_fields(crosses, schema):
    """Raises `ValueError` naming every crossed feature that is not one id a row."""
    fields = [feature.name for feature in schema.fields]
    wrong = sorted({name for cross in crosses for name in cross if name not in fields}, key=str)
    if wrong:
        kinds = [f"'{name}' ({schema[name].kind if name in schema else 'unknown'}){nearest(name, fields)}" for name in wrong]
        raise ValueError(
            f"WideDeep: wide_crosses names {', '.join(kinds)}; only categorical features and binned numerics can be crossed: "
            f"{', '.join(fields)}"
        )
