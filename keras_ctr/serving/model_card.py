"""The model card of a bundle: what the model is, what it was trained on and how it did, for people and for programs."""

import datetime
import json
import platform
import subprocess
from importlib import metadata

import numpy as np

from keras_ctr.serving.signature_defs import regressions

SECTIONS = ("data", "split", "metrics", "calibration", "training", "notes")
"""What the caller may tell the card."""
MARKDOWN, DOCUMENT = "assets.extra/model_card.md", "assets.extra/model_card.json"
"""Places of the card in a version's folder."""
PACKAGES = ("keras_ctr", "keras", "tensorflow", "numpy")


def make_card(model, schema, *, name, candidates, signatures, warmup, given=None):
    """Returns the model card as a JSON-ready dict.

    Args:
        model: The model.
        schema: Its schema; vocabularies are left out.
        name: Name under which the model is served.
        candidates: Names of the candidates' features of `rank`.
        signatures: Names of the signatures.
        warmup: `{"records": ..., "largest_difference": ...}` of the replay, or None without warm-up requests.
        given: What only the caller knows, by section (`SECTIONS`): `data` (where from, how many rows), `split` (which rows the metrics
            are of), `metrics`, `calibration`, `training`, `notes`. JSON-ready values.

    Raises:
        ValueError: On an unknown section.
    """
    given = dict(given or {})
    for section in given:
        if section not in SECTIONS:
            raise ValueError(f"card has the unknown section '{section}'; sections: {', '.join(SECTIONS)}")
    document = schema.to_dict()
    for feature in document["features"]:
        feature.pop("vocabulary", None)
    return {
        "name": name,
        "model": model.name,
        "parameters": {
            "all": int(model.count_params()),
            "trainable": int(sum(np.prod(w.shape) for w in model.trainable_weights)),
        },
        "labels": list(schema.label_names),
        **{section: given.get(section) for section in SECTIONS},
        "signatures": [*signatures, *regressions(schema.label_names)],
        "rank": {"candidate": list(candidates), "user": [n for n in schema.feature_names if n not in candidates]},
        "warmup": warmup,
        "features": [_feature(schema, feature) for feature in schema.features],
        "schema": document,
        "versions": {package: _version(package) for package in PACKAGES} | {"python": platform.python_version()},
        "git": _git(),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def as_markdown(card):
    """Returns a model card as markdown."""
    lines = [f"# {card['name']}, version {card.get('version', '?')}", ""]
    lines += [f"`{card['model']}`, {card['parameters']['all']:,} parameters. Predicts {', '.join(card['labels'])}.", ""]
    for section in SECTIONS:
        lines += [f"## {section.capitalize()}", "", *_lines(card[section]), ""]
    lines += ["## Requests", "", f"Signatures: {', '.join(f'`{s}`' for s in card['signatures'])}.", ""]
    lines += [
        f"`rank` takes once: {', '.join(card['rank']['user']) or 'nothing'};",
        f"of each candidate: {', '.join(card['rank']['candidate'])}.",
    ]
    warmup = card["warmup"]
    if warmup is None:
        lines += ["", "No warm-up requests: no raw rows were given at export."]
    else:
        text = "replayed through TensorFlow's C API before this version was published"
        largest = f"largest difference from `predict` {warmup['largest_difference']:.1e}"
        lines += ["", f"{warmup['records']} warm-up requests, {text}; {largest}."]
    for kind, found in card.get("runtimes", {}).items():
        difference = found["largest_difference"]
        checked = "not checked" if difference is None else f"largest difference from `predict` {difference:.1e} in {found['runtime']}"
        lines += ["", f"For {kind}: `{found['file']}`, which takes ids as `encoded` does; {checked}."]
    if tables := card.get("tables"):
        scales = ", int8 with one float32 scale a row" if tables["dtype"] == "int8" else ""
        size = f"{tables['bytes_before']:,} bytes before, {tables['bytes_after']:,} after"
        change = f"the largest change of a weight is {tables['largest_error']:.2g}"
        lines += ["", f"Embedding tables are stored in {tables['dtype']}{scales}: {size}; {change}. Metrics above are of float32 tables."]
    lines += ["", "## Features", "", "| feature | kind | raw type | table | rows |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(str(row[key]) for key in row)} |" for row in card["features"]]
    versions = ", ".join(f"{package} {version}" for package, version in card["versions"].items())
    lines += ["", "## Made with", "", f"{versions}; git {card['git'] or 'unknown'}; {card['created']}."]
    return "\n".join(lines) + "\n"


def _feature(schema, feature):
    raw, binned = schema.raw_dtype(feature.name), getattr(feature, "is_binned", True)
    table = schema.table_of(feature) if binned else None
    size = getattr(feature, "vocabulary_size", None) or getattr(table, "vocabulary_size", None)
    return {"feature": feature.name, "kind": feature.kind, "raw": raw, "table": table.name if table else "", "rows": size or ""}


def write_card(folder, card):
    """Writes the card, for people and for programs, into a version's folder (a `pathlib.Path`)."""
    (folder / MARKDOWN).parent.mkdir(exist_ok=True)
    (folder / DOCUMENT).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / MARKDOWN).write_text(as_markdown(card), encoding="utf-8")


def _lines(value):
    if value is None:
        return ["Not given."]
    if isinstance(value, dict):
        return [f"- {key}: {item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)}" for key, item in value.items()]
    return [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)]


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git():
    """Returns the commit of the repository around the working directory, with `-dirty` if files differ from it; None without one."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
