"""The benchmarks of the search still run: they stand in for parts of the product, which change."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("orchestration.py --part rates --repetitions 1 --ours 3 --reuse 3 --stock 2", "| ours | 3 |"),
        ("growth.py --random 4 --tpe", "random"),
        ("report.py --runs 40 --repetitions 1", "| tables (collect) | 40 |"),
    ],
)
def test_a_benchmark_runs_to_its_end(command: str, found: str, tmp_path: Path) -> None:
    script, *options = command.split()
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *options],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert found in done.stdout
