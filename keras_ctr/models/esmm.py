"""ESMM: conversions learned over all impressions."""

import dataclasses
import math

import keras

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, predictions
from keras_ctr.models.tokens import flat_features
from keras_ctr.registry import register_model
from keras_ctr.schema import nearest


@register_model(paper="https://arxiv.org/abs/1804.07931", multi_task=True)
def ESMM(
    schema,
    *,
    embedding_dim=16,
    click=None,
    conversions=None,
    tower_units=(360, 200, 80),
    dropout=0.0,
    batch_norm=False,
    hidden_activation="relu",
    numeric="raw",
    embedding_l2=0.0,
    activation="sigmoid",
    name="esmm",
):
    """Entire-space multi-task model: conversions after a click, learned over all impressions (Ma et al., SIGIR 2018).

    Each label has a tower on x = `[vec(E) || numerics || mean-pooled sequences]`, the tables are shared: `pCTR = sigmoid(a)` of the click,
    `pCVR = sigmoid(b)` of a conversion given the click. The outputs are pCTR for the click and `pCTCVR = pCTR pCVR` for a conversion, which
    is what the column of that label must hold: 1 where click and conversion both happened, in every impression. Nothing is trained on
    clicks alone. The logit of the product comes from `layers.EntireSpaceLogits`, exact where the product itself would round to 0 or 1.
    Parameters beside the tables: those of `layers.TaskTowers` on N0 inputs.

    pCVR is what `conversion_rates(model)` predicts; the layer `conditional_logits` `(B, L)` has the logits a and b. A label with a `rate`
    starts there: that of a conversion sets pCVR to its rate over the click's (over 1/2 if the click has none). With one label it is the
    click's tower, a plain deep model.

    Args:
        schema: The fitted `Schema`.
        embedding_dim: D, the width of an embedding (the paper: 18).
        click: Name of the label of the click. None: the first label.
        conversions: Names of the labels that follow the click. None: all others. Labels that are neither have a plain tower.
        tower_units: Widths of a tower's hidden layers, as the paper lists them.
        dropout: Share of hidden units dropped in training, in the towers.
        batch_norm: Whether to normalise before each hidden activation.
        hidden_activation: Activation of the hidden layers.
        numeric: How numerics that are not binned enter: `"raw"`, the numbers as they are, or a `kind` of `layers.NumericTokens`:
            `"scale_embedding"` and `"bucketize"` make one D-wide token each, `"bottom_mlp"` and `"dense_projection"` one for all.
        embedding_l2: Weight of the L2 penalty on the rows of a batch, see `layers.FeatureEmbedding`.
        activation: `"sigmoid"` for probabilities, None for logits (of the product for conversions).
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range, a name that is no label's, a conversion that is the click, whose label is `given` another
            (its rows without that would be left out of the loss) or whose rate is not below the click's.
    """
    click, conversions = _roles(schema, click, conversions)
    inputs = build_inputs(schema)
    features = layers.FeatureEmbedding(schema, embedding_dim, embedding_l2=embedding_l2, name="embedding")(inputs)
    flat = flat_features(features, schema, embedding_dim, numeric=numeric)  # (B, N0)
    towers = layers.TaskTowers(
        len(schema.labels), tower_units, activation=hidden_activation, dropout=dropout, batch_norm=batch_norm, name="towers"
    )
    offsets = _offsets(schema, click, conversions)
    values = keras.layers.Rescaling(1.0, offset=offsets, dtype="float32", name="conditional_logits")(towers(flat))  # (B, L)
    position = schema.label_names.index
    values = layers.EntireSpaceLogits(position(click), [position(c) for c in conversions], name="logits")(values)  # (B, L)
    started = schema.replace(labels=[dataclasses.replace(label, rate=None) for label in schema.labels])
    return CTRModel(inputs, predictions(values, started, activation), name=name)


def conversion_rates(model, activation="sigmoid"):
    """Returns a model on the weights of an `ESMM` that predicts conversions given the click: `{label: (B, 1)}`.

    pCVR for a conversion; the click and labels with a plain tower are as they were.

    Args:
        model: What `ESMM` returned.
        activation: `"sigmoid"` for probabilities, None for logits.

    Raises:
        ValueError: If the model is no ESMM.
    """
    if "conditional_logits" not in {layer.name for layer in model.layers}:
        raise ValueError(f"model '{model.name}' is no ESMM: it has no layer 'conditional_logits'")
    values = model.get_layer("conditional_logits").output  # (B, L)
    position = {label: model.get_layer(label).index for label in model.output}
    outputs = {label: layers.LabelPrediction(i, activation=activation, name=label)(values) for label, i in position.items()}
    return CTRModel(model.input, outputs, name=f"{model.name}_rates")


def _roles(schema, click, conversions):
    """Returns the names of the click and of the conversions."""
    names = schema.label_names
    click = names[0] if click is None else click
    if isinstance(conversions, str):
        raise ValueError(f"ESMM: conversions must be a list of labels, got {conversions!r}; write [{conversions!r}]")
    conversions = tuple(n for n in names if n != click) if conversions is None else tuple(conversions)
    for argument, label in (("click", click), *(("conversions", c) for c in conversions)):
        if label not in names:
            raise ValueError(f"ESMM: {argument} names {label!r}, which is no label of the schema{nearest(label, names)}")
    if click in conversions or len(set(conversions)) < len(conversions):
        raise ValueError(f"ESMM: conversions names the click or a label twice: {', '.join(conversions)}; the click is '{click}'")
    for label in schema.labels:
        if label.name in conversions and label.given is not None:
            raise ValueError(
                f"ESMM: the label '{label.name}' is given '{label.given}', so rows without it have no weight; ESMM learns conversions over "
                f"all impressions: leave `given` out, or leave the label out of conversions"
            )
    return click, conversions


def _offsets(schema, click, conversions):
    """Returns constants to add to the towers' logits, from the labels' rates."""
    rates = {label.name: label.rate for label in schema.labels}
    start = 0.5 if rates[click] is None else rates[click]
    for label in conversions:
        if rates[label] is None:
            continue
        if rates[label] >= start:
            raise ValueError(f"ESMM: the rate of the conversion '{label}', {rates[label]}, must be below that of the click, {start}")
        rates[label] /= start
    return [0.0 if rate is None else math.log(rate) - math.log1p(-rate) for rate in rates.values()]
