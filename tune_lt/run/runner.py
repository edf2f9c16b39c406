"""Carrying out a plan inside a Ray session: the searches, and the cells of the tables."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from math import nan
from typing import Any

import ray
from ray import tune

from tune_lt import data, provenance, training
from tune_lt.documents import CONTENTS, Contents, SearchResult, Trial, search_file
from tune_lt.errors import InputError
from tune_lt.process import interrupts_wait
from tune_lt.run import failures, workers
from tune_lt.run.display import Display
from tune_lt.run.failures import Failure
from tune_lt.run.out_of_memory import kills_fail_trials
from tune_lt.run.planner import Model, Plan, PlannedCell, study_tags
from tune_lt.run.recorder import Recorder
from tune_lt.run.rehearsal import measured
from tune_lt.run.room import check_room
from tune_lt.run.search import selection
from tune_lt.run.search.past import ENDED, past_trials
from tune_lt.run.search.planned import PlannedTrial, averages
from tune_lt.run.search.schedulers import milestones, scheduler
from tune_lt.run.search.searcher import CellSearch
from tune_lt.run.shared_folder import checkpoint_folder
from tune_lt.run.trial_on_ray import Setting, checkpoint_path, train_again, train_cell
from tune_lt.store import CellRecord, Cells, Store, own_tags
from tune_lt.store.journal import Journal
from tune_lt.store.lease import Lease
from tune_lt.store.records import reused_tag
from tune_lt.study import Resources, Space, Study, ranges
from tune_lt.texts import found_values
from tune_lt.training import checkpoint

ATTEMPTS = 3  # of a trial whose worker dies or raises


class Runner:
    """Runs the trials of one study on Ray, and records what came of them."""

    def __init__(
        self,
        study: Study,
        store: Store,
        display: Display,
        dataset: data.Dataset,
        parent_id: str,
        journal: Journal,
        lease: Lease,
        finished: Mapping[str, CellRecord],
        before: Cells,
    ) -> None:
        self.study, self.store, self.display, self.journal, self.lease = study, store, display, journal, lease
        self.before = before  # the study's runs when this driver began
        self.finished = {name: record.metrics for name, record in finished.items()}  # and what was added since
        self.failing = before.failing()  # likewise
        self.failures: list[Failure] = []
        self.dataset, self.parent_id = dataset, parent_id
        self.checkpoints = checkpoint_folder(study, store)
        tags = study_tags(study)
        tags |= {"git": provenance.git_commit(), "versions": json.dumps(provenance.versions())}
        gpus = study.resources.gpus
        self.gpus = gpus if gpus is not None else float(ray.cluster_resources().get("GPU", 0) >= 1)
        self.setting = Setting(study.plugins, str(study.folder), study.resources, self.gpus)
        self.concurrent = _fit(study.resources, self.gpus)
        tags["device"] = str(training.pick_device("auto" if self.gpus else "cpu"))
        tags["workers"] = str(study.resources.workers)
        self.plan = Plan(study, dataset.hashes, tags)
        self.over: set[str] = set()  # the fingerprints of what has ended, in whatever way
        self.kept: str | None = None  # the fingerprint of the recommended cell, whose last state is not removed

    def search(self, space: Space) -> SearchResult | None:
        """Train as many trials of a search as are still missing; what it concluded. None if it found nothing."""
        study, search, label = self.study, space.search, self.study.label(space)
        signature, metric = self.plan.signatures[space.name], search.objectives[0]
        noted = own_tags(self.store.client.get_run(self.parent_id))
        past = past_trials(self.store, self.before, noted, signature, metric)
        past = [trial for trial in past if trial.number < search.budget]

        def plan(found: Mapping[str, Any]) -> PlannedTrial:
            return self.plan.trial(space, found, self.finished, self.failing)

        ended = _ended(past, plan)
        running = sum(trial.outcome == "running" for trial in past)
        recorded = None if running else self.plan.recorded(space, self.store, self.parent_id)
        if recorded is not None:
            self.display.say(f"{label}: {search.budget} trials, all reused; found {found_values(recorded.best.found)}")
            self.failures += failures.of_search(label, ended, chosen=True)
            return recorded
        reference = self._reference(space) if search.constraints else {}
        if reference is None:
            return None
        self.display.say(
            f"{label}: {search.budget} trials, {len(ended)} reused, {running} to be carried on, "
            f"{search.budget - len(ended) - running} to begin"
        )
        recorder = self._recorder(
            search.budget,
            metric=metric,
            best=lambda trials: selection.best(trials, search, reference),
            judged_at=milestones(search, study.recipe.epochs),
            rungs={trial.fingerprint: trial.rungs for trial in past if trial.outcome == "running"},
            ended=ended,
        )

        def on_reuse(number: int, planned: PlannedTrial, known: bool) -> None:
            text = json.dumps({"found": dict(planned.found), "fingerprint": planned.fingerprint})
            self.journal.note({reused_tag(signature, number): text})
            recorder.reused(_reused(plan(planned.found)) if known else None)

        searcher = CellSearch(space, plan, past, on_reuse, reference)
        units = measured(study, self.dataset)
        without = [unit for unit, metrics in enumerate(units) if metric not in metrics]
        early = scheduler(search, study.recipe.epochs, past, units=len(units), without=without)
        self._tune(label, recorder, searcher=searcher, trial_scheduler=early)
        if not searcher.exhausted:
            raise KeyboardInterrupt  # on Ctrl-C, Tune itself only returns
        return self._conclude(space, recorder.ended, reference)

    def _conclude(self, space: Space, ended: Sequence[Trial], reference: Mapping[str, float]) -> SearchResult | None:
        """Choose from the ended trials, record the choice and all trials, and print it. None if there is no choice."""
        search, label = space.search, self.study.label(space)
        best = selection.best(ended, search, reference)
        self.failures += failures.of_search(label, ended, chosen=best is not None)
        if best is None:
            self.display.say(self.failures[-1].what)
            return None
        neutral = {path: value for path in space.space if (value := ranges.neutral(space.name, path)) is not None}
        plain = selection.one_standard_error(ended, space, reference, neutral)
        front = selection.pareto(ended, search, reference) if len(search.objectives) > 1 else []
        result = SearchResult(
            space.name,
            self.plan.signatures[space.name],
            search.budget,
            search.objectives,
            {str(name): allowed for name, allowed in search.constraints.items()},
            reference,
            tuple(end for end in ended if end.found),
            best,
            plain,
            tuple(front),
            tuple(f"seed {seed}, {fold}" for seed, fold in self.study.units(space)),
        )
        self.store.log_json(self.parent_id, search_file(space.name), result.content())
        shown = ", ".join(f"{name} {best.value(name):.3f}" for name in search.objectives)
        self.display.say(f"{label}: found {found_values(best.found)} ({shown})")
        if plain and plain is not best:
            shown = f"{search.objectives[0]} {plain.value(search.objectives[0]):.3f}"
            self.display.say(f"{label}: the plainest within one standard error: {found_values(plain.found)} ({shown})")
        broken = result.violation(best)
        if broken:
            self.display.say(f"{label}: no trial meets the constraints; this one misses them least, by {broken:.3f}")
        return result

    def _reference(self, space: Space) -> dict[str, float] | None:
        """The metrics of plain cross-entropy on the held-out images of the search, for its constraints.

        None if a cell of it fails.
        """
        cells = self.plan.reference(space)
        missing = [cell for cell in cells if cell.fingerprint not in self.finished]
        failed = self._known_to_fail(missing)
        if missing and not failed:
            self.display.say(f"reference for the constraints: {len(missing)} cells to train")
            failed = [end for end in self._train_cells("reference", missing) if end.outcome == "failed"]
        if failed:
            self.failures.append(failures.of_reference(self.study.label(space), failed))
            self.display.say(self.failures[-1].what)
            return None
        scores = [self.finished[cell.fingerprint] for cell in cells]
        return averages(scores, space.search.watched)

    def _known_to_fail(self, cells: Sequence[PlannedCell]) -> list[Trial]:
        """What earlier attempts at cells ended with that would fail again."""
        known = {cell.fingerprint: self.failing.get(cell.fingerprint) for cell in cells}
        return [Trial({}, "failed", reason=why, fingerprint=name) for name, why in known.items() if why is not None]

    def train(self, cells: Sequence[PlannedCell], contents: Contents) -> None:
        """Train the cells that no finished run has, and record the ``contents`` of the tables."""
        if not (cells or contents.missing):
            return
        for row, search in contents.missing.items():
            label = self.study.label(self.study.searches[search])
            self.failures.append(Failure(f"row {row}: not trained, since the {label} found nothing"))
        self.kept = contents.recommended.fingerprint if contents.recommended else None
        have = self.finished
        wanted = {cell.fingerprint: cell for cell in reversed(cells)}  # a cell of several rows is named by the first
        left = [cell for name, cell in wanted.items() if name not in have][::-1]
        failed = self._known_to_fail(left)
        missing = [cell for cell in left if cell.fingerprint not in self.failing]
        self.display.say(
            f"tables: {len(wanted)} cells, {len(wanted) - len(left)} reused, {len(missing)} to train"
            + (f", {len(failed)} known to fail: {failed[0].reason}" if failed else "")
        )
        self.store.log_json(self.parent_id, CONTENTS, contents.content())
        if missing:
            failed += [end for end in self._train_cells("tables", missing) if end.outcome == "failed"]
        self.failures += failures.of_rows(cells, failed)

    def model(self, cell: PlannedCell) -> Model | None:
        """The network of a finished cell, trained once more where its state was not kept. None where that failed."""
        if cell.fingerprint not in self.finished:
            return None
        path = checkpoint_path(self.checkpoints, cell.fingerprint)
        if checkpoint.epoch(path) == cell.cell.recipe.epochs:
            return Model(cell, path, self.dataset, again=False)
        path.unlink(missing_ok=True)
        resources = self.study.resources
        self.display.say(f"model: {cell.row} is trained once more, its network was not kept")
        alone = {"num_cpus": resources.cpus, "num_gpus": self.gpus} if resources.workers == 1 else {"num_cpus": 0}
        task = ray.remote(max_retries=ATTEMPTS - 1, **alone)(train_again)
        try:
            ray.get(task.remote(cell.cell, path, self.dataset, self.setting))
        except ray.exceptions.RayError as error:
            self.display.say(f"model: {cell.row} could not be trained again: {str(error).strip().splitlines()[-1]}")
            return None
        return Model(cell, path, self.dataset, again=True)

    def clear(self) -> None:
        """Delete states that nobody needs any more, once no worker is left that could still write one.

        These are states of trials that were stopped while they wrote them, and of a network that was recommended once.
        """
        over = (self.finished.keys() | self.over) - {self.kept}
        whole = [file for file in self.checkpoints.glob("*.pt") if file.stem in over]
        for file in (*whole, *self.checkpoints.glob(".*.pt.*")):
            file.unlink(missing_ok=True)

    def _train_cells(self, label: str, cells: Sequence[PlannedCell]) -> list[Trial]:
        planned = [self.plan.cell_trial(cell, keep=cell.fingerprint == self.kept) for cell in cells]
        recorder = self._recorder(len(planned))
        self._tune(label, recorder, space={"planned": tune.grid_search(planned)})
        if len(recorder.ended) < len(planned):
            raise KeyboardInterrupt
        return recorder.ended

    def _recorder(self, total: int, **options: Any) -> Recorder:
        def done_with(name: str, metrics: Mapping[str, float] | None, failing: str | None) -> None:
            self.over.add(name)
            if failing is not None:
                self.failing[name] = failing
            if metrics is not None:
                self.finished[name] = metrics
                if name == self.kept:
                    return
            state = checkpoint_path(self.checkpoints, name)
            for file in (state, state.with_suffix(".json")):
                file.unlink(missing_ok=True)

        options |= {"class_names": self.dataset.class_names, "on_end": done_with, "check": self._check_end}
        return Recorder(self.journal, self.display, total, **options)

    def _check_end(self) -> None:
        """Raise KeyboardInterrupt if the study is to stop, InputError if nothing more can be recorded."""
        self.check_interrupt()
        check_room(self.checkpoints, self.store.state_folder(self.study.name))
        self.journal.check()
        if self.lease.lost:
            raise InputError(f"another driver has taken over the study {self.study.name!r}; this one stops")

    def _tune(
        self, label: str, recorder: Recorder, *, searcher: Any = None, trial_scheduler: Any = None, space: Any = None
    ) -> None:
        """Run trials until the searcher has no more, or every point of ``space`` has been trained."""
        resources = self.study.resources
        with tempfile.TemporaryDirectory(prefix="tune_lt_") as scratch:
            trainable = tune.with_parameters(
                train_cell, dataset=self.dataset, checkpoints=str(self.checkpoints), setting=self.setting
            )
            alone = {"cpu": resources.cpus, "gpu": self.gpus}
            self.display.phase(label, len(recorder.ended))
            tuner = tune.Tuner(
                tune.with_resources(trainable, alone if resources.workers == 1 else workers.DRIVER),
                param_space=space,
                tune_config=tune.TuneConfig(
                    num_samples=-1 if searcher else 1,
                    search_alg=searcher,
                    scheduler=trial_scheduler,
                    max_concurrent_trials=self.concurrent,
                    reuse_actors=resources.workers == 1,  # otherwise Tune gives a trial only 2 s to end its workers
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=tune.RunConfig(
                    name=label,
                    storage_path=scratch,
                    verbose=0,
                    callbacks=[recorder],
                    failure_config=tune.FailureConfig(max_failures=ATTEMPTS - 1),
                ),
            )
            try:
                with kills_fail_trials(), interrupts_wait() as self.check_interrupt:
                    tuner.fit()
            finally:
                interrupted = recorder.close()
        if interrupted:
            raise KeyboardInterrupt


def _ended(past: Sequence[Trial], plan: Callable[[Mapping[str, Any]], PlannedTrial]) -> list[Trial]:
    """The past trials that count; one that waited for another which is still running begins anew."""
    over = {trial.fingerprint for trial in past if trial.outcome in ENDED}
    ended = []
    for trial in past:
        if trial.outcome == "reused":
            end = _reused(plan(trial.found))
            if end.outcome != "reused" or trial.fingerprint in over:
                ended.append(end)
        elif trial.outcome != "running":
            ended.append(trial)
    return ended


def _reused(planned: PlannedTrial) -> Trial:
    """A trial whose cells were all known, or one of them as failing; it took no epochs."""
    if planned.values is None:
        outcome = "reused" if planned.failing is None else "failed"
        return Trial(planned.found, outcome, reason=planned.failing or "")
    scores = [unit.known or {} for unit in planned.units]
    units = {name: [one.get(name, nan) for one in scores] for name in planned.watched}
    return Trial(planned.found, "complete", planned.values, units)


def _fit(resources: Resources, gpus: float) -> int:
    """How many trials run at once: what the study asks for, but no more than the Ray cluster has room for.

    Raises InputError if there is no room for a single one.
    """
    workers.check_resources(resources.workers, gpus)
    if resources.workers > 1:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        room = workers.groups_at_once(nodes, workers=resources.workers, cpus=resources.cpus, gpus=gpus)
    else:
        have = ray.cluster_resources()
        needs = (("CPU", resources.cpus), ("GPU", gpus))
        room = int(min(have.get(kind, 0) // need for kind, need in needs if need))
    if room < 1:
        have, several = ray.cluster_resources(), f" for each of {resources.workers} workers"
        raise InputError(
            f"resources: a trial takes {resources.cpus:g} CPUs and {gpus:g} GPUs"
            + (several if resources.workers > 1 else "")
            + f"; this Ray cluster has {have.get('CPU', 0):g} and {have.get('GPU', 0):g}"
        )
    return min(room, resources.concurrent or room)
