"""Entry point of `keras-ctr`: the group of commands, and how errors and results are shown."""

import importlib
import json
import os
import sys

import click

import keras_ctr

COMMANDS = {
    "prepare": "Turn raw click logs (CSV, Parquet or a known data set) into encoded TFRecords.",
    "train": "Train a model on prepared data, with early stopping on the validation split.",
    "tune": "Search hyperparameters; compare models at equal budgets.",
    "adapt": "Carry a trained model over to data whose vocabularies have grown (prepare --extend).",
    "evaluate": "AUC, gAUC, log loss, NE and calibration of a trained model on a split.",
    "predict": "Score raw CSV or Parquet rows, or a prepared split, with a trained model.",
    "calibrate": "Fit a calibration on the validation split and write the run with calibrated probabilities.",
    "export": "Write a serving bundle: a SavedModel of raw features, ranking requests, warm-up, model card.",
    "score": "Score raw CSV or Parquet rows with an exported SavedModel alone.",
    "list": "List the models, their papers and their arguments.",
}


class _LazyGroup(click.Group):
    """Imports a command's module only when it runs, so that `--help` does not wait for TensorFlow."""

    def list_commands(self, ctx):
        return list(COMMANDS)

    def get_command(self, ctx, name):
        if name not in COMMANDS:
            return None
        return importlib.import_module(f"keras_ctr.cli.{name}_command").command

    def format_commands(self, ctx, formatter):
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, ctx, args):
        if args and args[0] not in COMMANDS:
            raise click.UsageError(f"there is no command '{args[0]}'{keras_ctr.schema.nearest(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(keras_ctr.__version__, prog_name="keras-ctr")
def cli():
    """Click-through-rate models, from raw logs to a served model.

    \b
    keras-ctr prepare --csv clicks.csv --label click --user user_id --item item_id --time ts --out data/
    keras-ctr train data/ --model InterFormer --out run/
    keras-ctr evaluate run/ data/ --split test
    keras-ctr export run/ served/1
    """


def main(argv=None):
    """Runs a command; returns the exit code: 0 done, 1 an error in data or files, 2 wrong usage, 130 interrupted."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        cli.main(args=argv, prog_name="keras-ctr", standalone_mode=False)
        return 0
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Exit as done:
        return done.exit_code
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        if os.environ.get("KERAS_CTR_TRACEBACK"):
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        click.echo(f"keras-ctr: {text}\n(KERAS_CTR_TRACEBACK=1 shows where)", err=True)
        return 1


def show(result, as_json):
    """Prints a result: JSON for machines, aligned lines for people."""
    if as_json:
        click.echo(json.dumps(result))
        return
    for key, value in result.items():
        if isinstance(value, dict):
            click.echo(f"{key}:")
            for name, item in value.items():
                click.echo(f"  {name:<24}{_text(item)}")
        else:
            click.echo(f"{key:<26}{_text(value)}")


def _text(value):
    if isinstance(value, float):
        return f"{value:.6f}"
    if isinstance(value, dict):
        return "  ".join(f"{k} {_text(v)}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


if __name__ == "__main__":
    sys.exit(main())
