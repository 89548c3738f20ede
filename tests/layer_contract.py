"""The contract that every layer of keras_ctr passes: one call checks what any Keras layer owes its user."""

from __future__ import annotations

import inspect
import json
import re
import tempfile
from pathlib import Path

import keras
import numpy as np
from keras import ops, tree

from tests.gradients import gradients


def check_layer(
    layer,
    *args,
    call_kwargs=None,
    sequence=(),
    mask_name="mask",
    mask_output="pool",
    has_weights=True,
    no_gradient=(),
    output_dtype=None,
    dtypes=("float32", "mixed_bfloat16"),
    low_precision_tolerance=0.05,
    row_independent=True,
    jitter=0.1,
    seed=0,
):
    """Check one layer against the contract; fails with an AssertionError that names the broken clause.

    The clauses: config round trip (plain and through Keras' serializer, JSON-able); all weights exist after `build` and none
    appears on call; symbolic shape = eager shape = `compute_output_shape`, with an unknown batch; row i alone = row i in its
    batch; the dtype policies; a finite, nonzero gradient for every trainable weight; `.keras` and `.weights.h5` round trips of a functional
    model around the layer are exact without `custom_objects`; and, with `sequence`, masking.

    Args:
        layer: an unbuilt layer. It is only read: every clause works on a copy made from its configuration.
        *args: positional call arguments, batch first. Each is a specification: a tuple of ints = shape of a standard normal float32
            array; a NumPy array = itself (ids, masks); a dict or list of specifications; anything else is passed through.
        call_kwargs: dict of keyword call arguments, specified alike (`{"mask": np.array(..., bool)}`, `{"summary": (5, 3, 7)}`).
        sequence: the call arguments with a time axis 1 that the mask governs: positions (int) in `args` or names in `call_kwargs`.
            Not empty = check masking: the mask must be in `call_kwargs[mask_name]`, be bool `(B, T)` and hide some steps.
            Garbage at hidden steps and appended hidden steps must change nothing; a row without any valid step must stay finite.
        mask_name: name of the mask in `call_kwargs`.
        mask_output: `"pool"`: the output has no time axis, all of it is compared. `"sequence"`: axis 1 of the output is time (extra
            leading tokens allowed) and only valid steps are compared. With several outputs, a list with one entry each;
            `None` skips an output.
        has_weights: whether the layer must own at least one weight.
        no_gradient: regular expressions of weight paths that may have a zero gradient; say why where you use it.
        output_dtype: dtype of the floating outputs when it is not the policy's compute dtype (`"float32"` for probabilities).
        dtypes: dtype policies to try.
        low_precision_tolerance: largest deviation from float32, relative to the largest output, for the other policies.
        row_independent: whether a row's output may not depend on the other rows.
        jitter: standard deviation of the noise added to the trainable weights first, so that zero-initialised ones hide nothing.
        seed: of the random arrays.

    Returns:
        The eager float32 output as NumPy, for further tests.
    """
    assert not layer.built, "hand check_layer an unbuilt layer"
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    args = tuple(_arrays(spec, rng) for spec in args)
    kwargs = {name: _arrays(spec, rng) for name, spec in (call_kwargs or {}).items()}

    _check_config(layer)
    built = _check_build(layer, args, kwargs, has_weights)
    _jitter(built, jitter, rng)
    output = _numpy(built(*args, **kwargs))
    for value in tree.flatten(output):
        assert np.all(np.isfinite(value.astype("float64"))), f"{layer.name}: output not finite in float32"
    _check_shapes(built, args, kwargs, output)
    if row_independent:
        _check_rows(built, args, kwargs, output)
    for policy in dtypes:
        _check_policy(built, policy, args, kwargs, output, output_dtype, low_precision_tolerance)
    _check_gradients(built, args, kwargs, no_gradient, rng)
    _check_saving(built, args, kwargs)
    if sequence:
        check_mask(built, *args, call_kwargs=kwargs, sequence=sequence, mask_name=mask_name, mask_output=mask_output)
    return output


def check_mask(layer, *args, call_kwargs, sequence, mask_name="mask", mask_output="pool", atol=1e-5):
    """Check that hidden steps do not count; arguments as in `check_layer`, but `layer` is built and the values are arrays."""
    mask = call_kwargs[mask_name]
    assert mask.dtype == bool and mask.ndim == 2, f"{mask_name} must be a bool array (B, T)"
    assert mask.any() and not mask.all(), f"{mask_name} must hide some steps and show some"
    rng = np.random.default_rng(1)

    def replaced(change):
        new_args = tuple(tree.map_structure(change, a) if i in sequence else a for i, a in enumerate(args))
        new_kwargs = {k: tree.map_structure(change, v) if k in sequence else v for k, v in call_kwargs.items()}
        return new_args, new_kwargs

    def garbage(shape, dtype):
        noise = rng.integers(0, 2, shape) if np.issubdtype(dtype, np.integer) else 10 * rng.standard_normal(shape)
        return noise.astype(dtype)

    def compare(other, what):
        kinds = mask_output if isinstance(mask_output, (list, tuple)) else [mask_output] * len(tree.flatten(expected))
        for kind, want, got in zip(kinds, tree.flatten(expected), tree.flatten(other), strict=True):
            if kind == "sequence":
                lead = want.shape[1] - mask.shape[1]
                shown = np.concatenate([np.ones((len(mask), lead), bool), mask], axis=1)
                want, got = want[shown], got[:, : want.shape[1]][shown]
            if kind is not None:
                np.testing.assert_allclose(got, want, atol=atol, rtol=1e-4, err_msg=f"{layer.name}: {what}")

    expected = _numpy(layer(*args, **call_kwargs))
    new_args, new_kwargs = replaced(
        lambda x: np.where(mask.reshape(mask.shape + (1,) * (x.ndim - 2)), x, garbage(x.shape, x.dtype)).astype(x.dtype)
    )
    compare(_numpy(layer(*new_args, **new_kwargs)), "values at hidden steps change the output")

    new_args, new_kwargs = replaced(lambda x: np.concatenate([x, garbage((x.shape[0], 3, *x.shape[2:]), x.dtype)], axis=1))
    new_kwargs[mask_name] = np.concatenate([mask, np.zeros((len(mask), 3), bool)], axis=1)
    compare(_numpy(layer(*new_args, **new_kwargs)), "appended hidden steps change the output")

    empty = mask.copy()
    empty[0] = False
    for value in tree.flatten(_numpy(layer(*args, **{**call_kwargs, mask_name: empty}))):
        assert np.all(np.isfinite(value.astype("float64"))), f"{layer.name}: a row without valid steps is not finite"


def weight_count(layer):
    """Number of scalars in the trainable weights, for parameter-count formulas."""
    return sum(int(np.prod(weight.shape)) for weight in layer.trainable_weights)


def _check_config(layer):
    config = layer.get_config()
    assert type(layer).from_config(config).get_config() == config, f"{layer.name}: from_config(get_config()) has another configuration"
    serialized = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(json.loads(json.dumps(serialized)))
    assert type(again) is type(layer), f"{layer.name}: deserialized to {type(again)}"
    assert keras.saving.serialize_keras_object(again) == serialized, f"{layer.name}: serialization is not stable"


def _check_build(layer, args, kwargs, has_weights):
    fresh = type(layer).from_config({**layer.get_config(), "dtype": "float32"})
    fresh.build(**_shape_arguments(fresh, fresh.build, args, kwargs))
    assert fresh.built, f"{layer.name}: build() does not leave the layer built"
    for part in fresh._flatten_layers():
        assert part.built, f"{layer.name}: sub-layer {part.name} is not built by build()"
    before = [weight.path for weight in fresh.weights]
    assert bool(before) or not has_weights, f"{layer.name}: no weights after build()"
    assert len(set(before)) == len(before), f"{layer.name}: two weights share a path: {before}"
    fresh(*args, **kwargs)
    after = [weight.path for weight in fresh.weights]
    assert before == after, f"{layer.name}: the call changed the weights, {sorted(set(after) ^ set(before))}"
    return fresh


def _check_shapes(layer, args, kwargs, output):
    symbolic = layer(*_inputs(args), **_inputs(kwargs))
    declared = layer.compute_output_shape(**_shape_arguments(layer, layer.compute_output_shape, args, kwargs))
    eager = [value.shape for value in tree.flatten(output)]
    assert [(None, *shape[1:]) for shape in eager] == [tuple(t.shape) for t in tree.flatten(symbolic)], (
        f"{layer.name}: symbolic shapes {[tuple(t.shape) for t in tree.flatten(symbolic)]}, eager {eager}"
    )
    assert _shapes(declared) == [(None, *shape[1:]) for shape in eager], f"{layer.name}: compute_output_shape {declared}, eager {eager}"


def _check_rows(layer, args, kwargs, output):
    batch = tree.flatten(output)[0].shape[0]
    for row in (0, batch - 1):
        one = _numpy(layer(*_rows(args, row), **_rows(kwargs, row)))
        for alone, whole in zip(tree.flatten(one), tree.flatten(output), strict=True):
            np.testing.assert_allclose(alone[0], whole[row], rtol=1e-4, atol=1e-5, err_msg=f"{layer.name}: row {row} depends on its batch")


def _check_policy(reference, policy, args, kwargs, output, output_dtype, tolerance):
    layer = type(reference).from_config({**reference.get_config(), "dtype": policy})
    layer.build(**_shape_arguments(layer, layer.build, args, kwargs))
    assert [w.shape for w in layer.weights] == [w.shape for w in reference.weights], f"{layer.name}: other weights under {policy}"
    layer.set_weights(reference.get_weights())
    for weight in layer.weights:
        if "float" in str(weight.dtype):
            assert str(weight.dtype) == layer.variable_dtype, f"{weight.path} is {weight.dtype} under {policy}"
    result = layer(*args, **kwargs)
    for got, want in zip(tree.flatten(result), tree.flatten(output), strict=True):
        if not np.issubdtype(want.dtype, np.floating):
            continue
        name = keras.backend.standardize_dtype(got.dtype)
        assert name == (output_dtype or layer.compute_dtype), f"{layer.name}: output is {name} under {policy}"
        got = ops.convert_to_numpy(ops.cast(got, "float32"))
        assert np.all(np.isfinite(got)), f"{layer.name}: not finite under {policy}"
        limit = 1e-6 if policy == "float32" else tolerance
        error = np.max(np.abs(got - want)) / max(float(np.max(np.abs(want))), 1e-6)
        assert error <= limit, f"{layer.name}: {error:.3g} away from float32 under {policy}, limit {limit}"


def _check_gradients(layer, args, kwargs, no_gradient, rng):
    noise = [rng.standard_normal(value.shape).astype("float32") for value in tree.flatten(layer(*args, **kwargs))]

    def loss():
        total = 0.0
        for value, weights in zip(tree.flatten(layer(*args, **kwargs)), noise, strict=True):
            if keras.backend.is_float_dtype(keras.backend.standardize_dtype(value.dtype)):
                total += ops.sum(ops.multiply(ops.cast(value, "float32"), weights))
        return total + sum(layer.losses)

    weights = layer.trainable_weights
    for weight, gradient in zip(weights, gradients(loss, weights), strict=True):
        if any(re.search(pattern, weight.path) for pattern in no_gradient):
            continue
        assert np.all(np.isfinite(gradient)), f"{weight.path}: gradient not finite"
        assert np.any(gradient != 0), f"{weight.path}: no gradient, or zero everywhere"


def _check_saving(layer, args, kwargs):
    symbolic_args, symbolic_kwargs = _inputs(args), _inputs(kwargs)
    symbols = [x for x in tree.flatten((symbolic_args, symbolic_kwargs)) if isinstance(x, keras.KerasTensor)]
    values = [x for x in tree.flatten((args, kwargs)) if isinstance(x, np.ndarray)]
    model = keras.Model(symbols, layer(*symbolic_args, **symbolic_kwargs))
    expected = tree.flatten(_numpy(model(values)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        loaded = keras.saving.load_model(path)
        for got, want in zip(tree.flatten(_numpy(loaded(values))), expected, strict=True):
            assert np.array_equal(got, want), f"{layer.name}: the loaded model differs by {np.max(np.abs(got - want))}"
        model.save_weights(Path(folder) / "model.weights.h5")
        for weight in loaded.weights:
            weight.assign(np.zeros(weight.shape, weight.dtype))
        loaded.load_weights(Path(folder) / "model.weights.h5")
        for got, want in zip(loaded.get_weights(), model.get_weights(), strict=True):
            assert np.array_equal(got, want), f"{layer.name}: .weights.h5 does not restore the weights"


def _arrays(spec, rng):
    """Turn a specification into arrays: a tuple of ints is a shape, containers are walked, the rest stays."""
    if isinstance(spec, tuple) and all(isinstance(n, int) for n in spec):
        return rng.standard_normal(spec).astype("float32")
    if isinstance(spec, dict):
        return {name: _arrays(part, rng) for name, part in spec.items()}
    if isinstance(spec, (list, tuple)):
        return [_arrays(part, rng) for part in spec]
    return spec


def _inputs(arrays):
    def symbol(x):
        return keras.Input(batch_shape=(None, *x.shape[1:]), dtype=x.dtype.name) if isinstance(x, np.ndarray) else x

    return tree.map_structure(symbol, arrays)


def _rows(arrays, row):
    return tree.map_structure(lambda x: x[row : row + 1] if isinstance(x, np.ndarray) else x, arrays)


def _jitter(layer, scale, rng):
    for weight in layer.trainable_weights:
        weight.assign(weight + scale * rng.standard_normal(weight.shape).astype("float32"))


def _numpy(structure):
    return tree.map_structure(ops.convert_to_numpy, structure)


def _shape_arguments(layer, function, args, kwargs):
    """Keyword arguments for `build` or `compute_output_shape`: shapes of the call arguments under the names that the function takes."""
    bound = inspect.signature(layer.call).bind(*args, **kwargs).arguments
    given = {name: _shape_of(value) for name, value in bound.items()}
    names = [name for name, p in inspect.signature(function).parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    if len(names) == 1 and names[0].removesuffix("_shape") not in given:
        return {names[0]: next(iter(given.values()))}
    return {name: given[name.removesuffix("_shape")] for name in names if name.removesuffix("_shape") in given}


def _shape_of(value):
    shape = tree.map_structure(lambda x: _Shape((None, *x.shape[1:])) if isinstance(x, np.ndarray) else None, value)
    return tree.map_structure(lambda s: s and s.value, shape)


class _Shape:
    """Keeps a shape from being walked as a container."""

    def __init__(self, value):
        self.value = value


def _shapes(declared):
    if isinstance(declared, (list, tuple)) and all(n is None or isinstance(n, int) for n in declared):
        return [tuple(declared)]
    parts = declared.values() if isinstance(declared, dict) else declared
    return [shape for part in parts for shape in _shapes(part)]
