"""`keras-ctr score`."""

import click

from keras_ctr.cli import options
from keras_ctr.cli.main import show

SIGNATURE = "serving_default"


@click.command("score")
@click.argument("bundle", type=click.Path(exists=True, file_okay=False))
@click.argument("source", type=click.Path(exists=True))
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="CSV or Parquet file to write: one column an output.")
@click.option("--keep", multiple=True, metavar="COLUMN", help="Column of SOURCE to copy beside the scores; may be repeated.")
@click.option("--group", metavar="COLUMN", help="Column that groups rows for the gAUC, usually the user.")
@click.option("--base-rate", type=float, help="Click rate of the training rows, for NE of a single label.")
@click.option("--batch-size", type=click.IntRange(1), default=4096, show_default=True)
@options.overwrite
@options.quiet
@options.as_json
def command(bundle, source, out, keep, group, base_rate, batch_size, overwrite, quiet, as_json):
    """Score the raw rows of SOURCE with an exported BUNDLE.

    BUNDLE is a SavedModel, or a folder of numbered versions, whose highest is taken; it is all that is needed of the model. SOURCE is a
    CSV or Parquet file with the raw columns that the model takes (sequences are list columns, so Parquet). Where SOURCE also has columns
    named as the outputs, with 0 and 1, the metrics are printed. The rows of the output are in the order of the input.
    """
    import os
    from pathlib import Path

    import numpy as np

    from keras_ctr import metrics
    from keras_ctr.cli.progress import progress_bars
    from keras_ctr.data import count_rows
    from keras_ctr.data.sources import source_columns
    from keras_ctr.serving import SavedModelRunner

    if Path(out).exists() and not overwrite:
        raise click.ClickException(f"{out} exists; choose another file or pass --overwrite")
    suffix = Path(out).suffix
    if suffix not in (".csv", ".parquet"):
        raise click.UsageError(f"--out must end in .csv or .parquet, got {out}")
    path = newest_version(bundle)
    with SavedModelRunner(path) as runner, progress_bars(quiet or as_json) as progress:
        if SIGNATURE not in runner.signatures:
            raise ValueError(f"{path} has no signature '{SIGNATURE}', which takes raw features; it has {', '.join(runner.signatures)}")
        inputs, outputs = runner.signatures[SIGNATURE]
        present = source_columns(source)
        labels = [name for name in outputs if name in present]
        clash = sorted(set(keep) & set(outputs))
        if clash:
            raise click.UsageError(f"--keep {clash[0]}: the output has a column of this name, the score")
        if base_rate is not None:
            metrics.check_base_rate(base_rate, "--base-rate")
            if len(labels) != 1:
                raise click.UsageError(f"--base-rate is for one label, and {source} has columns of {len(labels)}: {', '.join(labels)}")
        task = progress.add_task("scoring", total=count_rows(source), note="rows")
        columns = {name: [] for name in outputs}
        truth, groups, kept, rows = {label: [] for label in labels}, [], [], 0
        for batch in raw_batches(source, inputs, labels, group, keep, batch_size):
            for name, values in runner.run(SIGNATURE, request_columns(batch, inputs, rows)).items():
                columns[name].append(np.asarray(values).reshape(batch.num_rows))
            for label in labels:
                truth[label].append(outcomes(batch, label, rows))
            if group:
                groups.append(groups_of(batch, group))
            if keep:
                kept.append(batch.select(list(keep)))
            rows += batch.num_rows
            progress.advance(task, batch.num_rows)
    columns = {name: np.concatenate(parts) if parts else np.zeros(0, "float32") for name, parts in columns.items()}
    temporary = f"{out}.incomplete"
    try:
        write(kept, columns, temporary, suffix)
        os.replace(temporary, out)
    finally:
        Path(temporary).unlink(missing_ok=True)
    result = {"model": str(path), "rows": rows, "written": str(out)}
    result["mean"] = {name: float(v.mean()) if len(v) else None for name, v in columns.items()}
    for label in labels if rows else ():
        y = np.concatenate(truth[label])
        known = ~np.isnan(y)
        if known.any():
            users = np.concatenate(groups)[known] if groups else None
            result[label] = metrics.evaluate(y[known], columns[label][known], groups=users, base_rate=base_rate)
    show(result, as_json)


def newest_version(path):
    """Returns the SavedModel folder: the path itself, or the highest numbered version below it."""
    from pathlib import Path

    path = Path(path)
    if (path / "saved_model.pb").exists():
        return path
    versions = [p.parent for p in path.glob("*/saved_model.pb") if p.parent.name.isdigit()]
    if not versions:
        raise FileNotFoundError(f"{path} is no exported model: it has neither saved_model.pb nor numbered versions; see 'keras-ctr export'")
    return max(versions, key=lambda p: int(p.name))


def raw_batches(source, inputs, labels, group, keep, batch_size):
    """Returns the record batches of the columns needed; text columns are read as the signature's types."""
    import pyarrow as pa

    from keras_ctr.data import read_batches

    types = {"string": pa.string(), "int64": pa.int64(), "float32": pa.float32()}
    named = {name: types[spec.dtype] for name, spec in inputs.items() if len(spec.shape) == 1}
    for label in labels:
        named.setdefault(label, pa.float32())
    wanted = dict.fromkeys([*inputs, *labels, *([group] if group else []), *keep])
    return read_batches(source, columns=list(wanted), batch_rows=batch_size, column_types=named)


def request_columns(batch, inputs, first_row):
    """Returns the inputs of the signature from a batch, with missing values as the export defines them.

    All sequences are padded to the longest one: the attributes of a group must have as many steps, and a SavedModel does not say which
    belong together. What is padded here is no event, and the graph keeps none of it.
    """
    import numpy as np

    from keras_ctr.data.columns import as_floats, as_lists, as_values, get_column

    request, lists, missing = {}, {}, {"string": "", "int64": -1}
    for name, spec in inputs.items():
        column = get_column(batch, name)
        if len(spec.shape) == 2:
            lists[name] = as_lists(column, name)
        elif spec.dtype == "float32":
            request[name] = as_floats(column, name)
        else:
            values = as_values(column, name, spec.dtype, first_row).fill_null(missing[spec.dtype])
            request[name] = values.to_pylist() if spec.dtype == "string" else values.to_numpy()
    steps = np.arange(max([1, *(int(lengths.max(initial=0)) for _, _, lengths in lists.values())]))
    for name, (values, ends, lengths) in lists.items():
        dtype = inputs[name].dtype
        values = as_values(values, name, dtype, lambda at, ends=ends: first_row + int(np.searchsorted(ends, at, side="right")))
        flat = values.fill_null(missing[dtype]).to_numpy(zero_copy_only=False)
        request[name] = np.full((len(lengths), len(steps)), missing[dtype], dtype=object if dtype == "string" else dtype)
        inside = steps < lengths[:, None]  # (B, T)
        request[name][inside] = flat[((ends - lengths)[:, None] + steps)[inside]]
    return request


def outcomes(batch, label, first_row):
    """Returns a label column as zeros and ones, NaN where the outcome is unknown."""
    from keras_ctr.data.columns import as_binary, get_column

    return as_binary(get_column(batch, label), label, first_row, optional=True)


def groups_of(batch, group):
    """Returns the group column as int64."""
    from keras_ctr.data.columns import as_groups, get_column

    return as_groups(get_column(batch, group), group)


def write(kept, columns, path, suffix):
    """Writes the kept columns and the scores."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    table = pa.table(columns)
    if kept:
        before = pa.Table.from_batches(kept)
        for i, name in enumerate(before.column_names):
            table = table.add_column(i, name, before.column(name))
    csv.write_csv(table, path) if suffix == ".csv" else parquet.write_table(table, path)
