"""What a search leaves: tables for people and machines, the best configuration, TensorBoard's HParams."""

import csv
import io
import shutil
from pathlib import Path

from tuning.files import write_json, write_text
from tuning.trials import COMPLETED, DAMAGED

BEST, TABLE, DOCUMENT, BOARD = "best.json", "results.csv", "results.json", "tensorboard"


def ranked(records, objective):
    """Returns the completed trials, the best first, equal ones in their order."""
    done = [r for r in records if r["status"] == COMPLETED]
    return sorted(done, key=lambda r: -r["objective"] if objective.direction == "max" else r["objective"])


def failures(records):
    """Returns the trials that failed, in their order; files that were damaged are none."""
    return [r for r in records if r["status"] not in (COMPLETED, DAMAGED)]


def write_results(folder, records, objective, details):
    """Writes `results.csv`, `results.json` and, if a trial was completed, `best.json` (a file for `keras-ctr train --config`).

    Args:
        folder: Folder of the search.
        records: Records of all finished trials.
        objective: `Objective`.
        details: What `results.json` says of the search besides the trials.

    Returns:
        The document of `results.json`.
    """
    folder, order = Path(folder), ranked(records, objective)
    if order:
        write_json(folder / BEST, order[0]["configuration"])
    shown = [*order, *failures(records)]
    document = {
        "objective": objective.text,
        "direction": objective.direction,
        **details,
        "trials": [{k: v for k, v in r.items() if k not in ("history", "versions")} for r in shown],
        "versions": shown[0].get("versions") if shown else None,
    }
    write_json(folder / DOCUMENT, document)
    write_text(folder / TABLE, _csv(shown))
    return document


def _csv(records):
    parameters = list(dict.fromkeys(name for r in records for name in r["parameters"]))
    metrics = list(dict.fromkeys(name for r in records for name in r.get("metrics") or {}))
    plain = ("trial", "status", "objective", "epochs", "best_epoch", "seconds", "seed", "worker")
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["rank", *plain, *parameters, *metrics, "error"])
    for rank, r in enumerate(records, 1):
        place = rank if r["status"] == COMPLETED else ""
        values = [*(r.get(name) for name in plain), *(r["parameters"].get(name) for name in parameters)]
        values += [(r.get("metrics") or {}).get(name) for name in metrics]
        writer.writerow([place, *("" if v is None else v for v in values), r["error"]["message"] if r.get("error") else ""])
    return stream.getvalue()


def results_table(records, objective, *, most=20, title=None):
    """Returns a `rich.table.Table` of the best trials."""
    from rich.table import Table

    order = ranked(records, objective)
    varied = [name for name in dict.fromkeys(n for r in order for n in r["parameters"]) if _varies(name, order)]
    table = Table(title=f"{title + ': ' if title else ''}{objective.text}", title_justify="left")
    for name in ("trial", "objective", "epochs", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("hyperparameters that vary")
    for r in order[:most]:
        values = ", ".join(f"{name} {_shown(r['parameters'][name])}" for name in varied if name in r["parameters"])
        table.add_row(r["trial"], f"{r['objective']:.5f}", f"{r['best_epoch']}/{r['epochs']}", f"{r['seconds']:.1f}", values)
    return table


def _varies(name, records):
    return len({repr(r["parameters"].get(name)) for r in records}) > 1


def _shown(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_board(folder, record, objective):
    """Writes a trial for TensorBoard's HParams page (`tensorboard --logdir FOLDER/tensorboard`); a folder that is there stays."""
    import tensorflow as tf
    from tensorboard.plugins.hparams import api

    target = Path(folder) / BOARD / f"trial_{record['trial']}"
    if target.exists() or record["status"] != COMPLETED:
        return
    temporary = target.with_name(f".{target.name}.incomplete")
    shutil.rmtree(temporary, ignore_errors=True)
    writer = tf.summary.create_file_writer(str(temporary))
    with writer.as_default():
        api.hparams(record["parameters"], trial_id=record["trial"])
        for name, values in record["history"].items():
            for epoch, value in enumerate(values, 1):
                if value is not None:
                    tf.summary.scalar(name, value, step=epoch)
        tf.summary.scalar("objective", record["objective"], step=record["best_epoch"])
    writer.close()
    temporary.rename(target)


def first_error(records):
    """Returns the error of the first trial that failed, as one line, or None."""
    failed = failures(records)
    return f"trial {failed[0]['trial']}: {error_line(failed[0])}" if failed else None


def error_line(record):
    """Returns a record's error as one line."""
    message = (record["error"]["message"].strip() or "(no message)").splitlines()[0]
    return f"{record['error']['type']}: {message}"
