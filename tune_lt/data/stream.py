"""Batches of images that stay on disk: loader processes decode and augment them, the device normalises them."""

from __future__ import annotations

import math
import shutil
import signal
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from tune_lt import distributed
from tune_lt.config import Augment
from tune_lt.data.batches import draw, parts, sizes
from tune_lt.data.decode import Box
from tune_lt.data.files import ImageFiles
from tune_lt.errors import InputError

PREFETCHED = 2  # batches that each loader process has ready
_SHARED = Path("/dev/shm")  # Linux's shared memory, through which loader processes send batches
_ASPECT = (3 / 4, 4 / 3)  # width over height of a random part
_TRIES = 10  # to find a random part that fits, as in torchvision
Key = tuple[int, np.ndarray]  # an epoch, and positions of images


class StreamedBatches:
    """The images at ``index``, once per epoch: `Batches` for images that stay on disk.

    Arguments and order of the images are those of `Batches`. What happens to a training image (see `Augment`) depends
    on ``seed``, the epoch and the image's position alone. ``loaders``: processes that read images, 0 to read them in
    this process. They start with the first epoch and stay for all epochs of a training, or for one pass of an
    evaluation; they end if an epoch is not completed.

    Raises InputError if there is no image, the batch size is below 1, or ``augment`` does not suit images on disk;
    `epoch` does if a file cannot be read, naming it, or if there is too little shared memory for the loaders.
    """

    def __init__(
        self,
        images: ImageFiles,
        labels: Tensor,
        index: Tensor,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Augment | None,
        seed: int,
        device: torch.device | str,
        loaders: int = 0,
    ) -> None:
        self.sizes = sizes(len(index), batch_size, training=augment is not None)
        if augment is not None:
            _check(augment)
        self.augment, self.seed, self.device, self.loaders = augment, seed, torch.device(device), loaders
        self._index, self._labels, self._total = index.cpu(), labels.cpu(), len(images)
        self._batch_bytes = -(-max(self.sizes) // distributed.size()) * 3 * images.size**2
        self._mean = torch.tensor(mean, dtype=torch.float32, device=self.device).view(1, -1, 1, 1) * 255
        self._std = torch.tensor(std, dtype=torch.float32, device=self.device).view(1, -1, 1, 1) * 255
        self._keys: list[Key] = []  # the loader's sampler: `epoch` replaces its content
        self._reader = _Reader(images, augment, seed)
        self._loader = self._new_loader()

    def __len__(self) -> int:
        """Number of batches per epoch."""
        return len(self.sizes)

    def epoch(self, epoch: int) -> Generator[tuple[Tensor, Tensor], None, None]:
        """Yield (x, y): x float32 (b, 3, size, size) normalised, y int64 (b,), both on the device."""
        self._check_shared_memory()
        positions = self._index
        if self.augment is not None:
            rank = draw(self.seed, epoch, self._total, 0).rank
            positions = positions[rank[positions].argsort(stable=True)]
        labels = self._labels[positions].to(self.device)  # once: a copy for each batch would make steps wait
        shares = list(parts(self.sizes))
        self._keys[:] = [(epoch, positions[share].numpy()) for share in shares]
        try:
            for share, found in zip(shares, self._loader, strict=True):
                if isinstance(found, InputError):
                    raise found
                x = found.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
                yield x.sub_(self._mean).div_(self._std), labels[share]
        except BaseException:  # also GeneratorExit, if the caller stops early: the processes end with the old loader
            self._loader = self._new_loader()
            raise

    def _new_loader(self) -> Any:
        return DataLoader(
            self._reader,
            batch_size=None,  # the reader makes whole batches
            sampler=self._keys,
            num_workers=self.loaders,
            prefetch_factor=PREFETCHED if self.loaders else None,
            persistent_workers=self.loaders > 0 and self.augment is not None,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_ignore_interrupts,
            generator=torch.Generator(),  # otherwise the loader uses the global one
        )

    def _check_shared_memory(self) -> None:
        if self.loaders == 0 or not _SHARED.is_dir():
            return
        needed, room = self.loaders * PREFETCHED * self._batch_bytes, shutil.disk_usage(_SHARED).free
        if needed > room:
            raise InputError(
                f"resources.loaders: {self.loaders} processes keep {needed / 2**20:.0f} MiB of batches in {_SHARED}, "
                f"which has room for {room / 2**20:.0f} MiB; valid: fewer loaders, a smaller recipe.batch_size, or "
                "more shared memory (docker run --shm-size)"
            )


class _Reader(TorchDataset[Any]):
    """What a loader process runs: it turns an epoch and positions of images into those images, as bytes."""

    def __init__(self, images: ImageFiles, augment: Augment | None, seed: int) -> None:
        self.images, self.augment, self.seed = images, augment, seed

    def __getitem__(self, key: Key) -> Tensor | InputError:
        """uint8 (b, size, size, 3), or an error about a file, which would get a traceback added if it were raised."""
        epoch, positions = key
        batch = np.empty((len(positions), self.images.size, self.images.size, 3), dtype=np.uint8)
        try:
            for row, position in enumerate(positions.tolist()):
                batch[row] = self._one(epoch, position)
        except InputError as error:
            return error
        return torch.from_numpy(batch)

    def _one(self, epoch: int, position: int) -> np.ndarray:
        if self.augment is None:
            return self.images.read(position, self.images.middle)
        generator = np.random.default_rng([self.seed, epoch, position])
        flip, vertical = generator.random(2) < 0.5
        turns = int(generator.integers(4))
        if self.augment.scale is None:
            choose = partial(random_square, generator=generator, size=self.images.size, resize=self.images.resize)
        else:
            choose = partial(random_part, generator=generator, scale=self.augment.scale)
        image = self.images.read(position, choose)
        image = image[:, ::-1] if self.augment.flip and flip else image
        image = image[::-1] if self.augment.vertical and vertical else image
        return np.rot90(image, turns) if self.augment.rotate else image


def random_part(width: int, height: int, *, generator: np.random.Generator, scale: tuple[float, float]) -> Box:
    """A random part of an image, in whole pixels, with the distribution of torchvision's RandomResizedCrop.

    Its share of the area is uniform over ``scale``, and the logarithm of its aspect ratio (width over height) is
    uniform between those of 3/4 and 4/3. If ten tries do not fit into the image, it is the largest part around the
    centre whose aspect ratio is in that range.
    """
    low, high = _ASPECT
    for _ in range(_TRIES):
        area = width * height * generator.uniform(*scale)
        aspect = math.exp(generator.uniform(math.log(low), math.log(high)))
        across, down = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < across <= width and 0 < down <= height:
            left, top = int(generator.integers(width - across + 1)), int(generator.integers(height - down + 1))
            return left, top, left + across, top + down
    across, down = min(width, round(height * high)), min(height, round(width / low))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def random_square(width: int, height: int, *, generator: np.random.Generator, size: int, resize: int) -> Box:
    """What Resize(``resize``) and RandomCrop(``size``) of torchvision keep of an image, as a box in its pixels."""
    pixel = min(width, height) / resize  # the side of a pixel of the resized image, in pixels of this one
    side = size * pixel
    left, top = (int(generator.integers(round(whole / pixel) - size + 1)) * pixel for whole in (width, height))
    return left, top, min(left + side, width), min(top + side, height)


def _check(augment: Augment) -> None:
    if augment.crop not in (0, Augment.crop):
        raise InputError(
            f"recipe.augment.crop: found {augment.crop}, but it is for images in memory, and these stay on disk; leave "
            "it out, and see recipe.augment.scale"
        )
    if augment.scale is not None and not augment.scale[0] <= augment.scale[1]:
        raise InputError(
            f"recipe.augment.scale: found {list(augment.scale)}; valid: the smallest share of the area first"
        )


def _ignore_interrupts(_: int) -> None:
    """Leave Ctrl-C to the training process, which ends its loaders."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
