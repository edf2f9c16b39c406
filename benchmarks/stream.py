"""Does training on images that stay on disk wait for them? Steps on streamed batches against steps on one batch.

    python benchmarks/stream.py                   # on the CPU: about 4 minutes on 2 cores
    python benchmarks/stream.py --device cuda --model resnet50 --size 224 --batch 256 --images 25600 --loaders 0 4 8 16

JPEGs of 256 pixels, made here, as `image_folder` with `stream: true` reads them: decoded, a random part cut out,
scaled to ``--size``, mirrored; then forward, cross-entropy, backward, SGD. The other side does the same steps on one
batch that never changes. The sides take turns, an epoch at a time, after an epoch that does not count; loaders stay
alive from one epoch to the next. Waiting is the time that the training loop spends in asking for a batch; the first of
an epoch is on its own, because nothing is read ahead of it.

On a CPU, loaders and the step compete for the cores: with ``--threads`` less than the cores there is one for loaders.
Without a loader the training process reads, and all of that is waiting.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from lib import one_step, pictures, timing

from tune_lt import data, losses
from tune_lt.config import Augment
from tune_lt.training.step import Step

PIXELS = 256
CONSTANT = "one batch"


class Streamed:
    """Epochs on images from disk; the seconds that each batch was waited for."""

    def __init__(self, batches: data.StreamedBatches, train: Step) -> None:
        self.batches, self.train = batches, train
        self.first: list[float] = []  # of each epoch
        self.others: list[float] = []  # sums over the epochs
        self._epoch = 0

    def epoch(self) -> None:
        self._epoch += 1
        found, waits = self.batches.epoch(self._epoch), []
        for _ in self.batches.sizes:
            began = time.perf_counter()
            x, y = next(found)
            waits.append(time.perf_counter() - began)
            self.train(x, y, len(y))
        assert next(found, None) is None  # to its end: the loaders of an epoch that is broken off end too
        self.first.append(waits[0])
        self.others.append(sum(waits[1:]))


def main() -> None:
    parser = timing.parser(__doc__)
    parser.add_argument("--model", choices=["resnet18", "resnet50"], default="resnet18")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--loaders", type=int, nargs="+", default=[0, 1, 2])
    parser.set_defaults(repetitions=5, threads=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(timing.heading(options.device, options.threads))
    loss, device = losses.build("softmax", class_counts=[1] * pictures.CLASSES), torch.device(options.device)
    network = {"name": "torchvision", "architecture": options.model}
    train = one_step.product_step(network, loss.to(device), pictures.CLASSES, options.device, recorded=False)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        count = -(-options.images * 4 // 3 // pictures.CLASSES) * pictures.CLASSES  # some are sealed as the test
        pictures.folder(root, count=count, side=PIXELS)
        dataset = data.build("image_folder", root=str(root), size=options.size, stream=True)
        assert isinstance(dataset.train_images, data.ImageFiles)
        streams = {
            count: Streamed(
                data.StreamedBatches(
                    dataset.train_images, dataset.train_labels, torch.arange(options.images),
                    batch_size=options.batch, mean=dataset.mean, std=dataset.std, augment=Augment(scale=(0.2, 1.0)),
                    seed=0, device=device, loaders=count,
                ),
                train,
            )
            for count in options.loaders
        }  # fmt: skip
        steps = len(next(iter(streams.values())).batches)
        x, y = next(data.StreamedBatches.epoch(streams[options.loaders[0]].batches, 0))

        def constant() -> None:
            for _ in range(steps):
                train(x, y, len(y))

        sides: dict[str, Callable[[], object]] = {CONSTANT: constant}
        sides |= {f"{count} loaders": stream.epoch for count, stream in streams.items()}
        times = timing.interleaved(sides, options.repetitions, device)
    rows = [[CONSTANT, timing.spread([1000 * value / steps for value in times[CONSTANT]], 1), "", "", ""]]
    for count, stream in streams.items():
        mine, first, others = times[f"{count} loaders"], stream.first[1:], stream.others[1:]
        later = [rest / (whole - one) for rest, whole, one in zip(others, mine, first, strict=True)]
        rows.append(
            [
                f"{count} loaders",
                timing.spread([1000 * (whole - one) / steps for whole, one in zip(mine, first, strict=True)], 1),
                timing.spread([(a - b) / c for a, b, c in zip(mine, first, times[CONSTANT], strict=True)]),
                timing.spread([100 * value for value in later], 1),
                f"{1000 * statistics.median(first):.0f}",
            ]
        )
    header = ["batches from", "ms a step", "to one batch", "% of it waiting", "first of an epoch: ms of waiting"]
    print(f"{options.model}, {steps} steps of {options.batch} images, {options.size} of {PIXELS} pixels\n")
    print(timing.table(header, rows))


if __name__ == "__main__":
    main()
