"""Which trial a search chooses, against hand-computed cases and plain loops."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import statistics

import pytest

from tune_lt.documents import Trial, violation
from tune_lt.run.search import selection
from tune_lt.study import Dimension, Search, Space

ONE = Search(metric="val/balanced")
TWO = Search(metric=("val/top1", "val/rare"))
DIMENSIONS = {"loss/alpha": Dimension("uniform", (0.2, 1.2)), "loss/gamma": Dimension("uniform", (0.0, 2.0))}
SPACE = Space("ghm_cwap", {}, {}, DIMENSIONS, ONE)


def _trial(alpha: float, units: list[float], outcome: str = "complete", gamma: float = 1.0) -> Trial:
    found = {"loss/alpha": alpha, "loss/gamma": gamma}
    return Trial(found, outcome, {"val/balanced": statistics.fmean(units)}, {"val/balanced": units})


def _two(top1: float, rare: float, many: float = 1.0) -> Trial:
    metrics = {"val/top1": top1, "val/rare": rare, "val/many": many}
    return Trial({}, "complete", metrics)


def test_the_standard_error_is_that_of_a_mean() -> None:
    def error(units: list[float]) -> float:
        return _trial(0.5, units).standard_error("val/balanced")

    assert error([1.0, 2.0, 3.0]) == pytest.approx(1 / math.sqrt(3))
    assert math.isnan(error([1.0]))
    assert error([1.0, math.nan, 3.0]) == pytest.approx(math.sqrt(2) / math.sqrt(2))


def test_the_best_is_complete_and_finite() -> None:
    trials = [_trial(0.3, [0.9], "pruned"), _trial(0.5, [0.6]), _trial(0.7, [0.7]), _trial(0.9, [math.nan])]
    assert selection.best(trials, ONE, {}) is trials[2]
    assert selection.best(trials[:1], ONE, {}) is None


def test_one_standard_error_takes_the_plainest_that_is_as_good() -> None:
    """The best has mean 0.70 and standard error 0.02 / sqrt(4) = 0.01: 0.69 and better will do."""
    spread = [0.7 - 0.02, 0.7 + 0.02, 0.7 - 0.01, 0.7 + 0.01]
    error = _trial(0.5, spread).standard_error("val/balanced")
    good = [_trial(0.5, spread), _trial(0.8, [0.7 - 0.9 * error] * 4), _trial(0.9, [0.7 - 1.1 * error] * 4)]
    neutral = {"loss/alpha": 1.0}
    assert selection.one_standard_error(good, SPACE, {}, neutral) is good[1]
    assert selection.one_standard_error(good, SPACE, {}, {"loss/alpha": 0.5}) is good[0]
    assert selection.one_standard_error(good, SPACE, {}, {}) is None  # nothing is plainer than another
    assert selection.one_standard_error([_trial(0.5, [0.7])], SPACE, {}, neutral) is None  # no error known


def test_of_equally_plain_trials_the_better_one_is_taken() -> None:
    """0.8 and 1.2 are as far from alpha 1; the order they ended in does not decide."""
    best, lower, higher = _trial(0.4, [0.6, 0.8]), _trial(0.8, [0.64, 0.72]), _trial(1.2, [0.65, 0.73])
    for order in itertools.permutations((best, lower, higher)):
        assert selection.one_standard_error(order, SPACE, {}, {"loss/alpha": 1.0}) is higher


def test_there_is_no_standard_error_of_two_metrics() -> None:
    units = {"val/top1": [0.5, 0.6], "val/rare": [0.1, 0.2]}
    trials = [
        Trial({"loss/alpha": alpha}, "complete", {"val/top1": 0.55, "val/rare": 0.15}, units) for alpha in (0.3, 0.9)
    ]
    assert selection.one_standard_error(trials, dataclasses.replace(SPACE, search=TWO), {}, {"loss/alpha": 1.0}) is None


def test_the_distance_to_plain_is_in_units_of_each_range() -> None:
    """0.3 of alpha's range of 1 is further than 0.4 of gamma's range of 2."""
    units = [0.5, 0.7]
    far, near = _trial(0.7, units, gamma=0.0), _trial(1.0, units, gamma=0.4)
    chosen = selection.one_standard_error([far, near], SPACE, {}, {"loss/alpha": 1.0, "loss/gamma": 0.0})
    assert chosen is near


def test_distances_in_a_logarithmic_range_are_logarithmic() -> None:
    """From gamma 0, below the range, 0.01 is 1/3 of three decades and 0.1 is 2/3; alpha 0.7 is half its range off."""
    dimensions = {**DIMENSIONS, "loss/gamma": Dimension("loguniform", (0.001, 1.0))}
    neutral = {"loss/alpha": 1.2, "loss/gamma": 0.0}
    near, far, other = (_trial(1.2, [0.5, 0.7], gamma=0.01), _trial(1.2, [0.5, 0.7], gamma=0.1),
                        _trial(0.7, [0.5, 0.7], gamma=0.001))  # fmt: skip

    def chosen(*trials: Trial) -> Trial | None:
        space = dataclasses.replace(SPACE, space=dimensions)
        return selection.one_standard_error(trials, space, {}, neutral)

    assert chosen(far, other, near) is near
    assert chosen(far, other) is other


def test_where_a_condition_does_not_hold_the_default_counts() -> None:
    """Without its condition gamma keeps its default 1.8, which is further from 0 than 0.4 where the condition holds."""
    gamma = Dimension("uniform", (0.0, 2.0), {"loss/aura": (True,)})
    space = dataclasses.replace(SPACE, space={"loss/aura": Dimension("choice", (True, False)), "loss/gamma": gamma},
                                plain={"loss/gamma": 1.8})  # fmt: skip
    metrics, units = {"val/balanced": 0.6}, {"val/balanced": [0.5, 0.7]}
    without = Trial({"loss/aura": False}, "complete", metrics, units)
    near, far = (Trial({"loss/aura": True, "loss/gamma": g}, "complete", metrics, units) for g in (0.4, 1.9))
    neutral = {"loss/gamma": 0.0}
    assert selection.one_standard_error([without, near], space, {}, neutral) is near
    assert selection.one_standard_error([far, without], space, {}, neutral) is without


def test_the_pareto_front_is_what_nothing_beats() -> None:
    random_ = random.Random(0)
    trials = [_two(round(random_.random(), 1), round(random_.random(), 1)) for _ in range(60)]
    points = {(t.metrics["val/top1"], t.metrics["val/rare"]) for t in trials}
    expected = {a for a in points if not any(b != a and b[0] >= a[0] and b[1] >= a[1] for b in points)}
    front = selection.pareto(trials, TWO, {})
    assert [(t.metrics["val/top1"], t.metrics["val/rare"]) for t in front] == sorted(expected, reverse=True)


def test_of_two_metrics_the_best_mean_wins() -> None:
    trials = [_two(0.9, 0.1), _two(0.7, 0.4), _two(0.5, 0.5)]
    assert selection.best(trials, TWO, {}) is trials[1]


def test_constraints_come_first_and_the_least_broken_counts_where_none_hold() -> None:
    search = Search(metric=("val/top1", "val/rare"), constraints={"val/many": 0.01})
    reference = {"val/many": 0.90}
    trials = [_two(0.9, 0.9, many=0.80), _two(0.5, 0.5, many=0.895), _two(0.4, 0.4, many=0.99)]
    assert [violation(trial, search.constraints, reference) for trial in trials] == pytest.approx([0.09, 0.0, 0.0])
    assert selection.best(trials, search, reference) is trials[1]
    assert selection.pareto(trials, search, reference) == [trials[1]]
    broken = [_two(0.9, 0.9, many=0.80), _two(0.1, 0.1, many=0.85)]
    assert selection.best(broken, search, reference) is broken[1]


def test_the_order_of_trials_does_not_matter_but_for_ties() -> None:
    trials = [_two(0.9, 0.1), _two(0.7, 0.4), _two(0.5, 0.5), _two(0.6, 0.3)]
    for order in itertools.permutations(trials):
        assert selection.best(order, TWO, {}) is trials[1]
        assert selection.pareto(order, TWO, {}) == trials[:3]


def test_the_front_is_what_nobody_beats() -> None:
    points = [(1.0, 5.0), (2.0, 4.0), (2.0, 3.0), (3.0, 1.0), (0.0, 5.0), (2.0, 4.0)]
    assert selection.front(points) == [(1, 5), (2, 4), (3, 1)]
