"""`keras-ctr calibrate`."""

import click

from keras_ctr.cli import options
from keras_ctr.cli.main import show

METHODS = ("platt", "isotonic", "offset", "negative-sampling")


@click.command("calibrate")
@click.argument("run", type=click.Path(exists=True, file_okay=False))
@click.argument("data", type=click.Path(exists=True, file_okay=False))
@click.option("--method", type=click.Choice(METHODS), default="platt", show_default=True, help="What to put behind the probabilities.")
@click.option("--kept", type=float, help="With negative-sampling: the probability with which negatives were kept.")
@click.option("--split", default="validation", show_default=True, help="Split to fit on; never the test split.")
@click.option("--report-split", default="test", show_default=True, help="Split of the figures before and after.")
@click.option("--out", required=True, type=click.Path(file_okay=False), help="Run folder to write.")
@options.overwrite
@options.quiet
@options.as_json
def command(run, data, method, kept, split, report_split, out, overwrite, quiet, as_json):
    """Fit a calibration on prepared DATA and write the RUN again with calibrated probabilities.

    Every label gets its own. Evaluate, predict and export take the new run as any other; its metrics.json says what was fitted and what
    it changed.
    """
    from pathlib import Path

    from keras_ctr.cli import runs
    from keras_ctr.cli.progress import progress_bars
    from keras_ctr.data import PreparedData, make_dataset
    from keras_ctr.serving import calibration

    if (method == "negative-sampling") != (kept is not None):
        raise click.UsageError("--kept belongs to --method negative-sampling, which needs it")
    if split == "test":
        raise click.UsageError("--split test: what is fitted on the test split has no honest test; fit on validation")
    if Path(out).exists() and not overwrite:
        raise click.ClickException(f"{out} exists; choose another folder or pass --overwrite")
    prepared = PreparedData(data)
    model, schema, vocabularies, document = runs.load_run(run)
    config = runs.config_of(document)
    own = {name: v for name, v in prepared.vocabularies.items() if name in schema.tables}
    if runs.run_schema(prepared, config) != schema or own != vocabularies:
        raise ValueError(f"{data} has another schema or other vocabularies than {run}: calibrate on the data of its training")
    rates = prepared.label_rate("train")

    def scores(split, progress):
        dataset = make_dataset(prepared, split, batch_size=4096, features=schema.feature_names, labels=schema.label_names)
        found = runs.score(model, dataset, progress=progress, total=prepared.num_rows(split), description=f"scoring {split}")
        return {label: (y, p) for label, (y, p, _) in found.items()}

    with progress_bars(quiet or as_json) as progress:
        if method == "negative-sampling":
            calibrators = {label: calibration.negative_sampling(kept) for label in schema.label_names}
        else:
            fit = {"platt": calibration.fit_platt, "isotonic": calibration.fit_isotonic, "offset": calibration.fit_offset}[method]
            calibrators = {}
            for label, (y, p) in scores(split, progress).items():
                try:
                    calibrators[label] = fit(y, p)
                except ValueError as error:
                    raise ValueError(f"label '{label}' on split '{split}': {error}") from error
        report = {}
        if report_split in prepared.splits:
            for label, (y, p) in scores(report_split, progress).items():
                report[label] = calibration.calibration_report(y, p, calibrators[label](p), base_rate=rates[label])
    after = calibration.calibrated(model, calibrators)
    fitted_on = None if method == "negative-sampling" else split
    summary = {"method": method, "fitted_on": fitted_on, "reported_on": report_split, "report": report}
    document_of = {**summary, "calibrators": {label: c.to_dict() for label, c in calibrators.items()}}
    runs.save_run(out, after, prepared, config, {}, {"calibration": document_of}, overwrite=overwrite)
    flat = {f"{label} {when}": values for label, both in report.items() for when, values in both.items()}
    show({**summary, "run": str(out)} if as_json else {"method": method, "fitted on": str(fitted_on), **flat, "run": str(out)}, as_json)
