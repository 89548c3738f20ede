"""What a training step does with whole variables, counted from its graph: no clock is involved."""

import tensorflow as tf

_BRANCHES = ("f", "then_branch", "else_branch", "cond", "body", "branches")
# The shape of a variable is metadata: nothing is read.
_METADATA = {"VariableShape", "VarIsInitializedOp"}
_ROWS = {"ResourceGather", "ResourceScatterUpdate", "ResourceScatterAdd", "ResourceScatterSub"}


def train_graph(model, x, y):
    """Returns the graph of a compiled model's training step on a batch, of all replicas under a strategy, traced and never run."""
    strategy = model.distribute_strategy
    dataset = tf.data.Dataset.from_tensors((x, y)).repeat()
    model.fit(dataset, steps_per_epoch=1, verbose=0, shuffle=False)  # creates the slots
    model.make_train_function()
    iterator = iter(strategy.experimental_distribute_dataset(dataset))

    @tf.function(autograph=False)
    def step():
        return strategy.run(model.train_step, args=(next(iterator),))

    return step.get_concrete_function().graph


def touched(graph, variables):
    """Returns `{variable path: {"whole": {op types}, "rows": {op types}}}` of what ops do with the variables, nested functions included.

    Args:
        graph: A `FuncGraph`.
        variables: Keras variables. A copy of a mirrored one is an entry of its own: the path, `@` and the number of the replica.
    """
    names = {}
    for v in variables:
        copies = getattr(v.value, "values", None)
        names.update({id(v.value.handle): v.path} if copies is None else {id(c.handle): f"{v.path}@{i}" for i, c in enumerate(copies)})
    out = {path: {"whole": set(), "rows": set()} for path in names.values()}
    known = {}
    for outer, inner in graph.captures:
        if id(outer) in names:
            known[inner.name] = names[id(outer)]
    _walk(graph, known, out)
    return out


def _walk(graph, known, out):
    known = dict(known)
    for op in graph.get_operations():
        paths = [known.get(tensor.name) for tensor in op.inputs]
        if not any(paths):
            continue
        if op.type == "Identity":
            known[op.outputs[0].name] = paths[0]
            continue
        inner = _functions(graph, op)
        if inner:
            skip = 1 if op.type in ("If", "StatelessIf", "Case") else 0  # the predicate
            for function in inner:
                arguments = {t.name: path for t, path in zip(function.inputs, paths[skip:], strict=True) if path}
                _walk(function, arguments, out)
            continue
        for path in filter(None, paths):
            if op.type not in _METADATA:
                out[path]["rows" if op.type in _ROWS else "whole"].add(op.type)


def _functions(graph, op):
    found = []
    for name in _BRANCHES:
        try:
            attribute = op.get_attr(name)
        except ValueError:
            continue
        for function in attribute if isinstance(attribute, list) else [attribute]:
            found.append(tf.__internal__.FuncGraph("unused") if function is None else _graph_of(graph, function.name))
    return found


def _graph_of(graph, name):
    while graph is not None:
        function = graph._functions.get(name)
        if function is not None:
            return function.graph if hasattr(function, "graph") else function._func_graph
        graph = getattr(graph, "outer_graph", None)
    raise KeyError(f"function '{name}' is not in the graph")


def outputs_with(graph, sizes):
    """Returns the ops, nested functions included, that make a tensor with an axis of one of the given lengths (choose primes)."""
    found = set()
    for op in graph.get_operations():
        for tensor in op.outputs:
            if tensor.dtype != tf.resource and tensor.shape.rank and set(tensor.shape.as_list()) & set(sizes):
                found.add(op.type)
        for function in _functions(graph, op):
            found |= outputs_with(function, sizes)
    return found
