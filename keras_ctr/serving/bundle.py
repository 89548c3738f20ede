"""The serving bundle: a numbered SavedModel version with warm-up requests and a model card, and what a server needs around it."""

import os
import shutil
import tempfile
from pathlib import Path

from keras_ctr.data import Vocabulary
from keras_ctr.schema import SchemaError
from keras_ctr.serving.export import SIGNATURES, write_saved_model
from keras_ctr.serving.model_card import make_card, write_card
from keras_ctr.serving.ranking import candidate_names
from keras_ctr.serving.raw_rows import as_table
from keras_ctr.serving.runtimes import check_model, check_packages, write_runtimes
from keras_ctr.serving.server_files import write_server_files
from keras_ctr.serving.small_tables import card_entry, with_small_tables
from keras_ctr.serving.warmup import make_records, replay_warmup, write_warmup

WARMUP_ROWS = 32
"""Most raw rows of the warm-up requests."""


def export_bundle(
    model,
    schema,
    path,
    *,
    version=None,
    vocabularies=None,
    rows=None,
    candidate_features=None,
    tables=None,
    runtimes=(),
    name=None,
    card=None,
    tolerance=1e-5,
    overwrite=False,
):
    """Writes `<path>/<version>/`, a SavedModel that TensorFlow Serving can load, warm up and replace.

    ```
    <path>/models.config, batching.config, compose.yaml       for the server; written if they are not there
    <path>/<version>/saved_model.pb, variables/, assets/      `export_model`: the signatures, each variable once, the vocabularies
    <path>/<version>/assets.extra/tf_serving_warmup_requests  raw rows as requests of every signature, with the answers
    <path>/<version>/assets.extra/model_card.md, .json        data, split, metrics, calibration, schema, versions, commit
    <path>/<version>/assets.extra/model.onnx, model.tflite    on demand: the model of `encoded` for other runtimes
    ```

    The version is written under another name in `path`. Its warm-up requests are then replayed through TensorFlow's C API, where every
    answer must equal `model.predict` on rows that were encoded offline, and so must those of the files for other runtimes where the
    runtime is installed; with `tables` it is `predict` of the model with these tables (`with_small_tables`). Only then is it renamed: a
    server that watches `path` sees a whole, working version or none.

    Args:
        model: A model built by a factory of this package on `schema` (TensorFlow backend), or a calibrated one.
        schema: The fitted `Schema`.
        path: The model's folder; its name is the model's name by default.
        version: Number of the version; None is the next free one (1 in an empty folder).
        vocabularies: `{table: keras_ctr.data.Vocabulary}`; those that stand in the schema need not be repeated.
        rows: Raw rows, an Arrow table or `{column: list}`, of which the first 32 become warm-up requests. None: no warm-up, no replay.
        candidate_features: Names of the candidates' features in `rank`. None: all but the sequences and the schema's group.
        tables: `"int8"` or `"float16"`: what is written has its embedding tables in this type, and the card says under `tables` what that
            changed. None: as they are.
        runtimes: Other runtimes to write a file for: `"onnx"`, `"litert"` (`export_runtime`). The card says under `runtimes` how each was
            checked.
        name: Name under which the model is served.
        card: `{section: JSON-ready value}` for the model card: `data`, `split`, `metrics`, `calibration`, `training`, `notes`.
        tolerance: Largest difference of a score that the replay accepts.
        overwrite: Whether `version` may be replaced.

    Returns:
        The version's folder as a `pathlib.Path`.

    Raises:
        FileExistsError: If the version exists and `overwrite` is False.
        ValueError: On a version that is no positive number, an unknown runtime, a model that the runtimes do not take, tables as
            `with_small_tables` refuses them, or if an answer differs from `predict`; nothing is published then.
        ImportError: If `runtimes` needs packages that are missing, before anything is written.
        RuntimeError: If the active Keras backend is not TensorFlow, or the C API cannot load or run the model.
        SchemaError: If model, schema, vocabularies and rows do not fit together, or on wrong `candidate_features`.
    """
    path = Path(path)
    if version is not None and (isinstance(version, bool) or not isinstance(version, int) or version < 1):
        raise ValueError(f"version must be a positive number, which is what TensorFlow Serving takes for a version, got {version!r}")
    if version is not None and (path / str(version)).exists() and not overwrite:
        raise FileExistsError(f"{path / str(version)} exists; choose another version, None for the next free one, or pass overwrite=True")
    runtimes = tuple(dict.fromkeys([runtimes] if isinstance(runtimes, str) else runtimes))
    check_packages(runtimes)
    given, report = model, None
    if tables is not None:
        model, report = with_small_tables(given, tables)
    if runtimes:
        check_model(model, runtimes)
    name = path.resolve().name if name is None else name
    vocabularies, candidates = _vocabularies(schema, vocabularies or {}), candidate_names(schema, candidate_features)
    table = None if rows is None else as_table(rows, schema, WARMUP_ROWS)
    path.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".incomplete-", dir=path))
    try:
        bundle, replayed, requests = staging / "bundle", None, []
        write_saved_model(model, schema, vocabularies, bundle, candidate_features=candidates)
        if table is not None:
            records = make_records(model, schema, vocabularies, table, candidates)
            write_warmup(bundle, records, name)
            count, largest = replay_warmup(bundle, tolerance=tolerance)
            replayed = {"records": count, "largest_difference": largest}
            requests = [(record.inputs, record.outputs) for record in records if record.signature == "encoded"]
        written = write_runtimes(model, bundle, runtimes, requests, tolerance=tolerance)
        document = make_card(given, schema, name=name, candidates=candidates, signatures=SIGNATURES, warmup=replayed, given=card)
        document["tables"] = None if tables is None else card_entry(given, tables, report)
        document["runtimes"] = written
        write_server_files(path, name)
        return _publish(bundle, path, version, document, staging, overwrite)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def next_version(path):
    """Returns the number after the highest version in a model's folder, 1 if there is none."""
    folder = Path(path)
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return 1 + max((int(name) for name in names if name.isdecimal()), default=0)


def _publish(bundle, path, version, document, staging, overwrite):
    """Renames the bundle to its version; with `version=None` to the next free one, whoever else takes numbers meanwhile."""
    while True:
        number = next_version(path) if version is None else version
        target = path / str(number)
        write_card(bundle, {"version": number, **document})
        if overwrite and version is not None and target.exists():
            os.replace(target, staging / "replaced")  # deleted with the staging folder, after the new one is in place
        try:
            os.rename(bundle, target)  # refuses a folder that is there and not empty
            return target
        except OSError:
            if not target.exists():
                raise
            if version is not None:
                raise FileExistsError(f"{target} was made by somebody else meanwhile; choose another version") from None


def _vocabularies(schema, given):
    """Returns the vocabularies of all tables that have one, also those that stand in the schema.

    Raises:
        SchemaError: If a table of strings has none.
    """
    found = dict(given)
    for name, table in schema.tables.items():
        if name not in found and table.vocabulary is not None:
            found[name] = Vocabulary(table.vocabulary, table.dtype)
        if name not in found and table.dtype == "string" and table.hash_buckets is None:
            raise SchemaError(f"table '{name}' (feature '{table.features[0]}') holds strings: give its vocabulary in vocabularies")
    return found
