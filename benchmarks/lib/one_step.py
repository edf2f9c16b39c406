"""The training steps that `step.py` and `gpu.py` compare: the product's, the bare network's, a public loop's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lib import timing
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from tune_lt import data, losses, models, training
from tune_lt.config import CellConfig, Optimizer, Recipe
from tune_lt.training import step
from tune_lt.training.step import Step

CLASSES, BATCH = 10, 128
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def random_images(images: int, classes: int = CLASSES) -> data.Dataset:
    """A balanced data set of noise: what an image shows costs nothing."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.arange(images) % classes
    names = tuple(map(str, range(classes)))
    return data.Dataset.of(pixels, labels, pixels[:classes], labels[:classes], names)


def batches(images: int) -> list[int]:
    """The sizes of an epoch's batches."""
    return [min(BATCH, images - start) for start in range(0, images, BATCH)]


class Bare:
    """The step that nobody can do without."""

    def __init__(self, images: int, device: str) -> None:
        torch.manual_seed(0)
        network = models.build("resnet32", classes=CLASSES, channels=3)
        self.network = network.to(device).to(memory_format=torch.channels_last).train()
        self.loss = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
        x, y = torch.randn(BATCH, 3, 32, 32), torch.randint(0, CLASSES, (BATCH,))
        x, y = x.to(device).to(memory_format=torch.channels_last), y.to(device)
        self.data = [(x[:size], y[:size]) for size in batches(images)]

    def epoch(self) -> None:
        for x, y in self.data:
            loss = self.loss(self.network(x), y)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()


def product_step(network: dict[str, str], loss: losses.Loss, classes: int, device: str, *, recorded: bool) -> Step:
    """The product's step of a network for three channels; ``recorded``: with the optimizer of one that is to be."""
    torch.manual_seed(0)
    model = models.build(**network, classes=classes, channels=3).to(device).to(memory_format=torch.channels_last)
    lr = torch.full((), Optimizer.lr, device=device) if recorded else None
    return Step(model, loss, step.optimizer(Optimizer(), model, lr), None, torch.device(device))


class Product:
    """Epochs as a study trains them, one at a call; an epoch's result is turned into metrics as a trial does."""

    def __init__(self, dataset: data.Dataset, loss: str, device: str, **recipe: Any) -> None:
        content = {"epochs": 10**6, "batch_size": BATCH} | recipe
        cell = CellConfig({"name": "noise"}, {"name": "resnet32"}, {"name": loss}, Recipe(**content))
        self._results: Iterator[training.EpochResult] = training.run_epochs(cell, dataset=dataset, device=device)

    def epoch(self) -> None:
        next(self._results).as_metrics()


class PublicLoop:
    """The public recipe as it works: arrays turned into PIL images and transformed one by one in loader processes.

    Every step copies its batch to the device, and reads the loss and the top-1 and top-5 accuracies back to the host
    for running means. The network is in torch's default memory format.
    """

    def __init__(self, dataset: data.Dataset, device: str, workers: int) -> None:
        torch.manual_seed(0)
        self.network = models.build("resnet32", classes=CLASSES, channels=3).to(device).train()
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
        self.loss, self.device = nn.CrossEntropyLoss().to(device), device
        self.loader = DataLoader(
            _Pictures(dataset), BATCH, shuffle=True, num_workers=workers, pin_memory=torch.cuda.is_available()
        )

    def epoch(self) -> None:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
            self._epoch()

    def _epoch(self) -> None:
        sums, seen, began = {"loss": 0.0, "top1": 0.0, "top5": 0.0, "seconds": 0.0}, 0, time.time()
        for images, labels in self.loader:
            images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
            logits = self.network(images)
            loss = self.loss(logits, labels)
            hits = logits.topk(5, dim=1).indices == labels[:, None]
            sums["loss"] += loss.item() * len(labels)
            sums["top1"] += hits[:, :1].sum().item()
            sums["top5"] += hits.sum().item()
            seen += len(labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            sums["seconds"] += time.time() - began
            began = time.time()


class _Pictures(TorchDataset[Any]):
    def __init__(self, dataset: data.Dataset) -> None:
        assert isinstance(dataset.train_images, Tensor)
        self.pixels = dataset.train_images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = dataset.train_labels.tolist()
        steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        self.transform = transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def sides(images: int, device: str, workers: list[int]) -> dict[str, Callable[[], None]]:
    """What is timed, by name."""
    dataset = random_images(images)
    loops = {f"public loop, {count} workers": PublicLoop(dataset, device, count).epoch for count in workers}
    ours = {name: Product(dataset, name, device).epoch for name in ("softmax", "ghm_cwap")}
    return {"bare": Bare(images, device).epoch, **ours, **loops}


def compare(timed: dict[str, Callable[[], None]], images: int, device: str, repetitions: int) -> str:
    """The table of `sides`."""
    times = timing.interleaved(timed, repetitions, device)
    rows = []
    for name, seconds in times.items():
        pace = [images / value for value in seconds]
        share = [100 / value for value in timing.ratios(times, name, "bare")]
        faster = [1 / value for value in timing.ratios(times, "ghm_cwap", name)]
        rows.append([name, timing.spread(pace, 0), timing.spread(share, 1), timing.spread(faster)])
    return timing.table(["side", "images/s", "% of bare", "ghm_cwap is faster by"], rows)
