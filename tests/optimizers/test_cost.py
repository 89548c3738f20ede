"""The cost of a step does not grow with the vocabulary: its graph touches rows of tables and slots, never the whole of them."""

import keras
import numpy as np
import pytest

import keras_ctr
from keras_ctr import Categorical, Schema, Sequence, optimizers

if keras.backend.backend() != "tensorflow":
    pytest.skip("gradients are sparse on the TensorFlow backend only", allow_module_level=True)

from tests.cost_model import outputs_with, touched, train_graph

pytestmark = pytest.mark.slow

ROWS = (1009, 2003)  # of two widths, prime
OPTIMIZERS = {
    "SGD": lambda: optimizers.SGD(0.1, momentum=0.9),
    "Adagrad": optimizers.Adagrad,
    "RowWiseAdagrad": optimizers.RowWiseAdagrad,
    "LazyAdam": optimizers.LazyAdam,
    "LazyAdamW": optimizers.LazyAdamW,
    "FTRL": lambda: optimizers.FTRL(l1=1e-3),
    "GroupLassoFTRL": lambda: optimizers.GroupLassoFTRL(l1=1e-3),
    "default": optimizers.default,
    "dynint": optimizers.dynint,
    "wide_deep": optimizers.wide_deep,
    "clipped": lambda: optimizers.LazyAdam(global_clipnorm=1.0),
    "scaled": lambda: optimizers.LossScaleOptimizer(optimizers.LazyAdam()),
}


def graph_of(optimizer, model="DNN", **arguments):
    schema = Schema(
        [Categorical("a", ROWS[0]), Categorical("b", ROWS[1], embedding_dim=3), Sequence("s", 5, table="a", target="a")], ["click"]
    )
    rng = np.random.default_rng(0)
    x = {"a": rng.integers(1, 50, 7), "b": rng.integers(1, 50, 7), "s": rng.integers(0, 50, (7, 5))}
    x = {name: values.astype("int32") for name, values in x.items()}
    model = keras_ctr.get_model(model, schema, **arguments)
    model.compile(optimizer, "binary_crossentropy")
    graph = train_graph(model, x, {"click": np.ones((7, 1), "float32")})
    tables = [v for v in model.trainable_variables if getattr(v, "row_sparse", False)]
    slots = [v for v in model.optimizer.variables if len(v.shape) and v.shape[0] in ROWS]
    return graph, tables, slots


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_touches_rows_only(name):
    graph, tables, slots = graph_of(OPTIMIZERS[name]())
    assert len(tables) == 2
    found = touched(graph, [*tables, *slots])
    for path, ops in found.items():
        assert not ops["whole"], f"{path}: {ops['whole']}"
        assert {"ResourceGather", "ResourceScatterUpdate"} <= ops["rows"], path
    assert not outputs_with(graph, ROWS)


def test_keras_own_optimizers_rewrite_the_whole_table():
    """The model of cost does see what it is meant to see."""
    graph, tables, slots = graph_of(keras.optimizers.Adam())
    found = touched(graph, [*tables, *slots])
    assert all(ops["whole"] for ops in found.values())
    assert outputs_with(graph, ROWS)


def test_the_l2_penalty_of_a_batch_touches_rows_only():
    graph, tables, slots = graph_of(optimizers.LazyAdam(), embedding_l2=0.1)
    assert not any(ops["whole"] for ops in touched(graph, [*tables, *slots]).values())


@pytest.mark.slow
@pytest.mark.parametrize("model", keras_ctr.list_models())
def test_every_model_touches_rows_only(model):
    graph, tables, slots = graph_of(optimizers.default(), model)
    assert tables
    found = touched(graph, [*tables, *slots])
    assert not {path: ops["whole"] for path, ops in found.items() if ops["whole"]}
    assert not outputs_with(graph, ROWS)
