"""How many training images each class keeps: the long-tailed profiles of the literature."""

from __future__ import annotations

import math
from collections.abc import Callable

from tune_lt.errors import InputError


def exponential(largest: int, imbalance: float, classes: int) -> list[int]:
    """Images per class, falling by the same factor from each class to the next.

    n_c = max(1, floor(n_max · (1/IF)^(c/(C−1)))) for class c of C. ``largest`` is n_max in images, at least 1;
    ``imbalance`` is IF = n_max / n_min, at least 1. CIFAR-10 at 100 (5000 … 50) has 12,406 images.

    Source: Cui et al. 2019 (class-balanced loss) and Cao et al. 2019 (LDAM), `imbalance_cifar.py`. That code has the
    same counts for CIFAR and Tiny-ImageNet up to IF 500. Above, it may keep no image of a class, or one too few where
    floating point gives 39.999999999 for 40.

    Raises InputError for an argument that is out of bounds.
    """
    _check(largest, imbalance, classes)
    return [_images(largest / imbalance ** (c / max(classes - 1, 1))) for c in range(classes)]


def step(largest: int, imbalance: float, classes: int) -> list[int]:
    """Images per class: n_max in the first half of the classes, floor(n_max / IF) in the second.

    With an odd number of classes the middle one belongs to the first half. Arguments as in `exponential`.

    Source: Buda et al. 2018 (step imbalance, half of the classes being minorities); LDAM's "step".
    """
    _check(largest, imbalance, classes)
    tail = classes // 2
    return [largest] * (classes - tail) + [_images(largest / imbalance)] * tail


PROFILES: dict[str, Callable[[int, float, int], list[int]]] = {"exponential": exponential, "step": step}


def _check(largest: int, imbalance: float, classes: int) -> None:
    for name, value in (("largest", largest), ("imbalance", imbalance), ("classes", classes)):
        if not 1 <= value < math.inf:
            raise InputError(f"{name} = {value!r}, but it must be a number of at least 1")


def _images(exact: float) -> int:
    """The floor, at least 1; 5.999999999 is taken as a 6 that floating point rounded down."""
    return max(1, math.floor(exact * (1 + 1e-9)))
