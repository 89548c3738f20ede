"""Attention weights of a built model, for plots and checks."""

import inspect

import keras
from keras import ops

from keras_ctr.models.ctr_model import CTRModel

MODELS_WITH_ATTENTION = (
    "AdRec",
    "AutoInt",
    "BST",
    "DIEN",
    "DIN",
    "DMIN",
    "ETA",
    "INFNet",
    "InterFormer",
    "MMoE",
    "OMoE",
    "OneTrans",
    "PLE",
    "RankMixer",
    "SIM",
    "STEM",
    "TransAct",
)
"""Factories whose models have layers that return their attention, with the default arguments and, but for AdRec, AutoInt, INFNet,
OneTrans and the mixtures of experts, with sequences."""


def attention_weights(model, x):
    """Returns the attention weights of every layer that can return them, as the model computes them for prediction.

    A second model on the same weights leads from the inputs to what those layers were called on; each is then called once more with
    `return_attention=True`. The model itself, its graph and its outputs stay as they are.

    ```
    InterFormer    sequence_l          (B, H, num_cls + T, num_cls + T)    self-attention of the Sequence Arch, CLS tokens first
                   cross_l/pma         (B, H, num_pma, num_cls + T)        the learned queries
    INFNet         block_l/<hubs>/<tokens>   (B, H, n, N)                  hubs and tokens: categorical, sequence, task; within one kind of
                                             tokens a row sums to 1; groups of sequences one after the other; of task hubs the first L
                                             are the tasks; the last block has task hubs alone
    DIN            attention_<group>   (B, T)                              rows sum to 1 with `use_softmax` only
    RankMixer      attention_<group>   (B, T)                              as DIN's, no softmax
    DIEN           evolution_<group>   (B, T)                              no entry with `evolution="gru"`
    DMIN           interests_<group>   (B, H, T)                           of the sum that makes an interest
    BST            transformer_<group>/block_i   (B, H, T + 1, T + 1)      the candidate last
    TransAct       encoder_<group>/block_i       (B, H, T, T)
    SIM, ETA       long_attention_<group>        (B, H, 1, K), of the K events found, oldest first
                   attention_<group>             (B, T'), of the T' newest
    OneTrans       block_i/events      (B, H, T', T)                       of the T' newest events, none in the last block
                   block_i/tokens      (B, H, N, T + N)                    of the other features, the events first
    AdRec          encoder_i           (B, H, F, F)
    AutoInt        (its interacting layers)      (B, H, F, F)
    MMoE           experts             (B, L, E)                           gates of the tasks; OMoE (B, 1, E), STEM (B, L, L m_s + m_sh)
    PLE            extraction/cgc_l/tasks        (B, L, m_s + m_sh), and /shared (B, 1, L m_s + m_sh)
    ```

    Keys that are padding weigh 0. Where every key is padding, all are 0 (the CLS tokens and the candidate are always there).

    Args:
        model: A functional model, such as a factory or `keras.saving.load_model` returns. A model within it counts as a layer without
            attention: pass that one.
        x: Feature dict of a batch, as the model takes it: further keys are ignored, optional inputs may be missing. All weights of the
            batch are in memory at once: pass the rows to be looked at.

    Returns:
        Dict `{layer name: array}` in the order of computation, float32 NumPy arrays. A layer with several attentions has an entry
        `layer name/part` for each; one that the model calls more than once has `layer name/call_i`, i from 0.

    Raises:
        TypeError: If the model is not a functional one.
        ValueError: If no layer of it returns attention weights.
        KeyError: If x lacks an input, see `CTRModel`.
    """
    if not isinstance(model, keras.Model) or not hasattr(model, "_nodes_by_depth"):
        raise TypeError(f"attention_weights needs a functional Keras model, as keras_ctr.models.DIN(schema) is, got {type(model).__name__}")
    nodes = _attention_nodes(model)
    tensors = {id(t): t for node in nodes for t in node.arguments.keras_tensors}
    found = {}
    if nodes:
        probe = CTRModel(model.input, {str(key): tensor for key, tensor in tensors.items()}, name=model.name)
        values = {int(key): value for key, value in probe(x, training=False).items()}
        operations = [node.operation for node in nodes]
        for index, node in enumerate(nodes):
            layer = node.operation
            again = operations.count(layer) > 1
            name = f"{layer.name}/call_{operations[:index].count(layer)}" if again else layer.name
            found.update(_weights_of(layer, node, name, values))
    if not found:
        raise ValueError(
            f"attention_weights: no layer of the model '{model.name}' returns attention weights. Models that have some, on a schema with "
            f"sequences or fields to attend to: {', '.join(MODELS_WITH_ATTENTION)}"
        )
    return found


def _attention_nodes(model):
    """Returns the calls of the model's graph whose layer can return its attention, first computed first."""
    # The graph's own nodes: a layer also keeps those of other graphs, wherever it was called on symbolic tensors.
    nodes = [node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]]
    return [node for node in nodes if isinstance(node.operation, keras.Layer) and "return_attention" in _arguments(node.operation)]


def _arguments(layer):
    return inspect.signature(layer.call).parameters


def _weights_of(layer, node, name, values):
    """Calls a layer as the graph does, on the values of its tensors; returns `{name or name/part: array}`, empty without any."""
    args, kwargs = node.arguments.fill_in(values)
    kwargs = {**kwargs, "return_attention": True}
    if "training" in _arguments(layer):
        kwargs["training"] = False
    _, attention = layer(*args, **kwargs)
    parts = {f"{name}/{part}": a for part, a in attention.items()} if isinstance(attention, dict) else {name: attention}
    return {key: ops.convert_to_numpy(ops.cast(a, "float32")) for key, a in parts.items() if a is not None}
