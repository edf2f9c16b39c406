"""Choosing from the trials of a search: the best, the plainest that is as good, the Pareto front."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from tune_lt.documents import Trial, violation
from tune_lt.study import Dimension, Search, Space


def eligible(trials: Sequence[Trial], search: Search, reference: Mapping[str, float]) -> list[Trial]:
    """The trials to choose from: complete, finite, and of those the ones that break the constraints least."""
    whole = [
        trial
        for trial in trials
        if trial.outcome == "complete" and all(math.isfinite(trial.value(name)) for name in search.watched)
    ]
    least = min((violation(trial, search.constraints, reference) for trial in whole), default=0.0)
    return [trial for trial in whole if violation(trial, search.constraints, reference) <= least]


def best(trials: Sequence[Trial], search: Search, reference: Mapping[str, float]) -> Trial | None:
    """The trial with the best metric, of two the best mean of both; the first of equals. None if none is eligible."""

    def quality(trial: Trial) -> float:
        return statistics.fmean(trial.value(name) for name in search.objectives)

    return max(eligible(trials, search, reference), key=quality, default=None)


def one_standard_error(
    trials: Sequence[Trial],
    space: Space,
    reference: Mapping[str, float],
    neutral: Mapping[str, float],
) -> Trial | None:
    """The plainest trial within one standard error of the best (Breiman et al. 1984); None where that has no meaning.

    Plainest is nearest to ``neutral``, the values at which the loss does least: the distance sums |x − neutral| over
    the parameters that have such a value, each in units of its range; in a logarithmic range, between logarithms, where
    a value below the range counts as its lower end. A parameter whose ``when`` does not hold has its default.
    """
    search = space.search
    top = best(trials, search, reference)
    if top is None or len(search.objectives) > 1 or not neutral:
        return None
    metric = search.objectives[0]
    error = top.standard_error(metric)
    if not math.isfinite(error):
        return None

    def distance(trial: Trial) -> float:
        values = space.complete(trial.found)
        return sum(_apart(space.space[path], values[path], value) for path, value in neutral.items())

    near = [trial for trial in eligible(trials, search, reference) if trial.value(metric) >= top.value(metric) - error]
    return min(near, key=lambda trial: (distance(trial), -trial.value(metric)))


def pareto(trials: Sequence[Trial], search: Search, reference: Mapping[str, float]) -> list[Trial]:
    """The eligible trials that no other is at least as good as in both metrics and better in one; best first metric
    first, of equal ones one."""
    points = {tuple(trial.value(name) for name in search.objectives): trial for trial in
              reversed(eligible(trials, search, reference))}  # fmt: skip
    return [points[point] for point in front(sorted(points, reverse=True))]


def front(points: Iterable[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Those of the points (larger is better) that no other beats in one number without losing in another.

    In the order given, of equal ones one.
    """
    found = list(dict.fromkeys(points))
    return [
        point
        for point in found
        if not any(other != point and all(a >= b for a, b in zip(other, point, strict=True)) for other in found)
    ]


def _apart(dimension: Dimension, one: float, other: float) -> float:
    """The distance of two values in units of the dimension's range."""
    low, high = min(dimension.values), max(dimension.values)
    if dimension.kind == "loguniform":
        return abs(math.log(max(one, low) / max(other, low))) / math.log(high / low)
    return abs(one - other) / (float(high - low) or 1.0)
