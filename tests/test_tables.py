"""Transfer of trained models to other vocabularies: rows by value against loops, exact predictions, exact continuation, named errors."""

import dataclasses

import keras
import numpy as np
import pyarrow as pa
import pytest

import keras_ctr
from keras_ctr import optimizers, tables
from keras_ctr.data import Encoder, Vocabulary
from keras_ctr.layers import FeatureEmbedding
from keras_ctr.schema import Categorical, Numeric, Schema, SchemaError, Sequence

ITEMS = {"old": [f"i{i}" for i in range(11)], "new": ["i10", *(f"i{i}" for i in range(9) if i not in (3, 7)), *(f"n{i}" for i in range(5))]}
USERS = {"old": list(range(100, 113)), "new": list(range(100, 119))}
CITIES = {"old": ("rome", "oslo", "bern"), "new": ("bern", "kyiv", "oslo")}
IDS = {"old": 7, "new": 11}
WIDTH, NARROW = 5, 3  # of the tokens, and of the users' table


def world(when):
    """Schema and vocabularies: a shared table, one of another width, one in the schema, one of raw ids, a binned one."""
    item = Vocabulary(ITEMS[when])
    user = Vocabulary(USERS[when], "int64")
    features = [
        Categorical("user", user.size, dtype="int64", embedding_dim=NARROW),
        Categorical("item", item.size),
        Categorical("city", vocabulary=CITIES[when]),
        Categorical("place", IDS[when], dtype="int64"),
        Numeric("price", mean=1.5, std=2.0),
        Numeric("age", transform="log_square", num_bins=4),
        Sequence("past", max_length=3, table="item", target="item"),
    ]
    return Schema(features=features, labels=["click"]), {"user": user, "item": item}


def raw_rows(rows, when, seed=0, **columns):
    """Raw rows of values that `when` knows, and some that neither world does."""
    rng = np.random.default_rng(seed)

    def pick(values, shape):
        return rng.choice(np.array(values), shape).tolist()

    table = {
        "user": pick([*USERS[when], 7], rows),
        "item": pick([*ITEMS[when], "?"], rows),
        "city": pick([*CITIES[when], "?"], rows),
        "place": pick(range(IDS[when]), rows),
        "price": rng.normal(size=rows).astype("float32").tolist(),
        "age": rng.integers(0, 30, rows).tolist(),
        "past": [pick(ITEMS[when], int(n)) for n in rng.integers(0, 5, rows)],
        "click": rng.integers(0, 2, rows).tolist(),
    }
    return pa.table({**table, **columns})


def common_rows(rows, seed=0):
    """Rows all of whose values both worlds know, or neither."""
    rng = np.random.default_rng(seed)
    both = sorted(set(ITEMS["old"]) & set(ITEMS["new"]))
    return raw_rows(
        rows,
        "old",
        seed,
        item=rng.choice([*both, "?"], rows).tolist(),
        city=rng.choice(["bern", "oslo", "?"], rows).tolist(),
        past=[rng.choice(both, int(n)).tolist() for n in rng.integers(0, 5, rows)],
    )


def encoded(when, table):
    schema, vocabularies = world(when)
    batch = Encoder(schema, vocabularies).encode(table)
    return batch.features, batch.labels


def build(when, model="DIN", optimizer=None, **arguments):
    schema, _ = world(when)
    own = {
        "DIN": {"embedding_dim": WIDTH, "attention_units": (4,), "hidden_units": (8,), "dropout": 0.2},
        "CAN": {"embedding_dim": WIDTH, "hidden_units": (8,), "feed_dim": 3, "co_action_units": (2,)},
        "WideDeep": {"embedding_dim": WIDTH, "hidden_units": (8,)},
        "DeepFM": {"embedding_dim": WIDTH, "hidden_units": (8,), "history_weights": "own"},
        "LR": {},
    }[model]
    model = keras_ctr.get_model(model, schema, **{**own, **arguments})
    model.compile("sgd" if optimizer is None else optimizer(), "binary_crossentropy")
    return model


def train(model, when, steps, seed=0):
    for step in range(steps):
        model.train_on_batch(*encoded(when, raw_rows(17, when, 100 * seed + step)))


def transfer(model, new_model, **options):
    (old_schema, old), (new_schema, new) = world("old"), world("new")
    return tables.transfer(model, old_schema, new_schema, old, new, new_model, **options)


def embedding(model):
    return next(layer for layer in model._flatten_layers() if isinstance(layer, FeatureEmbedding))


def named(table, when):
    """The rows of a table by what they stand for."""
    values = {"item": ITEMS, "user": USERS, "city": CITIES}.get(table)
    values = values[when] if values else range(2, IDS[when]) if table == "place" else range(2, 6)
    return {"padding": 0, "unknown": 1, **{value: i for i, value in enumerate(values, 2)}}


TABLES = ("user", "item", "city", "place", "age")


@pytest.mark.parametrize(
    "model, new_rows, chunk, in_place",
    [("DIN", "initializer", 1 << 16, True), ("DIN", "unknown", 3, True), ("LR", "initializer", 3, False)],
)
def test_rows_move_by_value(model, new_rows, chunk, in_place, monkeypatch):
    monkeypatch.setattr(tables, "_CHUNK", chunk)
    if not in_place:
        monkeypatch.setattr(tables.backend, "can_write_rows", lambda: False)
    old, new = build("old", model), build("new", model)
    train(old, "old", 3)
    rng = np.random.default_rng(5)
    for variable in new.variables:  # so that LR's fresh rows are not all zero
        if "float" in variable.dtype:
            variable.assign(rng.normal(size=variable.shape))
    fresh = {name: embedding(new).rows(name) for name in TABLES}
    report = transfer(old, new, new_rows=new_rows)
    for name in TABLES:
        before, after = named(name, "old"), named(name, "new")
        for value, row in after.items():
            expected = embedding(old).rows(name)[before[value]] if value in before else fresh[name][row]
            if value not in before and new_rows == "unknown":
                expected = embedding(old).rows(name)[1]
            np.testing.assert_array_equal(embedding(new).rows(name)[row], expected, err_msg=f"{name} {value}")
    assert {name: dataclasses.astuple(rows) for name, rows in report.items()} == {
        "user": (13, 6, 0),
        "item": (8, 5, 3),
        "city": (2, 1, 1),
        "place": (5, 4, 0),
        "age": (4, 0, 0),
    }
    others = [v for v in old.variables if not v.name.startswith("table")]
    assert len(others) > 1
    for before, after in zip(others, (v for v in new.variables if not v.name.startswith("table")), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    "new_rows, model, arguments",
    [
        ("initializer", "DIN", {}),
        ("unknown", "DIN", {}),
        ("initializer", "DeepFM", {}),  # histories with weights of their own
        ("initializer", "CAN", {}),  # further tables of the same features
        ("initializer", "WideDeep", {"wide_crosses": [("user", "place")], "cross_buckets": 17}),  # only appended to
    ],
)
def test_predictions_of_known_values_do_not_change(new_rows, model, arguments):
    old, new = build("old", model, **arguments), build("new", model, **arguments)
    train(old, "old", 3)
    table = common_rows(67)
    before = old.predict_on_batch(encoded("old", table)[0])["click"]
    assert not np.array_equal(new.predict_on_batch(encoded("new", table)[0])["click"], before)
    transfer(old, new, new_rows=new_rows)
    np.testing.assert_array_equal(new.predict_on_batch(encoded("new", table)[0])["click"], before)


def test_crosses_of_values_that_move_are_refused():
    old, new = (build(when, "WideDeep", wide_crosses=[("user", "item")], cross_buckets=17) for when in ("old", "new"))
    train(old, "old", 1)
    with pytest.raises(ValueError, match="'wide' hashes the ids of 'item', and values have got other ids"):
        transfer(old, new)


def test_new_values_are_predicted_as_unknown_until_trained():
    old, new = build("old"), build("new")
    train(old, "old", 3)
    rng = np.random.default_rng(2)
    table = common_rows(67)
    table = table.set_column(0, "user", pa.array(rng.integers(113, 119, 67)))
    table = table.set_column(1, "item", pa.array(rng.choice(["n0", "n4"], 67).tolist()))
    transfer(old, new, new_rows="unknown")
    x, y = encoded("new", table)
    assert (x["item"] > 1).all() and (x["user"] > 1).all()
    before = old.predict_on_batch(encoded("old", table)[0])["click"]
    np.testing.assert_array_equal(new.predict_on_batch(x)["click"], before)
    new.compile(keras.optimizers.SGD(1.0), "binary_crossentropy")
    new.train_on_batch(x, y)
    assert not np.array_equal(new.predict_on_batch(x)["click"], before)


def test_evicted_values_are_predicted_as_unknown():
    old, new = build("old"), build("new")
    train(old, "old", 3)
    evicted = common_rows(67).set_column(1, "item", pa.array((["i3", "i7", "i9"] * 23)[:67]))
    unknown = evicted.set_column(1, "item", pa.array(["?"] * 67))
    transfer(old, new)
    before = old.predict_on_batch(encoded("old", unknown)[0])["click"]
    assert not np.array_equal(old.predict_on_batch(encoded("old", evicted)[0])["click"], before)
    np.testing.assert_array_equal(new.predict_on_batch(encoded("new", evicted)[0])["click"], before)


def multi():
    pattern = {r"embedding/.*": keras.optimizers.Ftrl(0.1, initial_accumulator_value=0.3)}
    return keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(keras.optimizers.Adam(0.01), pattern))


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    "ftrl": lambda: keras.optimizers.Ftrl(0.1),
    "nadam": lambda: keras.optimizers.Nadam(0.01),
    "adafactor": lambda: keras.optimizers.Adafactor(0.01),
    "ema": lambda: keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True),
    "multi": multi,
    "lazy_adam": lambda: optimizers.LazyAdam(0.01),
    "row_wise": lambda: optimizers.RowWiseAdagrad(0.1, initial_accumulator_value=0.2),
    "recipe": lambda: optimizers.dynint(0.1),
    "loss_scale": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
}


FAST = "adam"


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name != FAST)) for name in OPTIMIZERS])
def test_training_goes_on_bit_for_bit(name):
    model, again = build("old", optimizer=OPTIMIZERS[name]), build("old", optimizer=OPTIMIZERS[name])
    train(model, "old", 3)
    schema, vocabularies = world("old")
    report = tables.transfer(model, schema, schema, vocabularies, vocabularies, again)
    assert all(rows.new == rows.evicted == 0 for rows in report.values())
    at_transfer = embedding(model).rows("item")
    for one in (model, again):
        train(one, "old", 3, seed=1)
    assert not np.array_equal(embedding(model).rows("item"), at_transfer)
    for before, after in zip(model.variables, again.variables, strict=True):
        np.testing.assert_array_equal(before, after, err_msg=before.path)
    assert len(model.optimizer.variables) > 4
    for before, after in zip(model.optimizer.variables, again.optimizer.variables, strict=True):
        np.testing.assert_array_equal(before, after, err_msg=before.path)


def offsets(when):
    """First rows of the tables in `table` and `table_3`: the layout that docs/notation.md describes."""
    schema, _ = world(when)
    starts, ends = {}, {WIDTH: 0, NARROW: 0}
    for name, table in schema.tables.items():
        width = table.embedding_dim or WIDTH
        starts[name] = (width, ends[width])
        ends[width] += table.vocabulary_size
    return starts, ends


@pytest.mark.parametrize(
    "name, slots",
    [
        ("adam", {"momentum": 0.0, "velocity": 0.0, "velocity_hat": 0.0}),
        ("ftrl", {"accumulator": 0.1, "linear": 0.0}),
        pytest.param("multi", {"accumulator": 0.3, "linear": 0.0}, marks=pytest.mark.slow),
        ("lazy_adam", {"momentum": 0.0, "velocity": 0.0}),
        ("row_wise", {"row_accumulator": 0.2}),
        pytest.param("ema", {"momentum": 0.0, "average": 0.0}, marks=pytest.mark.slow),
        pytest.param("adafactor", {"velocity": 0.0, "": 0.0}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_slots_move_with_their_rows(name, slots):
    old, new = build("old", optimizer=OPTIMIZERS[name]), build("new", optimizer=OPTIMIZERS[name])
    train(old, "old", 4)
    transfer(old, new)
    (old_starts, old_ends), (new_starts, new_ends) = offsets("old"), offsets("new")
    kept = 0
    for slot, initial in slots.items():
        for width, variable in ((WIDTH, "table"), (NARROW, f"table_{NARROW}")):
            key = f"embedding_{variable}_{slot}" if slot else variable
            before, after = (
                next(np.asarray(v) for v in m.optimizer.variables if v.name == key and v.shape[0] == ends[width])
                for m, ends in ((old, old_ends), (new, new_ends))
            )
            for table in (t for t in TABLES if new_starts[t][0] == width):
                ids = named(table, "old")
                for value, row in named(table, "new").items():
                    moved = before[old_starts[table][1] + ids[value]] if value in ids else np.full(after.shape[1:], initial, "float32")
                    np.testing.assert_array_equal(after[new_starts[table][1] + row], moved, err_msg=f"{key} {table} {value}")
                    kept += value in ids and bool(np.any(moved != np.float32(initial)))
    assert kept > 15  # rows with a state of their own
    iterations = [v for v in new.optimizer.variables if v.name == "iteration"]
    assert iterations and all(int(v.numpy()) == 4 for v in iterations)


@pytest.mark.slow
def test_a_state_that_starts_at_the_weights_starts_at_the_transferred_ones():
    old, new = (build(when, optimizer=lambda: keras.optimizers.ScheduleFreeAdamW(0.01)) for when in ("old", "new"))
    train(old, "old", 2)
    transfer(old, new, new_rows="unknown")
    slot = next(np.asarray(v) for v in new.optimizer.variables if v.name == "embedding_table_momentum")
    row = offsets("new")[0]["item"][1] + named("item", "new")["n2"]
    np.testing.assert_array_equal(slot[row], embedding(old).rows("item")[1])


@pytest.mark.slow
def test_weights_only_where_there_is_no_state():
    old, new = build("old", optimizer=OPTIMIZERS["adam"]), build("new", optimizer=OPTIMIZERS["adam"])
    new.optimizer.build(new.trainable_variables)
    states = [np.asarray(v) for v in new.optimizer.variables]
    transfer(old, new)  # never trained: its optimizer has no state yet
    assert all(np.array_equal(a, b) for a, b in zip(states, new.optimizer.variables, strict=True))
    train(old, "old", 1)
    bare = keras_ctr.models.DIN(world("new")[0], embedding_dim=WIDTH, attention_units=(4,), hidden_units=(8,), dropout=0.2)
    transfer(old, bare)
    np.testing.assert_array_equal(embedding(bare).rows("item")[1], embedding(old).rows("item")[1])


def test_layers_without_names_of_their_own_belong_together_in_order():
    def unnamed(when):
        schema, _ = world(when)
        inputs = keras_ctr.models.ctr_model.build_inputs(schema)
        x = keras.layers.Flatten()(FeatureEmbedding(schema, WIDTH)(inputs)["fields"])
        for units in (7, 7, 1):
            x = keras.layers.Dropout(0.1)(keras.layers.Dense(units)(x))
        model = keras_ctr.models.ctr_model.CTRModel(inputs, {"click": keras.layers.Activation("sigmoid", name="click")(x)})
        model.compile("adam", "binary_crossentropy")
        return model

    old, new = unnamed("old"), unnamed("new")
    assert [v.path for v in old.variables] != [v.path for v in new.variables]
    train(old, "old", 2)
    transfer(old, new)
    table = common_rows(31)
    before, after = (m.predict_on_batch(encoded(when, table)[0])["click"] for m, when in ((old, "old"), (new, "new")))
    np.testing.assert_array_equal(before, after)
    kernels = [[np.asarray(v) for v in m.optimizer.variables if v.name.endswith("kernel_momentum")] for m in (old, new)]
    assert len(kernels[0]) == 3 and all(np.array_equal(a, b) and a.any() for a, b in zip(*kernels, strict=True))


@pytest.mark.slow
def test_saved_and_loaded_models_are_transferred(tmp_path):
    old = build("old", optimizer=OPTIMIZERS["lazy_adam"])
    train(old, "old", 2)
    old.save(tmp_path / "model.keras")
    one, two = build("new", optimizer=OPTIMIZERS["lazy_adam"]), build("new", optimizer=OPTIMIZERS["lazy_adam"])
    two.set_weights(one.get_weights())
    transfer(old, one)
    transfer(keras.saving.load_model(tmp_path / "model.keras"), two)
    for before, after in zip([*one.weights, *one.optimizer.variables], [*two.weights, *two.optimizer.variables], strict=True):
        np.testing.assert_array_equal(before, after)


def changed(when, **changes):
    """The schema of a world with the options of one feature changed: `feature={option: value}`."""
    schema, vocabularies = world(when)
    features = [dataclasses.replace(f, **changes.get(f.name, {})) for f in schema.features]
    return schema.replace(features=features), vocabularies


def test_other_architectures_are_refused_by_weight_and_nothing_is_changed():
    old = build("old")
    train(old, "old", 1)
    for arguments, name in (
        ({"embedding_dim": 7}, r"weight 'embedding/projection_user' has the shape \(3, 5\) in the trained model and \(3, 7\) in the new"),
        ({"hidden_units": (6,)}, r"weight 'mlp/.*kernel' has the shape"),
        ({"hidden_units": (8, 8)}, "the trained model lacks the weight 'mlp"),
        ({"hidden_units": ()}, "the new model lacks the weight 'mlp"),
    ):
        new = build("new", **arguments)
        weights = new.get_weights()
        with pytest.raises(ValueError, match=name):
            transfer(old, new)
        assert all(np.array_equal(a, b) for a, b in zip(weights, new.get_weights(), strict=True))
    with pytest.raises(ValueError, match="optimizer is SGD, the new one's Adam"):
        transfer(old, build("new", optimizer=keras.optimizers.Adam))
    with pytest.raises(ValueError, match="lacks the optimizer variable 'embedding_table_momentum' of the new one|'.*_momentum'"):
        transfer(old, build("new", optimizer=lambda: keras.optimizers.SGD(momentum=0.9)))
    with pytest.raises(ValueError, match="another model"):
        transfer(old, old)
    with pytest.raises(ValueError, match="new_rows must be .* did you mean 'unknown'"):
        transfer(old, build("new"), new_rows="unknwn")


def test_other_schemas_are_refused_by_feature():
    schema, _ = world("old")

    def refused(new, match):
        with pytest.raises(SchemaError, match=match):
            tables.check_schemas(schema, new)

    refused(schema.select(features=[n for n in schema.feature_names if n != "price"]), "lacks the feature 'price'")
    refused(schema.replace(features=(*schema.features, Numeric("extra", mean=0.0, std=1.0))), "does not know the feature 'extra'")
    refused(schema.replace(features=schema.features[::-1]), "another order")
    refused(schema.replace(labels=["buy"]), r"has the labels \['buy'\], the model's are \['click'\]")
    refused(changed("new", item={"embedding_dim": 2})[0], "feature 'item': embedding_dim is 2 in the new schema.* trained with None")
    refused(changed("new", price={"mean": 1.25})[0], "feature 'price': mean is 1.25 .* trained with 1.5; extending")
    refused(changed("new", past={"max_length": 4})[0], "feature 'past': max_length is 4")
    refused(changed("new", age={"num_bins": 5})[0], "feature 'age': num_bins is 5")
    kinds = [Categorical("price", 5, dtype="int64") if f.name == "price" else f for f in schema.features]
    refused(
        schema.replace(features=kinds), "feature 'price': kind is 'categorical' in the new schema, the model was trained with 'numeric'"
    )
    tables.check_schemas(schema, world("new")[0])
    # A sequence says itself what its table is once `select` has left the table's owner out, which changes nothing.
    tables.check_schemas(schema, schema.select(labels=["click"]))


def test_vocabularies_must_fit():
    (old_schema, old), (new_schema, new) = world("old"), world("new")
    model, other = build("old"), build("new")
    with pytest.raises(SchemaError, match="table 'item': its vocabulary makes 13 rows, the schema says 15"):
        tables.transfer(model, old_schema, new_schema, old, {**new, "item": old["item"]}, other)
    with pytest.raises(SchemaError, match="table 'item' holds strings: pass its vocabulary"):
        tables.transfer(model, old_schema, new_schema, old, {"user": new["user"]}, other)
    with pytest.raises(SchemaError, match="table 'user' has a vocabulary in the new schema and raw ids in the old one"):
        tables.transfer(model, old_schema, new_schema, {"item": old["item"]}, new, other)
    with pytest.raises(SchemaError, match="of the new model has 15 rows for the table 'user', its schema says 21"):
        tables.transfer(model, old_schema, new_schema, old, new, build("old"))


def compressed(values, buckets=5):
    """Schema, vocabularies and a model whose users are stored as products of rows."""
    user = Vocabulary(values, "int64")
    features = [Categorical("user", user.size, dtype="int64", quotient_remainder=buckets), Categorical("place", 3, dtype="int64")]
    schema = Schema(features=features, labels=["click"])
    model = keras_ctr.models.DNN(schema, embedding_dim=WIDTH, hidden_units=(4,))
    model.compile(optimizers.LazyAdam(0.1), "binary_crossentropy")
    return schema, {"user": user}, model


def test_compressed_tables_are_appended_to():
    (schema, old, model), (new_schema, new, grown) = compressed(USERS["old"]), compressed(USERS["new"])
    x = {"user": np.arange(2, 15, dtype="int32"), "place": np.full(13, 2, "int32")}
    for _ in range(3):
        model.train_on_batch(x, {"click": np.arange(13)[:, None] % 2})
    report = tables.transfer(model, schema, new_schema, old, new, grown)
    assert dataclasses.astuple(report["user"]) == (13, 6, 0)
    np.testing.assert_array_equal(embedding(grown).rows("user")[:15], embedding(model).rows("user"))
    np.testing.assert_array_equal(embedding(grown).rows("place"), embedding(model).rows("place"))
    np.testing.assert_array_equal(grown.predict_on_batch(x)["click"], model.predict_on_batch(x)["click"])
    slots = [next(np.asarray(v) for v in m.optimizer.variables if v.name == "embedding_table_velocity") for m in (model, grown)]
    # 5 remainder rows and ceil(15 / 5) = 3 or ceil(21 / 5) = 5 quotient rows, then the places
    assert slots[0].shape == (11, WIDTH) and slots[1].shape == (13, WIDTH) and slots[0].any(axis=1)[[1, 2, 5, 10]].all()
    np.testing.assert_array_equal(slots[1], np.concatenate([slots[0][:8], np.zeros((2, WIDTH)), slots[0][8:]]))


def test_compressed_tables_cannot_be_moved_or_cut():
    schema, old, model = compressed(USERS["old"])

    def refused(match, values, buckets=5, **options):
        new_schema, new, grown = compressed(values, buckets)
        with pytest.raises(ValueError, match=match):
            tables.transfer(model, schema, new_schema, old, new, grown, **options)

    refused("'user' is stored as products .* appended to, not moved", USERS["old"][::-1])
    refused("'user' is stored as products .* appended to, not moved", [*USERS["old"][:-1], *range(200, 209)])
    refused("'user' is stored as products .* new_rows='initializer'", USERS["new"], new_rows="unknown")
    refused("feature 'user': quotient_remainder is 4", USERS["new"], buckets=4)
    schema, old, model = compressed(USERS["old"], 17)  # one row an id so far
    refused("more than quotient_remainder rows from the start", USERS["new"], 17)
    embedding(model).kept_rows = {str(WIDTH): 3}
    refused("has lost rows by pruning", USERS["old"], 17)
