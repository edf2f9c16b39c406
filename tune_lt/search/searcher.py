"""Optuna behind Ray Tune, corrected where the stock adapter misreports (STACK.md §A), and able to start again."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from tune_lt.search.history import Past
from tune_lt.study import Dimension, Search, nested

ETA = 2  # ASHA keeps the better half at each rung
RUNGS = 2  # at a quarter and at half of the epochs
STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def domain(dimension: Dimension) -> Any:
    """A dimension of the study file as Ray Tune's search-space primitive."""
    if dimension.kind == "choice":
        return tune.choice(list(dimension.values))
    low, high = dimension.values
    if dimension.kind == "int":
        return tune.randint(low, high + 1)  # Tune's upper end is exclusive
    return tune.uniform(low, high) if dimension.kind == "uniform" else tune.loguniform(low, high)


def milestones(search: Search, epochs: int) -> list[int]:
    """The epochs after which ASHA decides; none without it."""
    if search.scheduler == "none":
        return []
    grace = math.ceil(epochs / ETA**RUNGS)  # rounded down, Tune would add a rung just before the end
    return [grace * ETA**k for k in range(RUNGS) if grace * ETA**k < epochs]


def scheduler(search: Search, epochs: int, past: Sequence[Past] = ()) -> TrialScheduler:
    """ASHA on our own epoch counter with the rungs of ``past`` trials, or first-in-first-out."""
    if search.scheduler == "none":
        return FIFOScheduler()
    return CellASHA(
        past,
        time_attr="epoch",
        metric=search.metric,
        mode=search.mode,
        max_t=epochs,
        grace_period=math.ceil(epochs / ETA**RUNGS),
        reduction_factor=ETA,
    )


class CellASHA(ASHAScheduler):
    """ASHA that starts with what earlier trials reached; Tune itself forgets it (ray#30838)."""

    def __init__(self, past: Sequence[Past], **options: Any) -> None:
        super().__init__(**options)
        self._resumed: set[str] = set()
        sign = 1.0 if options["mode"] == "max" else -1.0
        for trial in past:
            for milestone, recorded in self._brackets[0]._rungs:
                if int(milestone) in trial.rungs:
                    recorded[trial.fingerprint] = sign * trial.rungs[int(milestone)]

    @property
    def rungs(self) -> list[tuple[int, dict[str, float]]]:
        """(epoch, trial -> value as ASHA orders it), the last rung first."""
        return [(int(milestone), recorded) for milestone, recorded in self._brackets[0]._rungs]

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, trial)
        for _, recorded in self.rungs:  # a trial that is carried on brings what it reached
            if (fingerprint := trial.config["planned"]["fingerprint"]) in recorded:
                recorded[trial.trial_id] = recorded.pop(fingerprint)
                self._resumed.add(trial.trial_id)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if trial.trial_id in self._resumed and "epoch" in result:
            self._resumed.discard(trial.trial_id)
            for milestone, recorded in self.rungs:
                if milestone >= result["epoch"]:  # it is asked about again: the driver died before it could decide
                    recorded.pop(trial.trial_id, None)
        return str(super().on_trial_result(tune_controller, trial, result))


class CellSearch(OptunaSearch):
    """OptunaSearch that suggests whole cells, tells Optuna the truth about how each ended, and can start again.

    ``make_cell`` turns found values (flat, ``{"loss/alpha": 0.7}``) into a planned cell with its ``fingerprint``.
    ``past`` are the trials an earlier driver had; ``known`` the metric's value of cells that are trained already, which
    ``on_reuse(number, found, fingerprint)`` hears of and which are not trained again.

    A trial stopped early is told as PRUNED with its last value, one without a finite value as FAILED; the stock adapter
    tells the first as COMPLETE and leaves the second RUNNING for ever. Each suggestion follows from the seed, the
    trial's number and what is known by then, so that a search that starts again does not repeat itself.
    """

    def __init__(
        self,
        space: Mapping[str, Dimension],
        search: Search,
        make_cell: Callable[[Mapping[str, Any]], dict[str, Any]],
        past: Sequence[Past] = (),
        known: Mapping[str, float] | None = None,
        on_reuse: Callable[[int, Mapping[str, Any], str], None] = lambda number, found, fingerprint: None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._search, self._make_cell, self._known, self._on_reuse = search, make_cell, dict(known or {}), on_reuse
        self._ot_study: Any  # set by the base class, which types them otherwise
        self._space: Any
        super().__init__(
            self.convert_search_space(nested({path: domain(dimension) for path, dimension in space.items()})),
            metric=search.metric,
            mode=search.mode,
            sampler=self._sampler_for(0),
        )
        self._numbers = sorted(set(range(search.trials)) - {trial.number for trial in past})
        self._redo: list[tuple[Past, optuna.trial.Trial]] = []
        self._running: dict[str, list[optuna.trial.Trial]] = {}  # fingerprint -> trials that wait for its result
        self._fingerprints: dict[str, str] = {}
        for trial in past:
            self._remember(trial)

    @property
    def study(self) -> optuna.Study:
        """The Optuna study behind the search."""
        study: optuna.Study = self._ot_study
        return study

    @property
    def exhausted(self) -> bool:
        """Whether every trial has been suggested and has ended."""
        return not (self._numbers or self._redo or self._running)

    def suggest(self, trial_id: str) -> Any:
        if self._redo:
            past, trial = self._redo.pop(0)
            return self._begin(trial_id, trial, past.number, past.found, self._make_cell(past.found))
        while self._numbers:
            number = self._numbers.pop(0)
            self.study.sampler = self._sampler_for(number)
            trial = self.study.ask(fixed_distributions=self._space)
            found = dict(trial.params)
            planned = self._make_cell(found)
            fingerprint = planned["fingerprint"]
            if fingerprint in self._known:
                self.study.tell(trial, self._known[fingerprint])
            elif fingerprint in self._running:
                self._running[fingerprint].append(trial)
            else:
                return self._begin(trial_id, trial, number, found, planned)
            self._on_reuse(number, found, fingerprint)
        return str(Searcher.FINISHED)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        value = result.get(self.metric, math.nan)
        if math.isfinite(value):
            self._ot_trials[trial_id].report(value, result["epoch"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id in self._completed_trials:
            return
        self._completed_trials.add(trial_id)
        trial, fingerprint = self._ot_trials.pop(trial_id), self._fingerprints.pop(trial_id)
        value = (result or {}).get(self.metric, math.nan)
        waiting = self._running.pop(fingerprint)
        if error or not math.isfinite(value):
            state = TrialState.FAIL
        elif result and result["final"]:
            state = TrialState.COMPLETE
            self._known[fingerprint] = value
        else:
            state = TrialState.PRUNED
        for one in (trial, *waiting):
            if state == TrialState.PRUNED and one is not trial and result:
                one.report(value, result["epoch"])
            # of a pruned trial Optuna takes the last reported value itself
            self.study.tell(one, value if state == TrialState.COMPLETE else None, state=state)

    def save(self, checkpoint_path: str) -> None:
        """Tune's snapshot of the searcher is never restored, so it holds nothing."""
        Path(checkpoint_path).touch()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # likewise

    def _begin(
        self, trial_id: str, trial: optuna.trial.Trial, number: int, found: Mapping[str, Any], planned: dict[str, Any]
    ) -> dict[str, Any]:
        self._ot_trials[trial_id] = trial
        self._fingerprints[trial_id] = planned["fingerprint"]
        self._running[planned["fingerprint"]] = []
        record = planned["record"]
        record = record | {"name": f"trial {number}", "tags": record["tags"] | {"trial": str(number)}}
        return {"planned": planned | {"found": dict(found), "record": record}}

    def _remember(self, past: Past) -> None:
        """Put a trial of an earlier driver into the Optuna study; one in flight is asked for again, as it was."""
        if past.outcome == "reused":
            if past.fingerprint in self._known:
                self._add(past, TrialState.COMPLETE, self._known[past.fingerprint])
            else:  # what it waited for is in flight, or was stopped: let it be tried on its own
                self._numbers = sorted([*self._numbers, past.number])
            return
        if past.outcome == "running":
            self.study.enqueue_trial(dict(past.found))
            self._redo.append((past, self.study.ask(fixed_distributions=self._space)))
            return
        finite = math.isfinite(past.value)
        state = STATES[past.outcome] if finite else TrialState.FAIL
        self._add(past, state, past.value if state != TrialState.FAIL else None)
        if state == TrialState.COMPLETE:
            self._known[past.fingerprint] = past.value

    def _add(self, past: Past, state: TrialState, value: float | None) -> None:
        trial = optuna.trial.create_trial(
            state=state,
            value=value,
            params=dict(past.found),
            distributions=self._space,
            intermediate_values={past.epochs: value} if state == TrialState.PRUNED and value is not None else None,
        )
        self.study.add_trial(trial)

    def _sampler_for(self, number: int) -> optuna.samplers.BaseSampler:
        """A sampler whose random state depends on the seed and the trial's number alone, so that none need be saved."""
        digest = hashlib.sha256(f"{self._search.seed}/{number}".encode()).digest()
        seed = int.from_bytes(digest[:4], "big")
        if self._search.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        startup = max(4, min(10, self._search.trials // 3))  # a third of a short search is enough to start the model
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
