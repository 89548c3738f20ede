"""`keras-ctr evaluate`."""

import click

from keras_ctr.cli import options
from keras_ctr.cli.main import show

TABLES = ("int8", "float16")


@click.command("evaluate")
@click.argument("run", type=click.Path(exists=True, file_okay=False))
@click.argument("data", type=click.Path(exists=True, file_okay=False))
@click.option("--split", help="Split of the data set.  [default: test; with --tables validation]")
@click.option("--tables", multiple=True, type=click.Choice(TABLES), help="Also tell what tables of this type would cost; may be repeated.")
@options.quiet
@options.as_json
def command(run, data, split, tables, quiet, as_json):
    """Evaluate the trained model of a RUN folder on a split of prepared DATA.

    With --tables the rows of every embedding table are rounded to the smaller type and the model is evaluated again: AUC, gAUC and log loss
    before and after, and the bytes of all tables. The run stays as it is. The split is then the validation split by default, for whether to
    quantise is a choice, and the test split is not for choices.
    """
    from keras_ctr.cli import runs
    from keras_ctr.cli.progress import progress_bars
    from keras_ctr.data import PreparedData
    from keras_ctr.serving.quantized import cost_report, quantized

    split = split or ("validation" if tables else "test")
    model, _, _, _ = runs.load_run(run)
    prepared, costs = PreparedData(data), {}
    with progress_bars(quiet or as_json) as progress:
        results = runs.evaluate(model, prepared, split, progress=progress)
        weights = model.get_weights() if tables else None
        for dtype in dict.fromkeys(tables):
            smaller, report = quantized(model, dtype)
            model.set_weights(smaller.get_weights())  # the copy itself would be traced anew
            costs[dtype] = cost_report(model, report, results, runs.evaluate(model, prepared, split, progress=progress))
            model.set_weights(weights)
    if as_json:
        show({"split": split, **results, **({"tables": costs} if costs else {})}, as_json)
    else:
        show({"split": split, **results, **{f"{dtype} tables": _lines(cost) for dtype, cost in costs.items()}}, as_json)


def _lines(cost):
    """Returns what a type costs, for people: one line for the bytes, one for each label and metric."""
    before, after = cost["bytes_before"], cost["bytes_after"]
    lines = {
        "bytes": f"before {before:,}  after {after:,}  ({after / before:.0%})",
        "largest weight change": f"{cost['largest_error']:.2g}",
    }
    for label, metrics in cost["labels"].items():
        for metric, values in metrics.items():
            lines[f"{label} {metric}"] = (
                f"before {values['before']:.6f}  after {values['after']:.6f}  difference {values['difference']:+.6f}"
            )
    return lines
