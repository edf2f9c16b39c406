"""Everything on a GPU in two calls; needs what `gpu.py` needs, and pytest.

    python benchmarks/gpu_all.py measure --cells CELLS --images ARCHIVE                # at most 3 minutes
    python benchmarks/gpu_all.py train --cells CELLS --images ARCHIVE --minutes 8      # as `tune-lt cells` lists them
    python benchmarks/gpu_all.py measure --tiny --device cpu      # that it runs

What a part prints appears at once. A part that fails, takes too long, or finds no time left is named, and the others
go on; the exit code is then 1. The first call writes how many trials at once, and with or without MPS, gave most
images a second to ``benchmarks/.gpu_best.json``: ``{"at_once": 8, "mps": true}``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib import mps

HERE = Path(__file__).parent
BEST = HERE / ".gpu_best.json"
SECONDS = 180.0  # for all parts together
PARTS = ("tests", "second call", "steps", "packed", "models")  # of the first call
CUDA_TESTS = (
    "tests/training/test_cuda.py",
    "tests/data/test_batches.py",
    "tests/training/test_accuracies.py",
)  # import no Ray, no MLflow
GRACE = 20.0  # seconds that a training may take to stop, beyond its time
LEAST = 5.0  # seconds in which a part could begin at all


@dataclass
class Parts:
    """Runs one command after the other, each no longer than it may and than there is time; remembers what failed."""

    until: float
    wanted: Sequence[str] = ()  # names of parts, none for all
    failed: list[str] = field(default_factory=list)

    def run(self, name: str, command: Sequence[object], seconds: float, **environment: str) -> None:
        """A Python script or ``-m`` module with its arguments, at most so many seconds."""
        if self.wanted and name.split(",")[0] not in self.wanted:
            return
        began = time.monotonic()
        seconds = min(seconds, self.until - began)
        print(f"\n## {name}\n", flush=True)
        if seconds < LEAST:
            print("left out: no time is left", flush=True)
            self.failed.append(f"{name} (left out)")
            return
        variables = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        line = [sys.executable, *map(str, command)]
        process = subprocess.Popen(line, cwd=HERE.parent, env=variables, process_group=0)  # with all that it starts
        try:
            code = process.wait(seconds)
            problem = f"exit code {code}" if code else ""
        except subprocess.TimeoutExpired:
            problem = f"longer than {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if problem:
            self.failed.append(f"{name} ({problem})")
        print(f"\n{name}: {time.monotonic() - began:.1f} s{f', FAILED: {problem}' if problem else ''}", flush=True)


def measure(options: argparse.Namespace) -> int:
    """The first call: tests, steps, trials at once without and with MPS, many models, a profile."""
    began = time.monotonic()
    tiny, device = options.tiny, ["--device", options.device, *(["--threads", 1] if options.tiny else [])]
    parts = Parts(began + SECONDS, options.part or ())

    processes = ["-n", 2 if tiny else 8] if importlib.util.find_spec("xdist") else []
    chosen = ["-k", "batches or optimizer"] if tiny else []
    tests = ["-m", "pytest", "-m", "cuda", *CUDA_TESTS, *processes, "-q", "-p", "no:cacheprovider", *chosen]
    parts.run("tests", tests, 75, TUNE_LT_DEVICE=options.device)

    if options.cells and options.images:
        with tempfile.TemporaryDirectory() as folder:
            second = ["train", "--cells", options.cells, "--images", options.images, "--device", options.device]
            second += ["--results", folder, "--pack", Path(folder, "packed.tar.gz"), "--minutes", 0.7, "--at-once", 2]
            parts.run("second call", [HERE / "gpu_all.py", *second], 60)

    gpu = [HERE / "gpu.py", *device, "--no-compile"]
    few = ["--repetitions", 2, "--images", 64, "--steps", 1, "--network", "resnet8"] if tiny else ["--repetitions", 3]
    short = few if tiny else [*few, "--images", 6272]  # half an epoch of CIFAR-10-LT, in whole batches
    names = ("steps", "algorithms", "profile", "overhead", "trial", "roofline")
    chosen = [part for name in names for part in ("--part", name)]
    parts.run("steps", [*gpu, *short, *chosen], 70)

    paces = _packed(parts, [*gpu, *few, "--part", "packed"], tiny)

    models = ["--networks", "resnet8" if tiny else "resnet32", "--members", 2 if tiny else 4]
    models += ["--repetitions", 2, "--steps", 1, *(["--batch", 8] if tiny else [])]
    parts.run("models", [HERE / "many_models.py", *device, *models], 40)

    print(f"\nall parts: {time.monotonic() - began:.1f} s")
    if paces:
        best = max(paces, key=lambda one: one["images_per_second"])
        choice = {"at_once": best["at_once"], "mps": best["mps"]}
        if not tiny:
            BEST.write_text(json.dumps(choice) + "\n")
        how = "with" if best["mps"] else "without"
        print(f"best setting: {best['at_once']} at once, {how} MPS ({best['images_per_second']:,.0f} images/s in all)")
    if parts.failed:
        print(f"failed: {', '.join(parts.failed)}", flush=True)
    return 1 if parts.failed else 0


def _packed(parts: Parts, command: Sequence[object], tiny: bool) -> list[dict[str, Any]]:
    """Images a second by the number of trials at once, without MPS and with it where it is there."""
    paces: list[dict[str, Any]] = []

    def run(name: str, file: Path, variables: Mapping[str, str], *counts: int) -> None:
        epochs = ["--epochs", 1 if tiny else 2, "--packed", *([1, 2] if tiny else counts), "--json", file]
        parts.run(name, [*command, *epochs], 60, **variables)
        found = json.loads(file.read_text()) if file.exists() else []
        paces.extend({**one, "mps": bool(variables)} for one in found)

    with tempfile.TemporaryDirectory() as folder:
        run("packed", Path(folder, "without.json"), {}, 1, 4)  # in turns: no more at once is quicker
        with mps.daemon() as variables:
            if variables:
                run("packed, with MPS", Path(folder, "with.json"), variables, 1, 2, 4, 8, 16)
    return paces


def train(options: argparse.Namespace) -> int:
    """The second call: a study's cells at full scale, as many at once as the first call found best."""
    best = json.loads(BEST.read_text()) if BEST.exists() else {"at_once": 8, "mps": True}
    at_once = options.at_once or best["at_once"]
    began = time.monotonic()
    images = _unpacked(options.images)
    print(f"images: {time.monotonic() - began:.1f} s", flush=True)
    command: list[object] = ["-m", "tune_lt.training.cells", options.cells, "--data", images]
    command += ["--results", options.results, "--device", options.device, "--at-once", at_once]
    sharing: AbstractContextManager[dict[str, str]] = mps.daemon() if best["mps"] else nullcontext({})
    with sharing as variables:
        left = options.minutes - (time.monotonic() - began) / 60
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **variables}
        line = [sys.executable, *map(str, command), "--minutes", str(left)]
        process = subprocess.Popen(line, cwd=HERE.parent, env=environment)
        try:
            code = process.wait(60 * left + GRACE)
        except subprocess.TimeoutExpired:
            code = 1
        finally:
            process.kill()  # its own processes end with it
            process.wait()
    with tarfile.open(options.pack, "w:gz", compresslevel=1) as archive:
        for file in sorted(options.results.glob("*.json")):
            archive.add(file, file.name)
    print(f"{options.pack}: {options.pack.stat().st_size / 2**20:.1f} MiB; all: {time.monotonic() - began:.1f} s")
    return 0 if code == 1 else code  # 1: there was no time for every cell


def _unpacked(images: Path) -> Path:
    """The folder of the images: itself, or what an archive of it holds."""
    if images.is_dir():
        return images
    folder = Path(tempfile.gettempdir()) / images.name.partition(".")[0]
    if not folder.exists():  # an earlier call on the same machine has unpacked it
        part = folder.with_suffix(".part")
        part.mkdir(exist_ok=True)
        subprocess.run(["tar", "-xf", images, "-C", part], check=True)
        part.rename(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    calls = parser.add_subparsers(dest="call", required=True)
    for name, call in (("measure", measure), ("train", train)):
        one = calls.add_parser(name, help=call.__doc__)
        one.add_argument("--device", default="cuda")
        needed = call is train
        one.add_argument("--cells", type=Path, required=needed, help="the list of cells, from tune-lt cells")
        one.add_argument("--images", type=Path, required=needed, help="their images: a folder, or an archive of it")
        one.set_defaults(function=call)
    calls.choices["measure"].add_argument("--tiny", action="store_true", help="as little as shows that it runs")
    calls.choices["measure"].add_argument("--part", action="append", choices=PARTS, help="leave out for all")
    one.add_argument("--results", type=Path, default=Path("results"), metavar="DIR")
    one.add_argument("--pack", type=Path, default=Path("results.tar.gz"), help="the results in one file")
    one.add_argument("--minutes", type=float, default=8.0, help="for all of it")
    one.add_argument("--at-once", type=int, help="trainings at once; else what the first call found best")
    options = parser.parse_args()
    sys.exit(options.function(options))


if __name__ == "__main__":
    main()
