"""`keras-ctr tune`."""

import importlib.util
import json

import click

from keras_ctr.cli import options
from keras_ctr.cli.main import show


@click.command("tune")
@click.argument("data", type=click.Path(exists=True, file_okay=False))
@click.option("--out", required=True, type=click.Path(), help="Folder of the search; of several models one folder in it for each.")
@click.option("--model", "models", multiple=True, help="Model to search; several are compared.  [default: InterFormer]")
@click.option("--algorithm", default="random", show_default=True, help="random, hyperband, bayesian or grid.")
@click.option("--algorithm-set", "algorithm_options", multiple=True, callback=options.assignments, help="Argument of it, NAME=VALUE.")
@click.option("--objective", default="val_auc", show_default=True, help='Such as val_gauc, or "0.5*val_click_auc + 0.5*val_like_auc".')
@click.option("--trials", type=click.IntRange(1), help="Budget: trials.  [default: 20, one round of hyperband, the whole grid]")
@click.option("--total-epochs", type=click.IntRange(1), help="Budget: epochs of all trials together.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Budget: minutes after which no trial begins.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes of one thread each; 1 uses all cores.")
@click.option("--config", type=click.Path(exists=True, dir_okay=False), help="JSON file of 'keras-ctr train' whose keys are not drawn.")
@click.option("--set", "arguments", multiple=True, callback=options.assignments, help="Argument of the model not to be drawn, NAME=VALUE.")
@click.option("--label", "labels", multiple=True, help="Label to train on; may be repeated.  [default: all]")
@click.option("--sequences/--no-sequences", default=None, help="Whether the models see behaviour sequences.  [default: yes]")
@click.option("--optimizer", "optimizers", multiple=True, help="Optimizer to choose from; may be repeated.  [default: adam]")
@click.option("--learning-rate", type=float, help="Learning rate that is not drawn.")
@click.option("--batch-size", type=click.IntRange(1), help="Batch size that is not drawn.")
@click.option("--epochs", type=click.IntRange(1), help="Most epochs of a trial.  [default: 20]")
@click.option("--patience", type=click.IntRange(0), help="Epochs without improvement before a trial stops.  [default: 2]")
@click.option("--space", help="Space of your own instead of the model's, MODULE:FUNCTION.")
@click.option("--training-space", "training", help="Space of the training of your own, MODULE:FUNCTION.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the search; those of the trials follow from it.")
@click.option("--seeds", type=click.IntRange(0), help="Trainings of each winner with other seeds.  [default: 3 for several models, else 0]")
@click.option("--test", is_flag=True, help="Score the winners, and nothing else, on the test split (with --seeds).")
@click.option("--defaults", is_flag=True, help="Train the defaults of each model too, with the same seeds (with --seeds).")
@click.option("--keep-models", is_flag=True, help="Keep the model of every trial.")
@click.option("--max-failures", type=click.IntRange(1), default=5, show_default=True, help="Failed trials in a row that end a search.")
@click.option("--plots/--no-plots", default=None, help="Write plots.  [default: if matplotlib is installed]")
@click.option("--resume", is_flag=True, help="Go on with the search in --out; the budget may be larger.")
@options.overwrite
@options.quiet
@options.as_json
def command(data, out, models, config, quiet, as_json, seeds, test, defaults, plots, resume, overwrite, **given):
    """Search the hyperparameters of models on prepared DATA.

    Every trial is a training as 'keras-ctr train' does it, stopped early by the validation split; the test split is left alone. The best
    configuration is a file for 'keras-ctr train --config'. A search that was killed goes on with --resume.
    """
    from pathlib import Path

    _needs("keras_tuner", "tensorboard", "sklearn", "scipy")
    if plots:
        _needs("matplotlib", extra="report")
    models = models or ("InterFormer",)
    seeds = (3 if len(models) > 1 else 0) if seeds is None else seeds
    if test and not seeds:
        raise click.UsageError("--test scores the winners that --seeds trains; give --seeds")
    if defaults and not seeds:
        raise click.UsageError("--defaults trains with the seeds of the winners; give --seeds")
    if resume and overwrite:
        raise click.UsageError("give either --resume or --overwrite")
    if given["space"] and len(models) > 1:
        raise click.UsageError("--space goes with one --model")
    fixed = json.loads(Path(config).read_text(encoding="utf-8")) if config else {}
    for name in ("labels", "sequences", "learning_rate", "batch_size", "epochs", "patience"):
        value = given.pop(name)
        fixed |= {name: list(value) if name == "labels" else value} if value not in (None, ()) else {}
    fixed["arguments"] = {**fixed.get("arguments", {}), **given.pop("arguments")}
    fixed.pop("model", None)  # of a configuration that was trained: the search says which
    fixed.pop("seed", None)
    given["options"] = given.pop("algorithm_options")
    given |= {"fixed": fixed, "resume": resume, "overwrite": overwrite}
    _run(data, out, models, {"seeds": seeds, "test": test, "defaults": defaults}, plots, quiet, as_json, given)


def _run(data, out, models, final, plots, quiet, as_json, given):
    from pathlib import Path

    from keras_ctr.cli.progress import console, progress_bars
    from tuning.compare import LEADERBOARD, compare, default_configuration, finals, leaderboard_table
    from tuning.files import write_json
    from tuning.search import load_result, search

    def tell(line):
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    with progress_bars(quiet or as_json) as progress:
        options_ = {**given, "progress": progress, "tell": tell}
        if len(models) > 1:
            document = compare(data, out, models, **final, **options_)
            results = {model: load_result(Path(out) / model) for model in models}
        else:
            result = search(data, out, models[0], **options_)
            if result is None:  # a worker: the chief has the results
                return
            results, document = {models[0]: result}, None
            if final["seeds"]:
                final["defaults"] = {models[0]: default_configuration(result.folder)} if final["defaults"] else None
                entries = finals(results, data, **final, workers=given["workers"], seed=given["seed"], progress=progress, tell=tell)
                document = {"objective": result.objective.text, "direction": result.objective.direction, "models": entries}
                write_json(Path(out) / LEADERBOARD, document)
    found = {model: _report(result, plots, tell) for model, result in results.items()}
    if as_json:
        show({"models": found, **({"leaderboard": document["models"]} if document else {})}, True)
        return
    _print(results, found, document, leaderboard_table)


def _report(result, plots, tell):
    """Writes importance and plots of a search; returns its summary."""
    from tuning.files import write_json
    from tuning.importance import importance
    from tuning.plots import write_plots

    mattered = importance(result.trials)
    write_json(result.folder / "importance.json", mattered)
    if plots or (plots is None and importlib.util.find_spec("matplotlib")):
        write_plots(result.folder / "plots", result.trials, result.objective, mattered)
    best = result.best
    return {
        "objective": best["objective"],
        "trial": best["trial"],
        "completed": len(result.trials),
        "failed": len(result.failed),
        "ended": result.reason,
        "seconds": result.seconds,
        "parameters": best["parameters"],
        "importance": {name: value["mean"] for name, value in mattered["importance"].items()},
        "caveat": mattered["caveat"],
        "errors": {r["trial"]: r["error"]["message"] for r in result.failed},
        "config": str(result.best_config),
        "folder": str(result.folder),
    }


def _print(results, found, document, leaderboard_table):
    from rich.console import Console

    from tuning.results import error_line, results_table

    console = Console()
    for model, result in results.items():
        console.print(results_table([*result.trials, *result.failed], result.objective, title=model))
        for record in result.failed:
            console.print(f"trial {record['trial']} failed: {error_line(record)}", markup=False, soft_wrap=True)
        summary = found[model]
        show({k: summary[k] for k in ("completed", "failed", "ended", "seconds", "importance", "caveat", "config") if summary[k]}, False)
    if document:
        console.print(leaderboard_table(document))


def _needs(*modules, extra="tuning"):
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise click.ClickException(f"this needs {module}: pip install 'keras_ctr[{extra}]'")
