"""POSO: a plain deep model whose MLP is combined or masked by gates on user-group features."""

from keras_ctr import layers
from keras_ctr.models.conditions import check_tower, condition_names, condition_vector
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import flat_features
from keras_ctr.registry import register_model


@register_model(paper="https://arxiv.org/abs/2108.04690")
def POSO(
    schema,
    *,
    embedding_dim=16,
    condition_features=None,
    form="masks",
    num_networks=2,
    scale=None,
    gate_units=(),
    hidden_units=(512, 256, 128),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="poso",
):
    """Personalized cold start modules: an MLP that user-group features switch (Dai et al., arXiv 2021).

    On x = `[vec(E) || numerics || mean-pooled sequences]` and p, the embeddings of the user-group fields side by side:
    masks `h_l = C sigmoid(V_l p + c_l) * f(W_l h_{l-1} + b_l)`; networks `h = C sum_i sigmoid(V p + c)_i MLP_i(x)`; `logit = w . h + b`.
    Gates start near 1 (masks) or 1 / `num_networks`. Parameters beside the tables: see `layers.POSOMLP`.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        condition_features: Names of the fields that p is made of, such as "is a new user", a bin of the days since registration. None:
            the schema's `group` if it is a categorical field, else the first categorical field.
        form: `"masks"`, the paper's POSO(MLP), or `"networks"`, its general form with whole MLPs as sub-modules.
        num_networks: Sub-modules of the second form; ours.
        scale: C. None: 2 for masks, `2 / num_networks` for networks.
        gate_units: Widths of the gates' hidden layers; `()` for linear gates.
        hidden_units: Widths of the MLP's hidden layers; as in `DNN` here.
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
        ValueError: On an argument out of range, or a name that is not a field's.
    """
    check_tower("POSO", hidden_units)
    names = condition_names(schema, condition_features, model="POSO")
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    flat = flat_features(features, schema, embedding_dim, numeric=numeric)  # (B, N0)
    condition = condition_vector(features, schema, names)  # (B, K*D)
    mlp = layers.POSOMLP(
        hidden_units,
        form=form,
        num_networks=num_networks,
        scale=scale,
        gate_units=gate_units,
        activation=hidden_activation,
        dropout=dropout,
        batch_norm=batch_norm,
        name="mlp",
    )
    return CTRModel(inputs, predictions(logits(mlp(flat, condition), schema), schema, activation), name=name)
