"""Search spaces: what they draw is what the factories take, whatever draws from them, and their defaults are the factories'."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import keras_ctr
from keras_ctr.registry import model_info
from tests.sample import full_schema, random_rows
from tuning import check_spaces
from tuning.spaces import SPACES, VARIANTS, get_space
from tuning.spaces.choices import hidden_units, units
from tuning.spaces.draw import Draw

MODELS = keras_ctr.list_models()
SAMPLES = 200
NONE = {("GateNet", "feature_gate"), ("DynInt", "rank"), ("AdRec", "mask_thresholds"), ("AdRecSequential", "mask_thresholds")}
"""Arguments of which None is a choice."""
GRIDS = {
    ("XDeepInt", "num_layers"): {1, 2, 3, 4},
    ("XDeepInt", "num_subspaces"): {1, 2, 4, 8, 16},
    ("DynInt", "variant"): {"da", "dgp", "dwp"},
    ("DynInt-DA", "num_layers"): {1, 2, 3, 4},
    ("DynInt-DGP", "num_subspaces"): {1, 2, 4, 8, 16},
    ("DynInt-DGP", "reduction_ratio"): {2, 4, 8, 16},
    ("DynInt-DGP", "rank"): {None, 16, 32, 64, 128},
    ("DynInt-DGP", "orthogonality"): {0.0, 1e-5, 1e-4, 1e-3, 1e-2},
    ("DynInt-DWP", "rank"): {1, 2, 3, 4},
    ("InterFormer", "num_layers"): {1, 2, 3, 4},
    ("InterFormer", "num_cls"): set(range(1, 9)),
    ("InterFormer", "num_pma"): {1, 2, 3, 4},
    ("InterFormer", "num_recent"): {0, 1, 2, 3, 4},
    ("InterFormer", "num_heads"): {1, 2, 4, 8},
    ("InterFormer", "backbone"): {"dhen", "dcnv2", "dot"},
    ("InterFormer", "num_inner_layers"): {1, 2, 3},
    ("DHEN", "num_layers"): {1, 2, 3},
    ("AdRec", "embedding_dim"): {16, 64},
    ("AdRec", "num_layers"): {1, 2, 4},
    ("AdRec", "num_heads"): {1, 2, 4, 8, 16},
    ("AdRec", "dropout"): {0.0, 0.01, 0.05, 0.1, 0.2, 0.3},
    ("AdRec", "hidden_activation"): {"relu", "gelu"},
    ("AdRec", "ffn_units"): {128, 512},
    ("INFNet", "embedding_dim"): {8, 16, 32, 64, 96, 128},
    ("INFNet", "num_categorical_hubs"): {1, 2, 4, 8, 16, 32},
    ("INFNet", "num_sequence_hubs"): {1, 2, 4, 8, 16, 32},
    ("INFNet", "num_shared_task_hubs"): {1, 2, 4, 8, 16, 32},
    ("INFNet", "dropout"): {0.0, 0.1, 0.2},
    ("INFNet", "embedding_l2"): {0.0, 1e-7, 1e-6, 1e-5},
}
"""Values of the papers' grids (and the factories' defaults None of DynInt's kernel size and 0 of Ad-Rec's dropout)."""


def parameters(model):
    return inspect.signature(model_info(model).factory).parameters


def drawn(name, seed, fixed=None):
    """Returns `(values of the hyperparameters, arguments)`."""
    hp = Draw(seed, fixed)
    arguments = get_space(name)[1](hp)
    return hp.values, arguments


def rules(model, a):
    """Yields `(rule, whether it holds)` of arguments that depend on each other."""
    d = a.get("embedding_dim")
    if "num_heads" in a and model != "AutoInt":
        yield "heads divide the width", a.get("hidden_dim" if model == "OneTrans" else "embedding_dim") % a["num_heads"] == 0
    if model == "InterFormer":
        yield "rotary positions need an even width of a head", d // a["num_heads"] % 2 == 0
        yield "CLS tokens come from the summary", a["num_cls"] <= a["num_summary"]
        yield "inner layers are DHEN's", ("num_inner_layers" in a) == (a["backbone"] == "dhen")
    if "num_subspaces" in a:
        yield "subspaces divide D", d % a["num_subspaces"] == 0
    if model == "DynInt":
        yield "da has neither rank nor orthogonality", a["variant"] != "da" or not {"rank", "orthogonality"} & set(a)
        yield "a rank of dwp is small", a["variant"] != "dwp" or a["rank"] <= 4
        yield "rank 1 has nothing to make orthogonal", a.get("rank") != 1 or "orthogonality" not in a
    if model == "DCNv2":
        yield "only factored crosses have a rank", ("rank" in a) == (a.get("parameterization") in ("low_rank", "mixture"))
        yield "only mixtures have experts", ("num_experts" in a) == (a.get("parameterization") == "mixture")
    if model == "RankMixer":
        yield "tokens divide their width", a["hidden_dim"] % a["num_tokens"] == 0
        yield "two fields are enough for the tokens", 2 * d >= a["num_tokens"]
    if a.get("sequence_layer") == "transformer":
        yield "heads over time divide the tower's width", a["tower_units"][-1] % a["num_sequence_heads"] == 0
    if isinstance(a.get("mask_thresholds"), list):
        yield "one threshold a head", len(a["mask_thresholds"]) == a["num_heads"]
    if model == "DMR":
        yield "one of the networks is on", a["user_to_item"] or a["item_to_item"] != "off"
        yield "the loss is the user-to-item network's", ("auxiliary_weight" in a) == a["user_to_item"]


def test_every_registered_model_and_variant_has_a_space():
    assert set(SPACES) == {*MODELS, *VARIANTS}
    assert not set(VARIANTS) & set(MODELS)
    assert {model for model, _ in VARIANTS.values()} <= set(MODELS)


def test_spaces_are_found_by_name():
    assert get_space("dynint-dgp") == ("DynInt", SPACES["DynInt-DGP"])
    assert get_space("AUTOINT+") == ("AutoInt", SPACES["AutoInt+"])
    assert get_space("Dlrm") == ("DLRM", SPACES["DLRM"])
    with pytest.raises(KeyError, match="did you mean 'InterFormer'"):
        get_space("InterFomer")


def test_spaces_need_neither_keras_nor_keras_tuner():
    code = "import sys, tuning.spaces, tuning.training, tuning.sweeps; print(*{'keras', 'keras_tuner', 'tensorflow'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


@pytest.mark.parametrize("name", SPACES)
def test_draws_are_arguments_of_the_factory(name):
    model, _ = get_space(name)
    known = parameters(model)
    seen = {}
    for seed in range(1, SAMPLES + 1):
        values, arguments = drawn(name, seed)
        assert set(arguments) <= set(known)
        assert json.loads(json.dumps(arguments)) == arguments
        assert {k for k, v in arguments.items() if v is None} <= {argument for m, argument in NONE if m == model}
        broken = [rule for rule, holds in rules(model, arguments) if not holds]
        assert not broken, arguments
        assert all(arguments[k] == v for k, v in VARIANTS.get(name, (model, {}))[1].items())
        # No choice is without effect, and the same values make the same arguments: two draws that differ are two models.
        assert seen.setdefault(json.dumps(arguments, sort_keys=True), values) == values
        assert drawn(name, None, values) == (values, arguments)
    assert len(seen) > SAMPLES // 2 or name in ("LR", "FM", "FmFM")
    assert all(argument in arguments for argument in ("embedding_dim", "dropout", "embedding_l2") if argument in known)


@pytest.mark.parametrize("name, argument", GRIDS)
def test_grids_are_those_of_the_papers(name, argument):
    found = {drawn(name, seed)[1].get(argument, "absent") for seed in range(1, SAMPLES + 1)}
    assert found - {"absent"} == GRIDS[name, argument]


@pytest.mark.parametrize("name", SPACES)
def test_defaults_are_the_factory_s(name):
    """Where the factory says None for a number that it works out, `test_models_of_draws` compares the weights."""
    model, _ = get_space(name)
    fixed = {**VARIANTS.get(name, (model, {}))[1], **({"hidden_units": [512, 256]} if name == "AutoInt+" else {})}
    for argument, value in drawn(name, None)[1].items():
        default = fixed.get(argument, parameters(model)[argument].default)
        default = list(default) if isinstance(default, tuple) else default
        assert value == default or (default is None and isinstance(value, int)), f"{argument}: {value} instead of {default}"


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
def test_models_of_draws(name):
    model, _ = get_space(name)
    schema = full_schema(labels=("click", "like"))
    x, _ = random_rows(schema, 5)
    keras.utils.clear_session()
    for seed in (None, 1, 2):
        built = keras_ctr.get_model(model, schema, **drawn(name, seed)[1])
        assert [tuple(p.shape) for p in built(x).values()] == [(5, 1), (5, 1)]
        if seed is None and name != "AutoInt+":
            same = keras_ctr.get_model(model, schema, **VARIANTS.get(name, (model, {}))[1])
            assert [(v.path, tuple(v.shape)) for v in built.variables] == [(v.path, tuple(v.shape)) for v in same.variables]


def test_the_file_of_builds_is_of_these_spaces():
    """200 builds a space take an hour; `python -m tuning.check_spaces --out benchmarks/results/spaces.json` makes what is missing."""
    results = json.loads((Path(check_spaces.__file__).parents[1] / "benchmarks/results/spaces.json").read_text())
    assert set(results) == set(SPACES)
    for name, found in results.items():
        assert found["samples"] == SAMPLES and found["digest"] == check_spaces.digest(check_spaces.draws(name, SAMPLES)), name
        assert found["failed"] == [] and found["built"] == found["distinct"] > 0, name


def test_a_draw_that_cannot_be_built_is_found(monkeypatch):
    monkeypatch.setitem(SPACES, "FM", lambda hp: {"embedding_dim": hp.Choice("embedding_dim", [4, 0])})
    found = check_spaces.check("FM", 8)
    assert (found["distinct"], found["built"]) == (2, 1)
    assert [failed["arguments"] for failed in found["failed"]] == [{"embedding_dim": 0}]
    assert "embedding_dim" in found["failed"][0]["error"]


def test_a_fixed_choice_holds_and_one_without_sequel_is_an_error():
    for seed in range(20):
        _, arguments = drawn("XDeepInt", seed, {"embedding_dim": 8})
        assert arguments["embedding_dim"] == 8 and arguments["num_subspaces"] <= 8
    with pytest.raises(ValueError, match="embedding_dim=24 leaves no choice of num_subspaces; it can be 8, 16, 32, 64"):
        drawn("XDeepInt", 1, {"embedding_dim": 24})
    with pytest.raises(ValueError, match="did you mean '64-64'"):
        drawn("XDeepFM", 1, {"cin_units": "64-6"})


def test_stacks_of_layers():
    assert hidden_units(Draw(), (512, 256, 128)) == [512, 256, 128]
    assert hidden_units(Draw(), (400, 400)) == [400, 400]
    choice = {"num_hidden_layers": 4, "hidden_width": 1024, "hidden_shape": "halving"}
    assert hidden_units(Draw(fixed=choice), (400, 400)) == [1024, 512, 256, 128]
    alone = Draw(fixed={**choice, "num_hidden_layers": 1})
    assert hidden_units(alone, (400, 400)) == [1024] and "hidden_shape" not in alone.values
    with pytest.raises(ValueError, match="neither stay nor halve"):
        hidden_units(Draw(), (200, 80))
    assert units(Draw(), "gate_units", [(64,), ()]) == [64]
    assert units(Draw(fixed={"gate_units": "none"}), "gate_units", [(64,), ()]) == []
