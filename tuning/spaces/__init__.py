"""One search space a model: `space(hp) -> keyword arguments of its factory`.

    name, space = get_space("DynInt-DGP")
    model = keras_ctr.get_model(name, schema, **space(hp))

`hp` is a `keras_tuner.HyperParameters`, or any object with its `Choice`, `Boolean`, `Float`, `conditional_scope` and `get`, such as
`tuning.spaces.draw.Draw`. What spaces have in common:

- All values go into JSON: tuples of widths are lists.
- The default of every choice is the factory's, so a space at its defaults is the model at its defaults.
- **Every call declares all branches**, each in its `conditional_scope`: one call on a fresh `HyperParameters` finds the whole space, and
  only active choices enter the arguments. Where the choices depend on another's value, each list of choices is a hyperparameter with a
  name of its own (`num_subspaces_of_8`), so that no oracle ever draws a combination that the factory refuses.
- To hold a choice, fix it before the call: `hp.Fixed("embedding_dim", 16)` holds D as DynInt's paper does.
- `embedding_l2`, `dropout` and `batch_norm` are arguments of factories and are drawn here; `tuning.training` draws the optimizer.
- Not searched: `numeric` and names of features, which are the data's, readings of a paper that its authors do not compare, ablations.
"""

from keras_ctr.schema import nearest
from tuning.spaces import attention, crosses, gates, plain, sequences, tasks

VARIANTS = {
    "AutoInt+": ("AutoInt", {}),
    "DynInt-DA": ("DynInt", {"variant": "da"}),
    "DynInt-DGP": ("DynInt", {"variant": "dgp"}),
    "DynInt-DWP": ("DynInt", {"variant": "dwp"}),
}
"""Names beside the registered models: `(model, arguments that the name fixes)`."""

SPACES = {
    "APG": gates.apg,
    "AdRec": attention.ad_rec,
    "AdRecSequential": sequences.ad_rec_sequential,
    "AutoInt": attention.auto_int,
    "AutoInt+": attention.auto_int_plus,
    "BST": sequences.bst,
    "CAN": sequences.can,
    "DCN": crosses.dcn,
    "DCNv2": crosses.dcn_v2,
    "DHEN": crosses.dhen,
    "DIEN": sequences.dien,
    "DIN": sequences.din,
    "DLRM": crosses.dlrm,
    "DMIN": sequences.dmin,
    "DMR": sequences.dmr,
    "DNN": plain.dnn,
    "DOT": crosses.dot,
    "DeepCrossing": plain.deep_crossing,
    "DeepFM": plain.deep_fm,
    "DynInt": crosses.dyn_int,
    "DynInt-DA": crosses.dyn_int_da,
    "DynInt-DGP": crosses.dyn_int_dgp,
    "DynInt-DWP": crosses.dyn_int_dwp,
    "ESMM": tasks.esmm,
    "ETA": sequences.eta,
    "FM": plain.fm,
    "FiBiNET": plain.fi_bi_net,
    "FmFM": plain.fm_fm,
    "GDCN": crosses.gdcn,
    "GateNet": gates.gate_net,
    "HSTU": sequences.hstu,
    "INFNet": tasks.infnet,
    "InterFormer": sequences.interformer,
    "LHUC": gates.lhuc,
    "LR": plain.lr,
    "MMoE": tasks.mmoe,
    "MaskNet": gates.mask_net,
    "OMoE": tasks.mmoe,
    "OneTrans": tasks.one_trans,
    "PLE": tasks.ple,
    "PNN": plain.pnn,
    "POSO": gates.poso,
    "PPNet": gates.pp_net,
    "RankMixer": tasks.rank_mixer,
    "SIM": sequences.sim,
    "STEM": tasks.stem,
    "SharedBottom": tasks.shared_bottom,
    "TBSM": sequences.tbsm,
    "TransAct": sequences.trans_act,
    "WideDeep": plain.wide_deep,
    "Wukong": crosses.wukong,
    "XDeepFM": crosses.x_deep_fm,
    "XDeepInt": crosses.x_deep_int,
}
"""Name of a model or of a variant -> its space."""


def get_space(name):
    """Returns `(name of the registered model, space)`; upper and lower case are the same.

    Raises:
        KeyError: If there is no such space, with the nearest name.
    """
    by_lower = {key.lower(): key for key in SPACES}
    if str(name).lower() not in by_lower:
        raise KeyError(f"no search space '{name}'{nearest(name, SPACES)}; spaces: {', '.join(SPACES)}")
    found = by_lower[str(name).lower()]
    return VARIANTS.get(found, (found,))[0], SPACES[found]
