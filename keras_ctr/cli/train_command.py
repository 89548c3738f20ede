"""`keras-ctr train`."""

import json

import click

from keras_ctr.cli import options
from keras_ctr.cli.main import show


@click.command("train")
@click.argument("data", type=click.Path(exists=True, file_okay=False))
@click.option("--out", required=True, type=click.Path(), help="Run folder to create: model, configuration, metrics, vocabularies.")
@click.option(
    "--config", type=click.Path(exists=True, dir_okay=False), help="JSON file with any of the options below; options win over it."
)
@click.option(
    "--from", "start", type=click.Path(exists=True, file_okay=False), help="Run folder whose training goes on, such as one of 'adapt'."
)
@click.option("--model", help="Name of the model (see 'keras-ctr list').  [default: InterFormer]")
@click.option("--set", "arguments", multiple=True, callback=options.assignments, help="Argument of the model, NAME=VALUE; may be repeated.")
@click.option("--label", "labels", multiple=True, help="Label to train on; may be repeated.  [default: all]")
@click.option("--sequences/--no-sequences", default=None, help="Whether the model sees behaviour sequences.  [default: yes]")
@click.option("--optimizer", help="Recipe (default, dynint, wide_deep), optimizer of keras_ctr or of Keras.  [default: default]")
@click.option("--learning-rate", type=float, help="[default: 0.001]")
@click.option(
    "--optimizer-set",
    "optimizer_arguments",
    multiple=True,
    callback=options.assignments,
    help="Argument of the optimizer, NAME=VALUE; may be repeated.",
)
@click.option("--dtype", help="Keras dtype policy, such as mixed_bfloat16.  [default: float32]")
@click.option("--strategy", type=click.Choice(["none", "mirrored"]), help="mirrored trains on all GPUs of the machine.  [default: none]")
@click.option("--devices", type=click.IntRange(0), help="Devices of the strategy, 0 for all.  [default: 0]")
@click.option("--batch-size", type=click.IntRange(1), help="[default: 1024]")
@click.option("--epochs", type=click.IntRange(1), help="Most epochs.  [default: 20]")
@click.option("--patience", type=click.IntRange(0), help="Epochs without improvement before stopping.  [default: 2]")
@click.option("--monitor", help="Validation metric that decides.  [default: val_auc]")
@click.option("--seed", type=int, help="[default: 1]")
@options.overwrite
@options.quiet
@options.as_json
def command(data, out, config, start, arguments, optimizer_arguments, overwrite, quiet, as_json, **given):
    """Train a model on prepared DATA.

    Training stops early when the validation metric no longer improves; the best weights are kept and evaluated on the validation split
    (the test split is left to 'keras-ctr evaluate').
    """
    from pathlib import Path

    from keras_ctr.cli import runs
    from keras_ctr.cli.progress import progress_bars
    from keras_ctr.data import PreparedData

    values = json.loads(Path(config).read_text(encoding="utf-8")) if config else {}
    values.update({k: v for k, v in given.items() if v is not None and v != ()})
    if arguments:
        values["arguments"] = {**values.get("arguments", {}), **arguments}
    if optimizer_arguments:
        values["optimizer_arguments"] = {**values.get("optimizer_arguments", {}), **optimizer_arguments}
    options_of = {"arguments": "set", "labels": "label", "optimizer_arguments": "optimizer-set"}
    fixed = [name for name in ("model", "arguments", "labels", "sequences", "optimizer", "optimizer_arguments", "dtype") if name in values]
    if start and fixed:
        raise click.UsageError(f"--{options_of.get(fixed[0], fixed[0])} does not go with --from: the model is that of {start}")
    run = runs.RunConfig.from_dict(values)
    if Path(out).exists() and not overwrite:
        raise click.ClickException(f"{out} exists; choose another folder or pass --overwrite")
    prepared = PreparedData(data)
    model = None
    if start:
        model, run = runs.load_to_go_on(start, prepared, **values)
    with progress_bars(quiet or as_json) as progress:
        model, history, seconds = runs.train(prepared, run, model=model, progress=progress)
        results = runs.evaluate(model, prepared, "validation", progress=progress)
    embedding, dense = runs.parameters(model)
    summary = {
        "model": run.model,
        "epochs": len(history["loss"]),
        "seconds": round(seconds, 1),
        "parameters": {"embedding": embedding, "dense": dense},
        "validation": results,
    }
    runs.save_run(out, model, prepared, run, history, summary, overwrite=overwrite)
    show({**summary, "run": str(out)}, as_json)
