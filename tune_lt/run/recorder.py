"""The Ray Tune callback that records every trial in the journal and updates the progress display."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ray import cloudpickle, tune
from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial as TuneTrial

from tune_lt.documents import Trial
from tune_lt.errors import InputError
from tune_lt.run.display import Display
from tune_lt.run.failures import reason
from tune_lt.run.search.planned import PlannedTrial, Record, averages_in
from tune_lt.store import TAG_CHARACTERS
from tune_lt.store.journal import Journal
from tune_lt.texts import found_values
from tune_lt.training import results

SECONDS_BETWEEN_UPDATES = 0.5


@dataclass
class _Flight:
    """A running trial: the metrics of the units that have ended, by index, and the unit whose run is open.

    ``failure``: tags with the reason of a failure that it has reported.
    """

    planned: PlannedTrial
    rungs: dict[int, float]
    values: dict[int, Mapping[str, float]] = field(default_factory=dict)
    open: int | None = None
    step: int = 0
    seconds: list[float] = field(default_factory=list)
    failure: Mapping[str, str] | None = None

    @property
    def key(self) -> str:
        return self.planned.record.key

    @property
    def several(self) -> bool:
        return self.planned.several

    @property
    def share(self) -> float:
        return self.step / self.planned.epochs

    def unit_record(self, index: int) -> Record:
        """Of the unit's own run, or of the trial's where it has only one."""
        return self.planned.units[index].record or self.planned.record


class Recorder(tune.Callback):
    """Records each planned trial. Every cell gets a run; a trial of several cells also gets one, with their means.

    Args:
        metric: The metric that decides, shown with the best trial.
        judged_at: The steps at which ASHA judges; a restarted search needs the values there.
        rungs: Fingerprint -> those values of the trials that an earlier driver left unfinished.
        ended: The trials that earlier drivers finished. The attribute of the same name grows as trials end.
        best: Chooses the trial to show.
        on_end: Called with the fingerprint of each cell or trial that ends; with its metrics if it is a complete cell,
            else None; and with the reason if it failed and would fail again, else None.
        check: Called every half second; it raises if the study must stop.
    """

    def __init__(
        self,
        journal: Journal,
        display: Display,
        total: int,
        *,
        class_names: tuple[str, ...],
        metric: str = "",
        judged_at: Sequence[int] = (),
        rungs: Mapping[str, Mapping[int, float]] | None = None,
        ended: Sequence[Trial] = (),
        best: Callable[[Sequence[Trial]], Trial | None] = lambda ended: None,
        on_end: Callable[[str, Mapping[str, float] | None, str | None], None] = lambda *end: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._journal, self._display, self._total = journal, display, total
        self._class_names, self._metric, self._pick = class_names, metric, best
        self._judged_at, self._on_end, self._check = set(judged_at), on_end, check
        self._flights: dict[str, _Flight] = {}
        self._last: dict[str, dict[str, Any]] = {}
        self._reached = rungs or {}
        self._recovered: set[str] = set()
        self._updated, self._epochs = 0.0, 0
        self._gone: list[TuneTrial] = []
        self._broken: InputError | None = None
        self.ended = list(ended)
        self._counts = Counter(end.outcome for end in self.ended)
        self._best = best(self.ended)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles callbacks into a snapshot that nothing here ever restores

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        planned: PlannedTrial = trial.config["planned"]
        if trial.trial_id not in self._flights:
            reached = self._reached.get(planned.fingerprint, {})
            rungs = {step: value for step, value in reached.items() if step in self._judged_at}
            self._flights[trial.trial_id] = _Flight(planned, rungs)
        self._start(planned.record)

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        if "epoch" not in result:
            return  # Tune reports the end of a function trainable once more, without metrics
        flight, unit = self._flights[trial.trial_id], result["unit"]
        if "failed" in result:
            flight.failure = {"reason": result["failed"], "retry": result["retry"]}
            self._open(flight, unit)
            return
        self._last[trial.trial_id] = result
        if unit in flight.values:
            return  # a second attempt repeats a unit that is recorded already
        flight.step = result["step"]
        if result["known"]:
            self._end_unit(flight, unit, result)
            return
        if trial.trial_id in self._recovered:
            self._recovered.discard(trial.trial_id)
            self._display.say(f"the trial goes on with epoch {result['epoch']}")
        self._open(flight, unit)
        self._epochs += 1
        flight.seconds.append(result["seconds"])
        self._write(self._journal.epoch, flight.unit_record(unit).key, result["epoch"], results.metrics(result))
        if result["step"] in self._judged_at:
            flight.rungs[result["step"]] = averages_in(result)[self._metric]
            if flight.several:
                self._write(self._journal.epoch, flight.key, result["step"], _means(result))
        if result["unit_final"]:
            self._end_unit(flight, unit, result)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        result = self._last.pop(trial.trial_id, {})
        if failure := self._flights[trial.trial_id].failure:
            self._end(trial, "failed", result, failure)
        else:
            self._end(trial, "complete" if result.get("final") else "pruned", result)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._end(trial, "failed", self._last.pop(trial.trial_id, {}), {"reason": _reason(trial), "retry": "yes"})

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._recovered.add(trial.trial_id)
        self._display.say(f"a trial is tried again: {_reason(trial)}")

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        if self._broken is not None:
            raise self._broken
        while self._gone:
            _strip(self._gone.pop())
        if time.monotonic() - self._updated > SECONDS_BETWEEN_UPDATES:
            self._show()
            self._check()

    def close(self) -> int:
        """Record trials that still run as interrupted. Returns their number."""
        for flight in self._flights.values():
            if flight.several and flight.open is not None and flight.open not in flight.values:
                self._write(self._journal.end, flight.unit_record(flight.open).key, "interrupted", {})
            self._write(self._journal.end, flight.key, "interrupted", {})
        interrupted = len(self._flights)
        self._flights.clear()
        return interrupted

    def reused(self, end: Trial | None) -> None:
        """Count a trial that needs no training; None if another trial is training its cells."""
        self._add(end or Trial({}, "reused"))

    def _open(self, flight: _Flight, unit: int) -> None:
        """Begin the run of a unit, where units have runs of their own."""
        if flight.several and flight.open != unit:
            self._start(flight.unit_record(unit))
            flight.open = unit

    def _start(self, record: Record) -> None:
        self._write(self._journal.start, record.key, record.name, record.params, record.tags)

    def _write(self, what: Callable[..., None], *content: Any) -> None:
        """Call a method of the journal. An error is raised later, in `on_step_end`: here Tune would fail the trial."""
        if self._broken is None:
            try:
                what(*content)
            except InputError as error:
                self._broken = error

    def _end_unit(self, flight: _Flight, unit: int, result: Mapping[str, Any]) -> None:
        flight.values[unit] = results.metrics(result)
        if not flight.several:
            return  # its run ends with the trial
        if not result["known"]:
            self._write(
                self._journal.end,
                flight.unit_record(unit).key,
                "complete",
                results.tags(result, flight.seconds),
                results.files(result, self._class_names),
            )
            self._on_end(flight.planned.units[unit].fingerprint, results.metrics(result), None)
        self._write(self._journal.epoch, flight.key, result["step"], _means(result))
        flight.seconds.clear()

    def _end(
        self, trial: TuneTrial, outcome: str, result: dict[str, Any], tags: Mapping[str, str] | None = None
    ) -> None:
        flight, tags = self._flights.pop(trial.trial_id), dict(tags or {})
        failing = tags["reason"] if tags.get("retry") == "no" else None
        self._gone.append(trial)
        if flight.several and flight.open is not None and flight.open not in flight.values:
            own = result if result.get("unit") == flight.open else {}
            key, took = flight.unit_record(flight.open).key, results.tags(own, flight.seconds)
            self._write(self._journal.end, key, outcome, tags | took)
            self._on_end(flight.planned.units[flight.open].fingerprint, None, failing)
        if flight.several:
            effort = {"epochs": str(result.get("step", 0)), "units": _listed(flight)}
        else:
            effort = results.tags(result, flight.seconds)
        whole = outcome == "complete" and not flight.several
        self._on_end(flight.planned.fingerprint, results.metrics(result) if whole else None, failing)
        if self._judged_at:
            effort["rungs"] = json.dumps(flight.rungs)
        self._write(
            self._journal.end,
            flight.key,
            outcome,
            tags | effort,
            None if flight.several else results.files(result, self._class_names),
        )
        end = Trial(
            flight.planned.found,
            outcome,
            averages_in(result),
            _by_metric(flight),
            result.get("step", 0),
            tags.get("reason", ""),
            again=tags.get("retry") == "yes",
            fingerprint=flight.planned.fingerprint,
        )
        self._add(end)
        if end.reason:
            self._display.say(f"a trial failed and is recorded as such: {end.reason}")
        self._show()

    def _add(self, end: Trial) -> None:
        self.ended.append(end)
        self._counts[end.outcome] += 1
        if end.outcome == "complete":
            self._best = self._pick([*([self._best] if self._best else []), end])

    def _show(self) -> None:
        self._updated = time.monotonic()
        counts = {outcome: self._counts[outcome] for outcome in ("pruned", "failed")}
        best = ""
        if self._best and self._metric:
            best = f"{self._metric} {self._best.value(self._metric):.3f} ({found_values(self._best.found)})"
        shares = [flight.share for flight in self._flights.values()]
        self._display.update(len(self.ended), shares, self._total, self._epochs, counts, best)


def _strip(trial: TuneTrial) -> None:
    """Free the 70 KiB that Tune keeps of an ended trial; the store has all of it."""
    metadata = trial.run_metadata
    metadata.metric_analysis.clear()
    metadata.metric_n_steps.clear()
    metadata.last_result = {}
    trial.evaluated_params, trial.experiment_tag = {}, ""
    planned: PlannedTrial = trial.config["planned"]
    trial.config = {"planned": replace(planned, units=(), record=Record("", "", {}, {}))}


def _means(result: Mapping[str, Any]) -> dict[str, float]:
    """A trial's metrics so far: the means of what is watched, and the last training loss."""
    watched = {name: value for name, value in averages_in(result).items() if math.isfinite(value)}
    return {"train/loss": result["train/loss"]} | watched


def _by_metric(flight: _Flight) -> dict[str, list[float]]:
    """The watched metrics of each unit a trial has had, in order."""
    order = sorted(flight.values)
    return {name: [flight.values[index].get(name, math.nan) for index in order] for name in flight.planned.watched}


def _listed(flight: _Flight) -> str:
    values = {name: [v if math.isfinite(v) else None for v in some] for name, some in _by_metric(flight).items()}
    exact = json.dumps(values)
    if len(exact) <= TAG_CHARACTERS:
        return exact
    return json.dumps({name: [v if v is None else round(v, 5) for v in some] for name, some in values.items()})


def _reason(trial: TuneTrial) -> str:
    """The exception that ended the trial, in one line, from the file in which Tune keeps it."""
    try:
        with open(trial.pickled_error_file, "rb") as file:
            error = cloudpickle.load(file)  # written by this very process a moment ago
    except (OSError, TypeError):
        return "the trial ended without an error message"
    return reason(error.cause if isinstance(error, RayTaskError) else error)
