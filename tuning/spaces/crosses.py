"""Spaces of models with explicit crosses, products and polynomials of features."""

from tuning.spaces.choices import (
    EMBEDDING_DIMS,
    LAYERS,
    depending,
    divisors,
    embedding_dim,
    embedding_l2,
    hidden_units,
    labelled,
    regularization,
    units,
)

SUBSPACES = (1, 2, 4, 8, 16)
BOTTOM = ((512, 256, 64), (512, 256), (1024, 768, 512, 256, 128, 64))
TOP = ((512, 256), (512, 512, 256), (1024, 768, 512, 256))
"""Bottom and top MLPs of Ad-Rec's Tables 1 and 7: Criteo Kaggle, Criteo Terabyte, and Table 7's larger ones."""


def dcn(hp):
    """DCN: MLP of DynInt, section 4.1.4; up to 6 crosses, the number of the paper's best model and of the BARS run on Amazon."""
    return {
        "embedding_dim": embedding_dim(hp),
        "num_cross_layers": hp.Choice("num_cross_layers", [1, 2, 3, 4, 5, 6], default=6),
        "hidden_units": hidden_units(hp, (1024, 1024)),
        **regularization(hp),
    }


def dcn_v2(hp):
    """DCNv2: both structures of the paper, MLP and 1 to 4 crosses of DynInt, section 4.1.4; rank 32 is InterFormer's (appendix B.2).

    The other ranks and the numbers of experts are ours.
    """
    chosen = {
        "embedding_dim": embedding_dim(hp),
        "structure": hp.Choice("structure", ["parallel", "stacked"], default="parallel"),
        "num_cross_layers": hp.Choice("num_cross_layers", list(LAYERS), default=3),
    }
    form = hp.Choice("parameterization", ["matrix", "low_rank", "mixture"], default="matrix")
    with hp.conditional_scope("parameterization", ["low_rank", "mixture"]):
        rank = hp.Choice("rank", [16, 32, 64, 128], default=32)
    with hp.conditional_scope("parameterization", ["mixture"]):
        experts = hp.Choice("num_experts", [2, 4, 8], default=4)
    if form != "matrix":
        chosen |= {"parameterization": form, "rank": rank}
    if form == "mixture":
        chosen["num_experts"] = experts
    return {**chosen, "hidden_units": hidden_units(hp, (512, 256)), **regularization(hp)}


def gdcn(hp):
    """GDCN: both structures of the paper, MLP and 1 to 4 crosses of DynInt, section 4.1.4, and 6 and 8, since gates let depth grow."""
    return {
        "embedding_dim": embedding_dim(hp),
        "structure": hp.Choice("structure", ["parallel", "stacked"], default="parallel"),
        "num_cross_layers": hp.Choice("num_cross_layers", [*LAYERS, 6, 8], default=3),
        "hidden_units": hidden_units(hp, (512, 256)),
        **regularization(hp),
    }


def x_deep_fm(hp):
    """XDeepFM: the feature maps of the BARS runs (16; 64-64; 256-256-256) and of InterFormer (32, appendix B.2); MLP of DynInt."""
    return {
        "embedding_dim": embedding_dim(hp),
        "cin_units": units(hp, "cin_units", [(64, 64), (16,), (32,), (128, 128), (256, 256, 256)]),
        "hidden_units": hidden_units(hp, (512, 256)),
        **regularization(hp),
    }


def _polynomial(hp):
    return {
        "embedding_dim": embedding_dim(hp),
        "num_layers": hp.Choice("num_layers", list(LAYERS), default=3),
        "num_subspaces": depending(hp, "num_subspaces", "embedding_dim", divisors(EMBEDDING_DIMS, SUBSPACES), default=4),
        "embedding_l2": embedding_l2(hp),
    }


def x_deep_int(hp):
    """XDeepInt: 1 to 4 layers, 1, 2, 4, 8 and 16 subspaces, as far as they divide D (DynInt, section 4.1.4).

    The paper holds D at 16 and has its penalties in the optimizer: fix `embedding_dim` and `embedding_l2` for its grid alone.
    """
    return _polynomial(hp)


def dyn_int(hp, variants=("dgp", "da", "dwp")):
    """DynInt: xDeepInt's grid, reduction ratio 2 to 16, kernel size 16 to 128 (dgp), rank 1 to 4 (dwp) (section 4.1.4).

    Orthogonality rates are ours (the paper shows curves without rates, Figure 7b); there are none for da, and none at rank 1, where
    nothing can be orthogonal. Kernel size `"auto"` is the factory's, a tenth of the crossed fields.
    """
    chosen = _polynomial(hp)
    chosen["reduction_ratio"] = hp.Choice("reduction_ratio", [2, 4, 8, 16], default=4)
    if len(variants) == 1:
        variant = variants[0]
        return {"variant": variant, **chosen, **_dynamic(hp, variant)}
    variant = hp.Choice("variant", list(variants), default=variants[0])
    for candidate in variants:
        with hp.conditional_scope("variant", [candidate]):
            more = _dynamic(hp, candidate)
        if variant == candidate:
            chosen |= more
    return {"variant": variant, **chosen}


def _dynamic(hp, variant):
    rates = [0.0, 1e-5, 1e-4, 1e-3, 1e-2]
    if variant == "dgp":
        sizes = {"auto": None, "16": 16, "32": 32, "64": 64, "128": 128}
        return {
            "rank": labelled(hp, "kernel_size", sizes, "auto"),
            "orthogonality": hp.Choice("orthogonality_of_dgp", rates, default=0.0),
        }
    if variant == "dwp":
        rank = hp.Choice("weighting_rank", [1, 2, 3, 4], default=2)
        with hp.conditional_scope("weighting_rank", [2, 3, 4]):
            rate = hp.Choice("orthogonality_of_dwp", rates, default=0.0)
        return {"rank": rank} if rate is None else {"rank": rank, "orthogonality": rate}
    return {}


def dyn_int_da(hp):
    """DynInt-DA: see `dyn_int`."""
    return dyn_int(hp, ("da",))


def dyn_int_dgp(hp):
    """DynInt-DGP: see `dyn_int`."""
    return dyn_int(hp, ("dgp",))


def dyn_int_dwp(hp):
    """DynInt-DWP: see `dyn_int`."""
    return dyn_int(hp, ("dwp",))


def dhen(hp):
    """DHEN: 1 to 3 layers of dot products and crosses of rank 32 (InterFormer, appendix B.2), summed or weighed; MLP of DynInt."""
    return {
        "embedding_dim": embedding_dim(hp),
        "ensemble": hp.Choice("ensemble", ["sum", "weighted"], default="sum"),
        "num_layers": hp.Choice("num_layers", [1, 2, 3], default=2),
        "hidden_units": hidden_units(hp, (512, 256)),
        **regularization(hp),
    }


def wukong(hp):
    """Wukong: the paper scales all sizes together; this grid around the defaults is ours, MLP of DynInt, section 4.1.4."""
    return {
        "embedding_dim": embedding_dim(hp),
        "num_layers": hp.Choice("num_layers", list(LAYERS), default=3),
        "fm_tokens": hp.Choice("fm_tokens", [8, 16, 32], default=16),
        "linear_tokens": hp.Choice("linear_tokens", [8, 16, 32], default=16),
        "rank": hp.Choice("rank", [8, 16, 24, 32], default=24),
        "fm_hidden_units": units(hp, "fm_hidden_units", [(512,), (256,), (1024,)]),
        "hidden_units": hidden_units(hp, (512, 256)),
        **regularization(hp),
    }


def dot(hp):
    """DOT: with or without squares; MLP of DynInt, section 4.1.4."""
    return {
        "embedding_dim": embedding_dim(hp),
        "self_interaction": hp.Boolean("self_interaction", default=False),
        "hidden_units": hidden_units(hp, (512, 256)),
        **regularization(hp),
    }


def dlrm(hp):
    """DLRM: both interactions of its code; widths and MLPs of Ad-Rec's Tables 1 and 7."""
    chosen = {"embedding_dim": embedding_dim(hp), "interaction": hp.Choice("interaction", ["dot", "cat"], default="dot")}
    with hp.conditional_scope("interaction", ["dot"]):
        squares = hp.Boolean("self_interaction", default=False)
    if squares is not None:
        chosen["self_interaction"] = squares
    return {
        **chosen,
        "bottom_units": units(hp, "bottom_units", BOTTOM),
        "hidden_units": units(hp, "hidden_units", TOP),
        **regularization(hp),
    }
