"""The Tune callback that records every trial in the store and keeps the display current."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray import cloudpickle, tune
from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial

from tune_lt.search.display import Display
from tune_lt.study import flattened
from tune_lt.tracking import Writer

SECONDS_BETWEEN_UPDATES = 0.5
SUMMARY = ("val/top1", "val/balanced")


@dataclass
class Ended:
    """How a trial ended: ``outcome`` is complete, pruned or failed (with its ``reason``)."""

    planned: Mapping[str, Any]
    outcome: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


class Recorder(tune.Callback):
    """Writes each trial as one run. ``describe`` makes run name, parameters and tags of a planned cell."""

    def __init__(
        self,
        writer: Writer,
        display: Display,
        total: int,
        describe: Callable[[Mapping[str, Any], int], tuple[str, Mapping[str, Any], Mapping[str, str]]],
        *,
        class_names: tuple[str, ...],
        metric: str = "",
        mode: str = "max",
    ) -> None:
        self._writer, self._display, self._total, self._describe = writer, display, total, describe
        self._class_names, self._metric, self._sign = class_names, metric, 1 if mode == "max" else -1
        self._progress: dict[str, float] = {}  # running trials -> share of their epochs
        self._last: dict[str, dict[str, Any]] = {}
        self._updated = 0.0
        self._started = 0
        self.ended: list[Ended] = []

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles callbacks into a snapshot that nothing here ever restores

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        name, params, tags = self._describe(trial.config["planned"], self._started)
        self._started += 1
        self._progress[trial.trial_id] = 0.0
        self._writer.start(trial.trial_id, name, params, tags)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if "epoch" not in result:
            return  # Tune repeats a function trainable's end as a result of its own
        metrics = {name: result[name] for name in result if name.split("/")[0] in ("train", "val", "test")}
        self._last[trial.trial_id] = result
        self._progress[trial.trial_id] = result["epoch"] / trial.config["planned"]["cell"]["recipe"]["epochs"]
        self._writer.epochs(trial.trial_id, [(result["epoch"], metrics)])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        result = self._last.pop(trial.trial_id, {})
        outcome = "complete" if result.get("final") else "pruned"
        self._end(trial, outcome, result)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._end(trial, "failed", self._last.pop(trial.trial_id, {}), _reason(trial))

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if time.monotonic() - self._updated > SECONDS_BETWEEN_UPDATES:
            self._show()

    def _end(self, trial: Trial, outcome: str, result: dict[str, Any], reason: str = "") -> None:
        self._progress.pop(trial.trial_id, None)
        metrics = {name: value for name, value in result.items() if name.split("/")[0] in ("train", "val", "test")}
        self.ended.append(Ended(trial.config["planned"], outcome, metrics, reason))
        classes = {"class_names": self._class_names, **result["classes"]} if "classes" in result else None
        self._writer.end(trial.trial_id, outcome, reason=reason, artifact=classes)
        if reason:
            self._display.say(f"a trial failed and is recorded as such: {reason}")
        self._show()

    def close(self) -> None:
        """Record what was running when Tune stopped early, and wait until all is written."""
        for key in self._progress:
            self._writer.end(key, "interrupted")
        self._progress.clear()
        self._writer.close()

    def best(self) -> Ended | None:
        """The best trial that ran to its last epoch, by the search's metric; None while there is none."""
        complete = [end for end in self.ended if end.outcome == "complete" and math.isfinite(end.metrics[self._metric])]
        return max(complete, key=lambda end: self._sign * end.metrics[self._metric], default=None)

    def _show(self) -> None:
        self._updated = time.monotonic()
        best = self.best() if self._metric else None
        text = ""
        if best:
            found = ", ".join(
                f"{path.split('/')[-1]} {_short(value)}" for path, value in flattened(best.planned["found"]).items()
            )
            text = f"{self._metric} {best.metrics[self._metric]:.3f} ({found})"
        done = len(self.ended)
        self._display.update(done, len(self._progress), (done + sum(self._progress.values())) / self._total, text)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _reason(trial: Trial) -> str:
    """The exception that ended the trial, in one line. Tune has it in a file of the trial's folder on this machine."""
    try:
        with open(trial.pickled_error_file, "rb") as file:
            error = cloudpickle.load(file)  # written by this very process a moment ago
    except (OSError, TypeError):
        return "the trial ended without saying why"
    cause = error.cause if isinstance(error, RayTaskError) else error
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0]}" if lines else type(cause).__name__
