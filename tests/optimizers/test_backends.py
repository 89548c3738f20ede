"""The dense rules and the recipes on JAX and torch, each in a process of its own; skipped where the backend is not installed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.optimizers.oracles import RULES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
BACKENDS = ("jax", "torch")

# Prints one line of JSON: the largest deviation from the oracle in units of the tolerance, a rule, and losses of short trainings.
SCRIPT = """
import json

import keras
import numpy as np
from keras import ops

from keras_ctr import models, optimizers
from tests.optimizers import oracles
from tests.sample import fields_schema, random_rows


def numpy(x):
    return np.array(ops.convert_to_numpy(x))


def deviation(found, expected):
    return float((np.abs(numpy(found).reshape(expected.shape) - expected) / (2e-6 + 2e-5 * np.abs(expected))).max())


def trace(name, arguments, shape, **options):
    start = oracles.initial_weights(shape)
    variable = keras.Variable(start, name="table")
    oracle = oracles.oracle_of(name)(start, **{**arguments, **options})
    optimizer = getattr(optimizers, name)(0.3, **{**arguments, **options})
    worst = 0.0
    for rate, gradient in zip(oracles.rates(), oracles.dense_gradients(shape), strict=True):
        optimizer.learning_rate = rate
        optimizer.apply([ops.convert_to_tensor(gradient)], [variable])
        oracle.dense(gradient, rate)
        pairs = [(variable, oracle.value), *zip(optimizer.slots_of(variable), oracle.slots(), strict=True)]
        worst = np.max([worst, *(deviation(*pair) for pair in pairs)])
    return float(worst)


def losses(optimizer):
    keras.utils.set_random_seed(1)
    x, y = random_rows(fields_schema(), 64)
    model = models.DNN(fields_schema(), embedding_dim=3, hidden_units=(5,))
    model.compile(optimizer, "binary_crossentropy")
    before = model.evaluate(x, y, verbose=0)
    model.fit(x, y, batch_size=16, epochs=1, verbose=0)
    return before, model.evaluate(x, y, verbose=0)


out = {"backend": keras.backend.backend(), "rules": {}, "decay": {}, "losses": {}}
for rule, name, arguments in oracles.RULES:
    shapes = [(oracles.ROWS, oracles.WIDTH), (oracles.ROWS,)]
    out["rules"][rule] = float(np.max([trace(name, arguments, shape) for shape in shapes]))
    out["decay"][rule] = trace(name, arguments, shapes[0], weight_decay=0.25)
for name, optimizer in {
    "default": optimizers.default(0.05),
    "dynint": optimizers.dynint(0.05),
    "loss_scale": optimizers.LossScaleOptimizer(optimizers.default(0.05)),
}.items():
    out["losses"][name] = losses(optimizer)
print(json.dumps(out))
"""


@pytest.fixture(scope="module", params=BACKENDS)
def report(request):
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "KERAS_BACKEND": request.param, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    out = json.loads(done.stdout.splitlines()[-1])
    assert out["backend"] == request.param
    return out


def test_dense_rules_follow_the_equations(report):
    assert set(report["rules"]) == {rule[0] for rule in RULES}
    assert {rule: worst for rule, worst in report["rules"].items() if not worst <= 1} == {}


def test_weight_decay_comes_before_the_rule(report):
    assert {rule: worst for rule, worst in report["decay"].items() if not worst <= 1} == {}


@pytest.mark.parametrize("recipe", ["default", "dynint", "loss_scale"])
def test_an_epoch_trains(report, recipe):
    before, after = report["losses"][recipe]
    assert after < before
