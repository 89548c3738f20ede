"""Training on two devices equals training on one, for models and optimizers, and costs no more of a vocabulary."""

import keras
import pytest

import keras_ctr

if keras.backend.backend() != "tensorflow":
    pytest.skip("tf.distribute is of the TensorFlow backend only", allow_module_level=True)

from tests.distribution_worker import OPTIMIZERS, REPLICAS, VOCABULARIES, compare

OWN = [name for name in OPTIMIZERS if name != "keras"]
SMALL = {
    "DCNv2": {"hidden_units": [16], "num_cross_layers": 2},
    "DynInt": {"num_layers": 2},
    # Not Dice, whose statistics are those of a replica's rows: see test_dice_normalises_by_the_rows_of_a_replica.
    "DIN": {"hidden_units": [16], "attention_units": [8], "attention_activation": "sigmoid", "hidden_activation": "relu"},
    "InterFormer": {"num_layers": 1, "hidden_units": [16], "interaction_units": [16]},
}
NO_STATISTICS = {
    "DIEN": {"attention_activation": "sigmoid", "hidden_activation": "relu"},
    "DMIN": {"attention_activation": "sigmoid", "hidden_activation": "relu"},
    "ETA": {"attention_activation": "sigmoid", "hidden_activation": "relu"},
    "RankMixer": {"attention_activation": "sigmoid"},
    "SIM": {"attention_activation": "sigmoid", "hidden_activation": "relu"},
}
"""Without Dice and batch normalisation, too."""
DICE = {"hidden_units": [16], "attention_units": [8]}
MOVING = ("norm/moving_mean", "norm/moving_variance")
DNN = {"embedding_dim": 3, "hidden_units": [5]}


def case(name, model, optimizer, **more):
    return pytest.param({"name": name, "model": model, "optimizer": optimizer, **more}, id=name, marks=[pytest.mark.slow])


def pairs():
    for model, arguments in SMALL.items():
        for optimizer in OWN if model == "DCNv2" else OWN[:10]:
            yield case(f"{model}-{optimizer}", model, optimizer, arguments=arguments, steps=50)


@pytest.fixture(scope="module")
def results(request):
    """Runs all cases of the selected tests in one process: starting TensorFlow costs more than most of them."""
    here = [item for item in request.session.items if item.path == request.node.path and hasattr(item, "callspec")]
    cases = [item.callspec.params["case"] for item in here if "case" in item.callspec.params]
    return compare(cases, timeout=60 + 90 * len(cases))


def result_of(results, case):
    result = results[case["name"]]
    assert "error" not in result, result["error"]
    return result


def assert_equal_training(result, limit=1e-5, apart=()):
    """Weights after training on two devices are those of one, and the copies on the two are the same bits, but for names in `apart`."""
    worst = max(result["differences"], key=result["differences"].get)
    assert result["differences"][worst] <= limit, f"{worst}: {result['differences'][worst]}"
    assert max(result["moved"].values()) > 100 * limit
    assert not [path for path in result["apart"] if not path.endswith(apart)]


@pytest.mark.parametrize("case", [*pairs()])
def test_two_devices_train_as_one(results, case):
    assert_equal_training(result_of(results, case))


@pytest.mark.parametrize("case", [case("l2", "DNN", "LazyAdam", steps=20, arguments={**DNN, "embedding_l2": 0.1})])
def test_the_penalty_on_the_rows_of_a_batch_is_the_same(results, case):
    assert_equal_training(result_of(results, case))


def every_model():
    for name in keras_ctr.list_models():
        if name != "DIN":
            yield case(f"model-{name}", name, "Adagrad", steps=3, arguments=NO_STATISTICS.get(name, {}))


@pytest.mark.parametrize("case", [*every_model()])
def test_every_model_trains_on_two_devices_as_on_one(results, case):
    assert_equal_training(result_of(results, case))


@pytest.mark.parametrize("case", [case("dice", "DIN", "Adagrad", steps=10, arguments=DICE)])
def test_dice_normalises_by_the_rows_of_a_replica(results, case):
    """Batch statistics are not exchanged: weights differ from one device's, but only moving averages differ between the copies."""
    result = result_of(results, case)
    assert max(d for path, d in result["differences"].items() if not path.endswith(MOVING)) > 1e-4
    assert result["apart"] and all(path.endswith(MOVING) for path in result["apart"])


@pytest.mark.parametrize("case", [case("dice-equal-halves", "DIN", "Adagrad", steps=10, arguments=DICE, equal_halves=True)])
def test_dice_with_the_same_rows_on_both_replicas(results, case):
    """Then the statistics of a half are those of the whole, and nothing else differs."""
    assert_equal_training(result_of(results, case), apart=MOVING)


@pytest.mark.parametrize("case", [case("fits", "DNN", "dynint", fits=20, arguments=DNN)])
def test_many_fits_with_two_optimizers_end(results, case):
    assert result_of(results, case)["fits"] == 20


@pytest.mark.parametrize("case", [case("uneven", "DNN", "default", steps=3, rows=32 + 32 + 3, arguments=DNN)])
def test_a_last_batch_that_does_not_divide(results, case):
    """Replicas get equal parts of what is left after the cut, and train as one device on those rows."""
    result = result_of(results, case)
    assert result["parts"] == [[16, 16], [16, 16], [1, 1]]
    assert result["parts_uncut"] == [[16, 16], [16, 16], [2, 1]]
    assert_equal_training(result)


@pytest.mark.parametrize("case", [case("one-row-left", "DNN", "default", steps=3, rows=32 + 32 + 1, arguments=DNN)])
def test_a_last_batch_of_fewer_rows_than_replicas_is_left_out(results, case):
    result = result_of(results, case)
    assert result["parts"] == [[16, 16], [16, 16]]
    assert result["parts_uncut"] == [[16, 16], [16, 16], [1, 0]]
    assert_equal_training(result)


def costs():
    hidden = {"hidden_units": [5]}
    for optimizer in OWN:
        if optimizer != "original":  # its first step sets all rows to zero, and the graph holds that
            yield case(f"cost-{optimizer}", "DNN", optimizer, cost=True, arguments=hidden)
    yield case("cost-DCNv2", "DCNv2", "default", cost=True, arguments=SMALL["DCNv2"])


@pytest.mark.parametrize("case", [*costs()])
def test_a_step_of_two_devices_touches_rows_only(results, case):
    result = result_of(results, case)
    copies = set(result["rows"])
    assert result["tables"] == 2 and {path.rsplit("@", 1)[1] for path in copies} == {str(i) for i in range(REPLICAS)}
    assert not {path: ops for path, ops in result["whole"].items() if ops}
    assert all({"ResourceGather", "ResourceScatterUpdate"} <= set(result["rows"][path]) for path in copies)
    assert not result["long"], f"tensors of {VOCABULARIES} rows are made by {result['long']}"


@pytest.mark.parametrize("case", [case("cost-keras", "DNN", "keras", cost=True, arguments={"hidden_units": [5]})])
def test_keras_own_optimizers_rewrite_every_copy(results, case):
    result = result_of(results, case)
    assert all(result["whole"].values())
    assert result["long"]
