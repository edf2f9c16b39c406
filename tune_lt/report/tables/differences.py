"""Rows against their table's reference row: paired differences with their interval, and a test where it has power."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isnan, nan, sqrt
from typing import TypeVar

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
PAIRS_TO_TEST = 5  # with fewer only the interval is shown

Pair = tuple[int, int]  # data seed, init seed
Key = TypeVar("Key")


@dataclass(frozen=True)
class Difference:
    """A row minus the reference, in points: the mean over ``pairs`` and its 95 % interval [``low``, ``high``].

    ``p`` is Student's paired t-test's, two-sided, NaN below five pairs; ``holm`` the same corrected for the other
    comparisons of its table. The interval is NaN for a single pair, everything but ``pairs`` where a value is NaN.
    """

    mean: float
    low: float
    high: float
    pairs: int
    p: float = nan
    holm: float = nan


def difference(own: Mapping[Pair, float], reference: Mapping[Pair, float]) -> Difference:
    """``own`` minus ``reference``, accuracies as fractions by seeds, over the seeds that both have."""
    shared = sorted(own.keys() & reference.keys())
    points = 100 * np.array([own[pair] - reference[pair] for pair in shared], dtype=float)
    n = len(points)
    if n == 0:
        return Difference(nan, nan, nan, 0)
    mean = float(points.mean())
    if n == 1 or isnan(mean):
        return Difference(mean, nan, nan, n)
    error = float(points.std(ddof=1)) / sqrt(n)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    p = nan
    if n >= PAIRS_TO_TEST:
        t = abs(mean) / error if error else inf if mean else 0.0  # equal differences: certain, or none at all
        p = float(2 * stats.t.sf(t, n - 1))
    return Difference(mean, mean - half, mean + half, n, p)


def tied(values: Mapping[str, Mapping[Pair, float]], best: str) -> set[str]:
    """The rows of ``values`` (fractions by seeds) that a paired test cannot tell from the ``best`` of them.

    p ≥ 0.05 after Holm's correction over the rows. None below five shared pairs, where there is no test: that a
    difference was not looked for is no sign that there is none.
    """
    against = corrected({row: difference(own, values[best]) for row, own in values.items() if row != best})
    return {row for row, one in against.items() if not isnan(one.holm) and one.holm >= 1 - CONFIDENCE}


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values (1979): of m, the k-th smallest is multiplied by m − k + 1."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    corrected, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = largest
    return corrected


def corrected(differences: Mapping[Key, Difference]) -> dict[Key, Difference]:
    """The same differences with `Difference.holm` over all of them that were tested."""
    tested = [key for key, one in differences.items() if not isnan(one.p)]
    values = dict(zip(tested, holm([differences[key].p for key in tested]), strict=True))
    return {key: replace(one, holm=values.get(key, nan)) for key, one in differences.items()}
