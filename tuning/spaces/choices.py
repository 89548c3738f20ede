"""Choices that several spaces share, on any object with the interface of KerasTuner's `HyperParameters`."""

from keras_ctr.schema import nearest

EMBEDDING_DIMS = (8, 16, 32, 64)
"""DynInt and Ad-Rec have 16, the BARS runs 32 and 64, INFNet 8 and more."""
DROPOUTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
EMBEDDING_L2 = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
"""INFNet's grid ends at 1e-5, the BARS runs have 5e-7 to 5e-3 (of another scale: a sum over elements a batch)."""
WIDTHS = (128, 256, 512, 1024)
"""DynInt, section 4.1.4: 128 to 1024 neurons."""
LAYERS = (1, 2, 3, 4)
"""DynInt, section 4.1.4: 1 to 4 dense or interaction layers."""


def labelled(hp, name, options, default):
    """Chooses among values that no hyperparameter can hold, such as None or lists, by their labels.

    Args:
        hp: The hyperparameters.
        name: Name of the choice.
        options: `{label: value}`.
        default: The default's label.

    Returns:
        The value; None if the choice is inactive.

    Raises:
        ValueError: If a label was fixed that is none of the options.
    """
    label = hp.Choice(name, list(options), default=default)
    if label is None:
        return None
    if label not in options:
        raise ValueError(f"{name} is fixed at '{label}'{nearest(label, options)}; choices: {', '.join(options)}")
    return options[label]


def units(hp, name, options, default=None):
    """Chooses a stack of layers among tuples of widths, labelled as `"512-256"` and `"none"`; the default is the first.

    Returns:
        A list of widths; None if the choice is inactive.
    """
    labels = {"-".join(map(str, widths)) or "none": list(widths) for widths in options}
    default = options[0] if default is None else default
    return labelled(hp, name, labels, "-".join(map(str, default)) or "none")


def hidden_units(hp, default, *, widths=WIDTHS, layers=LAYERS):
    """Chooses an MLP by depth, first width, and whether its widths stay or halve: DynInt's grid (section 4.1.4) and pyramids.

    The BARS runs' 1024-512-256, 512-256-128 and 400-400-400 are such MLPs, as are the defaults of most factories.

    Args:
        hp: The hyperparameters.
        default: The factory's widths.
        widths: First widths to choose from; that of the default is added.
        layers: Depths to choose from.
    """
    halving = len(default) > 1 and default[1] != default[0]
    if list(default) != _stack(len(default), default[0], halving):
        raise ValueError(f"the widths {default} neither stay nor halve: choose among stacks with `units`")
    depth = hp.Choice("num_hidden_layers", list(layers), default=len(default))
    width = hp.Choice("hidden_width", sorted({*widths, default[0]}), default=default[0])
    with hp.conditional_scope("num_hidden_layers", [n for n in layers if n > 1]):  # a single layer has no shape
        shape = hp.Choice("hidden_shape", ["constant", "halving"], default="halving" if halving else "constant")
    return _stack(depth, width, shape == "halving")


def _stack(depth, width, halving):
    return [width // 2**i if halving else width for i in range(depth)]


def depending(hp, name, parent, options, default):
    """Chooses among values that depend on the value of another choice.

    Parent values with the same list share a hyperparameter, `name` itself if all do; otherwise its name ends in the parent's values
    (`num_subspaces_of_16_32`) and it is active under these only. Oracles tell hyperparameters by their names, and KerasTuner's grid search
    fails where lists under one name differ.

    Args:
        hp: The hyperparameters.
        name: Name of the choice.
        parent: Name of the other, which was drawn before.
        options: `{value of the parent: list of choices}`.
        default: Default; where it is not among the choices, the last one below it.

    Returns:
        The active choice; None if the parent is inactive.

    Raises:
        ValueError: If the parent was fixed at a value without choices.
    """
    groups = {}
    for value, values in options.items():
        groups.setdefault(tuple(values), []).append(value)
    chosen = None
    for values, owners in groups.items():
        best = default if default in values else max((v for v in values if v < default), default=values[0])
        if len(groups) == 1:
            own = name
        else:
            own = f"{name}_of_{'_'.join(map(str, owners))}"
        with hp.conditional_scope(parent, owners):
            drawn = hp.Choice(own, list(values), default=best)
        chosen = drawn if chosen is None else chosen
    if chosen is None and parent in hp and hp.get(parent) not in options:
        raise ValueError(f"{parent}={hp.get(parent)!r} leaves no choice of {name}; it can be {', '.join(map(str, options))}")
    return chosen


def divisors(widths, values):
    """Returns `{width: the values that divide it}` for `depending`."""
    return {width: [v for v in values if width % v == 0] for width in widths}


def embedding_dim(hp, dims=EMBEDDING_DIMS, default=16):
    """Chooses D, the width of an embedding."""
    return hp.Choice("embedding_dim", list(dims), default=default)


def embedding_l2(hp, values=EMBEDDING_L2):
    """Chooses the weight of the L2 penalty on the rows of a batch."""
    return hp.Choice("embedding_l2", list(values), default=0.0)


def regularization(hp, *, dropouts=DROPOUTS, batch_norm=True, l2=EMBEDDING_L2):
    """Returns what MLPs and embeddings are kept from overfitting with: `dropout`, `batch_norm` unless False, `embedding_l2`."""
    chosen = {"dropout": hp.Choice("dropout", list(dropouts), default=0.0), "embedding_l2": embedding_l2(hp, l2)}
    return {**chosen, "batch_norm": hp.Boolean("batch_norm", default=False)} if batch_norm else chosen
