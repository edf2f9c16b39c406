"""A whole data set, as the functions of `tune_lt.data.DATASETS` return it, before it is sub-sampled to a long tail."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tune_lt.config import ImageHashes
from tune_lt.data.files import MEAN, STD, ImageFiles
from tune_lt.errors import InputError

LONGEST_NAME = 255  # characters of a class's name; file systems allow no longer names of folders


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test images, in memory (on the CPU) or on disk, with their labels, classes and statistics.

    ``train_images``, ``test_images``: uint8 (n, C, H, W), or `ImageFiles`. ``train_labels``, ``test_labels``: int64
    (n,), positions in ``class_names``. ``mean``, ``std``: per channel, of the training images (ImageNet's for images on
    disk), pixels in [0, 1]. ``largest``: images that the largest class of a long-tailed profile has at most, None for
    as many as class 0 has. ``skipped``: files left out because they could not be read. ``long_tailed``: the data set is
    long-tailed already, and is not sub-sampled. ``hashes``: of everything here that can change a result; of images on
    disk their bytes count, not their names. The test images are sealed: scored once, never used to choose.

    Make one with `Dataset.of`. Raises InputError if the parts do not fit together.
    """

    train_images: Tensor | ImageFiles
    train_labels: Tensor
    test_images: Tensor | ImageFiles
    test_labels: Tensor
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    largest: int | None
    skipped: tuple[str, ...]
    long_tailed: bool = False
    hashes: ImageHashes = field(init=False)

    def __post_init__(self) -> None:
        """Find mistakes in a user's own data set here, not in the middle of a training."""
        _check_split("training", self.train_images, self.train_labels, self.class_names)
        _check_split("test", self.test_images, self.test_labels, self.class_names)
        train, test = tuple(self.train_images.shape[1:]), tuple(self.test_images.shape[1:])
        if train != test:
            raise InputError(f"data set: training images are {train} but test images are {test}")
        check_names(self.class_names)
        empty = [name for name, count in zip(self.class_names, self.available, strict=True) if count == 0]
        if empty:
            raise InputError(f"data set: no training image of class {', '.join(map(repr, empty))}")
        if self.largest is not None and self.largest < 1:
            raise InputError(f"data set: largest = {self.largest!r}, but it must be at least 1 or None")
        parts = self.train_images, self.train_labels, self.test_images, self.test_labels
        described = [self.class_names, self.mean, self.std, self.largest]
        _, _, training, _, whole = content_hashes(*parts, description=described)
        object.__setattr__(self, "hashes", ImageHashes(training, whole))

    @classmethod
    def of(
        cls,
        train_images: Tensor | ImageFiles,
        train_labels: Tensor,
        test_images: Tensor | ImageFiles,
        test_labels: Tensor,
        class_names: Sequence[str],
        *,
        largest: int | None = None,
        skipped: Sequence[str] = (),
        long_tailed: bool = False,
    ) -> Dataset:
        """A data set from its images and labels (shapes as above); mean and std are computed here."""
        names = tuple(class_names)
        _check_split("training", train_images, train_labels, names)
        mean, std = (MEAN, STD) if isinstance(train_images, ImageFiles) else moments(train_images)
        split = train_images, train_labels, test_images, test_labels
        return cls(*split, names, mean, std, largest, tuple(skipped), long_tailed)

    @property
    def content_hash(self) -> str:
        """The hash of the whole data set."""
        return self.hashes.whole

    @property
    def available(self) -> list[int]:
        """Number of training images of each class."""
        return torch.bincount(self.train_labels, minlength=len(self.class_names)).tolist()


def check_names(names: Sequence[str]) -> None:
    """Raise InputError for a class's name that cannot be shown in tables and pages or saved in the store."""
    for name in names:
        if not 0 < len(name) <= LONGEST_NAME or any(unicodedata.category(one) in ("Cc", "Cs") for one in name):
            found = repr(name if len(name) <= LONGEST_NAME else f"{name[:60]}…")
            raise InputError(
                f"data set: found a class called {found}; valid: 1 to {LONGEST_NAME} characters in UTF-8, no line "
                "breaks or other control characters; rename it"
            )


def moments(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and (population) standard deviation per channel of uint8 images (n, C, H, W), pixels in [0, 1].

    Computed from how often each of the 256 values occurs: exact, and without a copy of the images in floating point.
    The standard deviation of a constant channel is given as 1, so that dividing by it is harmless.
    """
    values = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(images.shape[1]):
        counts = np.zeros(256, dtype=np.int64)
        for part in images[:, channel].split(max(1, 2**22 // images[0, 0].numel())):  # 4 million pixels at a time
            counts += torch.bincount(part.flatten().int(), minlength=256).numpy()
        share = counts / counts.sum()
        mean = float(share @ values)
        deviation = float(np.sqrt(share @ (values - mean) ** 2))
        means.append(mean)
        deviations.append(deviation if np.count_nonzero(counts) > 1 else 1.0)
    return tuple(means), tuple(deviations)


def content_hashes(*parts: Tensor | ImageFiles, description: Sequence[Any]) -> list[str]:
    """sha256 (hex) over ``description`` (anything JSON can hold), then over it and the first part, and so on.

    The types and shapes of the parts count.
    """
    digest = hashlib.sha256(json.dumps(description).encode())
    hashes = [digest.hexdigest()]
    for part in parts:
        if isinstance(part, ImageFiles):
            digest.update(f"files {tuple(part.shape)}".encode() + part.digest())
        else:
            digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
            digest.update(part.contiguous().numpy().data)
        hashes.append(digest.hexdigest())
    return hashes


def _check_split(split: str, images: Tensor | ImageFiles, labels: Tensor, class_names: tuple[str, ...]) -> None:
    if isinstance(images, ImageFiles):
        if len(images) == 0:
            raise InputError(f"data set: there are no {split} images")
    elif images.dtype != torch.uint8 or images.ndim != 4 or images.numel() == 0:
        found = f"{images.dtype} {tuple(images.shape)}"
        raise InputError(f"data set: {split} images must be uint8 (n, C, H, W) and not empty, found {found}")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        found = f"{labels.dtype} {tuple(labels.shape)}"
        raise InputError(f"data set: {split} labels must be int64 ({len(images)},), found {found}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(class_names):
        raise InputError(f"data set: {split} labels run from {low} to {high}, but there are {len(class_names)} classes")
