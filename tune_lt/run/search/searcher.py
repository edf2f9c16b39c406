"""Optuna as a Ray Tune searcher: it suggests whole trials, and a search can be continued by another process.

Ray's own OptunaSearch is not used: it tells Optuna that a stopped trial is complete, and never that one failed.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState
from ray.tune.search import Searcher

from tune_lt.documents import Trial, shortfalls
from tune_lt.registry import lookup
from tune_lt.run.search.planned import MEAN, PlannedTrial
from tune_lt.study import Dimension, Space, grid

STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
SAMPLERS: dict[str, Callable[[int, int], optuna.samplers.BaseSampler]] = {  # from a seed and the number of trials
    "tpe": lambda seed, trials: optuna.samplers.TPESampler(
        seed=seed,
        n_startup_trials=max(4, min(10, trials // 3)),  # a third of a short search starts the model
    ),
    "random": lambda seed, trials: optuna.samplers.RandomSampler(seed=seed),
    "grid": lambda seed, trials: optuna.samplers.RandomSampler(seed=seed),  # draws nothing: its points are enqueued
}
Values = Mapping[str, float]


def distribution(dimension: Dimension) -> BaseDistribution:
    """A dimension of the study file as Optuna's distribution."""
    if dimension.kind == "choice":
        return CategoricalDistribution(dimension.values)
    low, high = dimension.values
    if dimension.kind == "int":
        return IntDistribution(low, high)
    return FloatDistribution(low, high, log=dimension.kind == "loguniform")


def _suggest(trial: optuna.trial.Trial, path: str, dimension: Dimension) -> Any:
    if dimension.kind == "choice":
        return trial.suggest_categorical(path, dimension.values)
    low, high = dimension.values
    if dimension.kind == "int":
        return trial.suggest_int(path, low, high)
    return trial.suggest_float(path, low, high, log=dimension.kind == "loguniform")


class CellSearch(Searcher):
    """A Tune searcher that suggests planned trials over ``space``, each one a configuration and its cells.

    ``plan`` turns found values (flat, ``{"loss/alpha": 0.7}``) into a planned trial; one whose ``values`` are known,
    or that is known to fail, needs no training. ``past`` are the trials an earlier driver had. ``on_reuse(number,
    planned, known)`` is called for such a trial; ``known`` is false where another trial is about to give its values.
    ``reference``: the metrics that constraints compare with.

    Optuna gets a trial that was stopped early as PRUNED with its last value, and one without a finite value as FAIL. A
    suggestion depends only on the seed, the trial's number and the results so far, so that a restarted search does not
    repeat itself. A parameter whose ``when`` does not hold is not suggested.
    """

    def __init__(
        self,
        space: Space,
        plan: Callable[[Mapping[str, Any]], PlannedTrial],
        past: Sequence[Trial] = (),
        on_reuse: Callable[[int, PlannedTrial, bool], None] = lambda *reuse: None,
        reference: Values | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        search = space.search
        self._space, self._search, self._plan, self._on_reuse = space.space, search, plan, on_reuse
        self._reference = reference or {}
        super().__init__(metric=f"{MEAN}{search.objectives[0]}", mode="max")
        self.study = optuna.create_study(directions=["maximize"] * len(search.objectives), sampler=self._sampler_for(0))
        self._numbers = sorted(set(range(search.budget)) - {trial.number for trial in past})
        self._redo: list[tuple[Trial, optuna.trial.Trial]] = []
        self._ended: dict[str, tuple[TrialState, Values, int]] = {}  # fingerprint -> how a trial of it ended, its step
        self._begun: dict[str, tuple[optuna.trial.Trial, str]] = {}  # Tune's id of a trial -> Optuna's, its fingerprint
        self._reported: dict[str, int] = {}  # Tune's id of a trial -> its last step; a lost worker repeats some
        self._running: dict[str, list[optuna.trial.Trial]] = {}  # fingerprint -> trials that wait for its result
        for trial in past:
            self._remember(trial)

    @property
    def exhausted(self) -> bool:
        """Whether every trial has been suggested and has ended."""
        return not (self._numbers or self._redo or self._running)

    def suggest(self, trial_id: str) -> Any:
        if self._redo:
            past, trial = self._redo.pop(0)
            return self._begin(trial_id, trial, past.number, self._plan(past.found))
        while self._numbers:
            number = self._numbers.pop(0)
            self.study.sampler = self._sampler_for(number)
            if self._search.sampler == "grid":
                self.study.enqueue_trial(next(itertools.islice(grid(self._space), number, None)))
            trial, found = self._ask()
            planned = self._plan(found)
            known = planned.values is not None or planned.failing is not None
            if ended := self._ended.get(planned.fingerprint):
                self._repeat(trial, *ended)
                known = ended[0] != TrialState.PRUNED
            elif planned.values is not None:
                self._tell(trial, TrialState.COMPLETE, planned.values)
            elif planned.failing is not None:
                self._tell(trial, TrialState.FAIL, {})
            elif planned.fingerprint in self._running:
                self._running[planned.fingerprint].append(trial)
            else:
                return self._begin(trial_id, trial, number, planned)
            self._on_reuse(number, planned, known)
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        value = result.get(self.metric, math.nan)
        if (
            math.isfinite(value)
            and len(self._search.objectives) == 1
            and result["step"] > self._reported.get(trial_id, 0)
        ):
            self._begun[trial_id][0].report(value, result["step"])
            self._reported[trial_id] = result["step"]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id not in self._begun:
            return  # Tune says it twice
        trial, fingerprint = self._begun.pop(trial_id)
        result = result or {}
        values = {name: result.get(f"{MEAN}{name}", math.nan) for name in self._search.watched}
        waiting = self._running.pop(fingerprint)
        if error or not all(map(math.isfinite, values.values())):
            state = TrialState.FAIL
        else:
            state = TrialState.COMPLETE if result["final"] else TrialState.PRUNED
        if not error and result.get("retry") != "yes":  # else it may be tried again, under another number
            self._ended[fingerprint] = (state, values, result.get("step", 0))
        self._tell(trial, state, values)
        for one in waiting:
            self._repeat(one, state, values, result.get("step", 0))

    def save(self, checkpoint_path: str) -> None:
        """Tune's snapshot of the searcher is never restored, so it holds nothing."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search starts again from the store")

    def __getstate__(self) -> dict[str, Any]:
        return {}  # likewise

    def _ask(self) -> tuple[optuna.trial.Trial, dict[str, Any]]:
        """The next trial and the values of the dimensions that matter in it."""
        trial = self.study.ask()
        found: dict[str, Any] = {}
        for path, dimension in self._space.items():
            if dimension.holds(found):
                found[path] = _suggest(trial, path, dimension)
        return trial, found

    def _repeat(self, trial: optuna.trial.Trial, state: TrialState, values: Values, step: int) -> None:
        """Tell of a trial what another one of the same cells ended with."""
        if state == TrialState.PRUNED and len(self._search.objectives) == 1:
            trial.report(values[self._search.objectives[0]], step)
        self._tell(trial, state, values)

    def _tell(self, trial: optuna.trial.Trial, state: TrialState, values: Values) -> None:
        if state != TrialState.FAIL:
            for name, broken in shortfalls(values, self._search.constraints, self._reference).items():
                trial.set_constraint(name, broken)
        # of a pruned trial Optuna takes the last reported value itself
        told = [values[name] for name in self._search.objectives] if state == TrialState.COMPLETE else None
        self.study.tell(trial, told, state=state)

    def _begin(
        self, trial_id: str, trial: optuna.trial.Trial, number: int, planned: PlannedTrial
    ) -> dict[str, PlannedTrial]:
        self._begun[trial_id] = trial, planned.fingerprint
        self._running[planned.fingerprint] = []
        tags = {**planned.record.tags, "trial": str(number)}
        return {"planned": replace(planned, record=replace(planned.record, name=f"trial {number}", tags=tags))}

    def _remember(self, past: Trial) -> None:
        """Put a trial of an earlier driver into the Optuna study; one in flight is asked for again, as it was."""
        if past.outcome == "reused":
            planned = self._plan(past.found)
            if past.fingerprint in self._ended:
                self._add(past, *self._ended[past.fingerprint])
            elif planned.values is not None:
                self._add(past, TrialState.COMPLETE, planned.values, past.epochs)
            elif planned.failing is not None:
                self._add(past, TrialState.FAIL, dict.fromkeys(self._search.watched, math.nan), 0)
            else:  # what it waited for is in flight, or was stopped: let it be tried on its own
                self._numbers = sorted([*self._numbers, past.number])
            return
        if past.outcome == "running":
            self.study.enqueue_trial(dict(past.found))
            self._redo.append((past, self._ask()[0]))
            return
        values = {name: past.value(name) for name in self._search.watched}
        finite = all(map(math.isfinite, values.values()))
        state = STATES[past.outcome] if finite else TrialState.FAIL
        self._add(past, state, values, past.epochs)
        self._ended.setdefault(past.fingerprint, (state, values, past.epochs))

    def _add(self, past: Trial, state: TrialState, values: Values, step: int) -> None:
        first = values[self._search.objectives[0]]
        failed, pruned = state == TrialState.FAIL, state == TrialState.PRUNED
        told = [first] if pruned else [values[name] for name in self._search.objectives]
        trial = optuna.trial.create_trial(
            state=state,
            values=None if failed else told,
            params=dict(past.found),
            distributions={path: distribution(self._space[path]) for path in past.found},
            intermediate_values={step: first} if pruned else None,
            constraints=None if failed else shortfalls(values, self._search.constraints, self._reference),
        )
        self.study.add_trial(trial)

    def _sampler_for(self, number: int) -> optuna.samplers.BaseSampler:
        """A sampler whose random state depends on the seed and the trial's number alone, so that none need be saved."""
        digest = hashlib.sha256(f"{self._search.seed}/{number}".encode()).digest()
        seed = int.from_bytes(digest[:4], "big")
        return lookup(SAMPLERS, "search.sampler", self._search.sampler)(seed, self._search.budget)
