"""AdRec and MaskNet: what their options build, beyond the contract of all models."""

import keras
import numpy as np
import pytest

from keras_ctr import Categorical, Numeric, Schema, layers
from keras_ctr.models.ad_rec import AdRec
from keras_ctr.models.mask_net import MaskNet
from tests.models.test_factorization_models import check_runs, dense_weights, inner, mlp, spread
from tests.sample import fields_schema, full_schema, random_rows

pytestmark = pytest.mark.slow

D, H, FFN = 6, 3, 11
ROWS = 7
FIELDS, NUMERICS, SEQUENCES = 4, 1, 3  # of full_schema: the binned age is a field
TOKENS = FIELDS + NUMERICS + SEQUENCES
BOTTOM, UNITS = (13, 7), (11, 5)
ENCODER = 4 * (D * D + D) + 2 * D * FFN + FFN + D + 4 * D


def plain_schema(fields, numerics):
    """So many categorical fields and numerics, no sequence."""
    return Schema(
        features=[
            *(Categorical(f"field_{i}", 5) for i in range(fields)),
            *(Numeric(f"number_{i}", transform="none") for i in range(numerics)),
        ],
        labels=["click"],
    )


def ad_rec(schema, **arguments):
    return AdRec(schema, embedding_dim=D, num_heads=H, ffn_units=FFN, **{"bottom_units": BOTTOM, "hidden_units": UNITS, **arguments})


def kernel(model):
    """Input width of the top MLP."""
    return model.get_layer("mlp").weights[0].shape[0]


RM2 = {"embedding_dim": 64, "num_heads": 8, "ffn_units": 512, "bottom_units": (512, 256), "hidden_units": (512, 512, 256)}


@pytest.mark.parametrize(
    "fields, numerics, arguments, total", [(26, 13, {}, 522_849), (26, 13, RM2, 1_550_209), (21, 1, {}, 475_745)], ids=["RM1", "RM2", "RM3"]
)
def test_published_sizes_of_ad_rec(fields, numerics, arguments, total):
    assert dense_weights(AdRec(plain_schema(fields, numerics), **arguments)) == total


@pytest.mark.parametrize(
    "arguments, encoder",
    [
        ({}, ENCODER),
        ({"num_layers": 2}, 2 * ENCODER),
        ({"norm_first": False, "scale": False}, ENCODER),
        ({"layer_norm": False}, ENCODER - 4 * D),
        ({"positional_embedding": True}, ENCODER + TOKENS * D),
        ({"mask_thresholds": None}, ENCODER),
        ({"mask_thresholds": 0.1, "fallback": "uniform"}, ENCODER),
        ({"mask_thresholds": [0.1, 0.05, 0.01], "dropout": 0.3}, ENCODER),
    ],
)
def test_options_of_ad_rec(arguments, encoder):
    schema = full_schema()
    model = ad_rec(schema, **arguments)
    assert dense_weights(model) == mlp(NUMERICS, (*BOTTOM, D)) + encoder + mlp((TOKENS + 1) * D, UNITS, 1)
    block = model.get_layer("encoder_0")
    for option, value in {"norm_first": True, "layer_norm": True, "mask_thresholds": "geometric", **arguments}.items():
        if option in block.get_config():
            assert block.get_config()[option] == value
    check_runs(model, schema)


def test_ad_rec_reads_the_numeric_token_beside_the_encoded_ones():
    schema = full_schema()
    model = ad_rec(schema)
    spread(model)
    x, _ = random_rows(schema, ROWS)
    tokens, y, encoded, head = inner(model, x, "tokens", "numeric_tokens", "encoder_0", "head")
    np.testing.assert_array_equal(tokens[:, FIELDS], y[:, 0])  # the token order of all models: fields, numerics, histories
    assert y.std() > 0 and y.min() == 0  # the bottom MLP ends with ReLU
    np.testing.assert_array_equal(head, np.concatenate([y[:, 0], encoded.reshape(ROWS, -1)], axis=1))


def test_masks_of_ad_rec_change_its_output():
    schema = full_schema()
    models = [ad_rec(schema, mask_thresholds=t) for t in (None, 0.0, "geometric", 0.2)]
    spread(models[0])
    x, _ = random_rows(schema, ROWS)
    for model in models[1:]:
        model.set_weights(models[0].get_weights())
    plain, zero, geometric, one = (np.asarray(model(x)["click"]) for model in models)
    np.testing.assert_allclose(zero, plain, rtol=1e-6)
    assert np.abs(geometric - plain).max() > 1e-4 and np.abs(one - geometric).max() > 1e-4


@pytest.mark.parametrize(
    "numeric, tokens", [("scale_embedding", 2), ("bucketize", 2), ("dense_projection", 1), (layers.NumericTokens(D, kind="bottom_mlp"), 1)]
)
def test_numerics_of_ad_rec(numeric, tokens):
    model = ad_rec(plain_schema(3, 2), numeric=numeric)
    assert model.get_layer("numeric_tokens").output.shape == (None, tokens, D)
    assert kernel(model) == (tokens + 3 + tokens) * D


def test_ad_rec_without_numerics_reads_the_encoded_tokens_alone():
    schema = plain_schema(3, 0)
    model = ad_rec(schema)
    assert kernel(model) == 3 * D
    assert dense_weights(model) == ENCODER + mlp(3 * D, UNITS, 1)
    check_runs(model, schema)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_layers": 0}, "num_layers"),
        ({"num_heads": 4}, "do not divide"),
        ({"mask_thresholds": [0.1]}, "1 numbers for 2 heads"),
        ({"mask_thresholds": 1.5}, "mask_thresholds"),
        ({"fallback": "none"}, "fallback"),
        ({"bottom_units": (0,)}, "hidden_units"),
        ({"numeric": "raw"}, "bottom_mlp"),
    ],
)
def test_errors_of_ad_rec(arguments, message):
    with pytest.raises(ValueError, match=message):
        AdRec(fields_schema(), **{"embedding_dim": D, "num_heads": 2, **arguments})


BLOCKS, RATIO = (13, 5), 0.5
FLAT = TOKENS * D


def mask_net(schema, **arguments):
    return MaskNet(schema, embedding_dim=D, block_units=BLOCKS, **{"reduction_ratio": RATIO, **arguments})


def block(inputs, units, ratio=RATIO, norm=True):
    hidden = round(ratio * inputs)
    return FLAT * hidden + hidden + hidden * inputs + inputs + inputs * units + 2 * units * norm


@pytest.mark.parametrize(
    "arguments, blocks, top",
    [
        ({"hidden_units": UNITS}, block(FLAT, 13) + block(FLAT, 5), mlp(18, UNITS, 1)),
        ({"hidden_units": ()}, block(FLAT, 13) + block(FLAT, 5), 18 + 1),
        ({}, block(FLAT, 13) + block(FLAT, 5), mlp(18, (512, 256), 1)),
        ({"structure": "serial"}, block(FLAT, 13) + block(13, 5), 5 + 1),
        ({"structure": "serial", "hidden_units": UNITS}, block(FLAT, 13) + block(13, 5), mlp(5, UNITS, 1)),
        ({"structure": "serial", "reduction_ratio": 3}, block(FLAT, 13, 3) + block(13, 5, 3), 5 + 1),
        ({"structure": "serial", "block_norm": False}, block(FLAT, 13, norm=False) + block(13, 5, norm=False), 5 + 1),
        ({"hidden_units": (), "dropout": 0.3}, block(FLAT, 13) + block(FLAT, 5), 18 + 1),
    ],
)
@pytest.mark.parametrize("embedding_norm", [True, False])
def test_parameter_count_of_mask_net(arguments, blocks, top, embedding_norm):
    schema = full_schema()
    model = mask_net(schema, embedding_norm=embedding_norm, **arguments)
    assert dense_weights(model) == NUMERICS * D + 2 * FLAT * embedding_norm + blocks + top
    check_runs(model, schema)


@pytest.mark.parametrize("structure", ["parallel", "serial"])
@pytest.mark.parametrize("embedding_norm", [True, False])
def test_structure_of_mask_net(structure, embedding_norm):
    """Masks come from the raw embeddings everywhere; serial blocks are chained, parallel ones stand side by side."""
    schema = full_schema()
    model = mask_net(schema, structure=structure, embedding_norm=embedding_norm, hidden_units=(), activation=None)
    spread(model)
    x, _ = random_rows(schema, ROWS)
    flat, v = inner(model, x, "flat", "flat_normal")
    assert np.array_equal(flat, v) != embedding_norm
    first, second = model.get_layer("mask_block_0"), model.get_layer("mask_block_1")
    if structure == "parallel":
        top = keras.ops.concatenate([first(v, flat), second(v, flat)], axis=1)
    else:
        top = second(first(v, flat), flat)
    expected = model.get_layer("logits")(top)
    np.testing.assert_allclose(model(x)["click"], expected, rtol=1e-4, atol=1e-5)


def test_each_field_is_normalised_by_itself():
    schema = fields_schema()
    model = mask_net(schema)
    x, _ = random_rows(schema, ROWS)
    (normal,) = inner(model, x, "embedding_norm")
    np.testing.assert_allclose(normal.mean(axis=-1), 0, atol=1e-5)
    np.testing.assert_allclose(normal[:, :FIELDS].std(axis=-1), 1, atol=0.2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"structure": "stacked"}, "structure"),
        ({"block_units": ()}, "block_units is empty"),
        ({"block_units": (0,)}, "units"),
        ({"reduction_ratio": -1}, "reduction_ratio"),
        ({"numeric": "raw"}, "scale_embedding"),
    ],
)
def test_errors_of_mask_net(arguments, message):
    with pytest.raises(ValueError, match=message):
        MaskNet(fields_schema(), **arguments)
