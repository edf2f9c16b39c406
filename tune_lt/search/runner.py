"""Carrying out a study inside a Ray session: its search, and the cells of its tables."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune

from tune_lt import data, provenance, studyfile, training
from tune_lt.config import CellConfig
from tune_lt.errors import InputError
from tune_lt.journal import Journal
from tune_lt.search import history
from tune_lt.search.display import Display
from tune_lt.search.lease import Lease
from tune_lt.search.recorder import Ended, Recorder
from tune_lt.search.searcher import CellSearch, milestones, scheduler
from tune_lt.search.trainable import checkpoint_path, train_cell
from tune_lt.study import Study, fingerprint, flattened, nested, overlay
from tune_lt.tracking import Store

ATTEMPTS = 3  # for a trial whose worker dies or raises; one that would only repeat its failure gets one


@dataclass(frozen=True)
class PlannedCell:
    """A cell of a table: the row it stands in and its fingerprint."""

    row: str
    cell: CellConfig
    fingerprint: str


def planned_cells(study: Study, found: Mapping[str, Any], content_hash: str) -> list[PlannedCell]:
    """Every cell of the study's tables, all rows of one seed before those of the next."""
    configs = {row: studyfile.row_config(study, row, found) for row in study.rows}
    cells = []
    for seed in study.seeds:
        for row, config in configs.items():
            cell = studyfile.cell(config, data_seed=seed, init_seed=seed)
            cells.append(PlannedCell(row, cell, fingerprint(cell, content_hash, study.sources)))
    return cells


def recorded_search(study: Study, store: Store, parent_id: str, content_hash: str) -> dict[str, Any] | None:
    """What an earlier run of exactly this search, with as many trials, found (flat, path -> value), or None."""
    assert study.search is not None
    recorded = store.read_json(parent_id, "search.json")
    if recorded is None or recorded["signature"] != study.search_signature(content_hash):
        return None
    return dict(recorded["found"]) if recorded["trials"] == study.search.trials else None


class Runner:
    """Carries out one study: what every trial of it shares."""

    def __init__(
        self,
        study: Study,
        store: Store,
        display: Display,
        dataset: data.Dataset,
        parent_id: str,
        journal: Journal,
        lease: Lease,
    ) -> None:
        self.study, self.store, self.display, self.journal, self.lease = study, store, display, journal, lease
        self.dataset, self.parent_id = dataset, parent_id
        self.checkpoints = store.state_folder(study.name) / "checkpoints"
        self.tags = {
            "study": study.name,
            "dataset": str(study.data["name"]),
            "imbalance": str(study.data["imbalance"] or "as it is"),
            "protocol": "sealed",
            "git": provenance.git_commit(),
            "versions": json.dumps(provenance.versions()),
        }
        gpus = study.resources.gpus
        self.gpus = gpus if gpus is not None else float(ray.cluster_resources().get("GPU", 0) >= 1)
        self.concurrent = _fit(study.resources.cpus, self.gpus, study.resources.concurrent)
        self.device = "auto" if self.gpus else "cpu"
        self.tags["device"] = str(training.pick_device(self.device))

    def search(self) -> dict[str, Any]:
        """The best values found (flat, path -> value), with as many trials as are still missing."""
        study, search = self.study, self.study.search
        assert search is not None
        recorded = recorded_search(study, self.store, self.parent_id, self.dataset.content_hash)
        if recorded is not None:
            self.display.say(f"search: {search.trials} trials, all reused; found {_listed(recorded)}")
            return recorded
        signature = study.search_signature(self.dataset.content_hash)
        past = [p for p in history.read(self.store, study.name, signature, search.metric) if p.number < search.trials]
        known = {
            fingerprint: record.metrics[search.metric]
            for fingerprint, record in self.store.finished_cells().items()
            if search.metric in record.metrics
        }
        ended = [_ended(trial, search.metric, known) for trial in past if trial.outcome != "running"]
        running = len(past) - len(ended)
        self.display.say(
            f"search: {search.trials} trials, {len(ended)} reused, {running} to be carried on, "
            f"{search.trials - len(past)} to begin"
        )
        recorder = self._recorder(
            search.trials,
            metric=search.metric,
            mode=search.mode,
            judged_at=milestones(search, study.recipe.epochs),
            rungs={trial.fingerprint: trial.rungs for trial in past if trial.outcome == "running"},
            ended=ended,
        )

        def on_reuse(number: int, found: Mapping[str, Any], name: str) -> None:
            text = json.dumps({"found": dict(found), "fingerprint": name})
            self.journal.note({history.reused_tag(signature, number): text})
            recorder.reused(Ended(found, "complete", {search.metric: known[name]}) if name in known else None)

        searcher = CellSearch(study.space, search, self._planner(signature), past, known, on_reuse)
        self._tune("search", recorder, searcher=searcher, trial_scheduler=scheduler(search, study.recipe.epochs, past))
        if not searcher.exhausted:
            raise KeyboardInterrupt  # Tune takes Ctrl-C itself, and returns
        return self._conclude(signature, recorder)

    def _conclude(self, signature: str, recorder: Recorder) -> dict[str, Any]:
        search, best = self.study.search, recorder.best()
        assert search is not None
        if best is None:
            reasons = "; ".join(sorted({end.reason for end in recorder.ended if end.reason})) or "none ran to its end"
            raise InputError(f"no trial of the search ended with a finite {search.metric}: {reasons}")
        found, value = dict(best.found), best.metrics[search.metric]
        content = {"signature": signature, "trials": search.trials, "found": found, search.metric: value}
        self.store.log_json(self.parent_id, "search.json", content)
        self.display.say(f"search: found {_listed(found)} ({search.metric} {value:.3f})")
        return found

    def _planner(self, signature: str) -> Any:
        """Found values -> the planned trial: its cell, fingerprint and record."""
        study, search = self.study, self.study.search
        assert search is not None

        def plan(found: Mapping[str, Any]) -> dict[str, Any]:
            base = overlay(study.base(), nested(found))
            base["recipe"] = studyfile.from_dict(base).recipe
            seeds = {"data_seed": search.seed, "init_seed": search.seed}
            cell = studyfile.cell(base, **seeds, holdout=study.validation.holdout)
            return self._planned(cell, fingerprint(cell, self.dataset.content_hash, study.sources), signature, found)

        return plan

    def _planned(self, cell: CellConfig, name: str, row: str, found: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What a trial's config holds; ``row`` is a table's row, or the search's signature where ``found`` is given."""
        tags = self.tags | {
            "kind": "cell",
            "row": row if found is None else "search",
            "fingerprint": name,
            "fold": cell.fold,
            "data_seed": str(cell.data_seed),
            "init_seed": str(cell.init_seed),
        }
        if found is not None:
            tags |= {"search": row, "found": json.dumps(dict(found))}
        content = dataclasses.asdict(cell)
        record = {
            "key": name if found is None else f"{name}.{row}",
            "name": f"{row} · seed {cell.init_seed}",
            "params": flattened({section: content[section] for section in ("data", "model", "loss", "recipe")}),
            "tags": tags,
        }
        return {"cell": content, "fingerprint": name, "record": record}

    def train(self, cells: list[PlannedCell], found: Mapping[str, Any]) -> bool:
        """Train the cells whose fingerprints no finished run has, and record which cells the tables are made of.

        Whether none failed.
        """
        have = self.store.finished_cells()
        hopeless = self.store.hopeless_cells(self.study.name)
        wanted = {cell.fingerprint: cell for cell in reversed(cells)}  # of rows that share a cell the first names it
        missing = [cell for cell in wanted.values() if cell.fingerprint not in have | hopeless][::-1]
        failed = [name for name in wanted if name in hopeless and name not in have]
        self.display.say(
            f"tables: {len(wanted)} cells, {len(wanted) - len(missing) - len(failed)} reused, {len(missing)} to train"
            + (f", {len(failed)} known to fail: {hopeless[failed[0]]}" if failed else "")
        )
        self.store.log_json(self.parent_id, "cells.json", _table_of_contents(self.study, cells, found))
        if not missing:
            return not failed
        planned = [self._planned(cell.cell, cell.fingerprint, cell.row) for cell in missing]
        recorder = self._recorder(len(planned))
        self._tune("tables", recorder, space={"planned": tune.grid_search(planned)})
        if len(recorder.ended) < len(planned):
            raise KeyboardInterrupt
        failures = [end for end in recorder.ended if end.outcome == "failed"]
        if failures:
            self.display.say(f"tables: {len(failures)} of {len(planned)} cells failed: {failures[0].reason}")
        return not (failed or failures)

    def _recorder(self, total: int, **options: Any) -> Recorder:
        def forget_state(name: str) -> None:
            checkpoint_path(self.checkpoints, name).unlink(missing_ok=True)

        names = self.dataset.class_names
        return Recorder(
            self.journal,
            self.display,
            total,
            class_names=names,
            on_end=forget_state,
            check=self._check_lease,
            **options,
        )

    def _check_lease(self) -> None:
        if self.lease.lost:
            raise InputError(f"another driver has taken over the study {self.study.name!r}; this one stops")

    def _tune(
        self, label: str, recorder: Recorder, *, searcher: Any = None, trial_scheduler: Any = None, space: Any = None
    ) -> None:
        """Run trials until the searcher has no more, or the space is covered; each is recorded as it goes."""
        study, resources = self.study, self.study.resources
        with tempfile.TemporaryDirectory(prefix="tune_lt_") as scratch:
            trainable = tune.with_parameters(
                train_cell,
                dataset=self.dataset,
                plugins=study.plugins,
                folder=str(study.folder),
                checkpoints=str(self.checkpoints),
                checkpoint_seconds=resources.checkpoint_seconds,
                threads=max(1, int(resources.cpus)),
                device=self.device,
            )
            self.display.phase(label, len(recorder.ended))
            tuner = tune.Tuner(
                tune.with_resources(trainable, {"cpu": resources.cpus, "gpu": self.gpus}),
                param_space=space,
                tune_config=tune.TuneConfig(
                    num_samples=-1 if searcher else 1,
                    search_alg=searcher,
                    scheduler=trial_scheduler,
                    max_concurrent_trials=self.concurrent,
                    reuse_actors=True,
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
                tuner.fit()
            finally:
                interrupted = recorder.close()
        if interrupted:
            raise KeyboardInterrupt


def _table_of_contents(study: Study, cells: list[PlannedCell], found: Mapping[str, Any]) -> dict[str, Any]:
    """What the reporter needs to assemble the tables from the store alone: each row's cells by fingerprint."""
    rows: dict[str, list[dict[str, Any]]] = {row: [] for row in study.rows}
    for planned in cells:
        seeds = {"data_seed": planned.cell.data_seed, "init_seed": planned.cell.init_seed}
        rows[planned.row].append({"fingerprint": planned.fingerprint, **seeds})
    losses = {planned.row: planned.cell.loss["name"] for planned in cells}
    return {"found": dict(found), "searched": study.loss["name"], "rows": rows, "losses": losses}


def _ended(trial: history.Past, metric: str, known: Mapping[str, float]) -> Ended:
    value = known.get(trial.fingerprint, trial.value)
    return Ended(trial.found, "complete" if trial.outcome == "reused" else trial.outcome, {metric: value})


def _fit(cpus: float, gpus: float, wanted: int | None) -> int:
    """How many trials run at once: as many as are wanted, at most what the Ray cluster has room for."""
    have = ray.cluster_resources()
    rooms = [have.get(kind, 0) // need for kind, need in (("CPU", cpus), ("GPU", gpus)) if need]
    if min(rooms) < 1:
        raise InputError(
            f"resources: a trial takes {cpus:g} CPUs and {gpus:g} GPUs; "
            f"this Ray cluster has {have.get('CPU', 0):g} and {have.get('GPU', 0):g}"
        )
    return min(int(min(rooms)), wanted or int(min(rooms)))


def _listed(found: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{path} {value:.4g}" if isinstance(value, float) else f"{path} {value}" for path, value in found.items()
    )
