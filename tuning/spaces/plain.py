"""Spaces of linear models, factorization machines and deep networks on embeddings."""

from tuning.spaces.choices import embedding_dim, embedding_l2, hidden_units, regularization


def lr(hp):
    """LR: nothing but the optimizer (DynInt, section 4.1.4, tunes the learning rate of FTRL alone)."""
    return {}


def fm(hp):
    """FM: width and penalty; DynInt (section 4.1.4) and the BARS runs tune no more."""
    return {"embedding_dim": embedding_dim(hp), "embedding_l2": embedding_l2(hp)}


def fm_fm(hp):
    """FmFM: the three forms of the paper; the BARS runs have matrices on Amazon and KuaiVideo, vectors on Taobao."""
    return {
        "embedding_dim": embedding_dim(hp),
        "kind": hp.Choice("kind", ["matrix", "vector", "scalar"], default="matrix"),
        "embedding_l2": embedding_l2(hp),
    }


def dnn(hp):
    """DNN: DynInt, section 4.1.4 (1 to 4 layers of 128 to 1024); the towers of the BARS runs."""
    return {"embedding_dim": embedding_dim(hp), "hidden_units": hidden_units(hp, (512, 256, 128)), **regularization(hp)}


def wide_deep(hp):
    """Wide & Deep: DynInt, section 4.1.4. Which crosses the wide part has is for the user to say."""
    return {"embedding_dim": embedding_dim(hp), "hidden_units": hidden_units(hp, (1024, 512, 256)), **regularization(hp)}


def deep_crossing(hp):
    """DeepCrossing: DynInt, section 4.1.4 (1 to 4 residual units of 128 to 1024)."""
    return {"embedding_dim": embedding_dim(hp), "hidden_units": hidden_units(hp, (256, 256, 256)), **regularization(hp)}


def deep_fm(hp):
    """DeepFM: DynInt, section 4.1.4."""
    return {"embedding_dim": embedding_dim(hp), "hidden_units": hidden_units(hp, (512, 256)), **regularization(hp)}


def pnn(hp):
    """PNN: the products of the paper and its extension (DynInt has both inner and outer), MLP of DynInt, section 4.1.4."""
    chosen = {"embedding_dim": embedding_dim(hp), "product": hp.Choice("product", ["inner", "outer", "both", "kernel"], default="both")}
    with hp.conditional_scope("product", ["kernel"]):
        kind = hp.Choice("kernel_kind", ["matrix", "vector", "scalar"], default="matrix")
    if chosen["product"] == "kernel":
        chosen["kernel_kind"] = kind
    return {**chosen, "hidden_units": hidden_units(hp, (512, 256)), **regularization(hp)}


def fi_bi_net(hp):
    """FiBiNET: the three bilinear forms of the paper; MLP of DynInt, section 4.1.4, and the paper's 400; reduction ratios are ours."""
    return {
        "embedding_dim": embedding_dim(hp),
        "bilinear": hp.Choice("bilinear", ["all", "each", "interaction"], default="interaction"),
        "reduction_ratio": hp.Choice("reduction_ratio", [1, 2, 3, 4], default=3),
        "hidden_units": hidden_units(hp, (400, 400, 400)),
        **regularization(hp),
    }
