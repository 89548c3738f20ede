"""DHEN: a stack of layers, each an ensemble of interaction modules."""

import keras

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import field_tokens
from keras_ctr.registry import register_model
from keras_ctr.schema import nearest


@register_model(paper="https://arxiv.org/abs/2203.11014")
def DHEN(
    schema,
    *,
    embedding_dim=16,
    modules=("dot", "cross"),
    ensemble="sum",
    num_layers=2,
    num_tokens=None,
    rank=32,
    dot_units=(64,),
    num_heads=2,
    ffn_units=64,
    layer_norm_epsilon=0.1,
    hidden_units=(512, 256),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="scale_embedding",
    embedding_l2=0.0,
    activation="sigmoid",
    name="dhen",
):
    """DHEN: layers that are ensembles of interaction modules, deep and hierarchical (Zhang et al., 2022).

    `logit = MLP(vec(X_L))` with `X_l = LayerNorm(Ensemble_i u_i(X_{l-1}) + ShortCut(X_{l-1}))` on the tokens X_0: fields, numerics,
    mean-pooled sequences. Parameters beside the tables: those of each `layers.DHENLayer`, and of the MLP on D inputs a token. The default
    modules and their rank are those of InterFormer's baseline, which tunes 1 to 3 layers; the other sizes are not tuned.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        modules: The modules of every layer: names, `"dot"` (`layers.DotModule`), `"cross"` (`layers.CrossModule`), `"attention"`
            (`layers.SelfAttentionModule`), `"linear"` (`layers.LinearModule`), `"convolution"` (`layers.ConvolutionModule`), or layer
            prototypes on `(B, m, D)`, in any mixture.
        ensemble: `"sum"`, `"weighted"` or `"concat"`, see `layers.DHENLayer`. With `"concat"` tokens add up: k modules put out k times
            `num_tokens`, or k times their input's without it.
        num_layers: L.
        num_tokens: l, tokens that each module given by name puts out; None for as many as it reads.
        rank: Rank of `"cross"`.
        dot_units: Hidden widths of the MLP in `"dot"`.
        num_heads: Heads of `"attention"`; divides D.
        ffn_units: Width of the hidden layer of the feed-forward network in `"attention"`.
        layer_norm_epsilon: Added to a token's variance where it is normalised. Embeddings start with a variance of 1e-4, so the default
            leaves rows that have hardly been trained small; with 1e-6 they would be as large as the others (docs/deviations.md).
        hidden_units: Widths of the last MLP's hidden layers.
        dropout: Share of the last MLP's hidden units and of the parts of `"attention"` dropped in training.
        batch_norm: Whether the last MLP normalises before each hidden activation.
        hidden_activation: Activation of its hidden layers.
        numeric: How numerics that are not binned become tokens: a `kind` of `layers.NumericTokens`, or a `layers.NumericTokens` as a
            prototype.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range, or an unknown module.
        TypeError: If a module is neither a name nor a Keras layer.
    """
    if num_layers < 1:
        raise ValueError(f"DHEN: num_layers must be at least 1, got {num_layers!r}")
    makers = {
        "dot": lambda: layers.DotModule(dot_units, num_tokens=num_tokens),
        "cross": lambda: layers.CrossModule(rank, num_tokens=num_tokens),
        "attention": lambda: layers.SelfAttentionModule(num_heads, ffn_units=ffn_units, dropout=dropout, num_tokens=num_tokens),
        "linear": lambda: layers.LinearModule(num_tokens=num_tokens),
        "convolution": lambda: layers.ConvolutionModule(num_tokens=num_tokens),
    }
    prototypes = []
    for module in (modules,) if isinstance(modules, (str, keras.Layer)) else modules:
        if isinstance(module, str) and module not in makers:
            raise ValueError(f"DHEN: modules must be of {tuple(makers)} or layers, got {module!r}{nearest(module, makers)}")
        prototypes.append(makers[module]() if isinstance(module, str) else module)
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    x = field_tokens(features, schema, embedding_dim, numeric=numeric)  # (B, F, D)
    for index in range(num_layers):
        x = layers.DHENLayer(prototypes, ensemble=ensemble, epsilon=layer_norm_epsilon, name=f"dhen_{index}")(x)  # (B, m, D)
    flat = keras.layers.Flatten(name="flat")(x)  # (B, m D)
    mlp = layers.MLP(hidden_units, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm, name="mlp")
    return CTRModel(inputs, predictions(logits(mlp(flat), schema), schema, activation), name=name)
