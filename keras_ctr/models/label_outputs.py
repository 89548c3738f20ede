"""Models with another last layer: trainable weights of the labels in the loss, and corrected log-odds."""

import math

from keras_ctr.layers.predictions import LabelPrediction
from keras_ctr.models.ctr_model import CTRModel
from keras_ctr.schema import nearest


def with_uncertainty_weights(model):
    """Returns the model with one more weight a label, the log-variance that `losses.uncertainty_weighted` trains.

    Inputs, layers and outputs are the model's own; only the last layer of each label is made anew around the same logits (it has no other
    weight). Use it before `compile`, and in the scope of the strategy if there is one.

    Args:
        model: A functional model of this package.

    Raises:
        ValueError: If an output does not come from a `LabelPrediction`.

    Source: Kendall et al. (arXiv:1705.07115, section 3.2).

    Example:
        >>> model = keras_ctr.models.with_uncertainty_weights(keras_ctr.models.MMoE(schema))
        >>> model.compile(keras_ctr.optimizers.default(), loss=keras_ctr.losses.uncertainty_weighted(model))
    """
    return _with_outputs(model, lambda label, config: {**config, "uncertainty": True})


def with_offsets(model, offsets):
    """Returns the model with constants added to its logits, on the same weights.

    Training on other odds than those of the logs leaves logits too high or too low by a known constant, which this takes off again:

    ```
    positives weighted by w (or drawn w times as often)     offset = -log w
    negatives kept with the probability k                   offset = log k        (1 / k clicks too many)
    ```

    AUC does not change; log loss and calibration do.

    Args:
        model: A functional model of this package.
        offsets: `{label: constant}`, added to what offset the label has already; other labels stay as they are.

    Raises:
        KeyError: If the model has no such label, with the nearest one.
        ValueError: If an output does not come from a `LabelPrediction`, or a constant is not finite.

    Source: He et al., Practical Lessons from Predicting Clicks on Ads at Facebook (ADKDD 2014, section 6.3), for sampled negatives.
    """
    for label, offset in offsets.items():
        if label not in model.output:
            raise KeyError(f"model '{model.name}' has no label '{label}'{nearest(label, model.output)}")
        if not math.isfinite(offset):
            raise ValueError(f"the offset of label '{label}' must be a finite number, got {offset!r}")
    return _with_outputs(model, lambda label, config: {**config, "offset": config["offset"] + offsets.get(label, 0.0)})


def _with_outputs(model, change):
    """Returns the model with its label layers built again from `change(label, config)`."""
    outputs = {}
    for label in model.output:
        layer = model.get_layer(label)
        if not isinstance(layer, LabelPrediction):
            raise ValueError(f"model '{model.name}': the output '{label}' is a {type(layer).__name__}, expected a LabelPrediction")
        again = LabelPrediction.from_config(change(label, layer.get_config()))
        outputs[label] = again(layer.input)
        if layer.uncertainty:
            again.set_weights(layer.get_weights())
    return CTRModel(model.input, outputs, name=model.name)
