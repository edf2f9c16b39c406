"""The benchmarks still run: they stand in for parts of the product, which change."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
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
        pytest.param(
            "load.py --clients 4 --minutes 0.1",
            "| metrics lost or doubled | 0 of ",
            marks=[
                pytest.mark.xdist_group("hosts"),  # they have fixed addresses
                pytest.mark.skipif(bool(missing()), reason=f"several hosts need {', '.join(missing())}"),
            ],
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


STUDY = """\
name: mini
data: {name: image_folder, root: images, imbalance: 4}
model: {name: resnet8, width: 4}
recipe: {epochs: 2, batch_size: 16}
loss: {name: ghm_cwap}
rows: {softmax: {loss: {name: softmax}}, own: {}}
seeds: [0]
resources: {cpus: 1, gpus: 0}
"""


@pytest.mark.slow
def test_the_two_calls_of_a_gpu_session_run_to_their_end(tmp_path: Path) -> None:
    """As they are made on a GPU, with a list of cells and an archive of their images; the results can be imported."""
    random = np.random.default_rng(0)
    for number in range(30):
        for part, name in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    with tarfile.open(tmp_path / "archive.tar.gz", "w:gz") as archive:
        for part in ("train", "test"):
            archive.add(tmp_path / "images" / part, part)
    (tmp_path / "mini.yaml").write_text(STUDY)
    variables = environment(TMPDIR=str(tmp_path))

    def call(*command: object) -> str:
        line = [str(part) for part in command]
        done = subprocess.run(line, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    (tmp_path / "cells.json").write_text(call("tune-lt", "cells", "mini.yaml"))
    script = (sys.executable, ROOT / "benchmarks" / "gpu_all.py")
    given = ("--cells", tmp_path / "cells.json", "--images", tmp_path / "archive.tar.gz", "--device", "cpu")
    measured = call(*script, "measure", *given, "--tiny")
    assert "best setting: " in measured
    results, pack = tmp_path / "results", tmp_path / "pack.tar.gz"
    trained = call(*script, "train", *given, "--results", results, "--pack", pack, "--minutes", 3, "--at-once", 2)
    assert "mini: 2 cells, 0 have a result" in trained
    with tarfile.open(pack) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    assert "mini: 2 cells imported" in call("tune-lt", "import", "unpacked")
