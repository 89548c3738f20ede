"""PNN: products of field embeddings as inputs of an MLP."""

import keras

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import field_tokens
from keras_ctr.registry import register_model
from keras_ctr.schema import nearest

PRODUCTS = ("inner", "outer", "both", "kernel")


@register_model(paper="https://arxiv.org/abs/1611.00144")
def PNN(
    schema,
    *,
    embedding_dim=16,
    product="both",
    kernel_kind="matrix",
    hidden_units=(512, 256),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="scale_embedding",
    embedding_l2=0.0,
    activation="sigmoid",
    name="pnn",
):
    """PNN: an MLP on embeddings and on products of pairs of them (Qu et al., ICDM 2016).

    `logit = MLP([vec(E) || p])` over the tokens E: fields, numerics, mean-pooled sequences. The MLP's first layer is the paper's
    `relu(W_z z + W_p p + b)`. With P = F(F-1)/2 pairs p is

    - `"inner"` (IPNN): the P dot products <e_i, e_j>;
    - `"outer"` (OPNN): the D^2 elements of `(sum_f e_f)^T (sum_f e_f)`, all pairs in one sum;
    - `"both"` (the paper's PNN*, the default: it contains the other two and is what later papers compare with): P + D^2 values;
    - `"kernel"` (KPNN): the P values <e_i K_ij, e_j>, K learned: the outer products with pairs kept apart.

    Parameters beside the tables: those of the MLP on F D inputs and those of p; `"kernel"` has `P D^2`, `P D` or `P` more by `kernel_kind`.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        product: `"inner"`, `"outer"`, `"both"` or `"kernel"`.
        kernel_kind: Kind of K_ij: `"matrix"`, `"vector"` or `"scalar"`, see `layers.KernelProduct`; without effect on other products.
        hidden_units: Widths of the MLP's hidden layers.
        dropout: Share of hidden units dropped in training.
        batch_norm: Whether to normalise before each hidden activation.
        hidden_activation: Activation of the hidden layers.
        numeric: How numerics that are not binned become tokens, `kind` of `layers.NumericTokens`.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range, or a schema of a single feature.
    """
    if product not in PRODUCTS:
        raise ValueError(f"PNN: product must be one of {PRODUCTS}, got {product!r}{nearest(product, PRODUCTS)}")
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    tokens = field_tokens(features, schema, embedding_dim, numeric=numeric)  # (B, F, D)
    parts = [keras.layers.Flatten(name="flat")(tokens)]  # (B, F D)
    if product in ("inner", "both"):
        parts.append(layers.InnerProduct(name="inner_product")(tokens))  # (B, P)
    if product in ("outer", "both"):
        parts.append(layers.OuterProduct(name="outer_product")(tokens))  # (B, D^2)
    if product == "kernel":
        parts.append(layers.KernelProduct(kernel_kind, name="kernel_product")(tokens))  # (B, P)
    head = keras.layers.Concatenate(name="head")(parts)
    deep = layers.MLP(hidden_units, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm, name="mlp")(head)  # (B, U)
    return CTRModel(inputs, predictions(logits(deep, schema), schema, activation), name=name)
