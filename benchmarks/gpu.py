"""Everything that is to be measured on a GPU, in one command. Needs torch, torchvision, Pillow, numpy, scipy and
annotated-types. A part that fails is named and the others go on; what has been printed is not lost.

    python benchmarks/gpu.py                        # all parts
    python benchmarks/gpu.py --part steps --part packed
    python benchmarks/gpu.py --device cpu --images 64 --epochs 1 --steps 1     # that it runs

- check: a recorded step (CUDA graph) gives what the plain one gives, 20 steps, loss by loss
- steps: formats, precisions, graphs and torch.compile, for one step of ResNet-32 with GHM-CWAP at batch 128
- trial: whole epochs against the bare step and the public loop (`step.py`)
- packed: one training of 200 epochs on CIFAR-10-LT's 12,406 images, and several at once on the GPU
- roofline: what the step needs of the device's arithmetic and memory, both measured here, and what bounds it
- losses, models, streams: `losses.py`, `many_models.py`, `stream.py`
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import step
import timing
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tune_lt import losses, training
from tune_lt.config import CellConfig, Optimizer, Recipe
from tune_lt.steps import WARM_UP, RecordedStep, Step

HERE = Path(__file__).parent
CIFAR_LT, CIFAR_EPOCHS = 12_406, 200
PATIENCE = 120.0  # seconds until all trials that are to run at once have begun
TOLERANCE = 1e-3  # relative, between losses of a recorded and a plain step: the order of additions may differ


class Trainer:
    """One network and its step, as `tune_lt.training` builds them, on long-tailed noise; ``recipe`` as in `Recipe`."""

    def __init__(
        self,
        device: str,
        *,
        loss: str = "ghm_cwap",
        recorded: bool = False,
        channels_last: bool = True,
        compiled: bool = False,
        model: str = "resnet32",
        **recipe: Any,
    ) -> None:
        dataset = step.random_images(10 * step.BATCH)
        noise = {"name": "noise", "imbalance": 20.0}  # 10 classes: 4 batches, the last one short
        cell = CellConfig(noise, {"name": model}, {"name": loss}, Recipe(**recipe))
        self.run = training._Run(cell, dataset, training.pick_device(device))
        if not channels_last:
            self.run.model.to(memory_format=torch.contiguous_format)
        network: nn.Module = torch.compile(self.run.model) if compiled else self.run.model  # type: ignore[assignment]
        self.run._lr_to(cell.recipe.optimizer.lr)
        self.run.model.train()
        plain = Step(network, self.run.loss, self.run.optimizer, cell.recipe.clip_norm, self.run.place)
        self.step = RecordedStep(plain, step.BATCH) if recorded else plain
        self.batches = list(self.run.train.epoch(1))
        self.x, self.y = self.batches[0]

    def __call__(self, steps: int) -> None:
        for _ in range(steps):
            self.step(self.x, self.y, len(self.y))

    def warm_up(self) -> None:
        """Its first step; of a recorded one as many as it takes until it is replayed."""
        self(WARM_UP + 2 if isinstance(self.step, RecordedStep) else 1)

    def values(self, steps: int) -> list[float]:
        """The loss of each step, on one batch after the other; epochs end, and the learning rate falls."""
        torch.manual_seed(0)  # equalization draws
        found = []
        for number in range(steps):
            x, y = self.batches[number % len(self.batches)]
            self.step.total.zero_()
            self.step(x, y, len(y))
            found.append(float(self.step.total) / len(y))
            if y is self.batches[-1][1]:
                self.run.loss.end_epoch()
                self.run._lr_to(self.run.cell.recipe.optimizer.lr / (1 + number))
        return found


def check(options: Any) -> str:
    """Recorded against plain, for every loss of the product, and for other recipes."""
    if options.device == "cpu":
        return "A CPU records no steps.\n"
    cases: dict[str, dict[str, Any]] = {loss: {"loss": loss} for loss in sorted(losses.OWN)}
    cases["AdamW, clipped"] = {"optimizer": Optimizer(name="adamw", lr=0.001), "clip_norm": 2.0}
    cases["bfloat16"] = {"precision": "bfloat16"}
    rows = []
    for name, case in cases.items():
        plain, recorded = (Trainer(options.device, recorded=how, **case) for how in (False, True))
        pairs = list(zip(plain.values(20), recorded.values(20), strict=True))
        off = max(abs(one - other) / abs(one) for one, other in pairs)
        is_graph = isinstance(recorded.step, RecordedStep) and recorded.step._graph is not None
        rows.append([name, f"{off:.1e}", "yes" if off < TOLERANCE else "NO", "yes" if is_graph else "NO"])
    return timing.table(["loss or recipe", "largest relative difference", "equal", "recorded"], rows)


def steps(options: Any) -> str:
    """One step in many ways."""
    cuda = options.device != "cpu"
    ways: dict[str, dict[str, Any]] = {
        "plain": {},
        "plain, channels first": {"channels_last": False},
        "plain, bfloat16": {"precision": "bfloat16"},
    }
    if cuda:
        ways |= {
            "recorded": {"recorded": True},
            "recorded, channels first": {"recorded": True, "channels_last": False},
            "recorded, bfloat16": {"recorded": True, "precision": "bfloat16"},
        }
    if options.compile:
        ways |= {"compiled": {"compiled": True}}
        ways |= {"compiled, recorded": {"compiled": True, "recorded": True}} if cuda else {}
    trainers, started = {}, {}
    for name, way in ways.items():
        began = time.perf_counter()
        trainers[name] = Trainer(options.device, **way)
        trainers[name].warm_up()
        timing.wait(options.device)
        if way.get("recorded") and trainers[name].step._graph is None:
            raise RuntimeError(f"{name}: not recorded")
        started[name] = time.perf_counter() - began
    sides: dict[str, Callable[[], object]] = {
        name: partial(trainer, options.steps) for name, trainer in trainers.items()
    }
    if cuda:
        sides["recorded, without TF32"] = _without_tf32(Trainer(options.device, recorded=True), options.steps)
    times = timing.interleaved(sides, options.repetitions, options.device)
    rows = []
    for name, seconds in times.items():
        faster = [1 / ratio for ratio in timing.ratios(times, name, "plain")]
        milliseconds = timing.spread([1000 * value / options.steps for value in seconds])
        rows.append([name, milliseconds, timing.spread(faster), f"{started.get(name, 0):.1f}"])
    return timing.table(["step", "ms", "faster than plain by", "until it runs, s"], rows)


def _without_tf32(trainer: Trainer, steps: int) -> Callable[[], object]:
    torch.backends.cudnn.allow_tf32 = False
    trainer.warm_up()  # recorded so
    torch.backends.cudnn.allow_tf32 = True
    return partial(trainer, steps)


def trial(options: Any) -> str:
    """Whole epochs; on a GPU against the recorded bare step as well, which is the one to come near to."""
    times_of = step.sides(options.images, options.device, [4, 8] if options.device != "cpu" else [2])
    if options.device != "cpu":
        bare = Trainer(options.device, loss="softmax", recorded=True)
        times_of["bare, recorded"] = lambda: bare(len(step.batches(options.images)))
    return step.compare(times_of, options.images, options.device, options.repetitions)


def packed(options: Any) -> str:
    """Trials at once on one device; a trial's time is that of ``--epochs`` epochs times 200 over them."""
    rows, alone = [], 0.0
    for count in options.packed:
        context = torch.multiprocessing.get_context("spawn")
        barrier, results = context.Barrier(count, timeout=PATIENCE), context.Queue()
        arguments = (options.device, options.images, options.epochs, barrier, results)
        processes = [context.Process(target=_one_of, args=arguments) for _ in range(count)]
        try:
            for process in processes:
                process.start()
            found = [results.get(timeout=PATIENCE + options.epochs * 60) for _ in processes]
        finally:
            for process in processes:
                process.kill()
                process.join()
        seconds = max(value for value, _ in found) / options.epochs
        pace = count * options.images / seconds
        alone = alone or pace
        hours = seconds * CIFAR_EPOCHS * CIFAR_LT / options.images / 3600
        memory = max(value for _, value in found) / 2**20
        row = [f"{pace:,.0f}", f"{pace / alone:.2f}", f"{3600 * hours:.0f}", f"{count / hours:.0f}", f"{memory:.0f}"]
        rows.append([str(count), *row])
    header = [
        "trials at once",
        "images/s in all",
        "times the first line",
        "s a trial",
        "trials an hour",
        "MiB a trial, torch's",
    ]
    return timing.table(header, rows)


def _one_of(device: str, images: int, epochs: int, barrier: Any, results: Any) -> None:
    torch.set_num_threads(1)
    trained = step.Product(step.random_images(images), "ghm_cwap", device)
    trained.epoch()
    barrier.wait()
    results.put(
        (
            timing.timed(lambda: [trained.epoch() for _ in range(epochs)], device),
            torch.cuda.max_memory_allocated() if device != "cpu" else 0,
        )
    )


def roofline(options: Any) -> str:
    """The step's needs over what this device was measured to give."""
    rows = []
    arithmetic, memory = _peak_flops(options.device), _peak_bytes(options.device)
    for name in ("resnet8", "resnet32"):
        trainer = Trainer(options.device, model=name, recorded=options.device != "cpu")
        plain = trainer.step.step if isinstance(trainer.step, RecordedStep) else trainer.step
        trainer.warm_up()
        with FlopCounterMode(display=False) as flops:
            plain(trainer.x, trainer.y, len(trainer.y))
        with timing.Traffic() as traffic:
            plain(trainer.x, trainer.y, len(trainer.y))
        call = partial(trainer, options.steps)
        timed = [timing.timed(call, options.device) / options.steps for _ in range(options.repetitions)]
        seconds, needs = statistics.median(timed), flops.get_total_flops()
        for_flops, for_bytes = needs / arithmetic, traffic.bytes / memory
        bound = "arithmetic" if for_flops > for_bytes else "memory"
        bound = bound if max(for_flops, for_bytes) > seconds / 2 else "neither: launches, latency"
        row = [f"{needs / 1e9:.1f}", f"{traffic.bytes / 1e9:.2f}", str(traffic.operations), f"{1000 * for_flops:.2f}"]
        row += [f"{1000 * for_bytes:.2f}", f"{1000 * seconds:.2f}", f"{100 * max(for_flops, for_bytes) / seconds:.0f}"]
        rows.append([name, *row, bound])
    header = ["network", "GFLOP", "GB if no operation is fused", "operations", "ms of arithmetic", "ms of memory"]
    header += ["ms measured", "% of the roof", "bound by"]
    note = f"Measured here: {arithmetic / 1e12:.2f} TFLOP/s (float32 or TF32), {memory / 1e9:.0f} GB/s.\n\n"
    return note + timing.table(header, rows)


def _peak_flops(device: str) -> float:
    size = 8192 if device != "cpu" else 1024
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True  # as convolutions have it
    x = torch.randn(size, size, device=device)
    x @ x
    seconds = min(timing.timed(lambda: x @ x, device) for _ in range(10))
    torch.backends.cuda.matmul.allow_tf32 = before
    return 2 * size**3 / seconds


def _peak_bytes(device: str) -> float:
    x = torch.zeros(2**30 if device != "cpu" else 2**27, dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    y.copy_(x)
    return 2 * x.numel() / min(timing.timed(lambda: y.copy_(x), device) for _ in range(10))


def script(name: str, *arguments: str) -> Callable[[Any], str]:
    """Another benchmark as a part of this one; what it prints appears at once."""

    def run(options: Any) -> str:
        command = [sys.executable, str(HERE / f"{name}.py"), "--device", options.device, *arguments]
        subprocess.run(command, check=True)
        return ""

    return run


PARTS: dict[str, Callable[[Any], str]] = {
    "check": check,
    "steps": steps,
    "trial": trial,
    "packed": packed,
    "roofline": roofline,
    "losses": script("losses"),
    "models": script("many_models"),
    "streams": script("stream"),
}


def main() -> None:
    parser = timing.parser(__doc__)
    parser.add_argument("--part", action="append", choices=PARTS, help="leave out for all")
    parser.add_argument("--images", type=int, default=CIFAR_LT)
    parser.add_argument("--steps", type=int, default=30, help="of one timed call")
    parser.add_argument("--epochs", type=int, default=20, help="timed, of the packed trials")
    parser.add_argument("--packed", type=int, nargs="*", default=[1, 2, 4, 8], help="trials at once")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(timing.heading(options.device, options.threads))
    failed = []
    for name in options.part or PARTS:
        print(f"### {name}\n", flush=True)
        try:
            print(PARTS[name](options), flush=True)
        except Exception:
            traceback.print_exc()
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
