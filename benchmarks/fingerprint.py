"""How long it takes to take the hash of images that stay on disk: the first start, the second, and the way before.

``python benchmarks/fingerprint.py --images 50000`` writes so many small JPEG files into a temporary folder and loads
them as a data set, each time in a process of its own. Before (up to version 0.4) an image's header was read at each
start, and its length stood for its content. The times are printed as ratios to that. All files are in the system's
page cache, so that the processor is measured and not the disk; a first start reads every byte once.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 64  # pixels of an image
PER_FOLDER = 500


def write(root: Path, images: int, different: int = 200) -> int:
    """Write class folders with so many files; returns the bytes of a file on average. Few have another content."""
    generator = np.random.default_rng(0)
    contents = []
    for number in range(different):
        file = root.parent / f"{number}.jpg"
        Image.fromarray(generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(file)
        contents.append(file.read_bytes())
    for number in range(images):
        folder = root / f"class {number // PER_FOLDER:05d}"
        if number % PER_FOLDER == 0:
            folder.mkdir(parents=True)
        (folder / f"{number:08d}.jpg").write_bytes(contents[number % different])
    return sum(map(len, contents)) // different


def before(root: Path) -> None:
    """What was done at each start: list the folders, read each header, list the folders again for the lengths."""
    from tune_lt.data.decode import opened
    from tune_lt.data.sources.folder import class_files

    def header(path: Path) -> None:
        with opened(path):
            pass

    paths = [path for files in class_files([root])[0].values() for path in files]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(header, paths))
    for folder in root.iterdir():
        with os.scandir(folder) as entries:
            assert all(entry.stat().st_size for entry in entries)


def now(root: Path, corrupt: str) -> None:
    """What is done now."""
    from tune_lt import data

    data.build("image_folder", root=str(root), size=32, stream=True, corrupt=corrupt)


def timed(kind: str, root: Path, cache: Path) -> tuple[float, float]:
    """Seconds and peak memory (MB) of a process that does one of these, without the time of its imports."""
    command = [sys.executable, __file__, "--only", kind, "--root", str(root)]
    environment = os.environ | {"TUNE_LT_CACHE": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    seconds, memory = map(float, done.stdout.split())
    return seconds, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        import resource

        from tune_lt import data  # noqa: F401

        began = time.perf_counter()
        before(options.root) if options.only == "before" else now(options.root, options.only)
        print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
        return
    with tempfile.TemporaryDirectory(prefix="tune_lt_") as scratch:
        root = Path(scratch, "images")
        size = write(root, options.images)
        time.sleep(3)  # so that no file has changed just now
        rounds: dict[str, list[tuple[float, float]]] = {}
        for number in range(options.repeat):
            for kind in ("before", "refuse", "skip"):
                cache = Path(scratch, f"cache {number} {kind}")
                starts = ("every start",) if kind == "before" else ("first start", "second start")
                for start in starts:
                    rounds.setdefault(f"{kind}, {start}", []).append(timed(kind, root, cache))
        base = min(seconds for seconds, _ in rounds["before, every start"])
        print(f"{options.images:,} files of {size:,} bytes, the fastest of {options.repeat}")
        for name, values in rounds.items():
            seconds, memory = min(values)
            print(f"{name:24} {seconds:7.2f} s  {seconds / base:5.2f} times before  {memory:6.0f} MB")


if __name__ == "__main__":
    main()
