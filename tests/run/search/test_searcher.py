"""What Optuna is told about each trial, and how ranges and ASHA travel to Tune."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from tune_lt.config import CellConfig
from tune_lt.documents import Trial
from tune_lt.errors import InputError
from tune_lt.run.search.planned import PlannedTrial, Record, Unit
from tune_lt.run.search.schedulers import CellASHA, FoldRacing, milestones, scheduler
from tune_lt.run.search.searcher import CellSearch, distribution
from tune_lt.study import Dimension, Search, Space

SPACE = {
    "loss/alpha": Dimension("uniform", (0.3, 1.0)),
    "recipe/optimizer/lr": Dimension("loguniform", (0.01, 1.0)),
    "loss/regions": Dimension("int", (10, 12)),
    "loss/aura": Dimension("choice", (True, False)),
}


SEARCH = Search(scheduler="asha")


def _plan(found: Mapping[str, Any], known: Mapping[str, float] | None = None) -> PlannedTrial:
    """A planned trial of one unit, whose fingerprint is its values."""
    fingerprint = json.dumps(dict(found), sort_keys=True)
    unit = Unit(CellConfig({}, {}, dict(found)), fingerprint, known)
    return PlannedTrial((unit,), fingerprint, Record("k", "n", {}, {}), ("val/balanced",), dict(found))


def _past(
    number: int,
    found: Mapping[str, Any],
    fingerprint: str,
    outcome: str,
    metrics: Mapping[str, float] | None = None,
    epochs: int = 0,
    **more: Any,
) -> Trial:
    """A trial of an earlier driver."""
    return Trial(found, outcome, metrics or {}, epochs=epochs, number=number, fingerprint=fingerprint, **more)


def _space(space: Mapping[str, Dimension], **options: Any) -> Space:
    return Space("ghm_cwap", {}, {}, space, Search(**{"trials": 100} | options))


def _search(past: Sequence[Trial] = (), **options: Any) -> CellSearch:
    return CellSearch(_space(SPACE, **options), _plan, past)


def _result(value: float, step: int = 4, *, final: bool = True) -> dict[str, Any]:
    return {"mean:val/balanced": value, "epoch": step, "step": step, "final": final}


def test_suggestions_lie_in_their_ranges_and_become_cells() -> None:
    searcher = _search(seed=1)
    seen: dict[str, set[Any]] = {path: set() for path in SPACE}
    for number in range(60):
        planned = searcher.suggest(str(number))["planned"]
        assert planned.units[0].cell.loss == planned.found
        assert planned.record.tags == {"trial": str(number)}
        for path, value in planned.found.items():
            seen[path].add(value)
        searcher.on_trial_complete(str(number), _result(0.5, 4))
    assert all(0.3 <= value <= 1.0 for value in seen["loss/alpha"])
    assert all(0.01 <= value <= 1.0 for value in seen["recipe/optimizer/lr"])
    assert seen["loss/regions"] == {10, 11, 12}  # both ends included
    assert seen["loss/aura"] == {True, False}


def test_it_ends_after_the_trials_asked_for() -> None:
    searcher = _search(trials=2)
    first, second = searcher.suggest("a"), searcher.suggest("b")
    assert first != second
    assert searcher.suggest("c") == Searcher.FINISHED
    assert not searcher.exhausted
    for name in ("a", "b"):
        searcher.on_trial_complete(name, _result(0.5, 4))
    assert searcher.exhausted


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_seed_fixes_the_suggestions(sampler: str) -> None:
    def first(seed: int) -> list[Any]:
        searcher = _search(sampler=sampler, seed=seed)
        return [searcher.suggest(str(number))["planned"].found for number in range(3)]

    assert first(0) == first(0)
    assert first(0) != first(1)


def test_tpe_and_random_differ_once_there_is_evidence() -> None:
    def after_evidence(sampler: str) -> list[float]:
        searcher = _search(sampler=sampler, seed=0, trials=40)
        for number in range(40):
            alpha = searcher.suggest(str(number))["planned"].found["loss/alpha"]
            result = _result(1 - abs(alpha - 0.9), 4)
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
            searcher.on_trial_result(name, _result(value, epoch, final=False))
    searcher.on_trial_result("nan", _result(math.nan, 1, final=False))
    searcher.on_trial_complete("finished", _result(0.6, 4))
    searcher.on_trial_complete("stopped", _result(0.5, 2, final=False))
    searcher.on_trial_complete("nan", _result(math.nan, 4))
    searcher.on_trial_complete("error", error=True)
    searcher.on_trial_complete("nothing", None)
    searcher.on_trial_complete("finished", _result(0.1, 4))  # Tune may say it twice
    states = [trial.state for trial in searcher.study.trials]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL, TrialState.FAIL]
    finished, stopped, *_ = searcher.study.trials
    assert (finished.value, stopped.value) == (0.6, 0.5)
    assert stopped.intermediate_values == {1: 0.4, 2: 0.5}
    assert searcher.study.best_trial.number == 0


def test_ranges_are_optunas_own() -> None:
    assert distribution(Dimension("uniform", (0.0, 1.0))) == FloatDistribution(0.0, 1.0)
    assert distribution(Dimension("loguniform", (0.1, 1.0))) == FloatDistribution(0.1, 1.0, log=True)
    assert distribution(Dimension("int", (3, 5))) == IntDistribution(3, 5)
    assert distribution(Dimension("choice", (1, 2))) == CategoricalDistribution((1, 2))


@pytest.mark.parametrize(("epochs", "rungs"), [(40, [10, 20]), (4, [1, 2]), (10, [3, 6]), (100, [25, 50]), (2, [1])])
def test_asha_decides_after_about_a_quarter_and_half(epochs: int, rungs: list[int]) -> None:
    asha = scheduler(SEARCH, epochs)
    assert isinstance(asha, CellASHA)
    assert milestones(SEARCH, epochs) == rungs
    assert sorted(milestone for milestone, _ in asha.rungs if milestone < epochs) == rungs
    assert asha._time_attr == "step"


def test_an_unknown_sampler_or_scheduler_is_refused() -> None:
    unknown: Any = "tbe"
    with pytest.raises(InputError, match=r"search\.sampler 'tbe'; did you mean 'tpe'\? valid: grid, random, tpe"):
        _search(sampler=unknown)
    for unknown in ("ash", None):
        with pytest.raises(InputError, match=r"unknown search.scheduler .*valid: asha, none, racing"):
            scheduler(dataclasses.replace(Search(), scheduler=unknown), 40)


def test_no_scheduler_is_first_in_first_out() -> None:
    search = dataclasses.replace(Search(), scheduler="none")
    assert isinstance(scheduler(search, 40), FIFOScheduler)
    assert milestones(search, 40) == []


HALF = {"val/balanced": 0.5}
SMALL = {"loss/aura": Dimension("choice", (True, False))}


def test_a_cell_is_never_suggested_twice() -> None:
    """Six trials over two values: two are trained, the others take over their results, one in flight included."""
    reused: list[tuple[int, Any]] = []
    searcher = CellSearch(
        _space(SMALL, trials=6), _plan, on_reuse=lambda number, planned, known: reused.append((number, planned.found))
    )
    first, second = searcher.suggest("a"), searcher.suggest("b")
    assert first["planned"].found != second["planned"].found
    assert searcher.suggest("c") == Searcher.FINISHED
    assert len(reused) == 4
    searcher.on_trial_complete("a", _result(0.7, 4))
    searcher.on_trial_complete("b", _result(0.5, 4))
    value = {first["planned"].found["loss/aura"]: 0.7, second["planned"].found["loss/aura"]: 0.5}
    assert [trial.value for trial in searcher.study.trials] == [
        value[t.params["loss/aura"]] for t in searcher.study.trials
    ]
    assert searcher.exhausted


def test_a_cell_another_study_trained_is_taken_over() -> None:
    searcher = CellSearch(_space(SMALL, trials=3), lambda found: _plan(found, {"val/balanced": 0.9}))
    assert searcher.suggest("a") == Searcher.FINISHED
    assert [(trial.state, trial.value) for trial in searcher.study.trials] == [(TrialState.COMPLETE, 0.9)] * 3


def _run(searcher: CellSearch, numbers: range, values: dict[int, float]) -> list[dict[str, Any]]:
    """Suggest and finish trials one after the other; what was found."""
    found = []
    for number in numbers:
        found.append(searcher.suggest(str(number))["planned"].found)
        searcher.on_trial_result(str(number), _result(values[number]))
        searcher.on_trial_complete(str(number), _result(values[number], final=number % 3 != 0))
    return found


def test_a_search_that_starts_again_goes_on_as_if_it_had_not_stopped() -> None:
    values = {number: 0.5 + 0.01 * number for number in range(20)}
    whole = _run(_search(trials=20), range(20), values)
    past = [
        _past(
            number=number,
            found=found,
            fingerprint=_plan(found).fingerprint,
            outcome="complete" if number % 3 else "pruned",
            metrics={"val/balanced": values[number]},
            epochs=4,
        )
        for number, found in enumerate(whole[:12])
    ]
    restarted = _search(past, trials=20)
    states = [trial.state for trial in restarted.study.trials]
    assert states == [TrialState.PRUNED, TrialState.COMPLETE, TrialState.COMPLETE] * 4
    assert [trial.value for trial in restarted.study.trials] == [values[number] for number in range(12)]
    assert _run(restarted, range(12, 20), values) == whole[12:]


def test_trials_in_flight_are_carried_on_first_under_their_numbers() -> None:
    whole = _run(_search(trials=6), range(6), dict.fromkeys(range(6), 0.5))
    past = [
        _past(number, found, _plan(found).fingerprint, "running" if number in (1, 3) else "complete", HALF, 4)
        for number, found in enumerate(whole[:4])
    ]
    searcher = _search(past, trials=6)
    assert [trial.state for trial in searcher.study.trials][1] == TrialState.RUNNING
    suggested = [searcher.suggest(str(turn))["planned"] for turn in range(4)]
    assert [planned.record.tags["trial"] for planned in suggested] == ["1", "3", "4", "5"]
    assert [planned.found for planned in suggested[:2]] == [whole[1], whole[3]]
    assert searcher.suggest("x") == Searcher.FINISHED


def test_failed_trials_of_the_past_are_failed_and_more_trials_extend() -> None:
    past = [_past(0, {"loss/aura": True}, "f0", "failed"), _past(1, {"loss/aura": True}, "f1", "complete", HALF, 4)]
    searcher = CellSearch(_space(SMALL, trials=2), _plan, past)
    assert [trial.state for trial in searcher.study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert searcher.exhausted
    assert not CellSearch(_space(SMALL, trials=3), _plan, past).exhausted


class _Trial:
    """As much of Tune's trial as ASHA looks at."""

    status = "RUNNING"
    last_result: Mapping[str, Any] = {}

    def __init__(self, trial_id: str, fingerprint: str, *, recovers: bool = False) -> None:
        self.trial_id, self.config = trial_id, {"planned": PlannedTrial((), fingerprint, Record("", "", {}, {}))}
        self._recovers = recovers

    def should_recover(self) -> bool:
        return self._recovers


def _asha(past: Sequence[Trial] = ()) -> CellASHA:
    asha = scheduler(SEARCH, 40, past)
    assert isinstance(asha, CellASHA)
    return asha


def _report(asha: CellASHA, trial: _Trial, epoch: int, value: float) -> str:
    return asha.on_trial_result(None, trial, {"step": epoch, "mean:val/balanced": value})  # type: ignore[arg-type]


def test_asha_starts_again_with_its_rungs() -> None:
    asha = _asha()
    decisions = []
    for number, value in enumerate([0.5, 0.6, 0.4, 0.7]):
        trial = _Trial(f"t{number}", f"f{number}")
        asha.on_trial_add(None, trial)  # type: ignore[arg-type]
        decisions.append(_report(asha, trial, 10, value))
        if decisions[-1] == "CONTINUE":
            decisions.append(_report(asha, trial, 20, value))
    rungs = {epoch: sorted(recorded.values()) for epoch, recorded in asha.rungs}
    past = [
        _past(number, {}, f"f{number}", "complete", rungs={10: value} | ({20: value} if value != 0.4 else {}))
        for number, value in enumerate([0.5, 0.6, 0.4, 0.7])
    ]
    restarted = _asha(past)
    assert {epoch: sorted(recorded.values()) for epoch, recorded in restarted.rungs} == rungs
    for value in (0.54, 0.56):
        for scheduler_ in (asha, restarted):
            scheduler_.on_trial_add(None, _Trial(f"n{value}", f"n{value}"))  # type: ignore[arg-type]
        trial = _Trial(f"n{value}", f"n{value}")
        assert _report(asha, trial, 10, value) == _report(restarted, trial, 10, value)


def test_a_trial_that_is_carried_on_is_judged_again_only_where_nobody_has_decided() -> None:
    """It died at epoch 10 or later. Resumed at 11 its first rung stands; at 10 it is judged again."""
    past = [_past(0, {}, "good", "complete", rungs={10: 0.9}), _past(1, {}, "mine", "running", rungs={10: 0.1})]
    for epoch, expected in ((11, "CONTINUE"), (10, "STOP")):
        asha = _asha(past)
        trial = _Trial("new-id", "mine")
        asha.on_trial_add(None, trial)  # type: ignore[arg-type]
        assert _report(asha, trial, epoch, 0.1) == expected
        assert sorted(dict(asha.rungs)[10].values()) == [0.1, 0.9]


def test_a_dimension_is_suggested_only_where_it_matters() -> None:
    space = {
        "loss/weight": Dimension("choice", ("effective", "none")),
        "loss/alpha": Dimension("uniform", (0.3, 1.0), {"loss/weight": ("effective",)}),
    }
    searcher = CellSearch(_space(space, trials=30), _plan)
    for number in range(30):
        found = searcher.suggest(str(number))
        if found == Searcher.FINISHED:  # "none" has one configuration only: the second is taken over
            break
        assert ("loss/alpha" in found["planned"].found) == (found["planned"].found["loss/weight"] == "effective")
        searcher.on_trial_complete(str(number), _result(0.5))
    params = [trial.params for trial in searcher.study.trials]
    assert len(params) == 30
    assert {"loss/alpha" in one for one in params if one["loss/weight"] == "none"} == {False}


def test_a_grid_takes_every_point_once_and_starts_again_where_it_was() -> None:
    space = {"loss/alpha": Dimension("choice", (0.3, 0.6, 0.9)), "loss/regions": Dimension("int", (10, 11))}
    expected = [{"loss/alpha": a, "loss/regions": r} for a in (0.3, 0.6, 0.9) for r in (10, 11)]
    searcher = CellSearch(_space(space, trials=6, sampler="grid"), _plan)
    assert _run(searcher, range(6), dict.fromkeys(range(6), 0.5)) == expected
    assert searcher.suggest("x") == Searcher.FINISHED
    past = [_past(n, expected[n], _plan(expected[n]).fingerprint, "complete", HALF, 4) for n in (0, 2)]
    again = CellSearch(_space(space, trials=6, sampler="grid"), _plan, past)
    assert [again.suggest(str(n))["planned"].found for n in range(4)] == [expected[n] for n in (1, 3, 4, 5)]


def _both(top1: float, rare: float, many: float) -> dict[str, Any]:
    means = {"mean:val/top1": top1, "mean:val/rare": rare, "mean:val/many": many}
    return {**means, "epoch": 4, "step": 4, "final": True}


def test_two_metrics_and_a_constraint_reach_optuna() -> None:
    options: dict[str, Any] = {"metric": ("val/top1", "val/rare"), "constraints": {"val/many": 0.01}, "trials": 3}
    searcher = CellSearch(_space(SPACE, **options), _plan, reference={"val/many": 0.9})
    values = [(0.7, 0.1, 0.95), (0.6, 0.4, 0.90), (0.9, 0.9, 0.80)]
    found = []
    for number, (top1, rare, many) in enumerate(values):
        found.append(searcher.suggest(str(number))["planned"].found)
        searcher.on_trial_result(str(number), _both(top1, rare, many))  # Optuna takes no steps of two metrics
        searcher.on_trial_complete(str(number), _both(top1, rare, many))
    trials = searcher.study.trials
    assert [trial.values for trial in trials] == [[0.7, 0.1], [0.6, 0.4], [0.9, 0.9]]
    assert [trial.constraints["val/many"] for trial in trials] == pytest.approx([-0.06, -0.01, 0.09])
    assert [trial.number for trial in searcher.study.best_trials] == [0, 1]  # the last one breaks the constraint
    names = ("val/top1", "val/rare", "val/many")
    past = [
        _past(n, found[n], _plan(found[n]).fingerprint, "complete", dict(zip(names, values[n], strict=True)), 4)
        for n in range(3)
    ]
    again = CellSearch(_space(SPACE, **options), _plan, past, reference={"val/many": 0.9})
    assert [trial.values for trial in again.study.trials] == [trial.values for trial in trials]
    assert [t.constraints["val/many"] for t in again.study.trials] == pytest.approx([-0.06, -0.01, 0.09])


def _racing(past: Sequence[Trial] = (), **options: Any) -> FoldRacing:
    racing = scheduler(Search(scheduler="racing"), 4, past, units=5, **options)
    assert isinstance(racing, FoldRacing)
    return racing


def _unit(racing: FoldRacing, name: str, unit: int, value: float | None) -> str:
    result = {"unit": unit, "unit_final": True, "final": unit == 4, "known": False}
    result |= {} if value is None else {"val/balanced": value}
    return racing.on_trial_result(None, _Trial(name, name), result)  # type: ignore[arg-type]


GOOD = [0.80, 0.81, 0.79, 0.80, 0.81]
BAD = [0.30, 0.31, 0.29, 0.30, 0.31]


def test_racing_stops_between_folds_what_is_far_worse_and_nothing_else() -> None:
    racing = _racing()
    assert [_unit(racing, "first", unit, value) for unit, value in enumerate(GOOD)] == ["CONTINUE"] * 5
    better = [value + 0.05 for value in GOOD]
    assert [_unit(racing, "better", unit, value) for unit, value in enumerate(better)] == ["CONTINUE"] * 5
    decisions = [_unit(racing, "bad", unit, value) for unit, value in enumerate(BAD)]
    assert "STOP" in decisions[:4]
    within = {"unit": 0, "unit_final": False, "final": False, "val/balanced": 0.0}
    assert racing.on_trial_result(None, _Trial("new", "new"), within) == "CONTINUE"  # type: ignore[arg-type]


def test_racing_goes_by_the_folds_that_have_the_metric() -> None:
    """The first and the fourth fold hold out no image that it is about: their results do not have it."""
    racing = _racing(without=(0, 3))
    assert racing.metric is None  # else Ray would demand it of every result

    def decisions(name: str, values: Sequence[float]) -> list[str]:
        return [_unit(racing, name, unit, None if unit in (0, 3) else values[unit]) for unit in range(5)]

    assert decisions("first", GOOD) == ["CONTINUE"] * 5
    assert decisions("same", GOOD) == ["CONTINUE"] * 5
    assert decisions("bad", BAD)[:2] == ["CONTINUE", "STOP"]
    known = [math.nan if unit in (0, 3) else value for unit, value in enumerate(GOOD)]
    again = _racing([_past(0, {}, "first", "complete", units={"val/balanced": known})], without=(0, 3))
    assert again._race.compare("bad") is None
    assert _unit(again, "bad", 0, None) == "CONTINUE"
    assert _unit(again, "bad", 1, BAD[1]) == "STOP"


def test_racing_starts_again_with_what_the_store_has() -> None:
    past = [
        _past(0, {}, "first", "complete", units={"val/balanced": GOOD}),
        _past(1, {}, "other", "pruned", units={"val/balanced": BAD[:2]}),
    ]
    before, after = _racing(), _racing(past)
    for unit, value in enumerate(GOOD):
        _unit(before, "first", unit, value)
    for unit, value in enumerate(BAD[:2]):
        _unit(before, "other", unit, value)
    for unit, value in enumerate([0.75, 0.76, 0.70, 0.71, 0.72]):
        assert _unit(before, "mine", unit, value) == _unit(after, "mine", unit, value)


def test_a_trial_in_flight_brings_no_unit_to_a_race_that_starts_again() -> None:
    """Its run has the mean of what it has had so far, which is the value of no unit."""
    flying = _past(1, {}, "mine", "running", units={"val/balanced": [0.1]})
    done = [_past(0, {}, "first", "complete", units={"val/balanced": GOOD})]
    for past in (done, [*done, flying]):
        racing = _racing(past)
        assert racing._race.compare("mine") is None
        assert _unit(racing, "mine", 1, 0.80) == "CONTINUE"


def test_what_failed_by_an_accident_is_tried_again_under_another_number() -> None:
    """Two values: once both have failed with an error of the machine, the next number tries one of them again."""
    searcher = CellSearch(_space(SMALL, trials=6), _plan)
    begun = []
    for number in range(6):
        begun.append(searcher.suggest(str(number))["planned"].fingerprint)
        searcher.on_trial_complete(str(number), None, error=True)
    assert len(begun) == 6
    assert len(set(begun)) == 2
    assert searcher.exhausted


def test_asha_leaves_what_comes_after_the_first_unit_alone() -> None:
    asha = _asha([_past(0, {}, "good", "complete", rungs={10: 0.9, 20: 0.9})])
    trial = _Trial("t", "t")
    asha.on_trial_add(None, trial)  # type: ignore[arg-type]
    base = {"mean:val/balanced": 0.1, "final": False}
    known = base | {"known": True, "unit": 0, "unit_final": True, "step": 40}
    later = base | {"known": False, "unit": 1, "unit_final": False, "step": 50}
    last = base | {"known": False, "unit": 0, "unit_final": True, "step": 40}
    for result in (known, later, last):
        assert asha.on_trial_result(None, trial, result) == "CONTINUE"  # type: ignore[arg-type]
    assert _report(asha, trial, 10, 0.1) == "STOP"


def test_a_trial_that_is_carried_on_is_judged_with_all_that_is_known_of_it() -> None:
    """Its first unit is bad, the others are better than the best: by the first alone it would be stopped."""
    racing = _racing([_past(0, {}, "best", "complete", units={"val/balanced": GOOD})])
    scores = [0.74, 0.86, 0.87, 0.86]
    trial = _Trial("t", "mine")
    known = [*({"val/balanced": score} for score in scores), None]
    units = tuple(Unit(CellConfig({}, {}, {}), "", one) for one in known)
    trial.config["planned"] = dataclasses.replace(trial.config["planned"], units=units)
    racing.on_trial_add(None, trial)  # type: ignore[arg-type]
    for unit, score in enumerate(scores):
        result = {"unit": unit, "unit_final": True, "final": False, "known": True, "val/balanced": score}
        assert racing.on_trial_result(None, trial, result) == "CONTINUE"  # type: ignore[arg-type]


def test_a_trial_that_failed_is_no_rival() -> None:
    racing = _racing()
    for unit, value in enumerate([0.9, 0.9, 0.9]):
        _unit(racing, "fails", unit, value)
    failed = {"unit": 3, "failed": "TrainingFailed: nan", "final": True, "epoch": 0}
    racing.on_trial_result(None, _Trial("fails", "fails"), failed)  # type: ignore[arg-type]
    after = _racing([_past(0, {}, "fails", "failed", units={"val/balanced": [0.9, 0.9, 0.9]})])
    for race in (racing, after):
        assert [_unit(race, "next", unit, 0.6 + unit / 100) for unit in range(5)] == ["CONTINUE"] * 5


def test_a_configuration_that_was_stopped_is_not_trained_again() -> None:
    """Two values, six trials: each is trained once, stopped, and told as pruned to those that repeat it, later too."""
    reused: list[int] = []
    searcher = CellSearch(_space(SMALL, trials=6), _plan, on_reuse=lambda number, *rest: reused.append(number))
    begun = []
    for number in range(6):
        if (found := searcher.suggest(str(number))) == Searcher.FINISHED:
            break
        begun.append(found["planned"])
        searcher.on_trial_result(str(number), _result(0.4, 2, final=False))
        searcher.on_trial_complete(str(number), _result(0.4, 2, final=False))
    assert len({planned.fingerprint for planned in begun}) == len(begun) == 2
    assert len(reused) == 4
    assert [(trial.state, trial.value) for trial in searcher.study.trials] == [(TrialState.PRUNED, 0.4)] * 6
    numbers = [int(planned.record.tags["trial"]) for planned in begun]
    pruned = {"metrics": {"val/balanced": 0.4}, "epochs": 2}
    past = [
        _past(n, one.found, one.fingerprint, "pruned", **pruned)  # type: ignore[arg-type]
        for n, one in zip(numbers, begun, strict=True)
    ]
    past += [_past(n, begun[0].found, begun[0].fingerprint, "reused") for n in reused]
    again = CellSearch(_space(SMALL, trials=6), _plan, sorted(past, key=lambda trial: trial.number))
    assert again.exhausted
    assert [trial.state for trial in again.study.trials] == [TrialState.PRUNED] * 6


def test_an_epoch_that_a_lost_worker_repeats_is_told_once(recwarn: pytest.WarningsRecorder) -> None:
    searcher = _search()
    searcher.suggest("a")
    for epoch, value in ((1, 0.2), (2, 0.3), (1, 0.9), (2, 0.9), (3, 0.4)):  # after 2 its worker died
        searcher.on_trial_result("a", _result(value, epoch, final=False))
    assert searcher.study.trials[0].intermediate_values == {1: 0.2, 2: 0.3, 3: 0.4}
    assert not recwarn.list


def test_a_trial_of_a_cell_that_is_known_to_fail_is_not_begun_now_or_later() -> None:
    """Each of two values in six trials; one of them failed in another search."""
    reused: list[tuple[int, bool]] = []

    def plan(found: Mapping[str, Any]) -> PlannedTrial:
        return dataclasses.replace(_plan(found), failing="ValueError: boom" if found["loss/aura"] else None)

    searcher = CellSearch(
        _space(SMALL, trials=6), plan, on_reuse=lambda number, _, known: reused.append((number, known))
    )
    planned = searcher.suggest("a")["planned"]
    assert planned.found == {"loss/aura": False}
    searcher.on_trial_complete("a", _result(0.5))
    assert searcher.suggest("b") == Searcher.FINISHED
    assert searcher.exhausted
    states = {trial.params["loss/aura"]: trial.state for trial in searcher.study.trials}
    assert states == {True: TrialState.FAIL, False: TrialState.COMPLETE}
    assert len(reused) == 5
    assert all(known for _, known in reused)
    past = [_past(number, {"loss/aura": True}, "f", "reused") for number in range(3)]
    assert [trial.state for trial in CellSearch(_space(SMALL, trials=3), plan, past).study.trials] == [
        TrialState.FAIL
    ] * 3


@pytest.mark.parametrize(("retry", "begun"), [("no", 1), ("yes", 4)])
def test_a_failure_that_was_reported_is_repeated_only_where_it_may_pass(retry: str, begun: int) -> None:
    space = {"loss/aura": Dimension("choice", (True,))}
    searcher = CellSearch(_space(space, trials=4), _plan)
    failed = {"mean:val/balanced": math.nan, "epoch": 0, "final": True, "failed": "it", "retry": retry}
    count = 0
    for number in range(4):
        if searcher.suggest(str(number)) == Searcher.FINISHED:
            break
        count += 1
        searcher.on_trial_result(str(number), failed)
        searcher.on_trial_complete(str(number), failed)
    assert count == begun
    assert searcher.exhausted
    assert [trial.state for trial in searcher.study.trials] == [TrialState.FAIL] * 4


def test_a_search_all_of_whose_trials_failed_goes_on_with_more() -> None:
    """With two metrics, a constraint, and a dimension that does not always matter."""
    space = {
        "loss/weight": Dimension("choice", ("effective", "none")),
        "loss/alpha": Dimension("uniform", (0.3, 1.0), {"loss/weight": ("effective",)}),
    }
    options: dict[str, Any] = {"metric": ("val/top1", "val/rare"), "constraints": {"val/many": 0.01}, "trials": 8}
    found = [{"loss/weight": "effective", "loss/alpha": 0.4}, {"loss/weight": "none"}]
    past = [_past(number, one, f"f{number}", "failed") for number, one in enumerate(found)]
    for sampler in ("tpe", "random"):
        searcher = CellSearch(_space(space, sampler=sampler, **options), _plan, past, reference={"val/many": 0.9})
        for number in range(20):
            if searcher.suggest(str(number)) == Searcher.FINISHED:
                break
            searcher.on_trial_complete(str(number), None, error=True)
        assert [trial.state for trial in searcher.study.trials] == [TrialState.FAIL] * 8
        assert searcher.exhausted


def test_asha_judges_nobody_by_a_trial_that_failed() -> None:
    """One leads at the first rung and then fails, by a report or by an error that Tune does not try again."""
    failed = {"failed": "nan", "final": True, "epoch": 0, "unit": 0, "mean:val/balanced": math.nan}
    for end in ("report", "error", "recovers", "past"):
        leader = _Trial("leader", "leader", recovers=end == "recovers")
        past = [_past(0, {}, "leader", "failed", rungs={10: 0.9})] if end == "past" else []
        asha = _asha(past)
        if end != "past":
            asha.on_trial_add(None, leader)  # type: ignore[arg-type]
            assert _report(asha, leader, 10, 0.9) == "CONTINUE"
        if end == "report":
            assert asha.on_trial_result(None, leader, failed) == "CONTINUE"  # type: ignore[arg-type]
        elif end != "past":
            asha.on_trial_error(None, leader)  # type: ignore[arg-type]
        trial = _Trial("t", "t")
        asha.on_trial_add(None, trial)  # type: ignore[arg-type]
        assert _report(asha, trial, 10, 0.5) == ("STOP" if end == "recovers" else "CONTINUE")


def test_a_trial_that_ended_with_an_error_is_no_rival() -> None:
    for recovers in (True, False):
        racing = _racing()
        for unit, value in enumerate([0.9, 0.91, 0.9]):
            _unit(racing, "fails", unit, value)
        trial = _Trial("fails", "fails", recovers=recovers)
        trial.last_result = {"unit": 2, "unit_final": True}
        racing.on_trial_error(None, trial)  # type: ignore[arg-type]
        decisions = [_unit(racing, "next", unit, 0.6 + unit / 100) for unit in range(5)]
        assert ("STOP" in decisions) == recovers
