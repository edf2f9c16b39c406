"""How many training images each class keeps: the long-tailed profiles of the literature."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real

from tune_lt.errors import InputError


def exponential(largest: int, imbalance: float, classes: int) -> list[int]:
    """Images per class, falling by the same factor from each class to the next.

    n_c = floor(n_max · (1/IF)^(c/(C−1))), class 0 is the head, never fewer than one image. ``largest`` is n_max in
    images, ``imbalance`` is IF = n_max / n_min. CIFAR-10 at 100 (5000 … 50) has 12,406 images.

    Source: Cui et al. 2019 (class-balanced loss) and Cao et al. 2019 (LDAM), `imbalance_cifar.py`. The counts of that
    code are these for CIFAR and Tiny-ImageNet up to IF 500; beyond, it may keep no image of a class, or one too few
    where its int() cuts 39.999999999.
    Raises InputError unless largest ≥ 1, imbalance ≥ 1 and finite, classes ≥ 1.
    """
    _check(largest, imbalance, classes)
    return [_images(largest / imbalance ** (c / max(classes - 1, 1))) for c in range(classes)]


def step(largest: int, imbalance: float, classes: int) -> list[int]:
    """Images per class: n_max in the first half of the classes, floor(n_max / IF) in the second.

    With an odd number of classes the middle one belongs to the first half. Units and errors as in `exponential`.

    Source: Buda et al. 2018 (step imbalance, half of the classes being minorities); LDAM's "step".
    """
    _check(largest, imbalance, classes)
    tail = classes // 2
    return [largest] * (classes - tail) + [_images(largest / imbalance)] * tail


PROFILES: dict[str, Callable[[int, float, int], list[int]]] = {"exponential": exponential, "step": step}


def _images(exact: float) -> int:
    """The floor, not fooled by rounding: 5.999999999 means 6; at least one image."""
    return max(1, math.floor(exact * (1 + 1e-9)))


def _check(largest: int, imbalance: float, classes: int) -> None:
    for name, value in (("largest", largest), ("classes", classes)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"profile: {name} = {value!r}, but it must be a whole number of at least 1")
    if not isinstance(imbalance, Real) or not 1 <= float(imbalance) < math.inf:
        raise InputError(
            f"profile: imbalance = {imbalance!r}, but it must be a finite number of at least 1 "
            "(images of the largest class / images of the smallest)"
        )
