"""`keras-ctr export`."""

from pathlib import Path

import click

from keras_ctr.cli import options
from keras_ctr.cli.evaluate_command import TABLES
from keras_ctr.cli.main import show

RUNTIMES = ("onnx", "litert")


@click.command("export")
@click.argument("run", type=click.Path(exists=True, file_okay=False))
@click.argument("path", type=click.Path())
@click.option("--version", type=click.IntRange(1), help="Number of the version.  [default: the next free one]")
@click.option(
    "--rows", type=click.Path(exists=True), help="CSV or Parquet file with raw rows for the warm-up requests.  [default: the run's data]"
)
@click.option("--candidate", "candidates", multiple=True, help="Feature of the candidate in 'rank' requests; may be repeated.")
@click.option(
    "--runtime",
    "runtimes",
    multiple=True,
    type=click.Choice(RUNTIMES),
    help="Also write the model of 'encoded' for ONNX Runtime or LiteRT; may be repeated.",
)
@click.option("--tables", type=click.Choice(TABLES), help="Store the embedding tables in this type.  [default: float32]")
@click.option("--name", help="Name under which the model is served.  [default: the folder's]")
@click.option("--notes", help="Text for the model card.")
@options.overwrite
@options.as_json
def command(run, path, version, rows, candidates, runtimes, tables, name, notes, overwrite, as_json):
    """Write the model of a RUN folder to PATH/VERSION for TensorFlow Serving.

    PATH is the model's folder; one that ends in a number, such as served/1, says the version too. Signatures: 'serving_default' (raw
    named features), 'serve_examples' (serialized tf.Examples), 'encoded' (ids), 'rank' (one user, N candidates; --candidate names what
    differs between them, by default all but histories and the group), 'classify' and 'regress' (TensorFlow Serving's calls). Warm-up
    requests, made of real rows, are replayed through TensorFlow's C API before the version is published.

    --runtime writes assets.extra/model.onnx or assets.extra/model.tflite into the version, which TensorFlow Serving does not read. Such a
    file takes ids, as 'encoded' does. It is scored on the same rows before the version is published, where its runtime is installed.

    --tables makes the version, and those files, about a third (int8, one scale a row) or half (float16) as large. 'keras-ctr evaluate RUN
    DATA --tables' tells what that costs in AUC.
    """
    from keras_ctr.cli import runs
    from keras_ctr.serving import export_bundle
    from keras_ctr.serving.model_card import MARKDOWN
    from keras_ctr.serving.runner import read_signatures
    from keras_ctr.serving.runtimes import check_packages

    check_packages(runtimes)
    path = Path(path)
    if path.name.isdecimal():
        if version is not None and version != int(path.name):
            raise click.UsageError(f"PATH ends in version {path.name}, --version is {version}: give one of the two")
        path, version = path.parent, int(path.name)
    if overwrite and version is None:
        raise click.UsageError("--overwrite needs the version to replace: give --version, or a PATH that ends in it")
    if version is not None and (path / str(version)).exists() and not overwrite:
        raise click.ClickException(f"{path / str(version)} exists; choose another version or pass --overwrite")
    model, schema, vocabularies, document = runs.load_run(run)
    raw = _raw_rows(rows, schema) if rows else _data_rows(document.get("data"), schema, vocabularies)
    folder = export_bundle(
        model,
        schema,
        path,
        version=version,
        vocabularies=vocabularies,
        rows=raw,
        candidate_features=candidates or None,
        tables=tables,
        runtimes=runtimes,
        name=name,
        card=_card(run, document, notes),
        overwrite=overwrite,
    )
    result = {"saved_model": str(folder), "version": int(folder.name), "signatures": list(read_signatures(folder))}
    show(
        {
            **result,
            "warmup_rows": "none: the run's data is gone, give --rows" if raw is None else "replayed",
            **_tables(folder, as_json),
            **_runtimes(folder, as_json),
            "card": str(folder / MARKDOWN),
        },
        as_json,
    )


def _said(folder, section):
    """Returns a section of the card of a version."""
    import json

    from keras_ctr.serving.model_card import DOCUMENT

    return json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))[section]


def _tables(folder, as_json):
    """Returns what the card of a version says about smaller tables, empty without any."""
    found = _said(folder, "tables")
    if not found or as_json:
        return {"tables": found} if found else {}
    size = f"{found['bytes_before']:,} bytes before, {found['bytes_after']:,} after"
    return {"tables": f"{found['dtype']}; {size}; largest weight change {found['largest_error']:.2g}"}


def _runtimes(folder, as_json):
    """Returns what the card of a version says about the files for other runtimes, empty without any."""
    found = _said(folder, "runtimes")
    found = {kind: {**values, "file": str(folder / values["file"])} for kind, values in found.items()}
    if not found or as_json:
        return {"runtimes": found} if found else {}
    return {"runtimes": {kind: _checked(kind, values) for kind, values in found.items()}}


def _checked(kind, values):
    """Returns one file as a line for people."""
    text = f"{values['file']}, {values['bytes']:,} bytes; "
    if values["largest_difference"] is not None:
        difference = f"largest difference from predict {values['largest_difference']:.1e}"
        return text + f"{difference} over {values['rows']} rows in {values['runtime']}"
    missing = "there are no rows: the run's data is gone, give --rows" if values["runtime"] else f"no runtime for {kind} is installed"
    return text + f"not checked: {missing}"


def _card(run, document, notes):
    """Returns what a run folder says for the model card."""
    import json

    from keras_ctr.cli import runs

    file = Path(run) / runs.METRICS
    results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    training = {key: value for key, value in document.items() if key not in ("data", "keras_ctr")}
    card = {"data": {"prepared data set": document.get("data")}, "training": {**training, "epochs trained": results.get("epochs")}}
    if "validation" in results:
        card.update(split="validation: the rows by which the epoch was chosen, so its metrics flatter", metrics=results["validation"])
        calibration = {
            label: {k: v for k, v in values.items() if k in ("calibration", "ece", "ne")} for label, values in results["validation"].items()
        }
        card["calibration"] = calibration
    return {**card, "notes": notes}


def _raw_rows(file, schema):
    """Returns the first rows of a raw file."""
    from keras_ctr.data import read_batches
    from keras_ctr.data.columns import raw_types
    from keras_ctr.serving.bundle import WARMUP_ROWS

    plain = schema.replace(group=None, time=None)
    types = {name: kind for name, kind in raw_types(plain).items() if name in schema.feature_names}
    batches = read_batches(file, columns=list(schema.feature_names), batch_rows=WARMUP_ROWS, column_types=types)
    batch = next(iter(batches), None)
    if batch is None:
        raise click.ClickException(f"{file} has no rows for the warm-up requests")
    return batch


def _data_rows(folder, schema, vocabularies):
    """Returns rows of the prepared data set that a run was trained on, ids turned back into values; None if it is not there any more."""
    from keras_ctr.data import PreparedData, make_dataset
    from keras_ctr.data.manifest import MANIFEST_FILE
    from keras_ctr.serving.bundle import WARMUP_ROWS
    from keras_ctr.serving.raw_rows import from_encoded

    if not folder or not (Path(folder) / MANIFEST_FILE).exists():
        return None
    data = PreparedData(folder)
    split = next((name for name in ("validation", "test", "train") if name in data.splits), None)
    if split is None:
        return None
    dataset = make_dataset(data, split, batch_size=WARMUP_ROWS, features=schema.feature_names, with_labels=False)
    batch = next(iter(dataset))
    return from_encoded({key: value.numpy() for key, value in batch.items() if key in schema}, schema, vocabularies)
