"""Which images a cell trains on: the long tail laid over a data set, and the hold-out or fold taken from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tune_lt.data.dataset import Dataset
from tune_lt.data.profiles import PROFILES
from tune_lt.errors import InputError
from tune_lt.registry import lookup

# Streams of the data seed: a hold-out drawn from its own stream cannot change which images were sub-sampled.
_HOLDOUT, _SEAL, _FOLDS = 1, 2, 3


@dataclass(frozen=True, eq=False)
class CellData:
    """The images of one cell, as sorted int64 positions in ``Dataset.train_images``.

    ``val_index`` is None where nothing is held out. ``class_counts``: images per class in ``train_index``, what a loss
    is built with. ``split_counts``: images per class of the whole long-tailed training split, those held out included;
    groups of classes are formed by it. ``unvalidated``: classes that ``val_index`` has no image of. ``test_index``: the
    test images that are scored, in ``Dataset.test_images``.
    """

    train_index: Tensor
    val_index: Tensor | None
    class_counts: list[int]
    split_counts: list[int]
    unvalidated: tuple[int, ...] = ()
    test_index: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))


def cell_data(
    dataset: Dataset,
    *,
    imbalance: float | None,
    profile: str = "exponential",
    largest: int | None = None,
    sealed: int | None = None,
    data_seed: int,
    holdout: float | None = None,
    fold: tuple[int, int] | None = None,
) -> CellData:
    """Sub-sample the training images to a long tail, then hold a stratified part of that out for validation.

    ``imbalance``: images of the largest class over those of the smallest, None keeps every image; ``profile``: a
    name of `PROFILES`; where it asks for more images of a class than there are, all of them are taken. ``largest``:
    how many images the largest class has at most, None for as many as there are; with no imbalance each class has
    at most that many. ``sealed``: how many test images of each class are scored at most. ``holdout``: the fraction,
    in (0, 1), of each class of the long-tailed split that goes to validation, rounded half up; a class of two or
    more images keeps at least one on either side, a single image stays in training.

    ``fold`` instead: (k, K) holds out the k-th of K stratified folds, k from 1 to K, K at least 2. The K folds of a
    data seed share no image and together hold every one of the split, single images of a class apart, which are never
    held out. Images of one class in two folds differ by at most one, and so do those of all classes together. A class
    of fewer than K images is missing in some folds (``unvalidated``) and has training images in all.

    ``data_seed``, below 2**32, decides each draw, with generators of its own; the sub-sample is the same whatever is
    held out, and a smaller imbalance or a higher ``largest`` only adds images to it. It is the public CIFAR-LT
    sub-sample of Cao et al. 2019 (LDAM-DRW, `imbalance_cifar.py`) image by image; ``rand_number`` is the data seed.

    Raises InputError for values that make no sense.
    """
    if not isinstance(data_seed, int) or not 0 <= data_seed < 2**32:
        raise InputError(f"data_seed = {data_seed!r}, but it must be a whole number of at least 0 and below 2**32")
    if largest is not None and (not isinstance(largest, int) or isinstance(largest, bool) or largest < 1):
        raise InputError(f"largest = {largest!r}, but it must be a whole number of at least 1, or be left out")
    if dataset.long_tailed and imbalance is not None:
        raise InputError(
            f"data.imbalance: found {imbalance!r}, but this data set is a long tail as it comes; valid: null"
        )
    if holdout is not None and not 0 < holdout < 1:
        raise InputError(f"holdout = {holdout!r}, but it must lie between 0 and 1, both excluded, or be left out")
    if fold is not None:
        if holdout is not None:
            raise InputError(f"holdout = {holdout!r} and fold = {fold!r}, but only one of them can be held out")
        if fold[1] < 2 or not 1 <= fold[0] <= fold[1]:
            raise InputError(f"fold = {fold!r}, but it must be (k, K) with 1 <= k <= K and K of at least 2")
    members = _subsample(dataset, _wanted(dataset, imbalance, profile, largest), data_seed)
    split_counts = [len(positions) for positions in members]
    test = test_index(dataset, sealed)
    if holdout is not None:
        generator = np.random.default_rng([data_seed, _HOLDOUT])
        parts = [set_aside(positions, holdout, generator) for positions in members]
    elif fold is not None:
        parts = _fold(members, fold, np.random.default_rng([data_seed, _FOLDS]))
    else:
        return CellData(_index(members), None, split_counts, list(split_counts), test_index=test)
    held, kept = [aside for aside, _ in parts], [rest for _, rest in parts]
    unvalidated = tuple(c for c, positions in enumerate(held) if len(positions) == 0)
    return CellData(_index(kept), _index(held), [len(positions) for positions in kept], split_counts, unvalidated, test)


def test_index(dataset: Dataset, sealed: int | None) -> Tensor:
    """The test images that are scored, sorted: all, or the first ``sealed`` of each class."""
    if sealed is None:
        return torch.arange(len(dataset.test_labels))
    return _index(_of_classes(dataset.test_labels, len(dataset.class_names), sealed))


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


def _wanted(dataset: Dataset, imbalance: float | None, profile: str, largest: int | None) -> list[int]:
    """Images that each class should have; a class may have fewer."""
    counts = lookup(PROFILES, "profile", profile)
    available = dataset.available
    if imbalance is None:
        return [min(count, largest or count) for count in available]
    limits = [available[0], *(limit for limit in (dataset.largest, largest) if limit is not None)]
    return counts(min(limits), imbalance, len(available))


def _subsample(dataset: Dataset, wanted: list[int], data_seed: int) -> list[np.ndarray]:
    """The sorted positions kept of each class: the first ones of a shuffle of all its images, or all of them.

    The public recipe seeds NumPy's global generator and shuffles class after class. RandomState is that generator
    without the global state, and NumPy promises never to change its stream.
    """
    generator = np.random.RandomState(data_seed)
    members = []
    for count, positions in zip(wanted, _of_classes(dataset.train_labels, len(wanted)), strict=True):
        generator.shuffle(positions)  # also where all are kept: the classes after it depend on it
        members.append(np.sort(positions[:count]))
    return members


def _of_classes(labels: Tensor, classes: int, most: int | None = None) -> list[np.ndarray]:
    """The positions of each class in rising order, at most so many; in one pass, however many classes there are."""
    order = np.argsort(labels.numpy(), kind="stable")
    ends = np.cumsum(np.bincount(labels.numpy(), minlength=classes))[:-1]
    return [positions[:most] for positions in np.split(order, ends)]


def _fold(
    members: list[np.ndarray], fold: tuple[int, int], generator: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(held out, kept) positions of each class in the k-th of K folds, both sorted.

    The shuffled images of a class are dealt to the folds in turn, and the next class goes on where the last one
    stopped: so small classes spread over the folds.
    """
    k, folds = fold
    turn = int(
        generator.integers(folds)
    )  # else the smallest class would have its extra image in one fold for all seeds
    parts = []
    for positions in members:
        dealt = (turn + np.arange(len(positions))) % folds
        here = dealt == k - 1
        if len(positions) < 2:
            here[:] = False
        else:
            turn += len(positions)
        shuffled = generator.permutation(positions)
        parts.append((np.sort(shuffled[here]), np.sort(shuffled[~here])))
    return parts


def _index(members: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.sort(np.concatenate(members)).astype(np.int64))
