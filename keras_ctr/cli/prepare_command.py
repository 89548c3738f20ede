"""`keras-ctr prepare`."""

import click

from keras_ctr.cli import options
from keras_ctr.cli.main import show


@click.command("prepare")
@click.option("--csv", "--input", "sources", multiple=True, help="Click log: CSV, TSV (also .gz) or Parquet; may be repeated.")
@click.option("--dataset", type=click.Choice(["kuairand"]), help="A known data set instead of --csv.")
@click.option("--raw", type=click.Path(), help="Folder with the data set's raw files.  [default: the extract that ships with the package]")
@click.option("--out", required=True, type=click.Path(), help="Folder to create; with --schema-only the schema file to write.")
@click.option("--label", "labels", multiple=True, help="Label column, 0 or 1; may be repeated.")
@click.option("--user", help="User column: groups gAUC, and its rows make the histories.")
@click.option("--item", help="Item column: past items with label 1 become a behaviour sequence.")
@click.option("--time", help="Time column: orders the log and splits it.")
@click.option("--history", multiple=True, help="Column whose past values become a sequence; may be repeated.  [default: the item column]")
@click.option("--history-length", type=click.IntRange(1), default=50, show_default=True)
@click.option("--time-gap", is_flag=True, help="Histories also say how long before the row each event was.")
@click.option("--time-unit", type=click.Choice(["s", "ms", "us", "ns"]), help="What an integer of the time column counts, for time gaps.")
@click.option("--exclude", multiple=True, help="Column to leave out, such as an outcome known only afterwards; may be repeated.")
@click.option("--schema", type=click.Path(exists=True, dir_okay=False), help="An edited schema file instead of inferring one.")
@click.option("--schema-only", is_flag=True, help="Only infer the schema and write it to --out, to be edited and given back by --schema.")
@click.option(
    "--extend",
    type=click.Path(exists=True, file_okay=False),
    help="Earlier data set or run whose schema and vocabularies go on: old values keep their ids, new ones are appended.",
)
@click.option(
    "--evict-after", type=click.IntRange(1), help="With --extend: drop values that this many preparations in a row did not train on."
)
@click.option("--split", help="'time', 'random' or a column that names the split.  [default: time if there is a time column]")
@click.option("--fractions", default="0.8,0.1,0.1", show_default=True, help="Shares of train, validation and test.")
@click.option("--columns", help="Column names, comma separated, of a text file without a header.")
@click.option("--delimiter", help="Delimiter of text files.  [default: by the file's ending]")
@click.option("--min-count", type=click.IntRange(1), default=1, show_default=True, help="Occurrences a value needs for an id of its own.")
@click.option("--capacity", type=click.IntRange(2), help="Most rows of a vocabulary.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random split.")
@click.option("--strict", is_flag=True, help="Stop at infinite numbers and at ids outside their table instead of counting them.")
@options.overwrite
@options.quiet
@options.as_json
def command(sources, dataset, raw, out, labels, schema, schema_only, overwrite, quiet, as_json, **given):
    """Turn raw click logs into encoded TFRecords, with vocabularies, schema and a manifest.

    \b
    keras-ctr prepare --csv log.csv --label click --user uid --item iid --time ts --out data/
    keras-ctr prepare --csv log.csv --label click --schema-only --out schema.json
    keras-ctr prepare --dataset kuairand --out data/
    keras-ctr prepare --csv next.csv --extend data/ --evict-after 30 --out data2/
    """
    from pathlib import Path

    from keras_ctr.schema import Schema

    if bool(sources) == bool(dataset):
        raise click.UsageError("give either --csv or --dataset")
    unused = [
        name
        for name in ("user", "item", "time", "history", "time_unit", "exclude", "split", "columns", "delimiter")
        if dataset and given[name]
    ]
    if unused:
        raise click.UsageError(f"--{unused[0].replace('_', '-')} goes with --csv: the data set '{dataset}' brings its own")
    _check_extension(given, {"dataset": dataset, "label": labels, "schema": schema, "schema-only": schema_only})
    fitted = Schema.load(schema) if schema else None
    if not dataset and not labels and fitted is None and not given["extend"]:
        raise click.UsageError("--label is missing: the column to predict")
    columns = given.pop("columns")
    reading = {"column_names": columns.split(",") if columns else None, "delimiter": given.pop("delimiter")}
    if schema_only:
        if dataset:
            raise click.UsageError("--schema-only goes with --csv")
        _write_schema(sources, out, labels, given, reading, overwrite, as_json)
        return
    if Path(out).exists() and not overwrite:
        raise click.ClickException(f"{out} exists; choose another folder or pass --overwrite")
    from keras_ctr.cli.progress import progress_bars, row_progress

    with progress_bars(quiet or as_json) as progress:
        options_ = {"overwrite": overwrite, "progress": row_progress(progress)}
        if dataset:
            data = _known(raw, out, labels, fitted, given, options_)
        else:
            data = _own(sources, out, labels, fitted, given, {**options_, **reading})
    show(_summary(data), as_json)


def _check_extension(given, others):
    """Refuses options that --extend would ignore, and --evict-after without it."""
    if given["extend"] is None:
        if given["evict_after"] is not None:
            raise click.UsageError("--evict-after goes with --extend: only values of an earlier vocabulary can be dropped")
        return
    lengths = click.get_current_context().get_parameter_source("history_length")
    if lengths is not click.core.ParameterSource.DEFAULT:
        others["history-length"] = True
    used = [name for name in others if others[name]] + [name for name in ("item", "history", "time_gap", "exclude") if given[name]]
    if used:
        raise click.UsageError(f"--{used[0].replace('_', '-')} does not go with --extend: schema and labels are those of {given['extend']}")


def _write_schema(sources, out, labels, given, reading, overwrite, as_json):
    from pathlib import Path

    from keras_ctr.data import infer_schema

    if Path(out).exists() and not overwrite:
        raise click.ClickException(f"{out} exists; choose another file or pass --overwrite")
    wanted = ("user", "item", "time", "history_length", "time_gap", "exclude")
    schema, notes = infer_schema(
        list(sources), label=list(labels), history=given["history"] or None, **{k: given[k] for k in wanted}, **reading
    )
    schema.save(out)
    show({"schema": str(out), "features": list(schema.feature_names), "notes": notes}, as_json)


def _own(sources, out, labels, schema, given, options_):
    from keras_ctr.data import prepare_file

    fractions = tuple(float(x) for x in given.pop("fractions").split(","))
    given["history"] = given["history"] or None
    return prepare_file(list(sources), out, label=list(labels) or None, schema=schema, fractions=fractions, **given, **options_)


def _known(raw, out, labels, schema, given, options_):
    from keras_ctr.data import prepare
    from keras_ctr.datasets import kuairand

    labels = {"labels": labels} if labels else {}
    events = {"max_length": given["history_length"], "time_gaps": given["time_gap"]}
    tables = kuairand.load(raw, **events, **labels)
    schema = schema or kuairand.schema(**events, **labels)
    return prepare(tables, schema, out, min_count=given["min_count"], capacity=given["capacity"], strict=given["strict"], **options_)


def _summary(data):
    splits = {name: {"rows": data.num_rows(name), **{f"{k} rate": v for k, v in data.label_rate(name).items()}} for name in data.splits}
    report = data.manifest["splits"]["train"].get("report", {}) if "train" in data.splits else {}
    return {
        "prepared": str(data.path),
        "splits": splits,
        "features": len(data.schema.feature_names),
        "embedding rows": sum(t.vocabulary_size for t in data.schema.tables.values()),
        **({"vocabularies": report["growth"]["tables"]} if "growth" in report else {}),
        "notes": report.get("notes", []),
    }
