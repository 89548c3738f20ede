"""The sweeps of DynInt's hyper-parameter study (arXiv:2301.08139, section 4.4) as data.

    for name, (variant, values) in SWEEPS.items():
        for model, arguments in points(name):
            keras_ctr.get_model(model, schema, **arguments)

An argument with one value is held there, as the paper states it; D is 16 throughout (section 4.1.4). What the paper does not state is the
factory's default: for Figures 6 and 7, "the same as the best setting of each specific architecture", which it does not give.
"""

import itertools

from tuning.spaces import VARIANTS

_D = {"embedding_dim": [16]}
_NORMED = {"gate_norm": [True], **_D}

SWEEPS = {
    # Table 3, on all three data sets, the mean of the three variants: layers at one subspace, 0 = linear in the embeddings.
    **{f"depth-{v}": (f"DynInt-{v}", {"num_layers": [0, 1, 2, 3, 4, 5], "num_subspaces": [1], **_D}) for v in ("DA", "DGP", "DWP")},
    # Table 4, likewise: subspaces at three layers.
    **{f"subspaces-{v}": (f"DynInt-{v}", {"num_subspaces": [1, 2, 4, 8, 16], "num_layers": [3], **_D}) for v in ("DA", "DGP", "DWP")},
    # Figure 6a, Criteo. The text has the searched range, 16 to 128, and the best, 64; points of the curve are ours.
    "kernel-size": ("DynInt-DGP", {"rank": [16, 32, 64, 128], **_D}),
    # Figure 6b, Criteo; the text says DGP and means DWP. Searched from 1 to 4.
    "rank": ("DynInt-DWP", {"rank": [1, 2, 3, 4], **_D}),
    # Figure 7a, Criteo, the mean of the variants. Searched from 2 to 16; points of the curve are ours.
    **{f"reduction-{v}": (f"DynInt-{v}", {"reduction_ratio": [2, 4, 8, 16], **_D}) for v in ("DA", "DGP", "DWP")},
    # Figure 7b, Criteo, curves over training steps, the mean of both variants. The text has no rates; these are ours.
    "orthogonality-DGP": ("DynInt-DGP", {"orthogonality": [0.0, 1e-5, 1e-4, 1e-3, 1e-2], **_D}),
    "orthogonality-DWP": ("DynInt-DWP", {"orthogonality": [0.0, 1e-5, 1e-4, 1e-3, 1e-2], "rank": [2], **_D}),
    # What acts through the gate networks, once more with `gate_norm`: without, gates hardly differ from row to row (docs/tuning.md).
    "rank-normed": ("DynInt-DWP", {"rank": [1, 2, 3, 4], **_NORMED}),
    **{f"reduction-{v}-normed": (f"DynInt-{v}", {"reduction_ratio": [2, 4, 8, 16], **_NORMED}) for v in ("DA", "DGP", "DWP")},
    "orthogonality-DWP-normed": ("DynInt-DWP", {"orthogonality": [0.0, 1e-5, 1e-4, 1e-3, 1e-2], "rank": [2], **_NORMED}),
}
"""Name -> (name of a variant in `tuning.spaces.VARIANTS`, {argument: values})."""


def points(name):
    """Returns `[(registered model, arguments of its factory)]` of a sweep, in order.

    Raises:
        KeyError: If there is no such sweep.
    """
    variant, values = SWEEPS[name]
    model, fixed = VARIANTS[variant]
    return [(model, {**fixed, **dict(zip(values, point, strict=True))}) for point in itertools.product(*values.values())]
