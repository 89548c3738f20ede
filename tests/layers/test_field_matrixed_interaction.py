"""FieldMatrixedInteraction against the sum over pairs of fields."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_ctr.layers.factorization_machine import FactorizationMachine
from keras_ctr.layers.field_matrixed_interaction import KINDS, FieldMatrixedInteraction
from keras_ctr.layers.product import KernelProduct
from tests.layer_contract import check_layer, weight_count

B, F, D = 5, 7, 3
PAIRS = [(i, j) for i in range(F) for j in range(i + 1, F)]
P = len(PAIRS)
SHAPES = {"matrix": (P, D, D), "vector": (P, D), "scalar": (P,)}


def inputs():
    return np.random.default_rng(2).standard_normal((B, F, D))


def built(kind, **arguments):
    layer = FieldMatrixedInteraction(kind, **arguments)
    layer.build((None, F, D))
    layer.kernel.assign(np.random.default_rng(3).standard_normal(SHAPES[kind]))
    return layer


def as_matrices(kernel, kind):
    """The weights of every pair as a `(D, D)` matrix, float64."""
    kernel = ops.convert_to_numpy(kernel).astype("float64")
    return [{"matrix": lambda w: w, "vector": np.diag, "scalar": lambda w: w * np.eye(D)}[kind](w) for w in kernel]


def close(got, want, tolerance=1e-6):
    got = ops.convert_to_numpy(got)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduce", [True, False])
def test_contract(kind, reduce):
    check_layer(FieldMatrixedInteraction(kind, reduce=reduce), (B, F, D))


@pytest.mark.parametrize("kind", KINDS)
def test_sum_over_pairs(kind):
    x, parts = inputs(), np.zeros((B, D))
    layer = built(kind, reduce=False)
    for (i, j), matrix in zip(PAIRS, as_matrices(layer.kernel, kind), strict=True):
        for b in range(B):
            parts[b] += (x[b, i] @ matrix) * x[b, j]
    close(layer(x.astype("float32")), parts)
    close(built(kind)(x.astype("float32")), parts.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("kind", KINDS)
def test_starts_as_a_factorization_machine(kind):
    x = inputs().astype("float32")
    want = ops.convert_to_numpy(FactorizationMachine(reduce=False)(x)).astype("float64")
    close(FieldMatrixedInteraction(kind, reduce=False)(x), want, 2e-6)


def test_diagonal_matrices_are_vectors_and_equal_vectors_scalars():
    x = inputs().astype("float32")
    matrix, vector, scalar = (built(kind) for kind in KINDS)
    matrix.kernel.assign(np.stack(as_matrices(vector.kernel, "vector")))
    close(matrix(x), ops.convert_to_numpy(vector(x)).astype("float64"), 2e-6)
    vector.kernel.assign(np.tile(ops.convert_to_numpy(scalar.kernel)[:, None], (1, D)))
    close(vector(x), ops.convert_to_numpy(scalar(x)).astype("float64"), 2e-6)


def test_transposed_matrices_are_tokens_in_reverse():
    """<X_i M, X_j> = <X_j M^T, X_i>: the left token is the one on the left of the matrix."""
    x = inputs().astype("float32")
    layer, mirrored = built("matrix"), built("matrix")
    kernel = {pair: w for pair, w in zip(PAIRS, ops.convert_to_numpy(layer.kernel), strict=True)}
    mirrored.kernel.assign(np.stack([kernel[F - 1 - j, F - 1 - i].T for i, j in PAIRS]))
    close(mirrored(x[:, ::-1].copy()), ops.convert_to_numpy(layer(x)).astype("float64"), 2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_is_the_sum_of_the_kernel_products(kind):
    layer, products, x = built(kind), KernelProduct(kind), inputs().astype("float32")
    products.build((None, F, D))
    products.kernel.assign(layer.kernel)
    close(layer(x), ops.convert_to_numpy(products(x)).astype("float64").sum(axis=1, keepdims=True), 2e-6)


def test_hand_computed():
    x = np.array([[[1.0, 2.0], [3.0, 4.0]]], "float32")
    layer = FieldMatrixedInteraction()
    layer.build((None, 2, 2))
    layer.kernel.assign([[[1.0, 10.0], [100.0, 1000.0]]])  # (1, 2) M = (201, 2010)
    np.testing.assert_allclose(layer(x), [[201 * 3 + 2010 * 4]])


@pytest.mark.parametrize("kind", KINDS)
def test_parameter_count(kind):
    assert weight_count(built(kind)) == {"matrix": P * D * D, "vector": P * D, "scalar": P}[kind]


def test_variance_scaling_has_the_fans_of_one_matrix():
    layer = FieldMatrixedInteraction(kernel_initializer=keras.initializers.GlorotUniform(seed=1))
    layer.build((None, F, 11))
    kernel, limit = ops.convert_to_numpy(layer.kernel), np.sqrt(6 / 22)
    assert 0.98 * limit < np.abs(kernel).max() <= limit
    assert len({matrix.tobytes() for matrix in kernel}) == P


def test_no_tensor_over_pairs_is_made():
    """Neither `(B, P, D)` nor larger: of the tensors of a training step, only those without the batch grow with P."""
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("reads the graph of TensorFlow")
    rows = 13
    for kind in KINDS:
        layer = built(kind)

        @tf.function
        def step(x, layer=layer):
            with tf.GradientTape() as tape:
                tape.watch(x)
                z = tf.reduce_sum(layer(x) ** 2)
            return tape.gradient(z, [x, layer.kernel.value])

        graph = step.get_concrete_function(tf.TensorSpec((rows, F, D))).graph
        sizes = [t.shape.num_elements() for op in graph.get_operations() for t in op.outputs if rows in (t.shape.as_list() or ())]
        assert rows * F * D in sizes and max(sizes) == rows * F * D


@pytest.mark.parametrize(
    "shape, arguments, message",
    [
        ((None, F, D), {"kind": "matrx"}, "did you mean 'matrix'"),
        ((None, 1, D), {}, "single token"),
        ((None, F * D), {}, r"tokens \(B, F, D\)"),
    ],
)
def test_errors(shape, arguments, message):
    with pytest.raises(ValueError, match=message):
        FieldMatrixedInteraction(**arguments).build(shape)
