"""Optuna behind Ray Tune, corrected where the stock adapter misreports (STACK.md §A)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from tune_lt.study import Dimension, Search, flattened, nested

ETA = 2  # ASHA keeps the better half at each rung
RUNGS = 2  # at a quarter and at half of the epochs


def domain(dimension: Dimension) -> Any:
    """A dimension of the study file as Ray Tune's search-space primitive."""
    if dimension.kind == "choice":
        return tune.choice(list(dimension.values))
    low, high = dimension.values
    if dimension.kind == "int":
        return tune.randint(low, high + 1)  # Tune's upper end is exclusive
    return tune.uniform(low, high) if dimension.kind == "uniform" else tune.loguniform(low, high)


def scheduler(search: Search, epochs: int) -> TrialScheduler:
    """ASHA on our own epoch counter, or first-in-first-out."""
    if search.scheduler == "none":
        return FIFOScheduler()
    grace = math.ceil(epochs / ETA**RUNGS)  # rounded down, Tune would add a rung just before the end
    return ASHAScheduler(
        time_attr="epoch",
        metric=search.metric,
        mode=search.mode,
        max_t=epochs,
        grace_period=grace,
        reduction_factor=ETA,
    )


class CellSearch(OptunaSearch):
    """OptunaSearch that suggests whole cells and tells Optuna the truth about how each ended.

    ``make_cell`` turns found values (flat, ``{"loss/alpha": 0.7}``) into the cell's dictionary. A trial stopped early
    is told as PRUNED with its last value, one without a finite value as FAILED; the stock adapter tells the first as
    COMPLETE and leaves the second RUNNING for ever.
    """

    def __init__(
        self, space: Mapping[str, Dimension], search: Search, make_cell: Callable[[Mapping[str, Any]], dict[str, Any]]
    ) -> None:
        self._make_cell = make_cell
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if search.sampler == "random":
            sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=search.seed)
        else:  # a third of a short search is enough to start the model from
            startup = max(4, min(10, search.trials // 3))
            sampler = optuna.samplers.TPESampler(seed=search.seed, n_startup_trials=startup)
        self._ot_study: Any  # the base class sets it, typed as None
        super().__init__(
            self.convert_search_space(nested({path: domain(dimension) for path, dimension in space.items()})),
            metric=search.metric,
            mode=search.mode,
            sampler=sampler,
        )

    @property
    def study(self) -> optuna.Study:
        """The Optuna study behind the search."""
        study: optuna.Study = self._ot_study
        return study

    def suggest(self, trial_id: str) -> dict[str, Any]:
        found = flattened(super().suggest(trial_id) or {})
        return {"planned": {"found": found, "cell": self._make_cell(found)}}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        value = result.get(self.metric, math.nan)
        if math.isfinite(value):
            self._ot_trials[trial_id].report(value, result["epoch"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id in self._completed_trials:
            return
        self._completed_trials.add(trial_id)
        trial = self._ot_trials[trial_id]
        value = (result or {}).get(self.metric, math.nan)
        if error or not math.isfinite(value):
            self.study.tell(trial, state=TrialState.FAIL)
        elif result and result["final"]:
            self.study.tell(trial, value)
        else:
            self.study.tell(trial, state=TrialState.PRUNED)  # Optuna takes the last reported value

    def save(self, checkpoint_path: str) -> None:
        """Tune's snapshot of the searcher is never restored, so it holds nothing."""
        Path(checkpoint_path).touch()
