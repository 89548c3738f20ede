"""Spaces of multi-task models, and of the large models that are built for several tasks."""

from tuning.spaces.choices import EMBEDDING_DIMS, depending, divisors, embedding_dim, labelled, regularization, units

EXPERTS = ((512, 256, 128), (256, 128), (512, 256))
TOWERS = ((128, 64), (64,), (256, 128))
GATES = ((), (64,), (128, 64))
"""The public benchmarks have experts of 512-256-128, towers and gates of 128-64; the papers' gates are linear. The others are ours."""


def shared_bottom(hp):
    """SharedBottom: sizes of the public benchmarks and smaller ones."""
    return {
        "embedding_dim": embedding_dim(hp),
        "hidden_units": units(hp, "hidden_units", EXPERTS),
        "tower_units": units(hp, "tower_units", TOWERS),
        **regularization(hp),
    }


def mmoe(hp):
    """MMoE, OMoE: 2 to 8 experts around the benchmarks' 4 (ours; 1 would be SharedBottom), linear gates and the benchmarks'."""
    return {
        "embedding_dim": embedding_dim(hp),
        "num_experts": hp.Choice("num_experts", [2, 3, 4, 6, 8], default=4),
        "expert_units": units(hp, "expert_units", EXPERTS),
        "gate_units": units(hp, "gate_units", GATES),
        "tower_units": units(hp, "tower_units", TOWERS),
        **regularization(hp),
    }


def _specific(hp, gates):
    return {
        "embedding_dim": embedding_dim(hp),
        "num_specific_experts": hp.Choice("num_specific_experts", [1, 2, 4], default=1),
        "num_shared_experts": hp.Choice("num_shared_experts", [1, 2, 4], default=1),
        "expert_units": units(hp, "expert_units", EXPERTS),
        "gate_units": units(hp, "gate_units", GATES, default=gates),
        "tower_units": units(hp, "tower_units", TOWERS),
        **regularization(hp),
    }


def ple(hp):
    """PLE: 1 layer (the paper's CGC) to 3; numbers of experts are ours, sizes as for MMoE."""
    return {**_specific(hp, gates=()), "num_layers": hp.Choice("num_layers", [1, 2, 3], default=2)}


def stem(hp):
    """STEM: as PLE of one layer, gates of its authors' code by default."""
    return _specific(hp, gates=(128, 64))


def esmm(hp):
    """ESMM: the paper's towers and the benchmarks'; width 18 of the paper beside the common ones."""
    return {
        "embedding_dim": embedding_dim(hp, sorted({*EMBEDDING_DIMS, 18})),
        "tower_units": units(hp, "tower_units", [(360, 200, 80), (512, 256, 128), (256, 128), (128, 64)]),
        **regularization(hp),
    }


def rank_mixer(hp):
    """RankMixer: the paper's 16 and 32 tokens and 2 layers, and smaller data's; tokens divide their width.

    Tokens are cut from the embeddings side by side: at least twice D is assumed, two fields.
    """
    return {
        "embedding_dim": embedding_dim(hp),
        "num_layers": hp.Choice("num_layers", [1, 2, 3, 4], default=2),
        "num_tokens": depending(hp, "num_tokens", "embedding_dim", {d: [t for t in (8, 16, 32) if t <= 2 * d] for d in EMBEDDING_DIMS}, 16),
        "hidden_dim": hp.Choice("hidden_dim", [32, 64, 128, 256], default=64),  # multiples of every number of tokens
        "expansion": hp.Choice("expansion", [2, 4], default=4),
        "tower_units": units(hp, "tower_units", TOWERS),
        **regularization(hp, batch_norm=False),
    }


def one_trans(hp):
    """OneTrans: the paper's 6 and 8 layers and 4 heads, and smaller models for smaller data; the shares of the pyramid are ours.

    A single layer leaves no events to another, and has no pyramid.
    """
    layers, dims = [1, 2, 3, 4, 6, 8], (32, 64, 128, 256)
    shares = {"linear": "linear", "0.25": 0.25, "0.5": 0.5, "0.75": 0.75, "none": 1.0}
    depth = hp.Choice("num_layers", layers, default=3)
    with hp.conditional_scope("num_layers", layers[1:]):
        pyramid = labelled(hp, "pyramid", shares, "linear")
    chosen = {
        "embedding_dim": embedding_dim(hp),
        "num_layers": depth,
        "num_tokens": hp.Choice("num_tokens", [4, 8, 16], default=8),
        "hidden_dim": hp.Choice("hidden_dim", list(dims), default=64),
        "num_heads": depending(hp, "num_heads", "hidden_dim", divisors(dims, (1, 2, 4, 8)), default=4),
        "expansion": hp.Choice("expansion", [2, 4], default=4),
        "tower_units": units(hp, "tower_units", TOWERS),
        **regularization(hp, batch_norm=False),
    }
    return chosen if pyramid is None else {**chosen, "pyramid": pyramid}


def infnet(hp):
    """INFNet (version 2): D, dropout and L2 of the paper's set-up, up to its 4 blocks, 1 to 32 hubs of each kind (its sensitivity study).

    With one block there are no hubs but those of the tasks. Heads are ours; the paper has one.
    """
    dims, hubs = (8, 16, 32, 64, 96, 128), [1, 2, 4, 8, 16, 32]
    chosen = {
        "embedding_dim": embedding_dim(hp, dims),
        "num_layers": hp.Choice("num_layers", [1, 2, 3, 4], default=4),
        "num_heads": depending(hp, "num_heads", "embedding_dim", divisors(dims, (1, 2, 4, 8)), default=1),
        "num_shared_task_hubs": hp.Choice("num_shared_task_hubs", hubs, default=4),
        "tower_units": units(hp, "tower_units", TOWERS),
        **regularization(hp, dropouts=(0.0, 0.1, 0.2), batch_norm=False, l2=(0.0, 1e-7, 1e-6, 1e-5)),
    }
    with hp.conditional_scope("num_layers", [2, 3, 4]):
        more = {
            "num_categorical_hubs": hp.Choice("num_categorical_hubs", hubs, default=16),
            "num_sequence_hubs": hp.Choice("num_sequence_hubs", hubs, default=1),
        }
    return chosen if more["num_sequence_hubs"] is None else {**chosen, **more}
