"""K networks of one configuration and different seeds, trained at once as one, against packed processes and one by one.

    python benchmarks/many_models.py                     # on the CPU: some minutes on 2 cores
    python benchmarks/many_models.py --device cuda

Sides; in all of them every member has its own weights, its own batches, cross-entropy and SGD with momentum:

- vmap: `torch.func.stack_module_state`, and vmap of the gradient of one member's loss;
- grouped: one network of K times the channels whose convolutions have K groups and whose classifier is a bmm;
- processes: K processes on the device at the same time, on the CPU with ``--threads`` / K threads each, at least one;
- one by one: K networks in one process, in the product's channels-last memory.

On CUDA the steps of every side are recorded as graphs, as the product's are.

Before the clock starts, 20 steps of each member in vmap and grouped must give a lone run's losses, on 8 x 8 images: in
float64 to 1e-6, else the script fails. In float32 a unit whose input is within rounding of zero may be on or off, so
that beside the largest difference that of two lone runs in different memory layouts is printed.

Memory: what is held from step to step (weights, momentum, running statistics) and the peak of a step beyond that, of
tensors alone; of the processes also what they take in all on the CPU.
"""

from __future__ import annotations

import copy
import multiprocessing
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from lib import timing
from lib.grouped import side_by_side
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn import functional as F

from tune_lt import models, training

CLASSES, CHECKED_STEPS, CHECKED_BATCH, CHECKED_SIDE, SAME = 10, 20, 4, 8, 1e-6
LR = 1e-3  # small, so that rounding does not grow from step to step
MIB = 2**20


@dataclass(frozen=True)
class Case:
    """A network and its images; on the CPU K batches must fit in memory, so that they are smaller there."""

    network: str
    channels: int
    side: int
    batch: dict[str, int]
    more_steps: int  # how many times as many steps are timed: a single one is too short

    def members(self, count: int) -> list[nn.Module]:
        """The networks of seeds 0, 1, ..."""
        made = []
        for seed in range(count):
            torch.manual_seed(seed)
            made.append(models.build(self.network, classes=CLASSES, channels=self.channels))
        return made

    def batches(self, count: int, size: int, seed: int = 0, side: int | None = None) -> tuple[Tensor, Tensor]:
        """A batch for each member: images (K, B, C, H, W) and labels (K, B)."""
        generator, side = torch.Generator().manual_seed(seed), side or self.side
        images = torch.randn(count, size, self.channels, side, side, generator=generator)
        return images, torch.randint(0, CLASSES, (count, size), generator=generator)


CASES = {
    "resnet8": Case("resnet8", 1, 8, {"cpu": 128, "cuda": 128}, 10),
    "resnet32": Case("resnet32", 3, 32, {"cpu": 32, "cuda": 128}, 1),
}


def sgd(parameters: Iterable[Tensor]) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=LR, momentum=0.9, weight_decay=2e-4)


class OneByOne:
    """Each member for itself."""

    def __init__(self, members: Sequence[nn.Module], layout: torch.memory_format = torch.channels_last) -> None:
        self.members, self.layout = [member.to(memory_format=layout) for member in members], layout
        self.optimizers = [sgd(member.parameters()) for member in self.members]

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """A step of each member; their losses (K,)."""
        losses = []
        for member, optimizer, x, y in zip(self.members, self.optimizers, images, labels, strict=True):
            loss = F.cross_entropy(member(x.contiguous(memory_format=self.layout)), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
        return torch.stack(losses)

    def state(self) -> list[Tensor]:
        return [tensor for member in self.members for tensor in member.state_dict().values()]


class Vmap:
    """Stacked weights, and one member's step mapped over them."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        parameters, self.buffers = stack_module_state(list(members))
        self.parameters = {name: value.detach() for name, value in parameters.items()}
        skeleton = copy.deepcopy(members[0]).to("meta")

        def loss(parameters: Any, buffers: Any, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(functional_call(skeleton, (parameters, buffers), (x,)), y)

        self.gradients = vmap(grad_and_value(loss))
        self.optimizer = sgd(self.parameters.values())

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        gradients, losses = self.gradients(self.parameters, self.buffers, images, labels)
        for name, value in self.parameters.items():
            value.grad = gradients[name]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return losses

    def state(self) -> list[Tensor]:
        return [*self.parameters.values(), *self.buffers.values()]


class Grouped:
    """One network of all members' channels side by side."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        self.network = side_by_side(members).to(next(members[0].parameters()))
        self.optimizer = sgd(self.network.parameters())

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        logits = self.network(images.transpose(0, 1).flatten(1, 2))  # (B, K * C, H, W) -> (K, B, classes)
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape).mean(1)
        losses.sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return losses.detach()

    def state(self) -> list[Tensor]:
        return list(self.network.state_dict().values())


SIDES: dict[str, Any] = {"vmap": Vmap, "grouped": Grouped, "one by one": OneByOne}


class Processes:
    """K processes, each with its member and its batch, that start a number of steps at a word."""

    def __init__(self, case: Case, count: int, batch: int, device: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connections, self.workers = [], []
        for seed in range(count):
            here, there = context.Pipe()
            own = max(1, threads // count)
            worker = context.Process(target=work, args=(there, case, seed, batch, device, own), daemon=True)
            worker.start()
            self.connections.append(here)
            self.workers.append(worker)

    def ask(self, steps: int) -> list[int]:
        """So many steps in all processes at once; the bytes of a step's tensors in each."""
        for connection in self.connections:
            connection.send(steps)
        return [connection.recv() for connection in self.connections]

    def memory(self) -> float:
        """MiB that the processes hold, libraries included; shared pages count once. NaN where it is not known."""
        try:
            rolls = [Path(f"/proc/{worker.pid}/smaps_rollup").read_text().splitlines() for worker in self.workers]
        except OSError:
            return float("nan")
        return sum(int(line.split()[1]) for roll in rolls for line in roll if line.startswith("Pss:")) / 1024

    def end(self) -> None:
        for connection, worker in zip(self.connections, self.workers, strict=True):
            connection.send(None)
            worker.join()


def work(connection: Connection, case: Case, seed: int, batch: int, device: str, threads: int) -> None:
    """A process of `Processes`."""
    torch.set_num_threads(threads)
    training.pick_device(device)
    side = OneByOne([case.members(seed + 1)[seed].to(device)])
    images, labels = (tensor.to(device) for tensor in case.batches(1, batch, seed))
    memory = measured(side, images, labels, device)
    step = timing.recorded(lambda: side.step(images, labels), device)
    while (steps := connection.recv()) is not None:
        for _ in range(steps):
            step()
        timing.wait(device)
        connection.send(memory)


def measured(side: Any, images: Tensor, labels: Tensor, device: str) -> int:
    """Bytes: held from step to step, momentum included, and the peak of a step."""
    side.step(images, labels)
    state: list[Tensor] = side.state()
    held = sum(tensor.nbytes * (1 + tensor.is_floating_point()) for tensor in state)
    return held + timing.peak_memory(lambda: side.step(images, labels), device)


def apart(case: Case, count: int, device: str, dtype: torch.dtype) -> tuple[float, float]:
    """The largest difference of a loss in 20 steps of each member from a lone run's, and that of two lone runs.

    The second lone run keeps its tensors in another order, and so rounds differently.
    """
    found = {}
    for name, make in {**SIDES, "again": partial(OneByOne, layout=torch.contiguous_format)}.items():
        side = make([member.to(device, dtype) for member in case.members(count)])
        steps = [case.batches(count, CHECKED_BATCH, seed, CHECKED_SIDE) for seed in range(CHECKED_STEPS)]
        found[name] = torch.stack([side.step(x.to(device, dtype), y.to(device)) for x, y in steps])
    off = {name: float((losses - found["one by one"]).abs().max()) for name, losses in found.items()}
    return max(off["vmap"], off["grouped"]), off["again"]


def compare(case: Case, count: int, options: Any) -> list[list[str]]:
    """The rows of K members."""
    device = options.device
    exact, _ = apart(case, count, device, torch.float64)
    differences = " / ".join(f"{value:.0e}" for value in (exact, *apart(case, count, device, torch.float32)))
    if not exact < SAME:
        raise SystemExit(f"{case.network}, K = {count}: losses differ from lone runs' by {exact:.1e} in float64")
    batch = options.batch or case.batch[torch.device(device).type]
    steps = options.steps * case.more_steps
    images, labels = (tensor.to(device) for tensor in case.batches(count, batch))
    made = {name: make([member.to(device) for member in case.members(count)]) for name, make in SIDES.items()}
    processes = Processes(case, count, batch, device, options.threads)
    memory = {"processes": sum(processes.ask(0))} | {
        name: measured(side, images, labels, device) for name, side in made.items()
    }

    def steps_of(side: Any) -> Any:
        step = timing.recorded(lambda: side.step(images, labels), device)
        return lambda: [step() for _ in range(steps)]

    timed = {name: steps_of(side) for name, side in made.items()} | {"processes": lambda: processes.ask(steps)}
    times = timing.interleaved(timed, options.repetitions, device)
    note = f"{processes.memory():,.0f}"
    processes.end()
    rows = []
    for name in ("vmap", "grouped", "processes", "one by one"):
        pace = [count * batch * steps / seconds for seconds in times[name]]
        faster = [timing.ratios(times, other, name) for other in ("processes", "one by one")]
        own = differences if name in ("vmap", "grouped") else "—"
        rows.append([f"{case.network}, {batch} images of {case.channels} x {case.side} x {case.side}", str(count), name,
                     f"{statistics.median(pace):,.0f}", *map(timing.spread, faster), f"{memory[name] / MIB:,.0f}",
                     note if name == "processes" else "—", own])  # fmt: skip
    return rows


def main() -> None:
    parser = timing.parser(__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--members", type=int, nargs="+", default=[2, 5, 10], help="K")
    parser.add_argument("--batch", type=int, help="images of a member's batch")
    parser.add_argument("--steps", type=int, default=2, help="steps of one measurement; ten times as many of ResNet-8")
    options = parser.parse_args()
    training.pick_device(options.device)
    torch.set_num_threads(options.threads)
    print(timing.heading(options.device, options.threads))
    print("Images of all members together; ratios: median (least to most).")
    print("Differences: in float64 / float32 / float32 of two lone runs.\n")
    header = ["network", "K", "side", "images/s", "times processes' pace", "times the pace one by one", "tensors, MiB",
              "processes in all, MiB", "largest difference"]  # fmt: skip
    for name in options.networks:
        for count in options.members:
            print(timing.table(header, compare(CASES[name], count, options)), flush=True)


if __name__ == "__main__":
    main()
