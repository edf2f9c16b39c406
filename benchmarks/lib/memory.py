"""Memory of a trial: what a plan says against what a worker took, and over many epochs. Parts of `around.py`."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from lib import commands, common, pictures, timing

MEMORY = 0.2  # target: at most this far off


def memory(arguments: argparse.Namespace) -> None:
    rows = []
    with common.workplace() as fresh:
        images = fresh() / "images"
        pictures.folder(images, count=arguments.images, side=32, kind="png")
        large, few = fresh() / "large", max(50, arguments.images // 20)
        pictures.folder(large, count=few, side=160)
        cases = {
            "ResNet-8, digits": {"data": "digits", "model": "resnet8", "batch": 64, "augment": commands.SMALL},
            f"ResNet-32, {arguments.images:,} images of 32 px": {
                "data": f"image_folder, root: {images}, size: 32", "model": "resnet32", "batch": 128, "augment": "{}",
            },
            f"ResNet-18, a stream of {few:,} JPEGs, 112 px": {
                "data": f"image_folder, root: {large}, size: 112, stream: true",
                "model": "torchvision, architecture: resnet18", "batch": 32, "augment": "{scale: [0.2, 1.0]}",
            },
        }  # fmt: skip
        for name, content in itertools.islice(cases.items(), arguments.trials):
            folder = fresh()
            (folder / "study.yaml").write_text(commands.STUDY.format(epochs=1, seeds=[0], **content))
            planned = json.loads(commands.output(folder, "plan", "study.yaml", "--json"))["estimate"]["memory_bytes"]
            commands.output(folder, "run", "study.yaml")
            took = common.in_process(_recorded_memory, folder)
            sizes = [f"{value / 2**20:.0f}" for value in (planned, took)]
            rows.append([name, *sizes, f"{planned / took:.2f}"])
            print("; ".join(rows[-1]), file=sys.stderr)
    print(timing.table(["trial", "plan, MiB", "worker, MiB", "plan to worker"], rows))
    print(f"target: within {MEMORY:.0%}\n")


def _recorded_memory(folder: Path) -> int:
    from tune_lt.store import Store

    (record,) = Store(common.store_uri(folder)).cells("around")
    return int(record.tags["memory"])


def growth(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        held = common.in_process(_held, Path(folder), arguments.epochs)
    tenth = arguments.epochs // 10
    rows = [[str(epoch), f"{size / 2**20:.1f}", f"{(size - held[tenth]) / 2**20:+.1f}"] for epoch, size in held.items()]
    print(timing.table(["after epoch", "held, MiB", f"since epoch {tenth}, MiB"], rows))


def _held(folder: Path, epochs: int) -> dict[int, int]:
    """Epoch -> bytes that the process holds (RSS), every tenth of the way."""
    import torch

    from tune_lt import training
    from tune_lt.study import reader

    torch.set_num_threads(1)
    text = commands.STUDY.format(
        data="digits, imbalance: 1, largest: 5", model="resnet8", batch=16, augment=commands.SMALL, epochs=1, seeds=[0]
    )
    study = reader.parse(text, folder)
    cell = reader.cell(study.base() | {"recipe": study.recipe}, data_seed=0, init_seed=0)
    cell = replace(cell, recipe=replace(cell.recipe, epochs=epochs))
    held, page = {}, os.sysconf("SC_PAGE_SIZE")
    for result in training.run_epochs(cell, device="cpu", save_to=folder / "state.pt", save_seconds=0.5):
        if result.epoch % (epochs // 10) == 0:
            held[result.epoch] = int(Path("/proc/self/statm").read_text().split()[1]) * page
    return held
