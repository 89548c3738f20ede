"""`keras-ctr adapt`."""

import dataclasses
import json

import click

from keras_ctr.cli import options
from keras_ctr.cli.main import show

_BEFORE, _ADAPTATION = "before adaptation", "adaptation"


@click.command("adapt")
@click.argument("run", type=click.Path(exists=True, file_okay=False))
@click.argument("data", type=click.Path(exists=True, file_okay=False))
@click.option("--out", required=True, type=click.Path(), help="Run folder to create.")
@click.option(
    "--new-rows",
    type=click.Choice(["unknown", "initializer"]),
    default="unknown",
    show_default=True,
    help="What rows of new values start as: a copy of the unknown row (predictions stay as they are), or freshly initialised.",
)
@options.overwrite
@options.as_json
def command(run, data, out, new_rows, overwrite, as_json):
    """Carry the trained model of a RUN folder over to prepared DATA whose vocabularies differ.

    Weights and optimizer state of values that both know are kept, exactly; rows of values that DATA no longer has are dropped. DATA is made
    by 'keras-ctr prepare --extend'; the new run can be evaluated, exported, or trained on.
    """
    from pathlib import Path

    import keras

    from keras_ctr import tables
    from keras_ctr.cli import runs
    from keras_ctr.data import PreparedData

    if Path(out).exists() and not overwrite:
        raise click.ClickException(f"{out} exists; choose another folder or pass --overwrite")
    prepared = PreparedData(data)
    model, schema, vocabularies, document = runs.load_run(run)
    known = {field.name for field in dataclasses.fields(runs.RunConfig)}
    config = runs.RunConfig.from_dict({key: value for key, value in document.items() if key in known})
    new_schema = runs.run_schema(prepared, config)
    tables.check_schemas(schema, new_schema)
    keras.utils.set_random_seed(config.seed)
    new_model = runs.build(config, new_schema)
    rows = tables.transfer(model, schema, new_schema, vocabularies, prepared.vocabularies, new_model, new_rows=new_rows)
    counts = {name: dataclasses.asdict(table) for name, table in rows.items()}
    history, metrics = (_before(Path(run) / name) for name in (runs.HISTORY, runs.METRICS))
    metrics[_ADAPTATION] = {"from": str(run), "new_rows": new_rows, "tables": counts}
    runs.save_run(out, new_model, prepared, config, history, metrics, overwrite=overwrite)
    show({"run": str(out), "from": str(run), "new rows": new_rows, "tables": counts}, as_json)


def _before(path):
    """Returns a document of the old run as that of the time before; of a run that was itself only adapted, what it carried."""
    document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    only_adapted = _BEFORE in document and set(document) <= {_BEFORE, _ADAPTATION}
    return {_BEFORE: document[_BEFORE] if only_adapted else document}
