"""The benchmarks still run: they stand in for parts of the product, which change."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment
from service import missing

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("orchestration.py --part rates --repetitions 1 --reports 1 --ours 3 --reuse 3 --stock 2", "| ours | 3 |"),
        ("growth.py --random 4 --repetitions 1 --tpe", "random"),
        ("report.py --runs 40 --repetitions 1", "| tables (collect) | 40 |"),
        ("around.py --part start --repetitions 1", "| tune-lt run, a new store |"),
        ("around.py --part share --repetitions 1 --seconds 1", "| the product's trial |"),
        ("around.py --part memory --trials 1 --images 60", "| ResNet-8, digits |"),
        ("around.py --part growth --epochs 20", "| 20 |"),
        ("stream.py --images 64 --batch 16 --repetitions 2 --loaders 0 1", "| 1 loaders |"),
        ("losses.py --classes 10 --repetitions 2 --batch 32 --threads 1", "| ghm_cwap |"),
        ("step.py --images 128 --repetitions 2 --workers 1", "| public loop, 1 workers |"),
        (
            "gpu.py --device cpu --images 64 --epochs 1 --packed 1 --repetitions 2 --steps 1 --no-compile "
            "--part steps --part packed --part roofline --part overhead --part profile",
            "| resnet32 |",
        ),
        pytest.param(
            "load.py --clients 4 --minutes 0.1",
            "| metrics lost or doubled | 0 of ",
            marks=pytest.mark.skipif(bool(missing()), reason=f"several hosts need {', '.join(missing())}"),
        ),
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
