"""What Optuna is told about each trial, and how ranges and ASHA travel to Tune."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from optuna.trial import TrialState
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

from tune_lt.search.searcher import CellSearch, domain, scheduler
from tune_lt.study import Dimension, Search

SPACE = {
    "loss/alpha": Dimension("uniform", (0.3, 1.0)),
    "recipe/optimizer/lr": Dimension("loguniform", (0.01, 1.0)),
    "loss/regions": Dimension("int", (10, 12)),
    "loss/aura": Dimension("choice", (True, False)),
}


def _search(**options: Any) -> CellSearch:
    return CellSearch(SPACE, Search(**options), lambda found: {"loss": dict(found)})


def test_suggestions_lie_in_their_ranges_and_become_cells() -> None:
    searcher = _search(seed=1)
    seen: dict[str, set[Any]] = {path: set() for path in SPACE}
    for number in range(60):
        planned = searcher.suggest(str(number))["planned"]
        assert planned["cell"] == {"loss": planned["found"]}
        for path, value in planned["found"].items():
            seen[path].add(value)
        searcher.on_trial_complete(str(number), {"val/balanced": 0.5, "epoch": 4, "final": True})
    assert all(0.3 <= value <= 1.0 for value in seen["loss/alpha"])
    assert all(0.01 <= value <= 1.0 for value in seen["recipe/optimizer/lr"])
    assert seen["loss/regions"] == {10, 11, 12}  # both ends included
    assert seen["loss/aura"] == {True, False}


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_seed_fixes_the_suggestions(sampler: str) -> None:
    def first(seed: int) -> list[Any]:
        searcher = _search(sampler=sampler, seed=seed)
        return [searcher.suggest(str(number))["planned"]["found"] for number in range(3)]

    assert first(0) == first(0)
    assert first(0) != first(1)


def test_tpe_and_random_differ_once_there_is_evidence() -> None:
    def after_evidence(sampler: str) -> list[float]:
        searcher = _search(sampler=sampler, seed=0)
        for number in range(40):
            alpha = searcher.suggest(str(number))["planned"]["found"]["loss/alpha"]
            result = {"val/balanced": 1 - abs(alpha - 0.9), "epoch": 4, "final": True}
            searcher.on_trial_complete(str(number), result)
        return [trial.params["loss/alpha"] for trial in searcher.study.trials[20:]]

    tpe, random = after_evidence("tpe"), after_evidence("random")
    assert sum(abs(value - 0.9) for value in tpe) < sum(abs(value - 0.9) for value in random)


def test_optuna_is_told_the_truth() -> None:
    """Finished: COMPLETE. Stopped early: PRUNED with its last value. NaN or an error: FAILED. None stays RUNNING."""
    searcher = _search()
    for name in ("finished", "stopped", "nan", "error", "nothing"):
        searcher.suggest(name)
    for epoch, value in ((1, 0.4), (2, 0.5)):
        for name in ("finished", "stopped"):
            searcher.on_trial_result(name, {"val/balanced": value, "epoch": epoch, "final": False})
    searcher.on_trial_result("nan", {"val/balanced": math.nan, "epoch": 1, "final": False})
    searcher.on_trial_complete("finished", {"val/balanced": 0.6, "epoch": 4, "final": True})
    searcher.on_trial_complete("stopped", {"val/balanced": 0.5, "epoch": 2, "final": False})
    searcher.on_trial_complete("nan", {"val/balanced": math.nan, "epoch": 4, "final": True})
    searcher.on_trial_complete("error", error=True)
    searcher.on_trial_complete("nothing", None)
    searcher.on_trial_complete("finished", {"val/balanced": 0.1, "epoch": 4, "final": True})  # Tune may say it twice
    states = [trial.state for trial in searcher.study.trials]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL, TrialState.FAIL]
    finished, stopped, *_ = searcher.study.trials
    assert (finished.value, stopped.value) == (0.6, 0.5)
    assert stopped.intermediate_values == {1: 0.4, 2: 0.5}
    assert searcher.study.best_trial.number == 0


def test_mode_min_turns_the_search_around() -> None:
    searcher = _search(mode="min")
    for name, value in (("a", 0.2), ("b", 0.1)):
        searcher.suggest(name)
        searcher.on_trial_complete(name, {"val/balanced": value, "epoch": 4, "final": True})
    assert searcher.study.best_trial.number == 1


def test_domains_are_tunes_own() -> None:
    assert isinstance(domain(Dimension("uniform", (0.0, 1.0))), tune.search.sample.Float)
    integer = domain(Dimension("int", (3, 5)))
    assert (integer.lower, integer.upper) == (3, 6)
    assert domain(Dimension("choice", (1, 2))).categories == [1, 2]


@pytest.mark.parametrize(("epochs", "rungs"), [(40, [20, 10]), (4, [2, 1]), (10, [6, 3]), (100, [50, 25]), (1, [1])])
def test_asha_decides_at_a_quarter_and_at_half(epochs: int, rungs: list[int]) -> None:
    asha = scheduler(Search(), epochs)
    assert isinstance(asha, ASHAScheduler)
    assert [milestone for milestone, _ in asha._brackets[0]._rungs if milestone < epochs or epochs == 1] == rungs
    assert asha._time_attr == "epoch"


def test_no_scheduler_is_first_in_first_out() -> None:
    assert isinstance(scheduler(dataclasses.replace(Search(), scheduler="none"), 40), FIFOScheduler)
