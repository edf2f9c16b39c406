"""What every test relies on: one thread, no global tracking URI, and a study small enough for a unit test."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tune_lt import data, losses, models

if TYPE_CHECKING:
    from ran import Ran  # brings MLflow, which most tests do without

    from tune_lt.study import Study

Call = Callable[..., tuple[int, str, str]]

TINY = """\
name: tiny
data: {name: digits, imbalance: 20, validation: {holdout: 0.3}}
model: {name: resnet8, width: 4}
recipe: {epochs: 4, batch_size: 64, augment: {crop: 1, flip: false}, clip_norm: 2.0}
loss:
  name: ghm_cwap
  alpha: {uniform: [0.3, 1.0]}
  gamma: {uniform: [0.0, 1.5]}
  regions: {choice: [10, 20]}
  aura: {choice: [true, false]}
search: {sampler: tpe, trials: 5, seed: 0}
rows:
  softmax: {loss: {name: softmax}}
  margin+weight_aura: {loss: {best: true, aura: true}}
  ldam+drw: {loss: {name: ldam, drw: {start: 0.5}}, model: {head: cosine}}
seeds: [0, 1]
resources: {cpus: 1, concurrent: 2}
"""


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With ``-n`` a file's tests stay in one process, so that its fixtures are made once; those of Ray begin."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.split("::")[0]))
    items.sort(key=lambda item: item.get_closest_marker("xdist_group").args != ("ray",))  # type: ignore[union-attr]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if "mlflow" in sys.modules:  # it remembers where a run's artifacts lie, but the run may be one of a copied store
        sys.modules["mlflow.tracking._tracking_service.utils"]._artifact_repos_cache.clear()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is remembered of images goes into a folder of the tests, not into the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNE_LT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _plugins_end_with_their_test(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a test registers, and the modules that it writes and imports, are gone after it.

    Those of a fixture for several tests stay: such a fixture has been set up before this one.
    """
    registries: list[dict[str, Any]] = [losses.LOSSES, models.MODELS, data.DATASETS]
    registered, modules, path = [dict(one) for one in registries], set(sys.modules), [*sys.path]
    yield
    for one, before in zip(registries, registered, strict=True):
        one.clear()
        one.update(before)
    sys.path[:] = path
    written = tmp_path_factory.getbasetemp()
    for name in sys.modules.keys() - modules:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(written):
            del sys.modules[name]


@pytest.fixture(scope="session")
def tiny_text() -> str:
    return TINY


@pytest.fixture
def tiny(tmp_path: Path) -> Study:
    from tune_lt.study import reader  # brings pydantic and PyYAML, which a machine with a GPU may lack

    return reader.parse(TINY, tmp_path)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite store with its tables, made once: that takes MLflow seconds. Copy it, never write to it."""
    from tune_lt.store import Store

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    Store(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def cli() -> Call:
    """Call the command line as a user would, in this process: arguments -> (exit code, stdout, stderr)."""

    def call(*arguments: str, cwd: Path | None = None) -> tuple[int, str, str]:
        from tune_lt import cli

        out, err = io.StringIO(), io.StringIO()
        before, argv = Path.cwd(), sys.argv
        sys.argv = ["tune-lt", *arguments]
        os.chdir(cwd or before)
        code = 0
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            os.chdir(before)
            sys.argv = argv
        return code, out.getvalue(), err.getvalue()

    return call


@pytest.fixture(scope="session")
def on_ray(cli: Call) -> Iterator[Call]:
    """The command line with a Ray of two processors at RAY_ADDRESS: starting one for each command takes seconds.

    Tests that use it belong to the group ``ray``, so that one process has them all.
    """
    from ray.cluster_utils import Cluster

    ray = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})

    def call(*arguments: str, cwd: Path | None = None) -> tuple[int, str, str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_ADDRESS", ray.address)
            return cli(*arguments, cwd=cwd)

    yield call
    ray.shutdown()


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory, empty_store: Path, on_ray: Call) -> Ran:
    """A whole study, run once by the command line: a search, what it found as a row, a plugin's loss, a row that
    diverges. Tests read it; one that adds to it takes a `Ran.copy`."""
    from ran import PLUGIN, ROWS, Ran

    folder = tmp_path_factory.mktemp("study")
    shutil.copy(empty_store, folder / "mlflow.db")
    (folder / "half.py").write_text(PLUGIN)
    file = folder / "tiny.yaml"
    found = "  margin+weight_aura: {loss: {best: true, aura: true}}\n"
    assert found in TINY
    file.write_text("plugins: [half]\n" + TINY.replace(found, ROWS))
    code, out, err = on_ray("run", str(file), cwd=folder)
    assert code == 1, err  # a row that diverges leaves its table incomplete
    return Ran(folder, file, out)
