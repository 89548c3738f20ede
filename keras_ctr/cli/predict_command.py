"""`keras-ctr predict`."""

import click

from keras_ctr.cli import options
from keras_ctr.cli.main import show


@click.command("predict")
@click.argument("run", type=click.Path(exists=True, file_okay=False))
@click.argument("source", type=click.Path(exists=True))
@click.option("--split", help="Split to score when SOURCE is a prepared data set.")
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="CSV or Parquet file to write: one column a label.")
@click.option("--batch-size", type=click.IntRange(1), default=4096, show_default=True)
@click.option("--strict", is_flag=True, help="Stop at infinite numbers and at ids outside their table instead of counting them.")
@options.overwrite
@options.quiet
@options.as_json
def command(run, source, split, out, batch_size, strict, overwrite, quiet, as_json):
    """Score SOURCE with the trained model of a RUN folder.

    SOURCE is a CSV or Parquet file with the schema's raw columns (labels are not needed; sequences are list columns, so Parquet), or a
    prepared data set with --split. The rows of the output are in the order of the input.
    """
    import os
    from pathlib import Path

    import numpy as np

    from keras_ctr.cli import runs
    from keras_ctr.cli.progress import progress_bars

    if Path(out).exists() and not overwrite:
        raise click.ClickException(f"{out} exists; choose another file or pass --overwrite")
    if Path(out).suffix not in (".csv", ".parquet"):
        raise click.UsageError(f"--out must end in .csv or .parquet, got {out}")
    model, schema, vocabularies, _ = runs.load_run(run)
    report = {}
    with progress_bars(quiet or as_json) as progress:
        if Path(source).is_dir():
            batches, total = _prepared(source, split, schema, batch_size)
        else:
            batches, total = _raw(source, schema, vocabularies, strict, batch_size, report)
        task = progress.add_task("scoring", total=total, note="rows")
        columns = {label: [] for label in schema.label_names}
        for x in batches:
            for label, values in model.predict_on_batch(x).items():
                columns[label].append(np.asarray(values)[:, 0])
            progress.advance(task, len(columns[schema.label_names[0]][-1]))
    columns = {label: np.concatenate(parts) if parts else np.zeros(0, "float32") for label, parts in columns.items()}
    temporary = f"{out}.incomplete"
    _write(columns, temporary, Path(out).suffix)
    os.replace(temporary, out)
    result = {"rows": len(columns[schema.label_names[0]]), "written": str(out)}
    result["mean"] = {label: float(v.mean()) if len(v) else None for label, v in columns.items()}
    if report:
        result["input"] = report["encoder"].report.to_dict()["features"]
    show(result, as_json)


def _prepared(source, split, schema, batch_size):
    from keras_ctr.data import PreparedData, make_dataset

    if split is None:
        raise click.UsageError("SOURCE is a folder: name the split of the prepared data set with --split")
    data = PreparedData(source)
    dataset = make_dataset(data, split, batch_size=batch_size, features=schema.feature_names, with_labels=False)
    return dataset, data.num_rows(split)


def _raw(source, schema, vocabularies, strict, batch_size, report):
    from keras_ctr.data import Encoder, count_rows, read_batches
    from keras_ctr.data.columns import raw_types

    # Grouping and time serve training and evaluation only: a request has neither.
    schema = schema.replace(group=None, time=None)
    report["encoder"] = encoder = Encoder(schema, vocabularies, strict=strict)
    types = {name: kind for name, kind in raw_types(schema).items() if name in schema.feature_names}
    batches = read_batches(source, columns=list(schema.feature_names), batch_rows=batch_size, column_types=types)
    return (encoder.encode(batch, labels=False).features for batch in batches), count_rows(source)


def _write(columns, path, suffix):
    import pyarrow as pa
    from pyarrow import csv, parquet

    table = pa.table(columns)
    if suffix == ".csv":
        csv.write_csv(table, path)
    else:
        parquet.write_table(table, path)
