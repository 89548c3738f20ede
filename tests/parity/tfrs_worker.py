"""Layers of tensorflow-recommenders behind `peer.serve`; they need the legacy Keras, chosen before TensorFlow is imported."""

import os

assert os.environ.get("TF_USE_LEGACY_KERAS") == "1"

import numpy as np  # noqa: E402
import tensorflow_recommenders as tfrs  # noqa: E402

from tests.parity.peer import serve  # noqa: E402

dcn = tfrs.layers.feature_interaction


def cross(x, projection_dim, diag_scale, **weights):
    """Layers one after another, as a user writes them; the weights of a layer are those whose names end in its number."""
    layers = 1 + max(int(name.rsplit("_", 1)[1]) for name in weights)
    current = x
    for layer in range(layers):
        peer = dcn.Cross(projection_dim=int(projection_dim) or None, diag_scale=float(diag_scale))
        peer(x, current)
        peer.set_weights(
            [weights[f"{name}_{layer}"] for name in ("kernel_v", "kernel_u", "kernel", "bias") if f"{name}_{layer}" in weights]
        )
        current = peer(x, current).numpy()
    return current


def multi_layer_dcn(x, **weights):
    layers, rank = 1 + max(int(name.rsplit("_", 1)[1]) for name in weights), weights["kernel_v_0"].shape[1]
    peer = dcn.MultiLayerDCN(projection_dim=rank, num_layers=layers)
    peer(x)
    for layer in range(layers):
        peer._dense_u_kernels[layer].set_weights([weights[f"kernel_v_{layer}"]])
        peer._dense_v_kernels[layer].set_weights([weights[f"kernel_u_{layer}"], weights[f"bias_{layer}"]])
    return peer(x).numpy()


def dot(x, self_interaction):
    peer = dcn.DotInteraction(self_interaction=bool(self_interaction))
    return np.asarray(peer([x[:, field] for field in range(x.shape[1])]))


if __name__ == "__main__":
    serve({"cross": cross, "multi_layer_dcn": multi_layer_dcn, "dot": dot})
