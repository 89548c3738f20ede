"""APG: a deep model whose layers generate a part of their parameters for each row."""

import copy

import keras

from keras_ctr import layers
from keras_ctr.layers.mlp import BATCH_NORM_MOMENTUM
from keras_ctr.models.conditions import check_tower, condition_names, condition_tokens, condition_vector
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import flat_features
from keras_ctr.registry import register_model
from keras_ctr.schema import nearest

CONDITIONS = ("group", "mix", "self")


@register_model(paper="https://arxiv.org/abs/2203.16218")
def APG(
    schema,
    *,
    embedding_dim=16,
    condition="group",
    condition_features=None,
    rank=8,
    over_rank=None,
    bias="static",
    identity=True,
    gate_units=(),
    hidden_units=(512, 256, 128),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="apg",
):
    """Adaptive parameter generation: hidden layers with a core matrix made for the row (Yan et al., NeurIPS 2022).

    On x = `[vec(E) || numerics || mean-pooled sequences]`: `h_l = f(((h_{l-1} U_l) S_l(z)) V_l + b_l)`, h_0 = x, `logit = w . h_L + b`,
    U_l (N, K), V_l (K, u), `S_l(z) = I + reshape(MLP_l(z))` (K, K). The condition z is group-wise, the embeddings of chosen fields side
    by side; mix-wise, the mean of the embeddings of several factors; or self-wise, the layer's own input. The matrix of a row is never
    built. Parameters of a layer: `N K + K u + u`, and those of the MLP `z -> gate_units -> K^2`.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        condition: `"group"`, `"mix"` or `"self"`.
        condition_features: Names of the fields behind z. None: for group the schema's `group` if it is a categorical field, else the first
            categorical field; for mix all categorical fields. Not for self.
        rank: K, ours; much smaller than the layers.
        over_rank: Inner width of the over-parameterised U and V, at least K, or None; `fold_over_parameterization` removes it.
        bias: `"static"`, `"adaptive"` (made from z as well) or `"none"`.
        identity: Whether I stands in S, see `layers.AdaptiveDense`.
        gate_units: Widths of the hidden layers that make S; ours.
        hidden_units: Widths of the hidden layers; as in `DNN` here.
        dropout: Share of hidden units dropped in training.
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
        ValueError: On an argument out of range, a name that is not a field's, or `condition_features` for self.
    """
    check_tower("APG", hidden_units)
    if condition not in CONDITIONS:
        raise ValueError(f"APG: condition must be one of {CONDITIONS}, got {condition!r}{nearest(condition, CONDITIONS)}")
    if condition == "self" and condition_features is not None:
        raise ValueError("APG: condition_features has no meaning with condition='self'; leave it out or choose 'group' or 'mix'")
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    x = flat_features(features, schema, embedding_dim, numeric=numeric)  # (B, N0)
    z = []
    if condition == "group":
        names = condition_names(schema, condition_features, model="APG")
        z = [condition_vector(features, schema, names)]  # (B, K*D)
    elif condition == "mix":
        names = condition_names(schema, condition_features, model="APG", default="all")
        tokens = condition_tokens(features, schema, names, name="condition_tokens")  # (B, K, D)
        z = [keras.layers.GlobalAveragePooling1D(name="condition")(tokens)]  # (B, D)
    for index, units in enumerate(hidden_units):
        dense = layers.AdaptiveDense(
            units, rank=rank, over_rank=over_rank, bias=bias, identity=identity, hidden_units=gate_units, name=f"dense_{index}"
        )
        x = dense(x, *z)  # (B, u)
        if batch_norm:
            x = keras.layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, name=f"batch_norm_{index}")(x)
        x = keras.layers.Activation(hidden_activation, name=f"activation_{index}")(x)
        if dropout:
            x = keras.layers.Dropout(dropout, name=f"dropout_{index}")(x)
    return CTRModel(inputs, predictions(logits(x, schema), schema, activation), name=name)


def fold_over_parameterization(model):
    """Returns a copy of a model whose over-parameterised `layers.AdaptiveDense` layers are multiplied out: same outputs, less to compute.

    For serving: the copy is not compiled, and training it on would be another training.

    Args:
        model: A `CTRModel`, as `APG(over_rank=...)` makes it.

    Raises:
        ValueError: If the model has no over-parameterised layer.
    """
    over = {layer.name for layer in model.layers if isinstance(layer, layers.AdaptiveDense) and layer.over_rank is not None}
    if not over:
        raise ValueError(f"model '{model.name}' has no over-parameterised AdaptiveDense layer, so there is nothing to fold")
    config = copy.deepcopy(model.get_config())
    for item in config["layers"]:
        if item["config"]["name"] in over:
            item["config"]["over_rank"] = None
    folded = type(model).from_config(config)
    for layer in model.layers:
        folded.get_layer(layer.name).set_weights(layer.folded_weights() if layer.name in over else layer.get_weights())
    return folded
