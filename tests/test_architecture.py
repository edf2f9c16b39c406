"""Imports point one way, and what trains needs neither Ray nor MLflow."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1] / "tune_lt"
# a module may import from its own layer's package and from the layers before it
LAYERS = (
    {"__init__", "errors"},
    {"registry", "config", "provenance", "plugins", "distributed"},
    {"losses", "models", "data"},
    {"training"},
    {"study", "store"},
    {"run"},
    {"plan", "report"},
    {"cli"},
)
LEVEL = {module: level for level, modules in enumerate(LAYERS) for module in modules}


def _imports(file: Path) -> set[str]:
    """The top-level modules of tune_lt that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "tune_lt":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("tune_lt.")}
    return {name if name in LEVEL else "__init__" for name in found}


def test_imports_point_one_way() -> None:
    for file in ROOT.rglob("*.py"):
        own = file.relative_to(ROOT).parts[0].removesuffix(".py")
        assert own in LEVEL, f"{own} has no layer: add it to LAYERS"
        for other in _imports(file) - {own}:
            assert LEVEL[other] < LEVEL[own], f"{file.relative_to(ROOT)} imports {other}"


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


BLOCK = "import sys; sys.modules |= dict.fromkeys({blocked})\n"  # None there makes the import fail


def test_training_runs_without_ray_mlflow_and_pydantic() -> None:
    code = BLOCK.format(blocked=("ray", "mlflow", "pydantic", "optuna", "typer", "pandas", "yaml"))
    code += """
from tune_lt import training
from tune_lt.config import CellConfig, Recipe
model, loss = {"name": "resnet8", "width": 4}, {"name": "ghm_cwap"}
cell = CellConfig({"name": "digits", "imbalance": 20.0}, model, loss, Recipe(epochs=1))
print(next(training.run_epochs(cell, device="cpu")).epoch)
"""
    assert _run(code) == "1\n"


def test_losses_data_and_models_import_nothing_but_torch() -> None:
    code = BLOCK.format(
        blocked=("ray", "mlflow", "pydantic", "optuna", "pandas", "yaml", "sklearn", "torchvision", "scipy")
    )
    code += "from tune_lt import data, losses, models; print(len(losses.LOSSES))"
    assert int(_run(code)) == 12


@pytest.mark.parametrize("arguments", ["['--help']", "['run', '--help']", "['--version']"])
def test_help_imports_no_heavy_library(arguments: str) -> None:
    code = f"""
import sys
from tune_lt.cli import app
try:
    app({arguments})
except SystemExit:
    pass
print("heavy:", sorted({{"torch", "ray", "mlflow", "pandas", "numpy"}} & set(sys.modules)))
"""
    assert _run(code).splitlines()[-1] == "heavy: []"
