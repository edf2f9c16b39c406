"""Training one cell: a generator of epoch results. Knows neither Ray, MLflow nor pydantic.

    for result in run_epochs(cell):
        print(result.epoch, result.train_loss, result.val)

The cell's seeds decide everything random: the data seed the sub-sample, the init seed the initial weights, the order of
the images and their augmentation. On one machine with one number of threads, equal cells give equal numbers on the CPU,
whether the training was interrupted and resumed or not.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tune_lt import data, distributed, losses, models
from tune_lt.config import RESULT_VERSION, Augment, CellConfig, fold_of, long_tail
from tune_lt.documents import ByImage, Norms
from tune_lt.errors import InputError, TrainingFailed
from tune_lt.texts import first_line
from tune_lt.training import accuracies, checkpoint, gradient_norms
from tune_lt.training.accuracies import Scores, evaluate
from tune_lt.training.classifier import Classifier, Description
from tune_lt.training.identity import canonical, content
from tune_lt.training.step import RecordedStep, Step, lr_factor, optimizer

EVALUATION_BATCH = 1024


@dataclass(frozen=True)
class EpochResult:
    """The result of one epoch. ``train_loss`` is the mean over its images; ``seconds`` were spent on training alone.

    ``val`` has the scores on held-out images, None if the cell holds none out. After the last epoch, if the sealed test
    was asked for, ``test`` has the scores on it, ``by_image`` the prediction of each of its images, and ``norms`` the
    gradient norms of the training images (None for a loss that has none). ``class_counts``: training images by class.
    """

    epoch: int
    epochs: int
    lr: float
    train_loss: float
    seconds: float
    val: Scores | None = None
    test: Scores | None = None
    class_counts: tuple[int, ...] = ()
    norms: Norms | None = None
    by_image: ByImage | None = None

    @property
    def final(self) -> bool:
        return self.epoch == self.epochs

    def as_metrics(self) -> dict[str, float]:
        """The numbers to record, by names such as ``val/top1``; groups without images are left out."""
        named = {"train/loss": self.train_loss}
        for split, scores in (("val", self.val), ("test", self.test)):
            if scores:
                named |= {f"{split}/top1": scores.top1, f"{split}/balanced": scores.balanced}
                named |= {f"{split}/{group}": value for group, value in scores.groups.items() if not math.isnan(value)}
        return named


def run_epochs(
    cell: CellConfig,
    *,
    dataset: data.Dataset | None = None,
    device: str = "auto",
    score_test: bool = False,
    save_to: Path | None = None,
    save_seconds: float = 0.0,
    identity: str = "",
    loaders: int = 0,
) -> Generator[EpochResult, bool | None, None]:
    """Train ``cell`` and yield an EpochResult after each epoch.

    ``dataset``: the cell's, if the caller has loaded it already. ``device``: ``auto``, ``cpu``, ``cuda``, ``mps`` or
    ``cuda:1``. ``score_test``: score the sealed test after the last epoch. ``loaders``: how many processes read images
    that stay on disk, 0 for this process; no result depends on it.

    With ``save_to`` the training goes on from the state in that file, if there is one (after the last epoch it only
    scores again). It writes its state there after the last epoch, and after any other unless it did so less than
    ``save_seconds`` ago. The write begins when the caller asks for the next result and runs in a thread while the next
    epoch trains; while the caller handles a result nothing is written. A caller that sends True ends the training, with
    its state saved. A state belongs to one cell, its images and ``identity``, which stands for the plugins' code.

    With several ranks (`tune_lt.distributed`) every rank must run this and take every result. Each trains on its share
    of every batch, and all get the same results: those of one process, but for rounding. Rank 0 alone reads and writes
    the state; one process, or another number of ranks, can go on from it.

    Raises InputError for a configuration or data that cannot be trained and for a state that cannot be used,
    TrainingFailed when the loss is no longer finite.
    """
    run = Training(cell, dataset or load_dataset(cell), pick_device(device), score_test, identity, loaders)
    epochs = cell.recipe.epochs
    saved = distributed.from_first(partial(checkpoint.load, save_to, run.identity)) if save_to else None
    done = run.restore(saved) if saved else 0
    if done == epochs:
        yield run.result(done)
    writer = checkpoint.Writer(save_to, run.identity) if save_to and distributed.rank() == 0 else None
    saved_at = time.monotonic()
    with _exits_are_errors(), writer or nullcontext():
        for epoch in range(done + 1, epochs + 1):
            run.train_epoch(epoch)
            if writer:
                writer.wait()  # scoring may fork processes, and the caller may remove the file or end this process
            stop = yield run.result(epoch)
            if writer and (stop or epoch == epochs or time.monotonic() - saved_at >= save_seconds):
                writer.save(run.state(epoch))
                saved_at = time.monotonic()
            if stop:
                return


@contextmanager
def _exits_are_errors() -> Iterator[None]:
    """Make an error of a plugin's sys.exit(), which would otherwise end this process as if all were well."""
    try:
        yield
    except SystemExit as stop:
        raise RuntimeError(f"a plugin called sys.exit({stop.code!r}) during the training") from None


class Training:
    """One training: its network, loss, optimizer and batches. `run_epochs` calls its methods in turn."""

    def __init__(
        self,
        cell: CellConfig,
        dataset: data.Dataset,
        place: torch.device,
        score_test: bool = False,
        identity: str = "",
        loaders: int = 0,
    ) -> None:
        cell = canonical(cell)
        split = images_of(cell, dataset)
        if split.val_index is not None and len(split.val_index) == 0:
            if max(split.split_counts) < 2:
                raise InputError("no image can be held out: every class has a single training image")
            raise InputError(f"fold {cell.fold} has no image to score: too many folds for so few images")
        self.cell, self.place, self.split = cell, place, split
        belongs = [content(cell), dataset.hashes.of(cell.fold), RESULT_VERSION, identity]
        self.identity = json.dumps(belongs, sort_keys=True)
        torch.manual_seed(cell.init_seed)
        self.model, self.loss = build(cell, dataset, split.class_counts, place)
        self.model = distributed.joined(self.model)
        self.train_loss, self.seconds = math.nan, 0.0

        def batches(
            images: Any, labels: torch.Tensor, index: torch.Tensor, augment: Augment | None = None
        ) -> data.AnyBatches:
            streamed = isinstance(images, data.ImageFiles)  # large: score as many at once as in training
            size = cell.recipe.batch_size if augment or streamed else EVALUATION_BATCH
            make = partial(data.StreamedBatches, loaders=loaders) if streamed else data.Batches
            options: Any = {"mean": dataset.mean, "std": dataset.std, "seed": cell.init_seed, "device": place}
            return make(images, labels, index, batch_size=size, augment=augment, **options)

        images, labels = dataset.train_images, dataset.train_labels
        self.train = batches(images, labels, split.train_index, cell.recipe.augment)
        # steps are recorded as a CUDA graph for small images, with a network and a loss of this package
        small = place.type == "cuda" and distributed.size() == 1 and isinstance(self.train, data.Batches)
        own = cell.model["name"] in models.OWN and cell.loss["name"] in losses.OWN
        self._device_lr = torch.zeros((), device=place) if small and own else None  # the graph reads it at each step
        self.held_out = None if split.val_index is None else batches(images, labels, split.val_index)
        self.test = batches(dataset.test_images, dataset.test_labels, split.test_index) if score_test else None
        self.not_augmented = partial(batches, images, labels, split.train_index)
        self.class_counts = tuple(split.class_counts)
        self.groups = accuracies.groups(split.split_counts)
        prior = torch.tensor(split.class_counts, device=place).clamp(min=1).log()
        self.offset = cell.recipe.posthoc_tau * prior

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        """Made at its first use, because torch imports a compiler for it that a rehearsal does not need."""
        return optimizer(self.cell.recipe.optimizer, self.model, self._device_lr)

    @cached_property
    def step(self) -> Step | RecordedStep:
        """The function that `train_epoch` calls with each batch."""
        step = Step(self.model, self.loss, self.optimizer, self.cell.recipe.clip_norm, self.place)
        return step if self._device_lr is None else RecordedStep(step, self.train.sizes[0])

    def train_epoch(self, epoch: int) -> None:
        """Train on all images once and set ``train_loss``, the mean over them. ``epoch`` is counted from 1."""
        began = time.perf_counter()
        self.model.train()
        self.loss.train()
        self._lr_to(self._lr(epoch))
        self.step.total.zero_()
        for (x, y), images in zip(self.train.epoch(epoch), self.train.sizes, strict=True):
            self.step(x, y, images)
        self.loss.end_epoch()
        total = float(distributed.mean(self.step.total))  # waits for the device, once in the epoch
        self.train_loss = total / sum(self.train.sizes)
        self.seconds = time.perf_counter() - began
        if not math.isfinite(self.train_loss):
            raise TrainingFailed(
                f"the training loss became {self.train_loss} in epoch {epoch} of {self.cell.recipe.epochs}; "
                f"a lower recipe.optimizer.lr or a recipe.clip_norm may help"
            )

    def _lr(self, epoch: int) -> float:
        recipe = self.cell.recipe
        return recipe.optimizer.lr * lr_factor(recipe.schedule, epoch - 1, recipe.epochs)

    def _lr_to(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr if self._device_lr is None else self._device_lr.fill_(lr)

    def result(self, epoch: int) -> EpochResult:
        """Score the network after ``epoch``: on held-out images, and after the last epoch on the sealed test."""
        held_out = evaluate(self.model, self.held_out, self.offset) if self.held_out else None
        last = epoch == self.cell.recipe.epochs
        test = evaluate(self.model, self.test, self.offset) if self.test and last else None
        score = partial(Scores.of, classes=len(self.class_counts), groups=self.groups)
        norms = None
        if test is not None and isinstance(self.loss, losses.Loss):
            norms = gradient_norms.recorded(self.model, self.loss, self.not_augmented(), self.groups)
        return EpochResult(
            epoch=epoch,
            epochs=self.cell.recipe.epochs,
            lr=self._lr(epoch),
            train_loss=self.train_loss,
            seconds=self.seconds,
            val=None if held_out is None else score(held_out),
            test=None if test is None else score(test),
            class_counts=self.class_counts,
            norms=norms,
            by_image=None if test is None else accuracies.by_image(test),
        )

    def state(self, epoch: int) -> dict[str, Any]:
        return {
            "epoch": epoch,
            "train_loss": self.train_loss,
            "model": self.model.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.place) if self.place.type == "cuda" else None,
        }

    def restore(self, saved: Mapping[str, Any]) -> int:
        """Take over what `state` gave, perhaps on another device; returns the epoch after which it was saved."""
        self.model.load_state_dict(saved["model"])
        self.loss.load_state_dict(saved["loss"])
        options = self.optimizer.state_dict()["param_groups"]  # not the saved ones, which may be another device's
        self.optimizer.load_state_dict(saved["optimizer"] | {"param_groups": options})
        torch.set_rng_state(saved["random"])
        if self.place.type == "cuda" and saved["random_cuda"] is not None:
            torch.cuda.set_rng_state(saved["random_cuda"], self.place)
        self.train_loss = saved["train_loss"]
        return int(saved["epoch"])


def trained(cell: CellConfig, dataset: data.Dataset, path: Path) -> Classifier:
    """The network of a cell, on the CPU, from the state that `run_epochs` saved at ``path`` after the last epoch.

    Raises InputError if there is no such state, or if it was saved after an earlier epoch.
    """
    run = Training(cell, dataset, torch.device("cpu"))
    saved = checkpoint.load(path, run.identity)
    if saved is None or saved["epoch"] != cell.recipe.epochs:
        found = "no file" if saved is None else f"the state after epoch {saved['epoch']}"
        raise InputError(f"{path}: found {found}; valid: the state after the last epoch, {cell.recipe.epochs}")
    run.model.load_state_dict(saved["model"])
    images = dataset.train_images
    described = Description(
        cell.model,
        dataset.class_names,
        dataset.mean,
        dataset.std,
        shape=tuple(images.shape[1:]),
        resize=images.resize if isinstance(images, data.ImageFiles) else None,
        offset=run.offset.tolist(),
    )
    return Classifier(run.model.network if isinstance(run.model, models.Mixed) else run.model, described)


def rehearse(cell: CellConfig, dataset: data.Dataset) -> data.CellData:
    """Pass a small batch through the cell's network and loss, forward and backward, on the CPU; returns `images_of`.

    It has two images, or one where the training has batches of one image. Raises InputError if that fails. So a
    mistake in a plugin, or parts that do not fit together, show before training.
    """
    with torch.random.fork_rng(devices=[]), threads_in_use(1):  # on a busy machine several threads would take longer
        smallest = 2
        try:
            run = Training(cell, dataset, torch.device("cpu"))
            smallest = min(smallest, *run.train.sizes)
            x = dataset.train_images[:smallest].float() / 255
            value = run.loss(run.model(x), dataset.train_labels[:smallest])
            value.backward()
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            names, raised = f"model {cell.model['name']!r} with loss {cell.loss['name']!r}", type(error).__name__
            where, advice = "on these images", ""
            if smallest == 1:
                alone = len(run.split.train_index) == 1
                where = "on a single image" if alone else "in batches of one image"
                advice = f"; valid: {'two training images' if alone else 'recipe.batch_size: 2'} or more"
            raise InputError(f"{names} cannot be trained {where}: {raised}: {error}{advice}") from None
    if value.ndim != 0:
        raise InputError(f"loss {cell.loss['name']!r} gives {tuple(value.shape)}, but it must be a scalar")
    return run.split


@contextmanager
def threads_in_use(count: int) -> Iterator[None]:
    """Let torch compute with ``count`` threads in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def images_of(cell: CellConfig, dataset: data.Dataset) -> data.CellData:
    """The indices of the images that the cell trains on, of those that it holds out, and of the sealed test."""
    holdout = cell.holdout if cell.fold != "full" else None
    seed, fold = cell.data_seed, fold_of(cell.fold)
    return data.cell_data(dataset, **long_tail(cell.data), data_seed=seed, holdout=holdout, fold=fold)


def load_dataset(cell: CellConfig) -> data.Dataset:
    """The cell's data set before any sub-sampling. Raises InputError that names a missing or damaged file."""
    params = {key: value for key, value in cell.data.items() if key not in ("name", *long_tail(cell.data))}
    try:
        return data.build(cell.data["name"], **params)
    except (Exception, SystemExit) as error:
        if isinstance(error, InputError) or cell.data["name"] in data.BUILT_IN:
            raise
        raise InputError(f"data set {cell.data['name']!r}: {type(error).__name__}: {error}") from None


def build(
    cell: CellConfig, dataset: data.Dataset, class_counts: list[int], place: torch.device
) -> tuple[nn.Module, losses.Loss]:
    """The cell's network and loss on ``place``; torch's global generator draws the initial weights."""
    model = models.build(**cell.model, classes=len(dataset.class_names), channels=dataset.train_images.shape[1])
    loss = losses.build(**cell.loss, class_counts=class_counts, epochs=cell.recipe.epochs)
    if not hasattr(loss, "end_epoch"):
        raise InputError(f"loss {cell.loss['name']!r} has no end_epoch(); derive it from tune_lt.losses.Loss")
    if cell.recipe.precision == "bfloat16":
        model = models.Mixed(model)
    return model.to(place).to(memory_format=torch.channels_last), loss.to(place)


DEVICES = ("cpu", "mps", "cuda")  # of torch's others, some compute nothing (meta), and none was tried


def pick_device(name: str) -> torch.device:
    """The device called ``name``; ``auto`` is the first of CUDA, MPS and CPU that this machine has.

    Makes cuDNN deterministic, so that equal cells give equal numbers. Raises InputError for a device that is not here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.partition(":")[0] not in DEVICES:
        raise InputError(f"device {name!r} is unknown; valid: auto, {', '.join(DEVICES)}, or one GPU such as cuda:1")
    try:
        place = distributed.own_device(torch.device(name))
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} cannot be used here ({first_line(error)}); try auto or cpu") from None
    if place.type == "cuda":
        if place.index is not None:
            torch.cuda.set_device(place)  # new streams belong to the current device
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    return place
