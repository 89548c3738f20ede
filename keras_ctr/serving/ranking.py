"""One user against N candidates: a model's graph with the user's side run once, on one row."""

import functools
import inspect

import keras
import tensorflow as tf
from keras import tree

from keras_ctr.layers import FeatureEmbedding
from keras_ctr.schema import SchemaError, Sequence, nearest


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
    on one row; where it meets tensors of candidates, the user's are repeated N times, each once, unless the layer can do without:

    - `FeatureEmbedding`, one layer over all features, looks up the user's features once and the candidates' N times (`shared`).
    - A layer may have a class attribute `one_row_arguments`, names of call arguments that may have one row where the others have N, with
      the outcome of N equal rows: a history that the layer encodes before it reads it for each candidate. They are passed so if all of
      those given are the user's. `one_row_outputs` are the keys of its output dict that have one row then.

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
        operation = node.operation
        once = all(id(t) in self._once for t in node.arguments.keras_tensors if self._values[id(t)] is not None)
        if not once and _looks_up_by_side(operation):
            inputs = node.arguments.args[0]
            shared = [name for name, t in inputs.items() if name in operation.schema and id(t) in self._once]
            values = operation({name: self._values[id(t)] for name, t in inputs.items()}, shared=shared)
            sides = operation.shared_outputs(shared)
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
        args, kwargs, one_row = self._arguments(node, repeat=not once)
        if "training" in getattr(operation, "_call_context_args", ()):
            kwargs["training"] = False
        outputs = tree.flatten_with_path(operation(*args, **kwargs))
        for tensor, (path, value) in zip(node.outputs, outputs, strict=True):
            self._set(tensor, value, once or (bool(path) and path[-1] in one_row))

    def _arguments(self, node, repeat):
        """Returns the arguments of a node, by position and by name, and the keys of outputs that have one row while others have N."""
        names = getattr(node.operation, "one_row_arguments", ()) if repeat else ()
        if names:
            bound = inspect.signature(node.operation.call).bind(*node.arguments.args, **node.arguments.kwargs)
            tensors = [t for name in names for t in tree.flatten(bound.arguments.get(name)) if isinstance(t, keras.KerasTensor)]
            if tensors and all(id(t) in self._once for t in tensors):
                for name, argument in bound.arguments.items():
                    filled = functools.partial(self._filled, repeat=name not in names)
                    bound.arguments[name] = tree.map_structure(filled, argument)
                return bound.args, bound.kwargs, getattr(node.operation, "one_row_outputs", ())
        args, kwargs = node.arguments.fill_in({id(t): self._filled(t, repeat) for t in node.arguments.keras_tensors})
        return args, kwargs, ()

    def _filled(self, argument, repeat):
        """Returns the value of an argument; what is no symbolic tensor stays itself."""
        if not isinstance(argument, keras.KerasTensor):
            return argument
        return None if self._values[id(argument)] is None else self.value(argument, repeat=repeat)


def _looks_up_by_side(operation):
    """Whether an operation is a `FeatureEmbedding`, and no subclass with a call of its own."""
    return isinstance(operation, FeatureEmbedding) and type(operation).call is FeatureEmbedding.call


def _is_graph(operation, node):
    """Whether an operation is itself a functional model on a dict, which can be walked too."""
    walked = isinstance(operation, keras.Model) and isinstance(getattr(operation, "_inputs_struct", None), dict)
    return walked and bool(node.arguments.args) and isinstance(node.arguments.args[0], dict)
