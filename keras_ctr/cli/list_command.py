"""`keras-ctr list`."""

import inspect

import click

from keras_ctr.cli import options


@click.command("list")
@click.argument("model", required=False)
@options.as_json
def command(model, as_json):
    """List the models, or the arguments of one MODEL with their defaults."""
    import json

    import keras_ctr

    if model is None:
        rows = [keras_ctr.model_info(name) for name in keras_ctr.list_models()]
        if as_json:
            click.echo(json.dumps([{"name": r.name, "paper": r.paper, "sequential": r.sequential, "summary": r.summary} for r in rows]))
            return
        for r in rows:
            click.echo(f"{r.name:<14}{r.summary}\n{'':<14}{r.paper or ''}")
        return
    info = keras_ctr.model_info(model)
    defaults = {name: p.default for name, p in inspect.signature(info.factory).parameters.items() if name != "schema"}
    if as_json:
        click.echo(json.dumps({"name": info.name, "arguments": defaults}, default=str))
        return
    click.echo(f"{info.name}: {info.summary}\n{info.paper or ''}\n")
    for name, value in defaults.items():
        click.echo(f"  --set {name}={json.dumps(value, default=str)}")
