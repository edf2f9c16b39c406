"""The only place that knows MLflow: where a study is recorded, and how it is read back.

One experiment per study; one parent run, which holds the study file, the tables and the figures; one nested run per
cell. Tags and names are those of DESIGN §6. Cells are written by `tune_lt.journal`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_lt.errors import InputError

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before the import; nothing leaves the machine unasked
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # we try again ourselves, and say so
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow.entities import Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

logging.getLogger("mlflow").setLevel(logging.ERROR)
logging.getLogger("alembic").setLevel(logging.ERROR)

SQLITE = "sqlite:///"
DEFAULT_URI = "sqlite:///mlflow.db"
TAG = "tune_lt."
TAG_CHARACTERS = 8000  # MLflow's limit of a tag
DAMAGED, DUPLICATE = "damaged", "duplicate"  # outcomes that `tune-lt doctor --fix` gives: such runs count no longer


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
    """A cell as the store has it. Scores are fractions; ``params`` and ``tags`` (no prefix) are MLflow's strings.

    ``ended`` is in milliseconds since 1970, 0 while it runs; ``parent`` the id of the run it hangs on, or "".
    """

    run_id: str
    status: str
    fingerprint: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    ended: int = 0
    parent: str = ""


def refused(error: Exception) -> bool:
    """Whether the store answered that it will never take this, so that trying again is of no use."""
    if not isinstance(error, MlflowException):
        return isinstance(error, KeyError | TypeError | ValueError)
    status = error.get_http_status_code()
    return 400 <= status < 500 and status not in (401, 403, 408, 429)


class PatientClient:
    """An MlflowClient whose calls are tried again for ``patience`` seconds while the store does not answer."""

    def __init__(self, client: MlflowClient) -> None:
        self.raw, self.patience = client, 0.0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.raw, name)

        def call(*arguments: Any, **options: Any) -> Any:
            until, pause = time.monotonic() + self.patience, 0.5
            while True:
                try:
                    return method(*arguments, **options)
                except Exception as error:
                    if refused(error) or time.monotonic() > until:
                        raise
                time.sleep(pause)
                pause = min(2 * pause, 10.0)

        return call


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
            self.client = PatientClient(MlflowClient(self.uri))
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
        return next(iter(self.parents(study)), None)

    def parents(self, study: str) -> list[Run]:
        """The study's parent runs, the oldest first: one, unless two drivers began at the same moment."""
        return sorted(self._of(study, f"tags.`{TAG}kind` = 'study'"), key=lambda run: run.info.start_time)

    def ensure_parent(self, study: str) -> str:
        """The id of the study's parent run, created where there is none. Raises InputError if the store refuses."""
        try:
            run = self.parent(study)
            if run is None:
                tags = {f"{TAG}kind": "study", f"{TAG}study": study, "mlflow.runName": study}
                run = self.client.create_run(self.experiment(study), tags=tags)
        except MlflowException as error:
            raise InputError(f"tracking store {self.shown} cannot be written: {redacted(str(error))}") from None
        return str(run.info.run_id)

    def begin(self, run_id: str, text: str, tags: Mapping[str, str]) -> None:
        """Mark the study's parent run as running, with the study file as its artifact."""
        self.client.update_run(run_id, status="RUNNING")
        self.tag(run_id, tags)
        self.client.log_text(run_id, text, "study.yaml")

    def interrupt_running(self, study: str) -> int:
        """Mark the cells of the study that claim to run as interrupted; how many. For the holder of the lease alone."""
        condition = f"tags.`{TAG}kind` = 'cell' and attributes.status = 'RUNNING'"
        running = [_record(run) for run in self._of(study, condition)]
        for record in running:
            self.tag(record.run_id, {f"{TAG}outcome": "interrupted"})
            self.client.set_terminated(record.run_id, "KILLED")
        return len(running)

    def hopeless_cells(self, study: str) -> dict[str, str]:
        """Fingerprint -> reason of the study's cells that failed and would only fail again."""
        condition = f"tags.`{TAG}outcome` = 'failed' and tags.`{TAG}retry` = 'no'"
        records = [_record(run) for run in self._of(study, condition)]
        return {record.fingerprint: record.tags.get("reason", "") for record in records}

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
        if name not in {item.path for item in self.client.list_artifacts(run_id)}:
            return None
        with tempfile.TemporaryDirectory(prefix="tune_lt_") as folder:
            try:
                return json.loads(
                    Path(self.client.download_artifacts(run_id, name, folder)).read_text(encoding="utf-8")
                )
            except (MlflowException, OSError, ValueError) as error:
                raise InputError(
                    f"tracking store {self.shown}: {name} of run {run_id} is not readable: {error}"
                ) from None

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

    def trials(self, study: str, search: str | None = None) -> list[CellRecord]:
        """The study's search trials (of one search, if given), whatever became of them, in the order they started.

        Duplicates are left out, and damaged ones that have been trained again since.
        """
        condition = f"tags.`{TAG}row` = 'search'" + (f" and tags.`{TAG}search` = '{search}'" if search else "")
        runs = sorted(self._of(study, condition), key=lambda run: run.info.start_time)
        records = [record for record in map(_record, runs) if record.tags.get("outcome") != DUPLICATE]
        whole = {record.tags.get("key") for record in records if record.tags.get("outcome") != DAMAGED}
        return [r for r in records if r.tags.get("outcome") != DAMAGED or r.tags.get("key") not in whole]

    def cells(self, study: str) -> list[CellRecord]:
        """Every cell run of the study, finished or not, the oldest first."""
        runs = self._of(study, f"tags.`{TAG}kind` = 'cell'")
        return [_record(run) for run in sorted(runs, key=lambda run: run.info.start_time)]

    def runs_by_key(self, study: str) -> dict[str, str]:
        """Key of a cell -> id of its run in this study; of two, the older. None that is damaged or a duplicate."""
        keys: dict[str, str] = {}
        for record in self.cells(study):
            if record.tags.get("outcome") not in (DAMAGED, DUPLICATE):
                keys.setdefault(record.tags.get("key", record.run_id), record.run_id)
        return keys

    def state_folder(self, study: str) -> Path:
        """Where the study keeps journal and checkpoints: beside an SQLite file, else in the working directory."""
        return (self.folder or Path.cwd()) / ".tune_lt" / study

    def _of(self, study: str, condition: str) -> list[Run]:
        experiment = self.client.get_experiment_by_name(study)
        return self._search([experiment.experiment_id], condition) if experiment else []

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


def _record(run: Run) -> CellRecord:
    tags = {key.removeprefix(TAG): value for key, value in run.data.tags.items() if key.startswith(TAG)}
    return CellRecord(
        run.info.run_id,
        run.info.status,
        tags.get("fingerprint", ""),
        dict(run.data.params),
        dict(run.data.metrics),
        tags,
        run.info.end_time or 0,
        run.data.tags.get("mlflow.parentRunId", ""),
    )


def _sqlite_folder(uri: str) -> Path | None:
    """The folder of an SQLite store's file, None for any other store: a server decides itself where artifacts go."""
    return Path(uri.removeprefix(SQLITE)).parent if uri.startswith(SQLITE) else None
