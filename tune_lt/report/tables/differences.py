"""What independent repetitions of a training say: intervals, differences of two rows, and what is tied with the best.

A repetition (a unit) is all runs on one draw of the training images, so runs that share their images count once.
`benchmarks/verdicts.py` counts how often each rule here is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isnan, nan, sqrt
from typing import Literal, TypeVar

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
LEAST = 3  # pairs: of fewer no interval is shown, so nothing is concluded
PAIRS_TO_TEST = 5  # with fewer only the interval is shown
SIMULATED, MOST_NUMBERS = 40_000, 20_000_000  # equal rows for `critical`, and normal numbers for all of them together

Pair = tuple[int, int]  # data seed, init seed
Key = TypeVar("Key")
Draw = Literal["fixed", "sub-sample", "bootstrap"]
"""What the data seed does: nothing, since all images are taken; a sub-sample; a bootstrap of all images."""


@dataclass(frozen=True)
class Sample:
    """A row's accuracies as fractions, one for each unit.

    ``step``: by how much one scored image changes such an accuracy at most; 0 if unknown. No standard error is below
    half of it. ``overlap``: how much units depend on each other because they are drawn from the same images; the
    standard error of a mean of n units with the standard deviation s is s · √(1/n + overlap). It is 0 for independent
    units, and 1 / (K − 1) for K folds (Nadeau and Bengio 2003). For a bootstrap it is 1: what one draw differs from
    another given the images is what the images differ from other images, and that does not fall with n.
    """

    values: Mapping[int, float]
    step: float = 0.0
    overlap: float = 0.0

    @classmethod
    def of(cls, values: Mapping[Pair, float], draw: Draw = "sub-sample", step: float = 0.0) -> Sample:
        """Of the values of runs: a unit is a data seed, or an init seed where all runs have the same images."""
        at = 0 if draw != "fixed" and len({data for data, _ in values}) > 1 else 1
        units: dict[int, list[float]] = {}
        for pair, value in values.items():
            units.setdefault(pair[at], []).append(value)
        means = {unit: sum(some) / len(some) for unit, some in units.items()}
        return cls(means, step, 1.0 if draw == "bootstrap" and at == 0 else 0.0)


@dataclass(frozen=True)
class Difference:
    """A row minus the reference, in points: the mean over ``pairs`` of units and its 95 % interval [``low``, ``high``].

    ``error``: the standard error of the mean. ``p``: of Student's paired t-test, two-sided; NaN below `PAIRS_TO_TEST`.
    ``holm``: the same after Holm's correction for the other comparisons; NaN before `corrected`. The interval is NaN
    below `LEAST` pairs, and where equal differences give no standard error. Everything but ``pairs`` is NaN where a
    unit has no value.
    """

    mean: float
    low: float
    high: float
    pairs: int
    p: float = nan
    holm: float = nan
    error: float = nan


def difference(own: Sample, reference: Sample, intervals: int = 1) -> Difference:
    """``own`` minus ``reference`` over the units that both have.

    ``intervals``: so many, this one among them, are to hold together with 95 % (Bonferroni).
    """
    shared = sorted(own.values.keys() & reference.values.keys())
    points = 100 * np.array([own.values[unit] - reference.values[unit] for unit in shared], dtype=float)
    n = len(points)
    mean = float(points.mean()) if n else nan
    step, overlap = max(own.step, reference.step), max(own.overlap, reference.overlap)
    error = float(standard_error(points, step, overlap)) if n > 1 else nan
    if n < LEAST or not error > 0:
        return Difference(mean, nan, nan, n, error=error)
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1)) if n >= PAIRS_TO_TEST else nan
    low, high = interval(mean, error, n, -100, intervals)
    return Difference(mean, float(low), float(high), n, p, error=error)


def standard_error(points: np.ndarray, step: float, overlap: float) -> np.ndarray:
    """Of the mean of ``points`` (..., n) over the last axis, of at least two units, see `Sample`; a number for each.

    ``points`` and the result are in points, ``step`` is a fraction.
    """
    spread = points.std(axis=-1, ddof=1).round(9)  # equal differences of fractions are not quite equal
    return np.maximum(spread * sqrt(1 / points.shape[-1] + overlap), 100 * step / 2)


def interval(
    mean: float | np.ndarray, error: float | np.ndarray, n: int, least: float, intervals: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Student's interval about means of ``n`` units, within [``least``, 100]; ``intervals``: as in `difference`."""
    half = stats.t.ppf(1 - (1 - CONFIDENCE) / 2 / intervals, n - 1) * error
    return np.maximum(least, mean - half), np.minimum(100.0, mean + half)


def tied(rows: Mapping[str, Sample], best: str) -> set[str]:
    """The ``rows`` that cannot be told from the one with the best mean; empty below `PAIRS_TO_TEST` pairs.

    A row is told from it if the mean difference exceeds `critical` standard errors. So at most 5 % of the tables of
    equal rows leave one of them out, however many rows there are.
    """
    against = {row: difference(own, rows[best]) for row, own in rows.items() if row != best}
    known = {row: one for row, one in against.items() if one.pairs >= PAIRS_TO_TEST and not isnan(one.mean)}
    return {
        row for row, one in known.items() if not abs(one.mean) > critical(len(known) + 1, one.pairs) * one.error > 0
    }


@lru_cache
def critical(rows: int, pairs: int) -> float:
    """How many standard errors the best of equal rows is above another one in 5 % of all tables.

    It is the 95 % point of the largest paired t between the best of ``rows`` means and the others, found by simulating
    normal rows; for two rows it is Student's. The studentised range (Tukey) assumes that all rows vary alike, and is
    wrong in a fifth of the tables where one row varies more; here each pair has a standard error of its own.
    """
    if rows == 2:
        return float(stats.t.ppf((1 + CONFIDENCE) / 2, pairs - 1))
    draw = np.random.default_rng(0)
    count = max(1000, min(SIMULATED, MOST_NUMBERS // (rows * pairs)))
    largest = [_largest_t(draw.standard_normal((100, rows, pairs))) for _ in range(count // 100)]
    return float(np.quantile(np.concatenate(largest), CONFIDENCE))


def _largest_t(values: np.ndarray) -> np.ndarray:
    """Of each table (tables, rows, pairs): the largest paired t between its best row and another one."""
    tables, _, pairs = values.shape
    gaps = values[np.arange(tables), values.mean(axis=2).argmax(axis=1)][:, None] - values
    errors = gaps.std(axis=2, ddof=1) / sqrt(pairs)
    t = np.divide(gaps.mean(axis=2), errors, out=np.zeros_like(errors), where=errors > 0)  # 0 for the best itself
    found: np.ndarray = t.max(axis=1)
    return found


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
