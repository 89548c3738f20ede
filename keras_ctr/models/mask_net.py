"""MaskNet: blocks whose inputs are multiplied by instance-guided masks."""

import keras

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, logits, predictions
from keras_ctr.models.tokens import field_tokens
from keras_ctr.registry import register_model

STRUCTURES = ("parallel", "serial")


@register_model(paper="https://arxiv.org/abs/2102.07619")
def MaskNet(
    schema,
    *,
    embedding_dim=16,
    structure="parallel",
    block_units=(256, 256, 256),
    reduction_ratio=2.0,
    embedding_norm=True,
    block_norm=True,
    hidden_units=None,
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="scale_embedding",
    embedding_l2=0.0,
    activation="sigmoid",
    name="mask_net",
):
    """MaskNet: each block multiplies its input by a mask that a network makes from the embeddings (Wang et al., DLP-KDD 2021).

    On the tokens E (fields, numerics, mean-pooled sequences), x = vec(E) and v = vec(LN(E)):
    parallel `logit = MLP([block_1(v, x) || .. || block_k(v, x)])`; serial `h_1 = block_1(v, x), h_l = block_l(h_{l-1}, x)` and
    `logit = w . h_k + b`; `block(v, x) = ReLU(LN(W (m(x) * v)))`, see `layers.MaskBlock`. With Z inputs, U outputs and R = r Z a block
    has `F D R + R + R Z + Z + Z U + 2 U` parameters; the LN of the embeddings 2 F D. The default sizes are not tuned.

    After the LN of the embeddings the token v w of a number (`numeric="scale_embedding"`) holds little more than the number's sign; its
    size acts through the masks, which read E itself.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding.
        structure: `"parallel"`, every block on the embeddings, or `"serial"`, each on the output of the one before.
        block_units: U of each block; as many blocks as there are widths.
        reduction_ratio: r, hidden units of a mask's network over the mask's width; 1 or more in the paper.
        embedding_norm: Whether to normalise each field's embedding, with a gain and a bias of its own.
        block_norm: Whether the blocks normalise before their activation.
        hidden_units: Widths of the MLP on top of the blocks. None: (512, 256) for `"parallel"`, no MLP for `"serial"`, as in the paper.
        dropout: Share of the blocks' outputs and of the MLP's hidden units dropped in training.
        batch_norm: Whether the MLP normalises before each hidden activation.
        hidden_activation: Activation of blocks and MLP.
        numeric: How numerics that are not binned become tokens: a `kind` of `layers.NumericTokens`, or a `layers.NumericTokens` as a
            prototype.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range.
    """
    if structure not in STRUCTURES:
        raise ValueError(f"MaskNet: structure must be one of {STRUCTURES}, got {structure!r}")
    if not block_units:
        raise ValueError("MaskNet: block_units is empty; give the width of at least one block")
    if hidden_units is None:
        hidden_units = (512, 256) if structure == "parallel" else ()
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    tokens = field_tokens(features, schema, embedding_dim, numeric=numeric)  # (B, F, D)
    flat = keras.layers.Flatten(name="flat")(tokens)  # (B, F D)
    normal = layers.FieldLayerNormalization(name="embedding_norm")(tokens) if embedding_norm else tokens  # (B, F, D)
    hidden = keras.layers.Flatten(name="flat_normal")(normal)  # (B, F D)
    blocks = [
        layers.MaskBlock(
            units,
            reduction_ratio=reduction_ratio,
            layer_norm=block_norm,
            activation=hidden_activation,
            dropout=dropout,
            name=f"mask_block_{index}",
        )
        for index, units in enumerate(block_units)
    ]
    if structure == "parallel":
        outputs = [block(hidden, flat) for block in blocks]  # (B, U) each
        hidden = outputs[0] if len(outputs) == 1 else keras.layers.Concatenate(name="blocks")(outputs)  # (B, sum U)
    else:
        for block in blocks:
            hidden = block(hidden, flat)  # (B, U)
    if hidden_units:
        mlp = layers.MLP(hidden_units, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm, name="mlp")
        hidden = mlp(hidden)
    return CTRModel(inputs, predictions(logits(hidden, schema), schema, activation), name=name)
