"""The Tune callback that records every trial and keeps the display current."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray import cloudpickle, tune
from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial

from tune_lt.journal import Journal
from tune_lt.search.display import Display, Progress
from tune_lt.study import flattened

SECONDS_BETWEEN_UPDATES = 0.5
REASON_CHARACTERS = 400
METRICS = ("train", "val", "test")


@dataclass
class Ended:
    """How a trial ended: ``outcome`` is complete, pruned or failed (with its ``reason``)."""

    found: Mapping[str, Any]
    outcome: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""


class Recorder(tune.Callback):
    """Records each trial's planned cell as one run: key, name, parameters and tags are in ``planned["record"]``.

    ``judged_at``: the epochs whose values a restarted ASHA needs; ``rungs``: those that trials to be carried on have
    reached, by fingerprint. ``ended`` begins with what earlier drivers finished, so that the best of all is known.
    ``on_end`` hears of each cell that is done with; ``check`` is called now and then, to raise if the study must stop.
    """

    def __init__(
        self,
        journal: Journal,
        display: Display,
        total: int,
        *,
        class_names: tuple[str, ...],
        metric: str = "",
        mode: str = "max",
        judged_at: Sequence[int] = (),
        rungs: Mapping[str, Mapping[int, float]] | None = None,
        ended: Sequence[Ended] = (),
        on_end: Callable[[str], None] = lambda fingerprint: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._journal, self._display, self._total = journal, display, total
        self._class_names, self._metric, self._sign = class_names, metric, 1 if mode == "max" else -1
        self._judged_at, self._on_end, self._check = set(judged_at), on_end, check
        self._progress: dict[str, tuple[str, float]] = {}  # running trials -> key, share of their epochs
        self._last: dict[str, dict[str, Any]] = {}
        self._reached = rungs or {}
        self._rungs: dict[str, dict[int, float]] = {}
        self._seconds: dict[str, list[float]] = {}
        self._recovered: set[str] = set()
        self._updated, self._epochs = 0.0, 0
        self.ended = list(ended)
        self._best: Ended | None = None
        for end in self.ended:
            self._consider(end)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles callbacks into a snapshot that nothing here ever restores

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        planned = trial.config["planned"]
        record = planned["record"]
        reached = self._reached.get(planned["fingerprint"], {})
        self._rungs[trial.trial_id] = {epoch: value for epoch, value in reached.items() if epoch in self._judged_at}
        self._progress[trial.trial_id] = (record["key"], 0.0)
        self._journal.start(record["key"], record["name"], record["params"], record["tags"])

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if "epoch" not in result:
            return  # Tune repeats a function trainable's end as a result of its own
        planned, epoch = trial.config["planned"], result["epoch"]
        key = planned["record"]["key"]
        self._last[trial.trial_id] = result
        if "failed" in result:
            return
        if trial.trial_id in self._recovered:
            self._recovered.discard(trial.trial_id)
            self._display.say(f"the trial goes on with epoch {epoch}")
        self._epochs += 1
        self._progress[trial.trial_id] = (key, epoch / planned["cell"]["recipe"]["epochs"])
        self._seconds.setdefault(trial.trial_id, []).append(result["seconds"])
        if epoch in self._judged_at and self._metric in result:
            self._rungs[trial.trial_id][epoch] = result[self._metric]
        self._journal.epoch(key, epoch, _metrics(result))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        result = self._last.pop(trial.trial_id, {})
        if "failed" in result:
            self._end(trial, "failed", {}, {"reason": result["failed"], "retry": "no"})
        else:
            self._end(trial, "complete" if result.get("final") else "pruned", result)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._end(trial, "failed", self._last.pop(trial.trial_id, {}), {"reason": _reason(trial), "retry": "yes"})

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._recovered.add(trial.trial_id)
        self._display.say(f"a trial is tried again: {_reason(trial)}")

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if time.monotonic() - self._updated > SECONDS_BETWEEN_UPDATES:
            self._show()
            self._check()

    def close(self) -> int:
        """Record what was running when Tune stopped early; how many trials that were."""
        for key, _ in self._progress.values():
            self._journal.end(key, "interrupted", {})
        interrupted = len(self._progress)
        self._progress.clear()
        return interrupted

    def reused(self, end: Ended | None) -> None:
        """Count a trial whose cell is known already, or is in training for another trial (None)."""
        self.ended.append(end or Ended({}, "reused"))
        self._consider(self.ended[-1])

    def best(self) -> Ended | None:
        """The best trial that ran to its last epoch, by the search's metric; None while there is none."""
        return self._best

    def _end(self, trial: Trial, outcome: str, result: dict[str, Any], tags: Mapping[str, str] | None = None) -> None:
        planned, tags = trial.config["planned"], dict(tags or {})
        self._progress.pop(trial.trial_id, None)
        rungs, seconds = self._rungs.pop(trial.trial_id, {}), self._seconds.pop(trial.trial_id, [])
        tags["epochs"] = str(result.get("epoch", 0))
        if seconds:
            tags["epoch_seconds"] = f"{statistics.median(seconds):.4g}"
        if "memory" in result:
            tags["memory"] = str(result["memory"])
        if self._judged_at:
            tags["rungs"] = json.dumps(rungs)
        classes = {"class_names": self._class_names, **result["classes"]} if "classes" in result else None
        self._journal.end(planned["record"]["key"], outcome, tags, classes)
        self._on_end(planned["fingerprint"])
        end = Ended(planned.get("found", {}), outcome, _metrics(result), tags.get("reason", ""))
        self.ended.append(end)
        self._consider(end)
        if end.reason:
            self._display.say(f"a trial failed and is recorded as such: {end.reason}")
        self._show()

    def _consider(self, end: Ended) -> None:
        if not self._metric or end.outcome != "complete" or not math.isfinite(end.metrics[self._metric]):
            return
        if self._best is None or self._sign * (end.metrics[self._metric] - self._best.metrics[self._metric]) > 0:
            self._best = end

    def _show(self) -> None:
        self._updated = time.monotonic()
        counts = {outcome: sum(end.outcome == outcome for end in self.ended) for outcome in ("pruned", "failed")}
        best = ""
        if self._best:
            found = ", ".join(f"{path.split('/')[-1]} {_short(v)}" for path, v in flattened(self._best.found).items())
            best = f"{self._metric} {self._best.metrics[self._metric]:.3f} ({found})"
        shares = [share for _, share in self._progress.values()]
        self._display.update(Progress(len(self.ended), shares, self._total, self._epochs, counts, best))


def _metrics(result: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in result.items() if name.split("/")[0] in METRICS}


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
    text = " ".join(str(cause).split())
    return f"{type(cause).__name__}: {text}"[:REASON_CHARACTERS]
