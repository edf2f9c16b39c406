"""The only place that knows MLflow: where a study is recorded, and how it is read back.

One experiment per study; one parent run, which holds the study file, the tables and the figures; one nested run per
cell. Tags and names are those of DESIGN §6. Everything is written in batches by one thread of the driver's process.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_lt.errors import InputError

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before the import; nothing leaves the machine unasked
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow.entities import Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

logging.getLogger("mlflow").setLevel(logging.ERROR)
logging.getLogger("alembic").setLevel(logging.ERROR)

SQLITE = "sqlite:///"
DEFAULT_URI = "sqlite:///mlflow.db"
TAG = "tune_lt."
STATUS = {"failed": "FAILED", "interrupted": "KILLED"}  # MLflow's word for an outcome; FINISHED otherwise
TAG_CHARACTERS = 8000  # MLflow's limit of a tag
BATCH = 1000  # metrics in one log_batch, MLflow's limit


def store_uri(option: str | None = None) -> str:
    """The tracking URI: the option, else MLFLOW_TRACKING_URI, else an SQLite file in the working directory.

    An SQLite file's path is made absolute: MLflow keeps one connection per URI, whatever the working directory is then.
    """
    uri = option or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).absolute()}" if uri.startswith(SQLITE) else uri


def redacted(text: str) -> str:
    """``text`` without the passwords of the URIs in it."""
    return re.sub(r"(://[^/@:\s]*):[^/@\s]*@", r"\1:***@", text)


def exists(option: str | None = None) -> bool:
    """Whether there is a store to read: an SQLite file that is there, or any server (which answers for itself)."""
    uri = store_uri(option)
    return not uri.startswith(SQLITE) or Path(uri.removeprefix(SQLITE)).exists()


@dataclass(frozen=True)
class CellRecord:
    """A finished cell as the store has it. Scores are fractions; ``params`` and ``tags`` are MLflow's strings."""

    run_id: str
    fingerprint: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


class Store:
    """An MLflow tracking store. Opening one creates the SQLite tables where they are missing: once, by the driver.

    Raises InputError when the store cannot be reached.
    """

    def __init__(self, uri: str | None = None) -> None:
        self.uri = store_uri(uri)
        self.folder = _sqlite_folder(self.uri)
        if self.folder and not self.folder.is_dir():
            raise InputError(f"tracking store {self.shown}: the folder {self.folder} does not exist")
        try:
            self.client = MlflowClient(self.uri)
            self.client.search_experiments(max_results=1)
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"tracking store {self.shown} cannot be used: {redacted(reason)}") from None

    @property
    def shown(self) -> str:
        """The URI for messages: a password in it is not printed."""
        return redacted(self.uri)

    def experiment(self, study: str) -> str:
        """The id of the study's experiment, created where it is missing."""
        found = self.client.get_experiment_by_name(study)
        if found is None:
            artifacts = (self.folder / "mlartifacts" / study).as_uri() if self.folder else None
            kind = {"mlflow.experimentKind": "custom_model_development"}  # so that the UI opens on training runs
            return str(self.client.create_experiment(study, artifact_location=artifacts, tags=kind))
        if found.lifecycle_stage != "active":
            raise InputError(f"tracking store: the experiment {study!r} was deleted; restore it or rename the study")
        return str(found.experiment_id)

    def studies(self) -> list[str]:
        """The names of all studies in the store, newest first."""
        parents = self._search([e.experiment_id for e in self._experiments()], f"tags.`{TAG}kind` = 'study'")
        parents.sort(key=lambda run: run.info.start_time, reverse=True)
        return list(dict.fromkeys(run.data.tags[f"{TAG}study"] for run in parents))

    def parent(self, study: str) -> Run | None:
        """The study's parent run, or None if it never ran on this store."""
        experiment = self.client.get_experiment_by_name(study)
        if experiment is None:
            return None
        runs = self._search([experiment.experiment_id], f"tags.`{TAG}kind` = 'study'")
        return min(runs, key=lambda run: run.info.start_time) if runs else None

    def open_parent(self, study: str, text: str, tags: Mapping[str, str]) -> Run:
        """The study's parent run, running, with the study file as its artifact."""
        run = self.parent(study)
        if run is None:
            parent_tags = {f"{TAG}kind": "study", f"{TAG}study": study, "mlflow.runName": study}
            run = self.client.create_run(self.experiment(study), tags=parent_tags)
        self.client.update_run(run.info.run_id, status="RUNNING")
        self.tag(run.info.run_id, tags)
        self.client.log_text(run.info.run_id, text, "study.yaml")
        return run

    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        self.client.set_terminated(run_id, status)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def log_files(self, run_id: str, files: Iterable[Path], folder: str) -> None:
        for file in files:
            self.client.log_artifact(run_id, str(file), folder)

    def describe(self, run_id: str, markdown: str) -> None:
        """The text that the UI shows on the run's own page."""
        self.tag(run_id, {"mlflow.note.content": markdown[:TAG_CHARACTERS]})

    def log_json(self, run_id: str, name: str, content: Any) -> None:
        self.client.log_dict(run_id, content, name)

    def read_json(self, run_id: str, name: str) -> Any:
        """An artifact written by `log_json`, or None where the run has none of that name."""
        with tempfile.TemporaryDirectory(prefix="tune_lt_") as folder:
            try:
                return json.loads(
                    Path(self.client.download_artifacts(run_id, name, folder)).read_text(encoding="utf-8")
                )
            except (MlflowException, OSError):
                return None

    def finished_cells(self) -> dict[str, CellRecord]:
        """Every completed cell of every study in the store, by fingerprint; of two, the one finished first."""
        condition = f"attributes.status = 'FINISHED' and tags.`{TAG}kind` = 'cell' and tags.`{TAG}outcome` = 'complete'"
        runs = self._search([experiment.experiment_id for experiment in self._experiments()], condition)
        runs.sort(key=lambda run: run.info.end_time)
        cells: dict[str, CellRecord] = {}
        for run in runs:
            record = _record(run)
            cells.setdefault(record.fingerprint, record)
        return cells

    def trials(self, study: str) -> list[CellRecord]:
        """The study's search trials, whatever became of them, in the order they started."""
        experiment = self.client.get_experiment_by_name(study)
        if experiment is None:
            return []
        runs = self._search([experiment.experiment_id], f"tags.`{TAG}row` = 'search'")
        return [_record(run) for run in sorted(runs, key=lambda run: run.info.start_time)]

    def _experiments(self) -> list[Any]:
        return list(self.client.search_experiments(view_type=ViewType.ACTIVE_ONLY, max_results=10_000))

    def _search(self, experiments: list[str], condition: str) -> list[Run]:
        runs: list[Run] = []
        token: str | None = None
        while experiments:
            page = self.client.search_runs(experiments, condition, max_results=5_000, page_token=token)
            runs += page
            token = page.token
            if not token:
                break
        return runs


class Writer:
    """Writes cells to the store from a thread of its own, in order, so that no scheduler waits for the store.

    Calls return at once; ``close`` waits until everything is written and raises the first error.
    """

    def __init__(self, store: Store, study: str, parent: str) -> None:
        self._store, self._parent = store, parent
        self._experiment = store.experiment(study)
        self._runs: dict[str, str] = {}
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def start(self, key: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Begin the run of the cell ``key``, nested in the study's parent run."""
        all_tags = {"mlflow.runName": name, "mlflow.parentRunId": self._parent}
        all_tags |= {f"{TAG}{tag}": value for tag, value in tags.items()}
        recorded = [Param(path, str(value)) for path, value in params.items()]

        def task() -> None:
            run = self._store.client.create_run(self._experiment, tags=all_tags)
            self._runs[key] = run.info.run_id
            for first in range(0, len(recorded), 100):
                self._store.client.log_batch(run.info.run_id, params=recorded[first : first + 100])

        self._tasks.put(task)

    def epochs(self, key: str, rows: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Record metrics by epoch: rows of (epoch, name -> value)."""
        now = int(time.time() * 1000)
        recorded = [Metric(name, value, now, epoch) for epoch, metrics in rows for name, value in metrics.items()]

        def task() -> None:
            for first in range(0, len(recorded), BATCH):
                self._store.client.log_batch(self._runs[key], metrics=recorded[first : first + BATCH])

        self._tasks.put(task)

    def end(self, key: str, outcome: str, *, reason: str = "", artifact: Mapping[str, Any] | None = None) -> None:
        """End the run: ``outcome`` is complete, pruned, interrupted or failed, the last with its ``reason``."""
        tags = {f"{TAG}outcome": outcome} | ({f"{TAG}reason": reason[:5000]} if reason else {})

        def task() -> None:
            run_id = self._runs.pop(key)
            if artifact:
                self._store.log_json(run_id, "per_class.json", dict(artifact))
            self._store.tag(run_id, tags)
            self._store.finish(run_id, STATUS.get(outcome, "FINISHED"))

        self._tasks.put(task)

    def close(self) -> None:
        self._tasks.put(None)
        self._thread.join()
        if self._error is not None:
            raise InputError(f"tracking store {self._store.shown}: writing failed: {redacted(str(self._error))}")

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if self._error is None:
                try:
                    task()
                except Exception as error:  # kept for close(): a thread has nobody to raise to
                    self._error = error


def _record(run: Run) -> CellRecord:
    tags = {key.removeprefix(TAG): value for key, value in run.data.tags.items() if key.startswith(TAG)}
    return CellRecord(run.info.run_id, tags.get("fingerprint", ""), dict(run.data.params), dict(run.data.metrics), tags)


def _sqlite_folder(uri: str) -> Path | None:
    """The folder of an SQLite store's file, None for any other store: a server decides itself where artifacts go."""
    return Path(uri.removeprefix(SQLITE)).parent if uri.startswith(SQLITE) else None
