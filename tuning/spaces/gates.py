"""Spaces of models that gate, mask or generate their hidden layers."""

from tuning.spaces.choices import embedding_dim, hidden_units, labelled, regularization, units


def mask_net(hp):
    """MaskNet: both structures; the BARS runs' norms (on or off) and reduction ratios 0.1, 0.2 and 0.8 beside the paper's of 1 and more.

    Numbers and widths of blocks are ours.
    """
    structure = hp.Choice("structure", ["parallel", "serial"], default="parallel")
    blocks = hp.Choice("num_blocks", [1, 2, 3, 4, 5], default=3)
    width = hp.Choice("block_width", [64, 128, 256, 512], default=256)
    with hp.conditional_scope("structure", ["parallel"]):  # the serial form has no MLP to normalise
        batch_norm = hp.Boolean("batch_norm", default=False)
    chosen = {
        "embedding_dim": embedding_dim(hp),
        "structure": structure,
        "block_units": [width] * blocks,
        "reduction_ratio": hp.Choice("reduction_ratio", [0.1, 0.2, 0.8, 1.0, 2.0, 3.0], default=2.0),
        "embedding_norm": hp.Boolean("embedding_norm", default=True),
        "block_norm": hp.Boolean("block_norm", default=True),
        **regularization(hp, batch_norm=False),
    }
    return chosen if batch_norm is None else {**chosen, "batch_norm": batch_norm}


def gate_net(hp):
    """GateNet: both gates of the paper, private and shared, each on or off; MLP of DynInt, section 4.1.4."""
    gates = {"vector": "vector", "bit": "bit", "none": None}
    chosen = {
        "embedding_dim": embedding_dim(hp),
        "feature_gate": labelled(hp, "feature_gate", gates, "vector"),
        "hidden_gate": hp.Boolean("hidden_gate", default=True),
    }
    with hp.conditional_scope("feature_gate", ["vector", "bit"]):
        sharing = hp.Choice("gate_sharing", ["private", "shared"], default="private")
    if sharing is not None:
        chosen["gate_sharing"] = sharing
    return {**chosen, "hidden_units": hidden_units(hp, (512, 256, 128)), **regularization(hp)}


def apg(hp):
    """APG: the three conditions of the paper; ranks and widths of the generating networks are ours; MLP of DynInt, section 4.1.4."""
    return {
        "embedding_dim": embedding_dim(hp),
        "condition": hp.Choice("condition", ["group", "mix", "self"], default="group"),
        "rank": hp.Choice("rank", [4, 8, 16, 32], default=8),
        "bias": hp.Choice("bias", ["static", "adaptive"], default="static"),
        "gate_units": units(hp, "gate_units", [(), (32,), (64,)]),
        "hidden_units": hidden_units(hp, (512, 256, 128)),
        **regularization(hp),
    }


def lhuc(hp):
    """LHUC: widths of the gates are ours, the MLP DynInt's (section 4.1.4)."""
    return {
        "embedding_dim": embedding_dim(hp),
        "gate_units": units(hp, "gate_units", [(64,), (), (32,), (128,)]),
        "hidden_units": hidden_units(hp, (512, 256, 128)),
        **regularization(hp),
    }


def poso(hp):
    """POSO: both forms of the paper; numbers of networks and widths of gates are ours, the MLP DynInt's (section 4.1.4)."""
    chosen = {"embedding_dim": embedding_dim(hp), "form": hp.Choice("form", ["masks", "networks"], default="masks")}
    with hp.conditional_scope("form", ["networks"]):
        networks = hp.Choice("num_networks", [2, 3, 4], default=2)
    if networks is not None:
        chosen["num_networks"] = networks
    return {
        **chosen,
        "gate_units": units(hp, "gate_units", [(), (32,), (64,)]),
        "hidden_units": hidden_units(hp, (512, 256, 128)),
        **regularization(hp),
    }


def pp_net(hp):
    """PPNet: widths of the gates are ours, the MLP DynInt's (section 4.1.4)."""
    return {
        "embedding_dim": embedding_dim(hp),
        "gate_units": hp.Choice("gate_units", [32, 64, 128, 256], default=64),
        "hidden_units": hidden_units(hp, (512, 256, 128)),
        **regularization(hp),
    }
