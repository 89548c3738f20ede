"""Losses that Keras lacks: tasks weighted by what they cannot explain."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_ctr")
class UncertaintyWeighted(keras.losses.Loss):
    """A task's loss with a learned weight: `exp(-s) L(y, p) + s / 2` a row, s the task's log-variance.

    A task whose loss stays high is taken for noisy and weighs less; `s / 2` keeps the weights from vanishing. At the optimum
    `exp(-s) = 1 / (2 L)`: all tasks then contribute alike, whatever the scale of their losses.

    Args:
        log_variance: s, a scalar Keras variable that the model trains; None (as after loading) makes a loss that cannot be called.
        loss: Name, configuration or instance of the loss L, one value a row.
        name, reduction, dtype: As for every Keras loss. The default divides by all rows, weighted or not.

    Raises:
        ValueError: When called without a variable.

    Source: Kendall et al. (arXiv:1705.07115, Eq. 10), classification.
    Deviations: s = log sigma^2 is what is trained, as the authors advise, so that no weight can become negative.
    """

    def __init__(self, log_variance=None, loss="binary_crossentropy", *, name="uncertainty_weighted", **kwargs):
        super().__init__(name=name, **kwargs)
        self.log_variance = log_variance
        self.loss = keras.losses.get(loss)

    def call(self, y_true, y_pred):
        if self.log_variance is None:
            raise ValueError(
                "UncertaintyWeighted: a loaded loss does not know the model's log-variances any more; "
                "compile the model again with loss=keras_ctr.losses.uncertainty_weighted(model)"
            )
        # A loss object reduces to one number; its function gives one a row, which sample weights then apply to.
        row_loss = self.loss.call if isinstance(self.loss, keras.losses.Loss) else self.loss
        s = ops.cast(self.log_variance, y_pred.dtype)
        return ops.exp(-s) * row_loss(y_true, y_pred) + s / 2

    def get_config(self):
        return {**super().get_config(), "loss": keras.losses.serialize(self.loss)}


def uncertainty_weighted(model, loss="binary_crossentropy"):
    """Returns `{label: UncertaintyWeighted}` for `compile`, bound to the log-variances of a model.

    Args:
        model: What `keras_ctr.models.with_uncertainty_weights` returned, or such a model loaded again.
        loss: The loss of every label, or `{label: loss}`.

    Raises:
        ValueError: If an output of the model has no log-variance, or `loss` misses a label.

    Example:
        >>> model = keras_ctr.models.with_uncertainty_weights(keras_ctr.models.MMoE(schema))
        >>> model.compile(keras_ctr.optimizers.default(), loss=keras_ctr.losses.uncertainty_weighted(model))
    """
    losses = {}
    for label in model.output:
        variance = getattr(model.get_layer(label), "log_variance", None)
        if variance is None:
            raise ValueError(f"the output '{label}' has no log-variance to train: pass keras_ctr.models.with_uncertainty_weights(model)")
        if isinstance(loss, dict) and label not in loss:
            raise ValueError(f"`loss` has no entry for the label '{label}'; it has {', '.join(map(repr, loss))}")
        losses[label] = UncertaintyWeighted(variance, loss[label] if isinstance(loss, dict) else loss, name=f"{label}_uncertainty_weighted")
    return losses
