"""Imports point one way, and what trains needs neither Ray nor MLflow."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1] / "tune_lt"
# a folder may import from itself and from the levels above it in this list
LEVELS = (
    {"__init__", "errors"},
    {"registry", "config", "provenance", "plugins", "distributed", "texts", "process"},
    {"losses", "models", "data", "documents"},
    {"training"},
    {"study", "store"},
    {"run"},
    {"plan", "report"},
    {"cli"},
    {"__main__"},
)
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}


def _module(file: Path) -> str:
    return ".".join(("tune_lt", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


IMPORTS: dict[str, set[str]] = {}  # module -> the modules of tune_lt that it imports, inside functions too
for _file in ROOT.rglob("*.py"):
    _found = IMPORTS.setdefault(_module(_file), set())
    for _node in ast.walk(ast.parse(_file.read_text())):
        if isinstance(_node, ast.ImportFrom) and _node.module and _node.module.split(".")[0] == "tune_lt":
            _found |= {_node.module, *(f"{_node.module}.{alias.name}" for alias in _node.names)}
        elif isinstance(_node, ast.Import):
            _found |= {alias.name for alias in _node.names if alias.name.startswith("tune_lt")}
for _module_name, _found in IMPORTS.items():
    _found &= IMPORTS.keys() - {_module_name}


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def test_a_folder_imports_only_from_the_levels_below_it() -> None:
    for module, imported in IMPORTS.items():
        own = _room(module)
        assert own in LEVEL, f"{own} has no level: add it to LEVELS"
        for other in imported:
            assert own == _room(other) or LEVEL[_room(other)] < LEVEL[own], f"{module} imports {other}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    """A package's `__init__` that collects the names of its modules is no step of such a way."""
    packages = {module for module in IMPORTS if (ROOT.parent / module.replace(".", "/")).is_dir()}
    modules = {module: imported - packages for module, imported in IMPORTS.items()}
    while free := {module for module, imported in modules.items() if not imported & modules.keys()}:
        modules = {module: imported for module, imported in modules.items() if module not in free}
    assert not modules, f"a circle among {sorted(modules)}"


def test_few_files_stand_at_the_root() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 10


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
    code += "from tune_lt import data, losses, models; print('softmax' in losses.LOSSES)"
    assert _run(code) == "True\n"


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


def test_names_that_notebooks_and_model_cards_use_are_importable() -> None:
    code = """
from tune_lt import classifier, data, losses, models, training
import tune_lt
assert losses.register and data.register and models.register and training.run_epochs and classifier.load
assert tune_lt.classifier is classifier
print(hasattr(tune_lt, "nothing"))
"""
    assert _run(code) == "False\n"


def test_what_the_user_sets_for_ray_and_mlflow_stays() -> None:
    code = """
import os
os.environ |= {"RAY_USAGE_STATS_ENABLED": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "7"}
from tune_lt.run.search import planned
from tune_lt import store
print(*map(os.environ.get, ("RAY_USAGE_STATS_ENABLED", "RAY_AIR_NEW_OUTPUT", "MLFLOW_HTTP_REQUEST_TIMEOUT")))
"""
    assert _run(code) == "1 0 7\n"


def test_no_module_overwrites_a_variable_of_the_environment() -> None:
    """`setdefault` keeps what is there. MLflow's password is read from its file only where it is not set."""
    found = []
    for file in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            targets = node.targets if isinstance(node, ast.Assign) else []
            found += [ast.unparse(target) for target in targets if ast.unparse(target).startswith("os.environ[")]
    assert found == ["os.environ[PASSWORD]"]
