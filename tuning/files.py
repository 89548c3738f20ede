"""JSON files that are whole or not there."""

import contextlib
import json
import math
import os
import tempfile
from pathlib import Path

_PREFIX, _SUFFIX = ".", ".incomplete"


def write_json(path, content):
    """Writes a JSON file by renaming a finished one over it: a reader, or a run after a kill, sees the old content or the new one."""
    write_text(path, json.dumps(content) + "\n")


def write_text(path, text):
    """Writes a text file like `write_json`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f"{_PREFIX}{path.name}-", suffix=_SUFFIX, dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # a rename may reach the disk before the content it names
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's files are their maker's alone
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def read_json(path):
    """Returns the content of a JSON file, or None where there is none that can be read."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def remove_incomplete(folder):
    """Deletes what a killed process left half-written in a folder and the folders in it."""
    for path in [*Path(folder).glob(f"{_PREFIX}*{_SUFFIX}"), *Path(folder).glob(f"*/{_PREFIX}*{_SUFFIX}")]:
        with contextlib.suppress(OSError):
            path.unlink()


def plain(value):
    """Returns a value of JSON with lists for tuples, and None for numbers that JSON has no word for."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) or hasattr(value, "dtype"):
        value = value.item() if hasattr(value, "item") else value
        return None if isinstance(value, float) and not math.isfinite(value) else value
    return value


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
