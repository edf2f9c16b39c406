"""Each loss of the product against its public formula, and what GHM-CWAP's costs beside a whole training step.

    python benchmarks/losses.py                      # on the CPU: some minutes on 2 cores
    python benchmarks/losses.py --device cuda

The public formulas are in `public_losses.py`. One call is forward and backward for logits (128, C). Both sides take
turns. Before they are timed their values and gradients are compared: the script fails if they are not the same formula.
Memory: the peak of the tensors of one call, the logits excepted.

The step is the product's, of ResNet-32 on 3 x 32 x 32 images in channels-last memory: forward, loss, backward, SGD. On
CUDA it is a graph, and so are the calls whose times are compared with it. Operations are those of torch's dispatcher in
forward and backward, views excepted: on a GPU each is one kernel or a few.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lib import public_losses, timing
from lib.one_step import product_step
from torch import Tensor

from tune_lt import losses, training
from tune_lt.training.step import WARM_UP, RecordedStep, Step

IMAGES = {10: (5000, 100), 100: (500, 100), 1000: (1280, 256), 5089: (700, 500)}  # n_max, imbalance factor
SAME = 1e-3  # relative; an output on the edge of one of GHM's bins may fall to either side
TARGET = 2.0
SECONDS = 0.03  # of one measurement: a single call is too short for the clock
OPTIONS: dict[str, dict[str, Any]] = {"ghm": {"divide_by_classes": True}}  # where public code is not our default
KIB, MIB = 2**10, 2**20


def class_counts(classes: int) -> Tensor:
    """Images per class of a long tail, (C,)."""
    most, factor = IMAGES.get(classes, (500, 100))
    return (most * (1 / factor) ** (torch.arange(classes) / (classes - 1))).long()


def batch(labels: Tensor, classes: int, device: str) -> tuple[Tensor, Tensor]:
    """Logits (B, C) and targets (B,), a network's that has learned a little."""
    logits = 2 * torch.randn(len(labels), classes)
    logits[torch.arange(len(labels)), labels] += 2
    return logits.to(device), labels.to(device)


def drawn(counts: Tensor, size: int) -> Tensor:
    """Labels of a batch of a long-tailed set."""
    return torch.multinomial(counts.float(), size, replacement=True)


def calls(function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, targets: Tensor) -> Callable[[], None]:
    """One forward and backward pass."""
    leaf = logits.clone().requires_grad_()

    def call() -> None:
        torch.autograd.grad(function(leaf, targets), leaf)

    return call


def per_call(sides: Mapping[str, Callable[[], object]], repetitions: int, device: str) -> timing.Times:
    """Seconds of one call of each side; each measurement is of as many calls as take a while."""
    repeats = {}
    for name, function in sides.items():
        function()
        once = min(timing.timed(function, device) for _ in range(2))
        repeats[name] = max(1, int(SECONDS / once))

    def often(name: str) -> Callable[[], None]:
        def run() -> None:
            for _ in range(repeats[name]):
                sides[name]()

        return run

    times = timing.interleaved({name: often(name) for name in sides}, repetitions, device)
    return {name: [value / repeats[name] for value in values] for name, values in times.items()}


def operations(function: Callable[[], object]) -> int:
    with timing.Traffic() as counted:
        function()
    return counted.operations


def built(name: str, counts: Tensor, device: str) -> tuple[losses.Loss, public_losses.Formula]:
    """Both sides, after the same epoch if they change from epoch to epoch."""
    ours = losses.build(name, class_counts=counts.tolist(), **OPTIONS.get(name, {})).to(device)
    public = public_losses.FORMULAS[name](counts.float().to(device))
    if hasattr(public, "end_epoch"):
        labels = torch.arange(len(counts)).repeat_interleave(counts.clamp(max=4))
        for part in labels.split(128):
            logits, targets = batch(part, len(counts), device)
            ours(logits, targets)
            public(logits, targets)
        ours.end_epoch()
        public.end_epoch()
    return ours, public


def difference(ours: losses.Loss, public: public_losses.Formula, logits: Tensor, targets: Tensor) -> float:
    """The larger of both relative differences, of the values and of the gradients."""
    found = []
    for function in (ours, public):
        torch.manual_seed(1)  # equalization draws
        leaf = logits.clone().requires_grad_()
        value = function(leaf, targets)
        found.append((value.detach(), torch.autograd.grad(value, leaf)[0]))
    return max(float((mine - other).norm() / other.norm()) for mine, other in zip(*found, strict=True))


def against_public(name: str, counts: Tensor, options: Any) -> list[str]:
    """A row of the first table."""
    ours, public = built(name, counts, options.device)
    logits, targets = batch(drawn(counts, options.batch), len(counts), options.device)
    apart = difference(ours, public, logits, targets)
    if not apart < SAME:
        raise SystemExit(f"{name}, {len(counts)} classes: the two sides differ by {apart:.1e} of the public value")
    sides = {"ours": calls(ours, logits, targets), "public": calls(public, logits, targets)}
    times = per_call(sides, options.repetitions, options.device)
    memory = {side: timing.peak_memory(function, options.device) for side, function in sides.items()}
    return [
        name,
        *(f"{1e3 * statistics.median(times[side]):.3f}" for side in ("ours", "public")),
        timing.spread(timing.ratios(times, "public", "ours")),
        *(f"{memory[side] / KIB:,.0f}" for side in ("ours", "public")),
        f"{memory['public'] / memory['ours']:.2f}",
        f"{apart:.0e}",
    ]


class Training:
    """Steps of ResNet-32 on one batch; on CUDA recorded ones, as the product's."""

    def __init__(self, loss: losses.Loss, targets: Tensor, classes: int, device: str) -> None:
        recorded = torch.device(device).type == "cuda"
        self.plain = product_step({"name": "resnet32"}, loss, classes, device, recorded=recorded)
        self.step: Step | RecordedStep = self.plain
        images = torch.randn(len(targets), 3, 32, 32, device=device)
        self.images, self.targets = images.to(memory_format=torch.channels_last), targets
        self()  # the optimizer makes its state
        self.peak = timing.peak_memory(self, device)
        if recorded:
            self.step = RecordedStep(self.plain, len(targets))
            for _ in range(WARM_UP + 1):
                self()

    def gradients(self) -> None:
        self.plain.model.zero_grad()
        self.plain.loss(self.plain.model(self.images), self.targets).backward()

    def __call__(self) -> None:
        self.step(self.images, self.targets, len(self.targets))


def beside_a_step(counts: Tensor, options: Any) -> list[str]:
    """A row of the second table."""
    classes, device = len(counts), options.device
    pair = {name: losses.build(name, class_counts=counts.tolist()).to(device) for name in ("ghm_cwap", "softmax")}
    pair["ghm_cwap"] = built("ghm_cwap", counts, device)[0]
    logits, targets = batch(drawn(counts, options.batch), classes, device)
    alone = {name: calls(loss, logits, targets) for name, loss in pair.items()}
    steps = {name: Training(loss, targets, classes, device) for name, loss in pair.items()}
    counted = {name: operations(function) for name, function in alone.items()}

    replayed = {name: timing.recorded(function, device) for name, function in alone.items()}
    times = per_call(replayed, options.repetitions, device)
    extra = [mine - other for mine, other in zip(times["ghm_cwap"], times["softmax"], strict=True)]
    whole = timing.interleaved(steps, options.repetitions, device)
    step = statistics.median(whole["softmax"])
    end = statistics.median(per_call({"end": pair["ghm_cwap"].end_epoch}, options.repetitions, device)["end"])
    passes = -(-int(counts.sum()) // options.batch)

    held = sum(buffer.nbytes for buffer in pair["ghm_cwap"].buffers())
    more, peak = held + steps["ghm_cwap"].peak - steps["softmax"].peak, steps["softmax"].peak
    return [
        f"{classes:,}",
        timing.spread([1e3 * value for value in extra], 3),
        f"{1e3 * step:.1f}",
        f"{100 * statistics.median(extra) / step:.2f}",
        timing.excess(timing.ratios(whole, "ghm_cwap", "softmax")),
        f"{more / KIB:,.0f}",
        f"{peak / MIB:,.0f}",
        f"{100 * more / peak:.2f}",
        f"{1e3 * end:.2f}",
        f"{100 * end / (passes * step):.4f}",
        f"{counted['ghm_cwap'] - counted['softmax']} of {operations(steps['softmax'].gradients)}",
    ]


def main() -> None:
    parser = timing.parser(__doc__.split("\n")[0])
    parser.add_argument("--classes", type=int, nargs="+", default=list(IMAGES))
    parser.add_argument("--losses", nargs="+", default=list(public_losses.FORMULAS), choices=list(losses.LOSSES))
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()
    training.pick_device(options.device)  # with the product's settings
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(timing.heading(options.device, options.threads))
    for classes in options.classes:
        counts = class_counts(classes)
        print(f"Forward and backward for logits ({options.batch}, {classes:,}); medians, ratios (least to most):\n")
        header = ["loss", "ours, ms", "public, ms", "public / ours", "ours, KiB", "public, KiB", "public / ours",
                  "largest difference"]  # fmt: skip
        rows = [against_public(name, counts, options) for name in options.losses]
        print(timing.table(header, rows), flush=True)
    print(f"GHM-CWAP beyond cross-entropy, beside a step of ResNet-32 (target: at most {TARGET:g} %):\n")
    header = ["C", "extra, ms", "step, ms", "extra, % of the step", "whole step, by its own time", "extra, KiB",
              "step, MiB", "extra, % of the step", "end_epoch, ms", "% of an epoch", "extra operations"]  # fmt: skip
    rows = [beside_a_step(class_counts(classes), options) for classes in options.classes]
    print(timing.table(header, rows))


if __name__ == "__main__":
    main()
