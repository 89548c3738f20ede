"""The walls of the house: who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "keras_ctr"

# room -> rooms of the package that it may import
MAY_IMPORT = {
    "features": set(),
    "schema": {"features"},
    "backend": set(),
    "registry": {"schema"},
    "metrics": set(),
    "losses": set(),
    "optimizers": {"optimizers"},
    "callbacks": {"metrics"},
    "distribution": set(),
    "tables": {"schema", "layers", "backend"},
    "pruning": {"layers"},
    "layers": {"schema", "backend", "layers"},
    "models": {"schema", "backend", "layers", "models", "registry"},
    "data": {"schema", "features", "data"},
    "datasets": {"schema", "data", "datasets"},
    "serving": {"schema", "data", "serving", "layers", "models", "metrics"},
}
MAY_IMPORT_TENSORFLOW = {"data", "datasets", "serving", "optimizers", "distribution", "cli", "backend"}
NOBODY_IMPORTS = {"jax", "torch"}


def files():
    return sorted(p for p in PACKAGE.rglob("*.py"))


def room(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports(path):
    """Top names imported anywhere in a file, and the rooms of this package."""
    found, rooms = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module]
            if node.module == "keras_ctr":
                names = [f"keras_ctr.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            found.add(parts[0])
            if parts[0] == "keras_ctr" and len(parts) > 1:
                rooms.add(parts[1])
    return found, rooms


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    found, rooms = imports(path)
    where = room(path)
    assert not found & NOBODY_IMPORTS
    if where in MAY_IMPORT:
        assert rooms <= MAY_IMPORT[where], f"{where} must not import {rooms - MAY_IMPORT[where]}"
    if "tensorflow" in found:
        assert where in MAY_IMPORT_TENSORFLOW


def test_files_stay_small():
    long = {str(p.relative_to(ROOT)): n for p in files() if (n := len(p.read_text(encoding="utf-8").splitlines())) > 450}
    assert not long


@pytest.mark.parametrize(
    "statement", ["import keras_ctr", "import keras_ctr.data, keras_ctr.serving, keras_ctr.datasets, keras_ctr.metrics"]
)
def test_light_imports_stay_light(statement):
    code = f"{statement}; import sys; print([m for m in ('tensorflow', 'keras', 'pyarrow') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
