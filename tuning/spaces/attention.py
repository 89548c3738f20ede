"""Spaces of models whose fields attend to each other."""

from tuning.spaces.choices import LAYERS, depending, divisors, embedding_dim, hidden_units, labelled, regularization, units
from tuning.spaces.crosses import BOTTOM, TOP

AD_REC_DROPOUTS = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3)
THRESHOLDS = (0.1, 0.05, 0.01, 0.005, 0.001)


def auto_int(hp):
    """AutoInt: 1 to 4 layers (DynInt, section 4.1.4), 1 to 4 heads as in the BARS runs; widths of a head around the paper's 32 are ours.

    Without an MLP there is nothing to normalise: `auto_int_plus` has it.
    """
    return {**_interacting(hp), **regularization(hp, batch_norm=False)}


def auto_int_plus(hp):
    """AutoInt+: AutoInt beside the MLP of DynInt, section 4.1.4; its default, 512-256, is that of DeepFM."""
    return {**_interacting(hp), "hidden_units": hidden_units(hp, (512, 256)), **regularization(hp)}


def _interacting(hp):
    return {
        "embedding_dim": embedding_dim(hp),
        "num_layers": hp.Choice("num_layers", list(LAYERS), default=3),
        "num_heads": hp.Choice("num_heads", [1, 2, 4], default=2),
        "key_dim": hp.Choice("key_dim", [8, 16, 32, 64], default=32),
    }


def encoder(hp):
    """Ad-Rec's encoder: layers, heads as far as they divide D, dropout, activation, D and width of the FFN (Table 6).

    A dropout of 0, the factories' default, is added.
    """
    dims, heads = (16, 64), (1, 2, 4, 8, 16)
    return {
        "embedding_dim": embedding_dim(hp, dims),
        "num_layers": hp.Choice("num_layers", [1, 2, 4], default=1),
        "num_heads": depending(hp, "num_heads", "embedding_dim", divisors(dims, heads), default=2),
        "ffn_units": hp.Choice("ffn_units", [128, 512], default=128),
        "hidden_activation": hp.Choice("hidden_activation", ["relu", "gelu"], default="relu"),
        **regularization(hp, dropouts=AD_REC_DROPOUTS, batch_norm=False),
    }


def thresholds(hp, geometric):
    """Ad-Rec's mask: one threshold for all heads or none (the table of masks), or one a head."""
    options = {"geometric": geometric, "none": None, **{str(value): value for value in THRESHOLDS}}
    return labelled(hp, "mask_thresholds", options, "geometric")


def ad_rec(hp):
    """AdRec: its encoder (Table 6), thresholds of its table of masks, MLPs of Tables 1 and 7. With as many heads as D it may diverge."""
    return {
        **encoder(hp),
        "mask_thresholds": thresholds(hp, "geometric"),
        "bottom_units": units(hp, "bottom_units", BOTTOM),
        "hidden_units": units(hp, "hidden_units", TOP),
    }
