"""Logistic regression."""

from keras_ctr import layers
from keras_ctr.models.ctr_model import CTRModel, build_inputs, predictions
from keras_ctr.registry import register_model


@register_model(paper=None)
def LR(schema, *, numeric="scale_embedding", history_weights="shared", activation="sigmoid", name="lr"):
    """Logistic regression: one weight per id and per numeric feature.

    `logit = b + sum_f w_f[id_f] + sum_n v_n u_n`; a sequence contributes the mean weight of its events. Parameters: L (sum of table
    rows + N + 1).

    Args:
        schema: The fitted `Schema`.
        numeric: How numerics that are not binned enter, see `layers.LinearLogit`: `"scale_embedding"` and `"dense_projection"` are the sum
            above, `"bucketize"` has one weight per bin, `"bottom_mlp"` an MLP with a linear end.
        history_weights: `"shared"`: a history reads the weights of the table that it names. `"own"`: it has weights of its own.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the model.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`.

    Raises:
        SchemaError: If the schema is not fitted.
        ValueError: On an argument out of range.
    """
    inputs = build_inputs(schema)
    linear = layers.LinearLogit(schema, len(schema.labels), numeric=numeric, history_weights=history_weights, name="logits")
    logits = linear(inputs)  # (B, L)
    return CTRModel(inputs, predictions(logits, schema, activation), name=name)
