"""Which images a cell trains on: a long-tailed sub-sample of a data set, without the hold-out or fold of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from tune_lt.config import Seed
from tune_lt.data.dataset import Dataset
from tune_lt.data.profiles import PROFILES
from tune_lt.errors import InputError
from tune_lt.registry import lookup, violation

# A hold-out, a sealed test, folds and a bootstrap have random generators of their own: none changes the sub-sample.
_HOLDOUT, _SEAL, _FOLDS, _BOOTSTRAP = 1, 2, 3, 4
_BOUNDS: dict[str, Any] = {
    "imbalance": Annotated[float, Ge(1), Lt(math.inf)] | None,
    "largest": Annotated[int, Ge(1)] | None,
    "data_seed": Seed,
    "holdout": Annotated[float, Gt(0), Lt(1)] | None,
}


@dataclass(frozen=True, eq=False)
class CellData:
    """The images of one cell, as sorted int64 positions in ``Dataset.train_images``, some of them twice in a bootstrap.

    ``val_index``: the images held out for validation, None if there are none. ``class_counts``: images per class in
    ``train_index``; a loss is built with them. ``split_counts``: images per class in the whole long-tailed training
    split, with those held out; the groups of classes are formed by them. ``test_index``: the test images that are
    scored, as positions in ``Dataset.test_images``. ``unvalidated``: classes without an image in ``val_index``.
    """

    train_index: Tensor
    val_index: Tensor | None
    class_counts: list[int]
    split_counts: list[int]
    test_index: Tensor
    unvalidated: tuple[int, ...] = ()


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
    resample: bool = False,
) -> CellData:
    """Sub-sample the training images to a long tail, then hold a stratified part of that out for validation.

    ``imbalance``: images of the largest class over those of the smallest, None keeps every image; ``profile``: a
    name of `PROFILES`; where it asks for more images of a class than there are, all of them are taken. ``largest``:
    how many images the largest class has at most, None for as many as there are; with no imbalance each class has
    at most that many. ``sealed``: how many test images of each class are scored at most. ``holdout``: the fraction,
    in (0, 1), of each class of the long-tailed split that goes to validation, rounded half up; a class of two or
    more images keeps at least one on either side, a single image stays in training.

    ``fold`` instead: (k, K) holds out the k-th of K stratified folds, k from 1 to K, K at least 2. The K folds of a
    data seed have no image in common and together hold all images of the split, except that the image of a class with
    a single one is never held out. Images of one class in two folds differ by at most one, and so do those of all
    classes together. A class of fewer than K images is missing in some folds (``unvalidated``), but every fold's
    training images include it.

    ``resample``: the training images that are left are drawn anew with replacement, as many of each class as there are
    (stratified bootstrap), so no held-out image comes among them, and no count changes. An image that is drawn twice
    counts twice in a batch, with one augmentation.

    ``data_seed``, below 2**32, seeds all random choices. The sub-sample does not depend on what is held out, and a
    smaller imbalance or a higher ``largest`` only adds images to it. It has the same images as the public CIFAR-LT of
    Cao et al. 2019 (LDAM-DRW, `imbalance_cifar.py`), whose ``rand_number`` is the data seed.

    Raises InputError for a value out of bounds, and for an imbalance of a data set that is long-tailed already.
    """
    values = {"imbalance": imbalance, "largest": largest, "data_seed": data_seed, "holdout": holdout}
    for name, value in values.items():
        if problem := violation(_BOUNDS[name], value):
            raise InputError(f"{name} = {value!r}, but {problem}")
    if dataset.long_tailed and imbalance is not None:
        raise InputError(
            f"data.imbalance: found {imbalance!r}, but this data set is a long tail as it comes; valid: null"
        )
    if fold is not None and holdout is not None:
        raise InputError(f"holdout = {holdout!r} and fold = {fold!r}, but only one of them can be held out")
    if fold is not None and not 1 <= fold[0] <= fold[1] >= 2:
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
        parts = [(positions[:0], positions) for positions in members]
    held, kept = [aside for aside, _ in parts], [rest for _, rest in parts]
    if resample:
        generator = np.random.default_rng([data_seed, _BOOTSTRAP])
        kept = [generator.choice(positions, len(positions)) if len(positions) else positions for positions in kept]
    if holdout is None and fold is None:
        return CellData(_index(kept), None, split_counts, list(split_counts), test)
    unvalidated = tuple(c for c, positions in enumerate(held) if len(positions) == 0)
    return CellData(_index(kept), _index(held), [len(positions) for positions in kept], split_counts, test, unvalidated)


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
    # 1e-9, so that 0.7 · 45 = 31.499999999999996 is rounded as the 31.5 that it should be
    aside = min(max(math.floor(fraction * count + 0.5 + 1e-9), 1), count - 1)
    shuffled = generator.permutation(positions)
    return np.sort(shuffled[:aside]), np.sort(shuffled[aside:])


def seal(labels: np.ndarray, classes: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """(test, train) positions, sorted, of a data set without a test split; they are the same for every data seed.

    Each class has a generator of its own, so more images of one class do not change the test images of another.
    """
    generators = [np.random.default_rng([0, _SEAL, c]) for c in range(classes)]
    pairs = [set_aside(np.flatnonzero(labels == c), fraction, own) for c, own in enumerate(generators)]
    return np.sort(np.concatenate([test for test, _ in pairs])), np.sort(np.concatenate([train for _, train in pairs]))


def _wanted(dataset: Dataset, imbalance: float | None, profile: str, largest: int | None) -> list[int]:
    """How many images each class should have; it may have fewer."""
    counts = lookup(PROFILES, "profile", profile)
    available = dataset.available
    if imbalance is None:
        return [min(count, largest or count) for count in available]
    limits = [available[0], *(limit for limit in (dataset.largest, largest) if limit is not None)]
    return counts(min(limits), imbalance, len(available))


def _subsample(dataset: Dataset, wanted: list[int], data_seed: int) -> list[np.ndarray]:
    """The sorted positions kept of each class: the first ones after a shuffle of all its images.

    The code of LDAM-DRW seeds NumPy's global generator and shuffles class after class. RandomState is that generator
    without the global state, and NumPy promises that its numbers never change.
    """
    generator = np.random.RandomState(data_seed)
    members = []
    for count, positions in zip(wanted, _of_classes(dataset.train_labels, len(wanted)), strict=True):
        generator.shuffle(positions)  # even if all are kept: the shuffles of later classes depend on it
        members.append(np.sort(positions[:count]))
    return members


def _of_classes(labels: Tensor, classes: int, most: int | None = None) -> list[np.ndarray]:
    """The positions of each class in rising order, the first ``most`` of them; one sort serves all classes."""
    order = np.argsort(labels.numpy(), kind="stable")
    ends = np.cumsum(np.bincount(labels.numpy(), minlength=classes))[:-1]
    return [positions[:most] for positions in np.split(order, ends)]


def _fold(
    members: list[np.ndarray], fold: tuple[int, int], generator: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(held out, kept) positions of each class in the k-th of K folds, both sorted.

    The shuffled images of a class are dealt to the folds in turn, and the next class begins with the fold after the
    last one, so small classes spread over the folds. The first fold is random: otherwise the smallest class would have
    its extra image in the same fold for all seeds.
    """
    k, folds = fold
    turn = int(generator.integers(folds))
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
