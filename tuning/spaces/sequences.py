"""Spaces of models of behaviour sequences."""

from tuning.spaces.attention import encoder, thresholds
from tuning.spaces.choices import EMBEDDING_DIMS, depending, divisors, embedding_dim, hidden_units, regularization, units
from tuning.spaces.crosses import BOTTOM

ATTENTION = ((80, 40), (36,), (64,), (256, 128), (512, 256))
"""Networks that score an event: of later codes of DIN's authors, DIN's paper, and the BARS runs (256-128, 512-256).
InterFormer's appendix B.2 has widths from 64 to 512."""
TOWERS = ((200, 80), (512, 256, 128), (1024, 512, 256))
"""The MLP of the authors of DIN and DIEN, and those of the BARS runs (Taobao; Amazon and KuaiVideo)."""


def din(hp):
    """DIN: networks of the paper, its authors' codes and BARS, whose softmax is on for Amazon and off for Taobao and KuaiVideo."""
    return {
        "embedding_dim": embedding_dim(hp),
        "attention_units": units(hp, "attention_units", ATTENTION),
        "use_softmax": hp.Boolean("use_softmax", default=False),
        "hidden_units": units(hp, "hidden_units", TOWERS),
        **regularization(hp),
    }


def _auxiliary(hp, default):
    """The weight of an auxiliary loss, and how it compares states with events if there is one."""
    weight = hp.Choice("auxiliary_weight", [0.0, 0.1, 1.0], default=default)
    with hp.conditional_scope("auxiliary_weight", [0.1, 1.0]):
        kind = hp.Choice("auxiliary", ["inner", "mlp"], default="inner")
    return {"auxiliary_weight": weight} if kind is None else {"auxiliary_weight": weight, "auxiliary": kind}


def dien(hp):
    """DIEN: the gates that the paper compares, attention of paper and code, auxiliary loss or none as in the BARS runs."""
    chosen = {
        "embedding_dim": embedding_dim(hp),
        "evolution": hp.Choice("evolution", ["augru", "agru", "aigru"], default="augru"),
        "attention": hp.Choice("attention", ["bilinear", "din"], default="bilinear"),
    }
    with hp.conditional_scope("attention", ["din"]):
        scorer = units(hp, "attention_units", ATTENTION)
    if scorer is not None:
        chosen["attention_units"] = scorer
    return {**chosen, **_auxiliary(hp, 1.0), "hidden_units": units(hp, "hidden_units", TOWERS), **regularization(hp)}


def bst(hp):
    """BST: 1 to 3 blocks (ours), heads of InterFormer's appendix B.2 (the BARS runs have 8 and 4), pooling of the public codes."""
    pooling = hp.Choice("pooling", ["flatten_newest", "target", "mean", "sum"], default="flatten_newest")
    with hp.conditional_scope("pooling", ["flatten_newest"]):
        newest = hp.Choice("num_recent", [10, 20, 50], default=20)
    chosen = {
        "embedding_dim": embedding_dim(hp),
        "num_layers": hp.Choice("num_layers", [1, 2, 3], default=1),
        "num_heads": depending(hp, "num_heads", "embedding_dim", divisors(EMBEDDING_DIMS, (1, 2, 4, 8)), default=8),
        "positions": hp.Choice("positions", ["learned", "sinusoid"], default="learned"),
        "pooling": pooling,
        "layer_norm": hp.Boolean("layer_norm", default=True),
        "hidden_units": units(hp, "hidden_units", [(1024, 512, 256), (512, 256, 128), (200, 80)]),
        **regularization(hp),
    }
    return chosen if newest is None else {**chosen, "num_recent": newest}


def can(hp):
    """CAN: orders 1 to 3 and the biases that the paper writes; widths of the micro-MLP around its code's 16-8-4 are ours."""
    return {
        "embedding_dim": embedding_dim(hp),
        "feed_dim": hp.Choice("feed_dim", [8, 16, 32], default=16),
        "co_action_units": units(hp, "co_action_units", [(8, 4), (4, 4), (16, 8)]),
        "orders": hp.Choice("orders", [1, 2, 3], default=3),
        "co_action_bias": hp.Boolean("co_action_bias", default=False),
        "hidden_units": units(hp, "hidden_units", TOWERS),
        **regularization(hp),
    }


def dmin(hp):
    """DMIN: the BARS runs' 1, 2 and 8 heads, refiner on (Amazon) or off (Taobao, KuaiVideo); as in DIEN otherwise."""
    refiner = hp.Boolean("use_refiner", default=True)
    with hp.conditional_scope("use_refiner", [True]):
        auxiliary = _auxiliary(hp, 1.0)
    chosen = {
        "embedding_dim": embedding_dim(hp),
        "num_heads": depending(hp, "num_heads", "embedding_dim", divisors(EMBEDDING_DIMS, (1, 2, 4, 8)), default=4),
        "use_refiner": refiner,
        "attention_units": units(hp, "attention_units", ATTENTION),
        "position_dim": hp.Choice("position_dim", [4, 8, 16], default=4),
        "hidden_units": units(hp, "hidden_units", TOWERS),
        **regularization(hp),
    }
    return {**chosen, **auxiliary} if refiner else chosen


def dmr(hp):
    """DMR: parts of its two networks on or off as in the BARS runs, but never both off; weights around the paper's 0.1 of the loss."""
    items = hp.Choice("item_to_item", ["full", "pooled", "off"], default="full")
    with hp.conditional_scope("item_to_item", ["full", "pooled"]):
        user = hp.Boolean("user_to_item", default=True)
        with hp.conditional_scope("user_to_item", [True]):
            weight = hp.Choice("auxiliary_weight", [0.0, 0.1, 1.0], default=0.1)
    with hp.conditional_scope("item_to_item", ["off"]):
        alone = hp.Choice("auxiliary_weight_alone", [0.0, 0.1, 1.0], default=0.1)
    chosen = {
        "embedding_dim": embedding_dim(hp),
        "item_to_item": items,
        "user_to_item": True if items == "off" else user,
        "attention_units": units(hp, "attention_units", ATTENTION),
        "position_dim": hp.Choice("position_dim", [4, 8, 16], default=8),
        "hidden_units": units(hp, "hidden_units", TOWERS, default=(512, 256, 128)),
        **regularization(hp),
    }
    weight = alone if items == "off" else weight
    return chosen if weight is None else {**chosen, "auxiliary_weight": weight}


def hstu(hp):
    """HSTU: layers are ours, heads InterFormer's (appendix B.2), MLP of DynInt, section 4.1.4. `max_length` is the data's."""
    return {
        "embedding_dim": embedding_dim(hp),
        "num_layers": hp.Choice("num_layers", [1, 2, 4], default=2),
        "num_heads": depending(hp, "num_heads", "embedding_dim", divisors(EMBEDDING_DIMS, (1, 2, 4, 8)), default=1),
        "hidden_units": hidden_units(hp, (512, 256)),
        **regularization(hp),
    }


def trans_act(hp):
    """TransAct: the code's 2 layers, 2 heads, 32 hidden units and 10 newest, and sizes around them, which are ours; DCN V2 as there."""
    return {
        "embedding_dim": embedding_dim(hp),
        "num_layers": hp.Choice("num_layers", [1, 2, 3], default=2),
        "num_heads": depending(hp, "num_heads", "embedding_dim", divisors(EMBEDDING_DIMS, (1, 2, 4, 8)), default=2),
        "ffn_units": hp.Choice("ffn_units", [32, 64, 128], default=32),
        "num_recent": hp.Choice("num_recent", [1, 5, 10, 20], default=10),
        "structure": hp.Choice("structure", ["parallel", "stacked"], default="parallel"),
        "num_cross_layers": hp.Choice("num_cross_layers", [1, 2, 3, 4], default=2),
        "rank": hp.Choice("rank", [16, 32, 64], default=32),
        "hidden_units": hidden_units(hp, (512, 256)),
        **regularization(hp),
    }


def _searched(hp):
    return {
        "embedding_dim": embedding_dim(hp),
        "num_selected": hp.Choice("num_selected", [20, 50, 100], default=50),
        "num_heads": depending(hp, "num_heads", "embedding_dim", divisors(EMBEDDING_DIMS, (1, 2, 4, 8)), default=2),
        "hidden_units": units(hp, "hidden_units", TOWERS),
        **regularization(hp),
    }


def _recent(hp):
    """The short history of SIM and ETA, and the network that scores its events."""
    newest = hp.Choice("num_recent", [0, 10, 20], default=10)
    with hp.conditional_scope("num_recent", [10, 20]):
        scorer = units(hp, "attention_units", ATTENTION)
    return {"num_recent": newest} if scorer is None else {"num_recent": newest, "attention_units": scorer}


def sim(hp):
    """SIM: both searches of the paper, heads of InterFormer's appendix B.2; numbers of events are ours, for histories of hundreds."""
    return {**_searched(hp), **_recent(hp), "search": hp.Choice("search", ["soft", "hard"], default="soft")}


def eta(hp):
    """ETA: as SIM, with 16 to 64 bits of a hash (ours)."""
    return {**_searched(hp), **_recent(hp), "num_hashes": hp.Choice("num_hashes", [16, 32, 64], default=32)}


def _sequence_layer(hp):
    """The layers over time of Ad-Rec's RM4 to RM7, each with its own sizes."""
    kind = hp.Choice("sequence_layer", ["tsl", "mha", "lstm", "transformer"], default="tsl")
    with hp.conditional_scope("sequence_layer", ["tsl"]):
        tsl = {
            "num_sequence_heads": hp.Choice("tsl_heads", [1, 2, 4], default=1),
            "inner": hp.Choice("inner", ["def", "ind", "dot"], default="def"),
            "mechanism": hp.Choice("mechanism", ["mlp", "mul"], default="mlp"),
        }
    with hp.conditional_scope("sequence_layer", ["mha"]):
        mha = {"num_sequence_heads": hp.Choice("mha_heads", [1, 2, 4, 8], default=8)}
    with hp.conditional_scope("sequence_layer", ["lstm"]):
        lstm = {"num_sequence_layers": hp.Choice("lstm_layers", [1, 2, 5], default=5)}
    with hp.conditional_scope("sequence_layer", ["transformer"]):
        transformer = {
            "num_sequence_heads": hp.Choice("transformer_heads", [1, 2, 4, 8], default=2),
            "num_sequence_layers": hp.Choice("transformer_layers", [1, 2], default=1),
            "tower_units": [15, 16],  # RM7: heads divide the width, 15 elsewhere
        }
    return {"sequence_layer": kind, **{"tsl": tsl, "mha": mha, "lstm": lstm, "transformer": transformer}[kind]}


def tbsm(hp):
    """TBSM: the layers over time of Ad-Rec's RM4 to RM7 (Table 1) and the products of TBSM's code; numbers of heads and layers are ours.

    `window` is the length of the data's histories.
    """
    return {
        "embedding_dim": embedding_dim(hp),
        **_sequence_layer(hp),
        "bottom_units": units(hp, "bottom_units", [(), *BOTTOM[:2]]),
        "hidden_units": units(hp, "hidden_units", [(60,), (120,), (120, 60)]),
        **regularization(hp, batch_norm=False),
    }


def ad_rec_sequential(hp):
    """AdRecSequential: the encoder of Ad-Rec's Table 6 with the masks of `ad_rec`, over time as in `tbsm`."""
    chosen = encoder(hp)
    geometric = [10.0**-head for head in range(1, chosen["num_heads"] + 1)]
    return {**chosen, "mask_thresholds": thresholds(hp, geometric), **_sequence_layer(hp)}


def interformer(hp):
    """InterFormer: layers 1 to 4 (section 5.3.1), 1 to 8 CLS, 1 to 4 PMA and 0 to 4 recent tokens around appendix B.2's 4, 2 and 2.

    Heads 1, 2, 4 and 8 as far as D / heads is even (rotary positions), the three backbones of Figure 2, 1 to 3 DHEN layers, heads of
    1024-512-256-128 and its parts (appendix B.2). The field summary has as many tokens as there are CLS tokens, as in the paper.
    """
    heads = {dim: [h for h in (1, 2, 4, 8) if dim % (2 * h) == 0] for dim in EMBEDDING_DIMS}
    cls = hp.Choice("num_cls", list(range(1, 9)), default=4)
    backbone = hp.Choice("backbone", ["dhen", "dcnv2", "dot"], default="dhen")
    with hp.conditional_scope("backbone", ["dhen"]):
        inner = hp.Choice("num_inner_layers", [1, 2, 3], default=1)
    chosen = {
        "embedding_dim": embedding_dim(hp),
        "num_layers": hp.Choice("num_layers", [1, 2, 3, 4], default=2),
        "num_heads": depending(hp, "num_heads", "embedding_dim", heads, default=2),
        "num_summary": cls,
        "num_cls": cls,
        "num_pma": hp.Choice("num_pma", [1, 2, 3, 4], default=2),
        "num_recent": hp.Choice("num_recent", [0, 1, 2, 3, 4], default=2),
        "backbone": backbone,
        "hidden_units": units(hp, "hidden_units", [(512, 256, 128), (256, 128), (1024, 512, 256), (1024, 512, 256, 128)]),
        **regularization(hp),
    }
    return chosen if inner is None else {**chosen, "num_inner_layers": inner}
