"""Virtual environments of the peers: made once by pip in a cache folder, checked by importing, never touched again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

# torch without a version would pull gigabytes of CUDA on Linux. The TensorFlow peers get the versions of the running environment.
PACKAGES = {
    "torch": ("torch==2.13.0", "fuxictr==2.3.10"),
    "deepctr": ("deepctr==0.9.4", "tensorflow=={tensorflow}", "keras=={keras}", "setuptools"),
    "keras_rs": ("keras-rs==0.4.0", "tensorflow=={tensorflow}", "keras=={keras}"),
}
IMPORTS = {"torch": "import torch, fuxictr", "deepctr": "import deepctr", "keras_rs": "import keras_rs"}


class EnvironmentFailed(RuntimeError):
    """An environment could not be made; the text is pip's or the import's."""


def python_of(folder, name):
    """Returns the Python of an environment; `"running"` is the interpreter that runs this.

    Raises:
        EnvironmentFailed: If a former attempt to make it failed, or it was never made.
    """
    if name == "running":
        return sys.executable
    python = Path(folder) / name / "bin" / "python"
    if not (Path(folder) / f"{name}.json").exists():
        raise EnvironmentFailed(f"environment '{name}' is not in {folder}")
    return str(python)


def make(folder, name):
    """Makes an environment unless it stands already, and returns its installed versions `{package: version}`.

    An environment stands when its import worked once: `NAME.json` beside it then holds what pip lists. Anything else is made anew. One
    in which the packages are installed but that was never checked is only checked.

    Raises:
        EnvironmentFailed: If pip or the import fails.
    """
    folder = Path(folder)
    if name == "running":
        return _list(sys.executable)
    record = folder / f"{name}.json"
    if record.exists():
        return json.loads(record.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / name / "bin" / "python"
    if not (python.exists() and _imports(python, name) is None):
        shutil.rmtree(folder / name, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder / name)])
        running = _list(sys.executable)
        packages = [p.format(tensorflow=running.get("tensorflow"), keras=running.get("keras")) for p in PACKAGES[name]]
        print(f"installing {' '.join(packages)} into {folder / name}", flush=True)
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
        failure = _imports(python, name)
        if failure is not None:
            raise EnvironmentFailed(f"{IMPORTS[name]}: {failure}")
    versions = _list(python)
    record.write_text(json.dumps(versions, indent=1) + "\n")
    return versions


def _imports(python, name):
    done = subprocess.run(
        [str(python), "-I", "-c", IMPORTS[name]], capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    )
    return None if done.returncode == 0 else "".join(done.stderr.splitlines(keepends=True)[-4:]).strip()


def _run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr or done.stdout).splitlines()
        lines = [x for x in lines if x.startswith("ERROR")] or lines[-6:]
        raise EnvironmentFailed("\n".join(x[:300] for x in lines).strip())


def _list(python):
    code = "import importlib.metadata as m, json; print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
    done = subprocess.run([str(python), "-I", "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise EnvironmentFailed(done.stderr.strip())
    return dict(sorted(json.loads(done.stdout).items(), key=lambda item: item[0].lower()))
