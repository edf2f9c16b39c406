"""What every test relies on: one thread, no global tracking URI, and a study small enough for a unit test."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tune_lt import studyfile
from tune_lt.study import Study

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


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def tiny_text() -> str:
    return TINY


@pytest.fixture
def tiny(tmp_path: Path) -> Study:
    return studyfile.parse(TINY, tmp_path)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite store with its tables, made once: that takes MLflow seconds. Copy it, never write to it."""
    from tune_lt.tracking import Store

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    Store(f"sqlite:///{file}")
    return file


@pytest.fixture(scope="session")
def cli() -> Callable[..., tuple[int, str, str]]:
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
