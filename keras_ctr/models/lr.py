"""Logistic regression."""

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, predictions
from keras_ctr.registry import register_model


@register_model(paper=None)
def LR(schema, *, activation="sigmoid", name="lr"):
    """Logistic regression: one weight per id and per numeric feature.

    `logit = b + sum_f w_f[id_f] + sum_n v_n u_n`; a sequence contributes the mean weight of its events. Parameters: L (sum of table
    rows + N + 1).

    Args:
        schema: The fitted `Schema`.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
    """
    inputs = build_inputs(schema)
    logits = layers.LinearLogit(schema, len(schema.labels), name="logits")(inputs)  # (B, L)
    return CTRModel(inputs, predictions(logits, schema, activation), name=name)
