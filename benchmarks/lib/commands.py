"""The product's commands as a user types them, and the study that the benchmarks of `around.py` run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

STUDY = """\
name: around
data: {{name: {data}}}
model: {{name: {model}}}
recipe: {{epochs: {epochs}, batch_size: {batch}, augment: {augment}}}
loss: {{name: ghm_cwap}}
rows: {{ours: {{}}}}
seeds: {seeds}
resources: {{cpus: 1, gpus: 0, concurrent: 1}}
"""
SMALL = "{crop: 1, flip: false}"


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}


def command(folder: Path, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "tune_lt", *arguments], cwd=folder, env=environment(), **options)


def output(folder: Path, *arguments: str) -> str:
    process = command(folder, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate()
    if process.returncode:
        raise RuntimeError(err.decode())
    return out.decode()
