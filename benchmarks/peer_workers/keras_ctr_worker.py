"""Worker of `benchmarks.peers` for this package: its factories, its default optimizer, the step of `fit`."""

import inspect

import keras

import keras_ctr
from benchmarks.peer_workers import architectures, keras_steps, synthetic
from benchmarks.peer_workers.protocol import Unavailable
from keras_ctr.schema import Categorical, Label, Numeric, Schema, Sequence

TOKENS = {"embedding_dim": architectures.EMBEDDING_DIM, "numeric": "scale_embedding"}


def factory_arguments(name):
    """Returns `(factory name, arguments)` of a model of the benchmark."""
    size = architectures.MODELS[name]
    if name in ("DCN", "DCNv2"):
        kind = "vector" if name == "DCN" else "matrix"
        crosses = {"structure": "parallel", "num_cross_layers": size["cross_layers"], "parameterization": kind}
        return "DCNv2", {**TOKENS, **crosses, "hidden_units": size["hidden_units"]}
    if name == "DeepFM":
        return "DeepFM", {**TOKENS, **size}
    if name == "xDeepFM":
        return "XDeepFM", {**TOKENS, **size, "cin_activation": None, "cin_bias": True}
    if name == "AutoInt":
        return "AutoInt", {**TOKENS, **size, "shortcut": "projection", "scale": False, "hidden_units": ()}
    if name == "Wukong":
        return "Wukong", {**TOKENS, **size}
    return "DIN", {"embedding_dim": architectures.EMBEDDING_DIM, **size, "attention_activation": "dice", "hidden_activation": "dice"}


def make_schema(sizes, model):
    """Returns the schema of the synthetic data: 26 fields with 13 numbers, or with one history for DIN."""
    features = [Categorical(f"C{f + 1}", vocabulary_size=size) for f, size in enumerate(sizes)]
    if model == "DIN":
        target = f"C{architectures.HISTORY_FIELD + 1}"
        features.append(Sequence("history", max_length=architectures.HISTORY_LENGTH, table=target, target=target, group="history"))
    else:
        features += [Numeric(f"I{i + 1}", transform="none") for i in range(architectures.NUM_NUMERIC)]
    return Schema(features=features, labels=[Label("click")])


def make_model(name, sizes):
    """Builds a model of the benchmark.

    Raises:
        Unavailable: If the package has no such factory, or the factory lacks an argument of the comparison.
    """
    factory_name, arguments = factory_arguments(name)
    factory = getattr(keras_ctr.models, factory_name, None)
    if factory is None:
        raise Unavailable(f"keras_ctr.models has no {factory_name}")
    lacking = [a for a in arguments if a not in inspect.signature(factory).parameters]
    if lacking:
        raise Unavailable(f"keras_ctr.models.{factory_name} has no argument {', '.join(lacking)}")
    return factory(make_schema(sizes, name), **arguments)


def separate_tables(sizes):
    """Builds DCN with one variable a field instead of one for all, the rest as `make_model("DCN", sizes)`."""
    schema, size = make_schema(sizes, "DCN"), architectures.MODELS["DCN"]
    inputs = keras_ctr.models.build_inputs(schema)
    rows = []
    for field in schema.fields:
        layer = keras_ctr.layers.FeatureEmbedding(
            schema.select(features=[field.name]), architectures.EMBEDDING_DIM, name=f"table_{field.name}"
        )
        rows.append(layer({field.name: inputs[field.name]})["fields"])
    numeric = keras_ctr.layers.NumericTokens(architectures.EMBEDDING_DIM, kind="scale_embedding", name="numeric")
    columns = [keras.layers.Reshape((1,))(inputs[f.name]) for f in schema.numerics]
    tokens = keras.layers.Concatenate(axis=1)([*rows, numeric(keras.layers.Concatenate()(columns))])
    flat = keras.layers.Flatten()(tokens)
    crossed = keras_ctr.layers.CrossNetwork(size["cross_layers"], parameterization="vector", name="cross")(flat)
    head = keras.layers.Concatenate()([crossed, keras_ctr.layers.MLP(size["hidden_units"], name="mlp")(flat)])
    logits = keras_ctr.models.ctr_model.logits(head, schema)
    return keras_ctr.models.CTRModel(inputs, keras_ctr.models.ctr_model.predictions(logits, schema))


def make_optimizer(name):
    """Returns an optimizer by name: a recipe or class of `keras_ctr.optimizers`, or `"keras_adam"`, Keras' own over everything.

    Raises:
        Unavailable: If the package has no such optimizer.
    """
    rate = architectures.LEARNING_RATE
    if name == "keras_adam":
        return keras.optimizers.Adam(rate)
    if name == "dynint":  # its two rates stay as they are: that of Adam would be a tenth of them
        return keras_ctr.optimizers.dynint(l1=1e-4, l2=1e-4)
    if name not in keras_ctr.optimizers.__all__:
        raise Unavailable(f"keras_ctr.optimizers has no {name!r}, and it is not 'keras_adam'")
    make = getattr(keras_ctr.optimizers, name)
    return make(rate, momentum=0.9) if name == "SGD" else make(rate)


def inputs_of(batch):
    """Returns the feature dict of a synthetic batch: every number is an input of its own."""
    values = keras_steps.features(batch)
    numeric = values.pop("numeric", None)
    if numeric is not None:
        values.update({f"I{i + 1}": numeric[:, i].copy() for i in range(numeric.shape[1])})
    return values


def is_table(weight):
    """Whether a weight of ours is an embedding table (`.../table`, `.../table_<width>`)."""
    return weight.path.rsplit("/", 1)[-1].split("_")[0] == "table"


def build(config):
    """Builds the model and its step, see `protocol.serve`."""
    keras_steps.start(config)
    sizes, data = synthetic.of_config(config)
    model = separate_tables(sizes) if config.get("storage") == "separate" else make_model(config["model"], sizes)
    model.compile(make_optimizer(config["optimizer"]), "binary_crossentropy")
    return {
        "step": keras_steps.training_step(model, [(inputs_of(b), {"click": b["label"]}) for b in data]),
        "parameters": keras_steps.parameters(model, is_table),
        "versions": keras_steps.versions(keras_ctr),
        "notes": [f"optimizer {config['optimizer']}", f"policy {config.get('dtype', 'float32')}", f"XLA {model.jit_compile}"],
    }
