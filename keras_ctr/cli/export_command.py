"""`keras-ctr export`."""

import click

from keras_ctr.cli import options
from keras_ctr.cli.main import show


@click.command("export")
@click.argument("run", type=click.Path(exists=True, file_okay=False))
@click.argument("path", type=click.Path())
@options.overwrite
@options.as_json
def command(run, path, overwrite, as_json):
    """Write the model of a RUN folder to PATH as a TensorFlow SavedModel.

    PATH is a version folder such as served/1. Signatures: 'serving_default' (raw named features), 'serve_examples' (serialized
    tf.Examples), 'encoded' (ids).
    """
    from keras_ctr.cli import runs
    from keras_ctr.serving import SIGNATURES, export_model

    model, schema, vocabularies, _ = runs.load_run(run)
    export_model(model, schema, vocabularies, path, overwrite=overwrite)
    show({"saved_model": str(path), "signatures": list(SIGNATURES)}, as_json)
