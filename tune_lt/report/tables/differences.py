"""Differences between two rows, over runs paired by seeds: mean, interval, and from five pairs on a test."""

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
    """A row minus the reference, in points: the mean over ``pairs`` of runs and its 95 % interval [``low``, ``high``].

    ``p``: of Student's paired t-test, two-sided; NaN below five pairs. ``holm``: the same after Holm's correction for
    the other comparisons; NaN before `corrected`. The interval is NaN for a single pair. Everything but ``pairs`` is
    NaN where a run has no value.
    """

    mean: float
    low: float
    high: float
    pairs: int
    p: float = nan
    holm: float = nan


def difference(own: Mapping[Pair, float], reference: Mapping[Pair, float]) -> Difference:
    """``own`` minus ``reference`` over the seeds that both have; accuracies are fractions, by seeds."""
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
        t = abs(mean) / error if error else inf if mean else 0.0  # without spread p is 0, or 1 if all are 0
        p = float(2 * stats.t.sf(t, n - 1))
    return Difference(mean, mean - half, mean + half, n, p)


def tied(values: Mapping[str, Mapping[Pair, float]], best: str) -> set[str]:
    """The rows of ``values`` (fractions by seeds) that a paired test cannot tell from the ``best`` of them.

    p ≥ 0.05 after Holm's correction over the rows. Empty below five shared pairs, since there is no test then.
    """
    against = corrected({row: difference(own, values[best]) for row, own in values.items() if row != best})
    return {row for row, one in against.items() if not isnan(one.holm) and one.holm >= 1 - CONFIDENCE}


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values (1979): of m, the k-th smallest is multiplied by m − k + 1."""
    p = np.asarray(values, dtype=float)
    order = p.argsort()
    found = np.empty_like(p)
    found[order] = np.minimum(1.0, np.maximum.accumulate(np.arange(len(p), 0, -1) * p[order]))
    return found.tolist()


def corrected(differences: Mapping[Key, Difference]) -> dict[Key, Difference]:
    """The same differences with `Difference.holm` over all of them that were tested."""
    tested = [key for key, one in differences.items() if not isnan(one.p)]
    values = dict(zip(tested, holm([differences[key].p for key in tested]), strict=True))
    return {key: replace(one, holm=values.get(key, nan)) for key, one in differences.items()}
