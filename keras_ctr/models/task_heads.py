"""Multi-task heads on the architectures of the zoo."""

import keras

from keras_ctr import layers
from keras_ctr.layers.cloning import clone_layer
from keras_ctr.models.ctr_model import CTRModel, predictions
from keras_ctr.schema import nearest

_DEEP_PARTS = ("deep_logits", "head_logits")
"""Names of the linear layers whose logits a model adds to those of other parts."""


def with_task_heads(
    model,
    schema,
    head=None,
    *,
    tower_units=(128, 64),
    tower_activation="relu",
    dropout=0.0,
    batch_norm=False,
    activation="sigmoid",
    name=None,
):
    """Returns the model with a tower a label, on a mixture of experts or not, in the place of its last linear layer.

    The model is cut at the vector x `(B, N)` that its last layer of logits reads: `logit_i = tower_i(x)` (a shared bottom, the model being
    the bottom), or `tower_i(head(x)_i)` with a `head` `(B, N) -> (B, L, M)`. What is below the cut is shared, layers and weights: training
    the one trains the other. The cut, by what makes the logits:

    ```
    a linear layer, or towers on one vector       its input
    `layers.FeatureMapLogits` on a map (B, F, D)  the map, flattened        XDeepInt, DynInt
    a sum of several parts                        the input of the deep part; the others stay in the sum: DeepFM, WideDeep, XDeepFM,
                                                  and AutoInt and FiBiNET with a linear part
    ```

    LR, FM and FmFM have no vector before their logits, nor has DeepFM without an MLP. MMoE, OMoE, PLE, STEM, ESMM and INFNet with task
    tokens have vectors or logits of each task already.

    Args:
        model: A functional model of this package, trained or not.
        schema: The fitted `Schema` whose labels the new model has; other ones than the model's, or more of them, too, unless the model sums
            several parts.
        head: Layer prototype, cloned, `(B, N) -> (B, L, M)` or `(B, M)`: `layers.MultiGateMixtureOfExperts(L)`,
            `layers.ProgressiveLayeredExtraction(L)`, or another layer. None: the towers read x.
        tower_units: Widths of a tower's hidden layers; empty for linear towers.
        tower_activation: Activation of the towers.
        dropout: Share of the towers' hidden units dropped in training.
        batch_norm: Whether to normalise before each hidden activation of the towers.
        activation: `"sigmoid"` for probabilities, None for logits.
        name: Name of the new model. None: the model's name and `_task_heads`.

    Returns:
        A `CTRModel` with outputs `{label: (B, 1)}`, not compiled. The head is its layer `task_head`, the towers are `logits` (in a sum:
        named as the layer they replace).

    Raises:
        TypeError: If the model is not a functional one.
        ValueError: If the model has no such vector (the message names model and layer), an input that the schema lacks, parts for another
            number of labels, or if the head is for another number of tasks.

    Example:
        >>> backbone = keras_ctr.models.DIN(schema)
        >>> head = keras_ctr.layers.MultiGateMixtureOfExperts(len(schema.labels), num_experts=4, expert_units=(256, 128))
        >>> model = keras_ctr.models.with_task_heads(backbone, schema, head)
    """
    if not isinstance(model, keras.Model) or not hasattr(model, "_nodes_by_depth"):
        raise TypeError(f"with_task_heads needs a functional Keras model, as keras_ctr.models.DIN(schema) is, got {type(model).__name__}")
    _check_inputs(model, schema)
    num_tasks = len(schema.labels)
    if head is not None and getattr(head, "num_tasks", num_tasks) != num_tasks:
        raise ValueError(f"with_task_heads: the head '{head.name}' is for {head.num_tasks} tasks, the schema has {num_tasks} labels")
    x, replaced, others = _cut(model)  # (B, N)
    for part in others:
        if part.shape[-1] != num_tasks:
            raise ValueError(
                f"with_task_heads: the model '{model.name}' sums parts with {part.shape[-1]} logits, the schema has {num_tasks} labels: "
                f"build the model on the same labels"
            )
    if head is not None:
        x = clone_layer(head, name="task_head")(x)  # (B, L, M)
    towers = layers.TaskTowers(num_tasks, tower_units, activation=tower_activation, dropout=dropout, batch_norm=batch_norm, name=replaced)
    values = towers(x)  # (B, L)
    if others:
        values = keras.layers.Add(dtype="float32", name="logits")([*others, values])
    return CTRModel(model.input, predictions(values, schema, activation), name=name or f"{model.name}_task_heads")


def _check_inputs(model, schema):
    optional = getattr(model, "optional_inputs", frozenset())
    for tensor in model.inputs:
        if tensor.name not in schema.feature_names and tensor.name not in optional:
            hint = nearest(tensor.name, schema.feature_names)
            raise ValueError(f"with_task_heads: the model '{model.name}' has the input '{tensor.name}', which the schema lacks{hint}")


def _cut(model):
    """Returns the vector `(B, N)` to put a head on, the name of the layer that it replaces, and the logits that stay beside it."""
    if "logits" not in {layer.name for layer in model.layers}:
        raise ValueError(f"with_task_heads: the model '{model.name}' has no layer 'logits', which those of keras_ctr.models end with")
    layer = model.get_layer("logits")
    parts = _read(model, layer)
    if isinstance(layer, layers.FeatureMapLogits):
        return keras.layers.Flatten(name="flat_map")(parts[0]), "logits", []
    if not isinstance(layer, keras.layers.Add):
        return _vector(model, layer), "logits", []
    made = [part._keras_history.operation for part in parts]
    deep = [operation for operation in made if operation.name in _DEEP_PARTS]
    if len(deep) != 1:
        raise ValueError(
            f"with_task_heads: the model '{model.name}' sums the logits of {', '.join(repr(m.name) for m in made)}, none of which is a "
            f"linear layer on a vector: there is nothing to put a head on; use a model with a deep part"
        )
    return _vector(model, deep[0]), deep[0].name, [part for part, m in zip(parts, made, strict=True) if m is not deep[0]]


def _vector(model, layer):
    """Returns the vector `(B, N)` that a layer of logits reads."""
    read = _read(model, layer)
    if not isinstance(layer, (keras.layers.Dense, layers.TaskTowers)) or len(read) != 1:
        raise ValueError(
            f"with_task_heads: the logits of the model '{model.name}' come from its layer '{layer.name}', a {type(layer).__name__}: there "
            f"is no vector before it to put a head on"
        )
    if len(read[0].shape) != 2:
        raise ValueError(f"with_task_heads: the model '{model.name}' has vectors of each task already, {read[0].shape} into '{layer.name}'")
    return read[0]


def _read(model, layer):
    """Returns the tensors that a layer reads in the model's own graph: it may be part of other graphs, too."""
    nodes = [node for nodes in model._nodes_by_depth.values() for node in nodes if node.operation is layer]
    return nodes[0].arguments.keras_tensors
