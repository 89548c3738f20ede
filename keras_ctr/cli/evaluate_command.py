"""`keras-ctr evaluate`."""

import click

from keras_ctr.cli import options
from keras_ctr.cli.main import show


@click.command("evaluate")
@click.argument("run", type=click.Path(exists=True, file_okay=False))
@click.argument("data", type=click.Path(exists=True, file_okay=False))
@click.option("--split", default="test", show_default=True, help="Split of the data set.")
@options.quiet
@options.as_json
def command(run, data, split, quiet, as_json):
    """Evaluate the trained model of a RUN folder on a split of prepared DATA."""
    from keras_ctr.cli import runs
    from keras_ctr.cli.progress import progress_bars
    from keras_ctr.data import PreparedData

    model, _, _, _ = runs.load_run(run)
    with progress_bars(quiet or as_json) as progress:
        results = runs.evaluate(model, PreparedData(data), split, progress=progress)
    show({"split": split, **results}, as_json)
