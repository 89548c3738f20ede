"""The registry: listing, traits, building by name, errors."""

import subprocess
import sys

import pytest

import keras_ctr
from keras_ctr.registry import model_info, register_model
from tests.sample import fields_schema


def test_the_registry_is_full_when_it_is_asked_first():
    code = "import keras_ctr; print(keras_ctr.model_info('DIN').name, len(keras_ctr.list_models()) > 40)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["DIN", "True"]


@pytest.mark.slow
def test_the_command_finds_a_model_in_a_new_process():
    done = subprocess.run([sys.executable, "-m", "keras_ctr.cli.main", "list", "dcnv2"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("DCNv2: ") and "--set rank=" in done.stdout


def test_names_and_traits():
    assert {"LR", "DNN"} <= set(keras_ctr.list_models())
    assert "LR" not in keras_ctr.list_models(sequential=True)
    assert model_info("dnn").name == "DNN"
    with pytest.raises(ValueError, match="did you mean 'sequential'"):
        keras_ctr.list_models(sequentail=True)


def test_every_model_is_public():
    for name in keras_ctr.list_models():
        assert getattr(keras_ctr.models, name) is model_info(name).factory
        assert name in keras_ctr.models.__all__


def test_get_model_passes_arguments():
    small = keras_ctr.get_model("DNN", fields_schema(), hidden_units=(3,), embedding_dim=2)
    # tables: 101 + 53 + 11 + 9 rows of 2; flat 4 fields * 2 + 1 numeric = 9
    assert small.count_params() == (101 + 53 + 11 + 9) * 2 + (9 * 3 + 3) + (3 + 1)


def test_errors_suggest_the_nearest():
    with pytest.raises(ValueError, match="no model 'DNM'; did you mean 'DNN'"):
        keras_ctr.get_model("DNM", fields_schema())
    with pytest.raises(ValueError, match="no argument 'dropot'; did you mean 'dropout'"):
        keras_ctr.get_model("DNN", fields_schema(), dropot=0.1)


def test_factories_have_one_form():
    with pytest.raises(ValueError, match="must take 'schema' first"):

        @register_model(paper=None)
        def NoSchema(x):
            return x

    with pytest.raises(ValueError, match="keyword-only"):

        @register_model(paper=None)
        def Positional(schema, width):
            return width

    with pytest.raises(ValueError, match="registered already"):

        @register_model(paper=None)
        def LR(schema):
            return schema
