"""Options that several commands share."""

import json

import click

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout and nothing else.")
quiet = click.option("--quiet", is_flag=True, help="No progress bars.")
overwrite = click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")


def assignments(_, __, values):
    """Click callback: `("num_layers=2", "hidden_units=[64,32]")` -> `{"num_layers": 2, "hidden_units": [64, 32]}`."""
    out = {}
    for item in values:
        name, sign, text = item.partition("=")
        if not sign or not name:
            raise click.BadParameter(f"'{item}' is not of the form NAME=VALUE")
        try:
            out[name] = json.loads(text)
        except json.JSONDecodeError:
            out[name] = text
    return out
