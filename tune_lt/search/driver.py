"""Running a whole study: the search, then every cell of its tables that the store does not have yet."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tune_lt import data, provenance, studyfile, training
from tune_lt.config import CellConfig
from tune_lt.errors import InputError
from tune_lt.search.display import Display
from tune_lt.study import Study, fingerprint, flattened, nested, overlay
from tune_lt.tracking import TAG, Store, Writer

os.environ.update(  # before Ray is imported: it reads them then
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",  # the store has it all
    TUNE_GLOBAL_CHECKPOINT_S="3600",
    RAY_CHDIR_TO_TRIAL_DIR="0",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    RAY_AIR_NEW_OUTPUT="0",
)

import ray
from ray import tune

from tune_lt.search.recorder import Recorder
from tune_lt.search.searcher import CellSearch, scheduler
from tune_lt.search.trainable import train_cell

OBJECT_STORE_BYTES = 200 * 2**20


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


def load_data(study: Study) -> data.Dataset:
    """The study's data set; raises InputError naming what is missing or damaged."""
    return training.load_dataset(studyfile.cell(study.base() | {"recipe": study.recipe}, data_seed=0, init_seed=0))


def run_study(study: Study, store: Store, display: Display) -> None:
    """Search, train what is missing, record everything. Raises InputError if the study cannot be carried out."""
    dataset = load_data(study)
    parent = store.open_parent(study.name, study.text, _parent_tags(study))
    status = "FAILED"
    try:
        with _ray_session(display):
            runner = _Runner(study, store, display, dataset, parent.info.run_id)
            found = runner.search() if study.search else {}
            runner.train(planned_cells(study, found, dataset.content_hash), found)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        store.finish(parent.info.run_id, status)


def recorded_search(study: Study, store: Store, parent_id: str, content_hash: str) -> dict[str, Any] | None:
    """What an earlier run of exactly this search found (flat, path -> value), or None."""
    recorded = store.read_json(parent_id, "search.json")
    same = recorded is not None and recorded["signature"] == study.search_signature(content_hash)
    return dict(recorded["found"]) if same else None


class _Runner:
    """Carries out one study: owns the Ray session's settings and what every trial shares."""

    def __init__(self, study: Study, store: Store, display: Display, dataset: data.Dataset, parent_id: str) -> None:
        self.study, self.store, self.display = study, store, display
        self.dataset, self.parent_id = dataset, parent_id
        self.tags = {
            "study": study.name,
            "dataset": str(study.data["name"]),
            "imbalance": str(study.data["imbalance"] or "as it is"),
            "protocol": "sealed",
            "git": provenance.git_commit(),
            "versions": json.dumps(provenance.versions()),
            "device": str(training.pick_device("auto")),
        }

    def search(self) -> dict[str, Any]:
        """The best values found (flat, path -> value), searched now unless this very search is recorded."""
        study, search = self.study, self.study.search
        assert search is not None
        recorded = recorded_search(study, self.store, self.parent_id, self.dataset.content_hash)
        if recorded is not None:
            self.display.say(f"search: already done, found {_listed(recorded)}")
            return recorded

        def make_cell(found: Mapping[str, Any]) -> dict[str, Any]:
            base = overlay(study.base(), nested(found))
            recipe = studyfile.from_dict(base).recipe
            cell = studyfile.cell(
                {**base, "recipe": recipe},
                data_seed=search.seed,
                init_seed=search.seed,
                holdout=study.validation.holdout,
            )
            return dataclasses.asdict(cell)

        recorder = self._tune(
            "search",
            search.trials,
            searcher=CellSearch(study.space, search, make_cell),
            trial_scheduler=scheduler(search, study.recipe.epochs),
        )
        best = recorder.best()
        if best is None:
            reasons = sorted({end.reason for end in recorder.ended if end.reason})
            raise InputError(
                f"no trial of the search ended with a finite {search.metric}: {'; '.join(reasons) or 'none ran'}"
            )
        found: dict[str, Any] = dict(best.planned["found"])
        signature = study.search_signature(self.dataset.content_hash)
        content = {"signature": signature, "found": found, search.metric: best.metrics[search.metric]}
        content["trials"] = {outcome: sum(end.outcome == outcome for end in recorder.ended) for outcome in _outcomes()}
        self.store.log_json(self.parent_id, "search.json", content)
        self.display.say(f"search: found {_listed(found)} ({search.metric} {best.metrics[search.metric]:.3f})")
        return found

    def train(self, cells: list[PlannedCell], found: Mapping[str, Any]) -> None:
        """Train the cells whose fingerprints no finished run has, and record which cells the tables are made of."""
        have = self.store.finished_cells()
        missing = {cell.fingerprint: cell for cell in cells if cell.fingerprint not in have}
        names = {cell.fingerprint for cell in cells}
        self.display.say(f"tables: {len(names)} cells, {len(names) - len(missing)} reused, {len(missing)} to train")
        self.store.log_json(self.parent_id, "cells.json", _table_of_contents(self.study, cells, found))
        if not missing:
            return
        configs = [
            {"row": c.row, "fingerprint": name, "cell": dataclasses.asdict(c.cell)} for name, c in missing.items()
        ]
        recorder = self._tune("tables", len(configs), space=tune.grid_search(configs))
        failed = [end for end in recorder.ended if end.outcome == "failed"]
        if failed:
            self.display.say(f"tables: {len(failed)} of {len(configs)} cells failed; run the study again to retry them")

    def _tune(
        self, label: str, total: int, *, searcher: Any = None, trial_scheduler: Any = None, space: Any = None
    ) -> Recorder:
        """One Tuner over ``total`` trials, each a cell, recorded as it goes."""
        study, resources, search = self.study, self.study.resources, self.study.search
        writer = Writer(self.store, study.name, self.parent_id)
        names = self.dataset.class_names
        metric = {"metric": search.metric, "mode": search.mode} if searcher and search else {}
        recorder = Recorder(writer, self.display, total, self._describe, class_names=names, **metric)
        with tempfile.TemporaryDirectory(prefix="tune_lt_") as scratch:
            trainable = tune.with_parameters(
                train_cell,
                dataset=self.dataset,
                plugins=study.plugins,
                folder=str(study.folder),
                threads=max(1, int(resources.cpus)),
            )
            self.display.phase(label, total)
            tuner = tune.Tuner(
                tune.with_resources(trainable, {"cpu": resources.cpus, "gpu": resources.gpus}),
                param_space=None if space is None else {"planned": space},
                tune_config=tune.TuneConfig(
                    num_samples=total if searcher else 1,
                    search_alg=searcher,
                    scheduler=trial_scheduler,
                    max_concurrent_trials=resources.concurrent or _fit(resources.cpus, resources.gpus),
                    reuse_actors=True,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=tune.RunConfig(name=label, storage_path=scratch, verbose=0, callbacks=[recorder]),
            )
            try:
                tuner.fit()
            finally:
                recorder.close()
        if len(recorder.ended) < total:
            raise KeyboardInterrupt  # Tune takes Ctrl-C itself, and returns
        return recorder

    def _describe(self, planned: Mapping[str, Any], number: int) -> tuple[str, Mapping[str, Any], Mapping[str, str]]:
        """A trial's run name, MLflow parameters and tags."""
        cell = studyfile.from_dict(planned["cell"])
        row = planned.get("row", "search")
        tags = self.tags | {
            "kind": "cell",
            "row": row,
            "fingerprint": fingerprint(cell, self.dataset.content_hash, self.study.sources),
            "fold": cell.fold,
            "data_seed": str(cell.data_seed),
            "init_seed": str(cell.init_seed),
        }
        if row == "search":
            tags["trial"] = str(number)
            name = f"trial {number}"
        else:
            name = f"{row} · seed {cell.init_seed}"
        params = {section: planned["cell"][section] for section in ("data", "model", "loss", "recipe")}
        return name, flattened(params), tags


def _table_of_contents(study: Study, cells: list[PlannedCell], found: Mapping[str, Any]) -> dict[str, Any]:
    """What the reporter needs to assemble the tables from the store alone: each row's cells by fingerprint."""
    rows: dict[str, list[dict[str, Any]]] = {row: [] for row in study.rows}
    for planned in cells:
        seeds = {"data_seed": planned.cell.data_seed, "init_seed": planned.cell.init_seed}
        rows[planned.row].append({"fingerprint": planned.fingerprint, **seeds})
    losses = {planned.row: planned.cell.loss["name"] for planned in cells}
    return {"found": dict(found), "searched": study.loss["name"], "rows": rows, "losses": losses}


def _parent_tags(study: Study) -> dict[str, str]:
    return {f"{TAG}dataset": str(study.data["name"]), f"{TAG}git": provenance.git_commit()}


@contextmanager
def _ray_session(display: Display) -> Iterator[None]:
    """A Ray of our own on this machine for as long as the block runs."""
    display.say("starting Ray ...")
    for noisy in ("ray.tune", "ray.tune.tuner", "ray._private", "ray.train"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=OBJECT_STORE_BYTES,
    )
    try:
        yield
    finally:
        ray.shutdown()


def _fit(cpus: float, gpus: float) -> int:
    """How many trials the Ray cluster has room for at once."""
    have = ray.cluster_resources()
    rooms = [have.get(kind, 0) // need for kind, need in (("CPU", cpus), ("GPU", gpus)) if need]
    if min(rooms) < 1:
        raise InputError(
            f"resources: a trial takes {cpus:g} CPUs and {gpus:g} GPUs; "
            f"this Ray cluster has {have.get('CPU', 0):g} and {have.get('GPU', 0):g}"
        )
    return int(min(rooms))


def _outcomes() -> tuple[str, ...]:
    return ("complete", "pruned", "failed")


def _listed(found: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{path} {value:.4g}" if isinstance(value, float) else f"{path} {value}" for path, value in found.items()
    )
