"""Stopping trials early: by ASHA within the first unit of a trial, or by racing between its units."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from tune_lt.documents import Trial
from tune_lt.registry import lookup
from tune_lt.run.search.planned import MEAN, PlannedTrial
from tune_lt.run.search.racing import FoldRace
from tune_lt.study import Search

ETA = 2  # ASHA keeps the better half at each rung
RUNGS = 2  # at a quarter and at half of the epochs


def milestones(search: Search, epochs: int) -> list[int]:
    """The epochs after which ASHA decides; none without it."""
    if search.scheduler != "asha":
        return []
    grace = math.ceil(epochs / ETA**RUNGS)  # rounded down, Tune would add a rung just before the end
    return [grace * ETA**k for k in range(RUNGS) if grace * ETA**k < epochs]


def scheduler(
    search: Search, epochs: int, past: Sequence[Trial] = (), *, units: int = 1, without: Collection[int] = ()
) -> TrialScheduler:
    """The search's scheduler with what ``past`` trials have shown. InputError for a name that is none.

    ``units``: the folds times the seeds of a trial, each of ``epochs``; ``without``: those that lack the metric.
    """
    schedulers: dict[str, Callable[[], TrialScheduler]] = {
        "none": FIFOScheduler,
        "racing": lambda: FoldRacing(past, search, units, without),
        "asha": lambda: CellASHA(
            past,
            time_attr="step",
            metric=f"{MEAN}{search.objectives[0]}",
            mode="max",
            max_t=epochs,
            grace_period=math.ceil(epochs / ETA**RUNGS),
            reduction_factor=ETA,
        ),
    }
    return lookup(schedulers, "search.scheduler", str(search.scheduler))()


class CellASHA(ASHAScheduler):
    """ASHA that begins with the values of earlier drivers' trials; Tune's own forgets them (ray#30838).

    It judges a trial only within its first unit. A trial whose first unit is known already is never judged. None is
    judged by the values of one that failed.
    """

    def __init__(self, past: Sequence[Trial], **options: Any) -> None:
        super().__init__(**options)
        self._resumed: set[str] = set()
        for trial in past:
            for milestone, recorded in self._brackets[0]._rungs:
                if int(milestone) in trial.rungs and trial.outcome != "failed":
                    recorded[trial.fingerprint] = trial.rungs[int(milestone)]

    @property
    def rungs(self) -> list[tuple[int, dict[str, float]]]:
        """(epoch, trial -> value as ASHA orders it), the last rung first."""
        return [(int(milestone), recorded) for milestone, recorded in self._brackets[0]._rungs]

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        super().on_trial_add(tune_controller, trial)
        for _, recorded in self.rungs:  # a trial that is carried on brings what it reached
            if (fingerprint := trial.config["planned"].fingerprint) in recorded:
                recorded[trial.trial_id] = recorded.pop(fingerprint)
                self._resumed.add(trial.trial_id)

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        if "failed" in result:
            self._forget(trial)
        if "failed" in result or result.get("known") or result.get("unit"):
            return str(TrialScheduler.CONTINUE)
        if trial.trial_id in self._resumed and "step" in result:
            self._resumed.discard(trial.trial_id)
            for milestone, recorded in self.rungs:
                if milestone >= result["step"]:  # it is asked about again: the driver died before it could decide
                    recorded.pop(trial.trial_id, None)
        if result.get("unit_final") and not result["final"]:
            return str(TrialScheduler.CONTINUE)  # the base class ends a trial at its last epoch; here folds follow
        return str(super().on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> None:
        self._trial_info.pop(trial.trial_id, None)  # every epoch has been judged when it was reported

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        super().on_trial_error(tune_controller, trial)
        if _given_up(trial):
            self._forget(trial)

    def _forget(self, trial: TuneTrial) -> None:
        for _, recorded in self.rungs:
            recorded.pop(trial.trial_id, None)


def _given_up(trial: TuneTrial) -> bool:
    """Whether Tune does not try a trial again after the error that it tells a scheduler of."""
    return not trial.should_recover() or trial.status == TuneTrial.PENDING


class FoldRacing(FIFOScheduler):
    """Stops a trial between units once a `FoldRace` finds it worse than the best with enough evidence."""

    def __init__(self, past: Sequence[Trial], search: Search, units: int, without: Collection[int] = ()) -> None:
        super().__init__()
        self._value: str = search.objectives[0]  # Ray would demand of every result what is called _metric
        self._race = FoldRace(units, without=without)
        for trial in past:
            values = trial.units.get(self._value, ()) if trial.outcome != "running" else ()
            for unit, value in enumerate(values):
                self._record(trial.fingerprint, unit, {self._value: value})
            if trial.outcome == "failed" and len(values) < units:
                self._race.record(trial.fingerprint, len(values), math.nan)

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        super().on_trial_add(tune_controller, trial)
        planned: PlannedTrial = trial.config["planned"]
        for index, unit in enumerate(planned.units):  # judged with all that is known of it
            if unit.known is not None:
                self._record(planned.fingerprint, index, unit.known)

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        fingerprint = trial.config["planned"].fingerprint
        if "failed" in result:
            self._race.record(fingerprint, result["unit"], math.nan)
        if not result.get("unit_final"):
            return str(TrialScheduler.CONTINUE)
        self._record(fingerprint, result["unit"], result)
        stop = not result["final"] and not result["known"] and self._race.should_stop(fingerprint)
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        super().on_trial_error(tune_controller, trial)
        last = trial.last_result or {}
        if _given_up(trial) and not last.get("final"):
            unit = last.get("unit", 0) + bool(last.get("unit_final"))
            self._race.record(trial.config["planned"].fingerprint, unit, math.nan)

    def _record(self, fingerprint: str, unit: int, metrics: Mapping[str, Any]) -> None:
        """Record the score of a unit that has ended; a unit without a held-out image of these classes has none."""
        if math.isfinite(value := metrics.get(self._value, math.nan)):
            self._race.record(fingerprint, unit, value)
