"""Everything that is to be measured on a GPU, in one command. Needs torch, torchvision, Pillow, numpy, scipy and
annotated-types. A part that fails is named and the others go on; what has been printed is not lost.

    python benchmarks/gpu.py                        # all parts
    python benchmarks/gpu.py --part steps --part packed
    python benchmarks/gpu.py --device cpu --images 64 --epochs 1 --steps 1     # that it runs

- steps: formats, precisions, graphs and torch.compile, for one step of ResNet-32 with GHM-CWAP at batch 128
- algorithms: cuDNN's choice against the quickest that it finds by trying
- trial: whole epochs against the bare step and the public loop (`step.py`)
- overhead: a step with GHM-CWAP beyond one with cross-entropy, both recorded, in turns
- packed: one training of 200 epochs on CIFAR-10-LT's 12,406 images, and several at once on the GPU
- roofline: what the step needs of the device's arithmetic and memory, both measured here, and what bounds it
- profile: the kernels of ten steps that take longest, recorded and plain
- losses, models, streams: `losses.py`, `many_models.py`, `stream.py`

`tests/training/test_cuda.py` has that a recorded step gives what a plain one gives.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lib import one_step, timing
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tune_lt import training
from tune_lt.config import CellConfig, Recipe
from tune_lt.training import loop
from tune_lt.training.step import WARM_UP, RecordedStep, Step

HERE = Path(__file__).parent
CIFAR_LT, CIFAR_EPOCHS = 12_406, 200
PROFILED = 10  # steps
PATIENCE = 120.0  # seconds until a process has trained its first epoch, and for each epoch after it


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
        dataset = one_step.random_images(10 * one_step.BATCH)
        noise = {"name": "noise", "imbalance": 20.0}  # 10 classes: 4 batches, the last one short
        cell = CellConfig(noise, {"name": model}, {"name": loss}, Recipe(**recipe))
        self.run = loop.Training(cell, dataset, training.pick_device(device))
        if not channels_last:
            self.run.model.to(memory_format=torch.contiguous_format)
        network: nn.Module = torch.compile(self.run.model) if compiled else self.run.model  # type: ignore[assignment]
        self.run._lr_to(cell.recipe.optimizer.lr)
        self.run.model.train()
        plain = Step(network, self.run.loss, self.run.optimizer, cell.recipe.clip_norm, self.run.place)
        self.step = RecordedStep(plain, one_step.BATCH) if recorded else plain
        self.batches = list(self.run.train.epoch(1))
        self.x, self.y = self.batches[0]

    def __call__(self, steps: int) -> None:
        for _ in range(steps):
            self.step(self.x, self.y, len(self.y))

    def warm_up(self) -> None:
        """Its first step; of a recorded one as many as it takes until it is replayed."""
        self(WARM_UP + 2 if isinstance(self.step, RecordedStep) else 1)


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
        trainers[name] = Trainer(options.device, model=options.network, **way)
        trainers[name].warm_up()
        timing.wait(options.device)
        if way.get("recorded") and trainers[name].step._graph is None:
            raise RuntimeError(f"{name}: not recorded")
        started[name] = time.perf_counter() - began
    sides: dict[str, Callable[[], object]] = {
        name: partial(trainer, options.steps) for name, trainer in trainers.items()
    }
    if cuda:
        flags: dict[str, dict[str, bool]] = {
            "recorded, without TF32": {"allow_tf32": False},
            "recorded, any algorithm": {"deterministic": False},
        }
        for name, changed in flags.items():
            trainer = Trainer(options.device, recorded=True, model=options.network)
            with torch.backends.cudnn.flags(**({"deterministic": True, "allow_tf32": True} | changed)):
                trainer.warm_up()  # recorded so
            sides[name] = partial(trainer, options.steps)
    times = timing.interleaved(sides, options.repetitions, options.device)
    rows = []
    for name, seconds in times.items():
        faster = [1 / ratio for ratio in timing.ratios(times, name, "plain")]
        milliseconds = timing.spread([1000 * value / options.steps for value in seconds])
        rows.append([name, milliseconds, timing.spread(faster), f"{started.get(name, 0):.1f}"])
    return timing.table(["step", "ms", "faster than plain by", "until it runs, s"], rows)


def algorithms(options: Any) -> str:
    """A recorded step with the algorithms that cuDNN takes, and with the quickest of those it tried.

    Each in a process of its own, because cuDNN remembers what it took for a convolution.
    """
    rows = []
    for name, tried in (("taken", False), ("tried", True)):
        context = torch.multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_milliseconds, args=(there, options, tried))
        process.start()
        there.close()
        try:
            rows.append([name, timing.spread(here.recv())])
        finally:
            process.kill()
            process.join()
    return timing.table(["algorithms", "ms a step"], rows)


def _milliseconds(connection: Any, options: Any, tried: bool) -> None:
    torch.set_num_threads(options.threads)
    trainer = Trainer(options.device, recorded=options.device != "cpu", model=options.network)
    torch.backends.cudnn.benchmark = tried
    trainer.warm_up()
    call = partial(trainer, options.steps)
    seconds = [timing.timed(call, options.device) for _ in range(options.repetitions)]
    connection.send([1000 * value / options.steps for value in seconds])


def trial(options: Any) -> str:
    """Whole epochs; on a GPU against the recorded bare step as well, which is the one to come near to."""
    times_of = one_step.sides(options.images, options.device, [4, 8] if options.device != "cpu" else [2])
    if options.device != "cpu":
        bare = Trainer(options.device, loss="softmax", recorded=True)
        times_of["bare, recorded"] = lambda: bare(len(one_step.batches(options.images)))
    return one_step.compare(times_of, options.images, options.device, options.repetitions)


def overhead(options: Any) -> str:
    """GHM-CWAP's step against cross-entropy's."""
    recorded = options.device != "cpu"
    how: dict[str, Any] = {"recorded": recorded, "model": options.network}
    trainers = {name: Trainer(options.device, loss=name, **how) for name in ("softmax", "ghm_cwap")}
    for trainer in trainers.values():
        trainer.warm_up()
    sides = {name: partial(trainer, options.steps) for name, trainer in trainers.items()}
    times = timing.interleaved(sides, options.repetitions, options.device)
    milliseconds = [timing.spread([1000 * value / options.steps for value in times[name]], 3) for name in trainers]
    excess = timing.excess(timing.ratios(times, "ghm_cwap", "softmax"))
    header = [f"step of {options.network}", "cross-entropy, ms", "GHM-CWAP, ms", "GHM-CWAP takes longer by (quartiles)"]
    return timing.table(header, [["recorded" if recorded else "plain", *milliseconds, excess]])


def packed(options: Any) -> str:
    """Trials at once on one device; a trial's time is that of ``--epochs`` epochs times 200 over them."""
    rows: list[list[str]] = []
    paces: list[dict[str, float]] = []
    with Crew(max(options.packed), options.device, options.images) as crew:
        crew.wait()
        for count in options.packed:
            found = crew.train(count, options.epochs)
            seconds = max(value for value, _ in found) / options.epochs
            pace = count * options.images / seconds
            paces.append({"at_once": count, "images_per_second": pace})
            if options.json:  # after each, so that a later one that fails costs none of them
                options.json.write_text(json.dumps(paces))
            hours = seconds * CIFAR_EPOCHS * CIFAR_LT / options.images / 3600
            memory = max(value for _, value in found) / 2**20
            row = [f"{pace:,.0f}", f"{pace / paces[0]['images_per_second']:.2f}", f"{3600 * hours:.0f}"]
            rows.append([str(count), *row, f"{count / hours:.0f}", f"{memory:.0f}"])
    header = [
        "trials at once",
        "images/s in all",
        "times the first line",
        "s a trial",
        "trials an hour",
        "MiB a trial, torch's",
    ]
    return timing.table(header, rows)


class Crew:
    """Processes that have each trained an epoch; as many of them as are asked train on at once, the others wait.

    A process that waits has nothing for the GPU to do, and so takes no time from those that train.
    """

    def __init__(self, count: int, device: str, images: int) -> None:
        context = torch.multiprocessing.get_context("spawn")
        self.connections, self.processes = [], []
        for _ in range(count):
            here, there = context.Pipe()
            process = context.Process(target=_one_of, args=(there, device, images), daemon=True)
            process.start()
            there.close()  # so that the death of the process ends what is received from it
            self.connections.append(here)
            self.processes.append(process)

    def __enter__(self) -> Crew:
        return self

    def wait(self) -> None:
        """Until every process has trained its first epoch."""
        for number in range(len(self.processes)):
            self._heard(number, PATIENCE)

    def train(self, count: int, epochs: int) -> list[tuple[float, int]]:
        """Seconds and the most bytes of tensors of each of ``count`` processes, for so many epochs."""
        for connection in self.connections[:count]:
            connection.send(epochs)
        return [self._heard(number, PATIENCE * epochs) for number in range(count)]

    def _heard(self, number: int, seconds: float) -> Any:
        connection, process = self.connections[number], self.processes[number]
        if not connection.poll(seconds):
            raise RuntimeError(f"process {number} has said nothing for {seconds:.0f} s")
        try:
            return connection.recv()
        except EOFError:
            process.join(10)
            raise RuntimeError(f"process {number} died; exit code {process.exitcode}") from None

    def __exit__(self, *_: object) -> None:
        """Each ends by itself once nothing can be sent to it: MPS does not take well to clients that are killed."""
        for connection in self.connections:
            connection.close()
        until = time.monotonic() + 10
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
            process.kill()
            process.join()


def _one_of(connection: Any, device: str, images: int) -> None:
    """A process of `Crew`."""
    torch.set_num_threads(1)
    trained = one_step.Product(one_step.random_images(images), "ghm_cwap", device)
    trained.epoch()
    connection.send("ready")
    while True:
        try:
            epochs = connection.recv()
        except EOFError:
            return
        seconds = timing.timed(partial(_train, trained, epochs), device)
        connection.send((seconds, torch.cuda.max_memory_allocated() if device != "cpu" else 0))


def _train(trained: one_step.Product, epochs: int) -> None:
    for _ in range(epochs):
        trained.epoch()


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


def profile(options: Any) -> str:
    """Where the time of ten steps goes, by what the device does."""
    cuda = options.device != "cpu"
    activity, tables = torch.profiler.ProfilerActivity, []
    for recorded in (True, False) if cuda else (False,):
        trainer = Trainer(options.device, recorded=recorded, model=options.network)
        trainer.warm_up()
        with torch.profiler.profile(activities=[activity.CPU, *([activity.CUDA] if cuda else [])]) as profiler:
            seconds = timing.timed(partial(trainer, PROFILED), options.device)
        key = "self_device_time_total" if cuda else "self_cpu_time_total"
        events = profiler.key_averages()
        on_device = torch.autograd.DeviceType.CUDA
        kernels = [one for one in events if not cuda or (one.device_type == on_device and not one.is_user_annotation)]
        busy = sum(getattr(event, key) for event in kernels)
        longest = sorted(kernels, key=lambda event: getattr(event, key), reverse=True)[:15]
        rows = [
            [event.key[:90].replace("|", "/"), f"{event.count / PROFILED:.1f}", f"{getattr(event, key) / PROFILED:.0f}",
             f"{100 * getattr(event, key) / max(busy, 1e-9):.1f}"]
            for event in longest
        ]  # fmt: skip
        name = "recorded" if recorded else "plain"
        tables.append(
            f"{name}: {1000 * seconds / PROFILED:.2f} ms a step while profiled, of which the device works "
            f"{busy / 1000 / PROFILED:.2f} ms, {sum(event.count for event in kernels) / PROFILED:.0f} kernels.\n\n"
            + timing.table([f"{name}: kernel", "a step", "µs a step", "% of the work"], rows)
        )
    return "\n".join(tables)


def script(name: str, *arguments: str) -> Callable[[Any], str]:
    """Another benchmark as a part of this one; what it prints appears at once."""

    def run(options: Any) -> str:
        command = [sys.executable, str(HERE / f"{name}.py"), "--device", options.device, *arguments]
        subprocess.run(command, check=True)
        return ""

    return run


PARTS: dict[str, Callable[[Any], str]] = {
    "steps": steps,
    "trial": trial,
    "algorithms": algorithms,
    "overhead": overhead,
    "packed": packed,
    "roofline": roofline,
    "profile": profile,
    "losses": script("losses"),
    "models": script("many_models"),
    "streams": script("stream"),
}


def main() -> None:
    parser = timing.parser(__doc__)
    parser.add_argument("--part", action="append", choices=PARTS, help="leave out for all")
    parser.add_argument("--network", default="resnet32", help="of steps, overhead and profile")
    parser.add_argument("--images", type=int, default=CIFAR_LT)
    parser.add_argument("--steps", type=int, default=30, help="of one timed call")
    parser.add_argument("--epochs", type=int, default=20, help="timed, of the packed trials")
    parser.add_argument("--packed", type=int, nargs="*", default=[1, 2, 4, 8], help="trials at once")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the packed trials' images/s go as well")
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
