"""The three DynInt variants: equations, identities, gradients, memory, start and penalty."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ctr.backend import lookup
from keras_ctr.layers.dynamic_interaction import (
    DynamicActivationGate,
    DynamicGeneratedInteraction,
    DynamicWeightedInteraction,
    cosine_penalty,
)
from keras_ctr.layers.polynomial import PolynomialInteraction
from tests.gradients import gradients
from tests.layer_contract import check_layer, weight_count
from tests.layers.interaction_oracles import B, F, cosine_sum, gate_network, pin, random_input, randomise

L, D, H, K = 2, 10, 2, 3  # layers, width, subspaces, rank
CROSSED, CHUNK = H * F, D // H

VARIANTS = {
    "da": lambda **kwargs: DynamicActivationGate(L, num_subspaces=H, **kwargs),
    "da-field": lambda **kwargs: DynamicActivationGate(L, num_subspaces=H, gate="field", **kwargs),
    "dgp": lambda **kwargs: DynamicGeneratedInteraction(L, num_subspaces=H, rank=K, **kwargs),
    "dwp": lambda **kwargs: DynamicWeightedInteraction(L, num_subspaces=H, rank=K, **kwargs),
    "dwp-inv_rank": lambda **kwargs: DynamicWeightedInteraction(L, num_subspaces=H, rank=K, offset="inv_rank", **kwargs),
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def built(variant, noise=True, **kwargs):
    layer = VARIANTS[variant](**kwargs)
    layer.build((None, F, D))
    if noise:
        randomise(layer)
    return layer


def matrices_and_gates(layer, x):
    """Every sample's matrices `(B, F', F')` and gates, made from the weights as the paper's equations say, materialised."""
    matrices, gates = [], []
    for index, gate in enumerate(layer.gates):
        out = gate_network(gate, x)
        if isinstance(layer, DynamicActivationGate):
            matrices.append(layer.kernels[index].numpy().T.astype("float64"))
            shape = (B, CHUNK, CROSSED) if layer.gate == "bit" else (B, 1, CROSSED)
            values = 2 / (1 + np.exp(-out))
            gates.append(np.broadcast_to(values.reshape(shape).transpose(0, 2, 1), (B, CROSSED, CHUNK)))
        elif isinstance(layer, DynamicGeneratedInteraction):
            u, v = layer.kernels_u[index].numpy().T.astype("float64"), layer.kernels_v[index].numpy().astype("float64")
            matrices.append(np.array([u @ np.diag(1 + s) @ v.T for s in out]))
        else:
            offset = 1 / np.sqrt(K) if layer.offset == "inv_sqrt_rank" else 1 / K
            factors = (out + offset).reshape(B, 2, K, CROSSED)
            weighting = np.array([sum(np.outer(f[0, p], f[1, p]) for p in range(K)) for f in factors])
            matrices.append(weighting * layer.kernels[index].numpy().T)
    return matrices, gates or None


@each_variant
def test_equation_with_normalized_gates(variant):
    layer, x = built(variant, gate_norm=True), random_input(D)
    matrices, gates = matrices_and_gates(layer, x)
    np.testing.assert_allclose(layer(x.astype("float32")), pin(x, matrices, H, gates=gates), rtol=1e-3, atol=1e-3)
    assert type(layer).from_config(layer.get_config()).gate_norm


@each_variant
def test_contract(variant):
    check_layer(VARIANTS[variant](), (B, F, D))


@pytest.mark.parametrize("variant", ["dgp", "dwp"])
def test_contract_with_penalty(variant):
    check_layer(VARIANTS[variant](orthogonality=0.1), (B, F, D), dtypes=("mixed_bfloat16",))


@each_variant
def test_equation(variant):
    layer, x = built(variant), random_input(D)
    matrices, gates = matrices_and_gates(layer, x)
    np.testing.assert_allclose(layer(x.astype("float32")), pin(x, matrices, H, gates=gates), rtol=1e-3, atol=1e-3)


@each_variant
def test_parameter_count(variant):
    hidden = F * D // 4

    def g(outputs):
        return F * D * hidden + hidden + hidden * outputs + outputs

    expected = {
        "da": CROSSED**2 + g(CROSSED * CHUNK),
        "da-field": CROSSED**2 + g(CROSSED),
        "dgp": 2 * CROSSED * K + g(K),
        "dwp": CROSSED**2 + g(2 * K * CROSSED),
        "dwp-inv_rank": CROSSED**2 + g(2 * K * CROSSED),
    }
    assert weight_count(built(variant)) == L * expected[variant]


@each_variant
def test_no_layers_is_identity(variant):
    layer = type(VARIANTS[variant]()).from_config({**VARIANTS[variant]().get_config(), "num_layers": 0})
    x = random_input(D).astype("float32")
    np.testing.assert_array_equal(layer(x), x)


def static_twin(kernels):
    twin = PolynomialInteraction(L, num_subspaces=H)
    twin.build((None, F, D))
    for target, kernel in zip(twin.kernels, kernels, strict=True):
        target.assign(kernel)
    return twin


@pytest.mark.parametrize("variant", ["da", "da-field", "dwp"])
def test_neutral_gates_give_the_static_layer(variant):
    """With a zero last kernel every gate is exactly neutral: DynInt-DA and -DWP are then PIN with the same matrices."""
    layer, x = built(variant, noise=False, gate_initializer="zeros"), random_input(D).astype("float32")
    np.testing.assert_allclose(layer(x), static_twin(layer.kernels)(x), rtol=1e-5, atol=1e-5)


def test_generated_with_neutral_scale_is_the_static_low_rank_layer():
    layer, x = built("dgp", noise=False, gate_initializer="zeros"), random_input(D).astype("float32")
    kernels = [v.numpy() @ u.numpy() for u, v in zip(layer.kernels_u, layer.kernels_v, strict=True)]
    np.testing.assert_allclose(layer(x), static_twin(kernels)(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant, start", [("dwp", 1.0), ("dwp-inv_rank", 1 / K)])
@pytest.mark.parametrize("gate_initializer, tolerance", [("zeros", 1e-6), (None, 0.15)])
def test_start_of_the_weighting_matrix(variant, start, gate_initializer, tolerance):
    keras.utils.set_random_seed(0)
    layer = built(variant, noise=False, gate_initializer=gate_initializer)
    u, v = layer.factors(0, random_input(D).astype("float32"))
    weighting = np.einsum("bki,bkj->bij", u, v)
    assert np.sqrt(np.mean(np.square(weighting - start))) < tolerance


def test_terms_of_the_weighting_matrix_do_not_learn_in_lockstep():
    keras.utils.set_random_seed(0)
    layer = built("dwp", noise=False)
    (gradient,) = gradients(lambda: ops.sum(ops.square(layer(random_input(D).astype("float32")))), [layer.gates[0].out.kernel])
    gradient = gradient.reshape(-1, 2, K, CROSSED)
    assert np.abs(gradient[:, :, 0] - gradient[:, :, 1]).max() > 1e-3 * np.abs(gradient).max()


@each_variant
def test_gate_does_not_train_the_input(variant):
    """With the products cut, nothing of X_0's gradient is left; with the gates frozen to their values, all of it is."""
    layer = built(variant)
    x = keras.Variable(random_input(D), dtype="float32")

    def whole():
        return ops.sum(ops.sin(layer(ops.convert_to_tensor(x))))

    for gate in layer.gates:
        to_input, to_kernel = gradients(lambda gate=gate: ops.sum(gate(ops.convert_to_tensor(x))), [x, gate.out.kernel])
        assert not np.any(to_input) and np.any(to_kernel)

    (gradient,) = gradients(whole, [x])
    values = [np.array(gate(ops.convert_to_tensor(x))) for gate in layer.gates]
    layer.gate_values = lambda index, inputs: ops.convert_to_tensor(values[index])
    (frozen_gradient,) = gradients(whole, [x])
    np.testing.assert_allclose(gradient, frozen_gradient, rtol=1e-5, atol=1e-5)
    assert np.abs(gradient).min() > 0


@each_variant
def test_embedding_table_trains_through_the_product(variant):
    table, ids = keras.Variable(random_input(D)[0], dtype="float32"), np.arange(F)[None]  # (F, D), (1, F)
    layer = built(variant)
    (gradient,) = gradients(lambda: ops.sum(layer(lookup(table, ids)) - lookup(table, ids)), [table])
    assert np.all(np.isfinite(gradient)) and np.abs(gradient).max() > 1e-3


def test_one_subspace_is_equivariant_to_the_embedding_axis():
    """The gates read vec(X_0), so only the product branch is equivariant: with neutral gates the whole layer is."""
    layer = DynamicWeightedInteraction(L, num_subspaces=1, rank=K, gate_initializer="zeros")
    x, order = random_input(D).astype("float32"), np.random.default_rng(1).permutation(D)
    np.testing.assert_allclose(layer(x[:, :, order]), np.asarray(layer(x))[:, :, order], rtol=1e-4, atol=1e-5)


def largest_tensor(function, *args):
    """Elements of the largest tensor in a traced function and in all functions it calls."""
    graphs, seen, largest = [function.get_concrete_function(*args).graph], set(), 0
    while graphs:
        graph = graphs.pop()
        if id(graph) in seen:
            continue
        seen.add(id(graph))
        graphs += [f.graph for f in graph._functions.values() if hasattr(f, "graph")]
        for operation in graph.get_operations():
            for tensor in operation.outputs:
                if tensor.dtype.is_floating:
                    assert tensor.shape.is_fully_defined() or operation.type in ("Placeholder", "ReadVariableOp"), operation
                    largest = max(largest, tensor.shape.num_elements() or 0)
    return largest


@each_variant
def test_no_matrix_per_sample_in_forward_or_backward(variant):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the tensors of a step are listed from TensorFlow's traced graph")
    import tensorflow as tf

    batch, fields = 41, 61
    layer = VARIANTS[variant](reduction_ratio=64)
    layer.build((None, fields, D))
    variables = [weight.value for weight in layer.trainable_weights]

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x))
        return tape.gradient(loss, [x, *variables])

    @tf.function
    def materialised(x):
        return tf.einsum("bfd,bgd->bfg", x, x)

    spec, budget = tf.TensorSpec((batch, fields, D), "float32"), batch * (H * fields) ** 2
    assert largest_tensor(step, spec) <= max(K * batch * fields * D, (H * fields) ** 2) < budget / 5
    assert largest_tensor(materialised, tf.TensorSpec((batch, H * fields, CHUNK), "float32")) == budget  # the probe sees such a tensor


def test_penalty_of_generated_parameters():
    layer = built("dgp", orthogonality=0.7)
    layer(random_input(D).astype("float32"))
    expected = sum(cosine_sum(u.numpy()) + cosine_sum(v.numpy().T) for u, v in zip(layer.kernels_u, layer.kernels_v, strict=True))
    np.testing.assert_allclose(sum(layer.losses), 0.7 * expected, rtol=1e-4)


def test_penalty_of_weighted_parameters():
    layer, x = built("dwp", orthogonality=0.7), random_input(D)
    layer(x.astype("float32"))
    expected = 0.0
    for gate in layer.gates:
        factors = (gate_network(gate, x) + 1 / np.sqrt(K)).reshape(B, 2, K, CROSSED)
        expected += np.mean([cosine_sum(f[0]) + cosine_sum(f[1]) for f in factors])
    np.testing.assert_allclose(sum(layer.losses), 0.7 * expected, rtol=1e-4)


@pytest.mark.parametrize("variant", ["dgp", "dwp"])
def test_penalty_joins_the_training_loss_and_falls(variant):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((F, D))
    layer = VARIANTS[variant](orthogonality=1.0)
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.Adam(0.03), loss=lambda y, p: ops.sum(p) * 0.0, run_eagerly=True)
    x = random_input(D).astype("float32")
    losses = [model.train_on_batch(x, x) for _ in range(8)]
    assert 0 < losses[-1] < 0.8 * losses[0]


@each_variant
def test_no_penalty_without_rate(variant):
    layer = built(variant)
    layer(random_input(D).astype("float32"))
    assert layer.losses == []


def test_cosine_penalty_of_hand_made_vectors():
    vectors = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]], "float32")
    np.testing.assert_allclose(cosine_penalty(vectors), 2 * np.sqrt(0.5), rtol=1e-6)
    zero = keras.Variable(np.zeros((2, 3)), dtype="float32")
    (gradient,) = gradients(lambda: cosine_penalty(ops.convert_to_tensor(zero)), [zero])
    assert float(cosine_penalty(np.zeros((2, 3), "float32"))) == 0 and np.all(np.isfinite(gradient))


@each_variant
def test_large_inputs_stay_finite_in_half_precision(variant):
    layer = built(variant, dtype="mixed_bfloat16")
    assert np.all(np.isfinite(ops.convert_to_numpy(ops.cast(layer(300 * random_input(D).astype("float32")), "float32"))))


def test_memory_ratios_of_the_paper():
    """Section 3.5.3 at K = F/10: the low-rank forms need 1 % and 20 % of the B F^2 numbers of materialised matrices."""
    batch, fields = 4096, 100
    rank = fields // 10
    assert (batch * rank**2 + 2 * fields * rank) / (batch * fields**2) == pytest.approx(0.01, abs=1e-4)
    assert (2 * batch * fields * rank + fields**2) / (batch * fields**2) == pytest.approx(0.2, abs=1e-3)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: DynamicActivationGate(1, gate="row"), "gate"),
        (lambda: DynamicGeneratedInteraction(1, rank=0), "rank"),
        (lambda: DynamicGeneratedInteraction(1, rank=2, orthogonality=-1.0), "orthogonality"),
        (lambda: DynamicWeightedInteraction(1, rank=None), "rank"),
        (lambda: DynamicWeightedInteraction(1, offset="rank"), "offset"),
        (lambda: DynamicWeightedInteraction(1, reduction_ratio=0), "reduction_ratio"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
