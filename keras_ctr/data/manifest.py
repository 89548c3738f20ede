"""The manifest of a prepared data set, written last: what makes a folder a data set, and what its files must be."""

import concurrent.futures
import functools
import hashlib
import json
import os
import pathlib

import keras_ctr
from keras_ctr.data.framing import CorruptDataError, Scan, scan_records
from keras_ctr.data.tfrecord import sync_folder
from keras_ctr.schema import Schema, nearest

MANIFEST_FILE = "manifest.json"
SCHEMA_FILE = "schema.json"
VOCABULARY_FOLDER = "vocabularies"
MANIFEST_VERSION = 1
FORMAT = "tfrecord-example"
"""Form of the shards: TFRecord files of one `tf.train.Example` a row. A reader looks it up; other forms may follow."""


def write_manifest(folder, splits, *, reports=None, shard_format=FORMAT) -> dict:
    """Makes a folder a prepared data set: writes `manifest.json`, whole or not at all, after everything else is in place.

    Args:
        folder: Folder with `schema.json`, `vocabularies/` and the shards of every split.
        splits: {split: entry that `write_split` returned}.
        reports: {split: JSON-ready dict} of what encoding counted (unknown values, missing numbers, ...), kept as it is.
        shard_format: Form of the shards.

    Returns:
        The manifest: `version`, `format`, `package` (version of keras_ctr), `files` {path: {bytes, sha256}} of schema and vocabularies,
        `splits` {split: entry, with its `report`}.

    Raises:
        ValueError: If there is no split, or a report is of no split.
        FileNotFoundError: If the folder has no `schema.json`, or a shard is missing.
    """
    folder = pathlib.Path(folder)
    reports = dict(reports or {})
    if not splits:
        raise ValueError("a prepared data set needs at least one split")
    for split in reports:
        if split not in splits:
            raise ValueError(f"there is a report of split '{split}', but no such split{nearest(split, splits)}")
    if not (folder / SCHEMA_FILE).is_file():
        raise FileNotFoundError(f"{folder / SCHEMA_FILE} is missing: save the fitted schema before the manifest")
    for split, entry in splits.items():
        for shard in entry["shards"]:
            if not (folder / split / shard["name"]).is_file():
                raise FileNotFoundError(f"{folder / split / shard['name']} is missing: write the split before the manifest")
    paths = [folder / SCHEMA_FILE, *sorted((folder / VOCABULARY_FOLDER).glob("*.txt"))]
    files = {}
    for path in paths:
        with open(path, "rb+") as file:  # to the disk before the manifest, which vouches for it
            os.fsync(file.fileno())
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    manifest = {
        "version": MANIFEST_VERSION,
        "format": shard_format,
        "package": keras_ctr.__version__,
        "files": files,
        "splits": {split: {**entry, "report": reports.get(split, entry.get("report", {}))} for split, entry in splits.items()},
    }
    temporary = folder / f"{MANIFEST_FILE}.incomplete"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=2, ensure_ascii=False, default=_plain)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / MANIFEST_FILE)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(folder)
    return read_manifest(folder)


def read_manifest(folder) -> dict:
    """Reads the manifest of a prepared data set.

    Raises:
        FileNotFoundError: If there is no such folder, or it has no manifest.
        ValueError: If the manifest is not one, or of an unknown version.
    """
    folder = pathlib.Path(folder)
    path = folder / MANIFEST_FILE
    if not folder.is_dir():
        raise FileNotFoundError(f"no prepared data set at {folder}: there is no such folder")
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {MANIFEST_FILE}: its preparation was not finished, or it is no prepared data set; prepare it (again)"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); prepare the data set again") from error
    if not isinstance(manifest, dict) or "version" not in manifest:
        raise ValueError(f"{path} is no manifest of a prepared data set")
    if manifest["version"] != MANIFEST_VERSION:
        raise ValueError(f"{path} has version {manifest['version']!r}, this release reads {MANIFEST_VERSION}; prepare the data set again")
    missing = [key for key in ("format", "files", "splits") if key not in manifest]
    if missing:
        raise ValueError(f"{path} lacks {missing}; prepare the data set again")
    return manifest


class PreparedData:
    """A prepared data set: a folder with schema, vocabularies, TFRecord shards and the manifest that vouches for them.

    Opening compares the shards' sizes with the manifest, so that a truncated or missing file is found before any work is spent on it;
    `verify` compares contents.

    Args:
        path: The folder.
        check: False opens the folder although shards are missing or truncated, for `make_dataset(..., skip_corrupt=True)`.

    Attributes:
        path: The folder, a `pathlib.Path`.
        manifest: The manifest as a dict, see `write_manifest`.

    Raises:
        FileNotFoundError: If the folder, its manifest or (unless `check=False`) a shard is missing.
        CorruptDataError: If the schema, a vocabulary or (unless `check=False`) a shard does not have the size it was written with; the
            message names the file and, for a shard, the byte at which reading fails.
    """

    def __init__(self, path, *, check=True):
        self.path = pathlib.Path(path)
        self.manifest = read_manifest(self.path)
        self._verified = set()
        for name, entry in self.manifest["files"].items():
            self._check_size(self.path / name, entry)
        if not self._fits(self.path / SCHEMA_FILE, self.manifest["files"][SCHEMA_FILE]):
            raise _damaged(self.path / SCHEMA_FILE, {}, "was changed after the data had been prepared by it")
        if check:
            for split in self.splits:
                self.verify_files(self.shards(split), contents=False)

    def __repr__(self):
        rows = ", ".join(f"{split}: {self.num_rows(split)} rows" for split in self.splits)
        return f"PreparedData('{self.path}', {rows})"

    @functools.cached_property
    def schema(self) -> Schema:
        """The fitted schema."""
        return Schema.load(self.path / SCHEMA_FILE)

    @functools.cached_property
    def vocabularies(self) -> dict:
        """The vocabularies by table: {table: `Vocabulary`}."""
        from keras_ctr.data.vocabulary import load_vocabularies

        return load_vocabularies(self.path, self.schema)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.manifest["splits"])

    def entry(self, split) -> dict:
        """Returns what the manifest says of a split: `num_rows`, `label_rate`, `one_class`, `shards`, `report`.

        Raises:
            KeyError: If there is no such split, with the nearest name.
        """
        if split not in self.manifest["splits"]:
            raise KeyError(f"no split '{split}' in {self.path}{nearest(split, self.splits)}; splits: {', '.join(self.splits)}")
        return self.manifest["splits"][split]

    def num_rows(self, split) -> int:
        """Returns the number of rows of a split."""
        return self.entry(split)["num_rows"]

    def label_rate(self, split) -> dict[str, float]:
        """Returns the share of ones of every label of a split."""
        return dict(self.entry(split)["label_rate"])

    def shards(self, split) -> list[tuple[pathlib.Path, dict]]:
        """Returns (path, manifest entry) of the shards of a split, in the order of writing."""
        return [(self.path / split / shard["name"], shard) for shard in self.entry(split)["shards"]]

    def verify(self, split=None, *, progress=None):
        """Reads every file and compares it with its checksum. Files found whole are not read again by this object.

        Args:
            split: Name of the split to verify; None verifies all, with schema and vocabularies.
            progress: Callable `(done, total, what)`, in bytes.

        Raises:
            FileNotFoundError: If a file is missing.
            CorruptDataError: If a file differs; the message names it and, for a shard, the byte at which reading fails.
        """
        files = [file for name in ([split] if split is not None else self.splits) for file in self.shards(name)]
        if split is None:
            files = [(self.path / name, entry) for name, entry in self.manifest["files"].items()] + files
        self.verify_files(files, progress=progress)

    def verify_files(self, files, *, contents=True, progress=None):
        """Does what `verify` does for a list of (path, manifest entry); `contents=False` compares sizes only."""
        for path, entry in files:
            self._check_size(path, entry)
        if not contents:
            return
        done, total = 0, sum(entry["bytes"] for _, entry in files)
        for (path, entry), whole in self._compare(files):
            if not whole:
                raise _damaged(path, entry, "does not fit its checksum")
            done += entry["bytes"]
            if progress is not None:
                progress(done, total, "verifying")

    def scan(self, split, files=None) -> list[Scan]:
        """Returns, for every shard of a split (or of some of its `files`), which of its records are whole; a missing one has none.

        Shards that fit their checksum are taken as whole without a look at the records.
        """
        files = self.shards(split) if files is None else files
        whole = {path for (path, _), fits in self._compare([file for file in files if file[0].is_file()]) if fits}
        scans = []
        for path, entry in files:
            if path in whole:
                scans.append(Scan(os.fspath(path), ((0, entry["rows"]),), ()))
            else:
                scans.append(scan_records(path) if path.is_file() else Scan(os.fspath(path), (), ()))
        return scans

    def _compare(self, files):
        """Yields ((path, entry), whether the file fits its checksum), reading several files at a time."""
        with concurrent.futures.ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            yield from zip(files, pool.map(lambda file: self._fits(*file), files), strict=True)

    def _fits(self, path, entry):
        status = path.stat()
        key = (path, status.st_size, status.st_mtime_ns)
        if key not in self._verified:
            if status.st_size != entry["bytes"] or _sha256(path) != entry["sha256"]:
                return False
            self._verified.add(key)
        return True

    def _check_size(self, path, entry):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing, but the manifest names it; restore it or prepare the data set again")
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise _damaged(path, entry, f"has {size} bytes, but {entry['bytes']} were written")


def _damaged(path, entry, what):
    """Returns the error for a file that is not what was written, naming the byte at which reading a shard fails."""
    advice = "restore it or prepare the data set again"
    if "rows" not in entry:
        return CorruptDataError(f"{path} {what}; {advice}", path)
    scan = scan_records(path, first_damage_only=True)
    if scan.damages:
        at = f"reading fails at byte {scan.damages[0].offset}: {scan.damages[0].reason}"
        offset = scan.damages[0].offset
    else:
        at, offset = f"it holds {scan.num_records} whole records, {entry['rows']} were written", None
    return CorruptDataError(f"{path} {what}; {at}; {advice}, or read the rest with skip_corrupt=True", path, offset)


def _sha256(path):
    checksum = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            checksum.update(part)
    return checksum.hexdigest()


def _plain(value):
    """Returns NumPy numbers in reports as Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a report in the manifest holds {value!r}, which JSON cannot")
