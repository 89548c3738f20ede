"""One user against N candidates: a model's graph with the user's side run once, on one row."""

import keras
import tensorflow as tf
from keras import tree

from keras_ctr.schema import SchemaError, Sequence, nearest
from keras_ctr.serving.ranking_embedding import call_embedding, splits


def candidate_names(schema, given=None):
    """Returns the names of the features that belong to the candidate in a ranking request, in schema order.

    The others are the user's and stand once in a request. By default the user's features are the sequences and the schema's `group`:
    what a schema says of users. Every request can be put in this form; naming the candidate's own features makes requests smaller and
    lets more of the model run once.

    Args:
        schema: The schema.
        given: Names of the candidate's features, or None for the default.

    Raises:
        SchemaError: If one is not in the schema (with the nearest name), if there is none, or if a group of sequences is not wholly on
            one side, since its sequences are attributes of the same events.
    """
    if given is None:
        own = [f.name for f in schema.features if not isinstance(f, Sequence) and f.name != schema.group]
        return tuple(own) or schema.feature_names
    given = (given,) if isinstance(given, str) else tuple(given)
    for name in given:
        if name not in schema:
            raise SchemaError(f"candidate_features names '{name}', which is no feature of the schema{nearest(name, schema.feature_names)}")
    if not given:
        raise SchemaError("candidate_features is empty: a ranking request needs a feature in which the candidates differ")
    for group, members in schema.sequence_groups.items():
        inside = [seq.name for seq in members if seq.name in given]
        outside = [seq.name for seq in members if seq.name not in given]
        if inside and outside:
            raise SchemaError(
                f"candidate_features names '{inside[0]}' but not '{outside[0]}' of the same group '{group}': "
                "they are attributes of the same events, so name both or neither"
            )
    return tuple(name for name in schema.feature_names if name in given)


def rank(model, encoded, candidates):
    """Returns what the model says of N rows that share the user's features: `{label: (N, 1)}`.

    The functional graph is walked operation by operation, on the model's own layers. One whose tensors all come from user features runs
    on one row; where it meets tensors of candidates, the user's are repeated N times, each once. `FeatureEmbedding`, one layer over all
    features, looks up the user's features once and the candidates' N times.

    Args:
        model: A functional model whose inputs and outputs are dicts, such as a factory returns.
        encoded: `{feature: ids or numbers}`: the candidates' features have N rows, all others one.
        candidates: Names of the candidates' features, at least one.
    """
    count = tf.shape(encoded[candidates[0]])[0]
    walk = _Walk(count)
    given = {name: (encoded[name], name not in candidates) for name in model._inputs_struct if name in encoded}
    walk.run(model, given)
    return {label: walk.value(tensor, repeat=True) for label, tensor in model._outputs_struct.items()}


class _Walk:
    """The values of a functional graph's tensors, and which of them have the user's one row."""

    def __init__(self, count):
        self._count = count
        self._values, self._once, self._repeated = {}, set(), {}

    def value(self, tensor, *, repeat=False):
        """Returns the value of a symbolic tensor, with N rows if `repeat`."""
        key = id(tensor)
        if not repeat or key not in self._once or tensor.shape[0] is not None:  # a fixed first axis is no batch
            return self._values[key]
        if key not in self._repeated:
            self._repeated[key] = self.repeat(self._values[key])
        return self._repeated[key]

    def repeat(self, value):
        """Returns N copies of one row."""
        return tf.broadcast_to(value, tf.concat([[self._count], tf.shape(value)[1:]], axis=0))

    def run(self, model, given):
        """Walks a functional model; `given` is `{input: (value, whether it has one row)}`, optional inputs may be missing."""
        for name, tensor in model._inputs_struct.items():
            value, once = given.get(name, (None, True))
            self._set(tensor, value, once)
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                if not node.is_input:
                    self._call(node)

    def _set(self, tensor, value, once):
        self._values[id(tensor)] = value
        if once:
            self._once.add(id(tensor))

    def _call(self, node):
        operation, tensors = node.operation, [t for t in node.arguments.keras_tensors if self._values[id(t)] is not None]
        once = all(id(t) in self._once for t in tensors)
        if not once and splits(operation):
            inputs = node.arguments.args[0]
            given = {name: (self._values[id(t)], id(t) in self._once) for name, t in inputs.items()}
            values, sides = call_embedding(operation, given, self.repeat)
            for tensor, value, side in zip(node.outputs, tree.flatten(values), tree.flatten(sides), strict=True):
                self._set(tensor, value, side)
            return
        if not once and _is_graph(operation, node):
            given = {
                n: (self._values[id(t)], id(t) in self._once) for n, t in node.arguments.args[0].items() if n in operation._inputs_struct
            }
            self.run(operation, given)
            for tensor, inner in zip(node.outputs, operation._outputs, strict=True):
                self._set(tensor, self._values[id(inner)], id(inner) in self._once)
            return
        filled = {id(t): self.value(t, repeat=not once) for t in tensors}
        args, kwargs = node.arguments.fill_in(filled)
        if "training" in getattr(operation, "_call_context_args", ()):
            kwargs["training"] = False
        for tensor, value in zip(node.outputs, tree.flatten(operation(*args, **kwargs)), strict=True):
            self._set(tensor, value, once)


def _is_graph(operation, node):
    """Whether an operation is itself a functional model on a dict, which can be walked too."""
    walked = isinstance(operation, keras.Model) and isinstance(getattr(operation, "_inputs_struct", None), dict)
    return walked and bool(node.arguments.args) and isinstance(node.arguments.args[0], dict)
