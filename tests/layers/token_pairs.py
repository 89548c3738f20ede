"""Which tensors of a traced step have two axes of tokens: the check that a cost is linear in their number."""


def token_pairs(layer, hubs, tokens, mask, axes):
    """Shapes in the graph of forward and backward pass of a block with at least two axes whose length is one of `axes`."""
    import tensorflow as tf

    @tf.function
    def step(hubs, tokens, mask):
        with tf.GradientTape() as tape:
            tape.watch([hubs, tokens])
            out = layer(hubs, tokens, mask=mask)
            loss = sum(tf.reduce_sum(x**2) for group in out.values() for x in group.values())
        return tape.gradient(loss, [hubs, tokens, *(w.value for w in layer.trainable_weights)], unconnected_gradients="zero")

    return pairs_in(step.get_concrete_function(hubs, tokens, mask).graph, axes)


def pairs_in(graph, axes):
    """The same for a graph and all functions it calls."""
    graphs, seen, found = [graph], set(), set()
    while graphs:
        graph = graphs.pop()
        if id(graph) in seen:
            continue
        seen.add(id(graph))
        graphs += [f.graph for f in graph._functions.values() if hasattr(f, "graph")]
        for operation in graph.get_operations():
            for tensor in operation.outputs:
                shape = tensor.shape.as_list() if tensor.shape.rank is not None else []
                if tensor.dtype.is_floating and sum(size in axes for size in shape) > 1:
                    found.add(tuple(shape))
    return found
