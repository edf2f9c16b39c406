"""The published size of a data set, which what lies on the disk must have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tune_lt.errors import InputError
from tune_lt.texts import some


@dataclass(frozen=True)
class Totals:
    """How many classes a data set has, and how many training and test images each of them."""

    classes: int
    train: int
    test: int

    def check(self, where: str, names: Sequence[str], train: Sequence[int], test: Sequence[int]) -> None:
        """Raise InputError unless the images found of each class are as many as published.

        ``where`` begins the message; ``train``, ``test``: images found of each class of ``names``.
        """
        if len(names) != self.classes:
            raise InputError(f"{where}: {len(names)} classes found, {self.classes} expected")
        wrong = [
            f"class {name!r} has {count} {split} images, {expected} expected"
            for split, counts, expected in (("training", train, self.train), ("test", test, self.test))
            for name, count in zip(names, counts, strict=True)
            if count != expected
        ]
        if wrong:
            raise InputError(f"{where}: {some(wrong, separator='; ')}: unpack the archive again")


@dataclass(frozen=True)
class Sums:
    """How many classes, training and test images a data set has in all, where classes differ in size."""

    classes: int
    train: int
    test: int

    def check(self, where: str, classes: int, train: int, test: int) -> None:
        """Raise InputError, ``where`` first, unless as many were found as published."""
        if (classes, train, test) != (self.classes, self.train, self.test):
            raise InputError(
                f"{where}: {classes} classes, {train} training images, {test} test images found, {self.classes}, "
                f"{self.train}, {self.test} expected; unpack the archives again"
            )
