"""Layers of deepctr-torch and torch-rechub behind `peer.serve`; weights come as NumPy arrays in the layout of those packages."""

import importlib.util
import sys

import numpy as np
import torch

from tests.parity.peer import serve

# The package asks the package index for newer versions when it is imported; its layers do not need that.
_spec = importlib.util.find_spec("deepctr_torch")
if _spec is not None:
    sys.modules["deepctr_torch"] = importlib.util.module_from_spec(_spec)


def numbered(weights, name):
    """The arrays `name_0`, `name_1`, .. as a list."""
    return [weights[f"{name}_{index}"] for index in range(sum(key.rsplit("_", 1)[0] == name for key in weights))]


def run(layer, *inputs, training=False, **weights):
    """Sets all parameters and buffers by name and calls the layer."""
    state = layer.state_dict()
    for name, array in weights.items():
        assert state[name].shape == array.shape, (name, state[name].shape, array.shape)
        state[name] = torch.tensor(array)
    left = [name for name in state if name not in weights and "num_batches" not in name]
    assert not left, f"no values for {left}"
    layer.load_state_dict(state)
    layer.train(training)
    with torch.no_grad():
        return layer(*inputs).numpy()


def tensors(*arrays):
    return [torch.tensor(array) for array in arrays]


def deepctr():
    from deepctr_torch.layers import activation, core, interaction, sequence

    def fm(x):
        return run(interaction.FM(), *tensors(x))

    def bi_interaction(x):
        return run(interaction.BiInteractionPooling(), *tensors(x))[:, 0]

    def cross(x, kernels, bias):
        kind = "vector" if kernels.shape[2] == 1 else "matrix"
        return run(interaction.CrossNet(x.shape[1], len(kernels), kind), *tensors(x), kernels=kernels, bias=bias)

    def cross_mix(x, u, v, c, gate, bias):
        layer = interaction.CrossNetMix(x.shape[1], u.shape[3], u.shape[1], len(u))
        gates = {f"gating.{e}.weight": gate[e : e + 1] for e in range(len(gate))}
        return run(layer, *tensors(x), U_list=u, V_list=v, C_list=c, bias=bias, **gates)

    def cin(x, split_half, activation, **weights):
        kernels, biases = numbered(weights, "kernel"), numbered(weights, "bias")
        layer = interaction.CIN(x.shape[1], tuple(len(kernel) for kernel in kernels), str(activation), bool(split_half))
        state = {f"conv1ds.{i}.weight": kernel for i, kernel in enumerate(kernels)}
        return run(layer, *tensors(x), **state, **{f"conv1ds.{i}.bias": bias for i, bias in enumerate(biases)})

    def interacting(x, heads, scaling, **weights):
        layer = interaction.InteractingLayer(x.shape[2], int(heads), "W_Res" in weights, bool(scaling))
        return run(layer, *tensors(x), **weights)

    def senet(x, ratio, squeeze, excite):
        return run(
            interaction.SENETLayer(x.shape[1], int(ratio)), *tensors(x), **{"excitation.0.weight": squeeze, "excitation.2.weight": excite}
        )

    def bilinear(x, kind, kernels):
        layer = interaction.BilinearInteraction(x.shape[1], x.shape[2], str(kind))
        names = ["bilinear.weight"] if kind == "all" else [f"bilinear.{i}.weight" for i in range(len(kernels))]
        return run(layer, *tensors(x), **dict(zip(names, kernels, strict=True)))

    def inner(x):
        return run(interaction.InnerProductLayer(), list(torch.tensor(x).split(1, dim=1)))[:, :, 0]

    def outer(x, kind, kernel):
        layer = interaction.OutterProductLayer(x.shape[1], x.shape[2], str(kind))
        return run(layer, list(torch.tensor(x).split(1, dim=1)), kernel=kernel)

    def dice(x, training, alpha, mean, variance):
        state = {"bn.weight": np.ones_like(mean), "bn.bias": np.zeros_like(mean), "bn.running_mean": mean, "bn.running_var": variance}
        return run(activation.Dice(len(mean), dim=3), *tensors(x), training=bool(training), alpha=alpha[:, None], **state)

    def dnn(x, **weights):
        units = [len(weights[f"linears.{i}.bias"]) for i in range(sum(key.startswith("linears") for key in weights) // 2)]
        return run(core.DNN(x.shape[1], units, "relu", use_bn=True), *tensors(x), **weights)

    def attention(target, events, lengths, softmax, scores, activation, **weights):
        units = [weights["local_att.dnn.linears.0.bias"].size, weights["local_att.dnn.linears.1.bias"].size]
        layer = sequence.AttentionSequencePoolingLayer(
            units, str(activation), weight_normalization=bool(softmax), return_score=bool(scores), embedding_dim=target.shape[1]
        )
        return run(layer, *tensors(target[:, None], events, lengths[:, None]), **weights)[:, 0]

    return locals()


def rechub():
    from torch_rechub.basic import activation, layers

    def fm(x, reduce_sum):
        return run(layers.FM(bool(reduce_sum)), *tensors(x))

    def cross(x, **weights):
        return run(layers.CrossNetwork(x.shape[1], len(weights) // 2), *tensors(x), **weights)

    def cross_v2(x, **weights):
        return run(layers.CrossNetV2(x.shape[1], len(weights) // 2), *tensors(x), **weights)

    def cross_mix(x, u, v, c, gate, bias):
        layer = layers.CrossNetMix(x.shape[1], len(u), u.shape[3], u.shape[1])
        parts = {"u_list": u, "v_list": v, "c_list": c, "bias": bias}
        state = {f"{name}.{i}": part[i] for name, part in parts.items() for i in range(len(u))}
        return run(layer, *tensors(x), **state, **{f"gating.{e}.weight": gate[e : e + 1] for e in range(len(gate))})

    def cin(x, split_half, **weights):
        units = [len(weights[f"conv_layers.{i}.bias"]) for i in range(sum(key.startswith("conv_layers") for key in weights) // 2)]
        return run(layers.CIN(x.shape[1], units, bool(split_half)), *tensors(x), **weights)

    def interacting(x, heads, **weights):
        return run(layers.InteractingLayer(x.shape[2], int(heads), residual="W_Res.weight" in weights), *tensors(x), **weights)

    def senet(x, ratio, squeeze, excite):
        return run(layers.SENETLayer(x.shape[1], int(ratio)), *tensors(x), **{"mlp.0.weight": squeeze, "mlp.2.weight": excite})

    def bilinear(x, kind, kernels):
        layer = layers.BiLinearInteractionLayer(x.shape[2], x.shape[1], f"field_{kind}")
        names = ["bilinear_layer.weight"] if kind == "all" else [f"bilinear_layer.{i}.weight" for i in range(len(kernels))]
        return run(layer, *tensors(x), **dict(zip(names, kernels, strict=True)))

    def dice(x, alpha):
        return run(activation.Dice(), *tensors(x), alpha=alpha)

    return locals()


if __name__ == "__main__":
    cases = {}
    for package, make in (("deepctr_torch", deepctr), ("torch_rechub", rechub)):
        if importlib.util.find_spec(package) is not None:
            cases |= {f"{make.__name__}.{name}": case for name, case in make().items() if callable(case)}
    serve(cases)
