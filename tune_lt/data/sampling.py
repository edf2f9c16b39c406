"""Which images a cell trains on: the long tail laid over a data set, and the hold-out taken from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tune_lt.data.dataset import Dataset
from tune_lt.data.profiles import PROFILES
from tune_lt.errors import InputError
from tune_lt.registry import lookup

# Streams of the data seed: a hold-out drawn from its own stream cannot change which images were sub-sampled.
_SUBSAMPLE, _HOLDOUT, _SEAL = 0, 1, 2


@dataclass(frozen=True, eq=False)
class CellData:
    """The images of one cell, as sorted int64 positions in ``Dataset.train_images``.

    ``val_index`` is None without a hold-out. ``class_counts``: images per class in ``train_index``, what a loss is
    built with. ``split_counts``: images per class of the whole long-tailed training split, hold-out included; groups
    of classes are formed by it. ``unvalidated``: classes that the hold-out has no image of.
    """

    train_index: Tensor
    val_index: Tensor | None
    class_counts: list[int]
    split_counts: list[int]
    unvalidated: tuple[int, ...] = ()


def cell_data(
    dataset: Dataset, *, imbalance: float | None, profile: str, data_seed: int, holdout: float | None
) -> CellData:
    """Sub-sample the training images to a long tail, then hold a stratified part of that out for validation.

    ``imbalance``: images of the largest class over those of the smallest, None keeps every image; ``profile``: a name
    of `PROFILES`; where it asks for more images of a class than there are, all of them are taken. ``holdout``: the
    fraction, in (0, 1), of each class of the long-tailed split that goes to validation, rounded half up; a class of
    two or more images keeps at least one on either side, a single image stays in training.

    ``data_seed`` decides both draws, with generators of its own; the sub-sample is the same with and without a
    hold-out, and a smaller imbalance only adds images to it. Raises InputError for values that make no sense.
    """
    if not isinstance(data_seed, int) or data_seed < 0:
        raise InputError(f"data_seed = {data_seed!r}, but it must be a whole number of at least 0")
    if holdout is not None and not 0 < holdout < 1:
        raise InputError(f"holdout = {holdout!r}, but it must lie between 0 and 1, both excluded, or be left out")
    members = _subsample(dataset, _wanted(dataset, imbalance, profile), data_seed)
    split_counts = [len(positions) for positions in members]
    if holdout is None:
        return CellData(_index(members), None, split_counts, list(split_counts))
    held, kept = [], []
    generator = np.random.default_rng([data_seed, _HOLDOUT])
    for positions in members:
        aside, rest = set_aside(positions, holdout, generator)
        held.append(aside)
        kept.append(rest)
    unvalidated = tuple(c for c, positions in enumerate(held) if len(positions) == 0)
    return CellData(_index(kept), _index(held), [len(positions) for positions in kept], split_counts, unvalidated)


def set_aside(positions: np.ndarray, fraction: float, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Split the positions of one class at random into (set aside, kept), both sorted.

    ``fraction`` of them is set aside, rounded half up and clipped to [1, n − 1]; a single image is kept.
    """
    count = len(positions)
    # The tiny term keeps 0.7 · 45 = 31.499999999999996 a half.
    aside = min(max(math.floor(fraction * count + 0.5 + 1e-9), 1), count - 1)
    shuffled = generator.permutation(positions)
    return np.sort(shuffled[:aside]), np.sort(shuffled[aside:])


def seal(labels: np.ndarray, classes: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """(test, train) positions, sorted, of a data set that comes without a test split; no seed changes them.

    Each class has its own generator, so more images of one class do not change the test images of another.
    """
    pairs = [
        set_aside(np.flatnonzero(labels == c), fraction, np.random.default_rng([0, _SEAL, c])) for c in range(classes)
    ]
    return np.sort(np.concatenate([test for test, _ in pairs])), np.sort(np.concatenate([train for _, train in pairs]))


def _wanted(dataset: Dataset, imbalance: float | None, profile: str) -> list[int]:
    """Images that each class should have; a class may have fewer."""
    counts = lookup(PROFILES, "profile", profile)
    available = dataset.available
    if imbalance is None:
        return available
    head = available[0] if dataset.largest is None else min(dataset.largest, available[0])
    return counts(head, imbalance, len(available))


def _subsample(dataset: Dataset, wanted: list[int], data_seed: int) -> list[np.ndarray]:
    """The sorted positions kept of each class: the first ones of a shuffle of all its images, or all of them."""
    labels = dataset.train_labels.numpy()
    generator = np.random.default_rng([data_seed, _SUBSAMPLE])
    return [np.sort(generator.permutation(np.flatnonzero(labels == c))[:count]) for c, count in enumerate(wanted)]


def _index(members: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.sort(np.concatenate(members)).astype(np.int64))
